"""Preparation: what makes two molecules the same, and what is refused."""

import pickle

import numpy as np
import pytest

from flashrmsd_cy import Molecule, NotIsomorphicError, RMSDError, SearchLimitError, rmsd

X4 = np.zeros((4, 3))


@pytest.mark.parametrize(
    ("elements", "bonds", "extra", "message"),
    [
        ([], [], {}, "at least one atom"),
        ([6, 6], [(0, 2)], {}, r"bond \(0, 2\) names an atom that does not exist: indices run from 0 to 1"),
        ([6, 6], [(0, -1)], {}, "does not exist"),
        ([6, 6], [(1, 1)], {}, "to itself"),
        ([6, 6], [(0, 1), (1, 0)], {}, "given twice"),
        ([6, 6], [0, 1], {}, "bonds has the entry 0, expected two atoms"),
        ([6, 6], [(0.0, 1.0)], {}, r"entry \[?\(?0.0, 1.0"),
        ([6, 6], [(0, 1)], {"bond_types": [1, 2]}, "bond_types has 2 entries, expected 1"),
        ([6, 6], [(0, 1)], {"charges": [0]}, "charges has 1 entries, expected 2"),
    ],
)
def test_wrong_input_is_refused(elements, bonds, extra, message):
    with pytest.raises(RMSDError, match=message):
        Molecule(elements, bonds, **extra)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (([6] * 4, []), ([6] * 3, []), "4 atoms, the second 3"),
        (([6, 6, 8, 8], []), ([6, 6, 6, 8], []), "2 atoms labelled 6, the second 3"),
        (([6] * 4, [(0, 1)]), ([6] * 4, [(0, 1), (2, 3)]), "1 bonds, the second 2"),
        (([6] * 4, [(0, 1), (1, 2), (2, 3)]), ([6] * 4, [(0, 1), (0, 2), (0, 3)]), "different surroundings"),
        (
            ([6] * 6, [(i, (i + 1) % 6) for i in range(6)]),
            ([6] * 6, [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]),
            "no mapping of all atoms",
        ),
    ],
)
def test_the_reason_for_a_difference_is_named(first, second, message):
    a, b = Molecule(*first), Molecule(*second)
    with pytest.raises(NotIsomorphicError, match=message):
        rmsd(np.zeros((a.n_atoms, 3)), np.zeros((b.n_atoms, 3)), a, b, align=False)


def test_bond_types_and_charges_count_only_when_given():
    chain = [(0, 1), (1, 2), (2, 3)]
    kekule = [Molecule([6] * 4, chain, bond_types=types) for types in ([1, 2, 1], [2, 1, 2])]
    with pytest.raises(NotIsomorphicError, match="of type"):
        rmsd(X4, X4, *kekule, align=False)
    assert Molecule([6] * 4, chain, bond_types=[2, 1, 1]).n_automorphisms == 1
    carboxylate = [6, 6, 8, 8], [(0, 1), (1, 2), (1, 3)]
    assert Molecule(*carboxylate).n_automorphisms == 2
    assert Molecule(*carboxylate, charges=[0, 0, 0, -1]).n_automorphisms == 1


def test_symbols_and_numpy_arrays_are_accepted():
    assert Molecule(["C", "H", "H"], np.array([[0, 1], [0, 2]])).n_automorphisms == 2
    assert Molecule(np.array([6, 1, 1], dtype=np.int8), ((0, 1), (0, 2))).n_automorphisms == 2
    assert Molecule([1, 1], np.zeros((0, 2))).n_automorphisms == 2


def test_order_of_bond_lines_does_not_matter():
    rng = np.random.default_rng(3)
    bonds = [(i, i ^ b) for i in range(8) for b in (1, 2, 4) if i < i ^ b]
    x, y = rng.normal(size=(2, 8, 3))
    first = Molecule([6] * 8, bonds)
    for _ in range(5):
        shuffled = [tuple(rng.permutation(bond)) for bond in rng.permutation(bonds)]
        again = Molecule([6] * 8, [(int(i), int(j)) for i, j in shuffled])
        assert again._prepared()[0].child.tolist() == first._prepared()[0].child.tolist()
        assert rmsd(x, y, again, align=True).value == rmsd(x, y, first, align=True).value


def test_molecules_travel_between_processes():
    prepared = Molecule([8, 1, 1], [(0, 1), (0, 2)])
    assert prepared.n_automorphisms == 2
    again = pickle.loads(pickle.dumps(prepared))
    x = np.random.default_rng(0).normal(size=(2, 3, 3))
    assert rmsd(*x, again, align=True).value == rmsd(*x, prepared, align=True).value


def test_the_map_to_another_numbering_may_be_limited():
    ring = [(i, (i + 1) % 12) for i in range(12)]
    a, b = Molecule([6] * 12, ring), Molecule([6] * 12, [(5 * i % 12, 5 * j % 12) for i, j in ring])
    with pytest.raises(SearchLimitError, match="no mapping between the two molecules"):
        rmsd(np.zeros((12, 3)), np.zeros((12, 3)), a, b, align=True, node_limit=0)
