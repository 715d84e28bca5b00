"""Linear regression and gradient-boosted trees on the change since the origin."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from velib_predictor.models.baseline.change import ChangeModel, Floats, Regression

if TYPE_CHECKING:
    from xgboost import Booster

_RIDGE = 1e-3
"""Weight of the penalty, as a share of the rows."""
_TREES: Mapping[str, Any] = {
    "tree_method": "hist",
    "max_depth": 7,
    "learning_rate": 0.08,
    "min_child_weight": 40,
    "subsample": 0.7,
    "colsample_bytree": 0.6,
    "reg_lambda": 5.0,
    "max_bin": 64,
    "seed": 0,
}
_ROUNDS, _SPREAD_ROUNDS, _PATIENCE = 250, 80, 15


@dataclass(frozen=True, eq=False)
class Ridge:
    """Ridge regression on standardised features; a value that is not known counts as the mean, and as not known."""

    middle: npt.NDArray[np.float64]
    width: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]  # [constant, features, whether not known]

    @classmethod
    def fit(cls, features: Floats, wanted: Floats, unseen: tuple[Floats, Floats] | None = None) -> Self:  # noqa: ARG003
        """See `Regression`."""
        count = np.maximum((~np.isnan(features)).sum(axis=0), 1)
        middle = np.nansum(features, axis=0, dtype=np.float64) / count
        variance = np.nansum((features - middle) ** 2, axis=0, dtype=np.float64) / count
        width = np.sqrt(np.where(variance > 1e-18, variance, 1.0))
        model = cls(middle.astype(np.float64), width.astype(np.float64), np.zeros(2 * len(middle) + 1))
        size = len(model.weights)
        gram, moment = np.zeros((size, size)), np.zeros(size)
        for part in np.array_split(np.arange(len(wanted)), max(len(wanted) // 50_000, 1)):
            design = model._design(features[part])
            gram += design.T @ design
            moment += design.T @ wanted[part]
        penalty = _RIDGE * len(wanted) * np.eye(size)
        penalty[0, 0] = 0.0
        return cls(model.middle, model.width, np.linalg.solve(gram + penalty, moment).astype(np.float64))

    def predict(self, features: Floats) -> Floats:
        """See `Regression`."""
        return (self._design(features) @ self.weights).astype(np.float32)

    def _design(self, features: Floats) -> npt.NDArray[np.float64]:
        gap = np.isnan(features)
        scaled = np.where(gap, 0.0, (features - self.middle) / self.width)
        # A feature far outside what was seen in training (a new station far away) must not run away with the sum.
        return np.concatenate([np.ones((len(features), 1)), np.clip(scaled, -8, 8), gap], axis=1)

    def save(self, file: Path) -> None:
        """See `Regression`."""
        save_file({"middle": self.middle, "width": self.width, "weights": self.weights}, file)

    @classmethod
    def load(cls, file: Path) -> Self:
        """See `Regression`."""
        return cls(**load_file(file))


class Trees:
    """Gradient-boosted trees (XGBoost)."""

    def __init__(self, booster: "Booster") -> None:
        self._booster = booster

    @classmethod
    def fit(cls, features: Floats, wanted: Floats, unseen: tuple[Floats, Floats] | None = None) -> Self:
        """See `Regression`."""
        xgboost = _xgboost()
        data = xgboost.QuantileDMatrix(features, wanted, max_bin=_TREES["max_bin"])
        if unseen is None:
            objective = {"objective": "count:poisson"}
            return cls(xgboost.train({**_TREES, **objective}, data, num_boost_round=_SPREAD_ROUNDS))
        held_out = xgboost.QuantileDMatrix(*unseen, ref=data, max_bin=_TREES["max_bin"])
        booster = xgboost.train(
            {**_TREES, "objective": "reg:squarederror"},
            data,
            num_boost_round=_ROUNDS,
            evals=[(held_out, "unseen")],
            early_stopping_rounds=_PATIENCE,
            verbose_eval=False,
        )
        return cls(booster[: booster.best_iteration + 1])

    def predict(self, features: Floats) -> Floats:
        """See `Regression`."""
        return np.asarray(self._booster.inplace_predict(features), dtype=np.float32)

    def save(self, file: Path) -> None:
        """See `Regression`."""
        self._booster.save_model(file)

    @classmethod
    def load(cls, file: Path) -> Self:
        """See `Regression`."""
        xgboost = _xgboost()
        try:
            return cls(xgboost.Booster(model_file=file))
        except xgboost.core.XGBoostError as error:
            raise OSError(f"{file.name} is no model of XGBoost") from error


def _xgboost() -> Any:
    """The library, told to let waiting threads sleep: while others use the cores, spinning made it six times slower."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import xgboost

    return xgboost


class Linear(ChangeModel):
    """One ridge regression for each target, shared by all stations and horizons."""

    name = "linear"
    regression: ClassVar[type[Regression]] = Ridge
    most_rows = 300_000

    @classmethod
    def suffix(cls) -> str:
        """See `ChangeModel`."""
        return ".safetensors"


class XGBoost(ChangeModel):
    """Gradient-boosted trees for each target, shared by all stations and horizons."""

    name = "xgboost"
    regression: ClassVar[type[Regression]] = Trees
    most_rows = 300_000

    @classmethod
    def suffix(cls) -> str:
        """See `ChangeModel`."""
        return ".ubj"
