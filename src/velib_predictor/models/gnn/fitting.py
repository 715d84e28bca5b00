"""The part of the GNN that needs torch and PyTorch Geometric."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from velib_predictor.models.fitting import Fitting
from velib_predictor.models.gnn.dataset import Signals
from velib_predictor.models.gnn.graph_builder import Graph
from velib_predictor.models.stid.dataset import Outcomes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it scripts at its import, which torch calls deprecated
    from velib_predictor.models.gnn.model import Gnn, Learner


class GnnFitting(Fitting):
    """Fits the GNN's networks. See `Fitting`.

    Args:
        told: tick [example], and the rest as STID is told of it, [example, station, ...]: an example is an origin.
        signals: of all stations and ticks; those of a batch are cut from it. graphs: of all stations.
        slots: of the local day.
    """

    names = ("signals", "near", "weight", "here", "there", "station", "slots", "days", "unit")

    def __init__(
        self, told: Sequence[npt.NDArray[Any]], came: Outcomes, *args: Any, signals: Signals, graphs: Sequence[Graph],
        slots: int,
    ) -> None:  # fmt: skip
        super().__init__(told, came, *args)
        self.signals, self.graphs, self.slots = signals, graphs, slots

    def network(self) -> Learner:
        """See `Fitting`."""
        columns = self.signals.at(np.zeros(1, dtype=np.int64)).shape[2], len(self.graphs)
        here, there = self.told[1].shape[2], self.told[2].shape[3]
        known = len(self.signals.size), self.slots, self.came[0].shape[-1]
        return Learner(Gnn(*columns, here, there, *known, self.settings), [csr(graph) for graph in self.graphs])

    def asked(self, told: Sequence[Tensor]) -> list[Tensor]:
        """See `Fitting`."""
        tick, *rest = told
        return [torch.from_numpy(self.signals.at(tick.cpu().numpy())).to(rest[0].device), *rest]

    def few(self) -> list[Tensor]:
        """See `Fitting`: of a few stations of an origin, who hear only the first."""
        count = len(self.signals.size)
        signals, *rest = self.asked([part[:1] for part in self.told])
        some = torch.arange(4)
        near = torch.zeros(4, len(self.graphs), self.graphs[0].near.shape[1], dtype=torch.long)
        rows = [part[0, some % part.shape[1]].contiguous() for part in rest]
        return [signals[some % count, 0].contiguous(), near, torch.ones(near.shape), *rows]

    def export(self, networks: Sequence[nn.Module]) -> bytes:
        """See `Fitting`."""
        return super().export([network.network for network in networks if isinstance(network, Learner)])


def csr(graph: Graph) -> Tensor:
    """The graph as a sparse matrix [station, station]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of CSR, that it is young
        pointers, columns, values = (torch.from_numpy(part) for part in graph.csr())
        return torch.sparse_csr_tensor(pointers, columns, values, (len(graph.near),) * 2)
