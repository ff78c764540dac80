"""Basis functions against PySCF's own values, and the matrices of two programs against each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyscf import dft, gto
from scipy.integrate import lebedev_rule

from sddfkit.qc import Level, atomic_input, compute, extract
from sddfkit.qc.harnesses import HARNESSES
from sddfkit.qc.harnesses.pyscf import _basis
from sddfkit.qc.orbitals import Basis, BasisError, pack, solid_harmonics, unpack
from sddfkit.qc.properties import with_properties
from sddfkit.units import HARTREE_TO_EV

MATRICES = ["ao_basis", "overlap", "density", "fock"]
WATER = ([8, 1, 1], np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.96], [0.93, 0.0, -0.24]]))
HYDROXYL = ([8, 1], np.array([[0.1, 0.2, 0.0], [0.5, 0.4, 0.86]]))
ETHANOL = (
    [6, 6, 8, 1, 1, 1, 1, 1, 1],
    np.array(
        [
            [1.168, -0.389, 0.02],
            [0.0, 0.554, 0.0],
            [-1.193, -0.216, -0.03],
            [2.116, 0.157, 0.0],
            [1.132, -1.023, 0.89],
            [1.132, -1.023, -0.89],
            [0.044, 1.201, 0.888],
            [0.044, 1.201, -0.888],
            [-1.932, 0.394, 0.02],
        ]
    ),
)
EXACT: dict[str, dict[str, Any]] = {
    "pyscf": {"density_fit": False, "conv_tol_grad": 1e-6},
    "psi4": {"scf_type": "pk", "e_convergence": 1e-9, "d_convergence": 1e-8},
}


def computed(program: str, level: Level, molecule: tuple[list[int], np.ndarray], multiplicity: int = 1) -> dict:
    if HARNESSES[program].problem():
        pytest.skip(str(HARNESSES[program].problem()))
    specification = with_properties(level, program, MATRICES).specification(program, "energy")
    result = compute(atomic_input(*molecule, 0, multiplicity, specification))
    assert result.success, result.error
    return extract(result, MATRICES)


def basis_of(values: dict) -> Basis:
    return Basis.from_document(json.loads(values["ao_basis"]))


def test_solid_harmonics_are_orthogonal_and_have_racahs_norm() -> None:
    directions, weights = lebedev_rule(15)
    found = solid_harmonics(5, directions.T)
    labels = sorted(found)
    assert labels == [(degree, m) for degree in range(6) for m in range(-degree, degree + 1)]
    values = np.array([found[label] for label in labels])
    expected = np.diag([4 * np.pi / (2 * degree + 1) for degree, _ in labels])
    np.testing.assert_allclose(np.einsum("ip,jp,p->ij", values, values, weights), expected, atol=1e-12)
    x, y, z = directions
    np.testing.assert_allclose(found[2, -1], np.sqrt(3) * y * z, atol=1e-12)
    np.testing.assert_allclose(found[2, 2], np.sqrt(3) / 2 * (x**2 - y**2), atol=1e-12)


@pytest.mark.parametrize(("name", "cartesian"), [("cc-pvtz", True), ("cc-pvtz", False), ("6-31g(d)", True)])
def test_functions_have_the_values_that_pyscf_gives(name: str, cartesian: bool) -> None:
    mol = gto.M(atom="O 0 0 0; H 0 0.2 0.96; S 1.5 0 -0.24", basis=name, cart=cartesian, spin=None, verbose=0)
    points = np.random.default_rng(1).normal(scale=2.0, size=(300, 3))
    basis = _basis(mol)
    assert len(basis) == mol.nao
    np.testing.assert_array_equal(basis.atoms, [label[0] for label in mol.ao_labels(fmt=None)])
    np.testing.assert_allclose(
        basis.values(mol.atom_coords(), points), dft.numint.eval_ao(mol, points), atol=1e-9, rtol=0
    )
    again = Basis.from_document(json.loads(json.dumps(basis.document())))
    np.testing.assert_array_equal(again.to(basis).source, np.arange(mol.nao))
    np.testing.assert_allclose(again.to(basis).factor, 1.0)


def test_a_density_is_a_sum_of_products_of_functions() -> None:
    mol = gto.M(atom="O 0 0 0; H 0 0.2 0.96; H 30 0 0", basis="6-31g(d)", cart=True, verbose=0)
    matrix = np.random.default_rng(2).normal(size=(mol.nao, mol.nao))
    points = np.random.default_rng(3).normal(size=(50, 3))
    values = dft.numint.eval_ao(mol, points)
    found = _basis(mol).density(matrix + matrix.T, mol.atom_coords(), points)
    np.testing.assert_allclose(found, np.einsum("pi,ij,pj->p", values, matrix + matrix.T, values), atol=1e-7)


def test_what_is_packed_comes_back() -> None:
    matrix = np.random.default_rng(4).normal(size=(2, 3, 3))
    np.testing.assert_array_equal(unpack(json.loads(json.dumps(pack(matrix)))), matrix)


def agree(level: Level, molecule: tuple[list[int], np.ndarray], *, density: float, fock: float, spin: int = 1) -> None:
    psi4, pyscf = (computed(program, level, molecule, spin) for program in ("psi4", "pyscf"))
    change = basis_of(psi4).to(basis_of(pyscf))
    assert not np.array_equal(change.source, np.arange(len(change.source))), "the programs' orders differ"
    np.testing.assert_allclose(change.operator(psi4["overlap"]), pyscf["overlap"], atol=1e-8)
    np.testing.assert_allclose(change.density(psi4["density"]), pyscf["density"], atol=density)
    np.testing.assert_allclose(change.operator(psi4["fock"]), pyscf["fock"], atol=fock * HARTREE_TO_EV)
    back = basis_of(pyscf).to(basis_of(psi4))
    np.testing.assert_allclose(back.density(change.density(psi4["density"])), psi4["density"], atol=1e-12)


def test_spherical_functions_of_two_programs() -> None:
    agree(Level("x", "hf", "cc-pvdz", EXACT), WATER, density=1e-5, fock=1e-5)


def test_cartesian_functions_of_two_programs_and_each_spin() -> None:
    cartesian = {"pyscf": {**EXACT["pyscf"], "cartesian": True}, "psi4": {**EXACT["psi4"], "puream": False}}
    level = Level("x", "hf", "6-31g(d)", cartesian)
    # Which of two p orbitals holds the odd electron of OH is chance; overlap and electrons are not.
    psi4, pyscf = (computed(program, level, HYDROXYL, 2) for program in ("psi4", "pyscf"))
    change = basis_of(psi4).to(basis_of(pyscf))
    np.testing.assert_allclose(change.operator(psi4["overlap"]), pyscf["overlap"], atol=1e-8)
    for values in (psi4, pyscf):
        electrons = np.einsum("sij,ji->s", values["density"], values["overlap"])
        np.testing.assert_allclose(electrons, [5.0, 4.0], atol=1e-8)
        assert values["fock"].shape == values["density"].shape == (2, 17, 17)


@pytest.mark.long
@pytest.mark.parametrize("molecule", [WATER, ETHANOL], ids=["water", "ethanol"])
def test_two_programs_at_the_level_of_the_data_sets(
    levels: Callable[[str], Level], molecule: tuple[list[int], np.ndarray]
) -> None:
    agree(levels("wb97x_631gd"), molecule, density=2e-3, fock=3e-4)


def test_other_basis_sets_are_told_apart() -> None:
    one, other = (_basis(gto.M(atom="O 0 0 0", basis=name, verbose=0)) for name in ("6-31g", "def2-svp"))
    with pytest.raises(BasisError, match="the one basis has 9 functions, the other 14"):
        one.to(other)
    moved = Basis(tuple(shell._replace(exponents=shell.exponents * 1.01) for shell in one.shells))
    with pytest.raises(BasisError, match="atom 0 has a shell with l = 0 and the exponents"):
        one.to(moved)
    with pytest.raises(BasisError, match="holds no basis"):
        Basis.from_document({"atoms": []})
