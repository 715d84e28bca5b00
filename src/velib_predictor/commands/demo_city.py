"""The city of the demonstration: its weeks of history, and the model that learns from them, prepared once."""

import json
import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

from velib_predictor import __version__
from velib_predictor.commands.output import migrate, progress_bar
from velib_predictor.commands.sandbox import LICENCE, POLLED_EVERY, import_city
from velib_predictor.config.config import Settings, SystemSettings
from velib_predictor.config.outside import WeatherSettings
from velib_predictor.data.clock import SystemClock
from velib_predictor.data.database import Database, head_revision
from velib_predictor.jobs.retrain import retrain
from velib_predictor.simulation import checkpoint
from velib_predictor.simulation.city import SYSTEM_ID, City, CityConfig
from velib_predictor.simulation.clock import Clock
from velib_predictor.simulation.history import write_history
from velib_predictor.simulation.simulation import Simulation
from velib_predictor.utils.temporal import EPOCH, format_time, parse_time

_QUARTER = timedelta(minutes=15)
ATTRIBUTION = "a synthetic city, no real place"


class CityClock(SystemClock):
    """The city's time, as the collector, the jobs and the API ask for it."""

    def __init__(self, start: datetime, speed: float) -> None:
        super().__init__()
        self._city = Clock(start, speed)
        self.speed = speed

    @property
    def city(self) -> Clock:
        """The clock that the city itself lives by."""
        return self._city

    def now(self) -> datetime:
        """See `SystemClock`."""
        return self._city.now()

    def step(self) -> float | None:
        """It never jumps."""
        return None

    def wait_until(self, at: datetime, stop: threading.Event) -> bool:
        """See `SystemClock`."""
        while (left := (at - self.now()).total_seconds()) > 0:
            if stop.wait(left / self.speed):
                return True
        return stop.is_set()


class DemoCity:
    """What `velib demo` keeps in its folder.

    history/ the imported files; history.db, models/, city.npz as they were at the end of the history; live/ what this
    run collects, begun anew each time; prepared.json, written last, says that all of it is whole.
    """

    def __init__(self, folder: Path, settings: Settings, *, stations: int, weeks: float, model: str) -> None:
        self._folder = folder
        self._made_from = {
            "program": __version__, "schema": head_revision(), "stations": stations, "weeks": weeks, "model": model,
        }  # fmt: skip
        self._weeks = weeks
        self._city = City.make(CityConfig(stations=stations))
        forecast = settings.forecast.model_copy(
            update={"train_model": model, "model": model, "train_days": int(7 * weeks) + 1}
        )
        self._settings = settings.model_copy(update={"models_dir": folder / "models", "forecast": forecast})

    def is_prepared(self) -> bool:
        """Whether an earlier run left all that is needed, made from the same."""
        return self._read().get("made_from") == self._made_from

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self._folder / "prepared.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    # -- once ------------------------------------------------------------------------------------------------

    def prepare(self, say: Callable[[str], None]) -> None:
        """Simulate the history, import it, train on it; only then it counts as prepared."""
        for name in ("prepared.json", "history.db", "city.npz"):
            (self._folder / name).unlink(missing_ok=True)
        for name in ("models", "history", "live"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC)
        end = now - (now - EPOCH) % _QUARTER
        steps = (
            (f"{self._weeks:g} weeks of a city with {len(self._city)} stations are simulated", self._simulate),
            ("they are imported", self._import),
            (f"the model {self._made_from['model']} is trained on them", self._train),
        )
        for words, step in steps:
            begun = perf_counter()
            step(end)
            say(f"{words}: {perf_counter() - begun:.0f} s")
        content = {"made_from": self._made_from, "ended_at": format_time(end)}
        (self._folder / "prepared.json").write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _simulate(self, end: datetime) -> None:
        start = end - timedelta(weeks=self._weeks) // _QUARTER * _QUARTER
        with progress_bar() as tell:
            simulation = write_history(self._city, start, end, POLLED_EVERY, self._folder / "history", tell)
        checkpoint.save(simulation, self._folder / "city.npz")

    def _import(self, _end: datetime) -> None:
        with closing(Database(f"sqlite:///{self._folder / 'history.db'}")) as database, progress_bar() as tell:
            migrate(self._settings, database)
            import_city(database, self._city, self._folder / "history", tell)

    def _train(self, end: datetime) -> None:
        with closing(Database(f"sqlite:///{self._folder / 'history.db'}")) as database, progress_bar() as tell:
            retrain(self._settings, database, SYSTEM_ID, end, tell)

    # -- each time -------------------------------------------------------------------------------------------

    def awake(self, speed: float) -> tuple[Simulation, CityClock, Settings]:
        """The city as it was at the end of its history, its clock from then on, and the settings of this run."""
        live = self._folder / "live"
        shutil.rmtree(live, ignore_errors=True)
        live.mkdir(parents=True)
        shutil.copyfile(self._folder / "history.db", live / "velib.db")
        simulation = checkpoint.load(self._city, self._folder / "city.npz")
        update = {"data_dir": live, "database_url": f"sqlite:///{live / 'velib.db'}"}
        clock = CityClock(parse_time(self._read()["ended_at"]), speed)
        return simulation, clock, self._settings.model_copy(update=update)

    def polling(self, settings: Settings, url: str, weather_url: str) -> Settings:
        """The settings with the city's feed as the only system, and its weather."""
        system = SystemSettings(
            url=url, name="Synthetic city", timezone=self._city.config.timezone, licence=LICENCE,
            attribution=ATTRIBUTION, ttl=timedelta(seconds=60),
        )  # fmt: skip
        weather = WeatherSettings(url=weather_url)
        return settings.model_copy(update={"systems": {SYSTEM_ID: system}, "weather": weather})
