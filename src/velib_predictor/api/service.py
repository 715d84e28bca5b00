"""What the API knows: for each system the newest issue and what is there now, looked up beside the requests."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from velib_predictor.api.caching import Body
from velib_predictor.api.problems import MISTAKE, UNREADABLE, NotFoundError, NotReadyError
from velib_predictor.api.served import Served
from velib_predictor.config.config import Settings
from velib_predictor.data.clock import SystemClock
from velib_predictor.data.database import Database, DatabaseError
from velib_predictor.inference.current import Current, StationNow, SystemAbout, current, heard_at, systems
from velib_predictor.inference.issue import State
from velib_predictor.inference.issues import Issues, Mark
from velib_predictor.utils.errors import VelibError
from velib_predictor.utils.logger import get_logger
from velib_predictor.utils.temporal import format_duration, next_aligned

_EVERY_S = 1.0
_log = get_logger(__name__)


@dataclass(frozen=True)
class Known:
    """One system as it is served."""

    about: SystemAbout
    mark: Mark | None
    served: Served | None
    current: Current
    trouble: str | None = None
    """Why the newest issue is not the one that is served."""
    lists: dict[str, Body] = field(default_factory=dict)
    """The finished lists of stations, by format, once somebody has asked for them."""

    def station(self, id_or_code: str) -> StationNow:
        """The station with that id, else with that code.

        Raises:
            NotFoundError: there is none.
        """
        stations, name = self.current.stations, self.about.system_id
        found = stations.get(id_or_code) or next((s for s in stations.values() if s.code == id_or_code), None)
        if found is None:
            raise NotFoundError(
                f"no station {id_or_code[:80]!r} (id or code) in {name!r}; /v1/systems/{name}/stations lists them"
            )
        return found

    def local(self, when: datetime | None) -> str | None:
        """RFC 3339 with the offset of the system's own time zone."""
        if when is None:
            return None
        return when.replace(microsecond=0).astimezone(ZoneInfo(self.about.timezone or "UTC")).isoformat()


class Service:
    """Follows the database. One thread writes, all requests read; a system is replaced as a whole.

    Args:
        clock: of the city that is served; for the live feed the machine's.
    """

    def __init__(self, settings: Settings, database: Database, clock: SystemClock | None = None) -> None:
        self.settings = settings
        self.database = database
        self.clock = clock or SystemClock()
        self.systems: Mapping[str, Known] = {}
        self.trouble: str | None = "the database has not been read yet"
        self._failing = False
        self._wake = threading.Event()

    # -- following -------------------------------------------------------------------------------------------

    def follow(self, stop: threading.Event) -> None:
        """Look for news until `stop` is set; whatever happens, what is known is served on."""
        while not stop.is_set():
            self.look()
            self._wake.wait(_EVERY_S)
            self._wake.clear()

    def look(self) -> None:
        """`refresh`; where that fails, what is known is served on and grows old."""
        try:
            self.refresh()
        except VelibError as error:
            if not self._failing:
                _log.error("the database cannot be read; the last issue is served on", error=str(error))
            self._failing, self.trouble = True, UNREADABLE
        except Exception as error:
            if not self._failing:
                _log.exception("looking for news failed", error=repr(error))
            self._failing, self.trouble = True, MISTAKE
        if self._failing:
            self.systems = {
                name: replace(known, served=self._aged(known.served)) if known.served else known
                for name, known in self.systems.items()
            }

    def nudge(self) -> None:
        """Look for news at once: something was stored."""
        self._wake.set()

    def refresh(self) -> None:
        """Take over what is new in the database.

        Raises:
            VelibError: the database cannot be read.
        """
        found = {about.system_id: self._known(about) for about in systems(self.database)}
        self.systems = found
        self._failing, self.trouble = False, None

    def _known(self, about: SystemAbout) -> Known:
        before = self.systems.get(about.system_id)
        issues = Issues(self.database, about.system_id)
        mark = issues.mark()
        served, trouble = (before.served, before.trouble) if before else (None, None)
        if mark is None:
            served, trouble = None, None
        elif before is None or mark != before.mark or about != before.about:
            try:
                issue = issues.newest()
                served, trouble = Served(issue, about) if issue else None, None
            except DatabaseError:
                raise
            except VelibError as error:  # damaged: neither the last good one nor other systems suffer
                _log.error(
                    "an issue cannot be read; the last one is served on", system=about.system_id, error=str(error)
                )
                trouble = str(error)
        if served is not None:
            served = self._aged(served)
        there, lists = (before.current, before.lists) if before else (None, {})
        # History that was imported has no polls: there a new issue tells that something was stored.
        if (
            there is None
            or before is None
            or mark != before.mark
            or about != before.about
            or heard_at(self.database, about.system_id) != there.heard_at
        ):
            there, lists = current(self.database, about.system_id), {}
        return Known(about, mark, served, there, trouble, lists)

    def _aged(self, served: Served) -> Served:
        """An issue that should have been followed by others is stale, whatever it was when it was made."""
        issue, every = served.issue, self.settings.forecast.issue_every
        age = self.clock.now() - issue.issued_at
        if age <= 2 * every or issue.state is State.STALE:
            return served
        due = format_duration(every)
        reason = f"the newest forecast was issued at {served.local(issue.issued_at)}; one every {due} is due"
        return Served(issue.with_state(State.STALE, reason), served.about)

    # -- asking ----------------------------------------------------------------------------------------------

    def system(self, system_id: str) -> Known:
        """A system.

        Raises:
            NotFoundError: there is none of that name.
            NotReadyError: nothing is known yet.
        """
        known = self.systems.get(system_id)
        if known is None:
            if not self.systems:
                raise NotReadyError(self.trouble or "no system has been stored yet; collect or import one first")
            raise NotFoundError(f"no system {system_id[:80]!r}; there are: {', '.join(sorted(self.systems))}")
        return known

    def forecasts(self, system_id: str) -> tuple[Known, Served]:
        """A system and its newest issue.

        Raises:
            NotFoundError: there is no such system.
            NotReadyError: it has no issue yet.
        """
        known = self.system(system_id)
        if known.served is None:
            raise NotReadyError(
                known.trouble or f"no forecast has been issued for {system_id!r} yet; the issue job makes the first one"
            )
        return known, known.served

    def until_next(self, served: Served) -> int:
        """Seconds (of the caller's clock) for which an answer from this issue holds."""
        due = next_aligned(served.issue.issued_at, self.settings.forecast.issue_every)
        left = (due - self.clock.now()) / timedelta(seconds=max(self.clock.speed, 1e-9))
        return max(int(left), 1)

    def now(self) -> datetime:
        """The time in the system that is served."""
        return self.clock.now()
