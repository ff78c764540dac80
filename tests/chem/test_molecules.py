import pytest
from rdkit import Chem, RDLogger

from sddfkit.chem.messages import reason_for
from sddfkit.chem.molecules import (
    STEREO_PROPERTY,
    MoleculeError,
    charge_and_multiplicity,
    element_numbers,
    molecule_id,
    molecules_from_smiles,
    without_hydrogens,
)


def ids(smiles, **options):
    return [molecule_id(mol) for mol in molecules_from_smiles(smiles, **options)]


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("C(O)C", ["CCO"]),
        (" CCO ", ["CCO"]),
        ("[CH3:1][OH:2]", ["CO"]),
        ("CO |$x;$|", ["CO"]),
        ("CC(=O)[O-].[Na+]", ["CC(=O)[O-].[Na+]"]),
        ("Oc1ccccn1", ["Oc1ccccn1"]),  # the tautomer stays
        ("CN(=O)=O", ["C[N+](=O)[O-]"]),
        ("CC=N", ["CC=N"]),
    ],
)
def test_gentle_standardisation(smiles, expected):
    assert ids(smiles) == expected


@pytest.mark.parametrize(
    ("smiles", "words"),
    [
        ("", "empty SMILES"),
        ("C1CC", "unclosed ring"),
        ("c1cccc1", "kekulize"),
        ("C(C)(C)(C)(C)C", "Explicit valence for atom # 0 C, 5"),
        ("*C", "atom 0 is a dummy"),
        ("CCO ethanol", "'ethanol' follows the SMILES"),
        ("C%", "Parse Error"),
    ],
)
def test_refusals_carry_rdkits_reason(smiles, words, capfd):
    with pytest.raises(MoleculeError, match=words):
        molecules_from_smiles(smiles)
    assert capfd.readouterr().err == ""


def test_hydrogens_are_explicit_and_named():
    (mol,) = molecules_from_smiles("CO", name="methanol")
    assert mol.GetNumAtoms() == 6
    assert mol.GetProp("_Name") == "methanol"
    assert molecules_from_smiles("OC")[0].GetProp("_Name") == "CO"


def test_stereo_is_enumerated_and_recorded():
    mols = molecules_from_smiles("CC(O)C=CC", name="x")
    assert len({molecule_id(mol) for mol in mols}) == 4
    assert {mol.GetProp("_Name") for mol in mols} == {"x (R,E)", "x (R,Z)", "x (S,E)", "x (S,Z)"}
    assert [mol.GetProp(STEREO_PROPERTY) for mol in mols] == [f"enumerated, {i} of 4" for i in range(1, 5)]


def test_more_isomers_than_asked_are_a_reproducible_sample():
    smiles = "OC(F)C(F)C(O)C(O)C(Cl)C"
    mols = molecules_from_smiles(smiles, max_isomers=4)
    assert len(mols) == 4
    assert mols[0].GetProp(STEREO_PROPERTY) == "enumerated, 1 of 32"
    assert ids(smiles, max_isomers=4) == [molecule_id(mol) for mol in mols]


def test_stereo_refused_or_kept():
    with pytest.raises(MoleculeError, match="undefined stereo at atom 1, bond 3"):
        molecules_from_smiles("CC(O)C=CC", stereo="refuse")
    (kept,) = molecules_from_smiles("CC(O)CC", stereo="keep")
    assert kept.GetProp(STEREO_PROPERTY) == "kept undefined"
    (given,) = molecules_from_smiles("C[C@H](O)C(=O)O", stereo="refuse")
    assert given.GetProp(STEREO_PROPERTY) == "specified"
    with pytest.raises(MoleculeError, match="expected 'enumerate'"):
        molecules_from_smiles("CO", stereo="guess")


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [("C", (0, 1)), ("[NH4+]", (1, 1)), ("[CH3]", (0, 2)), ("[O][O]", (0, 3)), ("[O-]C(=O)C[NH3+]", (0, 1))],
)
def test_charge_and_multiplicity(smiles, expected):
    (mol,) = molecules_from_smiles(smiles)
    assert charge_and_multiplicity(mol) == expected


def test_identity_forgets_hydrogens_maps_and_atom_order():
    mol = Chem.AddHs(Chem.MolFromSmiles("[OH:4][C@@H](C)F"))
    shuffled = Chem.RenumberAtoms(mol, list(reversed(range(mol.GetNumAtoms()))))
    assert molecule_id(mol) == molecule_id(shuffled) == ids("C[C@@H](F)O")[0] or molecule_id(shuffled) == ids(
        "C[C@H](F)O"
    )[0] == molecule_id(mol)
    assert mol.GetAtomWithIdx(0).GetAtomMapNum() == 4, "the caller's molecule is left alone"
    assert without_hydrogens("[H]OC").GetNumAtoms() == 2


def test_elements_by_symbol_and_number():
    assert element_numbers(["H", "Cl", 6]) == {1, 6, 17}
    assert element_numbers(None) is None
    with pytest.raises(MoleculeError, match="'Xx' is not a chemical element"):
        element_numbers(["Xx"])
    with pytest.raises(MoleculeError, match="0 is not a chemical element"):
        element_numbers([0])


def test_a_reason_is_found_even_where_the_user_has_silenced_rdkit(capfd):
    RDLogger.DisableLog("rdApp.error")
    try:
        assert "unclosed ring" in reason_for(lambda: Chem.MolFromSmiles("C1CC"))
        Chem.MolFromSmiles("C1CC")
        assert capfd.readouterr().err == "", "and RDKit is as silent afterwards as before"
    finally:
        RDLogger.EnableLog("rdApp.error")
    Chem.MolFromSmiles("C1CC")
    assert "unclosed ring" in capfd.readouterr().err, "and as loud"
