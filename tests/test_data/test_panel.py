"""The panel against slow, obvious loops over rows and ledger, on both engines."""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, insert, select

from velib_predictor.data.database import Database, DatabaseError
from velib_predictor.data.panel import BIKES, CHANNELS, DOCKS, MISSING, Panel, same_layout
from velib_predictor.data.schema import Poll, Station, StationStatus, StationVersion, System
from velib_predictor.utils.errors import UsageError

T0 = datetime(2024, 11, 5, 8, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
FLAGS = ("is_installed", "is_renting", "is_returning")
ACCEPTED = ("ok", "not_modified")


@dataclass
class City:
    """What is put into a database, as plain Python. Times are UTC."""

    system_id: str = "velib"
    timezone: str | None = "Europe/Paris"
    stations: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)  # with "station" and "at"
    polls: list[tuple[datetime, str]] = field(default_factory=list)
    capacities: list[tuple[str, datetime, int | None]] = field(default_factory=list)

    def store(self, database: Database) -> None:
        with database.write() as connection:
            values = {"system_id": self.system_id, "timezone": self.timezone}
            system = connection.execute(insert(System).values(values)).inserted_primary_key
            assert system is not None
            named = [{"system_key": system[0], "station_id": name, "code": f"code {name}"} for name in self.stations]
            if named:
                connection.execute(insert(Station), named)
            query = select(Station.station_id, Station.key).where(Station.system_key == system[0])
            keys = {row.station_id: row.key for row in connection.execute(query)}
            rows = [
                {"station_key": keys[row["station"]], "observed_at": row["at"]}
                | {name: row.get(name) for name in (*CHANNELS, *FLAGS)}
                for row in sorted(self.rows, key=lambda row: (row["at"], row["station"]))  # as a collector writes
            ]
            if rows:
                connection.execute(insert(StationStatus), rows)
            for at, outcome in self.polls:
                connection.execute(insert(Poll).values(system_key=system[0], polled_at=at, outcome=outcome))
            for name, since, docks in self.capacities:
                version = {"name": f"{name} from {since}", "lat": 48.0, "lon": 2.0, "capacity": docks}
                connection.execute(insert(StationVersion).values(station_key=keys[name], valid_from=since, **version))

    def last_row(self, station: str, tick: datetime) -> dict[str, Any] | None:
        before = [row for row in self.rows if row["station"] == station and row["at"] <= tick]
        return max(before, key=lambda row: row["at"]) if before else None

    def cell(self, station: str, tick: datetime, tolerance: timedelta) -> tuple[list[int | None], bool]:
        """Four counts and whether the station is open: the contract, word by word."""
        row = self.last_row(station, tick)
        if row is None:
            return [None] * 4, False
        confirmed = [row["at"]] + [at for at, outcome in self.polls if outcome in ACCEPTED and row["at"] <= at <= tick]
        counts = [row.get(name) for name in CHANNELS]
        if tick - max(confirmed) > tolerance or all(count is None for count in counts):
            return [None] * 4, False
        return counts, not any(row.get(flag) is False for flag in FLAGS)

    def capacity(self, station: str, tick: datetime) -> int:
        said = sorted((since, docks) for name, since, docks in self.capacities if name == station)
        known = [docks for since, docks in said if since <= tick] or [docks for _, docks in said[:1]]
        return (known[-1] or 0) if known else 0


def check(panel: Panel, city: City) -> None:
    """Every cell of a panel is what the loops say."""
    assert panel.counts.dtype == np.int16
    assert panel.capacity.dtype == np.int16
    assert panel.observed.dtype == panel.open.dtype == panel.trusted.dtype == np.bool_
    assert panel.counts.shape == panel.observed.shape == (len(panel), len(panel.stations), len(CHANNELS))
    assert panel.open.shape == panel.trusted.shape == panel.capacity.shape == (len(panel), len(panel.stations))
    for place, tick in enumerate(panel.ticks.tolist()):
        for column, name in enumerate(panel.stations.id):
            at = tick.replace(tzinfo=UTC)
            counts, is_open = city.cell(name, at, panel.tolerance)
            where = (name, at)
            assert panel.observed[place, column].tolist() == [count is not None for count in counts], where
            expected = [MISSING if count is None else count for count in counts]
            assert panel.counts[place, column].tolist() == expected, where
            assert panel.open[place, column] == is_open, where
            assert panel.capacity[place, column] == city.capacity(name, at), where


