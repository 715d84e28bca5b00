"""What the regressions share: a predicted change since the origin, its predicted spread, and residual histograms.

Days are dealt into folds; each fold's rows are predicted by a regression that never saw them. What these predictions
missed makes the histograms; forecasts take the mean of the folds' regressions.
"""

from abc import abstractmethod
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from velib_predictor.config.models import ModelSettings
from velib_predictor.data.calendar import local_time
from velib_predictor.data.feature_engineering import FeatureBuilder, Sight
from velib_predictor.data.known_weather import WeatherSource
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import Arrays, Forecaster, HistoryError
from velib_predictor.models.baseline.residuals import ResidualHistograms
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import format_duration

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
FOLDS = 3
_LEAST_ROWS = 1_000


class Regression(Protocol):
    """One fitted regression of one number on features."""

    @classmethod
    def fit(cls, features: Floats, wanted: Floats, unseen: tuple[Floats, Floats] | None = None) -> Self:
        """Fit `wanted` [row] on float32[row, feature], NaN where not known.

        `unseen` rows may say how far to go, and nothing else. Without them `wanted` is a size, never below 0.
        """

    def predict(self, features: Floats) -> Floats:
        """Predictions, float32[row]."""

    def save(self, file: Path) -> None:
        """Write it, without pickle; the suffix is the class's own."""

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote."""


class Rows(NamedTuple):
    """Rows of training: origin (tick), station, horizon (ticks ahead, and its place among the horizons), [row]."""

    tick: Indices
    station: Indices
    ahead: Indices
    horizon: Indices


class TargetModel(NamedTuple):
    """What is learned for one target."""

    builder: FeatureBuilder
    change: list[Regression]
    spread: Regression
    scale: Floats  # counts that one unit of the regressions' answer means, [horizon]
    histograms: ResidualHistograms


class ChangeModel(Forecaster):
    """A forecaster by regression on the change since the origin, one for each target over all horizons."""

    regression: ClassVar[type[Regression]]
    most_rows: ClassVar[int]
    """Rows that a target's regressions learn from, drawn evenly over the horizons."""

    def __init__(self, spec: ForecastSpec, settings: ModelSettings | None = None) -> None:
        super().__init__(spec, settings)
        check_divides_a_day(self.name, spec)
        self.targets: list[TargetModel] = []

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        fitted = [self._fit_target(train, channel) for channel in self.spec.channels]
        self.targets = [model for model, _ in fitted]
        rows = sum(count for _, count in fitted)
        return rows, {"rows": "origin x station x horizon", "features": self.targets[0].builder.names, "folds": FOLDS}

    def _fit_target(self, train: Panel, channel: int) -> tuple[TargetModel, int]:
        builder = FeatureBuilder(channel, max(train.step_s // 60, 1))
        sight = builder.fit(train)
        rows = self._rows(train, channel)
        now = train.counts[rows.tick, rows.station, channel].astype(np.int64)
        change = train.counts[rows.tick + rows.ahead, rows.station, channel] - now
        size = sight.size[rows.station].astype(np.int64)
        # Every horizon is to count alike, so each is measured in its own typical change.
        spread_of = [float(change[rows.horizon == h].std()) for h in range(len(self.spec.horizons))]
        scale = np.maximum(np.array(spread_of, dtype=np.float32), np.float32(0.05))
        unit = scale[rows.horizon]
        features = self._features(builder, sight, rows)
        fold = folds_of(train, rows.tick)
        wanted = (change / unit).astype(np.float32)
        predicted, regressions = np.empty_like(wanted), []
        for which in range(FOLDS):
            out = fold == which
            unseen = features[out], wanted[out]
            regressions.append(self.regression.fit(features[~out], wanted[~out], unseen))
            predicted[out] = regressions[-1].predict(features[out])
        missed = np.abs(wanted - predicted)
        spread = self.regression.fit(features, missed)
        histograms = ResidualHistograms.fit(
            change, predicted * unit, spread.predict(features) * unit, now, np.maximum(size - now, 0)
        )
        return TargetModel(builder, regressions, spread, scale, histograms), len(change)

    @staticmethod
    def _features(builder: FeatureBuilder, sight: Sight, rows: Rows) -> Floats:
        parts = np.array_split(np.arange(len(rows.tick)), max(len(rows.tick) // 50_000, 1))
        return np.concatenate(
            [builder.rows(sight, rows.tick[part], rows.station[part], rows.ahead[part]) for part in parts]
        )

    def _rows(self, train: Panel, channel: int) -> Rows:
        """Rows whose origin and truth are known, at random, the same number for each horizon."""
        random = np.random.default_rng(0)
        seen = train.observed[:, :, channel] & train.trusted  # [tick, station]
        parts = []
        for horizon, ahead in enumerate(self.spec.horizon_ticks):
            usable = np.flatnonzero(seen[:-ahead] & train.open[:-ahead] & seen[ahead:])
            wanted = self.most_rows // len(self.spec.horizon_ticks)
            if len(usable) > wanted:
                usable = np.sort(usable[random.integers(0, len(usable), wanted)])
            tick, station = np.divmod(usable, seen.shape[1])
            parts.append((tick, station, np.full_like(tick, ahead), np.full_like(tick, horizon)))
        rows = Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        counts = np.bincount(rows.horizon, minlength=len(self.spec.horizon_ticks))
        if counts.min() < _LEAST_ROWS:
            shortest = self.spec.horizons[int(counts.argmin())]
            raise HistoryError(
                f"too little history to fit {self.name}: {int(counts.min())} pairs of an origin and a truth "
                f"{format_duration(shortest)} later, {_LEAST_ROWS} are needed; "
                "collect or import more, or ask for shorter horizons"
            )
        return rows

    @property
    def lookback(self) -> int:
        """See `Forecaster`."""
        return max((model.builder.lookback for model in self.targets), default=0)

    def weather_of(self, seen: Panel) -> WeatherSource:
        """See `Forecaster`."""
        return self.targets[0].builder.outside.source(seen)

    def _predict(self, seen: Panel) -> Forecast:
        k = self.greatest(seen)
        now, known = self.now(seen, k)
        horizons, size = len(self.spec.horizons), int(k.max()) + 1
        pmf = np.empty((len(k), horizons, len(self.targets), size), dtype=np.float32)
        places = self.places(seen)
        most = np.repeat(k.astype(np.int64), horizons)
        sight: Sight | None = None
        for target, model in enumerate(self.targets):
            sight = model.builder.sight(seen, places, self.spec.horizon_ticks[-1], sight)
            features = model.builder.all_rows(sight, self.spec.horizon_ticks)
            unit = np.tile(model.scale, len(k))
            change = np.mean([regression.predict(features) for regression in model.change], axis=0) * unit
            spread = model.spread.predict(features) * unit
            counts = model.histograms.pmf(change, spread, np.repeat(now[:, target], horizons), most, size)
            pmf[:, :, target] = counts.reshape(len(k), horizons, size)
        return self.block(seen, pmf, k, known)

    # -- keeping ---------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def suffix(cls) -> str:
        """Ending of a regression's file."""

    def _state(self, folder: Path) -> Arrays:
        arrays: Arrays = {}
        for name, model in zip(self.spec.targets, self.targets, strict=True):
            for number, regression in enumerate([*model.change, model.spread]):
                regression.save(folder / f"{name}_{number}{self.suffix()}")
            arrays |= {
                f"{name}.scale": model.scale,
                f"{name}.edges": model.histograms.edges,
                f"{name}.table": model.histograms.table,
                **named(name, model.builder.state()),
            }
        return arrays

    def _restore(self, arrays: Arrays, folder: Path) -> None:
        step_min = int(self.spec.step.total_seconds()) // 60
        for name, channel in zip(self.spec.targets, self.spec.channels, strict=True):
            builder = FeatureBuilder.restored(channel, step_min, of_name(name, arrays))
            *change, spread = (
                self.regression.load(folder / f"{name}_{number}{self.suffix()}") for number in range(FOLDS + 1)
            )
            histograms = ResidualHistograms(arrays[f"{name}.edges"], arrays[f"{name}.table"])
            self.targets.append(TargetModel(builder, change, spread, arrays[f"{name}.scale"], histograms))


def check_divides_a_day(name: str, spec: ForecastSpec) -> None:
    """Refuse a step that the feature builders cannot use.

    Raises:
        UsageError: it is no whole minutes, or does not divide a day.
    """
    if spec.step % timedelta(minutes=1) or timedelta(days=1) % spec.step:
        raise UsageError(
            f"the model {name} needs a step of whole minutes that divides a day, such as 15m; "
            f"got {format_duration(spec.step)}"
        )


def named(name: str, arrays: Arrays) -> Arrays:
    """Arrays under names that begin with a target's; `of_name` takes them back."""
    return {f"{name}.{key}": array for key, array in arrays.items()}


def of_name(name: str, arrays: Arrays) -> Arrays:
    """The arrays whose names begin with a target's, without that beginning."""
    return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}


def folds_of(train: Panel, tick: Indices) -> Indices:
    """The fold of each row, by the local day of its origin; with too few days, by thirds of the time."""
    day = local_time(train.ticks, train.timezone).day[tick]
    days, place = np.unique(day, return_inverse=True)
    if len(days) >= FOLDS:
        return place % FOLDS
    return np.minimum(np.searchsorted(np.quantile(tick, np.arange(1, FOLDS) / FOLDS), tick), FOLDS - 1)
