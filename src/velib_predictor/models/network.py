"""What learned models share: three networks, each blind to a third of the days, whose distributions are averaged.

A model of its own says which rows it learns from, how its networks are fitted, and what they are given. They are served
by onnxruntime: no torch where it serves.
"""

import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import local_time
from velib_predictor.data.feature_engineering import FeatureBuilder, Sight
from velib_predictor.data.panel import Panel
from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import Arrays, Forecaster, HistoryError
from velib_predictor.models.baseline.change import check_divides_a_day, folds_of, named, of_name
from velib_predictor.models.stid.dataset import Outcomes, Rows, Scaling, moments, outcomes, raw_rows
from velib_predictor.utils.errors import UsageError

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Given = dict[str, npt.NDArray[Any]]
"""What a network is asked with: an array for each of its inputs."""
Fitter = Callable[[Indices, Indices, int], tuple[bytes, float]]
"""(examples to learn from, examples to stop by, seed) -> ONNX file, score on the latter."""
FOLDS = 3
_SHORT_DAYS = 14
"""History below which the network is small: a large one memorises a week (Vélib', 2024-11)."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """What is learned from.

    Attributes:
        train: the panel of training. size: docks in all, float32[station].
        tick: of the origins, int64[row]. rows, came: what the network is told, and what came.
        sights: of each target, what features of training are read from.
        small: whether the history is so short that the network must be.
    """

    train: Panel
    size: Floats
    tick: Indices
    rows: Rows
    came: Outcomes
    sights: list[Sight]
    small: bool


class NetworkModel(Forecaster):
    """See the module. Rows are (origin, station, horizon), of all targets at once."""

    most_rows: ClassVar[int] = 400_000
    epochs: ClassVar[int] = 12
    scored_rows: ClassVar[int] = 12_000
    """Held-out rows, at most, by which it is known when to stop."""

    def __init__(self, spec: ForecastSpec) -> None:
        super().__init__(spec)
        check_divides_a_day(self.name, spec)
        self.builders: list[FeatureBuilder] = []
        self.scaling: Scaling | None = None
        self.slots = 1
        self._networks: list[Callable[[Given], Floats]] = []
        self._files: list[bytes] = []

    # -- what a model says of its own ------------------------------------------------------------------------

    @property
    def together(self) -> int:
        """Rows that make an example: so many that follow each other share their origin."""
        return 1

    def columns(self) -> Indices | None:
        """Which of the builders' columns the network is told, all targets side by side; None: all."""
        return None

    @abstractmethod
    def _draw(self, train: Panel) -> tuple[Indices, Indices, Indices]:
        """Rows to learn from: tick, station, and place of the horizon, int64[row]."""

    @abstractmethod
    def _fitter(self, lesson: Lesson) -> Fitter:
        """What fits one network; an ImportError says that it cannot be had."""

    @abstractmethod
    def _given(self, rows: Rows, seen: Panel, size: Floats) -> Given:
        """What the networks are asked with, from rows of each station and horizon; `size` [station]."""

    # -- fitting ---------------------------------------------------------------------------------------------

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        step_min = max(train.step_s // 60, 1)
        self.builders = [FeatureBuilder(channel, step_min) for channel in self.spec.channels]
        sights = [builder.fit(train) for builder in self.builders]
        tick, station, horizon = self._draw(train)
        if not len(tick):
            raise HistoryError(
                f"too little history to fit {self.name}: there is no origin with a truth to learn from; "
                "collect or import more, or ask for shorter horizons"
            )
        ahead = np.array(self.spec.horizon_ticks)[horizon]
        size = np.maximum(sights[0].size, 1).astype(np.int64)
        came = outcomes(train, self.spec, tick, station, ahead, size)
        change = np.where(came.known, came.truth - came.now, np.nan)
        unit = np.stack([_typical(change[horizon == h]) for h in range(len(self.spec.horizons))])
        raw = self._chosen(raw_rows(self.builders, sights, tick, station, ahead))
        self.scaling = Scaling.fit(raw, unit)
        local = local_time(train.ticks, train.timezone)
        days = len(np.unique(local.day[tick]))
        self.slots = 1 if not self.builders[0].knows_time else 24 if days < _SHORT_DAYS else 48
        rows = self._rows(raw, station, moments(local, np.stack([tick, tick + ahead], axis=1), self.slots), horizon)
        reached = self._fit_networks(Lesson(train, sights[0].size, tick, rows, came, sights, days < _SHORT_DAYS))
        return len(rows), {"rows": "origin x station x horizon", "folds": FOLDS, "days": days, "rps": reached}

    def _fit_networks(self, lesson: Lesson) -> list[float]:
        # Said before torch is loaded: waiting threads sleep (see `linear`), else XGBoost, fitted later, is much slower.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        try:
            fit = self._fitter(lesson)
        except ImportError as error:
            raise UsageError(
                f"training {self.name} needs torch and Lightning, and {error.name} is not installed: `make setup-deep` "
                "or `pip install 'velib-predictor[deep]'`; a trained one is served without them"
            ) from None
        random = np.random.default_rng(0)
        fold = folds_of(lesson.train, lesson.tick)[:: self.together]  # [example]
        self._files, reached = [], []
        for which in range(FOLDS):
            inside, outside = np.flatnonzero(fold != which), np.flatnonzero(fold == which)
            file, score = fit(inside, random.permutation(outside)[: self.scored_rows // self.together], which)
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
        rows = self._rows(self._chosen(raw), station, (slot, day), np.tile(np.arange(horizons), count))
        given = self._given(rows, seen, sights[0].size)
        size = int(k.max()) + 1
        each_now, each_k = np.repeat(now, horizons, axis=0), np.repeat(k, horizons)
        pmf = np.mean([_pmf(network(given), each_now, each_k, size) for network in self._networks], axis=0)
        return self.block(seen, pmf.reshape(count, horizons, len(self.spec.targets), size), k, known)

    def _chosen(self, raw: Floats) -> Floats:
        columns = self.columns()
        return raw if columns is None else raw[:, columns]

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
            arrays |= named(name, builder.state())
        return arrays

    def _restore(self, arrays: Arrays, folder: Path) -> None:
        step_min = int(self.spec.step.total_seconds()) // 60
        self.scaling = Scaling(arrays["middle"], arrays["width"], arrays["unit"])
        self.slots = int(arrays["slots"][0])
        self.builders = [
            FeatureBuilder.restored(channel, step_min, of_name(name, arrays))
            for name, channel in zip(self.spec.targets, self.spec.channels, strict=True)
        ]
        self._files = [(folder / f"network_{number}.onnx").read_bytes() for number in range(FOLDS)]
        self._networks = [_session(file) for file in self._files]


def _typical(change: npt.NDArray[np.floating]) -> Floats:
    """The standard deviation of each target's changes, float32[target], from [row, target] with NaN where not known.

    At least 0.05; 1 for a target that nothing is known of.
    """
    columns = (column[~np.isnan(column)] for column in change.T)
    return np.array([max(float(column.std()), 0.05) if len(column) else 1.0 for column in columns], dtype=np.float32)


def _pmf(parameters: Floats, now: npt.NDArray[np.int64], k: npt.NDArray[np.int16], size: int) -> Floats:
    """Distributions of rows, float32[row, target, count]; parameters [row, target, 3, component], now [row, target]."""
    weights, location, scale = (parameters[:, :, part] for part in range(3))
    k = np.broadcast_to(k[:, None], now.shape)
    return algebra.logistic_mixture(weights, location, scale, now, k, size)


def _session(file: bytes) -> Callable[[Given], Floats]:
    """A network that is asked through onnxruntime; answers [row, target, 3, component]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a dozen classes without a common one
        raise OSError("a network is no ONNX file") from error

    def ask(given: Given) -> Floats:
        (parameters,) = session.run(None, given)
        found = np.asarray(parameters, dtype=np.float32)
        return found.reshape(-1, *found.shape[-3:])

    return ask
