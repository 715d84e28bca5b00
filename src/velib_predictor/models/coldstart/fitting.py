"""The part of the cold-start model that needs torch: its network fitted and written as ONNX."""

import numpy as np
import torch
from torch import Tensor, nn

from velib_predictor.models.coldstart.dataset import Examples
from velib_predictor.models.coldstart.model import ColdStart, ColdStartConfig
from velib_predictor.models.fitting import Together, loss_of, score_of
from velib_predictor.models.onnx_file import as_onnx
from velib_predictor.models.stid.dataset import Outcomes, Scaling
from velib_predictor.training.trainer import Batch, Budget, fit_network

_NAMES = ("features", "unit")


def fit(train: Examples, held_out: Examples, *, epochs: int, seed: int) -> tuple[bytes, float]:
    """A network fitted on rows, stopped where it is best on held-out ones: its ONNX file, and its RPS there."""
    torch.manual_seed(seed)
    network = ColdStart(ColdStartConfig(train.features.shape[1], train.unit.shape[1]))
    scaling = Scaling.fit(train.features, np.ones((1, 1), dtype=np.float32))
    network.standardise(torch.from_numpy(scaling.middle), torch.from_numpy(scaling.width))
    asked, came = _asked(held_out), _came(held_out.came)
    reached = fit_network(
        network, [*_asked(train), *_came(train.came)], _loss, lambda module: score_of(module, asked, came),
        Budget(epochs=epochs, seed=seed),
    )  # fmt: skip
    return as_onnx(Together([network], "mixture"), [tensor[:4] for tensor in asked], _NAMES), reached


def _asked(rows: Examples) -> list[Tensor]:
    return [torch.from_numpy(rows.features), torch.from_numpy(rows.unit)]


def _came(came: Outcomes) -> list[Tensor]:
    return [torch.from_numpy(part) for part in (came.now, came.truth, came.known, came.k)]


def _loss(network: nn.Module, batch: Batch) -> Tensor:
    return loss_of(network(*batch[:2]), batch[2:])
