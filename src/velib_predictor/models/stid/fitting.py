"""The part of STID that needs torch."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from velib_predictor.models.fitting import Fitting
from velib_predictor.models.stid.dataset import Outcomes
from velib_predictor.models.stid.model import Stid


class StidFitting(Fitting):
    """Fits STID's networks. `stations`: known ones; `slots`: of the local day. See `Fitting`."""

    names = ("here", "there", "station", "slots", "days", "unit")

    def __init__(self, told: Sequence[npt.NDArray[Any]], came: Outcomes, *args: Any, stations: int, slots: int) -> None:
        super().__init__(told, came, *args)
        self.sizes = stations, slots

    def network(self) -> Stid:
        """See `Fitting`."""
        return Stid(self.told[0].shape[1], self.told[1].shape[2], *self.sizes, self.came[0].shape[-1], self.settings)
