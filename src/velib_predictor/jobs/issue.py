"""One issue: the newest poll, the model in force and what stands in for it, one stored forecast of all stations."""

import threading
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter

from sqlalchemy import select

from velib_predictor.config.config import Settings
from velib_predictor.data.clock import SystemClock
from velib_predictor.data.database import Database
from velib_predictor.data.panel import Panel
from velib_predictor.data.schema import Poll, System
from velib_predictor.data.special_days import SpecialDays
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.inference.chain import Chain, Link
from velib_predictor.inference.issue import Issue, Source, State
from velib_predictor.inference.issues import Issues
from velib_predictor.inference.live import LivePanel
from velib_predictor.inference.predictor import newest_observation
from velib_predictor.inference.store import STAND_INS, ModelStore
from velib_predictor.models.base import ArtifactError, load_model
from velib_predictor.models.coldstart.trainer import ColdStart
from velib_predictor.utils.logger import get_logger
from velib_predictor.utils.memory import give_back
from velib_predictor.utils.temporal import EPOCH, format_duration, format_time, parse_duration

LAG = timedelta(seconds=1)
"""After the tick: a poll that was answered just before it has to be stored first."""
STAND_IN = STAND_INS[-1]
_SECOND = timedelta(seconds=1)
_log = get_logger(__name__)


