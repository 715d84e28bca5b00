"""The network: features and whether they are known, plain residual layers, mixture head. It knows no station."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from velib_predictor.models.heads import MixtureHead
from velib_predictor.models.stid.dataset import CLIP
from velib_predictor.models.stid.model import Block


@dataclass(frozen=True)
class ColdStartConfig:
    """Sizes: feature columns, targets, width and number of the layers; dropout: share left out in training."""

    features: int
    outputs: int
    width: int = 128
    blocks: int = 2
    dropout: float = 0.1


class ColdStart(nn.Module):
    """See the module.

    Shapes: features [row, feature] with NaN where not known; unit [row, output] -> parameters [row, output, 3,
    component].
    """

    middle: Tensor
    width: Tensor

    def __init__(self, config: ColdStartConfig) -> None:
        super().__init__()
        self.register_buffer("middle", torch.zeros(config.features))
        self.register_buffer("width", torch.ones(config.features))
        self.first = nn.Linear(2 * config.features, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.dropout) for _ in range(config.blocks))
        self.head = MixtureHead(config.width, config.outputs)

    def standardise(self, middle: Tensor, width: Tensor) -> None:
        """Keep how features are standardised, [feature] each: it is part of the network."""
        self.middle.copy_(middle)
        self.width.copy_(width)

    def forward(self, features: Tensor, unit: Tensor) -> Tensor:
        """See the class."""
        known = ~torch.isnan(features)
        scaled = ((features - self.middle) / self.width).clamp(-CLIP, CLIP)
        told = torch.where(known, scaled, torch.zeros_like(scaled))
        trunk = torch.relu(self.first(torch.cat([told, known.to(features.dtype)], dim=1)))
        for block in self.blocks:
            trunk = block(trunk)
        parameters: Tensor = self.head(trunk, unit)
        return parameters
