"""RESP: the fit against what must come out, and the charges against published ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sddfkit.qc import InputError, Level, atomic_input, compute, extract
from sddfkit.qc.properties import with_properties
from sddfkit.qc.resp import (
    FIRST_STRENGTH,
    SHELLS,
    FitError,
    equivalence_classes,
    fit_charges,
    merz_kollman_grid,
    resp_charges,
)
from sddfkit.units import BOHR_TO_ANGSTROM

METHANOL = (
    [8, 1, 6, 1, 1, 1],
    np.array(
        [
            [0.041233, -0.764405, 0.0],
            [-0.854932, -1.064258, 0.0],
            [0.041233, 0.660595, 0.0],
            [1.087431, 0.980449, 0.0],
            [-0.404883, 1.117741, 0.888163],
            [-0.404883, 1.117741, -0.888163],
        ]
    ),
)
METHANOL_BONDS = [[0, 1], [0, 2], [2, 3], [2, 4], [2, 5]]
ACETIC_ACID = (
    [6, 1, 1, 1, 6, 8, 1, 8],
    np.array(
        [
            [1.45051389, -0.06628932, 0.0],
            [1.75521613, -0.62865986, -0.87500146],
            [1.75521613, -0.62865986, 0.87500146],
            [1.92173244, 0.90485897, 0.0],
            [-0.04233122, 0.09849378, 0.0],
            [-0.67064817, -1.07620915, 0.0],
            [-1.60837259, -0.91016601, 0.0],
            [-0.62675864, 1.13160510, 0.0],
        ]
    ),
)
WATER = ([8, 1, 1], np.array([[0.0, 0.0, 0.0], [0.756950, 0.0, 0.585882], [-0.756950, 0.0, 0.585882]]))
"""0.9572 Å and 104.52°, as in TIP3P."""

CHEAP = {
    "pyscf": {"density_fit": False, "cartesian": False},
    "psi4": {"scf_type": "pk", "puream": True, "e_convergence": 1e-8, "d_convergence": 1e-8},
}
TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]


def potential(charges: np.ndarray, positions_bohr: np.ndarray, points_bohr: np.ndarray) -> np.ndarray:
    return (charges / np.linalg.norm(points_bohr[:, None] - positions_bohr[None, :], axis=-1)).sum(axis=1)


def computed(program: str, molecule: tuple[list[int], np.ndarray], charge: int = 0) -> np.ndarray:
    """Charges by way of a calculation at another, cheaper level."""
    level = with_properties(Level("x", "hf", "sto-3g", CHEAP), program, ["resp"])
    result = compute(atomic_input(*molecule, charge, 1, level.specification(program, "energy")))  # type: ignore[arg-type]
    assert result.success, result.error
    return extract(result, ["resp"])["resp"]  # type: ignore[return-value]


@pytest.fixture
def methanol_grid() -> tuple[np.ndarray, np.ndarray]:
    """Positions and grid in bohr."""
    positions = METHANOL[1] / BOHR_TO_ANGSTROM
    return positions, merz_kollman_grid(METHANOL[0], positions)


def test_the_grid_lies_on_its_shells_and_has_its_density() -> None:
    single = merz_kollman_grid([8], np.zeros((1, 3))) * BOHR_TO_ANGSTROM
    radii, counts = np.unique(np.linalg.norm(single, axis=1).round(9), return_counts=True)
    np.testing.assert_allclose(radii, 1.40 * np.array(SHELLS))
    np.testing.assert_allclose(counts / (4 * np.pi * radii**2), 0.9, atol=0.12)
    points = merz_kollman_grid(METHANOL[0], METHANOL[1] / BOHR_TO_ANGSTROM) * BOHR_TO_ANGSTROM
    radius = np.array([1.40, 1.20, 1.50, 1.20, 1.20, 1.20])
    relative = (np.linalg.norm(points[:, None] - METHANOL[1][None, :], axis=-1) / radius).min(axis=1)
    assert set(relative.round(6)) == set(SHELLS)
    assert len(points) > 300


def test_charges_come_back_from_their_own_potential(methanol_grid: tuple[np.ndarray, np.ndarray]) -> None:
    positions, grid = methanol_grid
    charges = np.array([-0.7, 0.4, 0.2, 0.05, 0.02, 0.03])
    found = fit_charges(positions, charges.sum(), grid, potential(charges, positions, grid))
    np.testing.assert_allclose(found, charges, atol=1e-9)


def test_the_restraint_draws_towards_zero_and_the_solution_is_stationary(
    methanol_grid: tuple[np.ndarray, np.ndarray],
) -> None:
    positions, grid = methanol_grid
    charges = np.array([-0.7, 0.4, 0.2, 0.05, 0.02, 0.03])
    values = potential(charges, positions, grid) + np.random.default_rng(2).normal(scale=1e-3, size=len(grid))
    strengths = np.where(np.array(METHANOL[0]) == 1, 0.0, 0.01)
    found = fit_charges(positions, 0.0, grid, values, strengths=strengths)
    assert np.abs(found[[0, 2]]).sum() < np.abs(charges[[0, 2]]).sum()

    def penalty(q: np.ndarray) -> float:
        misfit = np.sum((values - potential(q, positions, grid)) ** 2)
        return float(misfit + 2 * np.sum(strengths * (np.sqrt(q**2 + 0.1**2) - 0.1)))

    rng = np.random.default_rng(6)
    for _ in range(20):
        step = rng.normal(size=6)
        assert penalty(found) < penalty(found + 1e-4 * (step - step.mean()))


def test_constraints_hold_exactly(methanol_grid: tuple[np.ndarray, np.ndarray]) -> None:
    positions, grid = methanol_grid
    values = np.random.default_rng(8).normal(scale=0.02, size=len(grid))
    for charge in (-1.0, 0.0, 2.0):
        found = resp_charges(METHANOL[0], positions, METHANOL_BONDS, charge, grid, values)
        assert found.sum() == pytest.approx(charge, abs=1e-10)
        assert np.ptp(found[3:]) < 1e-10
    fixed = np.array([-0.6, 0.4, *[np.nan] * 4])
    found = fit_charges(positions, 0.0, grid, values, strengths=FIRST_STRENGTH, classes=[0, 1, 2, 3, 3, 3], fixed=fixed)
    np.testing.assert_array_equal(found[:2], [-0.6, 0.4])
    assert found.sum() == pytest.approx(0.0, abs=1e-10)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(FitError, match="1 grid points do not determine the charges of 2 atoms"):
        fit_charges([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]], 0.0, [[5.0, 0.0, 0.0]], [0.1])


@pytest.mark.parametrize(
    ("smiles", "bonds", "numbers", "expected"),
    [
        ("methanol", METHANOL_BONDS, METHANOL[0], [[3, 4, 5]]),
        ("acetate", [[0, 1], [1, 2], [1, 3], [0, 4], [0, 5], [0, 6]], [6, 6, 8, 8, 1, 1, 1], [[2, 3], [4, 5, 6]]),
        ("butane's carbons", [[0, 1], [1, 2], [2, 3]], [6, 6, 6, 6], [[0, 3], [1, 2]]),
    ],
)
def test_equivalent_atoms(smiles: str, bonds: list, numbers: list[int], expected: list[list[int]]) -> None:
    classes = equivalence_classes(numbers, bonds)
    groups = [np.flatnonzero(classes == label).tolist() for label in np.unique(classes)]
    assert sorted(group for group in groups if len(group) > 1) == expected


def test_methanol_has_the_charges_of_the_paper() -> None:
    """Bayly et al. (1993); geometry and charges as psiresp's tests give them (test_methanol_1993_paper).

    The charge of the carbon, under three hydrogens, moves by some 0.01 e with the points of the grid.
    """
    charges = computed("pyscf", METHANOL)
    np.testing.assert_allclose(charges[:2], [-0.6498, 0.4215], atol=3e-3)
    np.testing.assert_allclose(charges[2:], [0.1166, 0.0372, 0.0372, 0.0372], atol=6e-3)


def test_acetic_acid_has_the_charges_of_red() -> None:
    """R.E.D.-III.5 with GAMESS, as the tests of Psi4's plug-in resp give them (cdsgroup/resp, test_resp_1), and to the
    tolerance to which that is held.
    """
    expected = [-0.290893, 0.098314, 0.098314, 0.098314, 0.803999, -0.661279, 0.453270, -0.600039]
    np.testing.assert_allclose(computed("pyscf", ACETIC_ACID), expected, atol=5e-4)


def test_two_programs_give_the_same(needs_psi4: None) -> None:
    for molecule in (WATER, METHANOL):
        np.testing.assert_allclose(computed("psi4", molecule), computed("pyscf", molecule), atol=1e-4)


def test_water_has_its_dipole() -> None:
    """About -0.8 and 0.4 e, which must give the Hartree-Fock dipole that they were fitted to, or nearly."""
    level = with_properties(Level("x", "hf", "6-31g(d)", CHEAP), "pyscf", ["resp"])
    keywords = {**level.programs["pyscf"], "cartesian": True}
    level = Level("x", "hf", "6-31g(d)", {"pyscf": keywords})
    values = extract(compute(atomic_input(*WATER, 0, 1, level.specification("pyscf", "energy"))), ["resp", "dipole"])  # type: ignore[arg-type]
    np.testing.assert_allclose(values["resp"], [-0.81, 0.405, 0.405], atol=0.02)
    np.testing.assert_allclose(
        values["resp"] @ WATER[1], values["dipole"], atol=0.04 * np.linalg.norm(values["dipole"])
    )


@pytest.mark.parametrize(("molecule", "noise"), [(WATER, 5e-3), (METHANOL, 6e-2)])
def test_turning_changes_them_by_the_noise_of_the_grid(molecule: tuple[list[int], np.ndarray], noise: float) -> None:
    turned = computed("pyscf", (molecule[0], molecule[1] @ TURN.T + 1.0))
    np.testing.assert_allclose(turned, computed("pyscf", molecule), atol=noise)


def test_elements_without_a_radius_are_refused_before_anything_runs() -> None:
    level = Level("x", "hf", "sto-3g", CHEAP)
    for program in CHEAP:
        specification = with_properties(level, program, ["resp"]).specification(program)
        with pytest.raises(InputError, match="there is none for Z=35"):
            atomic_input([35, 1], [[0, 0, 0], [0, 0, 1.41]], 0, 1, specification)


def test_the_potential_is_part_of_the_identity_and_of_no_other_program(levels: Callable[[str], Level]) -> None:
    level = levels("wb97x_631gd")
    asked = with_properties(level, "pyscf", ["resp", "energy"])
    assert asked.programs["pyscf"] == {**level.programs["pyscf"], "resp_potential": True}
    assert asked.programs["psi4"] == level.programs["psi4"]
