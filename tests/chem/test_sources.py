import gzip
import hashlib
import os

import pytest
from rdkit import Chem

from sddfkit.chem.molecules import ELEMENTS, MoleculeError, molecule_id
from sddfkit.chem.sources import Rejected, read_molecules, shipped


def split(stream):
    items = list(stream)
    return [item for item in items if not isinstance(item, Rejected)], [i for i in items if isinstance(i, Rejected)]


def names(mols):
    return [mol.GetProp("_Name") for mol in mols]


SMI = """\
# comment

SMILES name
CCO ethanol (the usual)
C1CC broken
CBr bromomethane
OCC\tethanol again
CCCCCCC
CC(O)CC |$;;;;$| butan-2-ol
C[C@H](O)CC one of them
"""


def test_smi_tells_what_it_makes_of_every_line(tmp_path):
    path = tmp_path / "a.SMI"
    path.write_text(SMI)
    mols, rejected = split(read_molecules(path, elements=["H", "C", "O"], max_heavy_atoms=6))
    assert [molecule_id(mol) for mol in mols] == ["CCO", "CC[C@H](C)O", "CC[C@@H](C)O"]
    assert names(mols) == ["ethanol (the usual)", "butan-2-ol (S)", "butan-2-ol (R)"]
    assert [(r.line, r.reason) for r in rejected] == [
        (5, "SMILES Parse Error: unclosed ring for input: 'C1CC'"),
        (6, "element Br at atom 1 is not among H C O"),
        (7, "duplicate of line 4"),
        (8, "7 heavy atoms, more than max_heavy_atoms=6"),
        (10, "duplicate of line 9"),
    ]
    assert rejected[0].text == "C1CC broken"
    assert rejected[0].source == str(path)


