"""Real calculations: programs against each other, against finite differences, and their failures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qcelemental.models.v2 import AtomicInput, AtomicResult

from sddfkit.qc import compute, extract
from sddfkit.units import BOHR_TO_ANGSTROM


@pytest.mark.parametrize("molecule", ["water", "ammonia", "methanol", "hydroxide", "methyl"])
def test_psi4_and_pyscf_agree(calculated: Callable[[str, str], AtomicResult], molecule: str) -> None:
    psi4, pyscf = calculated("psi4", molecule).properties, calculated("pyscf", molecule).properties
    assert psi4.calcinfo_nbasis == pyscf.calcinfo_nbasis
    assert (psi4.calcinfo_nalpha, psi4.calcinfo_nbeta) == (pyscf.calcinfo_nalpha, pyscf.calcinfo_nbeta)
    assert psi4.nuclear_repulsion_energy == pytest.approx(pyscf.nuclear_repulsion_energy, abs=1e-8)
    assert psi4.return_energy == pytest.approx(pyscf.return_energy, abs=1e-4)
    np.testing.assert_allclose(psi4.return_gradient, pyscf.return_gradient, atol=5e-4)
    np.testing.assert_allclose(psi4.scf_dipole_moment, pyscf.scf_dipole_moment, atol=2e-4)


def test_water_energy_is_the_known_one(calculated: Callable[[str, str], AtomicResult]) -> None:
    """Exact integrals give -76.388227 hartree in both programs; fitting costs at most 40 µEh."""
    for program in ("pyscf", "psi4"):
        assert calculated(program, "water").properties.return_energy == pytest.approx(-76.388227, abs=5e-5)


@pytest.mark.parametrize(("program", "step_bohr", "tolerance"), [("pyscf", 0.005, 5e-5), ("tblite", 0.001, 2e-6)])
def test_forces_are_the_slope_of_the_energy(
    calculated: Callable[[str, str], AtomicResult],
    make_input: Callable[..., AtomicInput],
    molecules: Any,
    program: str,
    step_bohr: float,
    tolerance: float,
) -> None:
    water = molecules["water"]
    energies = []
    for sign in (1, -1):
        positions = water.positions.copy()
        positions[1, 2] += sign * step_bohr * BOHR_TO_ANGSTROM
        result = compute(make_input(program, water._replace(positions=positions), driver="energy"))
        energies.append(result.properties.return_energy)
    slope = (energies[0] - energies[1]) / (2 * step_bohr)
    assert calculated(program, "water").properties.return_gradient[1, 2] == pytest.approx(slope, abs=tolerance)


def test_d_functions_are_cartesian(
    calculated: Callable[[str, str], AtomicResult], make_input: Callable[..., AtomicInput], molecules: Any
) -> None:
    cartesian = calculated("pyscf", "water").properties
    spherical = compute(make_input("pyscf", molecules["water"], driver="energy", cartesian=False)).properties
    assert (cartesian.calcinfo_nbasis, spherical.calcinfo_nbasis) == (19, 18)
    assert spherical.return_energy - cartesian.return_energy == pytest.approx(1.7e-3, abs=3e-4)


def test_density_fitting_can_be_turned_off(
    calculated: Callable[[str, str], AtomicResult], make_input: Callable[..., AtomicInput], molecules: Any
) -> None:
    exact = compute(
        make_input("pyscf", molecules["water"], driver="energy", density_fit=False)
    ).properties.return_energy
    assert 0 < abs(exact - calculated("pyscf", "water").properties.return_energy) < 1e-4
    assert exact == pytest.approx(-76.388227, abs=2e-6)


@pytest.mark.parametrize("program", ["tblite", "pyscf", "psi4"])
def test_an_ions_dipole_is_about_the_origin(calculated: Callable[[str, str], AtomicResult], program: str) -> None:
    """Hydroxide sits at (1, 0, 3 … 4) Å: its dipole there is about q times that place."""
    dipole = extract(calculated(program, "hydroxide"), ["dipole"])["dipole"]
    np.testing.assert_allclose(dipole, [-1.0, 0.0, -3.0], atol=0.5)
    assert dipole[0] == pytest.approx(-1.0, abs=1e-3)


def test_tblite_moves_with_the_molecule(make_input: Callable[..., AtomicInput], molecules: Any) -> None:
    water = molecules["water"]
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    there = extract(compute(make_input("tblite", water)))
    turned = extract(compute(make_input("tblite", water._replace(positions=water.positions @ turn.T + 4.0))))
    assert turned["energy"] == pytest.approx(there["energy"], abs=1e-6)
    np.testing.assert_allclose(turned["forces"], there["forces"] @ turn.T, atol=1e-5)
    np.testing.assert_allclose(turned["dipole"], there["dipole"] @ turn.T, atol=1e-5)


def test_tblite_counts_unpaired_electrons(make_input: Callable[..., AtomicInput], molecules: Any) -> None:
    water = molecules["water"]
    energies = {
        m: compute(make_input("tblite", water._replace(multiplicity=m), driver="energy")).return_result for m in (1, 3)
    }
    assert energies[3] - energies[1] > 0.1


@pytest.mark.parametrize(
    ("program", "keywords", "error_type", "sentence"),
    [
        ("pyscf", {"max_cycle": 2}, "convergence", "did not converge in 2 cycles"),
        ("tblite", {"max_iterations": 1}, "convergence", "did not converge"),
    ],
)
def test_failures_are_values(
    make_input: Callable[..., AtomicInput],
    molecules: Any,
    program: str,
    keywords: dict[str, Any],
    error_type: str,
    sentence: str,
) -> None:
    job = make_input(program, molecules["water"], **keywords)
    failure = compute(job)
    assert not failure.success
    assert failure.error.error_type == error_type
    assert sentence in failure.error.error_message
    assert failure.input_data.molecule == job.molecule


def test_a_hard_scf_can_be_helped(make_input: Callable[..., AtomicInput], molecules: Any) -> None:
    water = molecules["water"]
    plain = compute(make_input("pyscf", water, driver="energy")).return_result
    for help_ in ({"second_order": True}, {"level_shift": 0.2, "damping": 0.3}):
        assert compute(make_input("pyscf", water, driver="energy", **help_)).return_result == pytest.approx(
            plain, abs=1e-7
        )


def test_an_unknown_program_is_an_input_error(make_input: Callable[..., AtomicInput], molecules: Any) -> None:
    job = make_input("tblite", molecules["water"])
    specification = job.specification.model_copy(update={"program": "nonsense"})
    failure = compute(job.model_copy(update={"specification": specification}))
    assert failure.error.error_type == "input"
    assert "nonsense" in failure.error.error_message


def test_importing_loads_no_program_and_nothing_heavy() -> None:
    unwanted = ["torch", "rdkit", "sqlalchemy", "ipyparallel", "hydra", "pyscf", "tblite", "psi4"]
    script = (
        "import sys, sddfkit.qc, sddfkit.qc.supervisor, sddfkit.qc.worker, sddfkit.qc.harnesses\n"
        f"print(sorted(set({unwanted}) & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
