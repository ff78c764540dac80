"""Restrained fit of atomic charges to the electrostatic potential (RESP), NumPy alone.

Two stages after C. I. Bayly, P. Cieplak, W. D. Cornell, P. A. Kollman, J. Phys. Chem. 97, 10269 (1993),
doi:10.1021/j100142a004, on the shells of U. C. Singh, P. A. Kollman, J. Comput. Chem. 5, 129 (1984),
doi:10.1002/jcc.540050204. Lengths in bohr, potentials in hartree per e, charges in e.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from sddfkit.units import BOHR_TO_ANGSTROM

RADII_ANGSTROM: Final[dict[int, float]] = {
    1: 1.20,
    6: 1.50,
    7: 1.50,
    8: 1.40,
    9: 1.35,
    15: 1.80,
    16: 1.75,
    17: 1.70,
}
"""Van der Waals radii by atomic number, those of the Merz–Kollman scheme."""

BASIS: Final = "6-31g(d)"
"""Basis set of the Hartree–Fock calculation whose potential is fitted; its d functions are Cartesian."""

SHELLS: Final = (1.4, 1.6, 1.8, 2.0)
"""Shells of grid points, as multiples of the van der Waals radii."""

POINTS_PER_SQUARE_ANGSTROM: Final = 1.0

FIRST_STRENGTH: Final = 0.0005
SECOND_STRENGTH: Final = 0.001
TIGHTNESS: Final = 0.1
"""Restraint of the two stages: strength a in atomic units, and b in e."""

_CONVERGED: Final = 1e-9
_MOST_ITERATIONS: Final = 500


class FitError(ValueError):
    """No charges can be fitted; the message says why."""


def radii_refusal(atomic_numbers: Sequence[int] | np.ndarray) -> str | None:
    """One sentence that names the elements without a Merz–Kollman radius, or None.

    >>> radii_refusal([8, 1, 35])
    'RESP charges need Merz–Kollman radii, and there is none for Z=35; known: H, C, N, O, F, P, S, Cl'
    """
    missing = sorted({int(z) for z in atomic_numbers} - RADII_ANGSTROM.keys())
    if not missing:
        return None
    return (
        f"RESP charges need Merz–Kollman radii, and there is none for {', '.join(f'Z={z}' for z in missing)}; "
        "known: H, C, N, O, F, P, S, Cl"
    )


def merz_kollman_grid(
    atomic_numbers: Sequence[int] | np.ndarray,
    positions_bohr: ArrayLike,
    *,
    points_per_square_angstrom: float = POINTS_PER_SQUARE_ANGSTROM,
) -> np.ndarray:
    """Points on shells around the molecule: the parts of the scaled atomic spheres that lie in no other of them.

    The points of each sphere lie on circles of latitude, as in the programs that gave the published charges: charges of
    buried atoms differ by some 0.01 e between grids of one density, and by more between densities, because the
    restraint weighs less against more points. The circles keep to the frame when the molecule turns.

    Parameters
    ----------
    atomic_numbers : (n,) int
    positions_bohr : (n, 3) float64, bohr
    points_per_square_angstrom : float
        Density of the points on each shell, Å⁻².

    Returns
    -------
    (m, 3) float64, bohr

    Raises
    ------
    FitError
        For an element without a radius.
    """
    if (refused := radii_refusal(atomic_numbers)) is not None:
        raise FitError(refused)
    centres = np.asarray(positions_bohr, dtype=np.float64).reshape(-1, 3)
    radii = np.array([RADII_ANGSTROM[int(z)] for z in atomic_numbers])
    shells = []
    for scale in SHELLS:
        scaled = scale * radii / BOHR_TO_ANGSTROM
        for atom, radius in enumerate(scaled):
            area = 4 * np.pi * (scale * radii[atom]) ** 2
            points = centres[atom] + radius * _circles_of_latitude(int(points_per_square_angstrom * area))
            distance = np.linalg.norm(points[:, None] - centres[None, :], axis=-1)
            distance[:, atom] = np.inf
            shells.append(points[np.all(distance >= scaled, axis=1)])
    return np.concatenate(shells)


def potential_document(points_bohr: np.ndarray, potential_hartree: np.ndarray) -> dict[str, Any]:
    """What the extras of a result hold of a potential: lists, to be written as JSON."""
    values = {"points_bohr": points_bohr.tolist(), "potential_hartree": potential_hartree.tolist()}
    return {"electrostatic_potential": {"level": "HF/6-31G(d)", **values}}


def _circles_of_latitude(n: int) -> np.ndarray:
    """About n points (m, 3) on the unit sphere: circles from pole to pole, as far apart as the points on them."""
    equator = int(np.sqrt(np.pi * n))
    polar = np.linspace(0.0, np.pi, equator // 2 + 1)
    counts = np.maximum(1, (equator * np.sin(polar) + 1e-10).astype(int))
    theta = np.repeat(polar, counts)
    phi = np.concatenate([2 * np.pi * np.arange(count) / count for count in counts])
    return np.column_stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)])


def equivalence_classes(atomic_numbers: Sequence[int] | np.ndarray, bonds: ArrayLike) -> np.ndarray:
    """Number atoms alike that their elements, their neighbours, those' neighbours and so on do not tell apart.

    Parameters
    ----------
    atomic_numbers : (n,) int
        With the hydrogens.
    bonds : (m, 2) int
        Pairs of bonded atoms, each once. Bond orders play no part: both oxygens of a carboxylate are alike.

    Returns
    -------
    (n,) int

    Examples
    --------
    >>> equivalence_classes([8, 1, 1], [[0, 1], [0, 2]]).tolist()
    [1, 0, 0]
    """
    colours = np.unique(np.asarray(atomic_numbers), return_inverse=True)[1]
    neighbours = _neighbours(len(colours), bonds)
    while True:
        signs = [(int(colours[i]), *sorted(int(colours[j]) for j in near)) for i, near in enumerate(neighbours)]
        names = {sign: number for number, sign in enumerate(sorted(set(signs)))}
        finer = np.array([names[sign] for sign in signs])
        if finer.max() == colours.max():
            return colours
        colours = finer


def _neighbours(n_atoms: int, bonds: ArrayLike) -> list[list[int]]:
    near: list[list[int]] = [[] for _ in range(n_atoms)]
    for i, j in np.asarray(bonds, dtype=int).reshape(-1, 2):
        near[i].append(int(j))
        near[j].append(int(i))
    return near


def resp_charges(
    atomic_numbers: Sequence[int] | np.ndarray,
    positions_bohr: ArrayLike,
    bonds: ArrayLike,
    charge: float,
    points_bohr: ArrayLike,
    potential_hartree: ArrayLike,
) -> np.ndarray:
    """RESP charges by the two stages of Bayly et al.

    First all atoms are fitted under a weak restraint; equivalent atoms share a charge, but for the carbons of methyl
    and methylene groups (two hydrogens or more) and their hydrogens. Then those alone are fitted again under a stronger
    restraint, now with one charge for equivalent ones. Hydrogens are never restrained.

    Parameters
    ----------
    atomic_numbers : (n,) int
    positions_bohr : (n, 3) float64, bohr
    bonds : (m, 2) int
        Pairs of bonded atoms.
    charge : float, e
        Of the molecule.
    points_bohr : (p, 3) float64, bohr
    potential_hartree : (p,) float64, hartree/e
        Of nuclei and electrons, at HF/6-31G(d) by convention.

    Returns
    -------
    (n,) float64, e
    """
    numbers = np.asarray(atomic_numbers)
    classes, neighbours = equivalence_classes(numbers, bonds), _neighbours(len(numbers), bonds)
    again = np.zeros(len(numbers), dtype=bool)
    for atom in np.flatnonzero(numbers == 6):
        hydrogens = [near for near in neighbours[atom] if numbers[near] == 1]
        if len(hydrogens) >= 2:
            again[[int(atom), *hydrogens]] = True
    strengths = np.where(numbers == 1, 0.0, FIRST_STRENGTH)
    apart = np.where(again, len(numbers) + np.arange(len(numbers)), classes)
    first = fit_charges(positions_bohr, charge, points_bohr, potential_hartree, strengths=strengths, classes=apart)
    if not again.any():
        return first
    return fit_charges(
        positions_bohr,
        charge,
        points_bohr,
        potential_hartree,
        strengths=np.where(numbers == 1, 0.0, SECOND_STRENGTH),
        classes=classes,
        fixed=np.where(again, np.nan, first),
    )


def fit_charges(
    positions_bohr: ArrayLike,
    charge: float,
    points_bohr: ArrayLike,
    potential_hartree: ArrayLike,
    *,
    strengths: ArrayLike = 0.0,
    classes: ArrayLike | None = None,
    fixed: ArrayLike | None = None,
) -> np.ndarray:
    """Charges that reproduce a potential best, under a hyperbolic restraint and with constraints.

    Solves equations 13 and 14 of Bayly et al. with Lagrange multipliers, again and again until the charges in the
    restraint are those of the solution: Σ_k A_jk q_k = Σ_i V_i / r_ij, A_jk = Σ_i 1 / (r_ij r_ik) + δ_jk a_j (q_j² +
    b²)^(-1/2). As there, the 2 from the derivative of the squares stands in neither: the sum of squares plus 2 Σ_j a_j
    ((q_j² + b²)^(1/2) - b) is least.

    Parameters
    ----------
    positions_bohr : (n, 3) float64, bohr
    charge : float, e
        What the charges add up to.
    points_bohr : (p, 3) float64, bohr
    potential_hartree : (p,) float64, hartree/e
    strengths : (n,) float64 or float
        a_j in atomic units; 0 for an atom that is not restrained.
    classes : (n,) int, optional
        Atoms with the same number have the same charge.
    fixed : (n,) float64, optional
        Charges (e) that are kept, NaN for those to be fitted; an atom that is kept is in no class.

    Returns
    -------
    (n,) float64, e

    Raises
    ------
    FitError
        If the grid does not determine the charges, or they do not become self-consistent.
    """
    positions = np.asarray(positions_bohr, dtype=np.float64).reshape(-1, 3)
    n_atoms = len(positions)
    kept = np.full(n_atoms, np.nan) if fixed is None else np.asarray(fixed, dtype=np.float64)
    free = np.isnan(kept)
    if not free.any():
        return kept
    distance = np.linalg.norm(np.asarray(points_bohr, dtype=np.float64)[:, None] - positions[None, :], axis=-1)
    inverse = 1 / distance
    potential = np.asarray(potential_hartree, dtype=np.float64) - inverse[:, ~free] @ kept[~free]
    inverse = inverse[:, free]
    labels = np.arange(n_atoms) if classes is None else np.asarray(classes)
    constraints, values = _constraints(labels[free], charge - kept[~free].sum())
    strength = np.broadcast_to(np.asarray(strengths, dtype=np.float64), n_atoms)[free]

    size, rows = inverse.shape[1], len(constraints)
    matrix = np.zeros((size + rows, size + rows))
    matrix[:size, size:], matrix[size:, :size] = constraints.T, constraints
    right = np.concatenate([inverse.T @ potential, values])
    squares, found = inverse.T @ inverse, np.zeros(size)
    for _ in range(_MOST_ITERATIONS):
        matrix[:size, :size] = squares + np.diag(strength / np.sqrt(found**2 + TIGHTNESS**2))
        try:
            new = np.linalg.solve(matrix, right)[:size]
        except np.linalg.LinAlgError:
            raise FitError(f"{len(inverse)} grid points do not determine the charges of {size} atoms") from None
        change, found = np.abs(new - found).max(), new
        if change < _CONVERGED:
            charges = kept.copy()
            charges[free] = found
            return charges
    raise FitError(f"the charges still change by {change:.1e} e after {_MOST_ITERATIONS} iterations")


def _constraints(labels: np.ndarray, charge: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows (c, n) and values (c,): the total charge, and each atom of a class like the first of it."""
    rows, first = [np.ones(len(labels))], dict[int, int]()
    for atom, label in enumerate(labels.tolist()):
        if label in first:
            row = np.zeros(len(labels))
            row[[first[label], atom]] = -1.0, 1.0
            rows.append(row)
        first.setdefault(label, atom)
    return np.array(rows), np.array([charge, *[0.0] * (len(rows) - 1)])
