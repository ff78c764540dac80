"""The quality gate: reasons to doubt a label. It flags and never drops a row."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from rdkit import Chem, rdBase

from sddfkit.chem.connectivity import connectivity_faults
from sddfkit.chem.molecules import MoleculeError, parse_smiles, without_hydrogens
from sddfkit.data.records import Record, RecordError, to_mol
from sddfkit.data.references import ReferenceEnergies
from sddfkit.data.schema import BOND_TYPES

FEWEST: Final = 8
"""Labels that say something about scatter."""
UNKNOWN_BOND: Final = BOND_TYPES[Chem.BondType.UNSPECIFIED]


class Scatter(NamedTuple):
    """Median and robust spread (1.4826 times the median absolute deviation) of energies per atom, eV."""

    median: float
    spread: float


def energy_scatter(residuals: ArrayLike) -> Scatter | None:
    """Scatter of the energies per atom above their reference energies.

    Parameters
    ----------
    residuals : (m,) eV, finite

    Returns
    -------
    Scatter or None
        None for fewer than eight; a spread of 1 meV at least.
    """
    values = np.asarray(residuals, dtype=np.float64)
    if len(values) < FEWEST:
        return None
    median = float(np.median(values))
    return Scatter(median, max(1.4826 * float(np.median(np.abs(values - median))), 1e-3))


def flag(
    records: Sequence[Record],
    references: ReferenceEnergies | None = None,
    *,
    max_force: float = 30.0,
    net_force: float = 0.1,
    net_torque: float = 0.2,
    outlier_z: float = 12.0,
    scatter: Scatter | None = None,
) -> list[tuple[str, ...]]:
    """Reasons to doubt each record; an empty tuple means none.

    Whether the SCF converged is settled before a label exists: our programs give none otherwise, and a file of others
    that says so of a row has it in the row's qc_flags. This looks at what the label says.

    Parameters
    ----------
    records : n records; without labels only their connectivity is judged
    references : reference energies for the outlier test, which is left out if None
    max_force : largest acceptable force component, eV/Å
    net_force, net_torque : largest acceptable |Σ F|, eV/Å, and |Σ r × F|, eV; both vanish for exact forces
    outlier_z : largest acceptable robust z-score of the energy per atom above the reference energies
    scatter : of the whole set these records are a part of; their own if None, which needs eight with labels

    Returns
    -------
    list of tuple of str, length n
        Sentences with the measured value and the limit.
    """
    outliers = _outliers(records, references, outlier_z, scatter) if references is not None else [()] * len(records)
    return [
        (*_broken(record), *_forces(record, max_force, net_force, net_torque), *outlier)
        for record, outlier in zip(records, outliers, strict=True)
    ]


def _broken(record: Record) -> list[str]:
    faults = connectivity_faults(record.atomic_numbers, record.positions, record.bonds)
    if faults and not len(record.bonds):
        return [f"connectivity: no bonds are known, and {len(faults)} pairs of atoms stand as if they were bonded"]
    return [*(f"connectivity: {fault}" for fault in faults), *_against_smiles(record)]


def _against_smiles(record: Record) -> list[str]:
    """Compare the graph of the bonds with that of the SMILES; stereo and isotopes do not count here."""
    if any(kind == UNKNOWN_BOND for _, _, kind in record.bonds):
        return []  # bonds of a kind that records do not have
    try:
        with rdBase.BlockLogs():
            claimed, shown = _graph(parse_smiles(record.smiles)), _graph(to_mol(record))
    except (MoleculeError, RecordError, ValueError) as error:
        return [f"connectivity: bonds and SMILES cannot be compared: {error}"]
    return [] if claimed == shown else [f"connectivity: the bonds are those of {shown}, the SMILES says {claimed}"]


def _graph(mol: Chem.Mol) -> str:
    plain = Chem.Mol(mol)
    for atom in plain.GetAtoms():
        atom.SetIsotope(0)
    return Chem.MolToSmiles(without_hydrogens(plain), isomericSmiles=False)


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


def _outliers(
    records: Sequence[Record], references: ReferenceEnergies, limit: float, scatter: Scatter | None
) -> list[tuple[str, ...]]:
    reasons: list[tuple[str, ...]] = [()] * len(records)
    residuals: dict[int, float] = {}
    for i, record in enumerate(records):
        if record.energy is None:
            continue
        if np.isfinite(record.energy):
            residuals[i] = (record.energy - references.total(record.atomic_numbers)) / len(record.atomic_numbers)
        else:
            reasons[i] = ("energy: not finite",)
    found = scatter or energy_scatter(list(residuals.values()))
    if found is None:
        return reasons
    for i, residual in residuals.items():
        z = (residual - found.median) / found.spread
        if abs(z) > limit:
            sentence = f"energy: {residual:.3f} eV/atom from its reference, robust z-score {z:.1f}, limit {limit:g}"
            reasons[i] = (sentence,)
    return reasons
