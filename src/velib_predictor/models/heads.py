"""Learned distributions of the change since the origin (torch). `forecast.pmf.logistic_mixture` is the numpy twin."""

import torch
from torch import Tensor, nn

COMPONENTS = 3
FLOOR = 1e-3
"""Share of the probability that is spread evenly, so that one truck does not decide the training."""
_FIRST_SCALES = (0.08, 0.5, 1.6)
"""Scales of an untrained head in units of the typical change: mostly no change, some, and a wide tail."""
_LOG_SCALE_BOUNDS = (-4.0, 4.0)
_LEAST_SCALE = 0.03
"""Of a component, in counts: narrower ones are all the same after rounding to whole counts."""


class MixtureHead(nn.Module):
    """Three logistic components for each output, zero at first: an untrained head is persistence with spread.

    Args:
        width: of the trunk.
        outputs: distributions of each row, one a target.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.linear = nn.Linear(width, outputs * COMPONENTS * 3)
        nn.init.zeros_(self.linear.weight)
        with torch.no_grad():
            bias = torch.zeros(outputs, 3, COMPONENTS)
            bias[:, 2] = torch.log(torch.tensor(_FIRST_SCALES))
            self.linear.bias.copy_(bias.flatten())

    def forward(self, trunk: Tensor, unit: Tensor) -> Tensor:
        """Parameters (weight, location, scale) of the components, in counts.

        Shapes: trunk [row, width], unit (typical change, in counts) [row, output] -> [row, output, 3, component].
        """
        raw = self.linear(trunk).unflatten(-1, (self.outputs, 3, COMPONENTS))
        weights = torch.softmax(raw[:, :, 0], dim=-1)
        location = raw[:, :, 1] * unit[..., None]
        scale = torch.exp(raw[:, :, 2].clamp(*_LOG_SCALE_BOUNDS)) * unit[..., None]
        return torch.stack([weights, location, scale.clamp(min=_LEAST_SCALE)], dim=2)


def cdf_at(parameters: Tensor, change: Tensor) -> Tensor:
    """P(change <= c) of the mixture made whole: sum of w sigma((c + 1/2 - location) / scale).

    Shapes: parameters [..., 3, component], change [...] -> [...].
    """
    weights, location, scale = parameters.unbind(dim=-2)
    return (weights * torch.sigmoid((change[..., None] + 0.5 - location) / scale)).sum(dim=-1)


def log_likelihood(parameters: Tensor, now: Tensor, k: Tensor, truth: Tensor, floor: float = FLOOR) -> Tensor:
    """Log-probability of the truth, censored at 0 and K, with a uniform floor, in nats.

    Shapes: parameters [..., 3, component]; now, k, truth [...] -> [...]. Truth above K counts as K.
    """
    truth = torch.minimum(truth, k)
    change = truth - now
    upper = torch.where(truth >= k, torch.ones_like(change), cdf_at(parameters, change))
    lower = torch.where(truth <= 0, torch.zeros_like(change), cdf_at(parameters, change - 1))
    probability = (upper - lower).clamp(min=0)
    return torch.log((1 - floor) * probability + floor / (k + 1))


def mixture_pmf(parameters: Tensor, now: Tensor, k: Tensor, size: int, floor: float = FLOOR) -> Tensor:
    """P(count) for 0..size-1; 0 above K.

    Shapes: parameters [..., 3, component]; now, k [...] -> [..., count].
    """
    counts = torch.arange(size, dtype=now.dtype, device=now.device)
    cdf = cdf_at(parameters[..., None, :, :], counts - now[..., None])
    cdf = torch.where(counts >= k[..., None], torch.ones_like(cdf), cdf)
    pmf = torch.diff(cdf, dim=-1, prepend=torch.zeros_like(cdf[..., :1])).clamp(min=0)
    even = torch.where(counts <= k[..., None], floor / (k[..., None] + 1), torch.zeros_like(pmf))
    return (1 - floor) * pmf + even
