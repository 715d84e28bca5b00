"""Exports: the same bytes after a round trip, whole files or none, and what a grid says of gaps."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from sqlalchemy import insert

from velib_predictor.cli import app
from velib_predictor.data import exporter
from velib_predictor.data.database import Database
from velib_predictor.data.exporter import What, export
from velib_predictor.data.importer import import_history
from velib_predictor.data.preprocessor import read_status
from velib_predictor.data.schema import Poll, StationStatus
from velib_predictor.data.snapshot import StationInfo
from velib_predictor.data.stations import StationBook, ensure_system
from velib_predictor.utils.errors import UsageError, VelibError

T0 = datetime(2024, 11, 5, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
KINDS: tuple[What, ...] = ("stations", "status", "polls")
NAMES = ["b", "001", "é,\"q\"", "Z", "a"]  # fmt: skip
"""Stations, not in the order of their ids, which is 001 Z a b é."""


@pytest.fixture
def filled(database: Database) -> Database:
    """Five stations, with every kind of gap, half a second, unknown rows, and a ledger."""
    with database.write() as connection:
        system = ensure_system(connection, "velib")
        book = StationBook(connection, system)
        book.register(
            connection, [StationInfo(n, None if n == "Z" else f"c{n}", "N\n1", 48.1, 2.0, 30) for n in NAMES], T0
        )
        book.register(connection, [StationInfo("a", name="renamed", lat=48.86571234567)], T0 + MINUTE)
        for minute in range(0, 120):
            for index, name in enumerate(NAMES[:-1]):
                if (minute * 7 + index) % 5 == 0:
                    values: dict[str, object] = {
                        "bikes": minute % 9,
                        "docks": None,
                        "is_renting": minute % 2 == 0,
                        "is_installed": True,
                    }
                    if minute % 11 == 0:
                        values = {}
                    moment = T0 + minute * MINUTE + index * timedelta(microseconds=500_000)
                    last = None if minute % 3 else moment - MINUTE
                    row = {"station_key": book.resolve(name), "observed_at": moment, "last_reported": last, **values}
                    connection.execute(insert(StationStatus).values(row))
        for minute, outcome in enumerate(["ok", "frozen", "not_modified", "failed"] * 10):
            detail = 'timed out, after "30" s\nthen again' if outcome == "failed" else None
            moment = T0 + 3 * minute * MINUTE
            told = {"outcome": outcome, "detail": detail, "stations": 5, "changed": minute, "rejected": 0}
            connection.execute(insert(Poll).values(system_key=system, polled_at=moment, **told))
        other = StationBook(connection, ensure_system(connection, "oslo"))
        other.register(connection, [StationInfo("a")], T0)
        connection.execute(insert(StationStatus).values(station_key=other.resolve("a"), observed_at=T0, bikes=99))
    return database


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'second.db'}")
    database.upgrade()
    yield database
    database.close()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_round_trip_gives_the_same_bytes(
    filled: Database, empty: Database, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {kind: tmp_path / f"{kind}{suffix}" for kind in KINDS}
    for kind, path in first.items():
        assert export(filled, kind, "velib", None, None, path).rows > 0
    import_history(empty, "velib", first["stations"], [first["status"]], first["polls"])
    monkeypatch.setattr(exporter, "_GROUP_ROWS", 30)  # other pieces, the same file
    for kind, path in first.items():
        second = path.with_name(f"again-{path.name}")
        export(empty, kind, "velib", None, None, second)
        assert second.read_bytes() == path.read_bytes(), kind


def test_both_formats_hold_the_same_and_the_order_is_by_code_point(filled: Database, tmp_path: Path) -> None:
    parquet, text = tmp_path / "s.parquet", tmp_path / "s.csv"
    export(filled, "status", "velib", None, None, parquet)
    export(filled, "status", "velib", None, None, text)
    table = pq.read_table(parquet)
    assert table.schema.field("observed_at").type == pa.timestamp("us", "UTC")
    keys = list(zip(table["station_id"].to_pylist(), table["observed_at"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    assert sorted(set(table["station_id"].to_pylist())) == ["001", "Z", "b", 'é,"q"']
    assert len(table) == len(read_status(filled, "velib"))
    options = pacsv.ConvertOptions(column_types=table.schema, strings_can_be_null=True)
    parse = pacsv.ParseOptions(newlines_in_values=True)
    assert pacsv.read_csv(text, convert_options=options, parse_options=parse).equals(table)
    lines = text.read_text(encoding="utf-8").splitlines()
    assert lines[0] == (
        "system_id,station_id,observed_at,bikes,mechanical,ebikes,docks,bikes_disabled,docks_disabled,"
        "is_installed,is_renting,is_returning,last_reported"
    )
    assert lines[1] == '"velib","001","2024-11-05T08:02:00.500000Z",2,,,,,,true,true,,'


def test_the_period_is_half_open(filled: Database, tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    times = [row["observed_at"] for row in read_status(filled, "velib").to_pylist()]
    start, end = T0 + 10 * MINUTE, T0 + 60 * MINUTE
    assert {start, end} <= set(times)
    export(filled, "status", "velib", start, end, out)
    found = pq.read_table(out)["observed_at"].to_pylist()
    assert sorted(found) == sorted(time for time in times if start <= time < end)
    export(filled, "polls", "velib", T0 + 3 * MINUTE, T0 + 9 * MINUTE, out)
    assert pq.read_table(out)["changed"].to_pylist() == [1, 2]


def test_stations_are_described_as_they_are_now(filled: Database, tmp_path: Path) -> None:
    export(filled, "stations", "velib", None, None, tmp_path / "x.parquet")
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [row["station_id"] for row in rows] == ["001", "Z", "a", "b", 'é,"q"']
    assert [row["code"] for row in rows] == ["c001", None, "ca", "cb", 'cé,"q"']
    assert (rows[2]["name"], rows[2]["lat"], rows[2]["capacity"]) == ("renamed", 48.86571234567, 30)


def test_a_grid_has_every_station_at_every_tick(filled: Database, tmp_path: Path) -> None:
    out = tmp_path / "g.parquet"
    start, end = T0 - 5 * MINUTE, T0 + 121 * MINUTE
    report = export(filled, "status", "velib", start, end, out, grid=15 * MINUTE, tolerance=5 * MINUTE)
    table = pq.read_table(out)
    assert report.rows == len(table) == 5 * 9
    ticks = [T0 + 15 * n * MINUTE for n in range(9)]
    assert table["observed_at"].to_pylist() == ticks * 5
    assert table["station_id"].to_pylist() == [name for name in ["001", "Z", "a", "b", 'é,"q"'] for _ in range(9)]
    with filled.read() as connection:
        book = StationBook(connection, ensure_system(connection, "velib"))
    stored = read_status(filled, "velib").to_pylist()
    polls = [T0 + 3 * n * MINUTE for n in range(40) if n % 2 == 0]  # ok and not_modified
    for cell in table.to_pylist():
        tick = cell["observed_at"]
        rows = [r for r in stored if r["station_key"] == book.resolve(cell["station_id"]) and r["observed_at"] <= tick]
        expected = rows[-1]["bikes"] if rows else None
        if rows and tick - max([rows[-1]["observed_at"], *(p for p in polls if p <= tick)]) > 5 * MINUTE:
            expected = None
        assert cell["bikes"] == expected, cell
    assert 10 < table["bikes"].null_count < 40


def test_a_grid_of_a_station_group_at_a_time_is_the_same(
    filled: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(filled, "status", "velib", None, None, tmp_path / "one.csv", grid=MINUTE)
    monkeypatch.setattr(exporter, "_GROUP_ROWS", 1)
    monkeypatch.setattr(exporter, "_FILE_ROWS", 7)
    export(filled, "status", "velib", None, None, tmp_path / "two.csv", grid=MINUTE)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert len((tmp_path / "one.csv").read_text().splitlines()) == 1 + 5 * 120


def test_a_failed_export_leaves_no_file_and_keeps_the_old_one(
    filled: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "x.csv"
    out.write_text("old")

    def breaks(*_: object, **__: object) -> pa.Table:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporter, "csv_text", breaks)
    with pytest.raises(VelibError, match="No space left"):
        export(filled, "status", "velib", None, None, out)
    assert [path.name for path in folder.iterdir()] == ["x.csv"]
    assert out.read_text() == "old"
    with pytest.raises(VelibError, match="cannot be written"):
        export(filled, "polls", "velib", None, None, tmp_path / "nowhere" / "x.parquet")


def test_an_empty_period_gives_a_file_with_its_columns(filled: Database, tmp_path: Path) -> None:
    for kind in KINDS[1:]:
        for suffix in ("csv", "parquet"):
            out = tmp_path / f"{kind}.{suffix}"
            assert export(filled, kind, "velib", T0 - 9 * MINUTE, T0 - 8 * MINUTE, out).rows == 0
        assert pq.read_table(out).num_columns == len((tmp_path / f"{kind}.csv").read_text().split(","))


def test_what_cannot_be_meant_is_refused(filled: Database, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    with pytest.raises(UsageError, match="no system 'nope'; there are: oslo, velib"):
        export(filled, "status", "nope", None, None, out)
    with pytest.raises(UsageError, match="not before --to"):
        export(filled, "status", "velib", T0, T0, out)
    with pytest.raises(UsageError, match=r"must end in \.parquet or \.csv"):
        export(filled, "status", "velib", None, None, tmp_path / "x.xlsx")
    with pytest.raises(UsageError, match="for status only"):
        export(filled, "polls", "velib", None, None, out, grid=MINUTE)
    with pytest.raises(UsageError, match="needs --grid"):
        export(filled, "status", "velib", None, None, out, tolerance=MINUTE)
    assert not out.exists()


def test_the_command_line_takes_several_files_after_one_flag(
    filled: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, second = filled.url.render_as_string(hide_password=False), f"sqlite:///{tmp_path / 'cli.db'}"
    split = (T0 + 60 * MINUTE).isoformat()
    calls = [
        ["export", "stations", "--system", "velib", "--out", "stations.csv", "--db", url],
        ["export", "status", "--system", "velib", "--to", split, "--out", "1.csv", "--db", url],
        ["export", "status", "--system", "velib", "--from", split, "--out", "2.csv", "--db", url],
        [
            "import",
            "--system",
            "velib",
            "--stations",
            "stations.csv",
            "--status",
            "1.csv",
            "2.csv",
            "--db",
            second,
            "--json",
        ],
    ]
    for call in calls:
        assert app(call, standalone_mode=False) is None
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["rows_stored"] == len(read_status(filled, "velib")) > 0
    with pytest.raises(UsageError, match="has no offset"):
        app(["export", "status", "--system", "velib", "--from", "2024-11-05", "--out", "x.csv"], standalone_mode=False)