def random_city(seed: int, *, ledger: bool, system_id: str = "velib", start: datetime = T0, minutes: int = 240) -> City:
    """Stations that come, go, close and grow, and polls of all kinds."""
    draw = random.Random(seed)
    city = City(system_id, stations=[f"{system_id} {n}" for n in range(draw.randint(1, 6))])
    for name in city.stations:
        for minute in sorted(draw.sample(range(minutes), draw.randint(1, 25))):
            row: dict[str, Any] = {
                "station": name,
                "at": start + minute * MINUTE + draw.choice([0, 0, 17]) * MINUTE / 60,
            }
            if draw.random() < 0.85:  # else it vanished
                row |= {channel: draw.choice([None, 0, draw.randint(0, 60)]) for channel in CHANNELS}
                row |= {flag: draw.choice([None, True, True, True, False]) for flag in FLAGS}
            city.rows.append(row)
        for _ in range(draw.randint(0, 3)):
            city.capacities.append((name, start + draw.randint(-60, minutes) * MINUTE, draw.choice([None, 20, 31])))
    city.capacities = list({(name, since): (name, since, docks) for name, since, docks in city.capacities}.values())
    if ledger:
        outcomes = [*ACCEPTED, "frozen", "failed", "missed", "quarantined"]
        times = {row["at"] for row in city.rows} | {start + draw.randint(0, minutes) * MINUTE for _ in range(40)}
        city.polls = [(at, draw.choice(outcomes)) for at in sorted(times)]
    return city


STEPS = [5 * MINUTE, 15 * MINUTE, HOUR]


@pytest.mark.parametrize("ledger", [False, True], ids=["history", "collected"])
def test_every_cell_is_what_the_loops_say(database: Database, ledger: bool) -> None:
    for seed in range(12):
        city = random_city(seed, ledger=ledger, system_id=f"town{seed}")
        city.store(database)
        draw = random.Random(seed)
        for _ in range(4):
            start = draw.choice([None, T0 - 2 * HOUR, T0 + draw.randint(0, 200) * MINUTE])
            end = draw.choice([None, T0 + 5 * HOUR, T0 + 230 * MINUTE])
            step, tolerance = draw.choice(STEPS), draw.choice([None, timedelta(0), 2 * MINUTE, 40 * MINUTE, 3 * HOUR])
            try:
                panel = Panel.load(database, city.system_id, start, end, step=step, tolerance=tolerance)
            except UsageError:
                ticks = [T0 + n * step for n in range(-24, 500)]  # T0 is a tick of each step
                last = max([row["at"] for row in city.rows] + [at for at, what in city.polls if what in ACCEPTED])
                assert start is not None
                assert not [at for at in ticks if start <= at < (end or last + step)]
                continue
            assert panel.tolerance == (step if tolerance is None else tolerance)
            check(panel, city)


def test_systems_do_not_mix(database: Database) -> None:
    cities = [random_city(seed, ledger=True, system_id=name) for seed, name in enumerate(["velib", "oslo", "lyon"])]
    for city in cities:
        city.store(database)
    for city in cities:
        panel = Panel.load(database, city.system_id)
        assert set(panel.stations.id) == {row["station"] for row in city.rows}
        check(panel, city)


def test_the_ticks_of_a_panel(database: Database) -> None:
    rows = [{"station": "a", "at": T0 + minutes * MINUTE, "bikes": minutes} for minutes in (7, 61)]
    City(stations=["a"], rows=rows).store(database)

    def ticks(*period: datetime | None, step: timedelta = 15 * MINUTE) -> list[float]:
        panel = Panel.load(database, "velib", *period, step=step)
        return [(tick.replace(tzinfo=UTC) - T0) / MINUTE for tick in panel.ticks.tolist()]

    assert ticks() == [15, 30, 45, 60, 75]  # from the first row to the first tick at or after the last
    assert ticks(step=HOUR) == [60, 120]
    assert ticks(T0 - 20 * MINUTE) == [-15, 0, 15, 30, 45, 60, 75]
    assert ticks(T0, T0 + 30 * MINUTE) == [0, 15]
    assert ticks(None, T0 + 200 * MINUTE)[-1] == 195
    assert ticks(T0 + 100 * MINUTE, T0 + 110 * MINUTE) == [105]  # nothing known there: masked, not refused


