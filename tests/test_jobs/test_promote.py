"""The gate: a better challenger wins, nothing else does, and until the very last step the old model is in force."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.test_jobs.moods import CALM, DAY, HOUR, LIVELY, START, Mood, moody, store_moods
from velib_predictor.config.config import Settings
from velib_predictor.data.database import Database
from velib_predictor.data.lock import AlreadyRunningError
from velib_predictor.inference.registry import ChangedError, Ref, Registry, Standing
from velib_predictor.inference.store import ModelStore
from velib_predictor.jobs.issue import IssueJob
from velib_predictor.jobs.promote import NotPromotedError, challenge, promote, roll_back
from velib_predictor.jobs.retrain import alone, retrain
from velib_predictor.models.base import ArtifactError, HistoryError, load_model
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import format_time

SYSTEM = "moody"
FIRST = START + 8 * DAY
"""When the first champion is trained."""


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    database = Database(sqlite_url)
    yield database
    database.close()


def begun(database: Database, settings: Settings, mood: Mood, days: int) -> Ref:
    """Days of that mood are stored, and a first champion is fitted on the first eight; who that is."""
    store_moods(database, mood, days)
    retrain(moody(settings, 8), database, SYSTEM, FIRST)
    champion = ModelStore(settings.models_dir).settle(SYSTEM).champion
    assert champion
    return champion


def standing(settings: Settings) -> Standing:
    return ModelStore(settings.models_dir).registry(SYSTEM).read()


def wakes_up(day: int) -> float:
    return CALM if day < 9 else LIVELY


def sleeps_awhile(day: int) -> float:
    return CALM if 8 <= day < 15 else LIVELY


def sleeps_longer(day: int) -> float:
    return CALM if 8 <= day < 17 else LIVELY


def stays(_day: int) -> float:
    return LIVELY


# -- every night ---------------------------------------------------------------------------------------------


def test_a_better_challenger_wins_and_is_fitted_anew_on_everything(settings: Settings, database: Database) -> None:
    old = begun(database, settings, wakes_up, 26)
    now = START + 26 * DAY
    outcome = challenge(moody(settings, 17), database, SYSTEM, now)
    found = outcome.comparison
    assert found is not None
    assert outcome.promoted, outcome.reason
    # Neither was fitted on a day of the test: the champion until day 8, the trial until the test begins.
    assert (found["test_from"], found["test_until"]) == (format_time(START + 18 * DAY), format_time(now))
    assert found["challenger"] == f"persistence_delta fitted until {format_time(START + 18 * DAY)}"
    assert found["champion"] == str(old)
    assert found["rps"] < found["rps_champion"]
    assert found["rps"] < found["rps_persistence"]
    assert found["low"] < found["high"] < 0
    assert found["days"] == 8
    # What is in force now has learned from all days, the held-out ones too.
    folder = outcome.trained[-1].folder
    assert standing(settings).champion == Ref.of(folder)
    assert standing(settings).previous == (old,)
    assert standing(settings).challenger is None
    report = load_model(folder).report
    assert report is not None
    assert (report.first, report.until) == (format_time(now - 17 * DAY), format_time(now))
    assert json.loads((folder / "comparison.json").read_text())["difference"] == found["difference"]
    assert "RPS -" in (folder / "MODEL_CARD.md").read_text()
    issue = IssueJob(moody(settings, 17), database, SYSTEM).run(now)
    assert issue.version == folder.name


def test_a_worse_challenger_is_refused_and_kept_with_its_scores(settings: Settings, database: Database) -> None:
    old = begun(database, settings, sleeps_awhile, 22)
    outcome = challenge(moody(settings, 14, 7 * DAY), database, SYSTEM, START + 22 * DAY)
    found = outcome.comparison
    assert found is not None
    assert not outcome.promoted
    assert found["rps"] > found["rps_champion"]
    assert "not better than the champion by 1%" in outcome.reason
    assert "too few days for an interval" in outcome.reason
    now = standing(settings)
    assert (now.champion, now.challenger) == (old, Ref.of(outcome.trained[-1].folder))
    assert json.loads((outcome.trained[-1].folder / "comparison.json").read_text())["promoted"] is False
    assert IssueJob(moody(settings, 14), database, SYSTEM).run(START + 22 * DAY).version == old.version


def test_with_eight_days_a_worse_one_is_surely_worse(settings: Settings, database: Database) -> None:
    begun(database, settings, sleeps_longer, 26)
    outcome = challenge(moody(settings, 17), database, SYSTEM, START + 25 * DAY + 12 * HOUR)
    assert outcome.comparison is not None
    assert outcome.comparison["test_from"] == format_time(START + 17 * DAY + 12 * HOUR)
    assert "it is worse than the champion" in outcome.reason


def test_a_recipe_of_another_name_needs_no_new_days_to_learn_from(settings: Settings, database: Database) -> None:
    """The same would be the same model; this one is judged on all days since the champion's training."""
    begun(database, settings, stays, 14)
    outcome = challenge(moody(settings, 14, model="queueing"), database, SYSTEM, START + 14 * DAY)
    assert outcome.comparison is not None
    assert outcome.comparison["test_from"] == format_time(FIRST)
    assert outcome.comparison["champion"].startswith("persistence_delta/")


