"""How good predictions are: pure functions of arrays, and one thin torchmetrics shell for training.

Arrays are NumPy or anything NumPy can read; energies in eV and forces in eV/Å unless `kcal_mol` is set, which gives
kcal/mol and kcal/mol/Å.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchmetrics import Metric

from sddfkit.units import EV_TO_KCAL_MOL


def mae(predicted: ArrayLike, target: ArrayLike, *, kcal_mol: bool = False) -> float:
    """Mean absolute error over all elements.

    >>> mae([1.0, 2.0], [0.0, 4.0])
    1.5
    """
    return float(np.abs(_difference(predicted, target)).mean()) * (EV_TO_KCAL_MOL if kcal_mol else 1.0)


def rmse(predicted: ArrayLike, target: ArrayLike, *, kcal_mol: bool = False) -> float:
    """Root mean square error over all elements.

    >>> round(rmse([3.0, 0.0], [0.0, 4.0]), 4)
    3.5355
    """
    return float(np.sqrt(np.square(_difference(predicted, target)).mean())) * (EV_TO_KCAL_MOL if kcal_mol else 1.0)


def energy_force_errors(
    energy: ArrayLike, energy_target: ArrayLike, forces: ArrayLike, forces_target: ArrayLike, n_atoms: ArrayLike
) -> dict[str, float]:
    """The error summary of a set of molecules, in the units of screens.

    Parameters
    ----------
    energy, energy_target : (n,), eV
    forces, forces_target : (Σ n_i, 3), eV/Å
    n_atoms : (n,) int

    Returns
    -------
    dict
        ``energy_mae_kcal_mol``, ``energy_rmse_kcal_mol``, ``energy_mae_mev_per_atom``, ``force_mae_kcal_mol_A``,
        ``force_rmse_kcal_mol_A``.
    """
    n_atoms = np.asarray(n_atoms)
    return {
        "energy_mae_kcal_mol": mae(energy, energy_target, kcal_mol=True),
        "energy_rmse_kcal_mol": rmse(energy, energy_target, kcal_mol=True),
        "energy_mae_mev_per_atom": 1000.0 * mae(np.asarray(energy) / n_atoms, np.asarray(energy_target) / n_atoms),
        "force_mae_kcal_mol_A": mae(forces, forces_target, kcal_mol=True),
        "force_rmse_kcal_mol_A": rmse(forces, forces_target, kcal_mol=True),
    }


def _difference(predicted: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    predicted, target = np.asarray(predicted, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if predicted.shape != target.shape:
        raise ValueError(f"predicted has shape {predicted.shape}, target {target.shape}")
    if not predicted.size:
        raise ValueError("no values to compare")
    return predicted - target


class FitErrors(Metric):
    """Running means over an epoch: loss, and absolute errors of energies (eV) and force components (eV/Å)."""

    higher_is_better = False
    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, loss: Tensor, energy_error: Tensor, force_error: Tensor) -> None:
        """Add one batch: its mean loss, differences of energies (b,) and of forces (n, 3)."""
        energies, forces = energy_error.numel(), force_error.numel()
        sums = [loss.detach() * energies, energy_error.detach().abs().sum(), force_error.detach().abs().sum()]
        self.sums += torch.stack(sums).double()
        self.counts += torch.tensor([energies, energies, forces])

    def compute(self) -> dict[str, Tensor]:
        """``loss``, ``energy_mae`` and ``force_mae``."""
        loss, energy, force = self.sums / self.counts.clamp(min=1.0)
        return {"loss": loss, "energy_mae": energy, "force_mae": force}