@pytest.mark.parametrize("suffix", [".smi", ".smiles", ".txt", ".Smi.GZ"])
def test_suffixes_and_gzip(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    data = b"\xef\xbb\xbfCO methanol\r\nCN methylamine\r\n"
    path.write_bytes(gzip.compress(data) if suffix.lower().endswith("gz") else data)
    mols, rejected = split(read_molecules(str(path)))
    assert names(mols) == ["methanol", "methylamine"]
    assert rejected == []


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("name,SMILES\nmethanol,CO\nmethylamine,CN\n", {}),
        ("canonical_smiles;Compound Name\nCO;methanol\nCN;methylamine\n", {}),
        ('what\tx\nCO\t"methanol"\nCN\tmethylamine\n', {"smiles_column": "what", "name_column": "x"}),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_csv_columns_are_guessed_or_named(tmp_path, text, columns, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    mols, rejected = split(read_molecules(path, **columns))
    assert names(mols) == ["methanol", "methylamine"]
    assert rejected == []


def test_csv_rows_without_a_smiles(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles,name\n,empty\n\nCO,methanol\n")
    mols, rejected = split(read_molecules(path))
    assert names(mols) == ["methanol"]
    assert [(r.line, r.reason) for r in rejected] == [(2, "no value in the column 'smiles'")]


@pytest.mark.parametrize("columns", [{}, {"smiles_column": "smiles"}])
def test_csv_without_smiles_column_lists_the_columns(tmp_path, columns):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(MoleculeError, match=r"is the header line missing\?.*\['a', 'b'\]"):
        read_molecules(path, **columns)


def sdf(smiles, name, three_d=False):
    mol = Chem.MolFromSmiles(smiles)
    if three_d:
        from rdkit.Chem import AllChem

        mol = Chem.AddHs(mol)
        AllChem.EmbedMolecule(mol, randomSeed=1)
    mol.SetProp("_Name", name)
    return Chem.MolToMolBlock(mol) + "> <energy>\n1\n\n$$$$\n"


def test_sdf_bad_records_are_rejected_with_their_line(tmp_path):
    first = sdf("CO", "methanol")
    bad = "broken\n\n\n  xx  0  0\nM  END\n$$$$\n"
    valence = sdf("CO", "five bonds").replace(" C  ", " F  ").replace("  1  2  1  0", "  1  2  3  0")
    last = sdf("C[C@H](O)F", "chiral", three_d=True).removesuffix("$$$$\n")
    path = tmp_path / "a.sdf"
    path.write_text(first + bad + valence + last)
    mols, rejected = split(read_molecules(path))
    assert names(mols) == ["methanol", "chiral"]
    assert molecule_id(mols[1]) == Chem.CanonSmiles("C[C@H](O)F"), "stereo is read off the 3D positions"
    assert mols[1].GetNumConformers() == 1
    assert mols[0].GetNumConformers() == 0, "2D coordinates are no conformer"
    line = first.count("\n") + 1
    assert [r.line for r in rejected] == [line, line + bad.count("\n")]
    assert rejected[0].text == "broken"
    assert "valence for atom # 0 F" in rejected[1].reason


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.smi", "CO methanol\r# comment\rCN methylamine\r"),
        ("a.csv", "smiles,name\rCO,methanol\r\rCN,methylamine"),
        ("a.sdf", (sdf("CO", "methanol") + sdf("CN", "methylamine")).replace("\n", "\r")),
        ("b.smi", "CO methanol\r\r\n# comment\r\nCN methylamine\r"),
    ],
)
def test_lines_may_end_with_a_carriage_return(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    mols, rejected = split(read_molecules(path))
    assert names(mols) == ["methanol", "methylamine"]
    assert rejected == []
    lines = [mol.GetIntProp("sddfkit.line") for mol in mols]
    assert lines == {"a.smi": [1, 3], "a.csv": [2, 4], "a.sdf": [1, 13], "b.smi": [1, 3]}[name]


def test_bytes_that_are_no_text_are_reported_and_passed_over(tmp_path):
    path = tmp_path / "a.smi"
    path.write_bytes(b"CO m\xe9thanol\nCN ok\nC\0C nul\n" + b"x" * 200 + b"\n")
    mols, rejected = split(read_molecules(path))
    assert names(mols) == ["ok"]
    assert rejected[0].reason == "not UTF-8 text: byte 0xe9 at column 5"
    assert "NUL" in rejected[1].reason
    assert len(rejected[2].text) == 80


def test_damaged_gzip(tmp_path):
    path = tmp_path / "a.smi.gz"
    path.write_bytes(b"CO methanol\n")
    with pytest.raises(MoleculeError, match="not a gzip file"):
        read_molecules(path)
    lines = [b"CO %s\n" % hashlib.sha256(bytes([i % 256, i // 256])).hexdigest().encode() for i in range(600)]
    whole = gzip.compress(b"".join(lines))
    path.write_bytes(whole[: len(whole) // 2])
    mols, rejected = split(read_molecules(path))
    assert len(mols) == 1
    assert rejected[0].reason == "duplicate of line 1"
    assert "cut off" in rejected[-1].reason
    assert 1 < rejected[-1].line < 600


@pytest.mark.parametrize("content", ["", "# only a comment\n\n", "SMILES name\n"])
def test_empty_files(tmp_path, content):
    path = tmp_path / "a.smi"
    path.write_text(content)
    with pytest.raises(MoleculeError, match="holds no molecules"):
        read_molecules(path)


def test_paths_that_cannot_be_read(tmp_path):
    with pytest.raises(MoleculeError, match="is a folder"):
        read_molecules(tmp_path)
    with pytest.raises(MoleculeError, match="no such file"):
        read_molecules(tmp_path / "missing.smi")
    os.mkfifo(tmp_path / "pipe.smi")
    for odd in ("/dev/null", tmp_path / "pipe.smi"):
        with pytest.raises(MoleculeError, match="is no regular file"):
            read_molecules(odd)
    with pytest.raises(MoleculeError, match="there are: demo, smoke"):
        read_molecules("dmeo")
    (tmp_path / "a.xyz").write_text("1\n\nH 0 0 0\n")
    with pytest.raises(MoleculeError, match=r"unknown suffix; expected \.smi"):
        read_molecules(tmp_path / "a.xyz")
    with pytest.raises(MoleculeError, match="max_heavy_atoms=1 is below min_heavy_atoms=2"):
        read_molecules("demo", min_heavy_atoms=2, max_heavy_atoms=1)


def test_radicals_and_fragments_are_kept_small_ones_not(tmp_path):
    path = tmp_path / "a.smi"
    path.write_text("[CH3] methyl\nOC=O.N salt\n[H][H] hydrogen\n")
    mols, rejected = split(read_molecules(path))
    assert names(mols) == ["methyl", "salt"]
    assert [r.reason for r in rejected] == ["0 heavy atoms, fewer than min_heavy_atoms=1"]


@pytest.mark.parametrize(("name", "count", "sizes"), [("demo", 64, {2, 3, 4, 5, 6}), ("smoke", 10, {2, 3})])
def test_shipped_sets_are_clean_and_cover_the_elements(name, count, sizes):
    mols, rejected = split(read_molecules(name, elements=ELEMENTS))
    assert rejected == []
    assert len(mols) == count
    assert {mol.GetNumHeavyAtoms() for mol in mols} == sizes
    assert {atom.GetAtomicNum() for mol in mols for atom in mol.GetAtoms()} == ELEMENTS
    assert shipped(name).is_file()


def test_sdf_records_of_one_molecule_in_a_row_are_its_conformers(tmp_path):
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSmiles("CCCO"))
    AllChem.EmbedMultipleConfs(mol, 3, randomSeed=1)
    mol.SetProp("_Name", "propanol")
    blocks = [Chem.MolToMolBlock(mol, confId=i) + "$$$$\n" for i in range(3)]
    other = sdf("CCO", "ethanol", three_d=True)
    turned = Chem.RenumberAtoms(mol, list(reversed(range(mol.GetNumAtoms()))))
    path = tmp_path / "poses.sdf"
    path.write_text("".join([*blocks[:2], Chem.MolToMolBlock(turned) + "$$$$\n", other, blocks[2]]))
    mols, rejected = split(read_molecules(path))
    assert names(mols) == ["propanol", "ethanol"]
    assert [m.GetNumConformers() for m in mols] == [2, 1]
    for i, conformer in enumerate(mols[0].GetConformers()):
        written = Chem.MolFromMolBlock(blocks[i], removeHs=False).GetConformer().GetPositions()
        assert conformer.GetId() == i and (conformer.GetPositions() == written).all()
    assert [r.reason for r in rejected] == ["duplicate of line 1"] * 2, "in another order of atoms; not in a row"


def test_hydrogens_that_an_sdf_record_lacks_are_counted(tmp_path):
    from rdkit.Chem import AllChem

    from sddfkit.chem.molecules import PLACED_PROPERTY

    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    path = tmp_path / "a.sdf"
    path.write_text(Chem.MolToMolBlock(Chem.RemoveHs(mol)) + "$$$$\n" + sdf("CO", "whole", three_d=True))
    bare, whole = read_molecules(path)
    assert bare.GetIntProp(PLACED_PROPERTY) == 6 and bare.GetConformer().GetPositions().shape == (9, 3)
    assert not whole.HasProp(PLACED_PROPERTY)
