"""An issue: one stored forecast of a whole system, with all that is needed to answer from it.

The distributions are kept as cumulative ones in 8 bits, which costs at most 0.2 % of probability. Parity with the
backtest is defined before that rounding.
"""

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zstandard
from safetensors.numpy import load, save

from velib_predictor.data.known_weather import WeatherSource
from velib_predictor.data.panel import Panel, Stations
from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.utils.errors import UsageError, VelibError
from velib_predictor.utils.temporal import format_duration, format_time, from_micros, to_micros

ONE = 255
"""What probability 1 is stored as."""
_LAYOUT = 1
_LEVEL = 6  # Zstandard's; beyond it a percent of size costs twice the time


class State(StrEnum):
    """What a forecast rests on."""

    FRESH = "fresh"
    STALE = "stale"
    DEGRADED = "degraded"
    CLOSED = "closed"


class Source(IntEnum):
    """Which link of the chain a number came from. The numbers are stored: how far each is trusted, `TRUST` says."""

    MODEL = 0
    CLIMATOLOGY = 1
    PERSISTENCE = 2
    NONE = 3
    COLDSTART = 4


TRUST = (Source.MODEL, Source.COLDSTART, Source.CLIMATOLOGY, Source.PERSISTENCE, Source.NONE)
"""The order of the chain, the most trusted first."""


