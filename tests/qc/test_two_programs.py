"""Two programs, one answer: Psi4 and PySCF, which share no line of code, check each other.

With exact integrals (``level=wb97x_631gd_exact``) the same number comes out of both; with density fitting
(``level=wb97x_631gd``) the same conformer energies. Geometries are ETKDG's as they are: strained, in no special frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from qcelemental.models.v2 import AtomicResult
from rdkit import Chem
from rdkit.Chem import AllChem
from threadpoolctl import threadpool_limits

from sddfkit.qc import Level, atomic_input, compute
from sddfkit.units import EV_TO_KCAL_MOL, HARTREE_TO_EV

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("needs_psi4")]

ENERGY_PER_HEAVY_ATOM = 3e-6  # hartree
GRADIENT = 1e-4  # hartree/bohr
CONFORMER_ENERGY = 0.1  # kcal/mol

MOLECULES = {
    "carbon monoxide": "[C-]#[O+]",
    "hydrogen cyanide": "C#N",
    "cyanide, an anion": "[C-]#N",
    "fluoroxyl, a radical": "[O]F",
    "chlorine fluoride": "FCl",
    "hypochlorous acid": "OCl",
    "sulfur dioxide": "O=S=O",
    "cyanogen": "N#CC#N",
    "sulfuryl fluoride": "O=S(=O)(F)F",
    "dicyanoacetylene": "N#CC#CC#N",
}
"""All seven elements, two to six heavy atoms, few hydrogens; S(IV) and S(VI) ask most of the quadrature."""

AS_SHIPPED = {"hf_631gd": 1e-6, "b3lyp_631gd": 5e-6, "wb97xd_def2svp": 2.5e-4}
"""Level to what its programs may differ by in water and methane (hartree); fits of long-range exchange differ most."""

FLEXIBLE = {
    "hydroxylamine": "NO",
    "formic acid": "OC=O",
    "chloromethanol": "OCCl",
    "methyl hydrogen disulfide": "CSS",
}


LARGER = {"sulfur dioxide", "cyanogen", "sulfuryl fluoride", "dicyanoacetylene"}


def some_long(names: Iterable[str], long: Collection[str]) -> list[Any]:
    """Return the names, some of them for the long tests alone."""
    return [pytest.param(name, marks=[pytest.mark.long] if name in long else []) for name in names]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Keep NumPy to the one thread that both programs are given; a second one costs time here and gains none."""
    with threadpool_limits(1):
        yield


def embedded(smiles: str, n_conformers: int) -> tuple[Chem.Mol, list[np.ndarray]]:
    """Hydrogens added, and ETKDG positions (n, 3) in Å."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    ids = AllChem.EmbedMultipleConfs(mol, n_conformers, randomSeed=7)
    return mol, [mol.GetConformer(i).GetPositions() for i in ids]


def computed(level: Level, program: str, mol: Chem.Mol, positions: np.ndarray, driver: str) -> AtomicResult:
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    multiplicity = 1 + sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    specification = level.specification(program, driver)  # type: ignore[arg-type]
    result = compute(atomic_input(numbers, positions, Chem.GetFormalCharge(mol), multiplicity, specification))
    assert result.success, result.error
    return result


def test_the_molecules_are_as_they_are_said_to_be() -> None:
    mols = [Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles in MOLECULES.values()]
    assert {atom.GetSymbol() for mol in mols for atom in mol.GetAtoms()} == {"H", "C", "N", "O", "F", "S", "Cl"}
    assert {mol.GetNumHeavyAtoms() for mol in mols} == {2, 3, 4, 5, 6}
    assert len(mols) == 10


@pytest.mark.parametrize("name", some_long(MOLECULES, LARGER))
def test_exact_integrals_give_the_same_number(levels: Callable[[str], Level], name: str) -> None:
    level = levels("wb97x_631gd_exact")
    mol, (positions,) = embedded(MOLECULES[name], 1)
    psi4, pyscf = (computed(level, program, mol, positions, "gradient").properties for program in ("psi4", "pyscf"))
    assert psi4.calcinfo_nbasis == pyscf.calcinfo_nbasis
    difference = abs(psi4.return_energy - pyscf.return_energy) / mol.GetNumHeavyAtoms()
    assert difference <= ENERGY_PER_HEAVY_ATOM, f"{difference * 1e6:.2f} µEh per heavy atom"
    assert np.abs(psi4.return_gradient - pyscf.return_gradient).max() <= GRADIENT


@pytest.mark.parametrize("name", some_long(FLEXIBLE, {"chloromethanol", "methyl hydrogen disulfide"}))
def test_density_fitting_gives_the_same_conformer_energies(levels: Callable[[str], Level], name: str) -> None:
    level = levels("wb97x_631gd")
    mol, conformers = embedded(FLEXIBLE[name], 2)
    run = functools.partial(computed, level, mol=mol, driver="energy")
    energies = {
        program: np.array([run(program, positions=x).properties.return_energy for x in conformers])
        for program in ("psi4", "pyscf")
    }
    relative = {program: (e - e[0]) * HARTREE_TO_EV * EV_TO_KCAL_MOL for program, e in energies.items()}
    assert np.ptp(relative["psi4"]) > 5 * CONFORMER_ENERGY, "conformers as alike as this could not tell"
    np.testing.assert_allclose(relative["psi4"], relative["pyscf"], atol=CONFORMER_ENERGY, rtol=0)


@pytest.mark.parametrize("smiles", ["O", "C"])
@pytest.mark.parametrize("name", AS_SHIPPED)
def test_the_shipped_levels_mean_the_same(levels: Callable[[str], Level], name: str, smiles: str) -> None:
    mol, (positions,) = embedded(smiles, 1)
    psi4, pyscf = (
        computed(levels(name), program, mol, positions, "gradient").properties for program in levels(name).programs
    )
    assert psi4.calcinfo_nbasis == pyscf.calcinfo_nbasis
    assert psi4.return_energy == pytest.approx(pyscf.return_energy, abs=AS_SHIPPED[name], rel=0)
    assert np.abs(psi4.return_gradient - pyscf.return_gradient).max() <= GRADIENT


@pytest.mark.parametrize("smiles", ["O", "C"])
def test_dispersion_and_functional_of_wb97xd_are_the_same(levels: Callable[[str], Level], smiles: str) -> None:
    """With exact integrals on one grid nothing is left of the difference."""
    level, exact = levels("wb97xd_def2svp"), levels("wb97x_631gd_exact").programs
    grid = {"psi4": {"dft_radial_points": 75, "dft_spherical_points": 302}, "pyscf": {"atom_grid": [75, 302]}}
    spherical = {"psi4": {"puream": True}, "pyscf": {"cartesian": False}}
    programs = {program: exact[program] | grid[program] | spherical[program] for program in exact}
    alike = Level(level.name, level.method, level.basis, programs)
    mol, (positions,) = embedded(smiles, 1)
    energies = [computed(alike, program, mol, positions, "energy").properties.return_energy for program in programs]
    assert abs(energies[0] - energies[1]) <= ENERGY_PER_HEAVY_ATOM
