"""The network: an LSTM over patches of the last day, joined with where, when and how far ahead; mixture head.

Patches as in Nie, Nguyen, Sinthong and Kalagnanam, "A Time Series is Worth 64 Words", ICLR 2023: an hour a step costs a
quarter of four steps. The history is encoded once for all horizons.
"""

import torch
from torch import Tensor, nn

from velib_predictor.config.models import LstmSettings, NetworkSettings
from velib_predictor.models.heads import head
from velib_predictor.models.stid.model import DAY_KINDS, Block, told

_GAIN = 4.0
"""Shares of a station's size that change within a day are about a quarter."""


class Lstm(nn.Module):
    """See the module.

    Args:
        channels, window, patch: counts a tick, ticks, and ticks that make one step of the LSTM.
        features: columns; each comes with a flag of whether it is known.
        stations: known ones; one more stands for all others.
        slots: of the local day. outputs: targets.

    Shapes: window (counts, negative where not known, the origin last) [example, channel, tick]; size [example];
    features [example, horizon, feature] with NaN where not known; station [example] (the last number: unknown); slot
    and day [example, horizon, moment], of the origin and of the target; unit [example, horizon, output] -> parameters
    [example, horizon, output, ...] (see `heads`).
    """

    def __init__(
        self, channels: int, window: int, patch: int, features: int, stations: int, slots: int, outputs: int,
        settings: NetworkSettings,
    ) -> None:  # fmt: skip
        super().__init__()
        assert isinstance(settings, LstmSettings)  # noqa: S101 - for the type checker
        self.window, self.patch, self.stations = window, patch, stations
        self.hidden_share = settings.station_dropout
        hidden, width, who, time = settings.hidden, settings.width, settings.station_width, settings.time_width
        self.station = nn.Embedding(stations + 1, who)
        self.slot = nn.Embedding(slots, time)
        self.day = nn.Embedding(DAY_KINDS, time)
        for table in (self.station, self.slot, self.day):
            nn.init.normal_(table.weight, std=0.1)
        self.start = nn.Linear(who + 2 * time, hidden)
        self.lstm = nn.LSTM(2 * channels * patch, hidden, batch_first=True)
        self.here = nn.Linear(hidden + who, width)
        self.there = nn.Linear(2 * features + 4 * time, width)
        self.blocks = nn.ModuleList(Block(width, settings.dropout) for _ in range(settings.blocks))
        self.head = head(settings.head, width, outputs)

    def forward(
        self, window: Tensor, size: Tensor, features: Tensor, station: Tensor, slot: Tensor, day: Tensor, unit: Tensor
    ) -> Tensor:
        """See the class."""
        if self.training and self.hidden_share:
            hidden = torch.rand(station.shape, device=station.device) < self.hidden_share
            station = torch.where(hidden, self.stations, station)
        who = self.station(station)  # [example, width]
        slots, days = self.slot(slot), self.day(day)  # [example, horizon, moment, width]
        start = torch.tanh(self.start(torch.cat([who, slots[:, 0, 0], days[:, 0, 0]], dim=1)))[None]
        _, (encoded, _) = self.lstm(self._steps(window, size), (start, torch.zeros_like(start)))
        here = self.here(torch.cat([encoded[0], who], dim=1))  # [example, width]
        there = self.there(torch.cat([*told(features), slots.flatten(2), days.flatten(2)], dim=2))
        trunk = torch.relu(here[:, None] + there).flatten(0, 1)  # [example x horizon, width]
        for block in self.blocks:
            trunk = block(trunk)
        parameters: Tensor = self.head(trunk, unit.flatten(0, 1))
        return parameters.reshape(*unit.shape[:2], *parameters.shape[1:])

    def _steps(self, window: Tensor, size: Tensor) -> Tensor:
        """What the LSTM reads: shares of the size relative to now, and whether known.

        Shapes: window [example, channel, tick], size [example] -> [example, step, 2 x channel x patch].
        """
        counts = window.to(size.dtype)
        known = counts >= 0
        share = counts / size[:, None, None]
        change = torch.where(known & known[..., -1:], share - share[..., -1:], torch.zeros_like(share))
        read = torch.cat([_GAIN * change, known.to(share.dtype)], dim=1)  # [example, 2 x channel, tick]
        steps = self.window // self.patch
        return read.reshape(*read.shape[:2], steps, self.patch).permute(0, 2, 1, 3).flatten(2)
