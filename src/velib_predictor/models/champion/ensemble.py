"""The champion: members that err differently, mixed with weights that were best on days they had not seen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from velib_predictor.config.models import ModelSettings
from velib_predictor.data.calendar import local_time
from velib_predictor.data.known_weather import WeatherSource
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import Arrays, Forecaster, HistoryError, forecaster, load_model
from velib_predictor.models.champion.calibration import Calibration
from velib_predictor.models.champion.gate import BLOCKS, block_of, gate
from velib_predictor.models.champion.judge import HeldOut, ask
from velib_predictor.utils.temporal import from_micros

Floats = npt.NDArray[np.float32]
_MEMBERS = "members.json"


class Champion(Forecaster):
    """A mixture of its members' distributions, weighed by hour, horizon and target, then calibrated.

    Weights and calibration are the best on the last days of training, forecast by members that were fitted on the days
    before; then the members are fitted on all days. One pass over held-out days serves both.
    """

    name = "champion"

    def __init__(self, spec: ForecastSpec, settings: ModelSettings | None = None) -> None:
        super().__init__(spec, settings)
        chosen = self._chosen(self.settings)
        self.members, self.first = tuple(chosen), tuple(chosen.values())
        self.made = self._new()
        self.weights = self._first_weights()
        self.calibration = Calibration.none(len(spec.horizons), len(spec.targets))

    @staticmethod
    def _chosen(settings: ModelSettings) -> dict[str, float]:
        """Members and the weights that they begin with."""
        return settings.champion.members

    def _new(self) -> list[Forecaster]:
        """The members, not fitted."""
        return [forecaster(name)(self.spec, self.settings) for name in self.members]

    def check_tools(self) -> None:
        """See `Forecaster`: those of all members, before the first is fitted."""
        for member in self.made:
            member.check_tools()

    # -- fitting ---------------------------------------------------------------------------------------------

    def _first_weights(self) -> Floats:
        """`first` for each block of hours, horizon and target, float32[block, member, horizon, target]."""
        start = np.array(self.first, dtype=np.float32)[:, None, None]
        shape = (BLOCKS, len(self.members), len(self.spec.horizons), len(self.spec.targets))
        return np.broadcast_to(start / start.sum(), shape).astype(np.float32)

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        # Not those of an earlier fit.
        self.weights = self._first_weights()
        self.calibration = Calibration.none(len(self.spec.horizons), len(self.spec.targets))
        weighed = self._weigh(train)
        end = from_micros(int(train.ticks[-1].astype("datetime64[us]").astype(np.int64)) + 1)
        rows = sum(member.fit(train, end).rows for member in self.made)
        mean = self.weights.mean(axis=0).astype(np.float64)
        table = {name: np.round(mean[place], 3).tolist() for place, name in enumerate(self.members)}
        curves = np.round(self.calibration.curve.astype(np.float64), 3).tolist()
        details = {"rows": "of all members", "weighed_on_days": weighed, "weights": table, "calibration": curves}
        return rows, details

    def _weigh(self, train: Panel) -> int:
        """Find weights and calibration; returns on how many days, 0 where the history is too short for that."""
        held_out = HeldOut.of(train, self.spec.horizon_ticks[-1])
        if held_out is None:
            return 0
        judges = self._new()
        try:
            for judge in judges:
                judge.fit(train, held_out.until)
        except HistoryError:
            return 0
        told = ask(train, held_out, judges)
        self.weights = gate(told, self.weights[0])
        mixed = self.weights[block_of(told.hour)].swapaxes(0, 1)  # [member, row, horizon, target]
        below, upto = ((mixed * part).sum(axis=0) for part in (told.below, told.upto))
        self.calibration = Calibration.fit(below, upto, told.days)
        return told.days

    # -- forecasting -----------------------------------------------------------------------------------------

    @property
    def lookback(self) -> int:
        """See `Forecaster`."""
        return max(member.lookback for member in self.made)

    def weather_of(self, seen: Panel) -> WeatherSource:
        """See `Forecaster`: what the member that knows most of it knows."""
        known = {member.weather_of(seen) for member in self.made}
        return next(source for source in WeatherSource if source in known)

    def _predict(self, seen: Panel) -> Forecast:
        parts = [next(member.predict(seen, seen.ticks[-1:])) for member in self.made]
        k = np.maximum.reduce([part.k for part in parts])  # [origin, station]
        size = max(part.pmf.shape[-1] for part in parts)
        pmf = np.zeros((*parts[0].pmf.shape[1:-1], size), dtype=np.float32)
        total = np.zeros(pmf.shape[:-1], dtype=np.float32)
        hour = local_time(seen.ticks[-1:], seen.timezone).hour
        for part, weight in zip(parts, self.weights[block_of(hour)[0]], strict=True):
            share = weight[None] * part.known[0][:, None]  # [station, horizon, target]
            pmf[..., : part.pmf.shape[-1]] += share[..., None] * part.pmf[0]
            total += share
        # A member that does not know a station leaves its share to the others; climatology alone is no answer here.
        known = np.logical_or.reduce([part.known[0] for part in parts if part.model != "climatology"])
        pmf /= np.maximum(total, np.float32(1e-9))[..., None]
        return self.block(seen, self.calibration.apply(pmf), k[0], known)

    # -- keeping ---------------------------------------------------------------------------------------------

    def _state(self, folder: Path) -> Arrays:
        for member in self.made:
            member.save(folder / member.name)
        names = [member.name for member in self.made]
        (folder / _MEMBERS).write_text(json.dumps(names), encoding="utf-8")
        return {"weights": self.weights, "calibration": self.calibration.curve}

    def _restore(self, arrays: Arrays, folder: Path) -> None:
        weights = arrays["weights"]
        # Of before 2026-11-25: the same weights at all hours, and no calibration.
        self.weights = np.repeat(weights[None], BLOCKS, axis=0) if weights.ndim == 3 else weights
        if "calibration" in arrays:
            self.calibration = Calibration(arrays["calibration"])
        # Those that it was saved with: a later program's champion may have others.
        try:
            names = json.loads((folder / _MEMBERS).read_text(encoding="utf-8"))
            self.made = [load_model(folder / name) for name in names]
        except (TypeError, ValueError) as error:
            raise OSError(f"{_MEMBERS} is no list of models") from error
        if len(self.made) != self.weights.shape[1]:
            raise OSError(f"{len(self.made)} members, {self.weights.shape[1]} weights")


class Blend(Champion):
    """The champion's way with members that are fitted in minutes, need no torch and little memory."""

    name = "blend"

    @staticmethod
    def _chosen(settings: ModelSettings) -> dict[str, float]:
        return settings.blend.members
