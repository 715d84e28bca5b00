"""One issue: what the model in force says, what stands in for it, and what is said of both."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import delete, insert, select, update

from tests.test_data.simulated import JumpingClock
from tests.test_inference.test_issue import assert_same
from tests.test_inference.test_predictor import SILENT, START
from tests.test_jobs.conftest import DAY, HOUR, MINUTE, QUARTER, SPEC, fitted
from tests.test_models.panels import selected
from velib_predictor.config.config import Settings
from velib_predictor.data.database import Database
from velib_predictor.data.panel import Panel
from velib_predictor.data.schema import Poll, Station, StationStatus, System
from velib_predictor.forecast.forecast import DEFAULT_HORIZONS, Forecast, ForecastSpec
from velib_predictor.inference.issue import ONE, Issue, Source, State
from velib_predictor.inference.issues import Issues
from velib_predictor.inference.predictor import forecast_at
from velib_predictor.inference.store import ModelStore
from velib_predictor.jobs.issue import IssueJob
from velib_predictor.jobs.score import score
from velib_predictor.models.baseline.persistence import PersistenceDelta
from velib_predictor.models.coldstart.trainer import ColdStart
from velib_predictor.utils.errors import UsageError

NOW = START + 8 * DAY + 12 * HOUR + 7 * MINUTE
ORIGIN = NOW - 7 * MINUTE


@pytest.fixture
def store(settings: Settings) -> ModelStore:
    return ModelStore(settings.models_dir)


@pytest.fixture
def job(settings: Settings, stored: Database) -> IssueJob:
    clock = JumpingClock(NOW, NOW + DAY)
    return IssueJob(settings, stored, "town", clock)  # type: ignore[arg-type]


def with_forecast(settings: Settings, **changes: object) -> Settings:
    return settings.model_copy(update={"forecast": settings.forecast.model_copy(update=changes)})


def assert_whole(issue: Issue) -> None:
    """Every station is there, and of all that anything is known of something is said."""
    assert len(issue.stations) == 9
    for target in ("bikes", "docks"):
        assert (issue.source[:, issue.spec.target(target)] != Source.NONE).all()
    assert (issue.cdf[..., -1] == ONE).all()


# -- fresh ---------------------------------------------------------------------------------------------------


def test_a_fresh_issue_is_what_the_model_says_and_is_stored(
    job: IssueJob, store: ModelStore, stored: Database, panel: Panel
) -> None:
    model = fitted("persistence_delta", panel)
    store.add(fitted("climatology", panel), "town")
    version = store.add(model, "town").name
    issue = job.run(NOW)
    assert (issue.issued_at, issue.state, issue.reason) == (ORIGIN, State.FRESH, None)
    assert (issue.model, issue.version, issue.spec) == ("persistence_delta", version, SPEC)
    assert issue.observed_at == ORIGIN - 5 * MINUTE + timedelta(seconds=20)
    assert timedelta(0) < issue.made_at - NOW < MINUTE
    said = forecast_at(model, stored, "town", NOW)
    known = said.forecast.known[0]
    assert known.mean() > 0.8
    np.testing.assert_array_equal(issue.source == Source.MODEL, known)
    k = said.forecast.k[0]
    for station, target in zip(*np.nonzero(known), strict=True):
        if target == 1:  # whose place below bikes may be rounded on
            continue
        expected = np.rint(said.forecast.cdf()[0, station, :, target, : k[station] + 1] * np.float32(ONE))
        np.testing.assert_array_equal(issue.cdf[station, :, target, : k[station] + 1], expected)
    np.testing.assert_array_equal(issue.now, said.panel.counts[-1])
    np.testing.assert_array_equal(issue.open, said.panel.open[-1])
    assert_whole(issue)
    kept = Issues(stored, "town").newest()
    assert kept is not None
    assert_same(kept, issue)


def test_issue_after_issue_is_what_a_new_process_would_say(
    job: IssueJob, settings: Settings, store: ModelStore, stored: Database, panel: Panel
) -> None:
    for name in ("climatology", "persistence_delta"):
        store.add(fitted(name, panel), "town")
    for place in range(4):
        now = NOW + place * QUARTER
        kept, anew = job.run(now), IssueJob(settings, stored, "town").run(now)
        assert_same(replace(kept, made_at=anew.made_at), anew)
    assert len(Issues(stored, "town").times(None, NOW + DAY)) == 4


def test_a_model_that_was_trained_meanwhile_is_in_force_at_the_next_issue(
    job: IssueJob, store: ModelStore, panel: Panel
) -> None:
    first = store.add(fitted("persistence_delta", panel), "town")
    assert job.run(NOW).version == first.name
    store.add(fitted("climatology", panel), "town")  # newer, but it stands in: being new it is not chosen
    assert job.run(NOW + QUARTER).model == "persistence_delta"
    second = store.add(fitted("persistence_delta", panel), "town")
    assert job.run(NOW + 2 * QUARTER).version == second.name


def test_the_model_that_the_settings_name_is_asked(
    settings: Settings, store: ModelStore, stored: Database, panel: Panel
) -> None:
    for name in ("climatology", "persistence_delta"):
        store.add(fitted(name, panel), "town")
    named = IssueJob(with_forecast(settings, model="climatology"), stored, "town").run(NOW)
    assert (named.model, named.state) == ("climatology", State.FRESH)
    missing = IssueJob(with_forecast(settings, model="xgboost"), stored, "town").run(NOW)
    assert (missing.model, missing.version, missing.state) == ("coldstart", None, State.DEGRADED)
    assert missing.reason == "no xgboost has been trained for town yet (`velib retrain`)"


def test_issues_lie_on_the_grid_of_the_settings(settings: Settings, stored: Database) -> None:
    job = IssueJob(with_forecast(settings, issue_every=30 * MINUTE), stored, "town")
    assert job.run(NOW + QUARTER).issued_at == ORIGIN
    assert job.run(NOW + 2 * QUARTER).issued_at == ORIGIN + 2 * QUARTER
    assert job.origin(ORIGIN - timedelta(microseconds=1)) == ORIGIN - 2 * QUARTER
    issue = Issues(stored, "town").newest()
    assert issue is not None
    assert issue.spec.horizons == tuple(h for h in DEFAULT_HORIZONS if not h % (30 * MINUTE))


# -- what stands in ------------------------------------------------------------------------------------------


def test_without_any_model_the_cold_start_model_answers_and_it_is_called_degraded(
    job: IssueJob, stored: Database, settings: Settings
) -> None:
    issue = job.run(NOW)
    assert (issue.model, issue.version, issue.state) == ("coldstart", None, State.DEGRADED)
    assert issue.reason == "no model has been trained for town yet (`velib retrain`)"
    said = forecast_at(ColdStart.ready(issue.spec, "town", settings.forecast.tolerance), stored, "town", NOW)
    np.testing.assert_array_equal(issue.source == Source.COLDSTART, said.forecast.known[0])
    assert (issue.source[:, 0] == Source.COLDSTART).all()
    assert_whole(issue)


def test_without_its_weights_what_was_last_seen_is_said(job: IssueJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ColdStart, "folder", Path("nowhere"))
    issue = job.run(NOW)
    assert (issue.model, issue.version, issue.state) == ("persistence", None, State.DEGRADED)
    assert issue.reason == "no model has been trained for town yet (`velib retrain`)"
    assert set(issue.source[:, 0].tolist()) == {Source.PERSISTENCE}
    assert_whole(issue)


def test_a_station_that_the_model_was_not_trained_on_is_left_to_the_cold_start_model(
    job: IssueJob, store: ModelStore, panel: Panel
) -> None:
    fewer = selected(panel, np.arange(1, len(panel.stations)))
    for name in ("climatology", "persistence_delta"):
        store.add(fitted(name, fewer), "town")
    issue = job.run(NOW)
    assert (issue.model, issue.state, issue.reason) == ("persistence_delta", State.FRESH, None)
    new = issue.stations.id.index(panel.stations.id[0])
    seen = issue.now[new, issue.spec.channels] >= 0
    assert seen.any()
    assert set(issue.source[new, seen].tolist()) == {Source.COLDSTART}
    assert Source.COLDSTART not in np.delete(issue.source, new, axis=0)


def rewrite(folder: Path, **changes: object) -> None:
    file = folder / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "metadata.json").unlink(),
        lambda folder: (folder / "metadata.json").write_text('{"schema": 1'),
        lambda folder: (folder / "metadata.json").write_text('{"schema": 1}'),
        lambda folder: rewrite(folder, schema=2),
        lambda folder: rewrite(folder, fit={}),
        lambda folder: rewrite(folder, spec={"step": "soon"}),
        lambda folder: (folder / "state.safetensors").unlink(),
        lambda folder: (folder / "state.safetensors").write_bytes(b"{}"),
        lambda folder: shutil.copy(next(folder.parents[1].glob("climatology/*/state.safetensors")), folder),
    ],
)
def test_a_damaged_model_is_replaced_by_the_cold_start_model_and_named(
    job: IssueJob, store: ModelStore, panel: Panel, damage: Callable[[Path], None]
) -> None:
    store.add(fitted("climatology", panel), "town")
    folder = store.add(fitted("persistence_delta", panel), "town")
    damage(folder)
    issue = job.run(NOW)
    assert (issue.model, issue.version, issue.state) == ("coldstart", None, State.DEGRADED)
    assert issue.reason is not None
    assert f"persistence_delta/{folder.name}" in issue.reason
    assert str(folder) not in issue.reason
    assert set(issue.source.ravel().tolist()) <= {Source.COLDSTART, Source.CLIMATOLOGY, Source.NONE}
    assert (issue.source[issue.now[:, 0] >= 0, 0] == Source.COLDSTART).all()
    assert_whole(issue)
    again = store.add(fitted("persistence_delta", panel), "town")
    assert (job.run(NOW + QUARTER).version, job.run(NOW + QUARTER).state) == (again.name, State.FRESH)


def test_a_model_that_fails_is_stood_in_for_until_it_works_again(
    job: IssueJob, store: ModelStore, panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("climatology", "persistence_delta"):
        store.add(fitted(name, panel), "town")

    def failing(_self: PersistenceDelta, _seen: Panel) -> Forecast:
        raise RuntimeError("/home/somebody/secret")

    with monkeypatch.context() as patch:
        patch.setattr(PersistenceDelta, "_predict", failing)
        issue = job.run(NOW)
    assert (issue.state, issue.reason) == (State.DEGRADED, "the model persistence_delta failed (RuntimeError)")
    assert (issue.source[issue.now[:, 0] >= 0, 0] == Source.COLDSTART).all()
    assert_whole(issue)
    again = job.run(NOW + QUARTER)
    assert (again.state, again.reason, again.source[0, 0]) == (State.FRESH, None, Source.MODEL)


def test_a_damaged_stand_in_costs_only_what_it_would_have_said(job: IssueJob, store: ModelStore, panel: Panel) -> None:
    (store.add(fitted("climatology", panel), "town") / "state.safetensors").unlink()
    store.add(fitted("persistence_delta", panel), "town")
    issue = job.run(NOW)
    assert (issue.model, issue.state) == ("persistence_delta", State.FRESH)
    assert Source.CLIMATOLOGY not in issue.source


def test_a_model_of_another_system_is_not_asked(
    job: IssueJob, store: ModelStore, settings: Settings, panel: Panel
) -> None:
    store.add(fitted("persistence_delta", replace(panel, system_id="oslo")), "oslo")
    shutil.copytree(settings.models_dir / "baseline" / "oslo", settings.models_dir / "baseline" / "town")
    issue = job.run(NOW)
    assert (issue.model, issue.state) == ("coldstart", State.DEGRADED)
    assert issue.reason is not None
    assert "was fitted on the system 'oslo'" in issue.reason


def test_a_model_of_a_grid_that_issues_do_not_lie_on_is_not_asked(
    job: IssueJob, store: ModelStore, panel: Panel, stored: Database
) -> None:
    hourly = Panel.load(stored, "town", START, START + 7 * DAY, step=HOUR)
    store.add(fitted("persistence_delta", hourly, ForecastSpec(HOUR, (HOUR,))), "town")
    issue = job.run(NOW)
    assert issue.state is State.DEGRADED
    assert issue.reason is not None
    assert "forecasts every 1h, which does not divide forecast.issue_every (15m)" in issue.reason
    assert len(panel) > 0


def test_a_stand_in_of_other_horizons_is_left_out(job: IssueJob, store: ModelStore, panel: Panel) -> None:
    store.add(fitted("climatology", panel, ForecastSpec(horizons=(QUARTER,), targets=SPEC.targets)), "town")
    store.add(fitted("persistence_delta", panel), "town")
    issue = job.run(NOW)
    assert (issue.model, issue.spec, issue.state) == ("persistence_delta", SPEC, State.FRESH)
    assert set(issue.source.ravel().tolist()) <= {Source.MODEL, Source.PERSISTENCE, Source.NONE}


# -- the feed ------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(job: IssueJob, store: ModelStore, panel: Panel) -> IssueJob:
    for name in ("climatology", "persistence_delta"):
        store.add(fitted(name, panel), "town")
    return job


def test_a_dead_feed_makes_it_stale_and_the_ledger_says_why(trained: IssueJob, stored: Database) -> None:
    last = SILENT[0] + HOUR - 5 * MINUTE + timedelta(seconds=20)
    with stored.write() as connection:
        connection.execute(update(Poll).where(Poll.polled_at == last).values(detail="http://h/?key=SECRET: 503"))
    issue = trained.run(SILENT[0] + HOUR)
    assert (issue.state, issue.observed_at) == (State.STALE, SILENT[0] - 5 * MINUTE + timedelta(seconds=20))
    assert issue.reason == (
        "the feed was last heard and believed at 2024-11-12T19:55:20Z; the last poll since then: failed"
    )
    assert set(issue.source[:, 0].tolist()) == {Source.CLIMATOLOGY}
    assert (issue.now == -1).all()
    assert trained.run(SILENT[1] + QUARTER).state is State.FRESH


def test_a_feed_that_nobody_asks_is_stale_and_that_is_said(trained: IssueJob) -> None:
    issue = trained.run(START + 9 * DAY + HOUR)
    assert issue.state is State.STALE
    assert issue.reason is not None
    assert issue.reason.endswith("at 2024-11-12T23:55:20Z; it has not been asked since")


def test_within_the_tolerance_it_is_fresh_and_stale_comes_before_degraded(
    trained: IssueJob, settings: Settings, stored: Database, tmp_path: Path
) -> None:
    assert trained.run(SILENT[0]).state is State.FRESH
    assert trained.run(SILENT[0] + QUARTER).state is State.STALE  # 19 minutes and 40 seconds of 15
    bare = IssueJob(settings.model_copy(update={"models_dir": tmp_path / "none"}), stored, "town")
    assert bare.run(SILENT[0]).state is State.DEGRADED
    assert bare.run(SILENT[0] + QUARTER).state is State.STALE


def test_a_frozen_feed_is_stale_though_single_stations_move(trained: IssueJob, stored: Database) -> None:
    """What moved in a frozen feed is stored; it is no sign that the others' counts are of now."""
    end = START + 9 * DAY
    with stored.write() as connection:
        system = connection.execute(select(System.key).where(System.system_id == "town")).scalar_one()
        station = connection.execute(select(Station.key).where(Station.station_id == "5")).scalar_one()
        for place in range(12):
            at = end + place * 5 * MINUTE
            connection.execute(insert(Poll).values(system_key=system, polled_at=at, outcome="frozen"))
            connection.execute(insert(StationStatus).values(station_key=station, observed_at=at, bikes=place, docks=3))
    issue = trained.run(end + HOUR - MINUTE)
    assert (issue.state, issue.issued_at) == (State.STALE, end + 3 * QUARTER)
    assert issue.observed_at == end - 5 * MINUTE + timedelta(seconds=20)
    assert issue.reason == (
        "the feed was last heard and believed at 2024-11-12T23:55:20Z; the last poll since then: frozen"
    )


