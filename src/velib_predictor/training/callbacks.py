"""What Lightning lacks: each epoch's random numbers follow from its number, so that a resumed training repeats them."""

from typing import Any

import lightning
import torch


def seed_of(seed: int, epoch: int) -> int:
    """The seed of an epoch."""
    return seed * 100_003 + epoch


class Reseed(lightning.Callback):
    """Seeds torch before the first batch of each epoch: later than whoever reads the data draws a number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002 - Lightning's signature
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """See the class."""
        if batch_idx == 0:
            torch.manual_seed(seed_of(self.seed, trainer.current_epoch))
