"""Atomic charges by dividing the electron density in space: Hirshfeld's and MBIS. NumPy and SciPy, atomic units.

F. L. Hirshfeld, Theor. Chim. Acta 44, 129 (1977), doi:10.1007/BF00549096; T. Verstraelen et al., J. Chem. Theory
Comput. 12, 3894 (2016), doi:10.1021/acs.jctc.6b00456. One density on one grid serves both, whatever program gave it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from sddfkit.qc import proatoms
from sddfkit.qc.grids import Grid, molecular_grid
from sddfkit.qc.orbitals import Basis

_BLOCK: Final = 4096
_NO_DENSITY: Final = 1e-10
"""Electrons at a point; all points that are left out together hold some 1e-6."""

_MISSING_ELECTRONS: Final = 2e-3
_CONVERGED: Final = 1e-6
_MOST_ITERATIONS: Final = 3000
"""Of MBIS; the former is the change of a population (e) or a width (bohr) in one iteration."""

_FAR_BOHR: Final = 20.0
_FAR_WIDTHS: Final = 22.0
"""Distance from an atom, and that in widths, beyond which a Slater function of MBIS is taken as nothing."""


class PartitionError(ValueError):
    """No charges can be given; the message says why."""


class Cloud(NamedTuple):
    """Electrons on a grid: points (p, 3) in bohr and how many electrons (p,) each stands for."""

    points: np.ndarray
    electrons: np.ndarray


def cloud(basis: Basis, density: np.ndarray, atomic_numbers: np.ndarray, positions_bohr: np.ndarray, n: float) -> Cloud:
    """The electron density of a density matrix on a molecular grid.

    Parameters
    ----------
    basis : Basis
    density : (nao, nao) float64
        Of both spins together.
    atomic_numbers : (n,) int
    positions_bohr : (n, 3) float64, bohr
    n : float
        How many electrons there must be.

    Raises
    ------
    PartitionError
        If the grid finds 0.002 electrons more or less.
    """
    grid = molecular_grid(atomic_numbers, positions_bohr)
    electrons = np.concatenate(
        [grid.weights[block] * basis.density(density, positions_bohr, grid.points[block]) for block in _blocks(grid)]
    )
    if abs(electrons.sum() - n) > _MISSING_ELECTRONS:
        raise PartitionError(
            f"the grid holds {electrons.sum():.4f} electrons, the molecule {n:g}: charges from it would be wrong"
        )
    some = electrons > _NO_DENSITY
    return Cloud(grid.points[some], electrons[some])


def _blocks(grid: Grid) -> list[slice]:
    """Points that lie together: of one atom, in shells of about one distance."""
    return [
        slice(start, min(start + _BLOCK, stop))
        for first, stop in zip(grid.first[:-1], grid.first[1:], strict=True)
        for start in range(first, stop, _BLOCK)
    ]


def hirshfeld_charges(electrons: Cloud, atomic_numbers: np.ndarray, positions_bohr: np.ndarray) -> np.ndarray:
    """q_A = Z_A − ∫ ρ ρ⁰_A / Σ_B ρ⁰_B, with the round densities ρ⁰ of neutral free atoms, (n,) in e.

    Raises
    ------
    PartitionError
        For an element without such a density.
    """
    if (refused := proatoms.refusal(atomic_numbers)) is not None:
        raise PartitionError(refused)
    shares = np.stack(
        [
            proatoms.density(int(z), np.linalg.norm(electrons.points - centre, axis=1))
            for z, centre in zip(atomic_numbers, positions_bohr, strict=True)
        ]
    )
    total = shares.sum(axis=0)
    inside = total > 0.0
    found = shares[:, inside] @ (electrons.electrons[inside] / total[inside])
    return np.asarray(atomic_numbers) - found


class Slaters(NamedTuple):
    """MBIS's model of a density, Σ N exp(−r/σ) / (8π σ³): atom (s,) int, population (s,) e, width σ (s,) bohr."""

    atom: np.ndarray
    population: np.ndarray
    width: np.ndarray


SHELLS: Final = (2, 8, 8, 18, 18)
"""Electrons in the shells of MBIS's first guess: one Slater function for each row of the periodic table."""