def test_before_any_history_and_of_an_unknown_system_there_is_no_issue(
    job: IssueJob, settings: Settings, stored: Database
) -> None:
    with pytest.raises(UsageError, match="has no rows of 'town'"):
        job.run(START - DAY)
    with pytest.raises(UsageError, match="no system 'oslo'"):
        IssueJob(settings, stored, "oslo").run(NOW)
    assert Issues(stored, "town").mark() is None


def test_made_at_is_never_before_the_origin(settings: Settings, stored: Database) -> None:
    """Asked for an instant to come, by `--now`, or by a clock that was set back."""
    early = JumpingClock(datetime(2020, 1, 1, tzinfo=UTC), NOW)
    issue = IssueJob(settings, stored, "town", early).run(NOW)  # type: ignore[arg-type]
    assert issue.made_at == ORIGIN


# -- the first ones ------------------------------------------------------------------------------------------


def test_the_first_poll_is_forecast_at_once(settings: Settings, stored: Database) -> None:
    """A database that is a minute old: on the grid nothing is known yet, from the poll's own second on everything."""
    poll = ORIGIN + 3 * MINUTE + timedelta(seconds=20, microseconds=300)
    with stored.write() as connection:
        key = connection.execute(select(System.key).where(System.system_id == "town")).scalar_one()
        connection.execute(delete(StationStatus))
        connection.execute(delete(Poll))
        connection.execute(insert(Poll).values(system_key=key, polled_at=poll, outcome="ok"))
        for station, bikes in ((1, 0), (2, 7), (3, 14)):
            counts = {"bikes": bikes, "mechanical": bikes, "docks": 14 - bikes}
            connection.execute(insert(StationStatus).values(station_key=station, observed_at=poll, **counts))
    job = IssueJob(settings, stored, "town", JumpingClock(poll, NOW))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has no rows of 'town'"):
        job.run(poll)
    assert job.catch_up(poll - timedelta(seconds=1)) is None
    issue = job.catch_up(poll + timedelta(seconds=2))
    assert issue is not None
    assert issue.issued_at == ORIGIN + 3 * MINUTE + timedelta(seconds=21)
    assert (issue.model, issue.state, issue.observed_at) == ("coldstart", State.DEGRADED, poll)
    assert len(issue.stations) == 3
    bikes, ebikes, docks = (issue.spec.target(name) for name in ("bikes", "ebikes", "docks"))
    assert (issue.source[:, [bikes, docks]] == Source.COLDSTART).all()
    assert (issue.source[:, ebikes] == Source.NONE).all()  # nobody tells them
    empty = issue.cdf[:, 0, bikes, 0] / ONE  # P(no bike) in a quarter of an hour
    assert empty[0] > 0.5 > 0.1 > empty[1] >= empty[2]
    assert_same(replace(issue, made_at=NOW), replace(kept(stored), made_at=NOW))
    assert job.catch_up(poll + MINUTE) is None, "one is enough"
    assert score(settings, stored, "town", NOW + DAY) == 0, "it lies on no grid, and is not scored"


def kept(database: Database) -> Issue:
    issue = Issues(database, "town").newest()
    assert issue is not None
    return issue


def test_a_feed_that_is_heard_again_is_forecast_at_once_from_all_that_is_known(trained: IssueJob) -> None:
    assert trained.catch_up(SILENT[0] + HOUR) is None, "nothing is heard"
    assert trained.run(SILENT[0] + HOUR).state is State.STALE
    heard = SILENT[1] + 20 * timedelta(seconds=1)
    issue = trained.catch_up(heard + timedelta(seconds=1))
    assert issue is not None
    assert (issue.model, issue.state, issue.issued_at) == ("persistence_delta", State.FRESH, heard)
    assert (issue.source[:, 0] == Source.MODEL).sum() >= 7
    assert trained.catch_up(heard + MINUTE) is None
    assert trained.run(heard + QUARTER).issued_at == SILENT[1] + QUARTER
