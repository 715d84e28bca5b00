"""The five real histories: what is stored and exported equals what plain Arrow reads in the source files."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from velib_predictor.data.database import Database
from velib_predictor.data.exporter import export
from velib_predictor.data.importer import import_history
from velib_predictor.utils.temporal import parse_time

VALUES = ["bikes", "mechanical", "ebikes", "docks", "is_installed", "is_renting", "is_returning"]
SLOW = pytest.mark.slow
SETS = [
    pytest.param("velib_2024_11", 588_060, 1_485, "2024-10-31T13:50Z", "2024-11-06T20:15Z"),
    pytest.param("velib_2022_05", 1_017_792, 1_422, "2022-05-12T10:22Z", "2022-06-09T18:43Z", marks=SLOW),
    pytest.param("velib_2021_12", 1_171_440, 1_447, "2021-11-30T17:29Z", "2022-01-03T13:14Z", marks=SLOW),
    pytest.param("velib_2023_2026_hourly_sample", 1_535_598, 161, "2023-12-01T01:40Z", "2026-08-22T21:40Z", marks=SLOW),
    pytest.param("baywheels_2023", 7_877_398, 534, "2023-01-01T08:07Z", "2023-05-01T06:57Z", marks=SLOW),
]


def to_the_minute(moment: datetime | None) -> datetime:
    assert moment is not None
    return moment.replace(second=0, microsecond=0)


def checksum(table: pa.Table) -> list[int | None]:
    """Of each column a number that every value and every null moves, whatever the order of rows."""
    time = pc.cast(table["observed_at"], pa.int64()).to_numpy() // 1_000_000
    station = np.array([hash(name) for name in table["station_id"].to_pylist()], dtype=np.int64)
    row = (time * 2_654_435_761 + station).view(np.uint64) | np.uint64(1)
    sums = [int(row.sum(dtype=np.uint64))]
    for name in VALUES:
        values = pc.fill_null(pc.cast(table[name], pa.int64()), -7).to_numpy().astype(np.uint64)
        sums.append(int((row * values).sum(dtype=np.uint64)))
    return [*sums]


def source_cells(source: pa.Table, ticks: np.ndarray, tolerance: int) -> Iterator[tuple[str, np.ndarray]]:
    """Bikes of each station at each tick (seconds), NaN where unknown, by searching each station's own rows."""
    for name in sorted(source["station_id"].unique().to_pylist()):
        rows = source.filter(pc.equal(source["station_id"], name)).sort_by("observed_at")
        times = pc.cast(rows["observed_at"], pa.int64()).to_numpy() // 1_000_000
        bikes = np.append(rows["bikes"].to_numpy().astype(float), np.nan)
        last = np.searchsorted(times, ticks, side="right") - 1
        age = ticks - np.append(times, 0)[last]
        yield name, np.where((last >= 0) & (age <= tolerance), bikes[last], np.nan)


@pytest.mark.parametrize(("name", "rows", "stations", "first", "last"), SETS)
@pytest.mark.timeout(600)
def test_a_real_history_comes_back_as_it_was(
    database: Database, shared_data: Path, tmp_path: Path, name: str, rows: int, stations: int, first: str, last: str
) -> None:
    folder = shared_data / name
    report = import_history(database, "city", folder / "stations.parquet", [folder / "status.parquet"])
    assert (report.rows_read, report.rows_stored, report.stations_new) == (rows, rows, stations)
    assert to_the_minute(report.first_observed_at) == parse_time(first)
    assert to_the_minute(report.last_observed_at) == parse_time(last)

    out = tmp_path / "status.parquet"
    assert export(database, "status", "city", None, None, out).rows == rows
    source = pq.read_table(folder / "status.parquet")
    exported = pq.read_table(out)
    assert set(exported["system_id"].unique().to_pylist()) == {"city"}
    assert checksum(exported) == checksum(source)
    del exported

    described = pq.read_table(folder / "stations.parquet").sort_by("station_id")
    export(database, "stations", "city", None, None, tmp_path / "stations.parquet")
    columns = ["station_id", "name", "lat", "lon"]
    again = pq.read_table(tmp_path / "stations.parquet").sort_by("station_id")
    assert again.select(columns).to_pylist() == described.select(columns).to_pylist()
    assert again["capacity"].to_pylist() == described["capacity"].to_pylist()

    day = parse_time(last).replace(hour=0, minute=0)
    start, end = day - timedelta(hours=12), day + timedelta(hours=24)
    export(database, "status", "city", start, end, tmp_path / "grid.parquet", grid=timedelta(minutes=15))
    grid = pq.read_table(tmp_path / "grid.parquet")
    ticks = np.arange(int(start.timestamp()), int(end.timestamp()), 900)
    window = source.filter(pc.and_(pc.greater_equal(source["observed_at"], start - timedelta(minutes=15)),
                                   pc.less(source["observed_at"], end)))  # fmt: skip
    cells = dict(source_cells(window, ticks, 900))
    bikes = grid["bikes"].cast(pa.float64()).to_numpy().reshape(-1, len(ticks))  # [station, tick]
    names = grid["station_id"].to_pylist()[:: len(ticks)]
    assert len(names) == stations
    assert np.isfinite(bikes).any()
    for index, station in enumerate(names):
        expected = cells.get(station, np.full(len(ticks), np.nan))
        assert np.array_equal(bikes[index], expected, equal_nan=True), station
