"""Charge model 5: Hirshfeld charges, corrected so that molecules of them have the measured dipole moments.

q_i = q_i(Hirshfeld) + Σ_j T_ij exp(−α (r_ij − R_i − R_j)), α = 2.474 Å⁻¹, T_ij = −T_ji (A. V. Marenich, S. V. Jerome,
C. J. Cramer, D. G. Truhlar, J. Chem. Theory Comput. 8, 527 (2012), doi:10.1021/ct200866d). Covers H to Kr.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from qcelemental import periodictable

from sddfkit.qc.properties.base import Property, PropertyError, atom_values
from sddfkit.units import BOHR_TO_ANGSTROM

ALPHA: Final = 2.474

# fmt: off
RADII: Final = (
    0.32, 0.37,
    1.30, 0.99, 0.84, 0.75, 0.71, 0.64, 0.60, 0.62,
    1.60, 1.40, 1.24, 1.14, 1.09, 1.04, 1.00, 1.01,
    2.00, 1.74, 1.59, 1.48, 1.44, 1.30, 1.29, 1.24, 1.18, 1.17, 1.22, 1.20, 1.23, 1.20, 1.20, 1.18, 1.17, 1.16,
)
"""Covalent radii (Å) of H to Kr (M. Mantina et al., CRC Handbook of Chemistry and Physics)."""

ATOMIC: Final = (
    0.0056, -0.1543,
    0.0, 0.0333, -0.1030, -0.0446, -0.1072, -0.0802, -0.0629, -0.1088,
    0.0184, 0.0, -0.0726, -0.0790, -0.0756, -0.0565, -0.0444, -0.0767,
    0.0130, *(11 * (0.0,)), -0.0512, -0.0557, -0.0533, -0.0399, -0.0313, -0.0541,
)
"""D_Z (e) of H to Kr: T_ij = D_i − D_j, unless the pair has a number of its own."""
# fmt: on

PAIRS: Final = {
    (1, 6): 0.0502,
    (1, 7): 0.1747,
    (1, 8): 0.1671,
    (6, 7): 0.0556,
    (6, 8): 0.0234,
    (7, 8): -0.0346,
}
"""T_ij (e) by atomic numbers."""


def corrected(hirshfeld: np.ndarray, atomic_numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """CM5 charges (n,) in e from Hirshfeld charges (n,) in e and positions (n, 3) in Å."""
    z = np.asarray(atomic_numbers)
    radii, atomic = np.array(RADII)[z - 1], np.array(ATOMIC)[z - 1]
    transfer = atomic[:, None] - atomic[None, :]
    for (one, other), value in PAIRS.items():
        here = np.outer(z == one, z == other)
        transfer[here], transfer[here.T] = value, -value
    distance = np.linalg.norm(positions[:, None] - positions[None, :], axis=-1)
    bond_order = np.exp(-ALPHA * (distance - radii[:, None] - radii[None, :]))
    return np.asarray(hirshfeld + (transfer * bond_order).sum(axis=1))


def _extract(result: Mapping[str, Any]) -> np.ndarray:
    hirshfeld, molecule = atom_values(result, "hirshfeld_charges"), result["molecule"]
    numbers = np.array([periodictable.to_Z(str(symbol)) for symbol in molecule["symbols"]])
    if numbers.max() > len(RADII):
        raise PropertyError(f"CM5 charges are for H to Kr here, and the molecule has Z={numbers.max()}")
    positions = np.asarray(molecule["geometry"], dtype=np.float64).reshape(-1, 3) * BOHR_TO_ANGSTROM
    return corrected(hirshfeld, numbers, positions)


CM5_CHARGES = Property("cm5_charges", "list<float64>", "e", "(n,)", _extract, turns=False, needs=("hirshfeld_charges",))
