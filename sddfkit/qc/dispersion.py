"""Dispersion of ωB97X-D, NumPy alone; in bohr and hartree.

J.-D. Chai, M. Head-Gordon, Phys. Chem. Chem. Phys. 10, 6615 (2008), doi:10.1039/b810189b, with the coefficients and
radii of S. Grimme, J. Comput. Chem. 27, 1787 (2006), doi:10.1002/jcc.20495.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from sddfkit.units import BOHR_TO_ANGSTROM

# fmt: off
C6_J_NM6_PER_MOL: Final = (
    0.14, 0.08,
    1.61, 1.61, 3.13, 1.75, 1.23, 0.70, 0.75, 0.63,
    5.71, 5.71, 10.79, 9.23, 7.84, 5.57, 5.07, 4.61,
    *(12 * (10.8,)), 16.99, 17.10, 16.37, 12.64, 12.47, 12.01,
)
"""H to Kr."""

RADII_ANGSTROM: Final = (
    1.001, 1.012,
    0.825, 1.408, 1.485, 1.452, 1.397, 1.342, 1.287, 1.243,
    1.144, 1.364, 1.639, 1.716, 1.705, 1.683, 1.639, 1.595,
    1.485, 1.474, *(10 * (1.562,)), 1.650, 1.727, 1.760, 1.771, 1.749, 1.727,
)
"""H to Kr."""
# fmt: on

_HARTREE_BOHR6: Final = (10 / BOHR_TO_ANGSTROM) ** 6 / 2625499.64
"""One J nm⁶/mol."""

_DAMPING: Final = 6.0


def energy_and_gradient(
    atomic_numbers: Sequence[int] | np.ndarray, positions_bohr: ArrayLike
) -> tuple[float, np.ndarray]:
    """-Σ_{i<j} C6_ij / r_ij⁶ / (1 + 6 (r_ij / R_ij)^(-12)), C6_ij the geometric mean, R_ij the sum of the radii.

    Parameters
    ----------
    atomic_numbers : (n,) int
        H to Kr.
    positions_bohr : (n, 3) float64, bohr

    Returns
    -------
    energy : float, hartree
    gradient : (n, 3) float64, hartree/bohr
    """
    index = np.asarray(atomic_numbers, dtype=int) - 1
    positions = np.asarray(positions_bohr, dtype=np.float64).reshape(-1, 3)
    c6 = np.array(C6_J_NM6_PER_MOL)[index] * _HARTREE_BOHR6
    radii = np.array(RADII_ANGSTROM)[index] / BOHR_TO_ANGSTROM
    i, j = np.triu_indices(len(positions), k=1)
    vector = positions[i] - positions[j]
    r = np.linalg.norm(vector, axis=1)
    damping = _DAMPING * (r / (radii[i] + radii[j])) ** -12
    pair = -np.sqrt(c6[i] * c6[j]) / r**6 / (1 + damping)
    slope = pair / r * (12 * damping / (1 + damping) - 6)
    gradient = np.zeros_like(positions)
    force = (slope / r)[:, None] * vector
    np.add.at(gradient, i, force)
    np.add.at(gradient, j, -force)
    return float(pair.sum()), gradient
