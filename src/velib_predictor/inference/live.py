"""The panel that serves: kept in memory and extended tick by tick, equal to one read anew."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import func, select

from velib_predictor.data.database import Database
from velib_predictor.data.panel import Panel
from velib_predictor.data.schema import ImportedFile, Poll, System
from velib_predictor.data.special_days import SpecialDays
from velib_predictor.data.weather_store import read_weather
from velib_predictor.utils.temporal import MICROSECOND, from_micros

_BY_TICK = ("ticks", "counts", "observed", "trusted", "open", "capacity")


class LivePanel:
    """The ticks before an origin, for origins that come one after the other.

    Reading a week of 1,500 stations takes seconds, reading a quarter of an hour takes milliseconds. What is kept is
    read anew when it may have changed: a station came, or a poll or a file of history was stored late. `trusted` is
    retrospective, so it differs from that of a panel read anew; nothing that forecasts reads it.

    Args:
        lookback: ticks before the origin.
        tolerance: oldest observation that a tick takes.
        special_days: of the system; see `Panel.load`.
    """

    def __init__(
        self,
        database: Database,
        system_id: str,
        *,
        step: timedelta,
        tolerance: timedelta,
        lookback: int,
        special_days: SpecialDays | None = None,
    ) -> None:
        self._database = database
        self._system_id = system_id
        self._step = step
        self.tolerance = tolerance
        self.lookback = lookback
        self._special_days = special_days
        self._panel: Panel | None = None
        self._past: tuple[int, int] = (0, 0)

    def at(self, origin: datetime) -> Panel:
        """The panel whose last tick is `origin`, a multiple of the step.

        Raises:
            UsageError: an unknown system, or one without any history.
            DatabaseError: the database cannot be read.
        """
        start = origin - self.lookback * self._step
        past = self._fingerprint(origin)  # before it is read: what is stored meanwhile shows as a difference next time
        panel = self._extended(start, origin) or self._read(start, origin)
        self._panel, self._past = panel, past
        return panel

    def anchored(self, origin: datetime) -> Panel:
        """The panel whose last tick is any whole second, its ticks counted back from there. It is not kept.

        Raises:
            UsageError, DatabaseError: as `at`.
        """
        start, end = origin - self.lookback * self._step, origin + MICROSECOND
        return Panel.load(
            self._database, self._system_id, start, end, step=self._step, tolerance=self.tolerance, anchor=origin,
            special_days=self._special_days,
        )  # fmt: skip

    def _read(self, start: datetime, origin: datetime) -> Panel:
        return Panel.load(
            self._database, self._system_id, start, origin + MICROSECOND, step=self._step, tolerance=self.tolerance,
            special_days=self._special_days,
        )  # fmt: skip

    def _extended(self, start: datetime, origin: datetime) -> Panel | None:
        """The kept panel with the ticks that are new, if it can be used."""
        kept = self._panel
        if kept is None:
            return None
        first, last = (from_micros(int(tick.astype("datetime64[us]").astype(np.int64))) for tick in kept.ticks[[0, -1]])
        if not first <= start <= last < origin or self._fingerprint(last) != self._past:
            return None
        new = self._read(last + self._step, origin)
        if new.stations.id != kept.stations.id or new.timezone != kept.timezone:
            return None
        joined: dict[str, Any] = {name: np.concatenate([getattr(kept, name), getattr(new, name)]) for name in _BY_TICK}
        whole = replace(new, **joined)
        wanted = whole.between(whole.before(start), len(whole))
        return replace(wanted, weather=read_weather(self._database, self._system_id, wanted.ticks))

    def _fingerprint(self, last: datetime) -> tuple[int, int]:
        """What changes when something is stored late: polls up to then, and imported rows.

        All polls, since what was true before the first tick may hold at it.
        """
        system = select(System.key).where(System.system_id == self._system_id).scalar_subquery()
        polls = select(func.count()).where(Poll.system_key == system, Poll.polled_at <= last)
        imported = select(func.coalesce(func.sum(ImportedFile.rows_done), 0)).where(ImportedFile.system_key == system)
        with self._database.read() as connection:
            return int(connection.execute(polls).scalar_one()), int(connection.execute(imported).scalar_one())
