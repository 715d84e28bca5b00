"""What learned models share: three networks, each blind to a third of the days, whose distributions are averaged.

A model of its own says which rows it learns from, how its networks are fitted, and what they are given. They are served
by onnxruntime: no torch where it serves.
"""

import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from velib_predictor.config.models import ModelSettings, NetworkSettings
from velib_predictor.data.calendar import local_time
from velib_predictor.data.feature_engineering import FeatureBuilder, Sight
from velib_predictor.data.known_weather import WeatherSource
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
_SCORED_ROWS = 12_000
_CHUNK = 512
"""Rows whose distributions are computed at once: so many stay in the processor's cache."""


class Fitter(Protocol):
    """What fits networks on the rows of a lesson."""

    def fit(self, inside: Indices, held_out: Indices, seed: int) -> tuple[Any, float]:
        """A network fitted on some examples, and its score on those by which it was stopped."""

    def export(self, networks: Sequence[Any]) -> bytes:
        """The networks as one ONNX file, which gives the mean of their distributions."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """What is learned from.

    Attributes:
        train: the panel of training. size: docks in all, float32[station].
        tick: of the origins, int64[row]. rows, came: what the network is told, and what came.
        sights: of each target, what features of training are read from.
        settings: of the network; where the history is short the network is small.
    """

    train: Panel
    size: Floats
    tick: Indices
    rows: Rows
    came: Outcomes
    sights: list[Sight]
    settings: NetworkSettings


class NetworkModel(Forecaster):
    """See the module. Rows are (origin, station, horizon), of all targets at once."""

    tools: ClassVar[str] = "velib_predictor.models.fitting"
    """The module that imports all that it is fitted with."""

    def __init__(self, spec: ForecastSpec, settings: ModelSettings | None = None) -> None:
        super().__init__(spec, settings)
        check_divides_a_day(self.name, spec)
        self.own = self.settings.network(self.name)
        self.builders: list[FeatureBuilder] = []
        self.scaling: Scaling | None = None
        self.slots = 1
        self.head: str = self.own.head
        self._networks: list[Network] = []

    def check_tools(self) -> None:
        """See `Forecaster`."""
        # Said before torch is loaded: waiting threads sleep (see `linear`), else XGBoost, fitted later, is much slower.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        try:
            import_module(self.tools)
        except ImportError as error:
            missing = (error.name or "").partition(".")[0]
            raise UsageError(
                f"training {self.name} needs torch and Lightning, and {missing} is not installed: `make setup-deep` "
                "or `pip install 'velib-predictor[deep]'`; a trained one is served without them"
            ) from None

    # -- what a model says of its own ------------------------------------------------------------------------

    @property
    def together(self) -> int:
        """Rows that make an example: so many that follow each other share their origin."""
        return 1

    def columns(self) -> Indices | None:
        """Which of the builders' columns the network is told, all targets side by side; None: all."""
        return None

    def _sides(self) -> tuple[Indices, Indices]:
        """Places of the features of the origin, and of those that depend on the horizon."""
        ahead = np.concatenate(
            [np.arange(len(builder.names)) >= builder.names.index("horizon_min") for builder in self.builders]
        )
        return np.flatnonzero(~ahead), np.flatnonzero(ahead)

    @abstractmethod
    def _draw(self, train: Panel) -> tuple[Indices, Indices, Indices]:
        """Rows to learn from: tick, station, and place of the horizon, int64[row]."""

    @abstractmethod
    def _fitter(self, lesson: Lesson) -> Fitter:
        """What fits the networks."""

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
        self.head = self.own.head
        raw = self._chosen(raw_rows(self.builders, sights, tick, station, ahead))
        self.scaling = Scaling.fit(raw, unit)
        local = local_time(train.ticks, train.timezone)
        days = len(np.unique(local.day[tick]))
        short = days < self.own.short_days
        self.slots = 1 if not self.builders[0].knows_time else 24 if short else 48
        rows = self._rows(raw, station, moments(local, np.stack([tick, tick + ahead], axis=1), self.slots), horizon)
        count, settings = len(rows), self.own.sized(short)
        fitter = self._fitter(Lesson(train, sights[0].size, tick, rows, came, sights, settings))
        del raw, rows, came, change, sights  # a fitter keeps what it needs; this may be a gigabyte
        reached = self._fit_networks(fitter, folds_of(train, tick)[:: self.together])
        return count, {"rows": "origin x station x horizon", "folds": self.own.folds, "days": days, "rps": reached}

    def _fit_networks(self, fitter: Fitter, fold: Indices) -> list[float]:
        """Fit one network for each fold; `fold` of each example. Returns their scores."""
        random = np.random.default_rng(0)
        fitted, reached = [], []
        for which in range(self.own.folds):
            inside, outside = np.flatnonzero(fold != which), np.flatnonzero(fold == which)
            network, score = fitter.fit(inside, random.permutation(outside)[: _SCORED_ROWS // self.together], which)
            fitted.append(network)
            reached.append(score)
        self._networks = [Network(fitter.export(fitted))]
        return reached

    # -- forecasting -----------------------------------------------------------------------------------------

    @property
    def lookback(self) -> int:
        """See `Forecaster`."""
        return max((builder.lookback for builder in self.builders), default=0)

    def weather_of(self, seen: Panel) -> WeatherSource:
        """See `Forecaster`."""
        return self.builders[0].outside.source(seen)

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
        parameters = [network(given).reshape(count, horizons, len(self.spec.targets), -1) for network in self._networks]
        return self.block(seen, distributions(parameters, self.head, now, k), k, known)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the networks are asked with."""
        return self._networks[0].inputs

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
        for number, network in enumerate(self._networks):
            (folder / f"network_{number}.onnx").write_bytes(network.file)
        arrays: Arrays = {
            "middle": self.scaling.middle, "width": self.scaling.width, "unit": self.scaling.unit,
            "slots": np.array([self.slots]), "categorical": np.array([self.head == "categorical"]),
            "networks": np.array([len(self._networks)]),
        }  # fmt: skip
        for name, builder in zip(self.spec.targets, self.builders, strict=True):
            arrays |= named(name, builder.state())
        return arrays

    def _restore(self, arrays: Arrays, folder: Path) -> None:
        step_min = int(self.spec.step.total_seconds()) // 60
        self.scaling = Scaling(arrays["middle"], arrays["width"], arrays["unit"])
        self.slots = int(arrays["slots"][0])
        self.head = "categorical" if arrays.get("categorical", np.zeros(1))[0] else "mixture"
        self.builders = [
            FeatureBuilder.restored(channel, step_min, of_name(name, arrays))
            for name, channel in zip(self.spec.targets, self.spec.channels, strict=True)
        ]
        count = int(arrays.get("networks", np.array([3]))[0])  # three were kept before 2026-11-25, now one
        self._networks = [Network((folder / f"network_{number}.onnx").read_bytes()) for number in range(count)]


def _typical(change: npt.NDArray[np.floating]) -> Floats:
    """The standard deviation of each target's changes, float32[target], from [row, target] with NaN where not known.

    At least 0.05; 1 for a target that nothing is known of.
    """
    columns = (column[~np.isnan(column)] for column in change.T)
    return np.array([max(float(column.std()), 0.05) if len(column) else 1.0 for column in columns], dtype=np.float32)


def distributions(
    parameters: Sequence[Floats], kind: str, now: npt.NDArray[np.int64], k: npt.NDArray[np.int16]
) -> npt.NDArray[np.float32]:
    """Distributions, float32[station, horizon, target, count]: the mean of those of several networks.

    Args:
        parameters: [station, horizon, target, parameter] each; of a mixture weights, then locations, then scales.
        now: [station, target]; k: [station].
    """
    stations, horizons, targets, _ = parameters[0].shape
    pmf = np.zeros((stations, horizons, targets, int(k.max()) + 1), dtype=np.float32)
    if kind == "mixture":
        joined = np.concatenate([part.reshape(*part.shape[:3], 3, -1) for part in parameters], axis=-1)
        joined[..., 0, :] /= np.float32(len(parameters))
    else:
        joined = np.mean(parameters, axis=0)
    order = np.argsort(k, kind="stable")
    for some in np.array_split(order, max(stations * horizons // _CHUNK, 1)):  # of about one size: little is in vain
        size = int(k[some].max(initial=0)) + 1
        shape = (len(some), horizons, targets)
        here, most = np.broadcast_to(now[some][:, None], shape), np.broadcast_to(k[some][:, None, None], shape)
        told = joined[some]
        pmf[some, :, :, :size] = (
            algebra.logistic_mixture(told[..., 0, :], told[..., 1, :], told[..., 2, :], here, most, size)
            if kind == "mixture"
            else algebra.categorical(told, here, most, size)
        )
    return pmf


class Network:
    """A network that is asked through onnxruntime.

    Raises:
        OSError: the file is none.
    """

    def __init__(self, file: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # What it has worked with is given back: a process that forecasts every quarter of an hour must stay small.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of a dozen classes without a common one
            raise OSError("a network is no ONNX file") from error
        self.file = file
        self.inputs = tuple(one.name for one in self._session.get_inputs())

    def __call__(self, given: Given) -> Floats:
        """Its parameters."""
        (parameters,) = self._session.run(None, given)
        return np.asarray(parameters, dtype=np.float32)