@pytest.mark.parametrize(("model", "days", "needed"), [("persistence_delta", 5, "6d"), ("queueing", 2, "3d")])
def test_too_few_unseen_days_decide_nothing_and_cost_no_fit(
    settings: Settings, database: Database, model: str, days: int, needed: str
) -> None:
    old = begun(database, settings, wakes_up, 8 + days)
    outcome = challenge(moody(settings, 8, model=model), database, SYSTEM, FIRST + days * DAY)
    assert (outcome.promoted, outcome.comparison) == (False, None)
    assert outcome.reason == (
        f"{old} stays in force: there are {days}.0 days of history that it has not seen, "
        f"and a comparison needs {needed}"
    )
    assert [one.report.model for one in outcome.trained] == ["climatology"], "what stands in is always of today"
    assert standing(settings).champion == old


def test_the_first_model_is_in_force_at_once_and_too_little_history_puts_none(
    settings: Settings, database: Database
) -> None:
    store_moods(database, stays, 5)
    with pytest.raises(HistoryError):
        challenge(moody(settings, 8), database, SYSTEM, START + 6 * HOUR)
    assert standing(settings).champion is None
    outcome = challenge(moody(settings, 8), database, SYSTEM, START + 5 * DAY)
    assert outcome.promoted
    assert standing(settings).champion == Ref.of(outcome.trained[-1].folder)
    assert not standing(settings).settled


def test_a_store_of_before_there_was_a_registry_keeps_its_newest_model(settings: Settings, database: Database) -> None:
    """Even if the challenger loses: it is newer, and must not be in force by that."""
    old = begun(database, settings, sleeps_awhile, 22)
    ModelStore(settings.models_dir).registry(SYSTEM).file.unlink()
    assert "needs 6d" in challenge(moody(settings, 8), database, SYSTEM, START + 10 * DAY).reason
    assert not standing(settings).settled, "nothing was judged"
    outcome = challenge(moody(settings, 14, 7 * DAY), database, SYSTEM, START + 22 * DAY)
    assert not outcome.promoted
    assert standing(settings).champion == old


def test_a_champion_that_cannot_be_loaded_is_replaced_by_what_beats_persistence(
    settings: Settings, database: Database
) -> None:
    old = begun(database, settings, wakes_up, 26)
    (ModelStore(settings.models_dir).folder(SYSTEM, old) / "state.safetensors").write_bytes(b"damage")
    outcome = challenge(moody(settings, 17), database, SYSTEM, START + 26 * DAY)
    assert outcome.promoted
    assert "better than persistence" in outcome.reason
    assert f"{old}, in force until now, cannot be loaded" in outcome.reason


def test_what_only_stands_in_is_no_challenger(settings: Settings, database: Database) -> None:
    old = begun(database, settings, stays, 20)
    outcome = challenge(moody(settings, 8, model="climatology"), database, SYSTEM, START + 20 * DAY)
    assert (outcome.promoted, len(outcome.trained)) == (False, 1)
    assert (standing(settings).champion, standing(settings).challenger) == (old, None)