def mbis_charges(electrons: Cloud, atomic_numbers: np.ndarray, positions_bohr: np.ndarray) -> np.ndarray:
    """q_A = Z_A − Σ_i N_Ai of the minimal basis iterative stockholder partition, (n,) in e."""
    model = mbis(electrons, atomic_numbers, positions_bohr)
    return np.asarray(atomic_numbers) - np.bincount(model.atom, model.population, minlength=len(atomic_numbers))


def mbis(electrons: Cloud, atomic_numbers: np.ndarray, positions_bohr: np.ndarray) -> Slaters:
    """The self-consistent Slater functions of MBIS.

    With the model density ρ⁰ = Σ_i ρ⁰_i, N_i = ∫ ρ ρ⁰_i / ρ⁰ and σ_i = ∫ r ρ ρ⁰_i / ρ⁰ / (3 N_i), again and again.
    There may be several solutions; the one that counts is that to which these iterations lead from `first_guess`. So
    they are not made faster by extrapolation, which leads to another one in ZnO.

    Raises
    ------
    PartitionError
        If it does not converge.
    """
    guess = first_guess(atomic_numbers)
    near = [_Near.of(electrons.points, centre) for centre in positions_bohr]
    x, change = np.concatenate([guess.population, guess.width]), np.inf
    for _ in range(_MOST_ITERATIONS):
        new = _iterate(electrons.electrons, near, guess.atom, x)
        x, change = new, float(np.abs(new - x).max())
        if change < _CONVERGED:
            population, width = np.split(x, 2)
            return Slaters(guess.atom, population, width)
    raise PartitionError(f"MBIS still changes by {change:.1e} after {_MOST_ITERATIONS} iterations")


class _Near(NamedTuple):
    """Points around an atom, by distance: which (k,) int, and their distances (k,) in bohr."""

    points: np.ndarray
    distance: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, centre: np.ndarray) -> _Near:
        distance = np.linalg.norm(points - centre, axis=1)
        index = np.flatnonzero(distance < _FAR_BOHR)
        index = index[np.argsort(distance[index])]
        return cls(index, distance[index])


def _iterate(electrons: np.ndarray, near: list[_Near], atoms: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One iteration of MBIS on populations and widths (2 s,)."""
    population, width = np.split(x, 2)
    model, parts = np.zeros(len(electrons)), []
    for atom, n, sigma in zip(atoms, population, width, strict=True):
        here = near[atom].distance[: np.searchsorted(near[atom].distance, _FAR_WIDTHS * sigma)]
        part = n / (8 * np.pi * sigma**3) * np.exp(-here / sigma)
        model[near[atom].points[: len(part)]] += part
        parts.append(part)
    ratio = electrons / np.maximum(model, 1e-300)
    new = np.empty_like(x)
    for i, (atom, part) in enumerate(zip(atoms, parts, strict=True)):
        part *= ratio[near[atom].points[: len(part)]]
        new[i] = part.sum()
        new[len(parts) + i] = part @ near[atom].distance[: len(part)] / (3 * max(new[i], 1e-300))
    return new


def first_guess(atomic_numbers: np.ndarray) -> Slaters:
    """One Slater function per row of the periodic table; widths from 1/(2Z) to 1/2 bohr, in equal ratios."""
    atom, population, width = [], [], []
    for index, z in enumerate(atomic_numbers):
        left, shells = int(z), []
        for size in SHELLS:
            if left > 0:
                shells.append(min(left, size))
                left -= size
        for place, count in enumerate(shells):
            atom.append(index)
            population.append(float(count))
            exponent = 1.0 - place / (len(shells) - 1) if len(shells) > 1 else 1.0
            width.append(1.0 / (2.0 * z**exponent))
    return Slaters(np.array(atom), np.array(population), np.array(width))


Scheme = Callable[[Cloud, np.ndarray, np.ndarray], np.ndarray]

SCHEMES: Final[dict[str, Scheme]] = {"hirshfeld": hirshfeld_charges, "mbis": mbis_charges}
"""Keyword of the harnesses to what it adds."""
