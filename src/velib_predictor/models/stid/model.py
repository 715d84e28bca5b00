"""The network: embeddings of station, time of day and kind of day beside features, residual blocks, mixture head.

After Shao, Zhang, Wang, Wei and Xu, "Spatial-Temporal Identity", CIKM 2022: what tells series apart (who, when) is
given as embeddings, and plain layers do the rest. What does not depend on the horizon goes through layers of its own,
once for all horizons of an origin and station.
"""

import torch
from torch import Tensor, nn

from velib_predictor.config.models import NetworkSettings
from velib_predictor.models.heads import head

DAY_KINDS = 8
"""Monday to Sunday, and public holidays."""


class Stid(nn.Module):
    """See the module.

    Args:
        here, there: features of the origin, and those that depend on the horizon; each comes with a flag of whether
            it is known.
        stations: known ones; one more stands for all others.
        slots: of the local day. outputs: targets.

    Shapes: here [example, feature] and there [example, horizon, feature], NaN where not known; station [example] (the
    last number: unknown); slot and day [example, horizon, moment], of the origin and of the target; unit [example,
    horizon, output] -> parameters [example, horizon, output, ...] (see `heads`).
    """

    def __init__(
        self, here: int, there: int, stations: int, slots: int, outputs: int, settings: NetworkSettings
    ) -> None:
        super().__init__()
        self.stations, self.hidden_share = stations, settings.station_dropout
        width, time = settings.width, settings.time_width
        self.station = nn.Embedding(stations + 1, settings.station_width)
        self.slot = nn.Embedding(slots, time)
        self.day = nn.Embedding(DAY_KINDS, time)
        for table in (self.station, self.slot, self.day):
            nn.init.normal_(table.weight, std=0.1)
        self.here = nn.Linear(2 * here + settings.station_width + 2 * time, width)
        self.there = nn.Linear(2 * there + 2 * time, width)
        blocks = [Block(width, settings.dropout) for _ in range(settings.blocks)]
        self.before, self.after = nn.ModuleList(blocks[1:]), blocks[0]
        self.head = head(settings.head, width, outputs)

    def forward(self, here: Tensor, there: Tensor, station: Tensor, slot: Tensor, day: Tensor, unit: Tensor) -> Tensor:
        """See the class."""
        if self.training and self.hidden_share:
            hidden = torch.rand(station.shape, device=station.device) < self.hidden_share
            station = torch.where(hidden, self.stations, station)
        slots, days = self.slot(slot), self.day(day)  # [example, horizon, moment, width]
        trunk = torch.cat([*told(here), self.station(station), slots[:, 0, 0], days[:, 0, 0]], dim=1)
        trunk = self.here(trunk)
        for block in self.before:
            trunk = block(trunk)
        ahead = self.there(torch.cat([*told(there), slots[:, :, 1], days[:, :, 1]], dim=2))  # [example, horizon, width]
        trunk = self.after(torch.relu(trunk[:, None] + ahead)).flatten(0, 1)
        parameters: Tensor = self.head(trunk, unit.flatten(0, 1))
        return parameters.reshape(*unit.shape[:2], *parameters.shape[1:])


def told(features: Tensor) -> tuple[Tensor, Tensor]:
    """Features without gaps, and whether each is known."""
    known = ~torch.isnan(features)
    return torch.where(known, features, torch.zeros_like(features)), known.to(features.dtype)


class Block(nn.Module):
    """A residual block; shapes: [..., width] -> [..., width]."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inside = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, trunk: Tensor) -> Tensor:
        moved: Tensor = self.out(self.dropout(torch.relu(self.inside(self.norm(trunk)))))
        return trunk + moved
