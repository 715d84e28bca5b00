"""The network: the last hours of each station, passed along graphs of stations, then joined with what STID is told.

Time first, then graph, after Gao and Ribeiro, "On the Equivalence Between Temporal and Static Equivariant Graph
Representations", ICML 2022: each station's hours become one vector, and only these are passed along. An origin is
encoded once for all horizons.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import spmm

from velib_predictor.models.heads import MixtureHead
from velib_predictor.models.stid.model import DAY_KINDS, Block

Edges = Tensor | tuple[Tensor, Tensor]
"""A graph: a sparse matrix [station, station] (CSR), or neighbours and their weights, [station, neighbour] each."""


@dataclass(frozen=True)
class GnnConfig:
    """Sizes of the network.

    Attributes:
        signals, features: columns of a node and of a row; each comes with a flag of whether it is known.
        graphs: whose neighbours a station hears, each in its own way. stations: known ones; one more stands for others.
        slots: of the local day. outputs: targets.
        node_width, layers: of the graph. width, blocks, station_width, time_width: of the others. dropout: share of
            hidden values left out in training. station_dropout: share of nodes whose station is hidden in training.
    """

    signals: int
    features: int
    graphs: int
    stations: int
    slots: int
    outputs: int
    node_width: int = 48
    layers: int = 1
    width: int = 128
    blocks: int = 2
    station_width: int = 16
    time_width: int = 8
    dropout: float = 0.1
    station_dropout: float = 0.1


class Neighbours(MessagePassing):  # type: ignore[misc]
    """The weighted sum over neighbours; [station, column] -> [station, column]."""

    def __init__(self) -> None:
        super().__init__(aggr="sum")

    def forward(self, values: Tensor, edges: Edges) -> Tensor:
        """By a sparse product, or by gathering, which ONNX can do."""
        if isinstance(edges, Tensor):
            summed: Tensor = self.propagate(edges, values=values)
            return summed
        near, weight = edges
        gathered: Tensor = (values[near] * weight[..., None]).sum(dim=1)
        return gathered

    def message_and_aggregate(self, edge_index: Tensor, values: Tensor) -> Tensor:
        """See PyTorch Geometric: no message is laid down for each edge."""
        product: Tensor = spmm(edge_index, values, "sum")
        return product


class GraphLayer(nn.Module):
    """A residual layer, [station, origin, width] -> the same. Neighbours of whom nothing is known are left out."""

    def __init__(self, width: int, graphs: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.neighbours = Neighbours()
        self.inside = nn.Linear((1 + graphs) * width, width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, nodes: Tensor, known: Tensor, graphs: Sequence[Edges]) -> Tensor:
        """`known` [station, origin, 1] is 1 for nodes that are heard, else 0."""
        own = self.norm(nodes)
        told = torch.cat([own * known, known], dim=2)
        parts = [own]
        for edges in graphs:
            summed = self.neighbours(told.flatten(1), edges).unflatten(1, told.shape[1:])
            parts.append(summed[..., :-1] / summed[..., -1:].clamp(min=1e-3))
        moved: Tensor = self.out(self.dropout(torch.relu(self.inside(torch.cat(parts, dim=2)))))
        return nodes + moved


class Gnn(nn.Module):
    """See the module. `encode` and `decode` are what training asks, `forward` what is served."""

    def __init__(self, config: GnnConfig) -> None:
        super().__init__()
        self.config = config
        self.station = nn.Embedding(config.stations + 1, config.station_width)
        self.slot = nn.Embedding(config.slots, config.time_width)
        self.day = nn.Embedding(DAY_KINDS, config.time_width)
        for table in (self.station, self.slot, self.day):
            nn.init.normal_(table.weight, std=0.1)
        who_when = config.station_width + 2 * config.time_width
        self.node = nn.Linear(2 * config.signals + who_when, config.node_width)
        self.layers = nn.ModuleList(
            GraphLayer(config.node_width, config.graphs, config.dropout) for _ in range(config.layers)
        )
        self.here = nn.Linear(config.node_width + config.station_width, config.width)
        self.there = nn.Linear(2 * config.features + 4 * config.time_width, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.dropout) for _ in range(config.blocks))
        self.head = MixtureHead(config.width, config.outputs)

    def forward(
        self, signals: Tensor, near: Tensor, weight: Tensor, features: Tensor, station: Tensor, slot: Tensor,
        day: Tensor, unit: Tensor,
    ) -> Tensor:  # fmt: skip
        """Parameters of all stations at one origin.

        Shapes: signals [station, signal] and features [station, horizon, feature] with NaN where not known; near,
        weight [station, graph, neighbour]; station [station] (the last number: unknown); slot, day [station, horizon,
        moment]; unit [station, horizon, output] -> [station, horizon, output, 3, component].
        """
        graphs = [(near[:, graph], weight[:, graph]) for graph in range(self.config.graphs)]
        nodes = self.encode(signals[:, None], station[:, None], slot[:, :1, 0], day[:, :1, 0], graphs)
        return self.decode(nodes[:, 0], station, features, slot, day, unit)

    def encode(self, signals: Tensor, station: Tensor, slot: Tensor, day: Tensor, graphs: Sequence[Edges]) -> Tensor:
        """A vector for each station.

        Shapes: signals [station, origin, signal], station, slot, day [station, origin] -> [station, origin, width].
        """
        known, told = _told(signals)
        nodes = torch.relu(self.node(torch.cat([told, self.station(station), self.slot(slot), self.day(day)], dim=2)))
        heard = known.any(dim=2, keepdim=True).to(told.dtype)
        for layer in self.layers:
            nodes = layer(nodes, heard, graphs)
        return nodes

    def decode(
        self, nodes: Tensor, station: Tensor, features: Tensor, slot: Tensor, day: Tensor, unit: Tensor
    ) -> Tensor:
        """Parameters [row, horizon, output, 3, component]; nodes [row, width], station [row], the rest as served."""
        here = self.here(torch.cat([nodes, self.station(station)], dim=1))  # [row, width]
        _, told = _told(features)
        there = self.there(torch.cat([told, self.slot(slot).flatten(2), self.day(day).flatten(2)], dim=2))
        trunk = torch.relu(here[:, None] + there).flatten(0, 1)  # [row x horizon, width]
        for block in self.blocks:
            trunk = block(trunk)
        parameters: Tensor = self.head(trunk, unit.flatten(0, 1))
        return parameters.reshape(*unit.shape, *parameters.shape[-2:])


def _told(values: Tensor) -> tuple[Tensor, Tensor]:
    """What is known of the last axis's columns, and the columns, 0 where not known, beside flags."""
    known = ~torch.isnan(values)
    return known, torch.cat([torch.where(known, values, torch.zeros_like(values)), known.to(values.dtype)], dim=-1)
