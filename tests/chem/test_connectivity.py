import numpy as np
import pytest

from sddfkit.chem.connectivity import connectivity_faults

WATER = [[0.0, 0.0, 0.117], [0.0, 0.757, -0.467], [0.0, -0.757, -0.467]]
BONDS = [[0, 1, 0], [0, 2, 0]]


def test_an_intact_molecule_has_no_faults():
    assert connectivity_faults([8, 1, 1], WATER, BONDS) == []


def test_a_torn_bond_is_named():
    torn = np.array(WATER)
    torn[1] *= 3
    assert connectivity_faults([8, 1, 1], torn, BONDS) == [
        "bond O0–H1 is 2.73 Å long, 2.8 times the sum of covalent radii"
    ]


@pytest.mark.parametrize("kind", [4, 5])
def test_ionic_and_hydrogen_bonds_may_be_long(kind):
    assert connectivity_faults([11, 17], [[0, 0, 0], [0, 0, 4.0]], [[0, 1, kind]]) == []
    assert connectivity_faults([11, 17], [[0, 0, 0], [0, 0, 4.0]], [[0, 1, 0]]) != []


def test_a_new_bond_is_named():
    (fault,) = connectivity_faults([6, 6], [[0, 0, 0], [0, 0, 1.54]], np.zeros((0, 3), int))
    assert fault == "C0 and C1 are 1.54 Å apart, 1.0 times the sum of covalent radii, but not bonded"


def test_two_columns_will_do_and_one_atom_has_no_faults():
    assert connectivity_faults([8, 1, 1], WATER, [[1, 0], [2, 0]]) == []
    assert connectivity_faults([2], [[0, 0, 0]], []) == []
