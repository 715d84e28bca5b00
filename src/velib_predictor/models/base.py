"""The contract of all models: fit on a panel, forecast from an instant of it, be saved and loaded without pickle."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from velib_predictor import __version__
from velib_predictor.config.models import ModelSettings
from velib_predictor.data.calendar import local_time
from velib_predictor.data.known_weather import WeatherSource
from velib_predictor.data.panel import BIKES, DOCKS, Panel, Ticks
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.utils.errors import UsageError, VelibError
from velib_predictor.utils.temporal import format_duration, format_time

SCHEMA = 1
"""Version of the artifacts' layout; a folder of another one is refused."""

MODELS: Mapping[str, str] = {
    "persistence": "velib_predictor.models.baseline.persistence:Persistence",
    "persistence_delta": "velib_predictor.models.baseline.persistence:PersistenceDelta",
    "climatology": "velib_predictor.models.baseline.climatology:Climatology",
    "linear": "velib_predictor.models.baseline.linear:Linear",
    "xgboost": "velib_predictor.models.baseline.linear:XGBoost",
    "queueing": "velib_predictor.models.baseline.queueing:Queueing",
    "stid": "velib_predictor.models.stid.trainer:Stid",
    "lstm": "velib_predictor.models.lstm.trainer:Lstm",
    "gnn": "velib_predictor.models.gnn.trainer:Gnn",
    "coldstart": "velib_predictor.models.coldstart.trainer:ColdStart",
    "blend": "velib_predictor.models.champion.ensemble:Blend",
    "champion": "velib_predictor.models.champion.ensemble:Champion",
}
"""Where each model's class is; imported when it is asked for."""

Arrays = dict[str, npt.NDArray[Any]]
DEFAULTS = ModelSettings()
"""What models are made with where nothing else is said."""


class HistoryError(VelibError):
    """There is too little history to fit on; the message says how much there is and how much is needed."""


class ArtifactError(VelibError):
    """A saved model cannot be used; the message says why."""


@dataclass(frozen=True)
class FitReport:
    """What a model was fitted on.

    Attributes:
        system_id: the system.
        model: its name.
        first, until: of the training window, RFC 3339; no tick at or after `until` was read.
        step, tolerance: of the panel that it was fitted on, and is to be asked with.
        days: local days in it with anything to learn from.
        rows: what the model learned from, in its own unit (said in `details`).
        details: whatever else the model wants to say, plain JSON values.
    """

    system_id: str
    model: str
    first: str
    until: str
    step: str
    tolerance: str
    days: int
    rows: int
    details: dict[str, Any] = field(default_factory=dict)


