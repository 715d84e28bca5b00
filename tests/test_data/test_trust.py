"""Frozen spells and spikes in retrospect: on a synthetic city whose truth is known, and on real histories."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from velib_predictor.data import bulk
from velib_predictor.data.trust import changed_rows, frozen_polls, spikes
from velib_predictor.utils.temporal import to_micros

PARIS = ZoneInfo("Europe/Paris")
MONDAY = datetime(2026, 3, 2, tzinfo=PARIS)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
Rate = Callable[[datetime], float]  # changes a station and minute, by local time


def daily(at: datetime) -> float:
    """Vélib' : 6 % of the stations change a minute by day, 0.3 % at four in the morning."""
    return 0.003 + 0.0285 * (1 - float(np.cos(2 * np.pi * (at.hour + at.minute / 60 - 4) / 24)))


def calm(at: datetime) -> float:
    """Bay Wheels: a sixth of that."""
    return daily(at) / 6


class History:
    """Observations of a network of independent stations; in the spells only what is said to move does."""

    def __init__(
        self,
        rate: Rate = daily,
        *,
        every: timedelta = 15 * MINUTE,
        days: float = 7,
        stations: int = 1500,
        spells: list[tuple[datetime, datetime]] | None = None,
        still_moving: int = 0,
        seen: Callable[[datetime], bool] = lambda _: True,
        seed: int = 1,
    ) -> None:
        draw = np.random.default_rng(seed)
        start = MONDAY.astimezone(UTC)
        times = [start + n * every for n in range(round(days * DAY / every))]
        self.times = [at for at in times if seen(at.astimezone(PARIS))]
        self.stations = stations
        self.frozen = np.zeros(len(self.times), dtype=bool)
        moved = []
        for n, at in enumerate(self.times):
            since = self.times[n - 1] if n else at - every
            middle = (since + (at - since) / 2).astimezone(PARIS)
            share = 1 - np.exp(-rate(middle) * ((at - since) / MINUTE))
            moved.append(int(draw.binomial(stations, share)))
            self.frozen[n] = any(first < at <= last for first, last in spells or [])
            if self.frozen[n]:
                moved[-1] = int(draw.integers(0, still_moving + 1))
            elif n and self.frozen[n - 1]:
                moved[-1] = stations // 2  # all that was withheld comes at once
        self.moved = np.array(moved, dtype=np.int64)

    def found(self, called: np.ndarray | None = None) -> np.ndarray:
        times = np.array([to_micros(at) for at in self.times], dtype=np.int64)
        return frozen_polls(times, self.moved, self.stations, "Europe/Paris", called)


def at(day: int, hour: float) -> datetime:
    return (MONDAY + day * DAY).replace(tzinfo=None).replace(tzinfo=PARIS) + hour * HOUR


@pytest.mark.parametrize("still_moving", [0, 2, 3])
@pytest.mark.parametrize("every", [MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR])
def test_exactly_the_frozen_observations_are_found(every: timedelta, still_moving: int) -> None:
    spells = [(at(1, 9), at(1, 12)), (at(2, 14), at(2, 23)), (at(4, 6), at(5, 21)), (at(6, 13), at(6, 15))]
    history = History(every=every, spells=spells, still_moving=still_moving)
    found = history.found()
    # At a poll a minute, one in the margin of a spell may by chance have moved as little as in it.
    wrong = np.flatnonzero(found != history.frozen)
    assert len(wrong) <= (2 if every == MINUTE else 0), [history.times[n] for n in wrong]


@pytest.mark.parametrize("every", [MINUTE, 5 * MINUTE])
def test_a_short_spell_by_day_is_found(every: timedelta) -> None:
    history = History(every=every, spells=[(at(2, 11), at(2, 11) + 10 * MINUTE)])
    assert (history.found() == history.frozen).all()


def test_a_snapshot_repeated_for_five_minutes_is_no_spell() -> None:
    repeated = [(at(day, hour), at(day, hour) + 5 * MINUTE) for day in range(7) for hour in (8, 12, 12.5, 19)]
    history = History(every=5 * MINUTE, spells=repeated)
    assert history.frozen.sum() == 28
    assert not history.found().any()


