"""Once an hour: the weather forecast of a system's place, stored as it was issued. Nothing depends on its success."""

from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import select

from velib_predictor.config.config import Settings
from velib_predictor.data.clock import SystemClock
from velib_predictor.data.database import Database
from velib_predictor.data.known_weather import KnownWeather
from velib_predictor.data.schema import Station, StationVersion, System
from velib_predictor.data.transport import HttpTransport
from velib_predictor.data.weather import EVERY, SLACK, OpenMeteo, Place
from velib_predictor.data.weather_store import store_weather
from velib_predictor.jobs.scheduler import Job
from velib_predictor.utils.logger import get_logger

_LOOK_EVERY = timedelta(minutes=10)
"""So that a system whose first stations are just known needs not wait for long."""
_BUDGET = timedelta(seconds=10)
_log = get_logger(__name__)


class WeatherJob:
    """Fetches and stores forecasts for one system."""

    def __init__(
        self, settings: Settings, database: Database, system_id: str, clock: SystemClock | None = None
    ) -> None:
        self.system_id = system_id
        self._url = settings.weather.url
        self._cache = settings.data_dir / "external" / "weather" / f"{system_id}.json"
        self._database = database
        self._tried_at: datetime | None = None
        # A time-out costs the forecast of bikes nothing, but the program must end when it is told to.
        self._transport = HttpTransport(settings.collector, budget=_BUDGET, clock=(clock or SystemClock()).now)

    def run(self, now: datetime) -> KnownWeather | None:
        """Store the newest forecast, if it is not stored; returns it.

        None: it is switched off, there is none, or this job has asked for it within the hour.

        Raises:
            DatabaseError: it cannot be stored.
        """
        place = self._place() if self._url else None
        recently = self._tried_at is not None and timedelta(0) <= now - self._tried_at < EVERY - SLACK
        if not self._url or place is None or recently:
            return None
        self._tried_at = now
        weather = OpenMeteo(self._url, place, self._transport, self._cache).latest(now)
        if weather is not None and store_weather(self._database, self.system_id, weather):
            _log.info("weather forecast", system=self.system_id, issued_at=f"{weather.issued[0]}Z")
        return weather

    def _place(self) -> Place | None:
        """The middle of the system's stations; None while none is known."""
        version = StationVersion.__table__.c
        query = select(version.lat, version.lon).join(Station, Station.key == version.station_key)
        query = query.join(System, System.key == Station.system_key).where(
            System.system_id == self.system_id, version.valid_to.is_(None), version.lat.is_not(None)
        )
        with self._database.read() as connection:
            places = [tuple(row) for row in connection.execute(query)]
        return Place(*(float(middle) for middle in np.median(places, axis=0))) if places else None


def weather_jobs(
    settings: Settings, database: Database, systems: list[str], clock: SystemClock | None = None
) -> list[Job]:
    """A job a system for the scheduler; none where the weather is switched off."""
    if not settings.weather.url:
        return []
    made = {name: WeatherJob(settings, database, name, clock) for name in systems}
    return [Job(f"weather-{name}", job.run, _LOOK_EVERY, at_once=True) for name, job in made.items()]
