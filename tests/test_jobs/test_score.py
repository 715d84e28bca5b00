"""Live scores against plain loops over the stored issues, and against the backtest of the same forecasts."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, select, update

from tests.test_inference.test_predictor import SILENT, START
from tests.test_jobs.conftest import DAY, FITTED_UNTIL, HOUR, QUARTER, SPEC, fitted
from velib_predictor.config.config import Settings
from velib_predictor.data import schema
from velib_predictor.data.database import Database
from velib_predictor.data.panel import Panel
from velib_predictor.data.stations import ensure_system
from velib_predictor.evaluation.evaluator import Protocol, backtest
from velib_predictor.evaluation.report import report
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.inference.issue import ONE, Issue, Source
from velib_predictor.inference.issues import Issues
from velib_predictor.inference.store import ModelStore
from velib_predictor.jobs.issue import IssueJob
from velib_predictor.jobs.score import score, summary
from velib_predictor.models.baseline.persistence import PersistenceDelta
from velib_predictor.utils.temporal import format_duration

FIRST = START + 8 * DAY + 2 * HOUR
"""Station 1 is closed until 8:00; at 4:00 something is taken back at once at station 6; 2 is away until 10:00."""
LATER = FIRST + DAY
Row = dict[str, Any]


def issues_at(job: IssueJob, times: list[datetime]) -> list[Issue]:
    return [job.run(time) for time in times]


@pytest.fixture
def job(settings: Settings, stored: Database, panel: Panel) -> IssueJob:
    store = ModelStore(settings.models_dir)
    for name in ("climatology", "persistence_delta"):
        store.add(fitted(name, panel), "town")
    return IssueJob(settings, stored, "town")


def stored_scores(database: Database) -> dict[tuple[datetime, str, int], Row]:
    table = schema.Score.__table__
    with database.read() as connection:
        rows = [dict(row) for row in connection.execute(select(table)).mappings()]
    return {(row["issued_at"], row["target"], row["horizon_s"]): row for row in rows}


def smallest(cdf: list[float], q: float) -> int:
    return next(count for count, chance in enumerate(cdf) if chance >= q - 1e-6)


def slow_score(issue: Issue, panel: Panel, target: int, horizon: int) -> Row:
    """One station after the other, from the stored 8 bits and what was there then."""
    channel = issue.spec.channels[target]
    then = panel.before(issue.issued_at + issue.spec.horizons[horizon])
    sums: Row = dict.fromkeys(("rows", "fallback", "rps", "rps_persistence", "brier", "error", "covered_80"), 0)
    for station, name in enumerate(issue.stations.id):
        place = panel.stations.id.index(name)
        now = int(issue.now[station, channel])
        source = issue.source[station, target]
        if not issue.open[station] or now < 0 or source == Source.NONE:
            continue
        if not panel.observed[then, place, channel] or not panel.trusted[then, place]:
            continue
        k = int(issue.k[station])
        came = min(int(panel.counts[then, place, channel]), k)
        cdf = [int(step) / ONE for step in issue.cdf[station, horizon, target]]
        sums["rows"] += 1
        sums["fallback"] += source != Source.MODEL
        sums["rps"] += sum((chance - (came <= count)) ** 2 for count, chance in enumerate(cdf))
        sums["rps_persistence"] += abs(came - min(now, k))
        sums["brier"] += (1 - cdf[0] - (came >= 1)) ** 2
        sums["error"] += abs(smallest(cdf, 0.5) - came)
        sums["covered_80"] += smallest(cdf, 0.1) <= came <= smallest(cdf, 0.9)
    return sums


def test_scores_are_those_of_plain_loops(job: IssueJob, settings: Settings, stored: Database, panel: Panel) -> None:
    made = issues_at(job, [FIRST + place * QUARTER for place in range(0, 40, 3)])
    seen = panel.between(panel.before(FIRST), len(panel))
    assert not np.array([issue.open for issue in made]).all()
    assert not seen.trusted.all()
    assert score(settings, stored, "town", LATER) == len(made) * 9
    found = stored_scores(stored)
    assert len(found) == len(made) * 9
    skipped = set()
    for issue in made:
        for target, name in enumerate(SPEC.targets):
            for horizon, ahead in enumerate(SPEC.horizons):
                row = found[issue.issued_at, name, int(ahead.total_seconds())]
                expected = slow_score(issue, panel, target, horizon)
                assert row["model"] == "persistence_delta"
                for key, value in expected.items():
                    assert row[key] == pytest.approx(value, rel=1e-5, abs=1e-5), (issue.issued_at, name, ahead, key)
                skipped.add(9 - row["rows"])
    assert len(skipped) > 2  # stations that were closed, away or not believed count at some times and not at others


def test_a_station_closed_at_the_origin_or_whose_truth_is_not_believed_does_not_count(
    job: IssueJob, settings: Settings, stored: Database, panel: Panel
) -> None:
    spike = START + 8 * DAY + 4 * HOUR + QUARTER
    assert np.argwhere(~panel.trusted).tolist() == [[panel.before(spike), panel.stations.index("6")]]
    score_of = {}
    for at in (spike - HOUR, spike - QUARTER):
        issue = job.run(at)
        score(settings, stored, "town", LATER)
        there = {name for place, name in enumerate(issue.stations.id) if issue.open[place] and issue.now[place, 0] >= 0}
        assert "1" not in there  # closed, though its bikes are known
        assert issue.now[issue.stations.index("1"), 0] >= 0
        assert "6" in there
        score_of[at] = {ahead: stored_scores(stored)[at, "bikes", ahead]["rows"] - len(there) for ahead in (900, 3600)}
    assert score_of == {spike - HOUR: {900: 0, 3600: -1}, spike - QUARTER: {900: -1, 3600: 0}}


def test_it_can_be_repeated_and_says_how_many_are_new(job: IssueJob, settings: Settings, stored: Database) -> None:
    issues_at(job, [FIRST, FIRST + QUARTER])
    assert score(settings, stored, "town", LATER) == 18
    before = stored_scores(stored)
    assert score(settings, stored, "town", LATER) == 0
    job.run(FIRST + 2 * QUARTER)
    assert score(settings, stored, "town", LATER + HOUR) == 9
    after = stored_scores(stored)
    assert {key: after[key] for key in before} == before


def test_what_is_not_ripe_waits_and_the_rest_follows(job: IssueJob, settings: Settings, stored: Database) -> None:
    """A truth is waited for an hour: horizons of 15 minutes, one hour and two hours come one after the other."""
    job.run(FIRST)
    moment = timedelta(microseconds=1)
    for ahead, new in ((QUARTER, 3), (HOUR, 3), (2 * HOUR, 3)):
        assert score(settings, stored, "town", FIRST + ahead + HOUR - moment) == 0
        assert score(settings, stored, "town", FIRST + ahead + HOUR) == new
    horizons = sorted(key[2] for key in stored_scores(stored))
    assert horizons == [900] * 3 + [3600] * 3 + [7200] * 3


def test_an_issue_that_was_pruned_or_replaced_meanwhile_harms_nothing(
    job: IssueJob, settings: Settings, stored: Database
) -> None:
    issues_at(job, [FIRST, FIRST + QUARTER])
    assert score(settings, stored, "town", FIRST + QUARTER + HOUR) == 3
    with stored.write() as connection:
        connection.execute(delete(schema.Issue).where(schema.Issue.issued_at == FIRST))
    job.run(FIRST + QUARTER)
    assert score(settings, stored, "town", LATER) == 9
    assert len(stored_scores(stored)) == 12


def test_where_the_feed_was_silent_no_row_counts(job: IssueJob, settings: Settings, stored: Database) -> None:
    at = SILENT[0] - QUARTER
    job.run(at)
    assert score(settings, stored, "town", at + DAY) == 9
    rows = {key[1:]: row["rows"] for key, row in stored_scores(stored).items()}
    assert rows["bikes", 900] > 0
    assert rows["bikes", 3600] == rows["docks", 3600] == 0
    assert {row["horizon_s"] for row in summary(stored, "town")} == {900}
    assert score(settings, stored, "town", at + DAY) == 0


def test_a_damaged_issue_keeps_no_other_from_being_scored(job: IssueJob, settings: Settings, stored: Database) -> None:
    times = [FIRST + place * QUARTER for place in range(3)]
    issues_at(job, times)
    with stored.write() as connection:
        for time in times[::2]:
            connection.execute(update(schema.Issue).where(schema.Issue.issued_at == time).values(body=b"junk"))
    assert score(settings, stored, "town", LATER) == 9
    assert {key[0] for key in stored_scores(stored)} == {times[1]}


def test_issues_are_read_only_when_a_horizons_time_has_come(
    job: IssueJob, settings: Settings, stored: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each quarter of an hour there are a few of a day."""
    times = [FIRST + place * QUARTER for place in range(5)]
    issues_at(job, times)
    score(settings, stored, "town", FIRST + 2 * HOUR)
    read: list[datetime] = []
    original = Issues.at

    def at(self: Issues, issued_at: datetime) -> Issue | None:
        read.append(issued_at)
        return original(self, issued_at)

    monkeypatch.setattr(Issues, "at", at)
    assert score(settings, stored, "town", FIRST + 2 * HOUR + QUARTER) == 6
    assert read == [times[-1], times[1], times[4]]


