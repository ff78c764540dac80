import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import MACCSkeys

from sddfkit.chem.fingerprints import maccs, morgan_tanimoto
from sddfkit.chem.molecules import MoleculeError


def test_maccs_in_rdkits_numbering():
    smiles = ["CCO", "c1ccccc1", "CC(=O)O", "ClCCl"]
    bits = maccs(smiles)
    assert bits.shape == (4, 167)
    assert bits.dtype == np.uint8
    for row, one in zip(bits, smiles, strict=True):
        assert list(np.flatnonzero(row)) == list(MACCSkeys.GenMACCSKeys(Chem.MolFromSmiles(one)).GetOnBits())
    assert bits[:, 164].tolist() == [1, 0, 1, 0], "key 164 is oxygen"
    assert not bits[:, 0].any()


def test_hydrogens_and_spelling_do_not_matter():
    mols = [Chem.AddHs(Chem.MolFromSmiles("OCC")), Chem.MolFromSmiles("CCO")]
    rows = maccs([*mols, "C(C)O"])
    assert (rows == rows[0]).all()
    assert (morgan_tanimoto(mols, ["OCC"]) == 1).all()


def test_shapes_and_refusals():
    assert maccs([]).shape == (0, 167)
    assert morgan_tanimoto([], ["C"]).shape == (0, 1)
    assert morgan_tanimoto(["C"], []).shape == (1, 0)
    with pytest.raises(TypeError, match="single string 'CCO'"):
        maccs("CCO")
    with pytest.raises(MoleculeError, match="unclosed ring"):
        maccs(["C1CC"])


def test_tanimoto_is_symmetric_and_bounded():
    smiles = ["CCO", "CCN", "c1ccccc1", "Cc1ccccc1"]
    values = morgan_tanimoto(smiles, smiles)
    np.testing.assert_array_equal(values, values.T)
    np.testing.assert_array_equal(np.diag(values), 1)
    assert values.min() == 0
    assert 0 < values[2, 3] < 1