def test_accepted_polls_lengthen_a_panel_and_others_do_not(database: Database) -> None:
    polls = [(T0 + minutes * MINUTE, what) for minutes, what in [(0, "ok"), (31, "not_modified"), (90, "failed")]]
    City(stations=["a"], rows=[{"station": "a", "at": T0, "bikes": 3}], polls=polls).store(database)
    panel = Panel.load(database, "velib", tolerance=10 * MINUTE)
    assert len(panel) == 4  # 0, 15, 30, 45
    assert panel.observed[:, 0, BIKES].tolist() == [True, False, False, False]
    panel = Panel.load(database, "velib", tolerance=15 * MINUTE)
    assert panel.counts[:, 0, BIKES].tolist() == [3, 3, MISSING, 3]  # 45: confirmed at 31


@pytest.mark.parametrize(
    "change", [datetime(2024, 3, 31, 1, tzinfo=UTC), datetime(2024, 10, 27, 1, tzinfo=UTC)], ids=["spring", "autumn"]
)
def test_ticks_are_regular_where_clocks_change(database: Database, change: datetime) -> None:
    city = random_city(5, ledger=True, start=change - 2 * HOUR)
    city.store(database)
    panel = Panel.load(database, "velib", change - 3 * HOUR, change + 3 * HOUR)
    assert len(panel) == 24
    assert set(np.diff(panel.ticks.astype(np.int64)).tolist()) == {900}
    check(panel, city)


@pytest.mark.parametrize("ledger", [False, True], ids=["history", "collected"])
def test_no_cell_depends_on_what_comes_later(database: Database, ledger: bool) -> None:
    for seed in range(6):
        city = random_city(100 + seed, ledger=ledger, system_id=f"town{seed}", minutes=120)
        city.rows += [{"station": name, "at": T0 - MINUTE, "bikes": 1, "docks": 2} for name in city.stations]
        # Before its first version the first one holds, as documented: give each station one that is old.
        city.capacities += [(name, T0 - 9 * HOUR, 25) for name in city.stations]
        city.store(database)
        period = T0, T0 + 4 * HOUR
        before = Panel.load(database, city.system_id, *period, step=5 * MINUTE, tolerance=20 * MINUTE)
        now = T0 + random.Random(seed).randint(20, 100) * MINUTE
        with database.write() as connection:
            here = select(System.key).where(System.system_id == city.system_id).scalar_subquery()
            keys = list(connection.scalars(select(Station.key).where(Station.system_key == here)))
            mine = StationStatus.station_key.in_(keys)
            connection.execute(delete(StationStatus).where(mine, StationStatus.observed_at > now))
            connection.execute(delete(Poll).where(Poll.system_key == here, Poll.polled_at > now))
            versions = StationVersion.station_key.in_(keys), StationVersion.valid_from > now
            connection.execute(delete(StationVersion).where(*versions))
            for key in keys:
                at = now + MINUTE / 2
                connection.execute(insert(StationStatus).values(station_key=key, observed_at=at, bikes=999))
                connection.execute(insert(StationVersion).values(station_key=key, valid_from=at, capacity=1))
        after = Panel.load(database, city.system_id, *period, step=5 * MINUTE, tolerance=20 * MINUTE)
        last = before.before(now + MINUTE / 2)  # ticks up to now
        assert 0 < last < len(before)
        for name in ("ticks", "counts", "observed", "open", "capacity"):
            assert np.array_equal(getattr(before, name)[:last], getattr(after, name)[:last]), (seed, name)
        assert not np.array_equal(before.counts[last:], after.counts[last:])


def test_null_flags_are_not_closed_and_unknown_is_not_open(database: Database) -> None:
    said = [{}, {"is_renting": True}, {"is_renting": False}, {"is_installed": False}, {"is_returning": False}]
    rows = [{"station": str(n), "at": T0, "bikes": 0, **flags} for n, flags in enumerate(said)]
    rows += [{"station": "5", "at": T0, "is_renting": True}]  # no counts: unknown
    City(stations=[str(n) for n in range(6)], rows=rows).store(database)
    panel = Panel.load(database, "velib")
    assert panel.open[0].tolist() == [True, True, False, False, False, False]
    assert panel.observed[0, :, BIKES].tolist() == [True] * 5 + [False]  # closed is known, and 0 is a value
    assert not panel.observed[0, :, DOCKS].any()


