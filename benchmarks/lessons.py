"""What the cold-start model learns from, and where each part of it ends: before the windows that models are judged on.

Real data lies outside the project; the synthetic cities are made here, anew each time, from their seeds.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from velib_predictor.data.database import Database
from velib_predictor.data.importer import import_history
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import DEFAULT_HORIZONS, ForecastSpec
from velib_predictor.models.coldstart.dataset import Lesson
from velib_predictor.simulation.city import SYSTEM_ID, City, CityConfig
from velib_predictor.simulation.history import write_history

MINUTE = timedelta(minutes=1)
PARIS, PACIFIC = "Europe/Paris", "America/Los_Angeles"


@dataclass(frozen=True)
class Grid:
    """How a data set is read and learned from: step, tolerance and horizons in minutes, and how many rows."""

    step: int
    tolerance: int
    rows: int
    least: int = 15

    @property
    def spec(self) -> ForecastSpec:
        """All default horizons that lie on the grid and are long enough."""
        step = self.step * MINUTE
        return ForecastSpec(step, tuple(h for h in DEFAULT_HORIZONS if not h % step and h >= self.least * MINUTE))


@dataclass(frozen=True)
class Source:
    """A folder of real data. `until`: local time of its end, before every test window; `whole`: all stations."""

    folder: str
    system: str
    timezone: str
    until: str | None
    grids: tuple[Grid, ...]
    whole: bool = True


SOURCES = (
    # V15 is judged on 5 and 6 November 2024, V60 on 2 to 9 June 2022, S15 on April 2023.
    Source("velib_2024_11", "velib", PARIS, "2024-11-05T00:00:00+01:00", (Grid(15, 5, 90_000),)),
    Source("velib_2022_05", "velib", PARIS, "2022-06-02T00:00:00+02:00", (Grid(60, 30, 110_000),)),
    Source("velib_2021_12", "velib", PARIS, None, (Grid(60, 60, 50_000),)),
    # A tenth of the stations, at times known to 20 minutes: long horizons alone.
    Source(
        "velib_2023_2026_hourly_sample", "velib", PARIS, "2024-10-31T00:00:00+01:00",
        (Grid(60, 60, 50_000, least=180),), whole=False,
    ),
    Source(
        "baywheels_2023", "baywheels", PACIFIC, "2023-04-01T00:00:00-07:00",
        (Grid(15, 10, 160_000), Grid(60, 20, 80_000)),
    ),
)  # fmt: skip
CITIES = (
    CityConfig(stations=150, seed=11, riders_a_station=25, capacity_median=20, fill=0.5),
    CityConfig(stations=220, seed=12, riders_a_station=50, capacity_median=24, fill=0.45, ebikes=0.0),
    CityConfig(stations=120, seed=13, riders_a_station=110, capacity_median=34, fill=0.4, ebikes=0.7),
    CityConfig(
        stations=90, seed=14, riders_a_station=12, capacity_median=17, fill=0.55, timezone="America/New_York",
        country="US",
    ),
)  # fmt: skip
CITY_GRIDS = (Grid(15, 15, 30_000), Grid(60, 30, 15_000))
CITY_ENDS = datetime(2025, 5, 12, tzinfo=UTC)
CITY_DAYS = 24


def lessons(data: Path, without: str = "") -> Iterator[Lesson]:
    """All that is learned from, but for the system or data set of that name."""
    for source in SOURCES:
        if without not in (source.system, source.folder):
            yield from _of_source(data / source.folder, source)
    if without != "synthetic":
        for config in CITIES:
            yield from _of_city(config)


def panel_of(folder: Path, system: str, timezone: str, until: str | None, grid: Grid) -> Panel:
    """One data set on one grid."""
    (lesson,) = _of_source(folder, Source(folder.name, system, timezone, until, (grid,)))
    return lesson.panel


def _of_source(folder: Path, source: Source) -> Iterator[Lesson]:
    end = datetime.fromisoformat(source.until).astimezone(UTC) if source.until else None
    with tempfile.TemporaryDirectory() as place:
        yield from _read(
            Path(place), source.system, folder, [folder / "status.parquet"], None, source.timezone,
            end, source.grids, source.folder, source.whole,
        )  # fmt: skip


def _of_city(config: CityConfig) -> Iterator[Lesson]:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        begin = CITY_ENDS - timedelta(days=CITY_DAYS)
        write_history(City.make(config), begin, CITY_ENDS, 15 * MINUTE, place)
        yield from _read(
            place, SYSTEM_ID, place, [place / "status.parquet"], place / "polls.parquet", config.timezone,
            CITY_ENDS, CITY_GRIDS, f"synthetic_{config.seed}", True,
        )  # fmt: skip


def _read(
    place: Path, system: str, folder: Path, status: list[Path], polls: Path | None, timezone: str,
    end: datetime | None, grids: tuple[Grid, ...], name: str, whole: bool,
) -> Iterator[Lesson]:  # fmt: skip
    database = Database(f"sqlite:///{place / 'velib.db'}")
    database.upgrade()
    import_history(database, system, folder / "stations.parquet", status, polls, timezone=timezone)
    for grid in grids:
        panel = Panel.load(database, system, None, end, step=grid.step * MINUTE, tolerance=grid.tolerance * MINUTE)
        yield Lesson(f"{name}@{grid.step}m", panel, grid.spec, grid.rows, whole)
    database.close()
