"""The panel: a system's stations on a regular grid of ticks, with explicit masks. What features and models read."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from velib_predictor.data.known_weather import KnownWeather
from velib_predictor.data.special_days import SpecialDays
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import EPOCH, MICROSECOND, format_duration, format_time, from_micros

if TYPE_CHECKING:
    from velib_predictor.data.database import Database

CHANNELS = ("bikes", "mechanical", "ebikes", "docks")
BIKES, MECHANICAL, EBIKES, DOCKS = range(4)
MISSING = -1
"""What `counts` holds where nothing was observed."""

Ticks = npt.NDArray[np.datetime64]
Counts = npt.NDArray[np.int16]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Stations:
    """The stations of a panel, in its order.

    Attributes:
        id: the feed's ids, [station].
        code: public numbers on the kiosks, None where there is none, [station].
        name: for people, None where not known, [station].
        lat, lon: degrees, NaN where not known, float64[station].
    """

    id: tuple[str, ...]
    code: tuple[str | None, ...]
    name: tuple[str | None, ...]
    lat: npt.NDArray[np.float64]
    lon: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.id)

    def index(self, id_or_code: str) -> int:
        """Where the station with that id, else with that code, stands.

        Raises:
            UsageError: there is none.
        """
        for names in (self.id, self.code):
            if id_or_code in names:
                return names.index(id_or_code)
        near = sorted(self.id, key=lambda name: (not name.startswith(id_or_code[:2]), name))[:5]
        raise UsageError(f"no station {id_or_code!r} (id or code); there are {len(self)}, such as {', '.join(near)}")

    def positions_in(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Where each of these stations stands in `ids`; -1 where it does not, int64[station]."""
        place = {name: position for position, name in enumerate(ids)}
        return np.array([place.get(name, -1) for name in self.id], dtype=np.int64)

    def take(self, places: npt.NDArray[np.int64]) -> Self:
        """Some of the stations, in that order."""
        chosen = places.tolist()
        return type(self)(
            tuple(self.id[place] for place in chosen), tuple(self.code[place] for place in chosen),
            tuple(self.name[place] for place in chosen), self.lat[places], self.lon[places],
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Panel:
    """Stations on a regular grid.

    A cell is the last observation at or before its tick that is not older than the tolerance; else it is masked.
    0 is a value. Closed is not 0. Nothing is interpolated.

    Attributes:
        system_id: the system.
        timezone: IANA zone of its calendar.
        ticks: UTC, ascending, `step` apart, datetime64[s][tick].
        step, tolerance: of the grid and of the as-of rule.
        stations: who they are.
        counts: int16[tick, station, channel], in the order of `CHANNELS`; `MISSING` where not observed.
        observed: bool[tick, station, channel]. Causal: a tick's cells depend on nothing later. The one mask that
            features and `predict` read.
        trusted: bool[tick, station]. Retrospective: false in spells in which the feed stood still, and for values
            that were taken back at once. Read by `fit` and scoring only.
        open: bool[tick, station]: observed, and by no flag out of order.
        capacity: int16[tick, station], as it was known then; 0 where not known.
        weather: the forecasts of it that were known at the last tick.
        special_days: school holidays and events.
    """

    system_id: str
    timezone: str
    ticks: Ticks
    step: timedelta
    tolerance: timedelta
    stations: Stations
    counts: Counts
    observed: Mask
    trusted: Mask
    open: Mask
    capacity: Counts
    weather: KnownWeather = field(default_factory=KnownWeather.none)
    special_days: SpecialDays = field(default_factory=SpecialDays)

    @classmethod
    def load(
        cls,
        database: "Database | str",
        system_id: str,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        step: timedelta = timedelta(minutes=15),
        tolerance: timedelta | None = None,
        special_days: SpecialDays | None = None,
        anchor: datetime = EPOCH,
    ) -> "Panel":
        """Read a system's history from a database (or its address): ticks in [start, end).

        Args:
            start, end: of the period; by default from the first row to the first tick at or after the last one.
            step: of the grid.
            tolerance: oldest value that a tick takes; the step if not given.
            special_days: of the system; the school holidays of its country if not given, or if they name no zone.
            anchor: an instant that is a tick, with all whole steps from it; 1970 UTC, as for stored issues.

        Raises:
            UsageError: an unknown system, one without a time zone, an empty period, or a step that is no whole number
                of seconds.
            ValueError: a naive time.
            DatabaseError: the database cannot be read.
        """
        from velib_predictor.data.database import Database
        from velib_predictor.data.preprocessor import load_panel

        age = step if tolerance is None else tolerance
        opened = database if isinstance(database, Database) else Database(database)
        try:
            return load_panel(
                opened, system_id, start, end, step=step, tolerance=age, special_days=special_days, anchor=anchor
            )
        finally:
            if opened is not database:
                opened.close()

    def __len__(self) -> int:
        return len(self.ticks)

    def __repr__(self) -> str:
        span = f"{self.ticks[0]}Z to {self.ticks[-1]}Z" if len(self) else "no ticks"
        share = self.observed.any(axis=2).mean() if self.observed.size else 0.0
        return (
            f"Panel({self.system_id}: {len(self)} ticks every {format_duration(self.step)}, {span}, "
            f"{len(self.stations)} stations, {share:.0%} observed)"
        )

    @property
    def step_s(self) -> int:
        """Seconds between two ticks."""
        return int(self.step.total_seconds())

    def before(self, time: datetime) -> int:
        """How many ticks lie before `time`."""
        micros = (time - from_micros(0)) // MICROSECOND
        return int(np.searchsorted(self.ticks.astype("datetime64[us]").astype(np.int64), micros, side="left"))

    def places(self, origins: Ticks) -> npt.NDArray[np.int64]:
        """Where each of these instants stands among the ticks, int64[origin].

        Raises:
            UsageError: one of them is no tick of this panel.
        """
        wanted, ticks = origins.astype("datetime64[us]"), self.ticks.astype("datetime64[us]")
        found = np.searchsorted(ticks, wanted)
        right = np.append(ticks, np.datetime64("NaT"))[found] == wanted  # [origin]
        if not right.all():
            raise UsageError(f"{wanted[~right][0].item()}Z is no tick of {self!r}; origins are its own ticks")
        return found.astype(np.int64)

    def between(self, first: int, last: int) -> Self:
        """The ticks [first, last) as a panel whose arrays are views of this one's; what came later is not in it."""
        by_tick = ("ticks", "counts", "observed", "trusted", "open", "capacity")
        parts = {name: getattr(self, name)[first:last] for name in by_tick}
        return replace(self, **parts, weather=self.weather.until(parts["ticks"]))

    def take(self, places: npt.NDArray[np.int64]) -> Self:
        """Some of the stations, in that order; copied."""
        cells = ("counts", "observed", "trusted", "open", "capacity")
        return replace(
            self, stations=self.stations.take(places), **{name: getattr(self, name)[:, places] for name in cells}
        )

    def totals(self) -> Counts:
        """Bikes and free docks together, 0 where one of them was not observed, int16[tick, station]."""
        both = self.observed[:, :, BIKES] & self.observed[:, :, DOCKS]
        return np.where(both, self.counts[:, :, BIKES] + self.counts[:, :, DOCKS], 0).astype(np.int16)

    def describe(self) -> dict[str, Any]:
        """What it covers, in plain JSON values; null ticks where it has none."""
        first, last = (self._tick(place) if len(self) else None for place in (0, -1))
        return {
            "system_id": self.system_id,
            "timezone": self.timezone,
            "first_tick": first,
            "last_tick": last,
            "step": format_duration(self.step),
            "tolerance": format_duration(self.tolerance),
            "stations": len(self.stations),
        }

    def fingerprint(self) -> str:
        """SHA-256 of all that can be learned from it: panels share it if they agree bit for bit, and hardly else."""
        places = [self.stations.lat.tolist(), self.stations.lon.tolist()]
        digest = hashlib.sha256(json.dumps([self.describe(), self.stations.id, places, CHANNELS]).encode())
        for name in ("ticks", "counts", "observed", "trusted", "open", "capacity"):
            digest.update(np.ascontiguousarray(getattr(self, name)).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def _tick(self, place: int) -> str:
        return format_time(from_micros(int(self.ticks[place].astype(np.int64)) * 1_000_000))


def same_layout(one: Panel, other: Panel) -> bool:
    """Whether two panels agree bit for bit (for tests of parity)."""
    for part in fields(Panel):
        left, right = getattr(one, part.name), getattr(other, part.name)
        if isinstance(left, KnownWeather):
            equal = left.same(right)
        else:
            equal = np.array_equal(left, right) if isinstance(left, np.ndarray) else left == right
        if not equal and part.name != "stations":
            return False
    return one.stations.id == other.stations.id