def test_who_the_stations_are(database: Database) -> None:
    rows = [{"station": name, "at": T0, "bikes": 1} for name in ("213", "44")]
    capacities: list[tuple[str, datetime, int | None]] = [
        ("213", T0 - HOUR, 20),
        ("213", T0 + 20 * MINUTE, 30),
        ("213", T0 + 5 * HOUR, 40),
    ]
    City(stations=["213", "44", "unseen"], rows=rows, capacities=capacities).store(database)
    panel = Panel.load(database, "velib", T0, T0 + HOUR)
    stations = panel.stations
    assert (stations.id, stations.code) == (("213", "44"), ("code 213", "code 44"))
    assert stations.name == (f"213 from {T0 + 20 * MINUTE}", None)  # as described by the last tick
    assert stations.lat.tolist()[0] == 48.0
    assert np.isnan(stations.lon[1])
    assert panel.capacity[:, 0].tolist() == [20, 20, 30, 30]
    assert panel.capacity[:, 1].tolist() == [0] * 4
    assert (stations.index("44"), stations.index("code 213")) == (1, 0)
    assert stations.positions_in(["x", "44"]).tolist() == [-1, 1]
    with pytest.raises(UsageError, match=r"no station '21'.*there are 2, such as 213"):
        stations.index("21")


def test_a_first_version_that_says_only_the_capacity_is_the_first(database: Database) -> None:
    city = City(stations=["a"], rows=[{"station": "a", "at": T0, "bikes": 1}])
    city.store(database)
    with database.write() as connection:
        key = connection.scalar(select(Station.key))
        for since, docks in ((T0 - HOUR, 10), (T0 + 20 * MINUTE, 12)):
            connection.execute(insert(StationVersion).values(station_key=key, valid_from=since, capacity=docks))
    assert Panel.load(database, "velib", T0, T0 + HOUR).capacity[:, 0].tolist() == [10, 10, 12, 12]


def test_what_cannot_be_loaded_is_said(database: Database, tmp_path: Path) -> None:
    City(stations=["a"], rows=[{"station": "a", "at": T0, "bikes": 1}]).store(database)
    City("lost", None, stations=["a"], rows=[{"station": "a", "at": T0, "bikes": 1}]).store(database)
    City("empty", stations=["a"]).store(database)
    with pytest.raises(UsageError, match="no system 'oslo'; there are: empty, lost, velib"):
        Panel.load(database, "oslo")
    with pytest.raises(UsageError, match="time zone of 'lost' is not known"):
        Panel.load(database, "lost")
    with pytest.raises(UsageError, match=r"no rows of 'empty'$"):
        Panel.load(database, "empty")
    with pytest.raises(UsageError, match=r"no rows of 'velib' up to 2024-11-05T07:00:00Z"):
        Panel.load(database, "velib", end=T0 - HOUR)
    with pytest.raises(UsageError, match=r"no tick of a 15m grid lies from 2024-11-05T08:01:00Z up to .*08:14:00Z"):
        Panel.load(database, "velib", T0 + MINUTE, T0 + 14 * MINUTE)
    with pytest.raises(UsageError, match=r"no rows of 'velib' from .* up to"):
        Panel.load(database, "velib", T0 + HOUR, T0)
    for step in (timedelta(0), -MINUTE, timedelta(seconds=1.5)):
        with pytest.raises(UsageError, match="whole number of seconds"):
            Panel.load(database, "velib", step=step)
    with pytest.raises(ValueError, match="naive"):
        Panel.load(database, "velib", datetime(2024, 11, 5))  # noqa: DTZ001 - that is the point
    with pytest.raises(DatabaseError, match="velib db init"):
        Panel.load(f"sqlite:///{tmp_path / 'new.db'}", "velib")


@pytest.fixture
def panel(sqlite_url: str) -> Panel:
    """Four hours of a city, read by address."""
    database = Database(sqlite_url)
    random_city(3, ledger=True).store(database)
    database.close()
    return Panel.load(sqlite_url, "velib", T0, T0 + 4 * HOUR)


def test_where_instants_stand(panel: Panel) -> None:
    assert panel.places(panel.ticks[[3, 0, 3]]).tolist() == [3, 0, 3]
    assert panel.places(panel.ticks[:0]).tolist() == []
    for wrong in (panel.ticks[0] - 1, panel.ticks[-1] + 900, panel.ticks.astype("datetime64[us]")[2] + 5):
        with pytest.raises(UsageError, match="is no tick of Panel"):
            panel.places(np.array([panel.ticks[1], wrong]))
    assert [panel.before(T0 + delta) for delta in (-HOUR, 0 * HOUR, MINUTE, 15 * MINUTE, 9 * HOUR)] == [0, 0, 1, 1, 16]


def test_a_part_is_a_view(panel: Panel) -> None:
    part = panel.between(4, 9)
    assert part.ticks.tolist() == panel.ticks[4:9].tolist()
    for name in ("counts", "observed", "trusted", "open", "capacity"):
        assert np.shares_memory(getattr(part, name), getattr(panel, name))
        assert len(getattr(part, name)) == 5
    assert part.stations is panel.stations
    assert same_layout(part, panel.between(0, 9).between(4, 9))
    assert not same_layout(part, panel.between(3, 8))
    empty = panel.between(2, 2)
    assert "no ticks" in repr(empty)
    assert empty.describe()["first_tick"] is None
    with pytest.raises(UsageError, match="no ticks"):
        empty.places(panel.ticks[:1])


