"""Bond types, charges and stereo against RDKit's own matching; tables, pruning and Butina clusters of conformers."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolTransforms
from rdkit.ML.Cluster import Butina

import flashrmsd_cy
from flashrmsd_cy import NotIsomorphicError, RMSDError, SearchLimitError
from sddfkit.chem.rmsd import butina, conformer_rmsd_matrix, prepare, prune_by_rmsd, rmsd, rmsd_table, stereo_of

STEREO = [
    "C[C@H](F)Cl",
    "C[C@@H](F)Cl",
    "F[C@](Cl)(Br)I",
    "[H][C@](F)(Cl)Br",
    "C[S@](=O)CC",
    "C[C@H]1CC[C@H](C)CC1",
    "C[C@H]1CC[C@@H](C)CC1",
    "C[C@H]1CCCC[C@@H]1C",
    "C[C@H]1CCCC[C@H]1C",
    "F[C@H]1O[C@@H]1F",
    "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O",
    "O[C@H]([C@@H](O)C(=O)O)C(=O)O",
    "C/C=C/C",
    "C/C=C\\C",
    "F/C=C/C=C\\F",
    "C/C(F)=C(F)/C",
    "C/C=C/C(/C=C\\C)C[C@H](N)C",
    "CC(C)(C)c1ccc(cc1)C(F)(F)F",
]
DRUGS = {
    "imatinib": "Cc1ccc(cc1Nc1nccc(n1)-c1cccnc1)NC(=O)c1ccc(cc1)CN1CCN(C)CC1",
    "ritonavir": "CC(C)c1nc(cs1)CN(C)C(=O)N[C@@H](C(C)C)C(=O)N[C@@H](Cc1ccccc1)C[C@@H]"
    "([C@H](Cc1ccccc1)NC(=O)OCc1cncs1)O",
}


def _embedded(smiles, n=1, hydrogens=True):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(mol, n, randomSeed=11)
    return mol if hydrogens else Chem.RemoveHs(mol)


def _renumbered(mol, seed):
    order = np.random.default_rng(seed).permutation(mol.GetNumAtoms())
    return Chem.RenumberAtoms(mol, [int(i) for i in order])


def _with_torsions(mol, k, rng):
    """k copies of the first conformer with other torsions, every tenth of them nearly a copy of an earlier one."""
    start = Chem.Conformer(mol.GetConformer())
    torsions = mol.GetSubstructMatches(Chem.MolFromSmarts("[!$(*#*)]~[!D1]-!@[!D1]~[!$(*#*)]"))
    torsions = {frozenset(four[1:3]): four for four in torsions}.values()
    mol.RemoveAllConformers()
    for number in range(k):
        if number % 10 == 9:
            conformer = Chem.Conformer(mol.GetConformer(int(rng.integers(number))))
            x = conformer.GetPositions()
            conformer.SetPositions(x + rng.normal(scale=0.02, size=x.shape))
        else:
            conformer = Chem.Conformer(start)
            for four in torsions:
                rdMolTransforms.SetDihedralDeg(conformer, *four, float(rng.uniform(-180, 180)))
        mol.AddConformer(conformer, assignId=True)
    return mol


@pytest.fixture(scope="module", params=DRUGS)
def drug(request):
    """A drug in 200 shapes, all its atoms."""
    return _with_torsions(_embedded(DRUGS[request.param]), 200, np.random.default_rng(1))


# -- what a mapping must keep ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smiles", [*STEREO, "CC(=O)[O-]", "[O-][N+](=O)c1ccccc1", "C[N+](C)(C)CC([O-])=O", "c1ccccc1"])
@pytest.mark.parametrize("chiral", [False, True])
def test_as_many_mappings_as_rdkit_finds(smiles, chiral):
    mol = Chem.MolFromSmiles(smiles)
    theirs = mol.GetSubstructMatches(mol, uniquify=False, useChirality=chiral)
    assert prepare(mol, bond_types=True, charges=True, stereo=chiral).n_automorphisms == len(theirs)


def test_bond_types_are_as_rdkit_has_them():
    kekule = Chem.MolFromSmiles("Cc1ccccc1F")
    Chem.Kekulize(kekule, clearAromaticFlags=True)
    aromatic = Chem.MolFromSmiles("Cc1ccccc1F")
    for mol in (kekule, aromatic):
        mol.AddConformer(Chem.Conformer(mol.GetNumAtoms()), assignId=True)
    assert rmsd(kekule, aromatic, align=False).value == 0.0
    with pytest.raises(NotIsomorphicError):
        rmsd(kekule, aromatic, align=False, bond_types=True)


@pytest.mark.parametrize("smiles", [s for s in STEREO if "@" in s])
@pytest.mark.parametrize("hydrogens", [False, True])
def test_signs_are_those_of_the_coordinates(smiles, hydrogens):
    mol = _embedded(smiles, hydrogens=hydrogens)
    x = mol.GetConformer().GetPositions()
    stereo = stereo_of(mol)
    assert stereo.tetrahedral
    for centre, around, sign in stereo.tetrahedral:
        first, second, third = (x[i] - x[centre] for i in around[:3])
        assert np.sign(first @ np.cross(second, third)) == sign
    for (i, j, k, m), relation in stereo.double_bonds:
        turn = abs(rdMolTransforms.GetDihedralDeg(mol.GetConformer(), i, j, k, m))
        assert (turn < 90) == (relation == "cis")


@pytest.mark.parametrize("smiles", STEREO)
def test_stereo_is_the_same_from_tags_and_coordinates_in_any_order(smiles):
    mol = _embedded(smiles, hydrogens=False)
    bare = Chem.Mol(mol)
    Chem.RemoveStereochemistry(bare)
    again = _renumbered(bare, 3)
    result = rmsd(mol, _renumbered(mol, 3), align=False, stereo=True)
    assert result.value == 0.0
    assert rmsd(mol, again, align=False, stereo="3d").value == 0.0
    assert prepare(bare, stereo="3d").n_automorphisms == prepare(mol, stereo=True).n_automorphisms
    assert prepare(bare, stereo=True).n_automorphisms == prepare(mol).n_automorphisms


def test_enantiomers_are_the_same_graph_but_other_molecules_if_stereo_counts():
    right, left = _embedded("C[C@H](F)Cl", hydrogens=False), _embedded("C[C@@H](F)Cl", hydrogens=False)
    assert rmsd(right, left, align=True).value > 0.1
    for stereo in (True, "3d"):
        with pytest.raises(NotIsomorphicError):
            rmsd(right, left, align=True, stereo=stereo)


def test_stereo_takes_mappings_away():
    meso = _embedded("C[C@H]1CCCC[C@H]1C", hydrogens=False)
    mirror = max(meso.GetSubstructMatches(meso, uniquify=False))
    assert mirror != tuple(range(8))
    swapped = Chem.RenumberAtoms(meso, mirror)
    pair = Chem.Mol(meso)
    pair.GetConformer().SetPositions(swapped.GetConformer().GetPositions())
    assert rmsd(meso, pair, align=False).value == 0.0
    assert rmsd(meso, pair, align=False, stereo=True).value > 1.0


def test_faults_are_named():
    mol = _embedded("CCO", 2)
    with pytest.raises(RMSDError, match="stereo is '2d', expected True, False or '3d'"):
        prepare(mol, stereo="2d")
    with pytest.raises(RMSDError, match="no conformers"):
        prepare(Chem.MolFromSmiles("CCO"), stereo="3d")
    with pytest.raises(RMSDError, match="no molecules were given"):
        conformer_rmsd_matrix([], align=True)
    with pytest.raises(RMSDError, match="each says which conformer comes first"):
        prune_by_rmsd(mol, 0.1, order=[1, 0], energies=[0.0, 1.0])
    with pytest.raises(RMSDError, match=r"energies has shape \(3,\), expected \(2,\)"):
        prune_by_rmsd(mol, 0.1, energies=[0.0, 1.0, 2.0])
    for cluster in (prune_by_rmsd, butina):
        with pytest.raises(RMSDError, match="threshold is -1"):
            cluster(mol, -1)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_levels_agree(level):
    mol = _embedded("CC(=O)Oc1ccccc1C(=O)O", 2)
    best, plain = (rmsd(mol, mol, align=True, a_conformer=0, b_conformer=1, level=how).value for how in (None, level))
    assert plain == pytest.approx(best, abs=1e-7)


# -- many conformers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("hydrogens", [False, True])
def test_tables_of_molecules_in_other_orders(align, hydrogens):
    mol = _embedded("CC(C)Cc1ccc(cc1)C(C)C(=O)O", 4)
    others = [Chem.Mol(mol, confId=i) for i in (2, 0)]
    others = [_renumbered(other, seed) for seed, other in enumerate(others)]
    whole = conformer_rmsd_matrix(mol, align=align, hydrogens=hydrogens)
    table = rmsd_table(mol, others, align=align, hydrogens=hydrogens, threads=2)
    assert table == pytest.approx(whole[:, [2, 0]], abs=1e-7)
    mixed = conformer_rmsd_matrix([others[1], mol, others[0]], align=align, hydrogens=hydrogens)
    order = [0, 0, 1, 2, 3, 2]
    assert mixed == pytest.approx(whole[np.ix_(order, order)], abs=1e-7)


def test_hydrogens_need_not_be_there_if_they_are_not_compared():
    mol = _embedded("CC(C)O", 3)
    assert rmsd_table(Chem.RemoveHs(mol), mol, align=False).diagonal().tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("threshold", [0.02, 0.2, 0.6, 1.5, 9.0])
def test_butina_clusters_are_those_of_rdkit(align, threshold):
    mol = _embedded("CCC(C)CC", 30)
    mol.RemoveConformer(4)
    ids = [conformer.GetId() for conformer in mol.GetConformers()]
    matrix = conformer_rmsd_matrix(mol, align=align)
    theirs = Butina.ClusterData(matrix, len(ids), threshold, isDistData=True)
    ours = butina(mol, threshold, align=align, threads=2)
    assert ours == [[ids[index] for index in cluster] for cluster in theirs]


def test_lowest_energy_comes_first():
    mol = _embedded("CCCCCC", 12)
    energies = np.random.default_rng(0).normal(size=12)
    energies[3] = energies[8] = energies.min() - 1
    order = np.argsort(energies, kind="stable").tolist()
    kept = prune_by_rmsd(mol, 0.4, energies=energies)
    assert kept[0] == 3 and kept == prune_by_rmsd(mol, 0.4, order=order)


class _Counting:
    """A search that counts the pairs it is asked for."""

    def __init__(self, search):
        self.search, self.pairs = search, 0

    def first_near(self, positions, kept, *rest):
        found, finished = self.search.first_near(positions, kept, *rest)
        self.pairs += list(kept).index(found) + 1 if found >= 0 else len(kept)
        return found, finished

    @property
    def nearest(self):
        return self.search.nearest


@pytest.mark.parametrize("hydrogens", [False, True])
@pytest.mark.parametrize("align", [False, True])
def test_most_pairs_of_a_drug_are_never_searched(drug, hydrogens, align):
    molecule = prepare(drug, hydrogens=hydrogens)
    x = np.stack([conformer.GetPositions() for conformer in drug.GetConformers()])
    # With all hydrogens the matrix of fits would take seconds; that decisions are right is tested on it elsewhere.
    matrix = flashrmsd_cy.rmsd_matrix(x, molecule, align=align) if not (hydrogens and align) else None
    for threshold in (0.1, 0.5, 1.0):
        search = _Counting(molecule._search())
        molecule._searches.append(search)
        near = flashrmsd_cy.neighbours(x, molecule, threshold, align=align)
        assert 20 <= search.pairs <= 50  # of 19,900; about as many are near
        kept = flashrmsd_cy.distinct(x, molecule, threshold, align=align)
        if matrix is not None:
            assert (near == (matrix < threshold)).all()
        assert kept == _first_come(near)
        assert search in molecule._searches
        molecule._searches.clear()


def _first_come(near):
    kept = []
    for row in range(len(near)):
        if not near[row, kept].any():
            kept.append(row)
    return kept


def test_threads_and_time_limits(drug):
    assert butina(drug, 1.0, hydrogens=True, threads=3) == butina(drug, 1.0, hydrogens=True)
    for cluster in (prune_by_rmsd, butina):
        with pytest.raises(SearchLimitError):
            cluster(drug, 2.0, hydrogens=True, time_limit_s=1e-6)
