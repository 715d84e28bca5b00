"""The panel that serves, extended tick by tick, is bit for bit the one read anew, whatever happens meanwhile."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.test_data.polls import raw_poll, snapshot
from velib_predictor.config.config import CollectorSettings, SystemSettings
from velib_predictor.data.database import Database
from velib_predictor.data.importer import import_history
from velib_predictor.data.panel import Panel, same_layout
from velib_predictor.data.snapshot import StationInfo
from velib_predictor.data.store import Store
from velib_predictor.inference.live import LivePanel
from velib_predictor.utils.errors import UsageError

START = datetime(2024, 10, 26, 20, tzinfo=UTC)  # in the night after it clocks in Paris go back
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
QUARTER, LEAD = 15 * MINUTE, timedelta(seconds=15)
TOLERANCE = 20 * MINUTE
LOOKBACK = 16
SYSTEM = SystemSettings(url="http://127.0.0.1/gbfs.json", timezone="Europe/Paris")


class Feed:
    """Twelve stations, polled a moment before each quarter; tells the database what a collector would."""

    def __init__(self, database: Database) -> None:
        self.store = Store(database, "velib", SYSTEM, CollectorSettings())
        self._random = np.random.default_rng(5)
        self.bikes = {str(n): 5 + n for n in range(12)}
        self.capacity = {str(n): 20 for n in range(12)}

    def move(self) -> None:
        for name in self.bikes:
            self.bikes[name] = int(np.clip(self.bikes[name] + self._random.integers(-2, 3), 0, 20))

    def poll(self, at: datetime, *absent: str) -> None:
        """Ask now: what has moved since is seen."""
        known = tuple(StationInfo(name, None, f"Place {name}", 48.85, 2.35, docks) for name, docks in
                      self.capacity.items())  # fmt: skip
        there = {name: count for name, count in self.bikes.items() if name not in absent}
        self.store.record(raw_poll(at), snapshot(at, there, information=known))

    def fail(self, at: datetime) -> None:
        self.store.record(raw_poll(at, error="no connection"), None)


class Watched(LivePanel):
    """Remembers how many ticks it read each time."""

    def __init__(self, database: Database, lookback: int = LOOKBACK) -> None:
        super().__init__(database, "velib", step=QUARTER, tolerance=TOLERANCE, lookback=lookback)
        self.database = database
        self.reads: list[int] = []

    def _read(self, start: datetime, origin: datetime) -> Panel:
        self.reads.append((origin - start) // QUARTER + 1)
        return super()._read(start, origin)

    def check(self, origin: datetime) -> Panel:
        """At an origin it equals the panel of the same window that is read anew, but for hindsight."""
        panel = self.at(origin)
        start = origin - self.lookback * QUARTER
        end = origin + timedelta(microseconds=1)
        anew = Panel.load(self.database, "velib", start, end, step=QUARTER, tolerance=TOLERANCE)
        assert len(panel) == self.lookback + 1
        assert same_layout(replace(panel, trusted=anew.trusted), anew), origin
        for name in ("code", "name"):
            assert getattr(panel.stations, name) == getattr(anew.stations, name)
        np.testing.assert_array_equal(panel.stations.lat, anew.stations.lat)
        return panel


@pytest.fixture
def feed(database: Database) -> Feed:
    """With polls since an hour before `START`."""
    feed = Feed(database)
    for place in range(5):
        feed.poll(START - HOUR + place * QUARTER - LEAD)
        feed.move()
    return feed


def history(folder: Path, at: datetime) -> tuple[Path, Path]:
    """Files of two observations that the collector has missed."""
    rows = [
        {"system_id": "velib", "station_id": name, "observed_at": at + n * QUARTER, "bikes": 7 + n, "docks": 13 - n}
        for n in range(2)
        for name in ("0", "5")
    ]
    stations = [{"system_id": "velib", "station_id": name, "name": f"Place {name}", "lat": 48.85, "lon": 2.35}
                for name in ("0", "5")]  # fmt: skip
    files = folder / "stations.parquet", folder / "status.parquet"
    for file, content in zip(files, (stations, rows), strict=True):
        pq.write_table(pa.Table.from_pylist(content), file)
    return files


def test_a_night_tick_by_tick_is_the_night_read_anew(database: Database, feed: Feed, tmp_path: Path) -> None:
    """With a change of clocks, failures, a station away, a new one, docks built, a late poll, an import."""
    live = Watched(database)

    def usual(at: datetime) -> None:
        feed.move()
        feed.poll(at)

    def new_station(at: datetime) -> None:
        feed.bikes["new"], feed.capacity["new"] = 3, 12
        usual(at)

    def more_docks(at: datetime) -> None:
        feed.capacity["3"] = 31
        usual(at)

    def imported(at: datetime) -> None:
        stations, status = history(tmp_path, START + 11 * QUARTER)
        assert import_history(database, "velib", stations, [status]).rows_read == 4
        feed.store.reload()
        usual(at)

    def late_poll(at: datetime) -> None:
        usual(at)
        feed.bikes["4"] = 17
        feed.poll(START + 22 * QUARTER - LEAD)

    def nobody_asks(_at: datetime) -> None:
        pass

    special: dict[int, Callable[[datetime], None]] = {
        **dict.fromkeys((4, 5), lambda at: feed.poll(at, "2")),
        **dict.fromkeys((6, 22, 28, 29), nobody_asks),
        7: new_station,
        9: more_docks,
        **dict.fromkeys(range(10, 15), feed.fail),
        18: imported,
        24: late_poll,
    }
    for place in range(1, 33):
        tick = START + place * QUARTER
        special.get(place, usual)(tick - LEAD)
        # What is kept of a tick is compared as long as it lies in the window.
        panel = live.check(tick) if place in (7, 18, 24, 32) else live.at(tick)
        match place:
            case 6:
                assert not panel.observed[-3:, panel.stations.index("2")].any()
            case 13:
                assert not panel.observed[-3:].any()
            case 18:
                assert panel.counts[panel.before(START + 11 * QUARTER), panel.stations.index("5"), 0] == 7
            case 20:
                assert set(panel.capacity[:, panel.stations.index("3")].tolist()) == {20, 31}
            case 24:
                assert panel.counts[panel.before(START + 22 * QUARTER), panel.stations.index("4"), 0] == 17
    assert panel.ticks[0].item().replace(tzinfo=UTC) == tick - LOOKBACK * QUARTER
    assert tick > datetime(2024, 10, 27, 1, tzinfo=UTC)  # when the clocks went back
    # A whole window is read only at the start and where the past has changed, or who the stations are.
    assert len([read for read in live.reads if read == LOOKBACK + 1]) == 1 + len((new_station, imported, late_poll))
    assert set(live.reads) == {1, LOOKBACK + 1}


def test_several_ticks_at_once_and_none_and_the_past_again(database: Database, feed: Feed) -> None:
    live = Watched(database)
    for place in range(1, 26):
        feed.move()
        feed.poll(START + place * QUARTER - LEAD)
    for place in (1, 2, 7, 7, 3, 4, 4 + LOOKBACK + 1, 25):
        live.check(START + place * QUARTER)
    whole = LOOKBACK + 1
    assert live.reads == [whole, 1, 5, whole, whole, 1, whole, 4]


def test_a_late_poll_from_before_the_window_counts_too(database: Database) -> None:
    """The feed is asked every half hour; what the late poll saw holds at the window's first tick."""
    feed = Feed(database)
    for minutes in (0, 30, 60, 75):
        feed.poll(START + minutes * MINUTE)
    live = Watched(database, lookback=3)
    before = live.check(START + 60 * MINUTE)
    feed.bikes["4"] = 18
    feed.poll(START + 10 * MINUTE)
    after = live.check(START + 60 * MINUTE)
    assert (before.counts[0, 4, 0], after.counts[0, 4, 0]) == (9, 18)
    feed.bikes["4"] = 16
    feed.poll(START + 11 * MINUTE)
    assert live.check(START + 75 * MINUTE).counts[0, 4, 0] != 18
    assert live.reads == [4, 4, 4]