def test_without_issues_and_without_history_there_is_nothing(settings: Settings, stored: Database) -> None:
    assert score(settings, stored, "town", LATER) == 0
    with stored.write() as connection:
        ensure_system(connection, "oslo", timezone="Europe/Oslo")
    assert score(settings, stored, "oslo", LATER) == 0
    assert summary(stored, "oslo") == []


def test_the_fallbacks_share_is_told(settings: Settings, stored: Database, panel: Panel) -> None:
    ModelStore(settings.models_dir).add(fitted("climatology", panel), "town")  # asked where nothing is observed alone
    job = IssueJob(settings, stored, "town")
    job.run(FIRST)
    score(settings, stored, "town", LATER)
    rows = summary(stored, "town")
    assert {row["model"] for row in rows} == {"coldstart"}
    assert {row["share_fallback"] for row in rows} == {1.0}


def test_the_summary_is_of_the_issues_since_and_by_model(job: IssueJob, settings: Settings, stored: Database) -> None:
    issues_at(job, [FIRST, FIRST + QUARTER, FIRST + 2 * QUARTER])
    score(settings, stored, "town", LATER)
    whole = summary(stored, "town")
    late = summary(stored, "town", since=FIRST + QUARTER)
    assert [row["issues"] for row in whole] == [3] * 9
    assert [row["issues"] for row in late] == [2] * 9
    found = stored_scores(stored)
    for row in whole:
        parts = [found[FIRST + n * QUARTER, row["target"], row["horizon_s"]] for n in range(3)]
        rows = sum(part["rows"] for part in parts)
        assert row["rows"] == rows
        assert row["rps"] == pytest.approx(sum(part["rps"] for part in parts) / rows, abs=1e-4)
        base = sum(part["rps_persistence"] for part in parts)
        expected = 1 - sum(part["rps"] for part in parts) / base if base else None
        assert row["skill_rps"] == (None if expected is None else pytest.approx(expected, abs=1e-4))


