"""Vibrations against formulas and published wavenumbers, and the two programs against each other."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from qcelemental import periodictable
from qcelemental.models.v2 import AtomicResult

from sddfkit.qc import InputError, Level, atomic_input, compute, extract, property_named
from sddfkit.qc.harnesses import HARNESSES
from sddfkit.qc.hessian import by_differences, vibrations
from sddfkit.qc.properties import with_properties
from sddfkit.units import AMU_TO_ELECTRON_MASS, BOHR_TO_ANGSTROM, HARTREE_TO_WAVENUMBER

TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
HF = {
    "pyscf": {"density_fit": False, "conv_tol_grad": 1e-6},
    "psi4": {"scf_type": "pk", "e_convergence": 1e-9, "d_convergence": 1e-8},
}
NAMES = ["frequencies", "zpe"]


def bonds_stretched(positions: np.ndarray, bonds: dict[tuple[int, int], tuple[float, float]]) -> np.ndarray:
    """Gradient (n, 3) of springs: pair of atoms to constant (hartree/bohr²) and length (bohr)."""
    gradient = np.zeros_like(positions)
    for (i, j), (constant, length) in bonds.items():
        vector = positions[i] - positions[j]
        distance = np.linalg.norm(vector)
        slope = constant * (distance - length) * vector / distance
        gradient[i] += slope
        gradient[j] -= slope
    return gradient


def water(r: float = 0.9894, angle: float = 100.03) -> tuple[list[int], np.ndarray]:
    """Å and degrees."""
    half = np.radians(angle / 2)
    hydrogens = [[sign * r * np.sin(half), 0.0, r * np.cos(half)] for sign in (1, -1)]
    return [8, 1, 1], np.array([[0.0, 0.0, 0.0], *hydrogens])


def computed(program: str, level: Level, molecule: tuple[list[int], np.ndarray]) -> AtomicResult:
    if HARNESSES[program].problem():
        pytest.skip(str(HARNESSES[program].problem()))
    asked = with_properties(level, program, NAMES)
    result = compute(atomic_input(*molecule, 0, 1, asked.specification(program)))
    assert result.success, result.error
    return result


def test_differences_of_a_cubic_energy_are_exact() -> None:
    rng = np.random.default_rng(1)
    third = rng.normal(size=(6, 6, 6))
    third = sum(third.transpose(order) for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2), (2, 1, 0)))
    at = rng.normal(size=6)
    found = by_differences(lambda x: 0.5 * np.einsum("ijk,j,k->i", third, x.ravel(), x.ravel()).reshape(2, 3), at)
    np.testing.assert_allclose(found, np.einsum("ijk,k->ij", third, at), atol=1e-9)


def test_two_masses_on_a_spring() -> None:
    masses, positions = np.array([1.0, 19.0]), np.array([[0.3, 0.0, 0.0], [0.3, 1.2, 1.6]])
    hessian = by_differences(lambda x: bonds_stretched(x, {(0, 1): (0.6, 2.0)}), positions)
    found = vibrations(hessian, masses, positions)
    omega = np.sqrt(0.6 / (19.0 / 20.0 * AMU_TO_ELECTRON_MASS))
    assert found.wavenumbers == pytest.approx([omega * HARTREE_TO_WAVENUMBER], rel=1e-4)
    np.testing.assert_allclose(masses @ found.modes[0], 0.0, atol=1e-6)
    assert np.linalg.norm(found.modes[0]) == pytest.approx(1.0)


@pytest.mark.parametrize(("bend", "count"), [(0.0, 4), (0.4, 3)])
def test_a_linear_molecule_has_one_vibration_more(bend: float, count: int) -> None:
    positions = np.array([[0.0, 0.0, -2.2], [0.0, bend, 0.0], [0.0, 0.0, 2.2]])
    hessian = by_differences(lambda x: bonds_stretched(x, {(0, 1): (1.0, 2.2), (1, 2): (1.0, 2.2)}), positions)
    masses = np.array([16.0, 12.0, 16.0])
    found = vibrations(hessian, masses, positions).wavenumbers
    assert len(found) == count
    if count == 4:  # symmetric: both oxygens on the carbon that rests; antisymmetric: the carbon moves, too
        expected = np.sqrt(np.array([1 / 16, 1 / 16 + 2 / 12]) / AMU_TO_ELECTRON_MASS) * HARTREE_TO_WAVENUMBER
        np.testing.assert_allclose(found[2:], expected, rtol=1e-4)
    turned = np.kron(np.eye(3), TURN)
    again = vibrations(turned @ hessian @ turned.T, masses, positions @ TURN.T + 5.0).wavenumbers
    np.testing.assert_allclose(again, found, atol=1e-6 * found.max())


def test_an_atom_does_not_vibrate_and_a_hill_is_imaginary() -> None:
    assert vibrations(np.zeros((3, 3)), np.array([4.0]), np.ones((1, 3))).wavenumbers.shape == (0,)
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    hill = by_differences(lambda x: bonds_stretched(x, {(0, 1): (-0.5, 2.0)}), positions)
    assert vibrations(hill, np.ones(2), positions).wavenumbers[0] < -1000.0


def test_water_has_the_published_wavenumbers() -> None:
    """HF/STO-3G at its minimum: 2170, 4140 and 4391 cm⁻¹ (NIST CCCBDB)."""
    result = computed("pyscf", Level("x", "hf", "sto-3g", HF), water())
    values = extract(result, NAMES)
    np.testing.assert_allclose(values["frequencies"], [2170.0, 4140.0, 4391.0], atol=4.0)
    assert values["zpe"] == pytest.approx(np.sum(values["frequencies"]) / 2 / 8065.54, rel=1e-5)
    assert property_named("frequencies").remark(json.loads(result.model_dump_json())) is None


def test_two_programs_give_the_same() -> None:
    """Analytical in the one, differences in the other."""
    level, molecule = Level("x", "hf", "sto-3g", HF), ([9, 1], np.array([[0.1, 0.2, 0.3], [0.1, 0.9, 0.9]]))
    pyscf, psi4 = (extract(computed(program, level, molecule), NAMES) for program in ("pyscf", "psi4"))
    np.testing.assert_allclose(psi4["frequencies"], pyscf["frequencies"], atol=0.5)


@pytest.mark.long
def test_two_programs_give_the_same_water(levels: Callable[[str], Level]) -> None:
    pyscf, psi4 = (
        extract(computed(program, levels("wb97x_631gd"), water(0.96, 104.5)), NAMES) for program in ("pyscf", "psi4")
    )
    np.testing.assert_allclose(psi4["frequencies"], pyscf["frequencies"], atol=4.0)
    np.testing.assert_allclose(pyscf["frequencies"], [1700.0, 3900.0, 4030.0], atol=60.0)


def test_dispersion_is_part_of_the_hessian() -> None:
    """Against differences of whole gradients: two neon atoms near their distance in the dimer."""
    level = Level("x", "wb97x-d", "sto-3g", {"pyscf": {"density_fit": False, "conv_tol_grad": 1e-7}})
    numbers, positions = [2, 2], np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.4]])
    asked = with_properties(level, "pyscf", NAMES).specification("pyscf")
    result = compute(atomic_input(numbers, positions, 0, 1, asked))
    assert result.success, result.error

    def gradient(bohr: np.ndarray) -> np.ndarray:
        moved = compute(atomic_input(numbers, bohr * BOHR_TO_ANGSTROM, 0, 1, level.specification("pyscf")))
        return np.asarray(moved.properties.return_gradient)

    step, along = 0.02, np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    bohr = positions / BOHR_TO_ANGSTROM
    slope = (gradient(bohr + step * along) - gradient(bohr - step * along))[1, 2] / (2 * step)
    expected = np.sqrt(abs(slope) / (periodictable.to_mass("He") / 2 * AMU_TO_ELECTRON_MASS)) * HARTREE_TO_WAVENUMBER
    found = extract(result, ["frequencies"])["frequencies"]
    assert found == pytest.approx([np.sign(slope) * expected], abs=1.0)


def test_gfn2_says_that_the_geometry_is_not_stationary(levels: Callable[[str], Level]) -> None:
    result = computed("tblite", levels("gfn2"), water(1.02, 104.5))
    remark = property_named("frequencies").remark(json.loads(result.model_dump_json()))
    assert remark is not None and remark.startswith("harmonic at a geometry that is not stationary, with forces of up")
    assert np.all(extract(result, NAMES)["frequencies"] > 1000.0)


@pytest.mark.parametrize("program", ["psi4", "pyscf", "tblite"])
def test_the_hessian_is_part_of_the_identity_and_yes_is_no_truth_value(
    levels: Callable[[str], Level], program: str
) -> None:
    level = levels("gfn2" if program == "tblite" else "hf_631gd")
    asked = with_properties(level, program, ["zpe"])
    assert asked.programs[program] == {**level.programs[program], "hessian": True}
    wrong = Level("x", level.method, level.basis, {program: {**level.programs[program], "hessian": "yes"}})
    with pytest.raises(InputError, match="hessian is 'yes', expected true or false"):
        atomic_input(*water(), 0, 1, wrong.specification(program))
