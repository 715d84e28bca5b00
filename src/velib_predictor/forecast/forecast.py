"""The forecast: for each station, horizon and target a probability of each count. What all models give."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from velib_predictor.forecast import pmf as algebra
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import format_duration, parse_duration

TARGETS = ("bikes", "mechanical", "ebikes", "docks")
DEFAULT_HORIZONS = tuple(timedelta(minutes=m) for m in (15, 30, 45, 60, 90, 120, 180, 240, 360, 720, 1080, 1440))


@dataclass(frozen=True)
class ForecastSpec:
    """What is forecast: how far ahead, and of what.

    Attributes:
        step: of the grid on which forecasts are made.
        horizons: multiples of the step; kept ascending, and once where given twice.
        targets: of `TARGETS`; kept in that order.

    Raises:
        UsageError: a horizon is no positive multiple of the step, or a target is unknown, or there are none; the
            message says what is allowed.
    """

    step: timedelta = timedelta(minutes=15)
    horizons: tuple[timedelta, ...] = DEFAULT_HORIZONS
    targets: tuple[str, ...] = TARGETS
    horizon_ticks: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.step <= timedelta(0):
            raise UsageError("the step of a forecast must be positive, such as 15m")
        unknown = [name for name in self.targets if name not in TARGETS]
        if unknown or not self.targets:
            wrong = f"unknown target {unknown[0]!r}" if unknown else "no target given"
            raise UsageError(f"{wrong}; there are: {', '.join(TARGETS)}")
        if not self.horizons:
            raise UsageError("no horizon given; write them as 15m,30m,1h")
        for horizon in self.horizons:
            if horizon <= timedelta(0) or horizon % self.step:
                raise UsageError(
                    f"the horizon {format_duration(horizon)} is no multiple of the step {format_duration(self.step)}"
                )
        object.__setattr__(self, "horizons", tuple(sorted(set(self.horizons))))
        object.__setattr__(self, "targets", tuple(name for name in TARGETS if name in self.targets))
        object.__setattr__(self, "horizon_ticks", tuple(horizon // self.step for horizon in self.horizons))

    @classmethod
    def default(cls, step: timedelta) -> Self:
        """All targets, and the default horizons that lie on a grid of that step."""
        return cls(step, tuple(horizon for horizon in DEFAULT_HORIZONS if not horizon % step))

    @property
    def channels(self) -> list[int]:
        """Where the targets stand among `TARGETS` (which are the panel's channels), [target]."""
        return [TARGETS.index(name) for name in self.targets]

    def target(self, name: str) -> int:
        """Where a target stands on the target axis.

        Raises:
            UsageError: it is not among the targets.
        """
        if name not in self.targets:
            raise UsageError(f"no target {name!r} in this forecast; there are: {', '.join(self.targets)}")
        return self.targets.index(name)

    def as_dict(self) -> dict[str, Any]:
        """The specification as plain JSON values."""
        return {
            "step": format_duration(self.step),
            "horizons": [format_duration(horizon) for horizon in self.horizons],
            "targets": list(self.targets),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The specification that `as_dict` wrote."""
        return cls(
            parse_duration(data["step"]),
            tuple(parse_duration(text) for text in data["horizons"]),
            tuple(data["targets"]),
        )


@dataclass(frozen=True, eq=False)
class Forecast:
    """A block of forecasts, usually of one origin.

    Attributes:
        spec: horizons and targets.
        model: name of the model that made it.
        origins: instants at which they were made, UTC, datetime64[s][origin].
        stations: their ids, [station].
        pmf: P(count), float32[origin, station, horizon, target, count]; 0 above K.
        k: the greatest count that is told apart, int16[origin, station], the same for all targets; truth above it
            counts as K.
        known: whether there is a forecast at all, bool[origin, station, target]; where there is none its pmf is 0.
    """

    spec: ForecastSpec
    model: str
    origins: npt.NDArray[np.datetime64]
    stations: Sequence[str]
    pmf: npt.NDArray[np.float32]
    k: npt.NDArray[np.int16]
    known: npt.NDArray[np.bool_]

    def cdf(self) -> npt.NDArray[np.float32]:
        """P(count <= k), float32[origin, station, horizon, target, count]."""
        return algebra.to_cdf(self.pmf)

    def mean(self) -> npt.NDArray[np.float32]:
        """Expected counts, float32[origin, station, horizon, target]."""
        return algebra.mean(self.pmf)

    def median(self) -> npt.NDArray[np.int16]:
        """Medians, int16[origin, station, horizon, target]."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> npt.NDArray[np.int16]:
        """The smallest count that is not exceeded with probability `q`, int16[origin, station, horizon, target]."""
        return algebra.quantile(self.cdf(), q)

    def at_least(self, count: int) -> npt.NDArray[np.float32]:
        """P(count or more), float32[origin, station, horizon, target]."""
        return algebra.at_least(self.pmf, count)

    def ordered(self) -> "Forecast":
        """This forecast with e-bikes and mechanical bikes stochastically at most as large as bikes."""
        targets = self.spec.targets
        parts = [targets.index(name) for name in ("mechanical", "ebikes") if name in targets]
        if "bikes" not in targets or not parts:
            return self
        bikes = slice(targets.index("bikes"), targets.index("bikes") + 1)
        smaller = self.pmf[:, :, :, parts]  # [origin, station, horizon, part, count]
        both = (self.known[:, :, bikes] & self.known[:, :, parts])[:, :, None, :, None]
        pmf = self.pmf.copy()
        pmf[:, :, :, parts] = np.where(both, algebra.order_above(self.pmf[:, :, :, bikes], smaller), smaller)
        return replace(self, pmf=pmf)
