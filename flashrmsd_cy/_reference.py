"""The slow, obvious way: list every mapping by backtracking, fit each one by singular values, take the least.

This is the oracle of the tests and a text for readers. It shares no code with the fast search and is of use for small
molecules only.
"""

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Bonds = Sequence[tuple[int, ...]]  # two atoms, and a type if types are to be kept
Centre = tuple[int, tuple[int, ...], int]
Double = tuple[tuple[int, ...], str]


def all_mappings(
    labels_a: Sequence[object], bonds_a: Bonds, labels_b: Sequence[object], bonds_b: Bonds
) -> Iterator[list[int]]:
    """Every one-to-one assignment of atoms that keeps labels and bonds: ``mapping[i]`` is the atom of b for atom i."""
    joined_a = {frozenset(bond[:2]): bond[2:] for bond in bonds_a}
    joined_b = {frozenset(bond[:2]): bond[2:] for bond in bonds_b}
    if len(labels_a) != len(labels_b) or len(joined_a) != len(joined_b):
        return

    def extend(mapping: list[int]) -> Iterator[list[int]]:
        i = len(mapping)
        if i == len(labels_a):
            yield list(mapping)
            return
        for j in range(len(labels_b)):
            if j in mapping or labels_a[i] != labels_b[j]:
                continue
            if all(
                joined_a.get(frozenset((i, k))) == joined_b.get(frozenset((j, mapping[k]))) for k in range(len(mapping))
            ):
                yield from extend([*mapping, j])

    yield from extend([])


def kabsch(a: Float, b: Float) -> tuple[float, Float, Float]:
    """Least RMSD (Å) of b on a with U (3, 3), det U = +1, and t (3,): ``a ≈ b @ U.T + t``.

    Kabsch, Acta Cryst. A32, 922 (1976), doi:10.1107/S0567739476001873.
    """
    centre_a, centre_b = a.mean(axis=0), b.mean(axis=0)
    left, _, right = np.linalg.svd((a - centre_a).T @ (b - centre_b))
    handedness = np.sign(np.linalg.det(left @ right))
    rotation = left @ np.diag([1.0, 1.0, handedness]) @ right
    translation = centre_a - rotation @ centre_b
    return in_place(a, b @ rotation.T + translation), rotation, translation


def in_place(a: Float, b: Float) -> float:
    """RMSD (Å) atom by atom."""
    return float(np.sqrt(((a - b) ** 2).sum() / len(a)))


def brute_force(
    a: Float,
    b: Float,
    labels_a: Sequence[object],
    bonds_a: Bonds,
    labels_b: Sequence[object],
    bonds_b: Bonds,
    *,
    align: bool,
) -> tuple[float, int]:
    """Symmetry-corrected RMSD (Å) and the number of mappings; infinite and 0 if the graphs differ."""
    least, count = np.inf, 0
    for mapping in all_mappings(labels_a, bonds_a, labels_b, bonds_b):
        count += 1
        moved = b[mapping]
        least = min(least, kabsch(a, moved)[0] if align else in_place(a, moved))
    return least, count


def keeps_tetrahedral(mapping: Sequence[int], centres_a: Sequence[Centre], centres_b: Sequence[Centre]) -> bool:
    """Whether every centre (atom, neighbours, sign) of a goes to one of b of the same handedness, and all are met."""
    signs = {}
    for atom, neighbours, sign in centres_b:
        for order in permutations(neighbours):
            signs[atom, order] = sign * _sign_of([neighbours.index(x) for x in order])
    atoms = {mapping[atom] for atom, _, _ in centres_a}
    return atoms == {atom for atom, _, _ in centres_b} and all(
        signs.get((mapping[atom], tuple(mapping[x] for x in around))) == sign for atom, around, sign in centres_a
    )


def keeps_double_bonds(mapping: Sequence[int], bonds_a: Sequence[Double], bonds_b: Sequence[Double]) -> bool:
    """Whether all pairs of arms ((x, i, j, y), relation) of a, each listed, go to pairs of b with the same relation."""
    relations: dict[tuple[int, ...], str] = {}
    for (x, i, j, y), relation in bonds_b:
        relations[x, i, j, y] = relations[y, j, i, x] = relation
    return len(bonds_a) == len(bonds_b) and all(
        relations.get(tuple(mapping[atom] for atom in atoms)) == relation for atoms, relation in bonds_a
    )


def _sign_of(order: Sequence[int]) -> int:
    """+1 for an even permutation, −1 for an odd one: by its cycles."""
    sign, left = 1, set(range(len(order)))
    while left:
        start = at = left.pop()
        while order[at] != start:
            at = order[at]
            left.discard(at)
            sign = -sign
    return sign
