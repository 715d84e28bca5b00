"""The part of the LSTM that needs torch: one network fitted and written as ONNX."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from velib_predictor.models.lstm.dataset import Examples
from velib_predictor.models.lstm.model import Lstm, LstmConfig
from velib_predictor.models.stid.dataset import Outcomes
from velib_predictor.models.stid.fitting import as_onnx, loss_of, rps_of, tensors_of
from velib_predictor.training.trainer import Batch, Budget, fit_network

NAMES = ("window", "size", "features", "station", "slot", "day", "unit")
_BATCH = 512
_SMALL = {"hidden": 24, "width": 48, "blocks": 1, "station_width": 6, "time_width": 4, "dropout": 0.2}


def fit_fold(
    past: npt.NDArray[np.int16], told: Examples, came: Outcomes, held_out: Examples, held_came: Outcomes, *,
    window: int, patch: int, horizons: int, stations: int, slots: int, small: bool, epochs: int, seed: int,
) -> tuple[bytes, float]:  # fmt: skip
    """A network fitted on examples, stopped where it is best on held-out ones: its ONNX file, and its RPS there.

    Args:
        past: of all stations, int16[station, window - 1 + tick, channel]; windows are cut from it a batch at a time.
        horizons: how many it will be asked for at once.
    """
    sizes = _SMALL if small else {}
    config = LstmConfig(
        past.shape[2], window, patch, told.features.shape[2], stations, slots, came.now.shape[2],
        **sizes,  # type: ignore[arg-type]
    )  # fmt: skip
    torch.manual_seed(seed)
    network = Lstm(config)
    windows = windows_of(past, window)
    asked, outcome = _inputs(windows, _tensors(held_out)), tensors_of(held_came)

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        return loss_of(module(*_inputs(windows, batch[:-4])), batch[-4:])

    @torch.no_grad()
    def score(module: nn.Module) -> float:
        return rps_of(module(*asked), asked[-1], outcome)

    reached = fit_network(
        network, [*_tensors(told), *tensors_of(came)], loss, score, Budget(epochs=epochs, batch=_BATCH, seed=seed)
    )
    return as_onnx(network, _example(asked, horizons), NAMES), reached


def windows_of(past: npt.NDArray[np.int16], window: int) -> Tensor:
    """The last `window` ticks up to each tick, a view: [station, tick, channel, back]; `dataset.windows` in torch."""
    return torch.from_numpy(past).unfold(1, window, 1)


def _tensors(told: Examples) -> list[Tensor]:
    parts = (told.tick, told.station, told.size, told.features, told.slot, told.day, told.unit)
    return [torch.from_numpy(part) for part in parts]


def _inputs(windows: Tensor, batch: Batch) -> list[Tensor]:
    """What the network is asked with, in the order of `NAMES`."""
    tick, station, size, features, slot, day, unit = batch
    return [windows[station, tick], size, features, station, slot, day, unit]


def _example(asked: list[Tensor], horizons: int) -> list[Tensor]:
    """A few examples with as many horizons as it will be asked for."""
    window, size, features, station, slot, day, unit = (tensor[:4] for tensor in asked)
    each = torch.arange(horizons) % features.shape[1]
    return [window, size, features[:, each], station, slot[:, each], day[:, each], unit[:, each]]
