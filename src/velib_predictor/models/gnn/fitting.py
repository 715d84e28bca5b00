"""The part of the GNN that needs torch and PyTorch Geometric: one network fitted and written as ONNX."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from velib_predictor.models.gnn.dataset import Examples, Signals
from velib_predictor.models.gnn.graph_builder import Graph
from velib_predictor.models.stid.dataset import Outcomes
from velib_predictor.models.stid.fitting import as_onnx, loss_of, rps_of, tensors_of
from velib_predictor.training.trainer import Batch, Budget, fit_network

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it scripts at its import, which torch calls deprecated
    from velib_predictor.models.gnn.model import Gnn, GnnConfig

NAMES = ("signals", "near", "weight", "features", "station", "slot", "day", "unit")
_BATCH = 4
"""Origins a step."""


def fit_fold(
    signals: Signals, graphs: Sequence[Graph], told: Examples, came: Outcomes, held_out: Examples, held_came: Outcomes,
    *, horizons: int, slots: int, sizes: Mapping[str, Any], epochs: int, seed: int,
) -> tuple[bytes, float]:  # fmt: skip
    """A network fitted on examples, stopped where it is best on held-out ones: its ONNX file, and its RPS there.

    Args:
        signals: of all stations and ticks; those of a batch are cut from it.
        horizons: how many it will be asked for at once. sizes: of the network, by the names of `GnnConfig`.
    """
    probe = signals.at(told.tick[:1])
    config = GnnConfig(
        probe.shape[2], told.features.shape[3], len(graphs), len(probe), slots, came.now.shape[3],
        **sizes,
    )  # fmt: skip
    torch.manual_seed(seed)
    network = Gnn(config)
    edges = [csr(graph) for graph in graphs]
    asked, outcome = tensors(held_out), tensors_of(held_came)

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        return loss_of(answer(module, signals, edges, batch[:-4]), batch[-4:])

    @torch.no_grad()
    def score(module: nn.Module) -> float:
        parts = [
            answer(module, signals, edges, [part[first : first + _BATCH] for part in asked])
            for first in range(0, len(held_out.tick), _BATCH)
        ]
        return rps_of(torch.cat(parts), asked[-1], outcome)

    budget = Budget(epochs=epochs, batch=_BATCH, seed=seed)
    reached = fit_network(network, [*tensors(told), *tensors_of(came)], loss, score, budget)
    return as_onnx(network, _example(signals, graphs, asked, horizons), NAMES), reached


def csr(graph: Graph) -> Tensor:
    """The graph as a sparse matrix [station, station]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of CSR, that it is young
        pointers, columns, values = (torch.from_numpy(part) for part in graph.csr())
        return torch.sparse_csr_tensor(pointers, columns, values, (len(graph.near),) * 2)


def tensors(told: Examples) -> list[Tensor]:
    """Tick, station, features, slot, day, unit."""
    parts = (told.tick, told.station, told.features, told.slot, told.day, told.unit)
    return [torch.from_numpy(part) for part in parts]


def answer(network: nn.Module, signals: Signals, edges: Sequence[Tensor], batch: Batch) -> Tensor:
    """Parameters of examples, [example, station, horizon, output, 3, component]; all stations are nodes."""
    assert isinstance(network, Gnn)  # noqa: S101 - for the type checker
    tick, station, features, slot, day, unit = batch
    nodes = torch.from_numpy(signals.at(tick.numpy()))  # [node, example, signal]
    number = torch.arange(len(nodes))[:, None].expand(nodes.shape[:2])
    if network.training and network.config.station_dropout:
        hidden = torch.rand(number.shape) < network.config.station_dropout
        number = torch.where(hidden, network.config.stations, number)
    begun, today = (part[:, 0, 0, 0].expand(number.shape) for part in (slot, day))  # all have the origin's
    encoded = network.encode(nodes, number, begun, today, edges)  # [node, example, width]
    which = torch.arange(len(tick))[:, None]
    rows = [encoded[station, which], number[station, which], features, slot, day, unit]
    parameters = network.decode(*(part.flatten(0, 1) for part in rows))
    return parameters.reshape(*station.shape, *parameters.shape[1:])


def _example(signals: Signals, graphs: Sequence[Graph], asked: Batch, horizons: int) -> list[Tensor]:
    """A few stations at an origin, with as many horizons as it will be asked for."""
    tick, station, features, slot, day, unit = asked
    each = torch.arange(horizons) % features.shape[2]
    few = torch.arange(4) % station.shape[1]
    nodes = torch.from_numpy(signals.at(tick[:1].numpy()))[few, 0].contiguous()
    near = torch.zeros(4, len(graphs), graphs[0].near.shape[1], dtype=torch.long)
    rows = (part[0, few][:, each].contiguous() for part in (features, slot, day, unit))
    features, slot, day, unit = rows
    return [nodes, near, torch.ones(near.shape), features, station[0, few].contiguous(), slot, day, unit]
