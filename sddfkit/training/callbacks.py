"""Callbacks: averaged weights and the best of them, random numbers by epoch, metrics while the fit runs."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from sddfkit.training.datamodule import epoch_seed
from sddfkit.training.member_run import MemberRun
from sddfkit.training.module import EnergyModule


class BestAveragedWeights(pl.Callback):
    """Validates an exponential moving average of the weights, and leaves the best one in the net after the fit.

    The average of step t is a ← a + (1 − min(decay, (1 + t)/(10 + t))) (weights − a): early steps are forgotten soon.

    Parameters
    ----------
    decay : float
        0 follows the weights themselves.
    """

    def __init__(self, decay: float = 0.99) -> None:
        self.decay = decay
        self.best_loss = float("inf")
        self.best_epoch = -1
        self._average: list[Tensor] = []
        self._best: list[Tensor] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._average:  # else it came from a checkpoint
            self._average = _copy(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        rate = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, _weights(pl_module), rate)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics["validation/loss"])
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, trainer.current_epoch
            self._best = _copy(pl_module)
        self._swap(pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._best:
            with torch.no_grad():
                torch._foreach_copy_(_weights(pl_module), self._best)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "average": self._average,
            "best": self._best,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_loss = state_dict["best_loss"]
        self.best_epoch = state_dict["best_epoch"]
        self._average = list(state_dict["average"])
        self._best = list(state_dict["best"])

    def _swap(self, pl_module: pl.LightningModule) -> None:
        held = _copy(pl_module)
        with torch.no_grad():
            torch._foreach_copy_(_weights(pl_module), self._average)
        self._average = held


class SeededEpochs(pl.Callback):
    """Random numbers inside a network (dropout) follow from the seed and the epoch, whoever drew before."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.manual_seed(epoch_seed(self.seed, trainer.current_epoch))


class LiveMetrics(pl.Callback):
    """Hands the history of the fit to its run in MLflow at the end of each epoch."""

    def __init__(self, run: MemberRun) -> None:
        self.run = run

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, EnergyModule)
        self.run.log(pl_module.history)


def _weights(module: pl.LightningModule) -> list[Tensor]:
    """The weights, and what else changes in training: the statistics of a batch norm."""
    assert isinstance(module, EnergyModule)
    return [*module.net.parameters(), *(buffer for buffer in module.net.buffers() if buffer.is_floating_point())]


def _copy(module: pl.LightningModule) -> list[Tensor]:
    return [weight.detach().clone() for weight in _weights(module)]
