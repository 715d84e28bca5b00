"""A small system whose days are calm or lively as a test wants them: what was learned from one misjudges the other."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy import insert

from velib_predictor.config.config import ForecastSettings, Settings
from velib_predictor.config.daily import JobSettings
from velib_predictor.data.database import Database
from velib_predictor.data.schema import Poll, StationStatus
from velib_predictor.data.snapshot import StationInfo
from velib_predictor.data.stations import StationBook, ensure_system

START = datetime(2026, 1, 5, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
STEP = 3 * HOUR
"""Between polls, and between issues: few, so that tests are quick."""
STATIONS, SIZE = 4, 20
CALM, LIVELY = 0.03, 1.5
"""Bikes taken, and brought, from one poll to the next."""
Mood = Callable[[int], float]


def store_moods(database: Database, mood: Mood, days: int, start: datetime = START, system_id: str = "moody") -> None:
    """Rows of that many days; `mood` gives each day's rate."""
    random = np.random.default_rng(3)
    bikes = np.full(STATIONS, SIZE // 2)
    rows, polls = [], []
    with database.write() as connection:
        system = ensure_system(connection, system_id, timezone="UTC", licence="CC0", attribution="Nobody")
        book = StationBook(connection, system)
        known = [StationInfo(str(n), None, None, 48.8, 2.3 + n / 100, SIZE) for n in range(STATIONS)]
        book.register(connection, known, start)
        keys = book.all_names()
        for place in range(int(days * DAY / STEP)):
            at = start + place * STEP
            rate = mood((at - start).days)
            bikes = np.clip(bikes + random.poisson(rate, STATIONS) - random.poisson(rate, STATIONS), 0, SIZE)
            polls.append({"system_key": system, "polled_at": at, "outcome": "ok"})
            rows += [
                {"station_key": keys[str(n)], "observed_at": at, "bikes": int(bikes[n]), "mechanical": int(bikes[n]),
                 "ebikes": 0, "docks": int(SIZE - bikes[n]), "is_renting": True}
                for n in range(STATIONS)
            ]  # fmt: skip
        connection.execute(insert(StationStatus), rows)
        connection.execute(insert(Poll), polls)


def moody(
    settings: Settings, train_days: int, hold_out: timedelta = 8 * DAY, model: str = "persistence_delta"
) -> Settings:
    """Settings under which such a system is forecast."""
    forecast = ForecastSettings(issue_every=STEP, tolerance=STEP, train_model=model, train_days=train_days)
    return settings.model_copy(update={"forecast": forecast, "jobs": JobSettings(hold_out=hold_out)})
