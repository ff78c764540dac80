"""The Lightning module of all energy networks."""

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch_geometric.data import Batch

from sddfkit.models import EnergyModel
from sddfkit.models.geometry import sum_over
from sddfkit.training.datamodule import numbered
from sddfkit.training.metrics import FitErrors


class EnergyModule(pl.LightningModule):
    """Fits energies and forces of any :class:`~sddfkit.models.EnergyModel`.

    The loss is ``energy_weight · loss(ΔE / n_atoms^½) + conformer_weight · loss(ΔE − ΔE of its molecule) +
    force_weight · loss(ΔF)``: the energy error of each conformer divided by the square root of its number of atoms, the
    error less the mean error of the conformers of the same molecule in the batch, and the force errors component by
    component. Atoms whose force is not known (NaN) count for the energies alone; with a force weight of 0, all do, and
    forces are not computed.

    Parameters
    ----------
    net : EnergyModel
    optimizer : callable
        Parameters → optimizer, such as ``functools.partial(torch.optim.Adam, lr=1e-3)``.
    scheduler : callable, optional
        Optimizer → learning-rate scheduler, stepped once per training step; one that waits for a plateau is stepped
        once per epoch with the validation loss.
    energy_weight, force_weight, conformer_weight : float
        Of errors in eV, eV/Å and eV. The last one asks for batches that hold several conformers of a molecule,
        ``together`` of :class:`~sddfkit.training.GraphDataModule`.
    loss : callable
        (prediction, target) → mean loss.
    """

    def __init__(
        self,
        net: EnergyModel,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer], Any] | None = None,
        *,
        energy_weight: float = 1.0,
        force_weight: float = 1.0,
        conformer_weight: float = 0.0,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.energy_weight = energy_weight
        self.force_weight = force_weight
        self.conformer_weight = conformer_weight
        self.loss = loss or nn.SmoothL1Loss()
        errors = FitErrors()
        # A plain dict: the metrics live on the CPU and are no part of the weights.
        self.errors = {phase: errors.clone() for phase in ("train", "validation")}
        self.history: list[dict[str, float]] = []
        """One row of metrics per epoch."""

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.net.parameters())
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer)
        plan: dict[str, Any] = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):
            plan = {"scheduler": scheduler, "interval": "epoch", "monitor": "validation/loss"}
        return {"optimizer": optimizer, "lr_scheduler": plan}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint["history"])

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_index: int) -> Tensor:
        return self._step(batch, "validation")

    def on_validation_epoch_end(self) -> None:
        # Validation runs at the end of each training epoch, so both clones hold exactly this epoch.
        row = {"epoch": float(self.current_epoch)}
        for phase, errors in self.errors.items():
            row |= {f"{phase}/{name}": float(value) for name, value in errors.compute().items()}
            errors.reset()
        self.history.append(row)
        self.log("validation/loss", row["validation/loss"])

    def _step(self, batch: Batch, phase: str) -> Tensor:
        """Loss of one batch; its errors go to the phase's own clone of the metric."""
        known = batch.forces.isfinite().all(dim=1)  # a label may have no forces
        if not self.force_weight:
            known = torch.zeros_like(known)
        prediction = self.net(batch, forces=bool(known.any()))
        per_atom = (batch.ptr[1:] - batch.ptr[:-1]).to(prediction.energy.dtype).rsqrt()
        loss = self.energy_weight * self.loss(prediction.energy * per_atom, batch.y * per_atom)
        if self.conformer_weight:
            molecule = numbered(batch.molecule_id).to(batch.y.device)
            within = [less_mean(energy, molecule) for energy in (prediction.energy, batch.y)]
            loss = loss + self.conformer_weight * self.loss(*within)
        target = batch.forces[known]
        forces = target if prediction.forces is None else prediction.forces[known]
        if len(target):
            loss = loss + self.force_weight * self.loss(forces, target)
        self.errors[phase].update(loss, prediction.energy - batch.y, forces - target)
        return loss


def less_mean(values: Tensor, group: Tensor) -> Tensor:
    """`values` (n,) less the mean of their group; `group` (n,) int64 counts from 0.

    >>> less_mean(torch.tensor([1.0, 3.0, 7.0]), torch.tensor([0, 0, 1]))
    tensor([-1.,  1.,  0.])
    """
    n = int(group.max()) + 1
    counts = torch.bincount(group, minlength=n).to(values.dtype)
    return values - (sum_over(values, group, n) / counts)[group]
