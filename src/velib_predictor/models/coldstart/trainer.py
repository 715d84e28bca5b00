"""The cold-start model as a forecaster: weights that come with the package, made of several systems' history."""

import hashlib
import json
import os
from collections.abc import Sequence
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from velib_predictor import __version__
from velib_predictor.config.models import ModelSettings
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import TARGETS, Forecast, ForecastSpec
from velib_predictor.models.base import Arrays, ArtifactError, FitReport, Forecaster
from velib_predictor.models.coldstart.dataset import Examples, Lesson
from velib_predictor.models.coldstart.features import NAMES, View, lookback, sizes, typical_change
from velib_predictor.models.coldstart.places import Places
from velib_predictor.models.network import Network, distributions
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import format_duration

Floats = npt.NDArray[np.float32]
NETWORK, ABOUT = "network.onnx", "weights.json"
_SCORED_ROWS = 60_000


class ColdStart(Forecaster):
    """Forecasts for stations and cities that it has never seen, from what their feed shows.

    `fit` does not learn from the panel: the weights are those that came with the package (see weights/PROVENANCE.md).
    It only notes which stations there are and how large each was, as every model does. So a backtest measures what it
    is worth on the first day; `ready` makes it serve without any history at all.
    """

    name = "coldstart"
    least_days = 0.0
    folder: Path | None = None
    """Where the weights lie; none: in the package."""

    def __init__(self, spec: ForecastSpec, settings: ModelSettings | None = None) -> None:
        super().__init__(spec, settings)
        self.about: dict[str, Any] = {}
        self._file = b""
        self._network: Network | None = None
        self._places: Places | None = None

    @classmethod
    def ready(cls, spec: ForecastSpec, system_id: str, tolerance: timedelta) -> Self:
        """The model for a system of which nothing was stored yet.

        Raises:
            ArtifactError: the weights cannot be used.
        """
        model = cls(spec)
        details = model._take_weights()
        step, age = format_duration(spec.step), format_duration(tolerance)
        model.report = FitReport(system_id, cls.name, "", "", step, age, 0, 0, details)
        return model

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:  # noqa: ARG002 - see the class
        return 0, self._take_weights()

    def _take_weights(self) -> dict[str, Any]:
        where = self.folder or resources.files(__package__) / "weights"
        try:
            self._use((where / NETWORK).read_bytes(), json.loads((where / ABOUT).read_bytes()))
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(
                f"the weights of {self.name} are damaged ({error}); install the program anew"
            ) from error
        known = {name: self.about[name] for name in ("version", "systems")}
        return {"rows": "none of this system", "rows_elsewhere": int(self.about["rows"]), **known}

    def _use(self, file: bytes, about: dict[str, Any]) -> None:
        if tuple(about["features"]) != NAMES:
            raise ArtifactError(f"the weights of {self.name} are of another program; they know other features")
        self._file, self.about, self._network = file, about, Network(file)

    # -- forecasting -----------------------------------------------------------------------------------------

    @property
    def lookback(self) -> int:
        """See `Forecaster`."""
        return lookback(int(self.spec.step.total_seconds()))

    def _predict(self, seen: Panel) -> Forecast:
        assert self._network is not None  # noqa: S101 - for the type checker
        seen = seen.between(max(len(seen) - 1 - self.lookback, 0), len(seen))
        # Stations of which nothing was heard are not there: one that opens later must not move the city's middle.
        heard = seen.observed.any(axis=(0, 2))
        if not heard.all() and heard.any():
            return self._of_some(seen, np.flatnonzero(heard))
        k = self._greatest(seen)
        now, known = self.now(seen, k)
        if self._places is None or not self._places.describes(seen.stations):
            self._places = Places.of(seen.stations)
        ahead = self.spec.horizon_ticks
        count, horizons = len(k), len(ahead)
        each = np.repeat(k, horizons)
        unit = typical_change(each.astype(np.float32), np.tile(np.array(ahead) * seen.step_s, count))
        given = {
            "features": View.of(seen, self._places, k).all_rows(ahead),
            "unit": np.repeat(unit[:, None], len(TARGETS), axis=1),
        }
        parameters = self._network(given)[:, self.spec.channels]  # [station x horizon, target, 3, component]
        parameters = parameters.reshape(count, horizons, len(self.spec.targets), -1)
        return self.block(seen, distributions([parameters], "mixture", now, k), k, known)

    def _of_some(self, seen: Panel, places: npt.NDArray[np.int64]) -> Forecast:
        """The forecast of some stations, in a block of all; nothing is known of the others."""
        some = self._predict(seen.take(places))
        k, known = self.greatest(seen), np.zeros((len(seen.stations), len(self.spec.targets)), dtype=bool)
        k[places], known[places] = some.k[0], some.known[0]
        pmf = np.zeros((len(k), *some.pmf.shape[2:-1], int(k.max()) + 1), dtype=np.float32)
        pmf[places, ..., : some.pmf.shape[-1]] = some.pmf[0]
        return self.block(seen, pmf, k, known)

    def _greatest(self, seen: Panel) -> npt.NDArray[np.int16]:
        """K; of a station without a known capacity the largest total that was seen, too."""
        k = self.greatest(seen)
        sized = (seen.capacity[-1] > 0) | (np.append(self.largest, np.int16(0))[self.places(seen)] > 0)
        return np.where(sized, k, np.maximum(k, sizes(seen).max(axis=0, initial=1)))

    # -- keeping ---------------------------------------------------------------------------------------------

    def _state(self, folder: Path) -> Arrays:
        (folder / NETWORK).write_bytes(self._file)
        (folder / ABOUT).write_text(json.dumps(self.about, indent=1), encoding="utf-8")
        return {}

    def _restore(self, arrays: Arrays, folder: Path) -> None:  # noqa: ARG002
        try:
            self._use((folder / NETWORK).read_bytes(), json.loads((folder / ABOUT).read_bytes()))
        except ValueError as error:
            raise OSError(f"{ABOUT} is no JSON") from error


def pretrain(
    lessons: Sequence[Lesson], folder: Path, *, epochs: int = 10, seed: int = 0, told: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Fit the network on several systems and write its weights; returns what is kept beside them.

    Args:
        told: what else is to be known of where the weights come from.

    Raises:
        UsageError: torch is not installed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see `NetworkModel`
    try:
        from velib_predictor.models.coldstart.fitting import fit
    except ImportError as error:
        raise UsageError(
            f"training {ColdStart.name} needs torch and Lightning, and {error.name} is not installed: `make setup-deep`"
        ) from None
    examples = Examples.joined([Examples.of(lesson, seed + place) for place, lesson in enumerate(lessons)])
    random = np.random.default_rng(seed)
    inside, outside = np.flatnonzero(~examples.held_out), random.permutation(np.flatnonzero(examples.held_out))
    file, score = fit(examples.take(inside), examples.take(outside[:_SCORED_ROWS]), epochs=epochs, seed=seed)
    about = {
        "version": hashlib.sha256(file).hexdigest()[:12],
        "program": __version__,
        "rows": len(inside),
        "rps_in_units": round(score, 4),
        "seed": seed,
        "systems": [lesson.name for lesson in lessons],
        **(told or {}),
        "features": list(NAMES),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NETWORK).write_bytes(file)
    (folder / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
    return about