@dataclass(frozen=True, eq=False)
class Issue:
    """One forecast of all stations of a system.

    Attributes:
        issued_at: the origin. made_at: when it was computed. observed_at: newest observation that was used.
        model, version: what was asked; the version is the time of its training.
        state, reason: of the issue as a whole.
        stations: who they are, [station].
        capacity, k: docks (0: not known), and the greatest count that is told apart, int16[station].
        now: counts at the origin, -1 where not observed, int16[station, channel].
        open: whether the station was in order at the origin, bool[station].
        source: where each forecast came from (`Source`), uint8[station, target].
        cdf: P(count <= k) in 255ths, uint8[station, horizon, target, count]; 255 from K on.
        weather: what of the weather was known.
    """

    system_id: str
    timezone: str
    issued_at: datetime
    made_at: datetime
    observed_at: datetime | None
    model: str
    version: str | None
    state: State
    reason: str | None
    spec: ForecastSpec
    stations: Stations
    capacity: npt.NDArray[np.int16]
    k: npt.NDArray[np.int16]
    now: npt.NDArray[np.int16]
    open: npt.NDArray[np.bool_]
    source: npt.NDArray[np.uint8]
    cdf: npt.NDArray[np.uint8]
    weather: WeatherSource = WeatherSource.NONE

    @classmethod
    def of(
        cls,
        forecast: Forecast,
        panel: Panel,
        source: npt.NDArray[np.uint8],
        *,
        made_at: datetime,
        observed_at: datetime | None,
        model: str,
        version: str | None,
        state: State,
        reason: str | None,
        weather: WeatherSource = WeatherSource.NONE,
    ) -> Self:
        """A forecast of one origin, the last tick of `panel`, made ready to be kept."""
        cdf = forecast.cdf()[0]  # [station, horizon, target, count]
        steps = np.rint(cdf * np.float32(ONE)).astype(np.uint8)  # monotone, so medians stay medians
        _order(steps, forecast)
        above = np.arange(steps.shape[-1]) >= forecast.k[0][:, None]  # [station, count]
        steps[np.broadcast_to(above[:, None, None], steps.shape)] = ONE
        return cls(
            system_id=panel.system_id,
            timezone=panel.timezone,
            issued_at=from_micros(int(forecast.origins[0].astype("datetime64[us]").astype(np.int64))),
            made_at=made_at,
            observed_at=observed_at,
            model=model,
            version=version,
            state=state,
            reason=reason,
            spec=forecast.spec,
            stations=panel.stations,
            capacity=panel.capacity[-1].astype(np.int16),
            k=forecast.k[0],
            now=np.where(panel.observed[-1], panel.counts[-1], np.int16(-1)),
            open=panel.open[-1],
            source=source,
            cdf=steps,
            weather=weather,
        )

    def with_state(self, state: State, reason: str | None) -> Self:
        """The same issue, of which something else is to be said."""
        return replace(self, state=state, reason=reason)

    # -- answers ---------------------------------------------------------------------------------------------

    def at(self, when: datetime, stations: slice | npt.NDArray[np.int64] = slice(None)) -> npt.NDArray[np.float32]:
        """P(count <= k) at any instant within reach, float32[station, target, count].

        Raises:
            UsageError: `when` lies before the issue or beyond its longest horizon.
        """
        mixed: npt.NDArray[np.float32] | None = None
        for place, share in shares(self.spec, self.issued_at, when):
            part = self._now(stations) if place < 0 else self.cdf[stations, place] * np.float32(1 / ONE)
            mixed = part * np.float32(share) if mixed is None else mixed + part * np.float32(share)
        assert mixed is not None  # noqa: S101 - for the type checker
        mixed[..., -1] = 1.0
        return mixed

    def _now(self, stations: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """What was there at the origin, as certain; where that is not known, the first horizon's forecast."""
        counts = self.now[stations][:, self.spec.channels]  # [station, target]
        size = self.cdf.shape[-1]
        certain = (np.arange(size) >= np.minimum(counts, self.k[stations, None])[..., None]).astype(np.float32)
        first = self.cdf[stations, 0] * np.float32(1 / ONE)
        return np.where((counts >= 0)[..., None], certain, first)

    def forecast(self) -> Forecast:
        """The issue as a forecast of one origin, as exact as it was kept."""
        cdf = self.cdf.astype(np.float32) * np.float32(1 / ONE)
        known = self.source != Source.NONE
        pmf = np.where(known[:, None, :, None], algebra.to_pmf(cdf), np.float32(0))
        origin = np.array([to_micros(self.issued_at)], dtype="datetime64[us]").astype("datetime64[s]")
        return Forecast(self.spec, self.model, origin, self.stations.id, pmf[None], self.k[None], known[None])

    @property
    def until(self) -> datetime:
        """The last instant that it speaks of."""
        return self.issued_at + self.spec.horizons[-1]

    # -- keeping ---------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """All arrays and the stations in one compressed block; what the database has columns for stands there."""
        within = np.arange(self.cdf.shape[-1]) <= self.k[:, None]  # [station, count]
        steps = self.cdf.copy()
        steps[..., 1:] -= self.cdf[..., :-1]  # a distribution has few large steps: it packs in half the room
        about = {
            "layout": _LAYOUT,
            "timezone": self.timezone,
            "spec": self.spec.as_dict(),
            "id": self.stations.id,
            "code": self.stations.code,
            "name": self.stations.name,
            "weather": self.weather,
        }
        arrays = {
            "about": np.frombuffer(json.dumps(about, ensure_ascii=False).encode(), dtype=np.uint8),
            "place": np.stack([self.stations.lat, self.stations.lon]),
            "capacity": self.capacity,
            "k": self.k,
            "now": self.now,
            "open": self.open,
            "source": self.source,
            "steps": np.moveaxis(steps, -1, 1)[within],  # [station x count up to K, horizon, target]
        }
        packed = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(packed)

    @classmethod
    def from_bytes(cls, body: bytes, **columns: Any) -> Self:
        """What `to_bytes` packed, with the columns of its row.

        Raises:
            VelibError: it is damaged, or was written by a newer program.
        """
        try:
            arrays = load(zstandard.ZstdDecompressor().decompress(body))
            about = json.loads(arrays["about"].tobytes())
            layout = about["layout"]
        except Exception as error:  # safetensors, Zstandard and JSON each have their own
            raise VelibError(f"the issue of {format_time(columns['issued_at'])} is damaged: {error}") from error
        if layout != _LAYOUT:
            raise VelibError(
                f"the issue of {format_time(columns['issued_at'])} has layout {layout}, this program reads "
                f"{_LAYOUT}: install the newer program"
            )
        k, size = arrays["k"], int(arrays["k"].max(initial=0)) + 1
        spec = ForecastSpec.from_dict(about["spec"])
        within = np.arange(size) <= k[:, None]  # [station, count]
        steps = np.zeros((len(k), size, len(spec.horizons), len(spec.targets)), dtype=np.uint8)
        steps[within] = arrays["steps"]
        lat, lon = arrays["place"]
        return cls(
            timezone=about["timezone"],
            spec=spec,
            stations=Stations(tuple(about["id"]), tuple(about["code"]), tuple(about["name"]), lat, lon),
            capacity=arrays["capacity"],
            k=k,
            now=arrays["now"],
            open=arrays["open"],
            source=arrays["source"],
            cdf=np.ascontiguousarray(np.moveaxis(np.cumsum(steps, axis=1, dtype=np.uint8), 1, -1)),
            weather=WeatherSource(about.get("weather", WeatherSource.NONE)),  # an older program's does not say it
            **columns,
        )


def _order(steps: npt.NDArray[np.uint8], forecast: Forecast) -> None:
    """Keep e-bikes and mechanical bikes below bikes: sums that differ in the last bit may be rounded to either side."""
    targets, known = forecast.spec.targets, forecast.known[0]  # [station, target]
    if "bikes" not in targets:
        return
    bikes = targets.index("bikes")
    for part in (targets.index(name) for name in ("mechanical", "ebikes") if name in targets):
        both = (known[:, bikes] & known[:, part])[:, None, None]
        np.maximum(steps[:, :, part], steps[:, :, bikes], out=steps[:, :, part], where=both)


def shares(spec: ForecastSpec, issued_at: datetime, when: datetime) -> list[tuple[int, float]]:
    """Which horizons an instant is the mixture of, by time: (place, share); place -1 is the origin itself.

    Raises:
        UsageError: it lies before the issue or beyond its longest horizon.
    """
    ahead = when - issued_at
    horizons = (timedelta(0), *spec.horizons)
    if not timedelta(0) <= ahead <= horizons[-1]:
        raise UsageError(
            f"{format_time(when)} cannot be forecast: forecasts issued at {format_time(issued_at)} reach to "
            f"{format_duration(horizons[-1])} after it"
        )
    after = next(place for place, horizon in enumerate(horizons) if horizon >= ahead)
    if horizons[after] == ahead:
        return [(after - 1, 1.0)]
    share = (ahead - horizons[after - 1]) / (horizons[after] - horizons[after - 1])
    return [(after - 2, 1 - share), (after - 1, share)]
