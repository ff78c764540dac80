"""How good an ensemble is on labelled records: one set of numbers, in the units of a report."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sddfkit.data.records import Record
from sddfkit.data.references import ReferenceEnergies
from sddfkit.models.ensemble import EnsemblePrediction
from sddfkit.training.metrics import energy_force_errors
from sddfkit.workflows.console import show_table

TITLE: Final = "mean absolute errors on the test fold"


def error_metrics(
    energies: NDArray[np.float64], forces: Sequence[NDArray[np.float64]], truth: Sequence[Record]
) -> dict[str, float]:
    """Return the errors of predicted energies (n,), eV, and forces, n arrays (n_atoms, 3), eV/Å, of labelled records.

    See :func:`sddfkit.training.metrics.energy_force_errors` for what is returned; without any labelled force the errors
    of forces are NaN.
    """
    pairs = [(f, record.forces) for f, record in zip(forces, truth, strict=True) if record.forces is not None]
    pairs = pairs or [(np.zeros((1, 3)), np.full((1, 3), np.nan))]
    return energy_force_errors(
        energies,
        np.array([record.energy for record in truth], dtype=np.float64),
        np.concatenate([predicted for predicted, _ in pairs]),
        np.concatenate([known for _, known in pairs]),
        np.array([len(record.atomic_numbers) for record in truth]),
    )


def evaluate(
    predicted: EnsemblePrediction, members: Sequence[str], references: ReferenceEnergies, truth: Sequence[Record]
) -> dict[str, Any]:
    """Return the errors of the ensemble, of each member, and of the baseline.

    The baseline knows the composition alone: the fitted reference energies, and no force.
    """
    if predicted.forces is None or predicted.member_forces is None:
        raise ValueError("the prediction has no forces: call predict(..., forces=True)")
    composition = np.array([references.total(record.atomic_numbers) for record in truth])
    no_force = [np.zeros((len(record.atomic_numbers), 3)) for record in truth]
    return {
        "ensemble": error_metrics(predicted.energy, predicted.forces, truth),
        "members": {
            name: error_metrics(predicted.member_energies[i], [f[i] for f in predicted.member_forces], truth)
            for i, name in enumerate(members)
        },
        "baseline": error_metrics(composition, no_force, truth),
    }


def show_metrics(rounds: Sequence[Mapping[str, Any]], title: str = TITLE) -> None:
    """Print errors on the test fold: of every member for one round, of the ensemble for several."""
    lines = []
    for row in rounds:
        metrics = row["metrics"]
        found = {"composition": metrics["baseline"], **(metrics["members"] if len(rounds) == 1 else {})}
        for who, errors in {**found, "ensemble": metrics["ensemble"]}.items():
            columns = ("energy_mae_kcal_mol", "energy_mae_mev_per_atom", "force_mae_kcal_mol_A")
            numbers = [f"{errors[name]:.2f}" for name in columns]
            lines.append([str(row["round"]), who, str(row["n_labelled_train"]), *numbers])
    show_table(
        title,
        ["round", "model", "labels", "E kcal/mol", "E meV/atom", "F kcal/mol/Å"],
        lines,
    )
