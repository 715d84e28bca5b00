"""The store: change-only rows and a ledger from which every accepted snapshot can be read back exactly."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from tests.test_data.polls import Rows, as_of, raw_poll, snapshot, stored_ledger, stored_rows
from velib_predictor.config.config import CollectorSettings, SystemSettings
from velib_predictor.data.database import Database
from velib_predictor.data.raw import DecodeError
from velib_predictor.data.schema import Station, StationVersion, System
from velib_predictor.data.snapshot import UNKNOWN, Outcome, Snapshot, StationInfo
from velib_predictor.data.store import Decoded, Store
from velib_predictor.utils.errors import VelibError

START = datetime(2026, 3, 2, 10, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SETTINGS = CollectorSettings()
VELIB = SystemSettings(url="http://127.0.0.1/gbfs.json", timezone="Europe/Paris", licence="LO 2.0")


def open_store(database: Database) -> Store:
    return Store(database, "velib", VELIB, SETTINGS)


def record_all(store: Store, polls: list[tuple[datetime, Decoded]]) -> None:
    for at, decoded in polls:
        error = None if isinstance(decoded, Snapshot | DecodeError) else "no connection"
        store.record(raw_poll(at, error=error), decoded)


def history(seed: int, count: int = 150) -> list[tuple[datetime, Decoded]]:
    """Polls a minute apart over three hours' starts: moves, stations that come and go, failures, junk."""
    generator = random.Random(seed)
    bikes = {str(i): generator.randrange(20) for i in range(30)}
    polls: list[tuple[datetime, Decoded]] = []
    for i in range(count):
        for name in generator.sample(sorted(bikes), 6):
            bikes[name] = generator.randrange(20)
        at = START + i * MINUTE
        present = {name: n for name, n in bikes.items() if name != "7" or i % 11 < 6}
        match generator.randrange(12):
            case 0:
                polls.append((at, None))
            case 1:
                polls.append((at, DecodeError("station_status is cut off")))
            case 2:
                polls.append((at, snapshot(at, {})))
            case 3:
                polls.append((at, snapshot(at, dict(list(present.items())[:20]))))  # a third is missing
            case _:
                polls.append((at, snapshot(at, present, rejected=["station 99: bikes is -1"] if i % 5 == 0 else [])))
    return polls


def assert_reads_back(
    rows: Rows, ledger: list[tuple[datetime, Outcome, int, int, int]], polls: list[tuple[datetime, Decoded]]
) -> int:
    """At every accepted poll, the as-of reading gives exactly what that poll said. Returns how many there were."""
    outcomes = {at: outcome for at, outcome, *_ in ledger}
    accepted = 0
    names = {name for name, _, _ in rows}
    for at, decoded in polls:
        if not outcomes[at].accepted:
            continue
        accepted += 1
        assert isinstance(decoded, Snapshot)
        said = {station.station_id: station.values for station in decoded.stations}
        for name in names:
            assert (as_of(rows, name, at) or UNKNOWN) == said.get(name, UNKNOWN), (name, at)
    return accepted


def test_every_accepted_poll_reads_back_exactly(database: Database) -> None:
    polls = history(1)
    record_all(open_store(database), polls)
    rows, ledger = stored_rows(database), stored_ledger(database)
    assert len(ledger) == len(polls)
    assert assert_reads_back(rows, ledger, polls) > 80
    assert len(rows) < 0.5 * sum(len(d.stations) for _, d in polls if isinstance(d, Snapshot))
    outcomes = {outcome for _, outcome, *_ in ledger}
    assert outcomes == {Outcome.OK, Outcome.FAILED, Outcome.QUARANTINED}


def test_a_store_opened_anew_at_each_poll_writes_the_same(database: Database, sqlite_url: str) -> None:
    polls = history(2, count=70)
    for at, decoded in polls:
        record_all(open_store(database), [(at, decoded)])
    other = Database(sqlite_url.replace("velib.db", "once.db"))
    other.upgrade()
    record_all(open_store(other), polls)
    assert stored_rows(database) == stored_rows(other)
    assert stored_ledger(database) == stored_ledger(other)
    other.close()


