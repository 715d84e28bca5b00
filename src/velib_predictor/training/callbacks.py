"""What Lightning lacks: each epoch's random numbers follow from its number, so that a resumed training repeats them."""

import lightning
import torch


class Reseed(lightning.Callback):
    """Seeds torch before each epoch, with a number that depends on the seed and the epoch alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Before the first epoch that is run, be it the first of all or the one that was broken off."""
        self._seed(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Before the next epoch's order is drawn."""
        self._seed(trainer.current_epoch + 1)

    def _seed(self, epoch: int) -> None:
        torch.manual_seed(self.seed * 100_003 + epoch)
