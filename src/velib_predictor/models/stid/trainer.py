"""STID as a forecaster: three networks, each blind to a third of the days, whose distributions are averaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import local_time
from velib_predictor.data.feature_engineering import FeatureBuilder, Sight
from velib_predictor.data.panel import Panel
from velib_predictor.data.profiles import Profile
from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import Arrays, Forecaster
from velib_predictor.models.baseline.change import folds_of
from velib_predictor.models.stid.dataset import Outcomes, Rows, Scaling, draw, moments, outcomes, raw_rows
from velib_predictor.utils.errors import UsageError

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
FOLDS = 3
_SCORED_ROWS = 12_000
_SHORT_DAYS = 14
"""History below which the network is small: a large one memorises a week (Vélib', 2024-11)."""


class Stid(Forecaster):
    """Networks on the features of the trees, with embeddings of station, time of day and kind of day."""

    name = "stid"
    most_rows: ClassVar[int] = 400_000
    epochs: ClassVar[int] = 12

    def __init__(self, spec: ForecastSpec) -> None:
        super().__init__(spec)
        self.builders: list[FeatureBuilder] = []
        self.scaling: Scaling | None = None
        self.slots = 1
        self._networks: list[Callable[[Rows], Floats]] = []
        self._files: list[bytes] = []

    # -- fitting ---------------------------------------------------------------------------------------------

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        step_min = max(train.step_s // 60, 1)
        self.builders = [FeatureBuilder(channel, step_min) for channel in self.spec.channels]
        sights = [builder.fit(train) for builder in self.builders]
        tick, station, horizon = draw(train, self.spec, self.most_rows)
        ahead = np.array(self.spec.horizon_ticks)[horizon]
        size = np.maximum(sights[0].size, 1).astype(np.int64)
        came = outcomes(train, self.spec, tick, station, ahead, size)
        change = np.where(came.known, came.truth - came.now, np.nan)
        unit = np.stack([np.nanstd(change[horizon == h], axis=0) for h in range(len(self.spec.horizons))])
        unit = np.maximum(np.nan_to_num(unit, nan=1.0), 0.05).astype(np.float32)
        raw = raw_rows(self.builders, sights, tick, station, ahead)
        self.scaling = Scaling.fit(raw, unit)
        local = local_time(train.ticks, train.timezone)
        days = len(np.unique(local.day[tick]))
        self.slots = 1 if not self.builders[0].knows_time else 24 if days < _SHORT_DAYS else 48
        rows = self._rows(raw, station, moments(local, np.stack([tick, tick + ahead], axis=1), self.slots), horizon)
        fold = folds_of(train, tick)
        reached = self._fit_networks(rows, came, fold, len(train.stations), days)
        return len(rows), {"rows": "origin x station x horizon", "folds": FOLDS, "days": days, "rps": reached}

    def _fit_networks(self, rows: Rows, came: Outcomes, fold: Indices, stations: int, days: int) -> list[float]:
        try:
            from velib_predictor.models.stid.fitting import fit_fold
        except ImportError as error:
            raise UsageError(
                f"training {self.name} needs torch and Lightning, and {error.name} is not installed: `make setup-deep` "
                "or `pip install 'velib-predictor[deep]'`; a trained one is served without them"
            ) from None
        random = np.random.default_rng(0)
        self._files, reached = [], []
        for which in range(FOLDS):
            inside, outside = np.flatnonzero(fold != which), np.flatnonzero(fold == which)
            held_out = random.permutation(outside)[:_SCORED_ROWS]
            file, score = fit_fold(
                rows.take(inside), came.take(inside), rows.take(held_out), came.take(held_out),
                stations=stations, slots=self.slots, small=days < _SHORT_DAYS, epochs=self.epochs, seed=which,
            )  # fmt: skip
            self._files.append(file)
            reached.append(score)
        self._networks = [_session(file) for file in self._files]
        return reached

    # -- forecasting -----------------------------------------------------------------------------------------

    @property
    def lookback(self) -> int:
        """See `Forecaster`."""
        return max((builder.lookback for builder in self.builders), default=0)

    def _predict(self, seen: Panel) -> Forecast:
        k = self.greatest(seen)
        now, known = self.now(seen, k)
        places, ahead = self.places(seen), self.spec.horizon_ticks
        sights: list[Sight] = []
        for builder in self.builders:
            sights.append(builder.sight(seen, places, ahead[-1], sights[-1] if sights else None))
        raw = np.concatenate([b.all_rows(s, ahead) for b, s in zip(self.builders, sights, strict=True)], axis=1)
        count, horizons = len(k), len(ahead)
        future = seen.ticks[-1] + np.arange(ahead[-1] + 1) * np.timedelta64(seen.step_s, "s")
        local = local_time(future, seen.timezone)
        when = moments(local, np.stack([np.zeros(horizons, dtype=np.int64), np.array(ahead)], axis=1), self.slots)
        station = np.repeat(np.where(places < 0, len(self.stations), places), horizons)
        slot, day = (np.tile(part, (count, 1)) for part in when)
        rows = self._rows(raw, station, (slot, day), np.tile(np.arange(horizons), count))
        size = int(k.max()) + 1
        each_now, each_k = np.repeat(now, horizons, axis=0), np.repeat(k, horizons)
        pmf = np.mean([_pmf(network(rows), each_now, each_k, size) for network in self._networks], axis=0)
        return self.block(seen, pmf.reshape(count, horizons, len(self.spec.targets), size), k, known)

    def _rows(self, raw: Floats, station: Indices, when: tuple[Indices, Indices], horizon: Indices) -> Rows:
        assert self.scaling is not None  # noqa: S101 - for the type checker
        slot, day = when
        if self.slots == 1:  # too short a history to know times of day: nor kinds of day
            day = np.zeros_like(day)
        return Rows(self.scaling.apply(raw), station, slot, day, self.scaling.unit[horizon])

    # -- keeping ---------------------------------------------------------------------------------------------

    def _state(self, folder: Path) -> Arrays:
        assert self.scaling is not None  # noqa: S101 - for the type checker
        for number, file in enumerate(self._files):
            (folder / f"network_{number}.onnx").write_bytes(file)
        arrays: Arrays = {
            "middle": self.scaling.middle, "width": self.scaling.width, "unit": self.scaling.unit,
            "slots": np.array([self.slots]),
        }  # fmt: skip
        for name, builder in zip(self.spec.targets, self.builders, strict=True):
            assert builder.profile is not None  # noqa: S101 - for the type checker
            arrays |= {
                f"{name}.profile": builder.profile.values,
                f"{name}.rate": builder.rate,
                f"{name}.middle": np.array(builder.middle),
                f"{name}.knows_time": np.array([builder.knows_time]),
                f"{name}.largest": builder.largest,
            }
        return arrays

    def _restore(self, arrays: Arrays, folder: Path) -> None:
        step_min = int(self.spec.step.total_seconds()) // 60
        self.scaling = Scaling(arrays["middle"], arrays["width"], arrays["unit"])
        self.slots = int(arrays["slots"][0])
        for name, channel in zip(self.spec.targets, self.spec.channels, strict=True):
            builder = FeatureBuilder(channel, step_min)
            builder.profile = Profile(arrays[f"{name}.profile"], step_min)
            builder.rate, builder.largest = arrays[f"{name}.rate"], arrays[f"{name}.largest"]
            builder.middle = (float(arrays[f"{name}.middle"][0]), float(arrays[f"{name}.middle"][1]))
            builder.knows_time = bool(arrays[f"{name}.knows_time"][0])
            self.builders.append(builder)
        self._files = [(folder / f"network_{number}.onnx").read_bytes() for number in range(FOLDS)]
        self._networks = [_session(file) for file in self._files]


def _pmf(parameters: Floats, now: npt.NDArray[np.int64], k: npt.NDArray[np.int16], size: int) -> Floats:
    """Distributions of rows, float32[row, target, count]; parameters [row, target, 3, component], now [row, target]."""
    weights, location, scale = (parameters[:, :, part] for part in range(3))
    k = np.broadcast_to(k[:, None], now.shape)
    return algebra.logistic_mixture(weights, location, scale, now, k, size)


def _session(file: bytes) -> Callable[[Rows], Floats]:
    """A network that is asked through onnxruntime: no torch where it serves."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def ask(rows: Rows) -> Floats:
        given = {
            "features": rows.features,
            "station": rows.station,
            "slot": rows.slot,
            "day": rows.day,
            "unit": rows.unit,
        }
        (parameters,) = session.run(None, given)
        return np.asarray(parameters, dtype=np.float32)

    return ask
