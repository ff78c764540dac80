import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from sddfkit.chem.fragments import place_fragments


def embedded(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, 3, randomSeed=1)
    return mol


@pytest.mark.parametrize("smiles", ["[Na+].[Cl-]", "OC=O.N", "CC(=O)[O-].[Na+]", "O.O.O"])
def test_fragments_touch_and_do_not_overlap(smiles):
    mol = embedded(smiles)
    before = [conformer.GetPositions() for conformer in mol.GetConformers()]
    assert place_fragments(mol, np.random.default_rng(0))
    fragments = [list(fragment) for fragment in Chem.GetMolFrags(mol)]
    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRvdw(atom.GetAtomicNum()) for atom in mol.GetAtoms()])
    for conformer, old in zip(mol.GetConformers(), before, strict=True):
        new = conformer.GetPositions()
        gap = np.linalg.norm(new[:, None] - new[None], axis=-1) - radii[:, None] - radii[None]
        for k, fragment in enumerate(fragments[1:], start=1):
            earlier = [i for part in fragments[:k] for i in part]
            assert gap[np.ix_(fragment, earlier)].min() == pytest.approx(0, abs=1e-9)
            shift = new[fragment] - old[fragment]
            np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-12)


def test_one_fragment_stays_where_it_is():
    mol = embedded("CCO")
    before = mol.GetConformer(0).GetPositions()
    assert not place_fragments(mol, np.random.default_rng(0))
    np.testing.assert_array_equal(mol.GetConformer(0).GetPositions(), before)
