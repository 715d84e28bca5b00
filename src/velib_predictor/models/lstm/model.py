"""The network: an LSTM over patches of the last day, joined with where, when and how far ahead; mixture head.

Patches as in Nie, Nguyen, Sinthong and Kalagnanam, "A Time Series is Worth 64 Words", ICLR 2023: an hour a step costs a
quarter of four steps. The history is encoded once for all horizons.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from velib_predictor.models.heads import MixtureHead
from velib_predictor.models.stid.model import DAY_KINDS, Block

_GAIN = 4.0
"""Shares of a station's size that change within a day are about a quarter."""


@dataclass(frozen=True)
class LstmConfig:
    """Sizes of the network.

    Attributes:
        channels, window, patch: counts a tick, ticks, and ticks that make one step of the LSTM.
        features: columns; each comes with a flag of whether it is known.
        stations: known ones; one more stands for all others.
        slots: of the local day. outputs: targets.
        hidden, width, blocks, station_width, time_width: of the layers. dropout: share of hidden values left out in
            training. station_dropout: share of examples whose station is hidden in training, so that a new station is
            nothing new.
    """

    channels: int
    window: int
    patch: int
    features: int
    stations: int
    slots: int
    outputs: int
    hidden: int = 64
    width: int = 128
    blocks: int = 2
    station_width: int = 16
    time_width: int = 8
    dropout: float = 0.1
    station_dropout: float = 0.1


class Lstm(nn.Module):
    """See the module.

    Shapes: window (counts, negative where not known, the origin last) [example, channel, tick]; size [example];
    features [example, horizon, feature] with NaN where not known; station [example] (the last number: unknown); slot
    and day [example, horizon, moment], of the origin and of the target; unit [example, horizon, output] -> parameters
    [example, horizon, output, 3, component].
    """

    def __init__(self, config: LstmConfig) -> None:
        super().__init__()
        self.config = config
        self.station = nn.Embedding(config.stations + 1, config.station_width)
        self.slot = nn.Embedding(config.slots, config.time_width)
        self.day = nn.Embedding(DAY_KINDS, config.time_width)
        for table in (self.station, self.slot, self.day):
            nn.init.normal_(table.weight, std=0.1)
        self.start = nn.Linear(config.station_width + 2 * config.time_width, config.hidden)
        self.lstm = nn.LSTM(2 * config.channels * config.patch, config.hidden, batch_first=True)
        self.here = nn.Linear(config.hidden + config.station_width, config.width)
        self.there = nn.Linear(2 * config.features + 4 * config.time_width, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.dropout) for _ in range(config.blocks))
        self.head = MixtureHead(config.width, config.outputs)

    def forward(
        self, window: Tensor, size: Tensor, features: Tensor, station: Tensor, slot: Tensor, day: Tensor, unit: Tensor
    ) -> Tensor:
        """See the class."""
        if self.training and self.config.station_dropout:
            hidden = torch.rand(station.shape, device=station.device) < self.config.station_dropout
            station = torch.where(hidden, self.config.stations, station)
        who = self.station(station)  # [example, width]
        slots, days = self.slot(slot), self.day(day)  # [example, horizon, moment, width]
        start = torch.tanh(self.start(torch.cat([who, slots[:, 0, 0], days[:, 0, 0]], dim=1)))[None]
        _, (encoded, _) = self.lstm(self._steps(window, size), (start, torch.zeros_like(start)))
        here = self.here(torch.cat([encoded[0], who], dim=1))  # [example, width]
        known = ~torch.isnan(features)
        told = torch.where(known, features, torch.zeros_like(features))
        there = self.there(torch.cat([told, known.to(told.dtype), slots.flatten(2), days.flatten(2)], dim=2))
        trunk = torch.relu(here[:, None] + there).flatten(0, 1)  # [example x horizon, width]
        for block in self.blocks:
            trunk = block(trunk)
        parameters: Tensor = self.head(trunk, unit.flatten(0, 1))
        return parameters.reshape(*unit.shape, *parameters.shape[-2:])

    def _steps(self, window: Tensor, size: Tensor) -> Tensor:
        """What the LSTM reads: shares of the size relative to now, and whether known.

        Shapes: window [example, channel, tick], size [example] -> [example, step, 2 x channel x patch].
        """
        counts = window.to(size.dtype)
        known = counts >= 0
        share = counts / size[:, None, None]
        change = torch.where(known & known[..., -1:], share - share[..., -1:], torch.zeros_like(share))
        read = torch.cat([_GAIN * change, known.to(share.dtype)], dim=1)  # [example, 2 x channel, tick]
        steps = self.config.window // self.config.patch
        return read.reshape(*read.shape[:2], steps, self.config.patch).permute(0, 2, 1, 3).flatten(2)
