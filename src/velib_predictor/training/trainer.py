"""Fits a network with Lightning: clipped gradients, one cycle of the rate, early stopping, the best weights kept.

Knows no model: a network, tensors, a loss of a batch, and a score of the network on rows that it does not learn from.
"""

import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from velib_predictor.utils.errors import VelibError
from velib_predictor.utils.logger import get_logger

Batch = Sequence[Tensor]
_SCORE = "score"
_log = get_logger(__name__)


@dataclass(frozen=True)
class Budget:
    """How long and how fast is learned.

    Attributes:
        epochs: at most. patience: epochs without a better score before it ends.
        batch: rows a step. rate: the highest learning rate. decay: of the weights. clip: longest gradient.
        accelerator: Lightning's name of what to train on.
    """

    epochs: int = 20
    patience: int = 3
    batch: int = 2_048
    rate: float = 3e-3
    decay: float = 1e-4
    clip: float = 1.0
    seed: int = 0
    accelerator: str = "cpu"


class TrainingError(VelibError):
    """Training went wrong; the message says where."""


class _Tensors(Dataset[Batch]):
    """Rows of several tensors; asked for many at once."""

    def __init__(self, tensors: Batch) -> None:
        self._tensors = tensors

    def __len__(self) -> int:
        return len(self._tensors[0])

    def __getitem__(self, rows: Any) -> Batch:
        return [tensor[rows] for tensor in self._tensors]


class _Fitted(lightning.LightningModule):
    """What Lightning drives."""

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[nn.Module, Batch], Tensor],
        score: Callable[[nn.Module], float],
        budget: Budget,
        steps: int,
    ) -> None:
        super().__init__()
        self.network = network
        self._loss, self._score, self._budget, self._steps = loss, score, budget, steps

    def training_step(self, batch: Batch, number: int) -> Tensor:
        loss = self._loss(self.network, batch)
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss of batch {number} in epoch {self.current_epoch} is {loss.item()}")
        return loss

    def validation_step(self, _batch: Batch, _number: int) -> None:
        score = self._score(self.network)
        if not math.isfinite(score):
            raise TrainingError(f"the score after epoch {self.current_epoch} is {score}")
        self.log(_SCORE, score)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self._budget.rate, weight_decay=self._budget.decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self._budget.rate, total_steps=self._steps + 1, pct_start=0.15
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit_network(
    network: nn.Module,
    tensors: Batch,
    loss: Callable[[nn.Module, Batch], Tensor],
    score: Callable[[nn.Module], float],
    budget: Budget,
) -> float:
    """Fit the network in place; it ends with the weights of the best score, which is returned.

    Args:
        tensors: of equal length, [row, ...]. loss: of a batch of them, to be made small.
        score: of the network in evaluation mode, on rows of its own; less is better.

    Raises:
        TrainingError: the loss is no finite number, and the batch is named; or the score is none.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = _Tensors(tensors)
    steps = -(-len(data) // budget.batch) * budget.epochs
    sampler = BatchSampler(RandomSampler(data), budget.batch, drop_last=False)
    loader = DataLoader(data, sampler=sampler, batch_size=None)
    once = DataLoader(_Tensors([torch.zeros(1)]), batch_size=None, sampler=[[0]])
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),  # whoever calls draws the numbers that it would have drawn anyway
    ):
        warnings.simplefilter("ignore")  # Lightning's advice on workers and loggers
        torch.manual_seed(budget.seed)
        best = ModelCheckpoint(folder, monitor=_SCORE, mode="min", save_weights_only=True)
        trainer = lightning.Trainer(
            accelerator=budget.accelerator,
            devices=1,
            max_epochs=budget.epochs,
            gradient_clip_val=budget.clip,
            callbacks=[EarlyStopping(_SCORE, patience=budget.patience, mode="min"), best],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        module = _Fitted(network, loss, score, budget, steps)
        trainer.fit(module, loader, once)
        state = torch.load(Path(best.best_model_path), weights_only=True)["state_dict"]
    network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})
    network.eval()
    reached = float(best.best_model_score) if best.best_model_score is not None else float("nan")
    _log.info("trained", epochs=trainer.current_epoch, score=round(reached, 5), rows=len(data))
    return reached
