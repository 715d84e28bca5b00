"""What the cold-start model learns from: rows of several systems, told as much of their past as a young system has."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import local_time
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import TARGETS, ForecastSpec
from velib_predictor.models.coldstart.features import (
    NAMES,
    OF_DOCKS,
    OF_EBIKES,
    OF_PLACE,
    View,
    lookback,
    sizes,
    typical_change,
)
from velib_predictor.models.coldstart.places import Floats, Places
from velib_predictor.models.stid.dataset import Outcomes, draw

Indices = npt.NDArray[np.int64]
_CHUNK = 20_000
_FIRST_POLL, _WHOLE_WEEK, _YOUNG_STATION = 0.2, 0.35, 0.1
"""Shares of rows that are told nothing of the past, all of it, and nothing of the station's own alone."""
_WITHOUT: tuple[tuple[tuple[str, ...], float, tuple[str, ...]], ...] = (
    (OF_EBIKES, 0.15, ("mechanical", "ebikes")),
    (OF_DOCKS, 0.1, ("docks",)),
    (OF_PLACE, 0.1, ()),
)
"""Shares of rows that are told nothing of these columns, as in systems without; such targets are not learned there."""
_HELD_OUT_DAYS = 8
"""One day of so many is not learned from: it says when to stop."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """One system's share of what is learned.

    Attributes:
        name: of the data, for the record. panel: all of its ticks may be learned from.
        spec: its step, and horizons to learn. rows: how many.
        whole: whether all of the network is in the panel; else nothing is told of the others.
    """

    name: str
    panel: Panel
    spec: ForecastSpec
    rows: int
    whole: bool = True


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows: features [row, feature], unit (typical change) [row, target], what came, and whether they are held out."""

    features: Floats
    unit: Floats
    came: Outcomes
    held_out: npt.NDArray[np.bool_]

    def take(self, rows: Indices) -> "Examples":
        """Some of the rows."""
        return Examples(self.features[rows], self.unit[rows], self.came.take(rows), self.held_out[rows])

    @classmethod
    def of(cls, lesson: Lesson, seed: int) -> "Examples":
        """Rows of one system, drawn at random; the same seed draws the same ones."""
        random = np.random.default_rng(seed)
        panel = lesson.panel
        tick, station, horizon = draw(panel, lesson.spec, lesson.rows, seed)
        order = np.argsort(tick, kind="stable")  # neighbours are asked for tick by tick
        tick, station, ahead = tick[order], station[order], np.array(lesson.spec.horizon_ticks)[horizon[order]]
        reach, wide_reach = _reaches(len(tick), panel.step_s, random)
        view = View.of(panel, Places.of(panel.stations), sizes(panel))
        parts = np.array_split(np.arange(len(tick)), max(len(tick) // _CHUNK, 1))
        features = np.concatenate([view.rows(tick[p], station[p], ahead[p], reach[p], wide_reach[p]) for p in parts])
        size = view.size[tick, station]
        known = panel.observed[tick, station] & panel.observed[tick + ahead, station]  # [row, channel]
        now, truth = (np.clip(panel.counts[at, station], 0, size[:, None]) for at in (tick, tick + ahead))
        came = Outcomes(now.astype(np.float32), truth.astype(np.float32), known, size)
        _leave_out(features, came.known, lesson.whole, random)
        unit = np.repeat(typical_change(size, ahead * panel.step_s)[:, None], len(TARGETS), axis=1)
        day = local_time(panel.ticks, panel.timezone).day[tick + ahead]
        return cls(features, unit, came, day % _HELD_OUT_DAYS == 0)

    @classmethod
    def joined(cls, parts: Sequence["Examples"]) -> "Examples":
        """The rows of several systems."""
        came = Outcomes(
            *(np.concatenate([getattr(part.came, name) for part in parts]) for name in ("now", "truth", "known", "k"))
        )
        features, unit, held_out = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("features", "unit", "held_out")
        )
        return cls(features, unit, came, held_out)


def _reaches(rows: int, step_s: int, random: np.random.Generator) -> tuple[Indices, Indices]:
    """Ticks of the past that are told, of the station and of the others: none, a week, or anything between."""
    most = lookback(step_s)
    reach = np.exp(random.uniform(0, np.log(most), rows)).astype(np.int64)
    kind = random.random(rows)
    reach[kind < _FIRST_POLL] = 0
    reach[kind > 1 - _WHOLE_WEEK] = most
    return np.where(random.random(rows) < _YOUNG_STATION, 0, reach), reach


def _leave_out(features: Floats, known: npt.NDArray[np.bool_], whole: bool, random: np.random.Generator) -> None:
    """Hide from some rows what other systems do not have; what is hidden is no target either."""
    for names, share, targets in _WITHOUT:
        columns = np.array([name in names for name in NAMES])
        hidden = random.random(len(features)) < share
        features[hidden[:, None] & columns] = np.nan
        for target in targets:
            known[hidden, TARGETS.index(target)] = False
    if not whole:
        features[:, [name in OF_PLACE or name.startswith("network_") for name in NAMES]] = np.nan
