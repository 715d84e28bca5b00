"""The network: embeddings of station, time of day and kind of day beside features, residual blocks, mixture head.

After Shao, Zhang, Wang, Wei and Xu, "Spatial-Temporal Identity", CIKM 2022: what tells series apart (who, when) is
given as embeddings, and plain layers do the rest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from velib_predictor.models.heads import MixtureHead

DAY_KINDS = 8
"""Monday to Sunday, and public holidays."""


@dataclass(frozen=True)
class StidConfig:
    """Sizes of the network.

    Attributes:
        features: columns; each comes with a flag of whether it is known.
        stations: known ones; one more stands for all others.
        slots: of the local day. outputs: targets.
        width, blocks, station_width, time_width: of the layers. dropout: share of hidden values left out in training.
        station_dropout: share of rows whose station is hidden in training, so that a new station is nothing new.
    """

    features: int
    stations: int
    slots: int
    outputs: int
    width: int = 128
    blocks: int = 2
    station_width: int = 16
    time_width: int = 8
    dropout: float = 0.1
    station_dropout: float = 0.1


class Stid(nn.Module):
    """See the module.

    Shapes: features [row, feature] with NaN where not known; station [row] (the last number: unknown); slot and day
    [row, moment], of the origin and of the target; unit [row, output] -> parameters [row, output, 3, component].
    """

    def __init__(self, config: StidConfig) -> None:
        super().__init__()
        self.config = config
        self.station = nn.Embedding(config.stations + 1, config.station_width)
        self.slot = nn.Embedding(config.slots, config.time_width)
        self.day = nn.Embedding(DAY_KINDS, config.time_width)
        for table in (self.station, self.slot, self.day):
            nn.init.normal_(table.weight, std=0.1)
        inputs = 2 * config.features + config.station_width + 4 * config.time_width
        self.first = nn.Linear(inputs, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.dropout) for _ in range(config.blocks))
        self.head = MixtureHead(config.width, config.outputs)

    def forward(self, features: Tensor, station: Tensor, slot: Tensor, day: Tensor, unit: Tensor) -> Tensor:
        """See the class."""
        known = ~torch.isnan(features)
        if self.training and self.config.station_dropout:
            hidden = torch.rand(station.shape, device=station.device) < self.config.station_dropout
            station = torch.where(hidden, self.config.stations, station)
        inputs = [
            torch.where(known, features, torch.zeros_like(features)),
            known.to(features.dtype),
            self.station(station),
            self.slot(slot).flatten(1),
            self.day(day).flatten(1),
        ]
        trunk = torch.relu(self.first(torch.cat(inputs, dim=1)))
        for block in self.blocks:
            trunk = block(trunk)
        parameters: Tensor = self.head(trunk, unit)
        return parameters


class Block(nn.Module):
    """A residual block; shapes: [row, width] -> [row, width]."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inside = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, trunk: Tensor) -> Tensor:
        moved: Tensor = self.out(self.dropout(torch.relu(self.inside(self.norm(trunk)))))
        return trunk + moved
