"""Learned distributions of the change since the origin (torch): three logistic components, or a probability a change.

The numpy twins are `forecast.pmf.logistic_mixture` and `forecast.pmf.categorical`. Which of the two parameters
belong to is told by their shape: [..., 3, component], or probabilities [..., change].
"""

from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["mixture", "categorical"]
COMPONENTS = 3
REACH = 20
"""Of the categorical head: changes from -20 to 20; the outermost stand for all beyond, spread evenly to the edge."""
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


class CategoricalHead(nn.Module):
    """One probability for each change, zero at first: an untrained head gives what an untrained `MixtureHead` gives.

    Args:
        width: of the trunk.
        outputs: distributions of each row, one a target.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.linear = nn.Linear(width, outputs * (2 * REACH + 1))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, trunk: Tensor, unit: Tensor) -> Tensor:
        """Probabilities of the changes -REACH..REACH.

        Shapes: trunk [row, width], unit (typical change, in counts) [row, output] -> [row, output, change].
        """
        raw = self.linear(trunk).unflatten(-1, (self.outputs, 2 * REACH + 1))
        scale = (unit.new_tensor(_FIRST_SCALES) * unit[..., None]).clamp(min=_LEAST_SCALE)  # [row, output, component]
        edges = torch.arange(-REACH, REACH, dtype=unit.dtype, device=unit.device) + 0.5
        cdf = torch.sigmoid(edges[:, None] / scale[..., None, :]).mean(dim=-1)  # [row, output, change]
        cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf, torch.ones_like(cdf[..., :1])], dim=-1)
        first = torch.diff(cdf, dim=-1).clamp(min=1e-6)
        return torch.softmax(raw + torch.log(first), dim=-1)


def head(kind: Kind, width: int, outputs: int) -> MixtureHead | CategoricalHead:
    """The head of that kind."""
    return (MixtureHead if kind == "mixture" else CategoricalHead)(width, outputs)


def averaged(parameters: list[Tensor], kind: Kind) -> Tensor:
    """Parameters of the mean of several networks' distributions, in the shape of one of them but for components."""
    if kind == "categorical":
        return torch.stack(parameters).mean(dim=0)
    joined = torch.cat(parameters, dim=-1)  # [..., 3, component]
    return torch.cat([joined[..., :1, :] / len(parameters), joined[..., 1:, :]], dim=-2)


def cdf_at(parameters: Tensor, change: Tensor) -> Tensor:
    """P(change <= c) of the mixture made whole: sum of w sigma((c + 1/2 - location) / scale).

    Shapes: parameters [..., 3, component], change [...] -> [...].
    """
    weights, location, scale = parameters.unbind(dim=-2)
    return (weights * torch.sigmoid((change[..., None] + 0.5 - location) / scale)).sum(dim=-1)


def log_likelihood(parameters: Tensor, now: Tensor, k: Tensor, truth: Tensor, floor: float = FLOOR) -> Tensor:
    """Log-probability of the truth, censored at 0 and K, with a uniform floor, in nats.

    Shapes: parameters [..., 3, component] or [..., change]; now, k, truth [...] -> [...]. Truth above K counts as K.
    """
    truth = torch.minimum(truth, k)
    change = truth - now
    if parameters.dim() == now.dim() + 1:
        probability = _categorical_at(parameters, now, k, truth)
    else:
        upper = torch.where(truth >= k, torch.ones_like(change), cdf_at(parameters, change))
        lower = torch.where(truth <= 0, torch.zeros_like(change), cdf_at(parameters, change - 1))
        probability = (upper - lower).clamp(min=0)
    return torch.log((1 - floor) * probability + floor / (k + 1))


def distribution(parameters: Tensor, now: Tensor, k: Tensor, size: int, floor: float = FLOOR) -> Tensor:
    """P(count) for 0..size-1; 0 above K.

    Shapes: parameters [..., 3, component] or [..., change]; now, k [...] -> [..., count].
    """
    counts = torch.arange(size, dtype=now.dtype, device=now.device)
    within = counts <= k[..., None]
    if parameters.dim() == now.dim() + 1:
        at = torch.broadcast_to(counts, (*now.shape, size))
        pmf = _categorical_at(parameters[..., None, :], now[..., None], k[..., None], at) * within
    else:
        cdf = cdf_at(parameters[..., None, :, :], counts - now[..., None])
        cdf = torch.where(counts >= k[..., None], torch.ones_like(cdf), cdf)
        pmf = torch.diff(cdf, dim=-1, prepend=torch.zeros_like(cdf[..., :1])).clamp(min=0)
    even = torch.where(within, floor / (k[..., None] + 1), torch.zeros_like(pmf))
    return (1 - floor) * pmf + even


def _categorical_at(changes: Tensor, now: Tensor, k: Tensor, count: Tensor) -> Tensor:
    """P(count) from probabilities of changes, without the floor. See `forecast.pmf.categorical`.

    Shapes: changes [..., change]; now, k, count [...], broadcast -> [...].
    """
    change = count - now
    shape = change.shape
    changes = torch.broadcast_to(changes, (*shape, changes.shape[-1]))
    below = torch.cumsum(changes, dim=-1)  # P(change <= d)
    place = change.long() + REACH

    def of(table: Tensor, at: Tensor) -> Tensor:
        return table.gather(-1, at.clamp(0, 2 * REACH)[..., None])[..., 0]

    # The outermost changes are spread over all counts from there to the edge.
    spread_low = (now - REACH + 1).clamp(min=1)
    spread_high = (k - now - REACH + 1).clamp(min=1)
    inner = of(changes, place)
    inner = torch.where(place <= 0, changes[..., 0] / spread_low, inner)
    inner = torch.where(place >= 2 * REACH, changes[..., -1] / spread_high, inner)
    # At the edges also lies what leads beyond them; an outermost change that was spread does not lead beyond.
    empty = torch.where(place > 0, of(below, place), inner)
    before = torch.where(place > 0, of(below, place - 1), torch.zeros_like(inner))
    full = torch.where(place < 2 * REACH, 1 - before, inner)
    found = torch.where(count <= 0, empty, torch.where(count >= k, full, inner))
    return torch.where(k <= 0, torch.ones_like(inner), found)
