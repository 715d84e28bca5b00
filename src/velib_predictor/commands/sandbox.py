"""A synthetic city in a database of its own: what the demonstration and the notebooks stand on."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from velib_predictor.data.database import Database
from velib_predictor.data.importer import Progress, import_history
from velib_predictor.data.panel import Panel
from velib_predictor.data.weather_store import import_weather
from velib_predictor.simulation.city import SYSTEM_ID, City, CityConfig
from velib_predictor.simulation.history import write_history

LICENCE = "made up: free for any use"
POLLED_EVERY = timedelta(minutes=5)
START = datetime(2026, 3, 1, 23, tzinfo=UTC)
"""Monday, 2 March 2026, 0:00 in the city."""


def import_city(database: Database, city: City, folder: Path, progress: Progress | None = None) -> None:
    """Take the files that `write_history` left in a folder into an upgraded database."""
    files = {name: folder / f"{name}.parquet" for name in ("stations", "status", "polls", "weather")}
    import_history(
        database, SYSTEM_ID, files["stations"], [files["status"]], files["polls"],
        timezone=city.config.timezone, licence=LICENCE, progress=progress,
    )  # fmt: skip
    import_weather(database, SYSTEM_ID, files["weather"])


def city_panel(folder: Path, *, stations: int = 60, days: int = 22, seed: int = 7) -> Panel:
    """Days of a synthetic city from `START` on, simulated, stored in `folder`, and read back on a grid of 15 minutes.

    The same arguments give the same panel.
    """
    city = City.make(CityConfig(stations=stations, seed=seed))
    write_history(city, START, START + timedelta(days=days), POLLED_EVERY, folder)
    with closing(Database(f"sqlite:///{folder / 'city.db'}")) as database:
        database.upgrade()
        import_city(database, city, folder)
        return Panel.load(database, SYSTEM_ID, START, START + timedelta(days=days))