def test_live_scores_are_the_backtests_within_the_eight_bits(
    settings: Settings, stored: Database, panel: Panel
) -> None:
    """The same forecasts of the same hours, on the same rows."""
    last = FIRST + 10 * HOUR
    model = PersistenceDelta(SPEC)
    tested = report(backtest(panel, [model], Protocol(SPEC, START, FITTED_UNTIL, FIRST, last, QUARTER)))
    ModelStore(settings.models_dir).add(model, "town")
    job = IssueJob(settings, stored, "town")
    issues_at(job, [FIRST + place * QUARTER for place in range(40)])
    score(settings, stored, "town", LATER)
    live = {(row["target"], row["horizon_s"]): row for row in summary(stored, "town")}
    rows = tested["models"]["persistence_delta"]["scores"]
    base = tested["models"]["persistence"]["scores"]
    assert len(rows) == len(live) == 9
    horizons = {format_duration(ahead): int(ahead.total_seconds()) for ahead in SPEC.horizons}
    for row, same in zip(rows, base, strict=True):
        found = live[row["target"], horizons[row["horizon"]]]
        assert found["rows"] == row["rows"] > 200
        assert found["rps_persistence"] == pytest.approx(same["rps"], abs=1e-4)
        assert found["rps"] == pytest.approx(row["rps"], abs=0.5 / ONE)
        assert found["brier"] == pytest.approx(row["brier"], abs=1 / ONE)
        assert found["mae_median"] == pytest.approx(row["mae_median"], abs=0.01)
        assert found["coverage_80"] == pytest.approx(row["coverage_80"], abs=0.02)


def test_issues_of_other_horizons_are_scored_by_their_own(settings: Settings, stored: Database, panel: Panel) -> None:
    """The day on which the horizons were changed: the older issue ends at two hours, the newer at three."""
    longer = ForecastSpec(horizons=(QUARTER, 3 * HOUR), targets=SPEC.targets)
    store, job = ModelStore(settings.models_dir), IssueJob(settings, stored, "town")
    for place, spec in enumerate((SPEC, longer)):
        store.add(fitted("persistence_delta", panel, spec), "town")
        job.run(FIRST + place * QUARTER)
    assert score(settings, stored, "town", LATER) == 3 * 3 + 2 * 3
    horizons = {(key[0] - FIRST, key[2]) for key in stored_scores(stored)}
    assert horizons == {(timedelta(0), s) for s in (900, 3600, 7200)} | {(QUARTER, s) for s in (900, 10800)}
    assert score(settings, stored, "town", LATER) == 0