NETWORKS: dict[str, Rate] = {
    "quiet nights": lambda at: 0.0002 if at.hour < 6 else daily(at),
    "closes at night": lambda at: 0.0 if 1 <= at.hour < 5 else daily(at),
    "closes at half past": lambda at: 0.0 if at.hour < 5 or (at.hour, at.minute) >= (23, 30) else daily(at),
    "closes at night but not on weekends": lambda at: 0.0 if 1 <= at.hour < 5 and at.weekday() < 5 else daily(at),
    "a quarter on Sundays": lambda at: daily(at) * (0.25 if at.weekday() == 6 else 1),
    "a tenth on Sundays": lambda at: daily(at) * (0.1 if at.weekday() == 6 else 1),
    "a holiday at a quarter": lambda at: daily(at) * (0.25 if at.day == 5 else 1),
    "commuters alone": lambda at: daily(at) * (1 if at.weekday() < 5 and at.hour in (7, 8, 9, 17, 18, 19) else 0.2),
    "a stormy evening": lambda at: daily(at) * (0.1 if at.day == 4 and at.hour >= 17 else 1),
}


@pytest.mark.parametrize("every", [MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_living_network_is_not_accused(network: str, every: timedelta) -> None:
    for stations in (60, 500, 1500):
        history = History(NETWORKS[network], every=every, days=14, stations=stations)
        found = history.found()
        assert not found.any(), [(stations, history.times[n].astimezone(PARIS)) for n in np.flatnonzero(found)][:5]


def test_a_calm_network_freezes_too() -> None:
    history = History(
        calm, every=10 * MINUTE, days=28, stations=500, spells=[(at(9, 10), at(9, 13)), (at(20, 8), at(21, 8))]
    )
    found = history.found()
    assert not (found & ~history.frozen).any()
    assert found[history.frozen].mean() > 0.95  # its last night hour may hide


def test_a_feed_that_stood_still_on_half_of_the_days_is_seen() -> None:
    spells = [(at(day, 9) - 5 * MINUTE, at(day, 19) - 5 * MINUTE) for day in (0, 2, 3, 4)]  # whole hours
    history = History(every=5 * MINUTE, spells=spells)
    assert (history.found() == history.frozen).all()


def test_after_a_gap_what_is_repeated_is_old_already() -> None:
    """Days are seen from 9 to 20 only: a morning that begins frozen began to be so at night."""
    spells = [(at(1, 6), at(1, 12)), (at(3, 15), at(3, 17))]
    history = History(every=5 * MINUTE, spells=spells, seen=lambda local: 9 <= local.hour < 20)
    first = next(n for n, time in enumerate(history.times) if history.frozen[n])
    history.moved[first] = 1_400  # since yesterday evening
    assert (history.found() == history.frozen).all()
    assert history.times[first].astimezone(PARIS).hour == 9


def test_a_history_that_begins_frozen() -> None:
    history = History(every=5 * MINUTE, spells=[(at(0, 0) - HOUR, at(0, 12))], seen=lambda local: local.hour >= 9)
    assert (history.found() == history.frozen).all()
    assert history.frozen[0]


def test_the_collectors_word_counts_from_the_beginning_of_the_silence() -> None:
    history = History(every=5 * MINUTE, spells=[(at(2, 11), at(2, 13))])
    frozen = np.flatnonzero(history.frozen)
    called = np.zeros(len(history.times), dtype=bool)
    called[frozen[3:]] = True
    assert (history.found(called) == history.frozen).all()
    alone = History(every=5 * MINUTE, days=0.02, stations=20)  # too little to judge by
    alone.moved[:] = [9, 8, 0, 0, 0, 9]
    doubt = np.array([False, False, False, False, True, False])
    assert alone.found(doubt).tolist() == [False, False, True, True, True, False]
    assert not alone.found().any()


def test_a_poll_that_was_called_frozen_is_so_however_much_moved() -> None:
    history = History(every=5 * MINUTE, days=1)
    called = np.zeros(len(history.times), dtype=bool)
    called[100] = True
    assert history.found(called).nonzero()[0].tolist() == [100]


@pytest.mark.parametrize(("times", "stations"), [([], 5), ([0], 5), ([0, 900_000_000], 0)])
def test_next_to_nothing_is_no_spell(times: list[int], stations: int) -> None:
    moved = np.zeros(len(times), dtype=np.int64)
    assert not frozen_polls(np.array(times, dtype=np.int64), moved, stations, "Europe/Paris").any()


# -- rows --------------------------------------------------------------------------------------------------------


def random_rows(seed: int) -> list[dict[str, int | None]]:
    draw = random.Random(seed)
    rows: list[dict[str, int | None]] = []
    for key in range(1, 5):
        minute = 0
        for _ in range(draw.randint(0, 12)):
            minute += draw.choice([1, 5, 8, 20])
            bikes = draw.choice([None, 0, 4, 5, 9, 10])
            docks = draw.choice([20, 20, 20, None])
            rows.append(
                {"key": key, "minute": minute, "bikes": bikes, "mechanical": bikes, "ebikes": 0, "docks": docks}
            )
    return rows


def table(rows: list[dict[str, int | None]]) -> pa.Table:
    columns: dict[str, list[object]] = {name: [row.get(name) for row in rows] for name in bulk.ROWS.names}
    columns["station_key"] = [row["key"] for row in rows]
    columns["observed_at"] = [MONDAY.astimezone(UTC) + (row["minute"] or 0) * MINUTE for row in rows]
    return pa.table(columns, schema=bulk.ROWS)


def state(row: dict[str, int | None]) -> tuple[int | None, ...]:
    return tuple(row[name] for name in ("key", "bikes", "mechanical", "ebikes", "docks"))


def test_changes_and_spikes_are_what_slow_loops_find() -> None:
    spiked = 0
    for seed in range(400):
        rows = random_rows(seed)
        changed, taken_back = [], []
        for n, row in enumerate(rows):
            before = rows[n - 1] if n and rows[n - 1]["key"] == row["key"] else None
            after = rows[n + 1] if n + 1 < len(rows) and rows[n + 1]["key"] == row["key"] else None
            changed.append(before is not None and state(before) != state(row))
            spike = False
            if before is not None and after is not None and state(before) == state(after):
                bikes, usual = row["bikes"], before["bikes"]
                if bikes is not None and usual is not None and abs(bikes - usual) >= 5:
                    spike = (after["minute"] or 0) - (before["minute"] or 0) <= 15
            taken_back.append(spike)
        assert changed_rows(table(rows)).tolist() == changed
        assert spikes(table(rows)).tolist() == taken_back
        spiked += sum(taken_back)
    assert spiked > 20


# -- real histories ------------------------------------------------------------------------------------------------


def real(folder: Path, timezone: str) -> tuple[list[datetime], np.ndarray]:
    """The snapshots of a history and which of them are found frozen."""
    source = pq.read_table(folder / "status.parquet").sort_by(
        [("station_id", "ascending"), ("observed_at", "ascending")]
    )
    key = pc.rank(source["station_id"], tiebreaker="dense").cast(pa.int32())
    rows = source.append_column("station_key", key)
    time = pc.cast(rows["observed_at"], pa.int64()).to_numpy()
    heard, poll = np.unique(time, return_inverse=True)
    moved = np.bincount(poll[changed_rows(rows)], minlength=len(heard))
    found = frozen_polls(heard, moved, int(pc.max(key).as_py()), timezone)
    zone = ZoneInfo(timezone)
    return [datetime.fromtimestamp(micros / 1e6, UTC).astimezone(zone) for micros in heard.tolist()], found


def test_the_spells_of_velib_2024_11_are_found(shared_data: Path) -> None:
    """As its README tells them, of 1 to 6 November. It tells of a short one on the 6th too, but there no state was seen
    more than twice in a row, five minutes apart, which happened on all days.
    """
    times, found = real(shared_data / "velib_2024_11", "Europe/Paris")
    told = [("01 00:00", "01 23:59"), ("02 11:35", "02 12:45"), ("02 14:16", "02 18:30"), ("03 11:50", "03 13:00")]
    told += [("03 17:36", "03 19:35"), ("04 09:05", "04 09:30"), ("04 10:06", "04 10:20")]
    expected = [any(first <= f"{at:%d %H:%M}" <= last for first, last in told) and at.month == 11 for at in times]
    wrong = [f"{at:%d %H:%M}" for at, one, other in zip(times, expected, found, strict=True) if one != other]
    assert wrong == ["04 09:20"]  # in between, 358 stations moved
    assert found.sum() == 110


def test_the_whole_of_velib_2022_05_is_trusted(shared_data: Path) -> None:
    assert not real(shared_data / "velib_2022_05", "Europe/Paris")[1].any()


@pytest.mark.slow
def test_four_calm_months_of_baywheels_are_trusted(shared_data: Path) -> None:
    times, found = real(shared_data / "baywheels_2023", "America/Los_Angeles")
    assert found.sum() < len(times) / 1000, [at for at, one in zip(times, found, strict=True) if one]