@pytest.mark.parametrize("first", [True, False])
def test_a_poll_that_is_stored_while_the_panel_is_read_is_there_the_next_time(
    database: Database, feed: Feed, first: bool
) -> None:
    class Raced(Watched):
        """A poll of before the origin is stored just after the panel was read."""

        race = first

        def _read(self, start: datetime, origin: datetime) -> Panel:
            panel = super()._read(start, origin)
            if self.race:
                self.race = False
                feed.bikes["4"] = 19
                feed.poll(origin - timedelta(seconds=1))
            return panel

    live = Raced(database)
    live.at(START)
    live.race = not first
    feed.poll(START + QUARTER - LEAD)
    live.at(START + QUARTER)
    feed.bikes["4"] = 1
    feed.poll(START + 2 * QUARTER - LEAD)
    panel = live.check(START + 2 * QUARTER)
    assert panel.counts[-2 - first, panel.stations.index("4"), 0] == 19


def test_an_unknown_system_is_refused_and_may_come_later(database: Database) -> None:
    live = Watched(database, lookback=4)
    with pytest.raises(UsageError, match="no system 'velib'"):
        live.at(START)
    Feed(database).poll(START - LEAD)
    assert live.check(START).observed[-1].any()


def test_a_panel_may_end_at_any_second(database: Database, feed: Feed) -> None:
    """On the grid it is the one that is kept; between, it ends with what was known then, and is not kept."""
    live = Watched(database)
    for quarter in range(1, 6):
        feed.move()
        feed.poll(START + quarter * QUARTER - LEAD)
    at = START + 5 * QUARTER
    assert same_layout(live.anchored(at), live.at(at))
    reads = list(live.reads)
    feed.move()
    feed.poll(at + 3 * MINUTE)
    between = live.anchored(at + 4 * MINUTE)
    assert between.ticks[-1].item().replace(tzinfo=UTC) == at + 4 * MINUTE
    assert (np.diff(between.ticks) == np.timedelta64(15, "m")).all()
    assert between.counts[-1, :, 0].tolist() == [feed.bikes[name] for name in between.stations.id]
    assert live.reads == reads
    live.check(at + QUARTER)