def test_totals_count_only_what_was_seen_whole(panel: Panel) -> None:
    totals = panel.totals()
    assert totals.dtype == np.int16
    for tick, station in np.ndindex(totals.shape):
        both = panel.observed[tick, station, [BIKES, DOCKS]].all()
        expected = panel.counts[tick, station, BIKES] + panel.counts[tick, station, DOCKS] if both else 0
        assert totals[tick, station] == expected
    assert (totals > 0).any()
    assert (totals == 0).any()


def test_what_a_panel_says_of_itself(panel: Panel) -> None:
    assert panel.describe() == {
        "system_id": "velib",
        "timezone": "Europe/Paris",
        "first_tick": "2024-11-05T08:00:00Z",
        "last_tick": "2024-11-05T11:45:00Z",
        "step": "15m",
        "tolerance": "15m",
        "stations": len(panel.stations),
    }
    assert repr(panel).startswith("Panel(velib: 16 ticks every 15m, 2024-11-05T08:00:00Z to 2024-11-05T11:45:00Z")
    assert panel.step_s == 900


# -- what hindsight does with the ledger -------------------------------------------------------------------------


def collected(freeze: tuple[int, int] | None, detected: int) -> City:
    """Forty stations polled every minute for 4 h, each changing every 5 minutes, as `store` writes them.

    In minutes [a, b) of the freeze nothing changes; from `detected` on its polls are called frozen.
    """
    city = City(stations=[f"s{n:02d}" for n in range(40)])
    for minute in range(240):
        at, still = T0 + minute * MINUTE, freeze is not None and freeze[0] <= minute < freeze[1]
        called = still and minute >= detected
        city.polls.append((at, "frozen" if called else "ok"))
        back = freeze is not None and minute == freeze[1]  # a checkpoint
        for n, name in enumerate(city.stations):
            if back or minute == 0 or (not still and (minute + n) % 5 == 0):
                city.rows.append({"station": name, "at": at, "bikes": minute % 30 + n, "docks": 5})
    return city


def test_the_minutes_before_a_freeze_was_noticed_are_not_trusted(database: Database) -> None:
    city = collected((60, 150), detected=70)
    city.store(database)
    panel = Panel.load(database, "velib", step=MINUTE, tolerance=3 * MINUTE)
    check(panel, city)
    observed, trusted = panel.observed[:, :, BIKES].max(axis=1), panel.trusted.max(axis=1)
    assert observed[:73].all()  # what was believed then is seen then: causal
    assert not observed[73:150].any()  # what was not believed ages out
    assert observed[150:].all()
    assert panel.trusted[:60].all()  # minute 59 still moved
    assert not trusted[60:150].any()
    assert panel.trusted[150:].all()


def test_the_collector_is_believed_where_hindsight_has_seen_too_little(database: Database) -> None:
    """A short panel that lies nearly all in the spell has no lively hour to compare with."""
    collected((60, 150), detected=70).store(database)
    panel = Panel.load(database, "velib", T0 + 62 * MINUTE, T0 + 140 * MINUTE, step=MINUTE, tolerance=3 * MINUTE)
    assert not panel.trusted.any()


def test_a_lively_ledger_is_trusted(database: Database) -> None:
    collected(None, 0).store(database)
    panel = Panel.load(database, "velib", step=MINUTE, tolerance=3 * MINUTE)
    assert panel.trusted.all()
    assert panel.observed[:, :, BIKES].all()


def test_a_value_that_was_taken_back_is_not_trusted_for_its_station(database: Database) -> None:
    city = City(stations=["a", "b"])
    for n, bikes in enumerate([5, 5, 12, 5, 6, 12]):
        city.rows.append({"station": "a", "at": T0 + n * 5 * MINUTE, "bikes": bikes, "docks": 9})
        city.rows.append({"station": "b", "at": T0 + n * 5 * MINUTE, "bikes": n, "docks": 9})
    city.store(database)
    panel = Panel.load(database, "velib", step=5 * MINUTE)
    assert panel.trusted[:, 0].tolist() == [True, True, False, True, True, True]
    assert panel.trusted[:, 1].all()
    assert panel.counts[2, 0, BIKES] == 12  # hindsight hides nothing from features
