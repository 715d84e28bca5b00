"""The part of STID that needs torch: one network fitted and written as ONNX. Loss, score, ONNX serve others too."""

import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxscript  # noqa: F401 - torch asks for it when a network is written: too late to learn that it is missing
import torch
from torch import Tensor, nn

from velib_predictor.models.heads import log_likelihood, mixture_pmf
from velib_predictor.models.stid.dataset import Outcomes, Rows
from velib_predictor.models.stid.model import Stid, StidConfig
from velib_predictor.training.trainer import Batch, Budget, fit_network

SMALL: dict[str, Any] = {"width": 48, "blocks": 1, "station_width": 6, "time_width": 4, "dropout": 0.2}
"""Sizes where the history is short."""
_NAMES = ("features", "station", "slot", "day", "unit")


def fit_fold(
    rows: Rows, came: Outcomes, held_out: Rows, held_came: Outcomes, *, stations: int, slots: int, small: bool,
    epochs: int, seed: int,
) -> tuple[bytes, float]:  # fmt: skip
    """A network fitted on rows, stopped where it is best on held-out ones: its ONNX file, and its RPS there."""
    config = StidConfig(rows.features.shape[1], stations, slots, came.now.shape[1])
    if small:
        config = replace(config, **SMALL)
    torch.manual_seed(seed)
    network = Stid(config)
    asked, outcome = _tensors(held_out), tensors_of(held_came)
    reached = fit_network(
        network, [*_tensors(rows), *tensors_of(came)], _loss, lambda module: _score(module, asked, outcome),
        Budget(epochs=epochs, seed=seed),
    )  # fmt: skip
    return as_onnx(network, [tensor[:4] for tensor in asked], _NAMES), reached


def as_onnx(network: nn.Module, example: Sequence[Tensor], names: Sequence[str]) -> bytes:
    """The network as an ONNX file that takes any number of rows; `names` of its inputs."""
    rows = torch.export.Dim("rows", min=2)
    for chatty in ("torch.onnx", "onnxscript", "onnx_ir"):  # of every node, and that torchvision is missing
        logging.getLogger(chatty).setLevel(logging.ERROR)
    logging.getLogger("torch.__trace").propagate = False  # thousands of records, whatever level is asked for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.eval(), tuple(example), input_names=list(names), output_names=["parameters"], dynamo=True,
            verbose=False, dynamic_shapes={name: {0: rows} for name in names},
        )  # fmt: skip
    assert program is not None  # noqa: S101 - for the type checker
    _forget_origin(program.model.graph)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        program.save(file, external_data=False)
        return file.read_bytes()


def _forget_origin(graph: Any) -> None:
    """Take out what the exporter notes of each node: the source's lines and paths, larger than a small network."""
    graph.metadata_props.clear()
    for node in graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()


def _tensors(rows: Rows) -> list[Tensor]:
    return [torch.from_numpy(part) for part in (rows.features, rows.station, rows.slot, rows.day, rows.unit)]


def tensors_of(came: Outcomes) -> list[Tensor]:
    """Now, truth, known, k."""
    return [torch.from_numpy(part) for part in (came.now, came.truth, came.known, came.k)]


def loss_of(parameters: Tensor, came: Batch) -> Tensor:
    """Mean negative log-likelihood, in nats.

    Shapes: parameters [..., output, 3, component]; of `came`: now, truth, known [..., output], k [...] -> [].
    """
    now, truth, known, k = came
    likelihood = log_likelihood(parameters, now, k[..., None].expand_as(now), truth)
    return -(likelihood * known).sum() / known.sum().clamp(min=1)


def rps_of(parameters: Tensor, unit: Tensor, came: Batch) -> float:
    """Mean RPS, each row measured in its typical change, so that horizons count alike. Shapes as in `loss_of`."""
    now, truth, known, k = came
    pmf = mixture_pmf(parameters, now, k[..., None].expand_as(now), int(k.max()) + 1)
    step = truth[..., None] <= torch.arange(pmf.shape[-1])
    rps = (pmf.cumsum(-1) - step.float()).square().sum(-1) / unit
    return float((rps * known).sum() / known.sum().clamp(min=1))


def _loss(network: nn.Module, batch: Batch) -> Tensor:
    return loss_of(network(*batch[:5]), batch[5:])


@torch.no_grad()
def _score(network: nn.Module, asked: list[Tensor], came: list[Tensor]) -> float:
    return rps_of(network(*asked), asked[-1], came)
