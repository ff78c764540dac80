"""Quadrature on atomic grids: what integrals over a molecule's electron density are computed with.

Each atom has radial shells with Lebedev's points on them; space is divided between the atoms smoothly. Lengths in bohr.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

RADIAL_POINTS: Final = 60
ANGULAR_ORDER: Final = 23
"""Lebedev's grid with 194 points integrates spherical harmonics up to this order exactly."""

_ORDER_NEAR_NUCLEUS: Final = 11
_NEAR_NUCLEUS: Final = 0.35
"""Bohr: within this the density is nearly round, and 50 points per shell are enough."""

_SHARE_OF_HYDROGEN: Final = 0.3
_SMALLEST: Final = 1e-300


class Grid(NamedTuple):
    """A quadrature over all space.

    points : (p, 3) float64, bohr
    weights : (p,) float64, bohr³
    first : (n + 1,) int, where the points of each atom begin, and the end
    """

    points: np.ndarray
    weights: np.ndarray
    first: np.ndarray


def treutler_ahlrichs(n: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Radii and weights (n,) in bohr: Gauss–Chebyshev points of the second kind under Treutler and Ahlrichs' map M4.

    r = scale / ln 2 · (1 + x)^0.6 · ln(2 / (1 - x)) (J. Chem. Phys. 102, 346 (1995), doi:10.1063/1.469408).
    """
    angle = np.arange(n, 0, -1) * np.pi / (n + 1)
    x = np.cos(angle)
    factor = scale / np.log(2) * (1 + x) ** 0.6
    logarithm = np.log(2 / (1 - x))
    slope = factor * (0.6 / (1 + x) * logarithm + 1 / (1 - x))
    return factor * logarithm, np.pi / (n + 1) * np.sin(angle) * slope


def molecular_grid(
    atomic_numbers: np.ndarray,
    positions_bohr: np.ndarray,
    *,
    radial_points: int = RADIAL_POINTS,
    angular_order: int = ANGULAR_ORDER,
) -> Grid:
    """A grid on which smooth functions around the nuclei can be integrated.

    Parameters
    ----------
    atomic_numbers : (n,) int
    positions_bohr : (n, 3) float64, bohr
    radial_points, angular_order : int
        Of each atom.

    Returns
    -------
    Grid
        Space is divided by P_A = η_A exp(−2 r_A) / r_A³ over its sum, η = 0.3 for hydrogen, 1 otherwise, which costs
        no more than the number of pairs of points and atoms (M. Franchini et al., J. Comput. Chem. 34, 1819 (2013),
        doi:10.1002/jcc.23323).
    """
    centres = np.asarray(positions_bohr, dtype=np.float64).reshape(-1, 3)
    share = np.log(np.where(np.asarray(atomic_numbers) == 1, _SHARE_OF_HYDROGEN, 1.0))
    points, weights, first = [], [], [0]
    for atom, z in enumerate(atomic_numbers):
        relative, weight = _atomic_grid(int(z), radial_points, angular_order)
        here = centres[atom] + relative
        distance = np.linalg.norm(here[:, None] - centres[None, :], axis=-1)
        logarithm = share - 2 * distance - 3 * np.log(np.maximum(distance, _SMALLEST))
        logarithm -= logarithm.max(axis=1, keepdims=True)
        part = np.exp(logarithm)
        points.append(here)
        weights.append(weight * part[:, atom] / part.sum(axis=1))
        first.append(first[-1] + len(here))
    return Grid(np.concatenate(points), np.concatenate(weights), np.array(first))


def _atomic_grid(z: int, radial_points: int, angular_order: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (p, 3) about the nucleus and weights (p,), from the innermost shell to the outermost."""
    from scipy.integrate import lebedev_rule

    scale = 1.0 if z <= 2 else 1.3 if z <= 10 else 1.6
    radii, radial_weights = treutler_ahlrichs(radial_points, scale)
    points, weights = [], []
    for radius, weight in zip(radii, radial_weights, strict=True):
        order = min(angular_order, _ORDER_NEAR_NUCLEUS) if radius < _NEAR_NUCLEUS else angular_order
        directions, angular_weights = lebedev_rule(order)
        points.append(radius * directions.T)
        weights.append(weight * radius**2 * angular_weights)  # the angular ones add up to 4π
    return np.concatenate(points), np.concatenate(weights)
