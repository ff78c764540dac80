"""Electron densities of free neutral atoms, made round: what Hirshfeld's partition compares a molecule with.

Spin-restricted Kohn–Sham atoms with electrons spread evenly over each subshell, in the local density approximation
(Slater's exchange, VWN5), def2-QZVPP, by PySCF's `scf.atom_ks`. The table lies in ``proatoms.json``;
``python -m sddfkit.qc.proatoms`` computes it anew.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from qcelemental import periodictable

TABLE: Final = Path(__file__).with_suffix(".json")
HEAVIEST: Final = 36
FUNCTIONAL: Final = "lda,vwn"
BASIS: Final = "def2-qzvpp"


def refusal(atomic_numbers: Sequence[int] | np.ndarray) -> str | None:
    """One sentence that names the elements without a table, or None.

    >>> refusal([8, 1, 53])
    'Hirshfeld charges need densities of free atoms, which are tabulated for H to Kr, and the molecule has Z=53'
    """
    missing = sorted({int(z) for z in atomic_numbers if not 0 < z <= HEAVIEST})
    if not missing:
        return None
    return (
        "Hirshfeld charges need densities of free atoms, which are tabulated for H to Kr, and the molecule has "
        + ", ".join(f"Z={z}" for z in missing)
    )


def density(atomic_number: int, distance_bohr: np.ndarray) -> np.ndarray:
    """Density in bohr⁻³ at some distances (p,) from the nucleus; beyond the table, at 15 bohr, it falls on."""
    radii, logarithms = _table()
    logarithm = logarithms[atomic_number]
    slope = (logarithm[-1] - logarithm[-2]) / (radii[-1] - radii[-2])
    beyond = np.maximum(distance_bohr - radii[-1], 0.0)
    return np.exp(np.interp(distance_bohr, radii, logarithm) + slope * beyond)


@functools.cache
def _table() -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Radii (k,) in bohr, and by atomic number ln ρ (k,) with ρ in bohr⁻³."""
    read = json.loads(TABLE.read_text(encoding="utf-8"))
    return np.array(read["radii_bohr"]), {int(z): np.array(values) for z, values in read["log_density"].items()}


def computed(atomic_number: int, radii_bohr: np.ndarray) -> np.ndarray:
    """ln ρ (k,) of one atom by PySCF, ρ in bohr⁻³."""
    from pyscf import dft, gto
    from pyscf.scf import atom_ks

    symbol = periodictable.to_E(atomic_number)
    mol = gto.M(atom=symbol, basis=BASIS, spin=atomic_number % 2, verbose=0)
    ((_, _, orbitals, occupations),) = atom_ks.get_atm_nrks(mol, xc=FUNCTIONAL).values()
    points = np.column_stack([np.zeros_like(radii_bohr), np.zeros_like(radii_bohr), radii_bohr])
    amplitudes = dft.numint.eval_ao(mol, points) @ orbitals
    return np.asarray(np.log((amplitudes**2) @ occupations))


def main() -> None:
    """Write the table."""
    radii = np.round(np.geomspace(0.002, 15.0, 140), 6)
    logarithms = {z: np.round(computed(z, radii), 4).tolist() for z in range(1, HEAVIEST + 1)}
    document = {
        "about": "ln of the density (bohr^-3) of free neutral atoms made round, by atomic number; see proatoms.py",
        "radii_bohr": radii.tolist(),
        "log_density": logarithms,
    }
    TABLE.write_text(json.dumps(document, separators=(",", ":")).replace('],"', '],\n"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
