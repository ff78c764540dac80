"""The quality gate: reasons to doubt a label. It flags and never drops a row."""

from collections.abc import Sequence

import numpy as np

from sddfkit.chem.connectivity import connectivity_faults
from sddfkit.data.records import Record
from sddfkit.data.references import ReferenceEnergies


def flag(
    records: Sequence[Record],
    references: ReferenceEnergies | None = None,
    *,
    max_force: float = 30.0,
    net_force: float = 0.1,
    net_torque: float = 0.2,
    outlier_z: float = 12.0,
) -> list[tuple[str, ...]]:
    """Reasons to doubt each record; an empty tuple means none.

    Whether the SCF converged is settled before a label exists; this looks at what the label says.

    Parameters
    ----------
    records : n records; without labels only their connectivity is judged
    references : reference energies for the outlier test, which is left out if None
    max_force : largest acceptable force component, eV/Å
    net_force, net_torque : largest acceptable |Σ F|, eV/Å, and |Σ r × F|, eV; both vanish for exact forces
    outlier_z : largest acceptable robust z-score of the energy per atom above the reference energies; needs eight
        labelled records

    Returns
    -------
    list of tuple of str, length n
        Sentences with the measured value and the limit.
    """
    outliers = _outliers(records, references, outlier_z) if references is not None else [()] * len(records)
    return [
        (*_broken(record), *_forces(record, max_force, net_force, net_torque), *outlier)
        for record, outlier in zip(records, outliers, strict=True)
    ]


def _broken(record: Record) -> list[str]:
    return [f"connectivity: {f}" for f in connectivity_faults(record.atomic_numbers, record.positions, record.bonds)]


def _forces(record: Record, max_force: float, net_force: float, net_torque: float) -> list[str]:
    if record.forces is None:
        return []
    if not np.isfinite(record.forces).all():
        return ["force: a component is not finite"]
    component = float(np.abs(record.forces).max(initial=0.0))
    net = float(np.linalg.norm(record.forces.sum(axis=0)))
    arms = record.positions - record.positions.mean(axis=0)
    torque = float(np.linalg.norm(np.cross(arms, record.forces).sum(axis=0)))
    checks = (
        (component, max_force, f"force: largest component {component:.1f} eV/Å, limit {max_force:g}"),
        (net, net_force, f"net force {net:.3f} eV/Å, limit {net_force:g}"),
        (torque, net_torque, f"net torque {torque:.3f} eV, limit {net_torque:g}"),
    )
    return [sentence for value, limit, sentence in checks if value > limit]


def _outliers(records: Sequence[Record], references: ReferenceEnergies, limit: float) -> list[tuple[str, ...]]:
    reasons: list[tuple[str, ...]] = [()] * len(records)
    residuals: dict[int, float] = {}
    for i, record in enumerate(records):
        if record.energy is None:
            continue
        if np.isfinite(record.energy):
            residuals[i] = (record.energy - references.total(record.atomic_numbers)) / len(record.atomic_numbers)
        else:
            reasons[i] = ("energy: not finite",)
    if len(residuals) < 8:
        return reasons
    values = np.array(list(residuals.values()))
    median = np.median(values)
    scale = max(1.4826 * float(np.median(np.abs(values - median))), 1e-3)  # MAD as σ; 1 meV/atom at least
    for i, z in zip(residuals, (values - median) / scale, strict=True):
        if abs(z) > limit:
            sentence = f"energy: {residuals[i]:.3f} eV/atom from its reference, robust z-score {z:.1f}, limit {limit:g}"
            reasons[i] = (sentence,)
    return reasons
