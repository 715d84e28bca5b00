"""The part of the LSTM that needs torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from velib_predictor.models.fitting import Fitting
from velib_predictor.models.lstm.model import Lstm
from velib_predictor.models.stid.dataset import Outcomes


class LstmFitting(Fitting):
    """Fits the LSTM's networks. See `Fitting`.

    Args:
        told: tick and station, and the rest as the network is told of it.
        past: of all stations, int16[station, window - 1 + tick, channel]; windows are cut from it a batch at a time.
        window, patch: ticks. stations: known ones. slots: of the local day.
    """

    names = ("window", "size", "features", "station", "slot", "day", "unit")

    def __init__(
        self, told: Sequence[npt.NDArray[Any]], came: Outcomes, *args: Any, past: npt.NDArray[np.int16], window: int,
        patch: int, stations: int, slots: int,
    ) -> None:  # fmt: skip
        super().__init__(told, came, *args)
        self.windows = windows_of(past, window)
        self.sizes = past.shape[2], window, patch
        self.known = stations, slots

    def network(self) -> Lstm:
        """See `Fitting`."""
        return Lstm(*self.sizes, self.told[3].shape[2], *self.known, self.came[0].shape[-1], self.settings)

    def asked(self, told: Sequence[Tensor]) -> list[Tensor]:
        """See `Fitting`."""
        tick, station, size, features, slot, day, unit = told
        window = self.windows[station.cpu(), tick.cpu()].to(size.device)
        return [window, size, features, station, slot, day, unit]


def windows_of(past: npt.NDArray[np.int16], window: int) -> Tensor:
    """The last `window` ticks up to each tick, a view: [station, tick, channel, back]; `dataset.windows` in torch."""
    return torch.from_numpy(past).unfold(1, window, 1)
