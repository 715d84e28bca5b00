"""What learned models share where torch is: networks fitted by likelihood, judged by RPS, written as one file."""

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from velib_predictor.config.models import NetworkSettings, TrainingSettings
from velib_predictor.models.heads import Kind, averaged, distribution, log_likelihood
from velib_predictor.models.onnx_file import as_onnx
from velib_predictor.models.stid.dataset import Outcomes
from velib_predictor.training.trainer import Batch, Budget, digest, fit_network

Indices = npt.NDArray[np.int64]
_KEPT_S = 7 * 86_400


class Fitting(ABC):
    """Fits networks of one kind on examples that they share.

    Args:
        told: of each example, arrays in the order in which the network is told of them, the unit last. came: what came.
        horizons: how many a served network is asked for at once.
    """

    names: ClassVar[tuple[str, ...]]
    """Of the network's inputs."""

    def __init__(
        self, told: Sequence[npt.NDArray[Any]], came: Outcomes, horizons: int, settings: NetworkSettings,
        training: TrainingSettings,
    ) -> None:  # fmt: skip
        self.told = [torch.from_numpy(part) for part in told]
        self.came = [torch.from_numpy(part) for part in (came.now, came.truth, came.known, came.k)]
        self.horizons, self.settings, self.training = horizons, settings, training
        self.kept: Path | None = None
        if training.checkpoints:
            said = (type(self).__module__, settings.model_dump_json(), training.seed)
            forget_old(training.checkpoints)
            self.kept = training.checkpoints / digest([*self.told, *self.came], *said)

    @abstractmethod
    def network(self) -> nn.Module:
        """A network that has learned nothing."""

    def asked(self, told: Sequence[Tensor]) -> list[Tensor]:
        """What the network is given, from what some examples are told; in the order of `names`, the unit last."""
        return list(told)

    def few(self) -> list[Tensor]:
        """What a served network is given of a few examples, in the order of `names`."""
        return self.asked([part[:4] for part in self.told])

    def fit(self, inside: Indices, held_out: Indices, seed: int) -> tuple[nn.Module, float]:
        """A network fitted on some examples, with the weights that are best on held-out ones, and its score there."""
        seed += self.training.seed
        torch.manual_seed(seed)
        network = self.network()
        asked, outcome = self.asked([part[held_out] for part in self.told]), [part[held_out] for part in self.came]
        count = len(self.told)

        def loss(module: nn.Module, batch: Batch) -> Tensor:
            return loss_of(module(*self.asked(batch[:count])), batch[count:])

        reached = fit_network(
            network, [*self.told, *self.came], loss, lambda module: score_of(module, asked, outcome), self.budget(seed),
            torch.from_numpy(inside),
        )  # fmt: skip
        return network, reached

    def budget(self, seed: int) -> Budget:
        """How long and how fast is learned."""
        own, all_ = self.settings, self.training
        return Budget(
            epochs=own.epochs, patience=own.patience, batch=own.batch, rate=own.rate, decay=all_.decay, clip=all_.clip,
            seed=seed, accelerator=all_.accelerator, devices=all_.devices, strategy=all_.strategy,
            precision=all_.precision, progress=all_.progress, kept=self.kept / str(seed) if self.kept else None,
        )  # fmt: skip

    def export(self, networks: Sequence[nn.Module]) -> bytes:
        """The networks as one ONNX file, which gives the mean of their distributions; ends the fit."""
        # Those of one example are [example, ...]; those that depend on the horizon are as many as are asked for.
        each = torch.arange(self.horizons)
        wide = [part[:, each % part.shape[1]] if self.by_horizon(name) else part
                for name, part in zip(self.names, self.few(), strict=True)]  # fmt: skip
        file = as_onnx(Together(networks, self.settings.head), wide, self.names)
        if self.kept:
            shutil.rmtree(self.kept, ignore_errors=True)
        return file

    @staticmethod
    def by_horizon(name: str) -> bool:
        """Whether an input has an axis of horizons."""
        return name in ("there", "features", "slots", "days", "slot", "day", "unit")


def forget_old(checkpoints: Path) -> None:
    """Delete what killed trainings left that nobody has gone on with: their data will not come again."""
    for folder in checkpoints.glob("*/"):
        if time.time() - folder.stat().st_mtime > _KEPT_S:
            shutil.rmtree(folder, ignore_errors=True)


class Together(nn.Module):
    """Several networks of one kind asked at once: parameters of the mean of their distributions."""

    def __init__(self, networks: Sequence[nn.Module], kind: Kind) -> None:
        super().__init__()
        self.networks, self.kind = nn.ModuleList(networks), kind

    def forward(self, *given: Tensor) -> Tensor:
        """As each of the networks, components side by side."""
        return averaged([network(*given) for network in self.networks], self.kind)


def loss_of(parameters: Tensor, came: Batch) -> Tensor:
    """Mean negative log-likelihood, in nats.

    Shapes: parameters [..., output, 3, component] or [..., output, change]; of `came`: now, truth, known [...,
    output], k [...] -> [].
    """
    now, truth, known, k = came
    likelihood = log_likelihood(parameters, now, k[..., None].expand_as(now), truth)
    return -(likelihood * known).sum() / known.sum().clamp(min=1)


def rps_of(parameters: Tensor, unit: Tensor, came: Batch) -> float:
    """Mean RPS, each row measured in its typical change, so that horizons count alike. Shapes as in `loss_of`."""
    now, truth, known, k = came
    pmf = distribution(parameters, now, k[..., None].expand_as(now), int(k.max()) + 1)
    step = truth[..., None] <= torch.arange(pmf.shape[-1], device=pmf.device)
    rps = (pmf.cumsum(-1) - step.float()).square().sum(-1) / unit
    return float((rps * known).sum() / known.sum().clamp(min=1))


@torch.no_grad()
def score_of(network: nn.Module, asked: Sequence[Tensor], came: Sequence[Tensor]) -> float:
    """`rps_of` what the network says; the last of `asked` is the unit."""
    device = next(network.parameters()).device
    there = [[part.to(device) for part in parts] for parts in (asked, came)]
    return rps_of(network(*there[0]), there[0][-1], there[1])