class Forecaster(ABC):
    """A model. Made with a specification, fitted once, then asked as often as wanted.

    `predict` reads no tick after the origin and no `trusted` mask.
    """

    name: ClassVar[str]
    least_days: ClassVar[float] = 0.25
    """Days of training history without which there is nothing to learn from."""

    def __init__(self, spec: ForecastSpec, settings: ModelSettings | None = None) -> None:
        self.spec = spec
        self.settings = settings or DEFAULTS
        self.report: FitReport | None = None
        self.stations: tuple[str, ...] = ()
        self.largest: npt.NDArray[np.int16] = np.zeros(0, dtype=np.int16)  # [station]: largest total in training

    # -- fitting ---------------------------------------------------------------------------------------------

    def fit(self, panel: Panel, until: datetime) -> FitReport:
        """Learn from the ticks before `until`.

        Raises:
            HistoryError: that is too little history.
            UsageError: the panel's step is not the specification's, or what it is fitted with is not installed.
        """
        self._check_step(panel)
        self.check_tools()
        train = panel.between(0, panel.before(until))
        self.report = None  # a model whose fit breaks off is no model
        self._check_history(train)
        self.stations = train.stations.id
        # Where docks are not published, the bikes alone say how large a station is at least.
        sizes = np.maximum(train.totals(), train.counts.max(axis=-1))
        self.largest = sizes.max(axis=0, initial=0, where=train.trusted).astype(np.int16)
        self.report = self._report(train, until, *self._fit(train))
        return self.report

    @abstractmethod
    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        """Learn from all ticks of `train`; returns how many rows, and details for the report."""

    # -- forecasting -----------------------------------------------------------------------------------------

    def predict(self, panel: Panel, origins: Ticks) -> Iterator[Forecast]:
        """Forecasts for all of the panel's stations from each origin (ticks of the panel), a block at a time.

        Raises:
            UsageError: an origin is no tick of the panel, or its step is not the specification's.
            VelibError: the model was not fitted.
        """
        self._check_step(panel)
        if self.report is None:
            raise VelibError(f"the model {self.name} is asked for forecasts before it was fitted or loaded")
        for place in panel.places(origins):
            seen = panel.between(0, int(place) + 1)  # what lies after the origin cannot be read: it is not there
            yield self._predict(seen).ordered()

    @property
    def lookback(self) -> int:
        """Ticks before an origin that a forecast reads: a panel of so many and one gives the same as a longer one."""
        return 0

    def weather_of(self, seen: Panel) -> WeatherSource:  # noqa: ARG002 - most models know nothing of it
        """What of the weather a forecast from the panel's last tick knows."""
        return WeatherSource.NONE

    @abstractmethod
    def _predict(self, seen: Panel) -> Forecast:
        """The forecast from the panel's last tick."""

    def places(self, panel: Panel) -> npt.NDArray[np.int64]:
        """Where the panel's stations stand among those of training, int64[station]; -1 for new ones."""
        if panel.stations.id == self.stations:
            return np.arange(len(self.stations))
        return panel.stations.positions_in(self.stations)

    def greatest(self, seen: Panel) -> npt.NDArray[np.int16]:
        """K: the most of known capacity, bikes and docks at the last tick, and the largest total in training.

        int16[station], at least 1.
        """
        known = np.append(self.largest, np.int16(0))[self.places(seen)]  # -1 is the last: 0
        k: npt.NDArray[np.int16] = np.maximum.reduce(
            [seen.capacity[-1], seen.between(-1, len(seen)).totals()[-1], known]
        )
        # A count alone may lie above (docks not published): it must have its place.
        k = np.maximum(k, seen.counts[-1].max(axis=-1))
        return np.maximum(k, np.int16(1))

    def now(self, seen: Panel, k: npt.NDArray[np.int16]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Counts at the last tick (0 where not observed) and whether they were observed, [station, target]."""
        counts = seen.counts[-1][:, self.spec.channels].astype(np.int64)
        return np.clip(counts, 0, k[:, None]), seen.observed[-1][:, self.spec.channels]

    def block(
        self, seen: Panel, pmf: npt.NDArray[np.float32], k: npt.NDArray[np.int16], known: npt.NDArray[np.bool_]
    ) -> Forecast:
        """One origin's forecast from pmf [station, horizon, target, count], k [station], known [station, target]."""
        pmf = np.where(known[:, None, :, None], pmf, np.float32(0))
        return Forecast(self.spec, self.name, seen.ticks[-1:], seen.stations.id, pmf[None], k[None], known[None])

    # -- keeping ---------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the model: `metadata.json`, `state.safetensors`, and what it adds itself. No pickle.

        Raises:
            VelibError: it was not fitted.
        """
        if self.report is None:
            raise VelibError(f"the model {self.name} was not fitted; there is nothing to save")
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.ascontiguousarray(array) for name, array in self._state(folder).items()}
        save_file({"largest": self.largest, **arrays}, folder / "state.safetensors")
        metadata = {
            "schema": SCHEMA,
            "program": __version__,
            "model": self.name,
            "created_at": format_time(datetime.now(UTC).replace(microsecond=0)),
            "spec": self.spec.as_dict(),
            "fit": asdict(self.report),
            "stations": list(self.stations),
        }
        (folder / "metadata.json").write_text(json.dumps(metadata, ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtifactError: it is not there, of another layout or of another model.
        """
        metadata = read_metadata(folder)
        if metadata["model"] != cls.name:
            raise ArtifactError(f"{folder} holds the model {metadata['model']!r}, not {cls.name!r}")
        model = cls(ForecastSpec.from_dict(metadata["spec"]))
        model.report = FitReport(**metadata["fit"])
        model.stations = tuple(metadata["stations"])
        try:
            arrays = load_file(folder / "state.safetensors")
            model.largest = arrays.pop("largest")
            model._restore(arrays, folder)
        except (OSError, SafetensorError, KeyError) as error:
            raise ArtifactError(f"the model in {folder} is damaged ({error}); train it anew") from error
        return model

    def _state(self, folder: Path) -> Arrays:  # noqa: ARG002 - for models that write files of their own
        """What was learned, as arrays by name."""
        return {}

    def _restore(self, arrays: Arrays, folder: Path) -> None:  # noqa: B027 - nothing to restore is a fine default
        """Take back what `_state` gave."""

    # -- checks ----------------------------------------------------------------------------------------------

    def check_tools(self) -> None:  # noqa: B027 - most need nothing
        """Whether what it is fitted with is installed, asked before anything is fitted.

        Raises:
            UsageError: it is not; the message says how it can be.
        """

    def _check_step(self, panel: Panel) -> None:
        if panel.step != self.spec.step:
            raise UsageError(
                f"the panel's step is {format_duration(panel.step)}, the forecast's {format_duration(self.spec.step)}; "
                "load the panel with the forecast's step"
            )

    def _check_history(self, train: Panel) -> None:
        seen = (train.observed.any(axis=2) & train.trusted).any(axis=1)  # [tick]
        needed = max(self.spec.horizon_ticks[-1] + 1, int(self.least_days * 86_400 / train.step_s))
        longest = format_duration(self.spec.horizons[-1])
        if int(seen.sum()) < needed:
            raise HistoryError(
                f"too little history to fit {self.name}: {int(seen.sum())} usable ticks of "
                f"{format_duration(train.step)} lie before the end of training, {needed} are needed "
                f"({self.least_days:g} days, and the longest horizon, {longest}); collect or import more, or end later"
            )

    def _report(self, train: Panel, until: datetime, rows: int, details: dict[str, Any]) -> FitReport:
        described = train.describe()
        seen = (train.observed[:, :, (BIKES, DOCKS)].any(axis=2) & train.trusted).any(axis=1)  # [tick]
        days = len(np.unique(local_time(train.ticks[seen], train.timezone).day))
        return FitReport(
            system_id=train.system_id,
            model=self.name,
            first=described["first_tick"],
            until=format_time(until),
            step=described["step"],
            tolerance=described["tolerance"],
            days=days,
            rows=rows,
            details=details,
        )


def forecaster(name: str) -> type[Forecaster]:
    """The class of a model.

    Raises:
        UsageError: there is none of that name; the message lists those that there are.
    """
    if name not in MODELS:
        raise UsageError(f"unknown model {name!r}; there are: {', '.join(MODELS)}")
    module, _, cls = MODELS[name].partition(":")
    found: type[Forecaster] = getattr(import_module(module), cls)
    return found


def load_model(folder: Path) -> Forecaster:
    """The saved model in a folder, whichever it is.

    Raises:
        ArtifactError: there is none, or it cannot be used.
    """
    return forecaster(str(read_metadata(folder)["model"])).load(folder)


def read_metadata(folder: Path) -> dict[str, Any]:
    """What a saved model says of itself.

    Raises:
        ArtifactError: there is no model in the folder, or one of another layout.
    """
    try:
        metadata: dict[str, Any] = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"there is no model in {folder}; make one with `velib train`") from error
    if metadata.get("schema") != SCHEMA:
        raise ArtifactError(
            f"the model in {folder} has layout {metadata.get('schema')}, this program reads {SCHEMA}; train it anew"
        )
    return metadata
