"""Imports: verbatim, all or nothing, resumable, repeatable, and never against the collector's ledger."""

import csv
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import func, insert, select

from tests.test_data.polls import raw_poll, snapshot
from velib_predictor.config.config import CollectorSettings
from velib_predictor.data import bulk, importer
from velib_predictor.data.database import Database
from velib_predictor.data.importer import HistoryError, ImportReport, import_history
from velib_predictor.data.preprocessor import read_status
from velib_predictor.data.schema import ImportedFile, Poll, Station, StationStatus, System
from velib_predictor.data.snapshot import StationInfo
from velib_predictor.data.stations import StationBook, ensure_system
from velib_predictor.data.store import Store
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import format_time

T0 = datetime(2024, 11, 5, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TABLES = (System, Station, StationStatus, Poll, ImportedFile)
Write = Callable[..., Path]


def at(minute: float) -> str:
    return format_time(T0 + minute * MINUTE)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows (dictionaries) to a CSV file and names it."""

    def write(rows: list[dict[str, Any]], name: str = "status.csv") -> Path:
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return tmp_path / name

    return write


@pytest.fixture
def stations(write: Write) -> Path:
    rows = [{"system_id": "velib", "station_id": s, "name": f"Nº {s}, \"x\"", "lat": 48.8, "lon": 2.3, "capacity": c}
            for s, c in (("001", 20), ("16107", 0))]  # fmt: skip
    return write(rows, "stations.csv")


def row(station: str, minute: float, bikes: object, **more: object) -> dict[str, object]:
    return {"system_id": "velib", "station_id": station, "observed_at": at(minute), "bikes": bikes, **more}


def contents(database: Database) -> list[tuple[str, float, int | None]]:
    """(station_id, minute, bikes) of all rows, by station and time."""
    query = select(Station.station_id, StationStatus.observed_at, StationStatus.bikes).join(
        Station, Station.key == StationStatus.station_key
    )
    with database.read() as connection:
        return sorted((r[0], (r[1] - T0) / MINUTE, r[2]) for r in connection.execute(query))


def counts(database: Database) -> list[int]:
    with database.read() as connection:
        return [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in TABLES]


def numbers(report: ImportReport) -> tuple[int, ...]:
    """read, stored, already there, duplicates, contradicting"""
    found = (report.rows_read, report.rows_stored, report.rows_already_there, report.rows_duplicate)
    return (*found, report.rows_contradicting)


def test_rows_are_stored_verbatim(database: Database, write: Write, stations: Path) -> None:
    rows = [row("001", 0, 5), row("001", 1, 5), row("001", 2, ""), row("16107", 0, 0)]
    report = import_history(database, "velib", stations, [write(rows)], timezone="Europe/Paris", licence="ODbL")
    assert contents(database) == [("001", 0, 5), ("001", 1, 5), ("001", 2, None), ("16107", 0, 0)]
    assert numbers(report) == (4, 4, 0, 0, 0)
    assert (report.stations_new, report.stations_known) == (2, 0)
    assert report.as_dict()["first_observed_at"] == "2024-11-05T08:00:00Z"
    assert report.as_dict()["last_observed_at"] == "2024-11-05T08:02:00Z"
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(Poll)).scalar_one() == 0  # no ledger is invented
        system = connection.execute(select(System.timezone, System.licence)).one()
        book = StationBook(connection, connection.execute(select(System.key)).scalar_one())
    assert tuple(system) == ("Europe/Paris", "ODbL")
    first, second = (book.latest(key) for key in book.names)
    assert first is not None
    assert second is not None
    assert (first.name, first.capacity, second.capacity) == ('Nº 001, "x"', 20, None)  # capacity 0 says nothing


def test_all_columns_arrive_in_their_types(database: Database, write: Write, stations: Path) -> None:
    values = {"mechanical": 1, "ebikes": "2.0", "docks": 32767, "bikes_disabled": 3, "docks_disabled": 4}
    flags = {
        "is_installed": "true",
        "is_renting": "FALSE",
        "is_returning": "",
        "last_reported": "2024-11-05T08:00:00.5+01:00",
    }
    import_history(database, "velib", stations, [write([row("001", 0, 3, **values, **flags)])])
    (stored,) = read_status(database, "velib").to_pylist()
    assert list(stored.values())[1:] == [
        T0, 3, 1, 2, 32767, 3, 4, True, False, None, datetime(2024, 11, 5, 7, 0, 0, 500_000, tzinfo=UTC),
    ]  # fmt: skip


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "+05:30"])
@pytest.mark.parametrize("ids", [pa.int64(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_parquet_in_any_dress(
    sqlite_url: str, stations: Path, tmp_path: Path, unit: str, zone: str, ids: pa.DataType
) -> None:
    database = Database(sqlite_url)
    fraction = {"s": 0, "ms": 123_000, "us": 123_456, "ns": 123_456}[unit]
    when = int(T0.timestamp()) * 10**9 + 123_456_789
    divisor = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit]
    table = pa.table(
        {
            "station_id": pa.array(["16107"]).cast(ids) if ids != pa.int64() else pa.array([16107]),
            "observed_at": pa.array([when // divisor], pa.timestamp(unit, zone)),
            "bikes": pa.array([4.0, None][:1], pa.float32()),
        }
    )
    pq.write_table(table, tmp_path / "s.parquet")
    import_history(database, "velib", stations, [tmp_path / "s.parquet"])
    with database.read() as connection:
        found = connection.execute(select(StationStatus.observed_at, StationStatus.bikes)).one()
    assert tuple(found) == (T0.replace(microsecond=fraction), 4)
    assert contents(database)[0][0] == "16107"
    database.close()


MALFORMED = [
    ([{"station_id": "001", "bikes": 1}], "column observed_at: missing"),
    ([row("001", 0, "five")], "row 1 (line 2), column bikes: 'five' is not a whole number from 0 to 32767"),
    ([row("001", 0, 1), row("001", 1, -1)], "row 2 (line 3), column bikes: '-1'"),
    ([row("001", 0, 32768)], "column bikes: '32768'"),
    ([row("001", 0, 1.5)], "column bikes: '1.5'"),
    ([row("001", 0, 1, is_renting="perhaps")], "column is_renting: 'perhaps' is neither true nor false"),
    ([row("", 0, 1)], "column station_id: is empty"),
    ([{**row("001", 0, 1), "observed_at": ""}], "column observed_at: is empty"),
    ([{**row("001", 0, 1), "observed_at": "2024-11-05T08:00:00"}], "has no offset from UTC"),
    ([{**row("001", 0, 1), "observed_at": "yesterday"}], "column observed_at: 'yesterday' is no time"),
    ([{**row("001", 0, 1), "observed_at": "9999-11-05T08:00:00Z"}], "no time between the years 1970 and 2200"),
    ([row("001", 0, 1), row("16107", 0, 1), row("001", 0, 2)], "row 3 (line 4): the same station at the same time"),
    ([row("001", 0, 1), {**row("001", 1, 1), "system_id": "oslo"}], "several systems (oslo, velib)"),
    ([row("404", 0, 1)], "1 stations of the status files are neither in"),
]


@pytest.mark.parametrize(("rows", "message"), MALFORMED)
def test_a_malformed_file_leaves_the_database_untouched(
    database: Database, write: Write, stations: Path, rows: list[dict[str, object]], message: str
) -> None:
    sound = write([row("001", 0, 1)], "sound.csv")
    with pytest.raises(HistoryError) as caught:
        import_history(database, "velib", stations, [sound, write(rows)])
    assert message in str(caught.value)
    assert counts(database) == [0] * len(TABLES)


def test_broken_lines_and_encodings_are_told_by_row(database: Database, write: Write, stations: Path) -> None:
    path = write([row("001", 0, 1)])
    with path.open("a") as stream:
        stream.write("\n\nvelib,001\n")
    with pytest.raises(HistoryError, match=r"row 2 \(line 5\): has 2 fields, the header 4"):
        import_history(database, "velib", stations, [path])
    path.write_bytes(b"station_id,observed_at\n\xe9,2024-11-05T08:00:00Z\n")
    with pytest.raises(HistoryError, match="UTF8"):
        import_history(database, "velib", stations, [path])
    path = path.with_suffix(".parquet")
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(HistoryError, match="cannot be read"):
        import_history(database, "velib", stations, [path])
    with pytest.raises(HistoryError, match="no such file"):
        import_history(database, "velib", path.with_name("none.csv"), [])
    with pytest.raises(UsageError, match=r"must end in \.parquet or \.csv"):
        import_history(database, "velib", stations, [path.with_suffix(".json")])
    with pytest.raises(UsageError, match="IANA"):
        import_history(database, "velib", stations, [], timezone="Paris")
    assert counts(database) == [0] * len(TABLES)


def test_naive_parquet_times_are_refused(database: Database, stations: Path, tmp_path: Path) -> None:
    table = pa.table({"station_id": ["001"], "observed_at": pa.array([0], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "naive.parquet")
    with pytest.raises(HistoryError, match=r"row 1, column observed_at: .* is a time without a zone"):
        import_history(database, "velib", stations, [tmp_path / "naive.parquet"])


def test_twenty_problems_are_listed_and_the_rest_counted(database: Database, write: Write, stations: Path) -> None:
    with pytest.raises(HistoryError) as caught:
        import_history(database, "velib", stations, [write([row("001", minute, "x") for minute in range(50)])])
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert lines[-1].endswith("and 30 more problems")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"station_id": "1", "name": "a", "lat": 91, "lon": 0}], "column lat: '91' is not a number from -90 to 90"),
        ([{"station_id": "1", "name": "a", "lat": 0, "lon": "-180.1"}], "column lon"),
        ([{"station_id": "1", "name": "a", "lat": "north", "lon": 0}], "'north' is not a number"),
        (
            [{"station_id": "1", "name": n, "lat": 0, "lon": 0} for n in "ab"],
            "row 2 (line 3): station '1' was described",
        ),
        ([{"station_id": "1", "lat": 0, "lon": 0}], "column name: missing"),
    ],
)
def test_malformed_stations(database: Database, write: Write, rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises(HistoryError) as caught:
        import_history(database, "velib", write(rows, "stations.csv"), [])
    assert message in str(caught.value)


def poll(minute: float, outcome: str = "ok", **more: object) -> dict[str, object]:
    columns = {"system_id": "velib", "polled_at": at(minute), "outcome": outcome, "stations": 2, "changed": 1}
    return {**columns, "rejected": 0, "detail": "", **more}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([poll(0, "fine")], "column outcome: 'fine' is no outcome"),
        ([poll(0, changed="")], "column changed: is empty"),
        ([poll(0), poll(0, "frozen")], "row 2 (line 3): the poll at 2024-11-05T08:00:00Z was told otherwise"),
    ],
)
def test_malformed_polls(
    database: Database, write: Write, stations: Path, rows: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(HistoryError) as caught:
        import_history(database, "velib", stations, [], write(rows, "polls.csv"))
    assert message in str(caught.value)
    assert counts(database) == [0] * len(TABLES)


def test_repeating_an_import_stores_nothing_new(database: Database, write: Write, stations: Path) -> None:
    files = [
        write([row("001", m, m) for m in range(5)], "a.csv"),
        write([row("16107", m, m) for m in range(5)], "b.csv"),
    ]
    ledger = write([poll(m) for m in range(0, 300, 7)], "polls.csv")
    first = import_history(database, "velib", stations, files, ledger)
    assert numbers(first) == (10, 10, 0, 0, 0)
    assert (first.polls_read, first.polls_stored) == (43, 43)
    before = counts(database), contents(database)
    again = import_history(database, "velib", stations, files, ledger)
    assert numbers(again) == (10, 0, 10, 0, 0)
    assert (again.stations_new, again.stations_known, again.polls_stored, again.polls_contradicting) == (0, 2, 0, 0)
    assert (counts(database), contents(database)) == before


def test_the_first_stored_value_stays_and_contradictions_are_counted(
    database: Database, write: Write, stations: Path
) -> None:
    import_history(database, "velib", stations, [write([row("001", 0, 1), row("001", 1, 2)])])
    rows = [row("001", 0, 1), row("001", 1, 3), row("001", 1, 3), row("001", 2, 4), row("001", 2, 4)]
    report = import_history(database, "velib", stations, [write(rows, "b.csv")])
    assert numbers(report) == (5, 1, 1, 2, 1)
    assert contents(database) == [("001", 0, 1), ("001", 1, 2), ("001", 2, 4)]
    assert report.warnings == ["1 rows contradict stored ones; the stored ones were kept"]


@pytest.mark.parametrize("order", ["station", "time", "shuffled"])
def test_a_killed_import_goes_on_where_it_stopped(
    database: Database, write: Write, stations: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    rows = [row(station, minute, minute) for station in ("001", "16107") for minute in range(50)]
    if order != "station":
        rows.sort(
            key=lambda r: str(r["observed_at"]) if order == "time" else hash((r["observed_at"], 7, r["station_id"]))
        )
    path = write(rows)
    monkeypatch.setattr(importer, "CHUNK_ROWS", 16)
    monkeypatch.setattr("velib_predictor.data.tidy._BLOCK_BYTES", 400)
    original, calls = bulk.store, []

    def dies_at_the_third(*args: Any) -> bulk.Stored:
        stored = original(*args)
        calls.append(stored)
        if len(calls) == 3:
            raise KeyboardInterrupt  # after the rows, before the commit
        return stored

    monkeypatch.setattr(bulk, "store", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        import_history(database, "velib", stations, [path])
    kept = sum(stored.inserted for stored in calls[:2])
    assert len(contents(database)) == kept >= 32
    with database.read() as connection:
        assert tuple(connection.execute(select(ImportedFile.rows_done, ImportedFile.finished_at)).one()) == (kept, None)

    report = import_history(database, "velib", stations, [path])
    assert numbers(report) == (100, 100 - kept, kept, 0, 0)
    assert sum(stored.inserted for stored in calls[3:]) == 100 - kept
    assert sum(stored.contradicting for stored in calls) == 0
    assert len(contents(database)) == 100
    with database.read() as connection:
        done, finished = connection.execute(select(ImportedFile.rows_done, ImportedFile.finished_at)).one()
    assert done == 100
    assert finished is not None


def test_duplicates_far_apart_in_the_file(
    database: Database, write: Write, stations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "CHUNK_ROWS", 16)
    monkeypatch.setattr("velib_predictor.data.tidy._BLOCK_BYTES", 400)
    rows = [row("001", minute, minute) for minute in range(60)]
    report = import_history(database, "velib", stations, [write([*rows, *rows[:5]])])
    assert numbers(report) == (65, 60, 0, 5, 0)
    assert len(contents(database)) == 60


def test_other_names_of_the_system(database: Database, write: Write, stations: Path) -> None:
    rows: list[dict[str, Any]] = [row("001", 0, 1, colour="green")]
    report = import_history(database, "paris", stations, [write(rows)])
    assert sorted(warning.split("/")[-1] for warning in report.warnings) == [
        "stations.csv says system_id 'velib'; it was imported as 'paris'",
        "status.csv says system_id 'velib'; it was imported as 'paris'",
        "status.csv: unknown columns are ignored: colour",
    ]
    del rows[0]["system_id"]
    assert numbers(import_history(database, "paris", None, [write(rows)])) == (1, 0, 1, 0, 0)


def live(database: Database) -> None:
    """A station that the collector knows by the feed's id and the kiosk's code."""
    with database.write() as connection:
        book = StationBook(connection, ensure_system(connection, "velib"))
        book.register(connection, [StationInfo("213688169", "16107")], T0)


def test_rows_may_name_a_station_by_id_or_code(database: Database, write: Write) -> None:
    live(database)
    rows = [row("16107", 0, 1), row("213688169", 1, 2), row("16107", 1, 2)]
    report = import_history(database, "velib", None, [write(rows)])
    assert contents(database) == [("213688169", 0, 1), ("213688169", 1, 2)]
    assert numbers(report) == (3, 2, 0, 1, 0)
    with pytest.raises(HistoryError, match=r"row 2 .* as row 1, with other values"):
        import_history(database, "velib", None, [write([row("16107", 9, 1), row("213688169", 9, 2)])])
    with pytest.raises(HistoryError, match="not in the database; give --stations: 999"):
        import_history(database, "velib", None, [write([row("999", 9, 1)])])


def ledger(database: Database, minutes: list[int], outcome: str = "ok") -> None:
    with database.write() as connection:
        system = ensure_system(connection, "velib")
        for minute in minutes:
            connection.execute(insert(Poll).values(system_key=system, polled_at=T0 + minute * MINUTE, outcome=outcome))


COVERED = [
    (5, True), (10, True), (0, True), (60, True), (120, False), (119.9, False), (121, False), (-1, False), (61, False),
]  # fmt: skip


@pytest.mark.parametrize(("minute", "refused"), COVERED)
def test_rows_between_close_polls_are_refused(
    database: Database, write: Write, stations: Path, minute: float, refused: bool
) -> None:
    import_history(database, "velib", stations, [write([row("001", 0, 1)])])
    ledger(database, [0, 10, 60])  # at most an hour apart
    ledger(database, [121])  # 61 minutes later
    ledger(database, [65, 119], "frozen")  # confirms nothing
    path = write([row("001", minute, 7)], "late.csv")
    if refused:
        with pytest.raises(HistoryError, match="1 rows lie between polls of the collector"):
            import_history(database, "velib", stations, [path])
        assert contents(database) == [("001", 0, 1)]
    else:
        import_history(database, "velib", stations, [path])
        assert ("001", minute, 7) in contents(database)


def test_rows_that_are_stored_already_may_lie_anywhere(database: Database, write: Write, stations: Path) -> None:
    path = write([row("001", m, m) for m in range(20)])
    import_history(database, "velib", stations, [path])
    ledger(database, list(range(0, 60, 10)))
    assert numbers(import_history(database, "velib", stations, [path])) == (20, 0, 20, 0, 0)
    changed = write([row("001", m, m + (m == 7)) for m in range(20)], "changed.csv")
    with pytest.raises(HistoryError, match="1 rows lie between"):
        import_history(database, "velib", stations, [changed])


def test_rows_written_by_polls_of_their_own_ledger_may_come(database: Database, write: Write, stations: Path) -> None:
    """Half of an export was imported before, its ledger as a whole."""
    polls = write([poll(m) for m in range(0, 60, 10)], "polls.csv")
    import_history(database, "velib", stations, [write([row("001", 0, 0)])], polls)
    rest = write([row("001", m, m) for m in (10, 30)], "rest.csv")
    with pytest.raises(HistoryError, match="2 rows lie between"):
        import_history(database, "velib", stations, [rest])
    assert numbers(import_history(database, "velib", stations, [rest], polls)) == (2, 2, 0, 0, 0)
    between = write([row("001", 5, 9)], "between.csv")
    with pytest.raises(HistoryError, match="1 rows lie between"):
        import_history(database, "velib", stations, [between], polls)


def test_polls_that_contradict_the_ledger_are_counted(database: Database, write: Write, stations: Path) -> None:
    ledger(database, [0], "failed")
    path = write([poll(0), poll(10), poll(10)], "polls.csv")
    report = import_history(database, "velib", stations, [], path)
    assert (report.polls_read, report.polls_stored, report.polls_contradicting) == (2, 1, 1)
    assert report.warnings == ["1 polls contradict stored ones; the stored ones were kept"]


def test_stations_are_dated_by_the_earliest_row(database: Database, write: Write, stations: Path) -> None:
    from velib_predictor.data.schema import StationVersion

    paris = timezone(timedelta(hours=1))
    early = {**row("001", 0, 1), "observed_at": (T0 - 60 * MINUTE).astimezone(paris).isoformat()}
    import_history(database, "velib", stations, [write([row("001", 0, 1)]), write([early], "early.csv")])
    with database.read() as connection:
        assert set(connection.execute(select(StationVersion.valid_from)).scalars()) == {T0 - 60 * MINUTE}


def test_the_collectors_polls_do_not_confirm_a_station_that_only_history_knows(
    database: Database, write: Write, stations: Path
) -> None:
    """Else its last imported count would be taken as unchanged for as long as the collector runs."""
    store = Store(database, "velib", None, CollectorSettings())
    for hours in (0, 0.25, 5, 5.25):  # a gap of almost five hours
        time = T0 + timedelta(hours=hours)
        store.record(raw_poll(time), snapshot(time, {"001": 4}))
    history = [row(station, minute, 7) for station in ("001", "16107") for minute in (-120, -60, 100, 200)]
    for _ in range(2):  # repeated, it adds nothing
        import_history(database, "velib", stations, [write(history)])
    found = contents(database)
    assert [(minute, bikes) for name, minute, bikes in found if name == "16107"] == [
        (-120, 7),
        (-60, 7),
        (0, None),
        (100, 7),
        (200, 7),
        (300, None),
    ]
    assert [(minute, bikes) for name, minute, bikes in found if name == "001"] == [
        (-120, 7),
        (-60, 7),
        (0, 4),
        (100, 7),
        (200, 7),
        (300, 4),
    ]
