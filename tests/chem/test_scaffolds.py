import pytest

from sddfkit.chem.molecules import molecules_from_smiles
from sddfkit.chem.scaffolds import has_ring, scaffold


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("Cc1ccncc1", "c1ccncc1"),
        ("C[n+]1ccccc1", "c1ccncc1"),
        ("[O-][n+]1ccccc1", "c1ccncc1"),
        ("Cc1cc[nH+]cc1.[Cl-]", "c1ccncc1"),
        ("c1c[nH]c[nH+]1", "c1c[nH]cn1"),
        ("c1c[n-]cn1", "c1c[nH]cn1"),
        ("C[N+]1(C)CCCC1", "C1CCNC1"),
        ("[2H]c1ccccc1", "c1ccccc1"),
        ("[CH3:7][c:1]1ccccc1", "c1ccccc1"),
        ("C[C@H]1CO1", "C1CO1"),
        ("O=C1CCC1", "O=C1CCC1"),  # exocyclic double bonds belong to the scaffold
        ("c1ccccc1CCc1ccccc1", "c1ccc(CCc2ccccc2)cc1"),
        ("c1cc[cH-]c1", "c1cc[cH-]c1"),  # has no neutral form with these atoms
        ("CC(=O)[O-].[Na+]", "CC(C)C"),
        ("CC(N)=S", "CC(C)C"),
        ("C#N", "CC"),
        ("F[C@H](Cl)O", "CC(C)C"),
        ("[NH4+].[Cl-]", "C"),
        ("FS(F)(F)(F)(F)F", "CC(C)(C)(C)(C)C"),
        ("[H][H]", "C"),
    ],
)
def test_scaffold(smiles, expected, capfd):
    assert scaffold(smiles) == expected
    assert {scaffold(mol) for mol in molecules_from_smiles(smiles, stereo="keep")} == {expected}
    assert capfd.readouterr().err == ""


def test_rings():
    assert has_ring("C1CC1.CC")
    assert not has_ring("CCCCCC.C1CC1"), "the largest fragment counts"
