"""Fits a network with Lightning: clipped gradients, one cycle of the rate, early stopping, the best weights kept.

Knows no model: a network, tensors, a loss of a batch, and a score of the network on rows that it does not learn from.
A training that is killed goes on where it was, to the same weights.
"""

import hashlib
import logging
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from velib_predictor.training.callbacks import Reseed, seed_of
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
        accelerator, devices, strategy, precision: Lightning's names of what to train on.
        progress: whether a bar is shown where stderr is a terminal.
        kept: folder where a training that is killed leaves what it has, and where what is finished stays; whoever
            gives it deletes it. It belongs to one network, its tensors and this budget.
    """

    epochs: int = 20
    patience: int = 3
    batch: int = 2_048
    rate: float = 3e-3
    decay: float = 1e-4
    clip: float = 1.0
    seed: int = 0
    accelerator: str = "cpu"
    devices: int | str = 1
    strategy: str = "auto"
    precision: str = "32-true"
    progress: bool = False
    kept: Path | None = None


class TrainingError(VelibError):
    """Training went wrong; the message says where."""


class _Tensors(Dataset[Batch]):
    """Some rows of several tensors, not copied; asked for many at once."""

    def __init__(self, tensors: Batch, rows: Tensor) -> None:
        self._tensors, self._rows = tensors, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, places: Any) -> Batch:
        rows = self._rows[places]
        return [tensor[rows] for tensor in self._tensors]


class _Shuffled(Sampler[Tensor]):
    """Places of rows, a batch at a time, in an order that follows from the seed and the epoch alone."""

    def __init__(self, rows: int, batch: int, seed: int) -> None:
        self._rows, self._batch, self._seed = rows, batch, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, also of one that is resumed."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(self._rows, generator=torch.Generator().manual_seed(seed_of(self._seed, self._epoch)))
        yield from torch.split(order, self._batch)

    def __len__(self) -> int:
        return -(-self._rows // self._batch)


class _Fitted(lightning.LightningModule):
    """What Lightning drives."""

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[nn.Module, Batch], Tensor],
        score: Callable[[nn.Module], float],
        budget: Budget,
    ) -> None:
        super().__init__()
        self.network = network
        self._loss, self._score, self._budget = loss, score, budget

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
        steps = int(self.trainer.estimated_stepping_batches)  # of this process, where several share the work
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self._budget.rate, total_steps=steps + 1, pct_start=0.15
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit_network(
    network: nn.Module,
    tensors: Batch,
    loss: Callable[[nn.Module, Batch], Tensor],
    score: Callable[[nn.Module], float],
    budget: Budget,
    rows: Tensor | None = None,
) -> float:
    """Fit the network in place; it ends with the weights of the best score, which is returned.

    Args:
        tensors: of equal length, [row, ...]. loss: of a batch of them, to be made small.
        score: of the network in evaluation mode, on rows of its own; less is better.
        rows: which of the rows are learned from, int64[...]; all if not given.

    Raises:
        TrainingError: the loss is no finite number, and the batch is named; or the score is none.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = _Tensors(tensors, torch.arange(len(tensors[0])) if rows is None else rows)
    loader = DataLoader(data, sampler=_Shuffled(len(data), budget.batch, budget.seed), batch_size=None)
    once = DataLoader(_Tensors([torch.zeros(1)], torch.zeros(1, dtype=torch.long)), batch_size=None, sampler=[[0]])
    module = _Fitted(network, loss, score, budget)
    with _folder(budget.kept) as folder, _undisturbed():
        finished, last = folder / "finished.pt", folder / "last.ckpt"
        if finished.exists():
            done = torch.load(finished, weights_only=True)
        else:
            best = ModelCheckpoint(folder, monitor=_SCORE, mode="min", save_last=True)
            bar = [RichProgressBar(console_kwargs={"stderr": True})] if budget.progress and sys.stderr.isatty() else []
            trainer = lightning.Trainer(
                accelerator=budget.accelerator,
                devices=budget.devices,
                strategy=budget.strategy,
                precision=cast(Any, budget.precision),  # its names are Lightning's to check
                max_epochs=budget.epochs,
                gradient_clip_val=budget.clip,
                callbacks=[
                    Reseed(budget.seed), EarlyStopping(_SCORE, patience=budget.patience, mode="min"), best, *bar
                ],
                logger=False,
                enable_progress_bar=bool(bar),
                enable_model_summary=False,
                num_sanity_val_steps=0,
                default_root_dir=folder,
            )  # fmt: skip
            trainer.fit(module, loader, once, ckpt_path=last if last.exists() else None, weights_only=True)
            state = torch.load(Path(best.best_model_path), weights_only=True)["state_dict"]
            if best.best_model_score is None:  # other processes keep it to themselves
                with torch.no_grad():
                    reached = score(_with(network, state))
            else:
                reached = float(best.best_model_score)
            done = {"state": state, "score": reached}
            _log.info("trained", epochs=trainer.current_epoch, score=round(reached, 5), rows=len(data))
            partial = finished.with_suffix(".part")
            torch.save(done, partial)
            partial.replace(finished)
            for file in folder.glob("*.ckpt"):
                file.unlink()
    _with(network, done["state"])
    return float(done["score"])


def _with(network: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """The network with weights that Lightning kept, in evaluation mode."""
    network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})
    return network.eval()


def digest(tensors: Sequence[Tensor], *said: object) -> str:
    """A name for what is learned from and how: the same of the same bytes and words, and hardly of others."""
    found = hashlib.blake2b(repr(said).encode(), digest_size=12)
    for tensor in tensors:
        found.update(repr((tensor.shape, tensor.dtype)).encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """Where checkpoints go: what is given, else one that is deleted after."""
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Whoever calls draws the numbers that it would have drawn anyway, and hears nothing of Lightning's advice."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield
