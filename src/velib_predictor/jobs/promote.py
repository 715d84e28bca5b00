"""A newly trained model is put in force only if it forecasts better, on days that nobody concerned was fitted on.

`challenge` is the nightly way. The champion was fitted until T. The newest days are held out, a trial of the recipe is
fitted on all before them, and both forecast them from the same ticks; if the trial wins, the recipe is fitted anew on
everything, and that is put in force. The held-out days begin at T or later; a trial of the champion's own recipe gets
at least as many new days to learn from as it is judged on, else the two would be the same model.

`promote` judges a version that exists already, on the days after both were fitted.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from velib_predictor.config.config import Settings
from velib_predictor.config.models import load_model_settings
from velib_predictor.data.database import Database
from velib_predictor.data.panel import Panel
from velib_predictor.data.special_days import SpecialDays
from velib_predictor.evaluation.gate import compare
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.inference.card import COMPARISON, as_json, beside
from velib_predictor.inference.predictor import newest_observation
from velib_predictor.inference.registry import Ref, Standing, write_whole
from velib_predictor.inference.store import STAND_INS, ModelStore, load_of
from velib_predictor.jobs.issue import STAND_IN
from velib_predictor.jobs.retrain import (
    Progress,
    Trained,
    alone,
    fit,
    keep,
    log_trained,
    newest_panel,
    serving_spec,
    whose,
)
from velib_predictor.models.base import ArtifactError, Forecaster, forecaster, read_metadata
from velib_predictor.utils.errors import VelibError
from velib_predictor.utils.logger import get_logger
from velib_predictor.utils.temporal import EPOCH, format_duration, format_time, parse_time
from velib_predictor.utils.version import program

LEAST = timedelta(days=3)
"""A shorter test decides nothing."""
_LONGEST = timedelta(days=28)
_BEFORE = timedelta(days=7)  # of a test: for persistence's own fit
_log = get_logger(__name__)


class NotPromotedError(VelibError):
    """A version was not put in force; the message says why."""


@dataclass(frozen=True)
class Challenge:
    """What a night has brought.

    Attributes:
        trained: all that was fitted and kept; the stand-in first.
        promoted: whether another model is in force now.
        reason: why, or why not.
        comparison: the scores; None where nothing was compared.
    """

    trained: list[Trained]
    promoted: bool
    reason: str
    comparison: dict[str, Any] | None = None


def challenge(
    settings: Settings, database: Database, system_id: str, now: datetime, progress: Progress | None = None
) -> Challenge:
    """Train anew; put what was trained in force if it is the first model, or if its recipe beats the one in force.

    The old model stays in force until the very last step, whatever fails before it.

    Raises:
        AlreadyRunningError: another process trains this system.
        HistoryError: there is too little history to fit on.
        UsageError: an unknown system or model, or no history at all.
        ChangedError: somebody else has put another version in force meanwhile.
    """
    name, spec, store = settings.forecast.train_model, serving_spec(settings), ModelStore(settings.models_dir)
    forecaster(name)  # an unknown one is refused before anything is read
    recipe = load_model_settings(settings.models_file)
    tell = progress or (lambda _phase, _done, _total: None)
    with alone(settings, system_id):
        in_force = store.in_force(system_id)
        champion_ref = Ref.of(in_force) if in_force else None
        tell(f"read {system_id}", 0, 1)
        panel, system = newest_panel(settings, database, system_id, now), whose(database, system_id)

        def fitted(what: str, until: datetime) -> tuple[Forecaster, dict[str, Any]]:
            tell(f"fit {what}", 0, 1)
            return fit(forecaster(what)(spec, recipe), panel, until, system, "velib retrain --promote")

        def kept(model: Forecaster, made_from: dict[str, Any], comparison: dict[str, Any] | None = None) -> Trained:
            one = keep(settings, system_id, model, beside(model, made_from, comparison))
            log_trained(one)
            return one

        names = dict.fromkeys((STAND_IN, name))
        trained = [kept(*fitted(each, now)) for each in names if each in STAND_INS]
        if name in STAND_INS:
            return Challenge(trained, False, f"{name} only stands in for others, and is in force as such")
        if champion_ref is None:
            trained.append(kept(*fitted(name, now)))
            return Challenge(trained, True, "it is the first model, and in force at once")
        champion, trouble = _usable(store, system_id, champion_ref, spec)
        length, end = settings.jobs.hold_out, _end(database, system_id, now, spec)
        if champion:
            length = min(length, _unseen(store, system_id, champion_ref, champion, name, end))
        if length < LEAST:
            return Challenge(trained, False, _too_soon(champion_ref, champion, name, end))
        store.settle(system_id)  # from here on it is judged, and being newer is no merit
        cut = EPOCH + (end - length - EPOCH) // spec.step * spec.step
        trial, made_from = fitted(name, cut)
        found = compare(panel, champion, trial, cut, end, progress=progress)
        found |= {"champion": str(champion_ref), "challenger": f"{name} fitted until {format_time(cut)}"}
        if trouble:
            found["reason"] += f" ({trouble})"
        if not found["promoted"]:
            trained.append(kept(trial, made_from, found))
            return Challenge(trained, False, found["reason"], found)
        found["trial_note"] = f", fitted until {format_time(cut)}"
        model, made_from = fitted(name, now)
        last = kept(model, made_from, found)
        store.registry(system_id).promote(Ref.of(last.folder), now, found["reason"], champion_ref)
        trained.append(last._replace(alias="champion"))
        _log.info("promoted", system=system_id, version=str(Ref.of(last.folder)), reason=found["reason"])
        return Challenge(trained, True, found["reason"], found)


def promote(
    settings: Settings,
    database: Database,
    system_id: str,
    folder: Path,
    now: datetime,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any] | None:
    """Put a version in force if it beats the one that is, on the days since both were fitted; returns the comparison.

    None where nothing was compared: by force, or because it is in force already, and now stays so.

    Args:
        force: without comparing. What cannot be loaded or asked is refused all the same.

    Raises:
        ArtifactError: it is damaged, of another system, or of another grid than that of the issues.
        NotPromotedError: it is in force already, did not win, or there are too few days to tell.
        ChangedError: somebody else has put another version in force meanwhile.
    """
    store, ref = ModelStore(settings.models_dir), Ref.of(folder)
    model = check_usable(settings, system_id, folder)
    chosen = store.registry(system_id).read().settled
    champion_ref = store.settle(system_id).champion
    if champion_ref == ref:
        if chosen:
            raise NotPromotedError(f"{ref} is in force already")
        return None  # it was so only because it is the newest; from now on it stays
    found = None
    if champion_ref and not force:
        champion, trouble = _usable(store, system_id, champion_ref, model.spec)
        start = max(_until(each) for each in (champion, model) if each)
        end = _end(database, system_id, now, model.spec)
        start = EPOCH - (EPOCH - max(start, end - _LONGEST)) // model.spec.step * model.spec.step
        if end - start < LEAST:
            raise NotPromotedError(
                f"{ref} cannot be compared with {champion_ref} yet: both are fitted by {format_time(start)}, history "
                f"reaches to {format_time(end)}, and {format_duration(LEAST)} of newer history are needed; --force "
                "promotes without comparing"
            )
        before = max(_BEFORE, max(each.lookback for each in (champion, model) if each) * model.spec.step)
        panel = Panel.load(
            database, system_id, start - before, end, step=model.spec.step, tolerance=settings.forecast.tolerance,
            special_days=SpecialDays.of(settings, system_id),
        )  # fmt: skip
        found = compare(panel, champion, model, start, end, progress=progress)
        found |= {"champion": str(champion_ref), "challenger": str(ref)}
        if trouble:
            found["reason"] += f" ({trouble})"
        write_whole(folder / COMPARISON, as_json(found))
        if not found["promoted"]:
            raise NotPromotedError(f"{ref} was not promoted: {found['reason']}; --force promotes all the same")
    why = found["reason"] if found else "by force" if force else "nothing was in force"
    store.registry(system_id).promote(ref, now, why, champion_ref)
    return found


def roll_back(settings: Settings, system_id: str, now: datetime) -> Standing:
    """Put the champion before the present one back in force.

    Raises:
        UsageError: there is none.
        ArtifactError: it is gone or damaged.
    """
    store = ModelStore(settings.models_dir)

    def check(ref: Ref) -> None:
        check_usable(settings, system_id, store.folder(system_id, ref))

    return store.registry(system_id).rollback(now, check)


def check_usable(settings: Settings, system_id: str, folder: Path) -> Forecaster:
    """The model in a folder, if issues can be made with it.

    Raises:
        ArtifactError: it is damaged, of another system, or of a grid that does not fit.
    """
    try:
        model = load_of(folder, system_id)
    except VelibError:
        raise
    except Exception as error:  # damage shows in many ways
        raise ArtifactError(f"the model in {folder} is damaged ({error!r}); train it anew") from error
    every = settings.forecast.issue_every
    if every % model.spec.step:
        raise ArtifactError(
            f"the model in {folder} forecasts every {format_duration(model.spec.step)}, which does not divide "
            f"forecast.issue_every ({format_duration(every)})"
        )
    return model


def _usable(store: ModelStore, system_id: str, ref: Ref, spec: ForecastSpec) -> tuple[Forecaster | None, str | None]:
    """The champion, if it can be compared with; else why not."""
    try:
        champion = load_of(store.folder(system_id, ref), system_id)
    except Exception as error:  # damage shows in many ways
        _log.error("the champion cannot be used", system=system_id, version=str(ref), error=str(error))
        return None, f"{ref}, in force until now, cannot be loaded"
    if champion.spec != spec:
        return None, f"{ref}, in force until now, forecasts other horizons or targets"
    return champion, None


def _unseen(store: ModelStore, system_id: str, ref: Ref, champion: Forecaster, name: str, now: datetime) -> timedelta:
    """How many of the newest days can be held out: none that the champion was fitted on."""
    since = now - _until(champion)
    there = read_metadata(store.folder(system_id, ref)).get("program")
    same = champion.name == name and there == program()["version"]
    return since / 2 if same else since


def _end(database: Database, system_id: str, now: datetime, spec: ForecastSpec) -> datetime:
    """Where history ends: days on which the feed was silent are no days of a test."""
    newest = newest_observation(database, system_id, now)
    if newest is None:
        return now
    return min(now, EPOCH - (EPOCH - newest) // spec.step * spec.step + spec.step)


def _too_soon(ref: Ref, champion: Forecaster | None, name: str, now: datetime) -> str:
    assert champion is not None  # noqa: S101 - without one the full hold-out is there
    days = max((now - _until(champion)) / timedelta(days=1), 0)
    needed = LEAST * (2 if champion.name == name else 1)
    return (
        f"{ref} stays in force: there are {days:.1f} days of history that it has not seen, and a comparison needs "
        f"{format_duration(needed)}"
    )


def _until(model: Forecaster) -> datetime:
    """The end of what a model was fitted on."""
    assert model.report is not None  # noqa: S101 - it was loaded
    return parse_time(model.report.until)
