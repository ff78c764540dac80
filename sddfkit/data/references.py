"""Reference energies: what each element contributes to a total energy, removed before a net sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sddfkit.chem.molecules import element_number, element_symbol
from sddfkit.data.records import Record


class ReferenceError_(ValueError):  # noqa: N801, N818  (plain ReferenceError is Python's own)
    """Reference energies that are missing for an element, or cannot be determined."""


@dataclass(frozen=True)
class ReferenceEnergies:
    """Energy per atom of each element.

    Parameters
    ----------
    energies : atomic number → eV
    method : one sentence on where they come from
    """

    energies: Mapping[int, float]
    method: str

    def total(self, atomic_numbers: ArrayLike) -> float:
        """Sum of the reference energies of the atoms, eV (float64: it is of the size of the total energy).

        Raises
        ------
        ReferenceError_
            Names the elements that have no reference energy.
        """
        numbers, counts = np.unique(np.asarray(atomic_numbers, dtype=int), return_counts=True)
        missing = [element_symbol(z) for z in numbers if int(z) not in self.energies]
        if missing:
            known = " ".join(element_symbol(z) for z in sorted(self.energies))
            raise ReferenceError_(
                f"no reference energy for {', '.join(missing)} (known: {known}); label molecules with it, or give the "
                "energy of its isolated atom"
            )
        return float(sum(count * self.energies[int(z)] for z, count in zip(numbers, counts, strict=True)))

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON: {"energies": {"H": eV, …}, "method": …}."""
        return {
            "energies": {element_symbol(z): self.energies[z] for z in sorted(self.energies)},
            "method": self.method,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "ReferenceEnergies":
        """Inverse of `to_dict`."""
        return cls({element_number(s): float(e) for s, e in document["energies"].items()}, str(document["method"]))


def fit_reference_energies(
    records: Sequence[Record], isolated_atoms: Mapping[int, float], *, ridge: float = 0.01
) -> ReferenceEnergies:
    """Ridge regression of the labels on element counts, towards the energies of isolated atoms.

    Minimises Σ_m (E_m − Σ_z N_mz ε_z)² + λ Σ_z (ε_z − ε⁰_z)². With λ = 0 this is least squares; an element that is
    rare in the labels stays near its isolated atom. The default λ is (0.4 eV / 4 eV)²: typical scatter of the
    residuals over the typical distance of a bound atom from an isolated one.

    Parameters
    ----------
    records : those with an energy count, the others are skipped; pass training records only
    isolated_atoms : atomic number → energy of the isolated atom at the same level, eV
    ridge : λ, dimensionless

    Returns
    -------
    ReferenceEnergies
        For the elements of the labels and of `isolated_atoms`.

    Raises
    ------
    ReferenceError_
        No labelled record, an energy that is not finite, negative ridge, or elements that neither isolated atoms nor
        the labels determine (named).
    """
    labelled = [record for record in records if record.energy is not None]
    if not labelled:
        raise ReferenceError_(f"none of the {len(records)} records has an energy; label training records first")
    counts, elements = element_counts(labelled)
    energies = np.array([record.energy for record in labelled], dtype=np.float64)
    broken = [record.record_id for record, energy in zip(labelled, energies, strict=True) if not np.isfinite(energy)]
    if broken:
        raise ReferenceError_(f"the energies of {broken[:3]} are not finite")
    return fit_counts(counts, elements, energies, isolated_atoms, ridge=ridge)


def fit_counts(
    counts: NDArray[np.float64],
    elements: Sequence[int],
    energies: NDArray[np.float64],
    isolated_atoms: Mapping[int, float],
    *,
    ridge: float = 0.01,
) -> ReferenceEnergies:
    """As `fit_reference_energies`, from counts (m, e) of the e elements and energies (m,), eV.

    Raises
    ------
    ReferenceError_
        Negative ridge, or elements that neither isolated atoms nor the labels determine (named).
    """
    if not ridge >= 0:
        raise ReferenceError_(f"{ridge=}; expected 0 or more")
    known = np.array([z in isolated_atoms for z in elements])
    start = np.array([isolated_atoms.get(z, 0.0) for z in elements])
    penalty = np.diag(np.sqrt(ridge) * known)[known]
    design = np.vstack([counts, penalty])
    target = np.concatenate([energies - counts @ start, np.zeros(len(penalty))])
    _check_determined(design, elements)
    shift = np.linalg.lstsq(design, target, rcond=None)[0]
    fitted = {int(z): float(e) for z, e in isolated_atoms.items()}  # what no label contains stays there
    fitted |= dict(zip(elements, (start + shift).tolist(), strict=True))
    return ReferenceEnergies(fitted, f"ridge {ridge:g} of {len(energies)} labels towards isolated atoms")


def element_counts(records: Sequence[Record]) -> tuple[NDArray[np.float64], list[int]]:
    """Counts (m, e) of each element in each record, and the e atomic numbers in ascending order."""
    elements = sorted({int(z) for record in records for z in record.atomic_numbers})
    return np.array([[np.sum(r.atomic_numbers == z) for z in elements] for r in records], dtype=np.float64), elements


def _check_determined(design: NDArray[np.float64], elements: Sequence[int]) -> None:
    # The triangle of a QR decomposition has the singular values of the design, and is small however many the labels.
    _, singular, directions = np.linalg.svd(np.linalg.qr(design, mode="r"), full_matrices=True)
    rank = int(np.sum(singular > 1e-9 * singular.max()))
    free = np.abs(directions[rank:]).max(axis=0) > 1e-6 if rank < len(elements) else np.zeros(len(elements), dtype=bool)
    if free.any():
        names = ", ".join(element_symbol(z) for z, undetermined in zip(elements, free, strict=True) if undetermined)
        raise ReferenceError_(
            f"the labels do not determine the reference energies of {names}; give the energies of the isolated atoms "
            "(and ridge > 0), or label more varied molecules"
        )