def test_polls_fitted_in_late_change_no_reading(database: Database) -> None:
    polls = history(3, count=80)
    late = [poll for i, poll in enumerate(polls) if i % 7 in (2, 3)]
    store = open_store(database)
    record_all(store, [poll for poll in polls if poll not in late])
    record_all(store, late[::-1])
    # The median station count at the time was another, so what was quarantined may differ; readings may not.
    assert_reads_back(stored_rows(database), stored_ledger(database), polls)
    more: list[tuple[datetime, Decoded]] = [
        (polls[-1][0] + MINUTE, snapshot(polls[-1][0] + MINUTE, dict.fromkeys(map(str, range(30)), 3)))
    ]
    record_all(store, more)
    assert_reads_back(stored_rows(database), stored_ledger(database), polls + more)


def test_unchanged_stations_write_nothing_until_the_hour(database: Database) -> None:
    store = open_store(database)
    at = datetime(2026, 3, 2, 10, 58, tzinfo=UTC)
    bikes = {"1": 5, "2": 0}
    for i in range(4):
        store.record(raw_poll(at + i * MINUTE), snapshot(at + i * MINUTE, bikes))
    times = [observed_at for name, observed_at, _ in stored_rows(database) if name == "1"]
    assert times == [at, at + 2 * MINUTE]  # first sight, and 11:00
    assert [changed for *_, changed, _ in stored_ledger(database)] == [2, 0, 0, 0]


def test_a_new_last_reported_alone_writes_no_row(database: Database) -> None:
    """Vélib' refreshes last_reported about once an hour while nothing has moved (seen 2024-11)."""
    store = open_store(database)
    store.record(raw_poll(START), snapshot(START, {"1": 5}))
    entry = store.record(raw_poll(START + MINUTE), snapshot(START + MINUTE, {"1": 5}))
    assert entry.changed == 0
    assert len(stored_rows(database)) == 1


def test_absent_and_rejected_stations_become_unknown_once(database: Database) -> None:
    store = open_store(database)
    bikes = {str(i): 3 for i in range(20)}
    without = {name: n for name, n in bikes.items() if name != "4"}
    store.record(raw_poll(START), snapshot(START, bikes))
    for i in (1, 2):
        at = START + i * MINUTE
        store.record(raw_poll(at), snapshot(at, without, rejected=["station 4: no count"]))
    back = START + 3 * MINUTE
    store.record(raw_poll(back), snapshot(back, bikes))
    mine = [(at, values) for name, at, values in stored_rows(database) if name == "4"]
    assert [values.bikes for _, values in mine] == [3, None, 3]
    assert mine[1] == (START + MINUTE, UNKNOWN)


@pytest.mark.parametrize("doubt", [False, True])
def test_a_checkpoint_follows_an_answer_that_was_not_believed_not_one_that_was_none(
    database: Database, doubt: bool
) -> None:
    store = open_store(database)
    store.record(raw_poll(START), snapshot(START, {"1": 5, "2": 0}))
    time = START + MINUTE
    store.record(raw_poll(time), snapshot(time, {}) if doubt else DecodeError("cut off"))
    time += MINUTE
    store.record(raw_poll(time, error="time-out"), None)
    time += MINUTE
    entry = store.record(raw_poll(time), snapshot(time, {"1": 5, "2": 0}))
    assert entry.changed == 0
    assert len([name for name, at, _ in stored_rows(database) if at == time]) == (2 if doubt else 0)


def test_not_modified_confirms_without_rows(database: Database) -> None:
    store = open_store(database)
    store.record(raw_poll(START), snapshot(START, {"1": 5}))
    entry = store.record(raw_poll(START + MINUTE, status=304), snapshot(START + MINUTE, {"1": 5}))
    assert entry.outcome is Outcome.NOT_MODIFIED
    assert len(stored_rows(database)) == 1