class IssueJob:
    """Makes the issues of one system, one after the other; keeps models and panel in memory between them.

    Safe to use from several threads.
    """

    def __init__(
        self, settings: Settings, database: Database, system_id: str, clock: SystemClock | None = None
    ) -> None:
        self.system_id = system_id
        self._settings = settings.forecast
        self._special_days = SpecialDays.of(settings, system_id)
        self._database = database
        self._clock = clock or SystemClock()
        self._models = ModelStore(settings.models_dir)
        self._issues = Issues(database, system_id)
        self._loaded: tuple[Path | None, Path | None, str | None] | None = None
        self._chain: Chain | None = None
        self._panel: LivePanel | None = None
        self._trouble: str | None = None
        self._version: str | None = None
        self._last: Issue | None = None
        self._one_at_a_time = threading.Lock()

    def origin(self, now: datetime) -> datetime:
        """The newest time on the grid of issues, at or before `now`."""
        return EPOCH + (now - EPOCH) // self._settings.issue_every * self._settings.issue_every

    def run(self, now: datetime) -> Issue:
        """Make and store the issue of the newest origin at or before `now`.

        Raises:
            VelibError: there is no history at all, or the database cannot be used.
        """
        with self._one_at_a_time:
            chain, live = self._prepared()
            origin = self.origin(now)
            return self._make(origin, chain, live.at(origin))

    def catch_up(self, now: datetime) -> Issue | None:
        """Make an issue of the newest poll at once, where the last one could not know of the feed; else there is none.

        So a system that was just begun, or is heard again after a silence, is forecast before the grid's next instant.
        The origin is the poll's own second, and the panel's ticks are counted from there. On the grid are all others,
        and these alone are scored.

        Raises:
            VelibError: the database cannot be used.
        """
        with self._one_at_a_time:
            last = self._last if self._last and self._last.state is not State.STALE else None
            if last and now - last.issued_at <= 2 * self._settings.issue_every:
                return None
            chain, live = self._prepared()
            heard = newest_observation(self._database, self.system_id, now)
            if heard is None or now - heard > live.tolerance:
                return None
            origin = EPOCH - (EPOCH - heard) // _SECOND * _SECOND  # the next whole one
            return self._make(origin, chain, live.anchored(origin))

    def _make(self, origin: datetime, chain: Chain, panel: Panel) -> Issue:
        """The issue from the panel's last tick, stored."""
        try:
            return self._made(origin, chain, panel)
        finally:
            give_back()

    def _made(self, origin: datetime, chain: Chain, panel: Panel) -> Issue:
        begun = perf_counter()
        forecast, source = chain.forecast(panel)
        observed_at = newest_observation(self._database, self.system_id, origin)
        state, reason = self._state(panel.tolerance, origin, observed_at, self._trouble or chain.trouble)
        issue = Issue.of(
            forecast,
            panel,
            source,
            made_at=max(self._clock.now(), origin),
            observed_at=observed_at,
            model=chain.name,
            version=self._version,
            state=state,
            reason=reason,
            weather=chain.weather_of(panel, source),
        )
        self._issues.add(issue)
        self._last = issue
        took = round(perf_counter() - begun, 3)
        _log.info(
            "issue", system=self.system_id, issued_at=format_time(origin), model=issue.model, state=str(state),
            stations=len(panel.stations), seconds=took, reason=reason, weather=str(issue.weather),
        )  # fmt: skip
        return issue

    # -- the chain -------------------------------------------------------------------------------------------

    def _prepared(self) -> tuple[Chain, LivePanel]:
        """The chain of the model in force and what stands in for it, loaded anew when another one is."""
        wanted = self._settings.model
        asked, trouble = self._in_force(wanted)
        chosen = (asked, self._models.newest_folder(self.system_id, STAND_IN))
        if (*chosen, trouble) == self._loaded and self._chain and self._panel:
            return self._chain, self._panel
        self._loaded, self._trouble = (*chosen, trouble), trouble
        found = [self._link(chosen[0], Source.MODEL), self._link(chosen[1], Source.CLIMATOLOGY)]
        if chosen[0] is None:
            self._trouble = f"no {wanted or 'model'} has been trained for {self.system_id} yet (`velib retrain`)"
        trained = next((link.model for link in found if link), None)
        spec = trained.spec if trained else ForecastSpec.default(self._settings.issue_every)
        report = trained.report if trained else None
        tolerance = parse_duration(report.tolerance) if report else self._settings.tolerance
        links = [link for link in (found[0], self._cold(spec, tolerance), found[1]) if link and link.model.spec == spec]
        self._version = chosen[0].name if chosen[0] and found[0] else None
        self._chain = Chain(spec, links)
        self._panel = LivePanel(
            self._database, self.system_id, step=spec.step, tolerance=tolerance, lookback=self._chain.lookback,
            special_days=self._special_days,
        )  # fmt: skip
        return self._chain, self._panel

    def _in_force(self, wanted: str | None) -> tuple[Path | None, str | None]:
        """The folder of the model to ask, and what is wrong with how it was chosen."""
        try:
            return self._models.in_force(self.system_id, wanted), None
        except ArtifactError as error:  # the newest is better than none
            _log.error("nobody knows what is in force; the newest model is asked", error=str(error))
            reason = f"the registry of {self.system_id} is damaged; the newest model is asked"
            return self._models.newest_folder(self.system_id, wanted), reason

    def _link(self, folder: Path | None, source: Source) -> Link | None:
        if folder is None:
            return None
        try:
            model = load_model(folder)
            fitted_on = model.report.system_id if model.report else None
            if fitted_on != self.system_id:
                raise ArtifactError(f"the model in {folder} was fitted on the system {fitted_on!r}")
            if self._settings.issue_every % model.spec.step:
                raise ArtifactError(
                    f"the model in {folder} forecasts every {format_duration(model.spec.step)}, which does not divide "
                    f"forecast.issue_every ({format_duration(self._settings.issue_every)})"
                )
        except Exception as error:  # damage shows in many ways, and none may keep the next in the chain from answering
            reason = str(error) if isinstance(error, ArtifactError) else f"the model in {folder} is damaged ({error!r})"
            _log.error("a model cannot be used; the next in the chain answers", system=self.system_id, error=reason)
            if source is Source.MODEL:
                self._trouble = reason.replace(str(folder), f"{folder.parent.name}/{folder.name}")  # it is told to all
            return None
        return Link(source, model)

    def _cold(self, spec: ForecastSpec, tolerance: timedelta) -> Link | None:
        """What answers where there is no model yet, and for stations that are new to it."""
        try:
            return Link(Source.COLDSTART, ColdStart.ready(spec, self.system_id, tolerance))
        except Exception as error:  # as in `_link`
            _log.error("the cold-start model cannot be used; the next in the chain answers", error=repr(error))
            return None

    # -- what is to be said of it ----------------------------------------------------------------------------

    def _state(
        self, tolerance: timedelta, origin: datetime, observed_at: datetime | None, trouble: str | None
    ) -> tuple[State, str | None]:
        if observed_at is None:
            return State.STALE, "nothing was ever observed before this time"
        if origin - observed_at > tolerance:
            return State.STALE, (
                f"the feed was last heard and believed at {format_time(observed_at.replace(microsecond=0))}"
                f"{self._since(observed_at, origin)}"
            )
        return (State.DEGRADED, trouble) if trouble else (State.FRESH, None)

    def _since(self, after: datetime, until: datetime) -> str:
        """What the ledger says of the polls since then."""
        query = (
            select(Poll.outcome)
            .join(System, System.key == Poll.system_key)
            .where(System.system_id == self.system_id, Poll.polled_at > after, Poll.polled_at <= until)
            .order_by(Poll.polled_at.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            outcome = connection.execute(query).scalar_one_or_none()
        # Not the ledger's remark: it may name addresses that are nobody else's business.
        return f"; the last poll since then: {outcome}" if outcome else "; it has not been asked since"
