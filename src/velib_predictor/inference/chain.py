"""The chain that always answers, and says who did: the model, the cold-start model, what is usual, what was last there.

A station that the model was not trained on is new to it: there the cold-start model is asked first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from velib_predictor.data.known_weather import WeatherSource
from velib_predictor.data.panel import Panel
from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.inference.issue import Source
from velib_predictor.models.base import Forecaster
from velib_predictor.utils.logger import get_logger

DAY_S = 86_400
_log = get_logger(__name__)


class Link(NamedTuple):
    """A fitted model and what it counts as in the chain."""

    source: Source
    model: Forecaster


class Answer(NamedTuple):
    """What a link says, and of which stations it is asked, bool[station]."""

    source: Source
    forecast: Forecast
    speaks: npt.NDArray[np.bool_]


class Chain:
    """Forecasts from the first link that knows a station; at the end stands what was last seen there within a day.

    Args:
        spec: of the answer; links of another specification are left out by whoever makes the chain.
        links: in order of trust; the first gives the answer its name.
    """

    def __init__(self, spec: ForecastSpec, links: Sequence[Link]) -> None:
        self.spec = spec
        self.links = tuple(links)
        self.name = links[0].model.name if links else "persistence"
        day = DAY_S // max(int(spec.step.total_seconds()), 1)
        self.lookback = max([day, *(link.model.lookback for link in links)])
        """Ticks before an origin that an answer reads."""
        self.trouble: str | None = None
        """Which link failed at the last forecast."""

    def forecast(self, panel: Panel) -> tuple[Forecast, npt.NDArray[np.uint8]]:
        """The forecast from the panel's last tick, and where each number came from, uint8[station, target]."""
        answers = self._answers(panel)
        size = max(answer.pmf.shape[-1] for _, answer, _ in answers)
        k = np.maximum.reduce([answer.k for _, answer, _ in answers])  # [origin, station]
        first = answers[0][1]
        pmf = np.zeros((*first.pmf.shape[:-1], size), dtype=np.float32)
        source = np.full(first.known.shape[1:], Source.NONE, dtype=np.uint8)  # [station, target]
        for link, answer, speaks in answers:
            takes = answer.known[0] & speaks[:, None] & (source == Source.NONE)
            source[takes] = link
            if takes.all():
                pmf[..., : answer.pmf.shape[-1]] = answer.pmf
                break
            station, target = np.nonzero(takes)
            pmf[0, station, :, target, : answer.pmf.shape[-1]] = answer.pmf[0, station, :, target]
        known = source[None] != Source.NONE
        mixed = Forecast(self.spec, self.name, first.origins, first.stations, pmf, k, known)
        # Bikes and e-bikes of one station may come from different links, or have been seen last at different times:
        # only then their order is in doubt.
        doubt = ((source != source[:, :1]) | (source == Source.PERSISTENCE)).any(axis=1)  # [station]
        if doubt.any():
            pmf[:, doubt] = mixed.ordered().pmf[:, doubt]
        return mixed, source

    def weather_of(self, panel: Panel, source: npt.NDArray[np.uint8]) -> WeatherSource:
        """What of the weather the forecast from the panel's last tick knows; `source` is as `forecast` gave it."""
        asked = (link.model.weather_of(panel) for link in self.links if (source == link.source).any())
        return next(asked, WeatherSource.NONE)

    def _answers(self, panel: Panel) -> list[Answer]:
        """What each link says, in order; a link that fails says nothing."""
        self.trouble = None
        everywhere = np.ones(len(panel.stations), dtype=bool)
        answers: list[Answer] = []
        for link in self.links:
            if link.source is Source.COLDSTART and not self._asks(panel, answers):
                continue
            try:
                said = next(link.model.predict(panel, panel.ticks[-1:]))
                trained = link.model.places(panel) >= 0 if link.source is Source.MODEL else everywhere
            except Exception as error:
                _log.exception("a model failed; the next in the chain answers", model=link.model.name)
                self.trouble = self.trouble or f"the model {link.model.name} failed ({type(error).__name__})"
                continue
            answers.append(Answer(link.source, said, trained))
        # Of stations that are new to it the model may still speak before what is usual does.
        learned = [answer for answer in answers if answer.source in (Source.MODEL, Source.COLDSTART)]
        again = [answer._replace(speaks=everywhere) for answer in learned if answer.source is Source.MODEL]
        last = Answer(Source.PERSISTENCE, self._last_seen(panel), everywhere)
        return [*learned, *again, *answers[len(learned) :], last]

    def _asks(self, panel: Panel, answers: Sequence[Answer]) -> bool:
        """Whether anything that is observed now is not forecast yet: the cold-start model speaks of nothing else."""
        told = np.zeros((len(panel.stations), len(self.spec.targets)), dtype=bool)
        for answer in answers:
            told |= answer.forecast.known[0] & answer.speaks[:, None]
        return bool((panel.observed[-1][:, self.spec.channels] & ~told).any())

    def _last_seen(self, panel: Panel) -> Forecast:
        """All probability on what was last observed within a day."""
        day = DAY_S // panel.step_s + 1
        seen = panel.observed[-day:][:, :, self.spec.channels]  # [tick, station, target]
        counts = panel.counts[-day:][:, :, self.spec.channels]
        back = np.argmax(seen[::-1], axis=0)  # ticks since, [station, target]
        last = np.take_along_axis(counts[::-1], back[None], axis=0)[0]
        known = np.asarray(seen.any(axis=0))
        sizes = np.maximum(panel.capacity[-1], panel.totals()[-day:].max(axis=0))
        k = np.maximum(np.maximum(sizes, np.where(known, last, 0).max(axis=1)), 1).astype(np.int16)  # [station]
        pmf = algebra.point(np.where(known, last, 0), int(k.max()) + 1)[:, None]  # [station, 1, target, count]
        pmf = np.where(known[:, None, :, None], pmf, np.float32(0))
        pmf = np.broadcast_to(pmf, (len(k), len(self.spec.horizons), *pmf.shape[2:]))
        return Forecast(self.spec, "persistence", panel.ticks[-1:], panel.stations.id, pmf[None], k[None], known[None])