def test_a_clock_step_refuses_the_rows(database: Database) -> None:
    store = open_store(database)
    entry = store.record(raw_poll(START, clock_step_s=-3600.0), snapshot(START, {"1": 5}))
    assert entry.outcome is Outcome.FAILED
    assert store.last_detail is not None
    assert "clock" in store.last_detail
    assert stored_rows(database) == []


def test_a_failing_transaction_stores_neither_rows_nor_ledger(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(database)
    store.record(raw_poll(START), snapshot(START, {"1": 5}))

    def broken(*_args: object, **_more: object) -> None:
        raise VelibError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("velib_predictor.data.store.insert_poll", broken)
        with pytest.raises(VelibError):
            store.record(raw_poll(START + MINUTE), snapshot(START + MINUTE, {"1": 6, "new": 1}))
    assert len(stored_rows(database)) == 1
    assert len(stored_ledger(database)) == 1
    store.reload()
    store.record(raw_poll(START + MINUTE), snapshot(START + MINUTE, {"1": 6, "new": 1}))
    assert [values.bikes for _, _, values in stored_rows(database)] == [5, 6, 1]


def test_information_versions_and_vanished_stations(database: Database) -> None:
    store = open_store(database)
    first = [
        StationInfo("1", "16107", "Benjamin Godard", 48.86, 2.27, 35),
        StationInfo("2", None, "Gone soon", 48.8, 2.3, 20),
    ]
    store.record(raw_poll(START), snapshot(START, {"1": 5, "2": 1}, information=first))
    bigger = [StationInfo("1", "16107", "Benjamin Godard", 48.86, 2.27, 40)]
    for hours in (1, 2, 5):
        at = START + timedelta(hours=hours)
        store.record(raw_poll(at), snapshot(at, {"1": 5, "3": 2, "4": 1, "5": 0}, information=bigger))
    query = (
        select(Station.station_id, StationVersion.valid_from, StationVersion.valid_to, StationVersion.capacity)
        .join(StationVersion)
        .where(Station.station_id.in_(["1", "2"]))
        .order_by(Station.station_id, StationVersion.valid_from)
    )
    with database.read() as connection:
        versions = [tuple(row) for row in connection.execute(query)]
        system = connection.execute(select(System.timezone, System.licence)).one()
    hour = timedelta(hours=1)
    assert versions == [
        ("1", START, START + hour, 35),
        ("1", START + hour, None, 40),
        ("2", START, START + hour, 20),  # away since the second poll, for over three hours at the last
    ]
    assert tuple(system) == ("Europe/Paris", "LO 2.0")


def test_a_newcomer_is_not_taken_for_the_station_whose_code_is_its_id(database: Database) -> None:
    store = open_store(database)
    described = [StationInfo("1", "3", "A", 48.86, 2.27, 35)]
    store.record(raw_poll(START), snapshot(START, {"1": 5}, information=described))
    time = START + MINUTE
    store.record(raw_poll(time), snapshot(time, {"3": 19, "1": 5}, information=described))
    found = {name: values.bikes for name, at, values in stored_rows(database) if at <= time}
    assert found == {"1": 5, "3": 19}


def test_the_portals_codes_mean_the_feeds_stations(database: Database) -> None:
    store = open_store(database)
    described = [StationInfo("213688169", "16107", "A", 48.86, 2.27, 35)]
    store.record(raw_poll(START), snapshot(START, {"213688169": 5}, information=described))
    time = START + MINUTE
    store.record(raw_poll(time, fallback=True), snapshot(time, {"16107": 6}, codes={"16107": "16107"}))
    assert [(name, values.bikes) for name, _, values in stored_rows(database)] == [("213688169", 5), ("213688169", 6)]


def test_a_late_poll_retires_nobody(database: Database) -> None:
    """What was missing then may be back since."""
    store = open_store(database)
    hour = timedelta(hours=1)
    known = [StationInfo(name, None, name, 48.8, 2.3, 20) for name in ("1", "2", "3", "4", "5")]
    both = dict.fromkeys("12345", 1)
    without = dict.fromkeys("1234", 1)
    store.record(raw_poll(START), snapshot(START, both, information=known))
    for hours in (1, 6):
        store.record(raw_poll(START + hours * hour), snapshot(START + hours * hour, without, information=known))
    back = START + 7 * hour
    store.record(raw_poll(back), snapshot(back, both, information=known))
    late = START + 5 * hour
    store.record(raw_poll(late), snapshot(late, without, information=known[:4]))
    with database.read() as connection:
        ends = connection.execute(select(StationVersion.valid_to).join(Station).where(Station.station_id == "5"))
        assert set(ends.scalars()) == {None}


def test_restarts_change_no_outcome_neither_at_night_nor_in_a_freeze(database: Database, sqlite_url: str) -> None:
    """What the detector knew of the hours of the day, and of the silence since it began, it must know again."""
    generator = random.Random(4)
    bikes = dict.fromkeys(map(str, range(60)), 5)
    polls: list[tuple[datetime, Decoded]] = []
    at, fine = datetime(2026, 3, 2, 10, 1, tzinfo=UTC), datetime(2026, 3, 5, 10, 0, tzinfo=UTC)
    while at < fine + timedelta(hours=5):
        frozen = at >= fine + timedelta(hours=3)
        for name in generator.sample(sorted(bikes), 20 if 7 <= at.hour < 22 and not frozen else 0):
            bikes[name] = generator.randrange(20)
        polls.append((at, snapshot(at, bikes)))
        at += timedelta(minutes=15 if at < fine else 5)
    other = Database(sqlite_url.replace("velib.db", "once.db"))
    other.upgrade()
    record_all(open_store(other), polls)
    night = 60  # polls of the last night and morning, each made by a store of its own
    record_all(open_store(database), polls[: -60 - night])
    for one in polls[-60 - night :]:
        record_all(open_store(database), [one])
    assert stored_ledger(database) == stored_ledger(other)
    assert stored_rows(database) == stored_rows(other)
    found = [at for at, outcome, *_ in stored_ledger(other) if outcome is Outcome.FROZEN and at > fine]
    assert timedelta(minutes=10) < found[0] - (fine + timedelta(hours=3)) <= timedelta(minutes=30)
    other.close()


def test_a_backfill_reads_the_ledger_once_not_once_a_poll(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(database)
    later = START + timedelta(days=3)
    store.record(raw_poll(later), snapshot(later, {"1": 5}))
    reloads = 0
    real = Store.reload

    def counted(self: Store, before: datetime | None = None) -> None:
        nonlocal reloads
        reloads += 1
        real(self, before)

    monkeypatch.setattr(Store, "reload", counted)
    polls: list[tuple[datetime, Decoded]] = [
        (START + i * MINUTE, snapshot(START + i * MINUTE, {"1": i})) for i in range(20)
    ]
    record_all(store, polls)
    assert reloads == 1
    record_all(store, [(later + MINUTE, snapshot(later + MINUTE, {"1": 5}))])
    assert reloads == 2
    assert_reads_back(stored_rows(database), stored_ledger(database), polls)


def test_after_days_without_an_answer_a_broken_one_is_still_recognised(database: Database) -> None:
    store = open_store(database)
    store.record(raw_poll(START), snapshot(START, {str(i): 3 for i in range(100)}))
    for hours in (12, 24, 36, 48):
        store.record(raw_poll(START + timedelta(hours=hours), error="no connection"), None)
    back = START + timedelta(hours=60)
    entry = open_store(database).record(raw_poll(back), snapshot(back, {"1": 3}))
    assert entry.outcome is Outcome.QUARANTINED