# -- whatever happens meanwhile ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["pointer", "replace", "second fit"])
def test_a_crash_before_the_end_leaves_the_old_one_in_force(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    old = begun(database, settings, wakes_up, 26)
    before = standing(settings)

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    told: list[str] = []

    def tell(phase: str, _done: int, _total: int) -> None:
        told.append(phase)
        if where == "second fit" and told.count("fit persistence_delta") == 2:
            raise KeyboardInterrupt

    if where == "pointer":
        monkeypatch.setattr(Registry, "promote", crash)
    elif where == "replace":
        real = Registry._write

        def breaking(self: Registry, changed: Standing) -> None:
            if changed.champion != old:
                monkeypatch.setattr(os, "fsync", crash)  # when all is written, and nothing in its place
            real(self, changed)

        monkeypatch.setattr(Registry, "_write", breaking)
    with pytest.raises(KeyboardInterrupt):
        challenge(moody(settings, 17), database, SYSTEM, START + 26 * DAY, tell)
    monkeypatch.undo()
    assert standing(settings).champion == old
    assert standing(settings).previous == before.previous
    assert not list(settings.models_dir.rglob("*.partial"))
    job = IssueJob(moody(settings, 17), database, SYSTEM)
    assert job.run(START + 26 * DAY).version == old.version
    # And the next night does it.
    assert challenge(moody(settings, 17), database, SYSTEM, START + 26 * DAY).promoted


def test_who_goes_back_while_it_is_judged_is_not_overruled(settings: Settings, database: Database) -> None:
    begun(database, settings, wakes_up, 26)
    other = retrain(moody(settings, 8), database, SYSTEM, FIRST)[-1]
    store = ModelStore(settings.models_dir)

    def meanwhile(phase: str, done: int, _total: int) -> None:
        if (phase, done) == ("test", 5):
            promote(moody(settings, 8), database, SYSTEM, other.folder, START + 26 * DAY, force=True)

    with pytest.raises(ChangedError, match=f"{Ref.of(other.folder)} is in force by now"):
        challenge(moody(settings, 17), database, SYSTEM, START + 26 * DAY, meanwhile)
    assert store.registry(SYSTEM).read().champion == Ref.of(other.folder)


@pytest.mark.parametrize("run", [retrain, challenge])
def test_two_at_once_are_one(settings: Settings, database: Database, run: Callable[..., object]) -> None:
    old = begun(database, settings, stays, 9)
    with (
        alone(settings, SYSTEM),
        pytest.raises(AlreadyRunningError, match=rf"\(process {os.getpid()}\) already trains"),
    ):
        run(moody(settings, 8), database, SYSTEM, START + 9 * DAY)
    assert standing(settings).champion == old
    run(moody(settings, 8), database, SYSTEM, START + 9 * DAY)  # the lock has gone with who held it


def test_many_changes_at_once_lose_none(settings: Settings) -> None:
    registry = Registry(settings.models_dir, SYSTEM)
    refs = [Ref("queueing", f"2026010{n}T000000.000000Z") for n in range(1, 9)]
    registry.enter(refs[0], START)

    def work(ref: Ref) -> None:
        for _ in range(20):
            try:
                registry.promote(ref, START, "test", registry.read().champion)
                return
            except ChangedError:
                continue

    threads = [threading.Thread(target=work, args=(ref,)) for ref in refs[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = registry.read()
    assert {found.champion, *found.previous} == set(refs)


# -- by hand -------------------------------------------------------------------------------------------------


def trained_on(settings: Settings, database: Database, days: int, until: datetime) -> Path:
    return retrain(moody(settings, days), database, SYSTEM, until)[-1].folder


def test_by_hand_the_better_one_is_put_in_force(settings: Settings, database: Database) -> None:
    old = begun(database, settings, wakes_up, 26)
    better = trained_on(settings, database, 8, START + 18 * DAY)
    assert (standing(settings).champion, standing(settings).challenger) == (old, Ref.of(better))
    found = promote(moody(settings, 8), database, SYSTEM, better, START + 26 * DAY)
    assert found is not None
    assert found["test_from"] == format_time(START + 18 * DAY), "of the later of the two"
    assert found["high"] < 0
    assert standing(settings).champion == Ref.of(better)
    with pytest.raises(NotPromotedError, match="is in force already"):
        promote(moody(settings, 8), database, SYSTEM, better, START + 26 * DAY)
    assert roll_back(moody(settings, 8), SYSTEM, START + 26 * DAY).champion == old
    with pytest.raises(UsageError, match=f"nothing to roll back to; {old} is the first that was put in force"):
        roll_back(moody(settings, 8), SYSTEM, START + 26 * DAY)


def test_by_hand_a_loser_and_too_few_days_are_refused_and_force_is_not_asked(
    settings: Settings, database: Database
) -> None:
    old = begun(database, settings, sleeps_awhile, 23)
    worse = trained_on(settings, database, 7, START + 15 * DAY)
    early, late = START + 17 * DAY, START + 23 * DAY
    with pytest.raises(NotPromotedError, match=r"cannot be compared .* by 2026-01-20T00:00:00Z, .*, and 3d of newer"):
        promote(moody(settings, 7), database, SYSTEM, worse, early)
    with pytest.raises(NotPromotedError, match=r"was not promoted: it is worse than the champion .*--force"):
        promote(moody(settings, 7), database, SYSTEM, worse, late)
    assert standing(settings).champion == old
    assert json.loads((worse / "comparison.json").read_text())["promoted"] is False
    assert promote(moody(settings, 7), database, SYSTEM, worse, early, force=True) is None
    assert standing(settings).champion == Ref.of(worse)
    assert standing(settings).log[-1]["why"] == "by force"


def test_a_tie_changes_nothing(settings: Settings, database: Database) -> None:
    """The challenger is the champion's own copy: every forecast is the same, and the champion stays."""
    old = begun(database, settings, stays, 20)
    folder = ModelStore(settings.models_dir).folder(SYSTEM, old)
    copy = folder.with_name("20991231T000000.000000Z")
    shutil.copytree(folder, copy)
    for days, words in ((20, "not surely better than the champion"), (14, "is not better than the champion by 1%")):
        with pytest.raises(NotPromotedError, match=words):
            promote(moody(settings, 8), database, SYSTEM, copy, START + days * DAY)
        found = json.loads((copy / "comparison.json").read_text())
        assert found["difference"] == 0
        assert found["rps"] == found["rps_champion"]
    assert standing(settings).champion == old


@pytest.mark.parametrize("force", [False, True])
def test_a_damaged_or_unfitting_version_is_refused_even_by_force(
    settings: Settings, database: Database, force: bool
) -> None:
    old = begun(database, settings, stays, 20)
    damaged = trained_on(settings, database, 8, START + 10 * DAY)
    unfitting = trained_on(settings, database, 8, START + 10 * DAY)
    (damaged / "state.safetensors").write_bytes(b"")
    often = moody(settings, 8)
    often = often.model_copy(update={"forecast": often.forecast.model_copy(update={"issue_every": HOUR / 2})})
    for folder, chosen, words in ((damaged, moody(settings, 8), "damaged"), (unfitting, often, "does not divide")):
        with pytest.raises(ArtifactError, match=words):
            promote(chosen, database, SYSTEM, folder, START + 20 * DAY, force=force)
    assert standing(settings).champion == old


def test_going_back_to_a_damaged_version_is_refused(settings: Settings, database: Database) -> None:
    old = begun(database, settings, stays, 20)
    newer = trained_on(settings, database, 8, START + 10 * DAY)
    promote(moody(settings, 8), database, SYSTEM, newer, START + 20 * DAY, force=True)
    (ModelStore(settings.models_dir).folder(SYSTEM, old) / "metadata.json").unlink()
    with pytest.raises(ArtifactError, match="there is no model in"):
        roll_back(moody(settings, 8), SYSTEM, START + 20 * DAY)
    assert standing(settings).champion == Ref.of(newer)
    assert standing(settings).previous == (old,)


def test_what_was_learned_from_the_future_is_not_judged_on_it(settings: Settings, database: Database) -> None:
    """Whoever is fitted later, the test begins after that: there is no day left here."""
    begun(database, settings, stays, 20)
    cheat = trained_on(settings, database, 8, START + 20 * DAY)
    with pytest.raises(NotPromotedError, match="both are fitted by 2026-01-25T00:00:00Z"):
        promote(moody(settings, 8), database, SYSTEM, cheat, START + 20 * DAY)
