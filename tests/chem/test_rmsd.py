"""RDKit molecules compared: against RDKit and spyrmsd, and what hydrogens, deuterium and missing conformers mean."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolAlign

from flashrmsd_cy import NotIsomorphicError, RMSDError
from sddfkit.chem.rmsd import compared_atoms, conformer_rmsd_matrix, prepare, prune_by_rmsd, rmsd

SMILES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "CC(C)(C)c1ccc(cc1)C(F)(F)F",
    "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O",
    "CCS(=O)(=O)N",
]


def _embedded(smiles, n, hydrogens=True):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(mol, n, randomSeed=7)
    return mol if hydrogens else Chem.RemoveHs(mol)


@pytest.mark.parametrize("smiles", SMILES)
@pytest.mark.parametrize("align", [False, True])
def test_agrees_with_rdkit(smiles, align):
    mol = _embedded(smiles, 6, hydrogens=False)
    # RDKit reports the least over substructure matches; plain bonds make it look at the graph alone, as we do.
    plain = Chem.RWMol(mol)
    for bond in plain.GetBonds():
        bond.SetBondType(Chem.BondType.SINGLE)
        bond.SetIsAromatic(False)
    for atom in plain.GetAtoms():
        atom.SetIsAromatic(False)
        atom.SetFormalCharge(0)
    ours = conformer_rmsd_matrix(mol, align=align)
    for i in range(6):
        for j in range(i):
            probe, reference = Chem.Mol(plain, confId=i), Chem.Mol(plain, confId=j)
            theirs = (rdMolAlign.GetBestRMS if align else rdMolAlign.CalcRMS)(probe, reference)
            assert ours[i, j] == pytest.approx(theirs, abs=1e-4 if align else 1e-6)


@pytest.mark.parametrize("smiles", SMILES)
@pytest.mark.parametrize("align", [False, True])
def test_agrees_with_spyrmsd(smiles, align):
    spyrmsd = pytest.importorskip("spyrmsd.rmsd")
    mol = _embedded(smiles, 4, hydrogens=False)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    joined = Chem.GetAdjacencyMatrix(mol)
    x = [conformer.GetPositions() for conformer in mol.GetConformers()]
    theirs = spyrmsd.symmrmsd(x[0], x, numbers, numbers, joined, joined, minimize=align)
    assert conformer_rmsd_matrix(mol, align=align)[0] == pytest.approx(np.array(theirs), abs=1e-5)


def test_renumbered_molecule_is_the_same():
    mol = _embedded(SMILES[0], 1)
    order = [int(i) for i in np.random.default_rng(0).permutation(mol.GetNumAtoms())]
    again = Chem.RenumberAtoms(mol, order)
    for hydrogens in (False, True):
        result = rmsd(mol, again, align=False, hydrogens=hydrogens)
        assert result.value == 0.0 and result.status == "exact"
        ours = compared_atoms(mol, hydrogens=hydrogens)
        assert np.flatnonzero(result.mapping >= 0).tolist() == ours
        partners = [order[j] for j in result.mapping[ours]]
        assert np.allclose(mol.GetConformer().GetPositions()[ours], mol.GetConformer().GetPositions()[partners])


def test_hydrogens_count_when_asked():
    mol = _embedded("CO", 2)
    assert len(prepare(mol).compared) == 2 and len(prepare(mol, hydrogens=True).compared) == 6
    assert conformer_rmsd_matrix(mol, align=True, hydrogens=True)[0, 1] > conformer_rmsd_matrix(mol, align=True)[0, 1]


def test_deuterium_is_hydrogen():
    heavy_water = Chem.MolFromSmiles("[2H]O[2H]")
    assert compared_atoms(heavy_water) == [1]
    half = _embedded("[2H]O", 1)
    assert prepare(half, hydrogens=True).n_automorphisms == 2


def test_carboxylate_oxygens_are_alike():
    assert prepare(Chem.MolFromSmiles("CC(=O)[O-]")).n_automorphisms == 2


def test_salt_with_permuted_ions():
    mol = _embedded("[Na+].[Na+].CC(=O)[O-].CC(=O)[O-]", 1)
    order = np.random.default_rng(3).permutation(mol.GetNumAtoms())
    again = Chem.RenumberAtoms(mol, [int(i) for i in order])
    assert rmsd(mol, again, align=False).value == 0.0


def test_pruning_is_first_come_first_kept():
    mol = _embedded("CCCCCC", 12)
    matrix = conformer_rmsd_matrix(mol, align=True)
    kept = prune_by_rmsd(mol, 0.4)
    assert kept[0] == 0 and 1 < len(kept) < 12
    for number in range(12):
        earlier = [other for other in kept if other < number]
        near = any(matrix[number, other] < 0.4 for other in earlier)
        assert (number in kept) == (not near)
    backwards = prune_by_rmsd(mol, 0.4, order=list(range(11, -1, -1)))
    assert backwards[0] == 11
    assert mol.GetNumConformers() == 12


def test_pruning_speaks_of_conformer_ids():
    mol = _embedded("CCCCCC", 6)
    mol.RemoveConformer(0)
    mol.RemoveConformer(3)
    assert prune_by_rmsd(mol, 0.0) == [1, 2, 4, 5]
    with pytest.raises(RMSDError, match=r"no conformer 3; its ids are \[1, 2, 4, 5\]"):
        prune_by_rmsd(mol, 0.1, order=[1, 3])


@pytest.mark.parametrize("call", [conformer_rmsd_matrix, lambda mol, align: rmsd(mol, mol, align=align)])
def test_a_molecule_without_conformers_is_refused(call):
    with pytest.raises(RMSDError, match="molecule 'CCO' has no conformers: embed it first"):
        call(Chem.MolFromSmiles("CCO"), align=True)


def test_nothing_to_compare_is_refused():
    with pytest.raises(RMSDError, match="no heavy atoms: ask with hydrogens=True"):
        conformer_rmsd_matrix(_embedded("[H][H]", 1), align=True)


def test_unknown_conformer_and_different_molecules_are_refused():
    ethanol, ether = _embedded("CCO", 1), _embedded("COC", 1)
    with pytest.raises(RMSDError, match="no conformer 7"):
        rmsd(ethanol, ethanol, align=True, a_conformer=7)
    with pytest.raises(NotIsomorphicError):
        rmsd(ethanol, ether, align=True)
