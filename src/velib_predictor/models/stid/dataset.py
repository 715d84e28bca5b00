"""Rows for the network, made by the builders that trees share: (origin, station, horizon), all targets at once."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import FREE_DAY, LocalTime
from velib_predictor.data.feature_engineering import FeatureBuilder, Sight
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import ForecastSpec

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
HOLIDAY = 7
_CHUNK = 50_000
CLIP = 6.0
"""Standardised features are cut off here: a station far away must not run away with the network."""


@dataclass(frozen=True, eq=False)
class Rows:
    """What the network is told.

    Attributes:
        features: standardised, NaN where not known, float32[row, feature].
        station: place among those of training, the last number for others, int64[row].
        slot, day: of the origin and of the target, int64[row, moment].
        unit: typical change, float32[row, target].
    """

    features: Floats
    station: Indices
    slot: Indices
    day: Indices
    unit: Floats

    def __len__(self) -> int:
        return len(self.station)

    def take(self, rows: Indices) -> "Rows":
        """Some of the rows."""
        return Rows(self.features[rows], self.station[rows], self.slot[rows], self.day[rows], self.unit[rows])


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What came: now, truth and known [row, target], k [row]; now and truth lie within 0..K."""

    now: Floats
    truth: Floats
    known: npt.NDArray[np.bool_]
    k: Floats

    def take(self, rows: Indices) -> "Outcomes":
        """Those of some of the rows."""
        return Outcomes(self.now[rows], self.truth[rows], self.known[rows], self.k[rows])


@dataclass(frozen=True, eq=False)
class Scaling:
    """How features are standardised: middle, width [feature]; unit: typical change, float32[horizon, target]."""

    middle: Floats
    width: Floats
    unit: Floats

    @classmethod
    def fit(cls, features: Floats, unit: Floats) -> "Scaling":
        """From raw features of training rows."""
        middle, variance = np.zeros((2, features.shape[1]))
        for column, values in enumerate(features.T):  # one at a time: there may be hundreds of megabytes of them
            known = values[~np.isnan(values)].astype(np.float64)
            if len(known):
                middle[column], variance[column] = known.mean(), known.var()
        width = np.sqrt(np.where(variance > 1e-12, variance, 1.0))
        return cls(middle.astype(np.float32), width.astype(np.float32), unit)

    def apply(self, features: Floats) -> Floats:
        """The features standardised, in place; what is not known stays NaN."""
        features -= self.middle
        features /= self.width
        return np.clip(features, -CLIP, CLIP, out=features)


def by_horizon(rows: Rows, here: Indices, there: Indices, together: int = 1) -> list[npt.NDArray[np.generic]]:
    """What `Stid` is asked with, from rows of which so many that follow each other share origin and station.

    Args:
        here, there: places of the features of the origin, and of those that depend on the horizon.
    """
    shape = (len(rows) // together, together, -1)
    return [
        np.ascontiguousarray(rows.features[::together, here]), rows.features[:, there].reshape(shape),
        np.ascontiguousarray(rows.station[::together]), rows.slot.reshape(shape), rows.day.reshape(shape),
        rows.unit.reshape(shape),
    ]  # fmt: skip


def raw_rows(
    builders: list[FeatureBuilder], sights: list[Sight], tick: Indices, station: Indices, ahead: Indices
) -> Floats:
    """The builders' features of all targets side by side, float32[row, feature]."""
    found = np.empty((len(tick), sum(len(builder.names) for builder in builders)), dtype=np.float32)
    for part in np.array_split(np.arange(len(tick)), max(len(tick) // _CHUNK, 1)):
        first = 0
        for builder, sight in zip(builders, sights, strict=True):
            last = first + len(builder.names)
            found[part, first:last] = builder.rows(sight, tick[part], station[part], ahead[part])
            first = last
    return found


def moments(local: LocalTime, places: Indices, slots: int) -> tuple[Indices, Indices]:
    """Slot of the local day and kind of day at places of a calendar, int64[...] each."""
    slot = local.minute[places].astype(np.int64) * slots // 1440
    weekday = local.weekday[places].astype(np.int64)
    holiday = (weekday < 5) & (local.day_type[places] == FREE_DAY)
    return slot, np.where(holiday, HOLIDAY, weekday)


def draw(train: Panel, spec: ForecastSpec, most: int, seed: int = 0) -> tuple[Indices, Indices, Indices]:
    """Rows of training at random, as many for each horizon: tick, station, and place of the horizon, int64[row].

    Origins are open, observed and trusted for some target, and so is the truth.
    """
    random = np.random.default_rng(seed)
    seen = train.observed[:, :, spec.channels].any(axis=2) & train.trusted  # [tick, station]
    parts = []
    for horizon, ahead in enumerate(spec.horizon_ticks):
        usable = np.flatnonzero(seen[:-ahead] & train.open[:-ahead] & seen[ahead:])
        wanted = most // len(spec.horizon_ticks)
        if len(usable) > wanted:
            usable = np.sort(usable[random.integers(0, len(usable), wanted)])
        tick, station = np.divmod(usable, seen.shape[1])
        parts.append((tick, station, np.full_like(tick, horizon)))
    ticks, stations, horizons = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ticks, stations, horizons


def outcomes(
    train: Panel, spec: ForecastSpec, tick: Indices, station: Indices, ahead: Indices, size: Indices
) -> Outcomes:
    """What came of rows; `size` is K of each station, int64[station]."""
    channels = list(spec.channels)
    k = size[station].astype(np.float32)
    now = train.counts[tick, station][:, channels]
    truth = train.counts[tick + ahead, station][:, channels]
    known = train.observed[tick, station][:, channels] & train.observed[tick + ahead, station][:, channels]
    return Outcomes(
        np.clip(now, 0, k[:, None]).astype(np.float32), np.clip(truth, 0, k[:, None]).astype(np.float32), known, k
    )


def together_of(came: Outcomes, together: int) -> Outcomes:
    """Outcomes of examples: now, truth and known [example, horizon, target], k [example, horizon]."""
    shape = (-1, together, came.now.shape[1])
    return Outcomes(
        came.now.reshape(shape), came.truth.reshape(shape), came.known.reshape(shape), came.k.reshape(-1, together)
    )
