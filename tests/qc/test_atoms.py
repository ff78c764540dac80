"""Isolated atoms in their ground states."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sddfkit.qc import GROUND_STATE_MULTIPLICITY, InputError, Level, atom_input, compute
from sddfkit.qc.harnesses import HARNESSES


def test_the_table_is_possible_and_has_the_usual_elements() -> None:
    assert {1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53} <= set(GROUND_STATE_MULTIPLICITY)
    assert all((z - multiplicity) % 2 == 1 for z, multiplicity in GROUND_STATE_MULTIPLICITY.items())


@pytest.mark.parametrize("program", ["pyscf", "psi4"])
def test_atoms_of_organic_molecules_converge(levels: Callable[[str], Level], program: str) -> None:
    if (problem := HARNESSES[program].problem()) is not None:
        pytest.skip(problem)
    specification = levels("wb97x_631gd").specification(program)
    known = {1: -0.49932, 6: -37.83384, 9: -99.69491}  # hartree; PySCF 2.14
    for z, energy in known.items():
        result = compute(atom_input(z, specification))
        assert result.success, result.error
        assert result.return_result == pytest.approx(energy, abs=1e-4)


def test_the_ground_state_lies_below_the_other_spin(levels: Callable[[str], Level]) -> None:
    from sddfkit.qc import atomic_input

    specification = levels("wb97x_631gd").specification("pyscf", "energy")
    triplet = compute(atom_input(6, specification)).return_result
    singlet = compute(atomic_input([6], [[0, 0, 0]], 0, 1, specification)).return_result
    assert singlet - triplet > 0.03


def test_an_element_without_a_ground_state_is_named(levels: Callable[[str], Level]) -> None:
    with pytest.raises(InputError, match="no ground-state multiplicity is tabulated for Pu"):
        atom_input(94, levels("gfn2").specification("tblite"))
