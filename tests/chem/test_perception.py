import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from sddfkit.chem.molecules import molecule_id, molecules_from_smiles
from sddfkit.chem.perception import perceive


def shuffled(smiles, seed=1):
    """Elements, positions and identity of a molecule whose atoms stand in an order of their own."""
    mol = molecules_from_smiles(smiles, stereo="keep")[0]
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    Chem.AssignStereochemistryFrom3D(mol)
    order = np.random.default_rng(seed).permutation(mol.GetNumAtoms())
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    return numbers[order], mol.GetConformer().GetPositions()[order], molecule_id(mol)


@pytest.mark.parametrize(
    "smiles",
    [
        "CC(=O)Nc1ccccc1",
        "C[NH2+]CC(=O)[O-]",
        "O=[N+]([O-])c1ccccc1",
        "C[C@H](N)C(=O)O",
        "C/C=C/Cl",
        "CS(=O)(=O)c1ccccc1",
    ],
)
def test_a_smiles_gives_its_bonds_and_charges_in_the_order_of_the_atoms(smiles):
    numbers, positions, identity = shuffled(smiles)
    found = perceive(numbers, positions, smiles=smiles)
    assert (found.how, found.doubts) == ("SMILES", ())
    assert molecule_id(found.mol) == identity
    assert [atom.GetAtomicNum() for atom in found.mol.GetAtoms()] == numbers.tolist()
    np.testing.assert_array_equal(found.mol.GetConformer().GetPositions(), positions)


def test_without_a_smiles_the_charge_decides():
    numbers, positions, identity = shuffled("CC(=O)[O-]")
    found = perceive(numbers, positions, charge=-1)
    assert (molecule_id(found.mol), found.how, found.doubts) == (identity, "perceived", ())


def test_what_does_not_fit_is_said():
    numbers, positions, identity = shuffled("CCO")
    found = perceive(numbers, positions, smiles="COC")
    assert (molecule_id(found.mol), found.how) == (identity, "perceived")
    assert found.doubts == ("bonds: the positions do not show those of COC",)
    assert perceive(numbers, positions, smiles="CC(").doubts[0].startswith("SMILES: SMILES Parse Error")
    found = perceive(numbers, positions, smiles="CCO", charge=3)
    assert found.how == "none" and found.mol.GetNumBonds() == 0
    assert found.doubts[0] == "bonds: CCO has the charge 0, and 3 is stated"
    assert found.doubts[1].startswith("bonds: left out, RDKit finds none for the charge 3")


def test_stereo_is_that_of_the_positions():
    numbers, positions, _ = shuffled("C[C@H](N)C(=O)O")
    found = perceive(numbers, positions, smiles="C[C@@H](N)C(=O)O")
    assert molecule_id(found.mol) == "C[C@H](N)C(=O)O"
    assert found.doubts == ("stereo: the positions show C[C@H](N)C(=O)O, not C[C@@H](N)C(=O)O",)


def test_a_list_of_joined_atoms_comes_before_distances():
    numbers, positions, identity = shuffled("CCO")
    pairs = [sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in perceive(numbers, positions).mol.GetBonds()]
    far = positions * 3
    assert molecule_id(perceive(numbers, far, pairs=pairs[::-1], smiles="CCO").mol) == identity
    assert perceive(numbers, far).mol.GetNumBonds() < len(pairs)
