"""The network: the last hours of each station, passed along graphs of stations, then STID, which is told of it.

Time first, then graph, after Gao and Ribeiro, "On the Equivalence Between Temporal and Static Equivariant Graph
Representations", ICML 2022: each station's hours become one vector, and only these are passed along. An origin is
encoded once for all horizons.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import spmm

from velib_predictor.config.models import GnnSettings, NetworkSettings
from velib_predictor.models.stid.model import Stid, told

Edges = Tensor | tuple[Tensor, Tensor]
"""A graph: a sparse matrix [station, station] (CSR), or neighbours and their weights, [station, neighbour] each."""


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
        heard = torch.cat([own * known, known], dim=2)
        parts = [own]
        for edges in graphs:
            summed = self.neighbours(heard.flatten(1), edges).unflatten(1, heard.shape[1:])
            parts.append(summed[..., :-1] / summed[..., -1:].clamp(min=1e-3))
        moved: Tensor = self.out(self.dropout(torch.relu(self.inside(torch.cat(parts, dim=2)))))
        return nodes + moved


class Gnn(nn.Module):
    """See the module.

    Args:
        signals: columns of a node; each comes with a flag of whether it is known.
        graphs: whose neighbours a station hears, each in its own way.
        here, there, stations, slots, outputs: see `Stid`.
    """

    def __init__(
        self, signals: int, graphs: int, here: int, there: int, stations: int, slots: int, outputs: int,
        settings: NetworkSettings,
    ) -> None:  # fmt: skip
        super().__init__()
        assert isinstance(settings, GnnSettings)  # noqa: S101 - for the type checker
        self.stations, self.hidden_share = stations, settings.station_dropout
        width = settings.node_width
        seen = settings.model_copy(update={"station_dropout": 0.0})  # who is hidden is hidden as a node, too
        self.stid = Stid(here + width, there, stations, slots, outputs, seen)
        self.node = nn.Linear(2 * signals + settings.station_width + 2 * settings.time_width, width)
        self.layers = nn.ModuleList(GraphLayer(width, graphs, settings.dropout) for _ in range(settings.layers))

    def forward(
        self, signals: Tensor, near: Tensor, weight: Tensor, here: Tensor, there: Tensor, station: Tensor,
        slots: Tensor, days: Tensor, unit: Tensor,
    ) -> Tensor:  # fmt: skip
        """Parameters of all stations at one origin: what is served.

        Shapes: signals [station, signal], NaN where not known; near, weight [station, graph, neighbour]; the others
        as `Stid` has them, an example being a station -> [station, horizon, output, ...].
        """
        graphs = [(near[:, graph], weight[:, graph]) for graph in range(near.shape[1])]
        nodes = self.encode(signals[:, None], station[:, None], slots[:, :1, 0], days[:, :1, 0], graphs)
        parameters: Tensor = self.stid(torch.cat([here, nodes[:, 0]], dim=1), there, station, slots, days, unit)
        return parameters

    def encode(self, signals: Tensor, station: Tensor, slot: Tensor, day: Tensor, graphs: Sequence[Edges]) -> Tensor:
        """A vector for each station.

        Shapes: signals [station, origin, signal], station, slot, day [station, origin] -> [station, origin, width].
        """
        values, known = told(signals)
        who, when = self.stid.station(station), [self.stid.slot(slot), self.stid.day(day)]
        nodes = torch.relu(self.node(torch.cat([values, known, who, *when], dim=2)))
        heard = known.amax(dim=2, keepdim=True)
        for layer in self.layers:
            nodes = layer(nodes, heard, graphs)
        return nodes


class Learner(nn.Module):
    """The same network as it learns: several origins at once, some of their stations, sums by sparse products.

    Args:
        edges: of each graph, sparse [station, station].
    """

    def __init__(self, network: Gnn, edges: Sequence[Tensor]) -> None:
        super().__init__()
        self.network = network
        for number, matrix in enumerate(edges):
            self.register_buffer(f"edges_{number}", matrix, persistent=False)

    def forward(
        self, signals: Tensor, here: Tensor, there: Tensor, station: Tensor, slots: Tensor, days: Tensor, unit: Tensor
    ) -> Tensor:
        """Parameters [origin, station, horizon, output, ...].

        Shapes: signals [node, origin, signal]; station [origin, station]; the others as `Stid` has them, with an axis
        of origins first.
        """
        number = torch.arange(len(signals), device=signals.device)[:, None].expand(signals.shape[:2])
        if self.training and self.network.hidden_share:
            hidden = torch.rand(number.shape, device=number.device) < self.network.hidden_share
            number = torch.where(hidden, self.network.stations, number)
        slot, day = (part[:, 0, 0, 0].expand(number.shape) for part in (slots, days))  # all have the origin's
        nodes = self.network.encode(signals, number, slot, day, list(self.buffers()))
        origin = torch.arange(len(station), device=station.device)[:, None]
        joined = torch.cat([here, nodes[station, origin]], dim=2)
        rows = (part.flatten(0, 1) for part in (joined, there, number[station, origin], slots, days, unit))
        parameters = self.network.stid(*rows)
        return parameters.reshape(*station.shape, *parameters.shape[1:])  # type: ignore[no-any-return]
