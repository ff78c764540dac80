"""Do the positions still show the bonds that the molecular graph claims?"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem

BROKEN = 1.35
"""A bond longer than this many sums of covalent radii counts as broken."""
FORMED = 1.15
"""Two atoms that the graph does not join count as bonded below this many sums of covalent radii."""


def connectivity_faults(atomic_numbers: ArrayLike, positions: ArrayLike, bonds: ArrayLike) -> list[str]:
    """Bonds that are too long and contacts that look like a bond, judged by covalent radii.

    Radii are RDKit's (Cordero et al., Dalton Trans. 2008, 2832, doi:10.1039/B801115J).

    Parameters
    ----------
    atomic_numbers : (n,) int
    positions : (n, 3) float64, Å
    bonds : (b, 2) or (b, 3) int
        Atom indices in the first two columns. Ionic and hydrogen bonds (type 4 and 5 in the third) are left alone.

    Returns
    -------
    list of str
        One sentence per fault, such as "bond C0–H4 is 2.31 Å long, 2.2 times the sum of covalent radii".

    Examples
    --------
    >>> connectivity_faults([1, 1], [[0, 0, 0], [0, 0, 0.74]], [[0, 1, 0]])
    []
    >>> connectivity_faults([1, 1], [[0, 0, 0], [0, 0, 0.7]], [])
    ['H0 and H1 are 0.70 Å apart, 1.1 times the sum of covalent radii, but not bonded']
    """
    numbers = np.asarray(atomic_numbers, dtype=int)
    table = np.asarray(bonds, dtype=int)
    table = table.reshape(len(table), -1) if table.size else np.zeros((0, 3), dtype=int)
    distances, ratios = _distances(numbers, np.asarray(positions, dtype=float))
    names = [f"{Chem.GetPeriodicTable().GetElementSymbol(int(z))}{i}" for i, z in enumerate(numbers)]
    joined = np.eye(len(numbers), dtype=bool)
    joined[table[:, 0], table[:, 1]] = joined[table[:, 1], table[:, 0]] = True
    covalent = table[~np.isin(table[:, 2], (4, 5))] if table.shape[1] > 2 else table
    faults = [
        f"bond {names[i]}–{names[j]} is {distances[i, j]:.2f} Å long, {ratios[i, j]:.1f} times the sum of covalent "
        "radii"
        for i, j in covalent[:, :2]
        if ratios[i, j] > BROKEN
    ]
    faults += [
        f"{names[i]} and {names[j]} are {distances[i, j]:.2f} Å apart, {ratios[i, j]:.1f} times the sum of covalent "
        "radii, but not bonded"
        for i, j in np.argwhere(np.triu((ratios < FORMED) & ~joined))
    ]
    return faults


def _distances(numbers: NDArray[np.int_], positions: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRcovalent(int(z)) for z in numbers])
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return distances, distances / (radii[:, None] + radii[None])
