"""The backtest: models fitted on one period, then asked at every tick of a later one, all judged on the same rows.

A row counts for all models or for none: the station was observed and open at the origin, the truth was observed and is
trusted, and every model had a forecast.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import LocalTime, local_time
from velib_predictor.data.panel import Panel
from velib_predictor.data.special_days import SpecialDays
from velib_predictor.evaluation.examples import Examples
from velib_predictor.evaluation.scores import ScoreBook
from velib_predictor.evaluation.writer import ForecastWriter
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import Forecaster, forecaster
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import format_duration, format_time, from_micros

if TYPE_CHECKING:
    from velib_predictor.data.database import Database

BASELINE = "persistence"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Protocol:
    """What is fitted on what and judged on what.

    Attributes:
        train_from, train_until, test_from, test_until: UTC; the second and fourth are left out. Origins lie in the
            test window, truths may lie after it.
        tolerance: oldest observation that a tick takes.

    Raises:
        UsageError: a window is empty, or the test begins inside the training window.
        ValueError: a naive time.
    """

    spec: ForecastSpec
    train_from: datetime
    train_until: datetime
    test_from: datetime
    test_until: datetime
    tolerance: timedelta

    def __post_init__(self) -> None:
        for bound in (self.train_from, self.train_until, self.test_from, self.test_until):
            if bound.tzinfo is None:
                raise ValueError(f"naive time {bound!r}: attach a time zone")
        for name, first, last in (
            ("training", self.train_from, self.train_until),
            ("test", self.test_from, self.test_until),
        ):
            if first >= last:
                raise UsageError(
                    f"the {name} window is empty: it begins at {format_time(first)} and ends at {format_time(last)}"
                )
        if self.test_from < self.train_until:
            raise UsageError(
                f"the test window begins at {format_time(self.test_from)}, inside the training window, which ends at "
                f"{format_time(self.train_until)}: a model must not be judged on what it has seen"
            )

    @classmethod
    def last_days(cls, panel: Panel, spec: ForecastSpec, days: int) -> Self:
        """The last days of a panel as the test, all before them as the training.

        Raises:
            UsageError: the panel does not reach back further than that.
        """
        first, last = (
            from_micros(int(tick.astype("datetime64[us]").astype(np.int64))) for tick in panel.ticks[[0, -1]]
        )
        cut = last + panel.step - timedelta(days=days)
        if cut <= first:
            raise UsageError(f"{panel!r} leaves nothing to train on before its last {days} days")
        return cls(spec, first, cut, cut, last + panel.step, panel.tolerance)

    @property
    def fitted_until(self) -> datetime:
        """Where training really ends: at least the longest horizon before the first test origin."""
        return min(self.train_until, self.test_from - self.spec.horizons[-1])

    def as_dict(self) -> dict[str, Any]:
        """The protocol as plain JSON values."""
        times = ("train_from", "train_until", "fitted_until", "test_from", "test_until")
        return {
            **{name: format_time(getattr(self, name)) for name in times},
            **self.spec.as_dict(),
            "tolerance": format_duration(self.tolerance),
        }


@dataclass
class Judged:
    """One model: what it was fitted on, its sums, and the seconds it took."""

    model: Forecaster
    book: ScoreBook
    fit_s: float
    predict_s: float = 0.0


@dataclass
class Backtest:
    """A finished backtest. `report` turns it into tables."""

    protocol: Protocol
    panel: Panel
    judged: dict[str, Judged]
    origins: int
    examples: Examples
    notes: list[str] = field(default_factory=list)


def load(
    database: "Database | str", system_id: str, protocol: Protocol, special_days: SpecialDays | None = None
) -> Panel:
    """The panel that a backtest needs: from the first training tick to the last truth."""
    end = protocol.test_until + protocol.spec.horizons[-1]
    return Panel.load(
        database, system_id, protocol.train_from, end, step=protocol.spec.step, tolerance=protocol.tolerance,
        special_days=special_days,
    )  # fmt: skip


def backtest(
    panel: Panel,
    models: Sequence[str | Forecaster],
    protocol: Protocol,
    *,
    forecasts_out: Path | None = None,
    progress: Progress | None = None,
) -> Backtest:
    """Fit the models on the training window and judge them, tick by tick, on the test window.

    Args:
        models: names, or forecasters that are not fitted yet; persistence is always judged, first.
        forecasts_out: Parquet file for all forecasts, pmf included.
        progress: told (phase, done, total).

    Raises:
        UsageError: an unknown model, a file that is not .parquet, or a test window without a single row to score.
        HistoryError: there is too little history to fit a model on.
    """
    tell = progress or _say_nothing
    writer = ForecastWriter(forecasts_out, panel.system_id)  # a name that it does not take is refused before any work
    chosen = _chosen(models, protocol.spec)
    train = panel.between(panel.before(protocol.train_from), len(panel))
    horizons, targets = len(protocol.spec.horizons), len(protocol.spec.targets)
    judged: dict[str, Judged] = {}
    for done, model in enumerate(chosen):
        tell(f"fit {model.name}", done, len(chosen))
        begun = time.perf_counter()
        model.fit(train, protocol.fitted_until)
        book = ScoreBook(len(panel.stations), horizons, targets)
        judged[model.name] = Judged(model, book, time.perf_counter() - begun)
    origins = _origins(panel, protocol)
    local = local_time(panel.ticks, panel.timezone)
    examples = Examples(panel, protocol.spec, origins, local)
    streams = {name: entry.model.predict(panel, panel.ticks[origins]) for name, entry in judged.items()}
    with writer:
        for done, origin in enumerate(origins.tolist()):
            tell("test", done, len(origins))
            forecasts: dict[str, Forecast] = {}
            for name, stream in streams.items():
                begun = time.perf_counter()
                forecasts[name] = next(stream)
                judged[name].predict_s += time.perf_counter() - begun
            _score(panel, protocol.spec, judged, forecasts, origin, local)
            for forecast in forecasts.values():
                writer.write(forecast)
            examples.add(origin, forecasts)
        if not judged[BASELINE].book.total[..., 0].any():
            raise UsageError(
                f"not one row can be scored between {format_time(protocol.test_from)} and "
                f"{format_time(protocol.test_until)}: no truth is known at these horizons"
            )
    return Backtest(protocol, panel, judged, len(origins), examples)


def _say_nothing(_phase: str, _done: int, _total: int) -> None:
    pass


def _chosen(models: Sequence[str | Forecaster], spec: ForecastSpec) -> list[Forecaster]:
    made = [forecaster(model)(spec) if isinstance(model, str) else model for model in models]
    if not any(model.name == BASELINE for model in made):
        made.insert(0, forecaster(BASELINE)(spec))
    made.sort(key=lambda model: model.name != BASELINE)
    names = [model.name for model in made]
    if len(set(names)) < len(names):
        raise UsageError(f"each model once, please: {', '.join(names)}")
    for model in made:
        if model.spec != spec:
            raise UsageError(f"the model {model.name} was made for other horizons or targets than the backtest's")
    return made


def _origins(panel: Panel, protocol: Protocol) -> npt.NDArray[np.int64]:
    """Ticks of the test window at which anything was observed and from which anything can be scored."""
    first, last = panel.before(protocol.test_from), panel.before(protocol.test_until)
    window = np.arange(first, last)
    channels = protocol.spec.channels
    seen = (panel.observed[first:last, :, channels].any(axis=2) & panel.open[first:last]).any(axis=1)
    if not seen.any():
        raise UsageError(
            f"{panel!r} has no observation between {format_time(protocol.test_from)} and "
            f"{format_time(protocol.test_until)}; there is nothing to test on"
        )
    return window[seen]


def _score(
    panel: Panel,
    spec: ForecastSpec,
    judged: dict[str, Judged],
    forecasts: dict[str, Forecast],
    origin: int,
    local: LocalTime,
) -> None:
    channels = spec.channels
    known = np.logical_and.reduce([forecast.known[0] for forecast in forecasts.values()])  # [station, target]
    here = panel.observed[origin][:, channels] & panel.open[origin][:, None] & known
    at = origin + np.array(spec.horizon_ticks)
    inside = at < len(panel)
    at = np.minimum(at, len(panel) - 1)
    truth = np.moveaxis(panel.counts[at][:, :, channels], 0, 1)  # [station, horizon, target]
    told = panel.observed[at][:, :, channels] & panel.trusted[at][:, :, None] & inside[:, None, None]
    use = np.moveaxis(told, 0, 1) & here[:, None, :]
    now = panel.counts[origin][:, channels]
    for name, forecast in forecasts.items():
        judged[name].book.add(forecast, truth, use, now, int(local.day[origin]), int(local.hour[origin]))


def describe_fit(model: Forecaster) -> dict[str, Any]:
    """What a model was fitted on, as plain JSON values."""
    return asdict(model.report) if model.report else {}
