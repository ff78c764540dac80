"""The readers against RDKit's on shared files, against a writer that shares nothing with them, and on broken text."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashrmsd_cy import _files
from flashrmsd_cy._elements import SYMBOLS, atom_label
from flashrmsd_cy._files import read_records
from flashrmsd_cy._text import Topologies, rows_text
from flashrmsd_cy.errors import FormatError

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "rmsd"
SHARED = sorted(FOLDER.glob("*.gz"))
needs_shared = pytest.mark.skipif(not SHARED, reason=f"no files at {FOLDER}")

ETHANOL = ("C", "C", "O"), [(0.0, 0.0, 0.0), (1.5, 0.0, 0.0), (2.0, 1.4, 0.0)], [(0, 1, 1), (1, 2, 1)]


def read(path):
    return list(read_records(str(path), Topologies()))


def _rdkit_bonds(mol):
    kinds = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "AROMATIC": 4}
    ends = ((b.GetBeginAtomIdx(), b.GetEndAtomIdx(), kinds[b.GetBondType().name]) for b in mol.GetBonds())
    return tuple(sorted((min(i, j), max(i, j), kind) for i, j, kind in ends))


def _rdkit_sdf(stream):
    from rdkit import Chem

    return Chem.ForwardSDMolSupplier(stream, sanitize=False, removeHs=False)


def _rdkit_mol2(text):
    from rdkit import Chem

    for block in text.split("@<TRIPOS>MOLECULE")[1:]:
        yield Chem.MolFromMol2Block(
            f"@<TRIPOS>MOLECULE{block}", sanitize=False, removeHs=False, cleanupSubstructures=False
        )


def _same(record, mol):
    assert not record.problem
    assert record.title == mol.GetProp("_Name")
    assert record.topology.elements == tuple(atom.GetAtomicNum() for atom in mol.GetAtoms())
    bonds = _rdkit_bonds(mol)
    if "N7H.mol2" in record.file:  # RDKit makes one N=O of its pentavalent nitro group single, asked to clean up or not
        differ = set(bonds) ^ set(record.topology.bonds)
        assert len(differ) == 2 and {record.topology.elements[atom] for bond in differ for atom in bond[:2]} == {7, 8}
        bonds = record.topology.bonds
    assert record.topology.bonds == bonds
    assert np.allclose(np.reshape(record.positions, (-1, 3)), mol.GetConformer().GetPositions(), atol=1e-12)


def _openbabel(form, path):
    from openbabel import openbabel

    openbabel.obErrorLog.SetOutputLevel(0)
    conversion = openbabel.OBConversion()
    conversion.SetInFormat(form)
    mol = openbabel.OBMol()
    there = conversion.ReadString(mol, gzip.decompress(path.read_bytes()).decode())
    while there:
        yield mol
        mol = openbabel.OBMol()
        there = conversion.Read(mol)


def _same_as_openbabel(record, mol):
    from openbabel import openbabel

    atoms = list(openbabel.OBMolAtomIter(mol))
    assert (record.problem, record.title) == ("", mol.GetTitle())
    assert record.topology.elements == tuple(atom.GetAtomicNum() for atom in atoms)
    bonds = {
        tuple(sorted((bond.GetBeginAtomIdx() - 1, bond.GetEndAtomIdx() - 1))): bond.GetBondOrder()
        for bond in openbabel.OBMolBondIter(mol)
    }
    ours = {(i, j): kind for i, j, kind in record.topology.bonds}
    assert ours.keys() == bonds.keys()
    # Open Babel gives aromatic bonds the orders of a Kekulé form.
    assert all(kind in (bonds[ends], 4) for ends, kind in ours.items())
    places = [(atom.GetX(), atom.GetY(), atom.GetZ()) for atom in atoms]
    assert np.reshape(record.positions, (-1, 3)).tolist() == [list(place) for place in places]


def _shared(form):
    """All files of one format, in portions."""
    paths = [path for path in SHARED if path.name.endswith(f".{form}.gz")]
    return [pytest.param(form, paths[part::6], id=f"{form} {part}") for part in range(6)]


@needs_shared
@pytest.mark.parametrize(("form", "paths"), [*_shared("sdf"), *_shared("mol2")])
def test_shared_files_as_rdkit_reads_them(form, paths):
    pytest.importorskip("rdkit")
    for path in paths:
        text = gzip.decompress(path.read_bytes())
        mols = list(_rdkit_sdf(io.BytesIO(text)) if form == "sdf" else _rdkit_mol2(text.decode()))
        records = read(path)
        assert len(records) == len(mols) == 10
        for record, mol in zip(records, mols, strict=True):
            _same(record, mol)


@needs_shared
@pytest.mark.parametrize(("form", "paths"), [*_shared("sdf"), *_shared("mol2")])
def test_shared_files_as_openbabel_reads_them(form, paths):
    pytest.importorskip("openbabel", reason="Open Babel (PyPI openbabel-wheel) is not installed")
    for path in paths:
        for record, mol in zip(read(path), _openbabel(form, path), strict=True):
            _same_as_openbabel(record, mol)


SMILES = [
    "c1ccccc1C(=O)[O-].[Na+]",
    "[2H]C([2H])([3H])Cl",
    "C#N",
    "Brc1ncc(I)s1",
    "[Zn+2]",
    "O=S(=O)(F)N",
    "C1CC1[*:1]",
]


@pytest.mark.parametrize("version", ["V2000", "V3000"])
def test_what_rdkit_writes(tmp_path, version):
    Chem = pytest.importorskip("rdkit.Chem")
    from rdkit.Chem import AllChem

    path = tmp_path / f"{version}.sdf"
    writer = Chem.SDWriter(str(path))
    writer.SetForceV3000(version == "V3000")
    for number, smiles in enumerate(SMILES):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.Compute2DCoords(mol)
        mol.SetProp("_Name", f"molecule {number}")
        mol.SetProp("data", "1  2  3\nM  END?")
        for _ in range(2):
            writer.write(mol)
    writer.close()
    records, known = read(path), list(_rdkit_sdf(path.open("rb")))
    assert len(records) == 2 * len(SMILES)
    for record, mol in zip(records, known, strict=True):
        assert not record.problem and record.title == mol.GetProp("_Name")
        numbers = tuple(atom.GetAtomicNum() for atom in mol.GetAtoms())
        assert tuple(x if isinstance(x, int) else 0 for x in record.topology.elements) == numbers
        assert record.topology.bonds == _rdkit_bonds(mol)
        assert np.allclose(np.reshape(record.positions, (-1, 3)), mol.GetConformer().GetPositions())
    assert all(a.topology is b.topology for a, b in zip(records[::2], records[1::2], strict=True))


def test_aromatic_bonds_as_written(tmp_path, write):
    ring = [(i, (i + 1) % 6, 4) for i in range(6)]
    (tmp_path / "a.mol2").write_text(write.mol2(["C.ar"] * 6, np.zeros((6, 3)), ring))
    (tmp_path / "a.sdf").write_text(write.v2000(["C"] * 6, np.zeros((6, 3)), ring))
    topologies = Topologies()
    first, second = (next(read_records(str(tmp_path / name), topologies)) for name in ("a.mol2", "a.sdf"))
    assert first.topology is second.topology
    assert {kind for *_, kind in first.topology.bonds} == {4}


@st.composite
def molecules(draw):
    n = draw(st.integers(1, 12))
    symbols = draw(st.lists(st.sampled_from(SYMBOLS), min_size=n, max_size=n))
    places = st.integers(-9_999_999, 9_999_999).map(lambda x: x / 1e4)
    positions = draw(st.lists(st.tuples(places, places, places), min_size=n, max_size=n))
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    chosen = draw(st.lists(st.sampled_from(pairs), unique_by=frozenset, max_size=20)) if pairs else []
    bonds = [(i, j, draw(st.integers(1, 4))) for i, j in chosen]
    return symbols, positions, bonds, draw(st.text("aZ9 _()-é", max_size=300)).strip()


@given(st.lists(molecules(), min_size=1, max_size=4), st.sampled_from(["v2000", "v3000", "mol2"]), st.data())
@settings(max_examples=120, deadline=None)
def test_round_trip(tmp_path_factory, write, molecules, form, data):
    text = "".join(getattr(write, form)(*molecule) for molecule in molecules)
    newline = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    suffix = data.draw(st.sampled_from([".mol2", ".MOL2"] if form == "mol2" else [".sdf", ".SDF", ".sd", ".mol"]))
    body = text.replace("\n", newline).encode()
    if data.draw(st.booleans()):
        suffix, body = suffix + data.draw(st.sampled_from([".gz", ".GZ", ""])), gzip.compress(body)
    path = tmp_path_factory.getbasetemp() / f"round trip{suffix}"
    path.write_bytes(body)
    records = read(path)
    assert len(records) == len(molecules)
    for number, (record, (symbols, positions, bonds, title)) in enumerate(zip(records, molecules, strict=True)):
        assert (record.number, record.title, record.problem) == (number, title, "")
        assert record.topology.elements == tuple(atom_label(symbol) for symbol in symbols)
        assert record.topology.bonds == tuple(sorted((min(i, j), max(i, j), kind) for i, j, kind in bonds))
        assert np.reshape(record.positions, (-1, 3)).tolist() == [list(place) for place in positions]


def test_symbols_of_all_elements_in_any_case():
    for number, symbol in enumerate(SYMBOLS, 1):
        assert {atom_label(spelling) for spelling in (symbol, symbol.upper(), symbol.lower())} == {number}
    assert SYMBOLS[5] == "C" and SYMBOLS[78] == "Au" and SYMBOLS[117] == "Og"
    assert [atom_label(symbol) for symbol in ("D", "T", "2H", "CL ", "Cl-", "Fe3+", "C12")] == [1, 1, 1, 17, 17, 26, 6]


def test_many_records_and_many_atoms(tmp_path, write):
    path = tmp_path / "many.sdf"
    path.write_text(write.v2000(*ETHANOL) * 1000)
    records = read(path)
    assert len(records) == 1000 and len({id(record.topology) for record in records}) == 1
    chain = [(i, i + 1, 1) for i in range(1499)]
    for form, name in ((write.v3000, "long.sdf"), (write.mol2, "long.mol2")):
        (tmp_path / name).write_text(form(["C"] * 1500, np.random.default_rng(0).normal(size=(1500, 3)), chain))
        (record,) = read(tmp_path / name)
        assert len(record.topology.elements) == 1500 and len(record.topology.bonds) == 1499


GOOD = {"v2000": ".sdf", "v3000": ".sdf", "mol2": ".mol2"}


@pytest.mark.parametrize(
    ("form", "old", "new", "message"),
    [
        ("v2000", "  3  2  0", "  4  2  0", "line 15: .* does not begin with three coordinates"),
        ("v2000", "  3  2  0", "  2  2  0", "line 16: .* follows the last bond that the counts line announces"),
        ("v2000", "  3  2  0", "  3  1  0", "line 16: .* follows the last bond that the counts line announces"),
        ("v2000", "  3  2  0", "  3  3  0", "line 17: 'M  END' does not begin with two atoms"),
        ("v2000", "  3  2  0", "  3 99  0", "99 bonds are announced, but .* lines follow: is the record cut off"),
        ("v2000", "  3  2  0", " -3  2  0", "is the record cut off"),
        ("v2000", "  3  2  0", "three two", "line 11: 'three two.* is no counts line"),
        ("v2000", "    1.5000", "       nan", "line 13: the coordinate nan is not finite"),
        ("v2000", "    1.5000", "       inf", "line 13: the coordinate inf is not finite"),
        ("v2000", "    1.5000", "         x", "line 13: .* does not begin with three coordinates"),
        ("v2000", " O   0", " Oh  0", "line 14: 'Oh' is no element"),
        ("v2000", "  2  3  1", "  2  4  1", "line 16: the bond 2–4 names an atom beyond the 3"),
        ("v2000", "  2  3  1", "  2  2  1", "line 16: the bond 2–2 joins an atom to itself"),
        ("v2000", "  2  3  1", "  2  1  1", "the bond 1–2 is given twice"),
        ("v2000", "M  END\n$$$$", "M  END", "line \\d+: .* follows 'M  END': is a line '\\$\\$\\$\\$' missing"),
        ("v3000", "COUNTS 3 2", "COUNTS 3 3", "3 atoms and 3 bonds are announced, 3 and 2 given"),
        ("v3000", "COUNTS 3 2", "COUNTS x 2", "does not give the numbers of atoms and bonds"),
        ("v3000", "M  V30 COUNTS 3 2 0 0 0\n", "", "no line 'M  V30 COUNTS'"),
        ("v3000", "1.5000 0.0000", "1.5000 nan", "line \\d+: the coordinate nan is not finite"),
        ("v3000", "1.5000 0.0000", "1.5000 1e200", "line \\d+: the coordinate 1e\\+200 is larger than 1e\\+60 Å"),
        ("v3000", "1.5000 0.0000", "1.5000 zero", "is not index, element, x, y, z"),
        ("v3000", "3 O 2.0000", "1 O 2.0000", "the atom index 1 is given twice"),
        ("v3000", "3 O 2.0000", "3 [C,O] 2.0000", "'\\[C,O\\]' is no element"),
        ("v3000", "2 1 2 3", "2 1 2 4", "the bond names the atom 4, which is not there"),
        ("v3000", "2 1 2 3", "2 1 2", "is not index, type, two atoms"),
        ("v3000", "M  END\n$$$$", "M  END", "is a line '\\$\\$\\$\\$' missing"),
        ("mol2", "3 2 1 0 0", "4 2 1 0 0", "4 atoms and 2 bonds are announced, 3 and 2 given: is the record cut off"),
        ("mol2", "3 2 1 0 0", "three", "line \\d+: expected the numbers of atoms and bonds"),
        ("mol2", "1.5000", "nan", "the coordinate nan is not finite"),
        ("mol2", "1.5000", "x", "is not id, name, x, y, z, type"),
        ("mol2", "0.0000 O 1", "0.0000 Oh 1", "'Oh' is no element"),
        ("mol2", "      3 O3", "      2 O3", "the atom id 2 is given twice"),
        ("mol2", "2 2 3 1", "2 2 4 1", "the bond 2–4 names an atom that is not there"),
        ("mol2", "2 2 3 1", "2 2 3 9", "a bond type, which is one of 1, 2, 3, am"),
        ("mol2", "2 2 3 1", "2 1 2 1", "given twice"),
        ("mol2", "@<TRIPOS>BOND", "@<TRIPOS>BLOND", "3 and 0 given"),
    ],
)
def test_a_broken_record_in_the_middle_keeps_its_place(tmp_path, write, form, old, new, message):
    good = getattr(write, form)(*ETHANOL)
    start = write.v2000(["C"], [(0, 0, 0)], []) if form != "mol2" else write.mol2(["C"], [(0, 0, 0)], [])
    assert good.count(old) == 1
    path = tmp_path / f"broken{GOOD[form]}"
    path.write_text(start + good.replace(old, new) + good)
    records = read(path)
    if "missing" in message:  # two molecules in one record: nothing tells where the second begins
        assert [bool(record.problem) for record in records] == [False, True]
    else:
        assert [bool(record.problem) for record in records] == [False, True, False]
    with pytest.raises(FormatError, match=message):
        raise FormatError(records[1].problem)


@pytest.mark.parametrize("form", GOOD)
def test_a_file_that_is_cut_off_anywhere_is_never_taken_for_whole(tmp_path, write, form):
    whole = getattr(write, form)(*ETHANOL)
    (tmp_path / f"a{GOOD[form]}").write_text(whole)
    (expected,) = read(tmp_path / f"a{GOOD[form]}")
    for length in range(1, len(whole)):
        path = tmp_path / f"cut{GOOD[form]}"
        path.write_text(whole[:length])
        try:
            (record,) = read(path)
        except FormatError:
            continue
        if not record.problem:
            assert (record.topology.elements, record.topology.bonds) == (
                expected.topology.elements,
                expected.topology.bonds,
            ), length
            assert record.positions == expected.positions


def test_files_that_are_none(tmp_path, write):
    (tmp_path / "empty.sdf").write_text("")
    (tmp_path / "blank.sdf").write_text("\n\n")
    (tmp_path / "folder.sdf").mkdir()
    (tmp_path / "no.mol2").write_text("nothing of the kind\n")
    (tmp_path / "what.xyz").write_text("1\n\nC 0 0 0\n")
    (tmp_path / "cut.sdf.gz").write_bytes(gzip.compress(write.v2000(*ETHANOL).encode() * 50)[:-20])
    (tmp_path / "damaged.sdf.gz").write_bytes(b"\x1f\x8b no gzip")
    for name, message in {
        "missing.sdf": "no such file",
        "folder.sdf": "folder",
        "empty.sdf": "empty",
        "blank.sdf": "empty",
        "no.mol2": "holds no molecule",
        "what.xyz": "neither SDF, MOL nor MOL2",
        "cut.sdf.gz": "damaged or cut off",
        "damaged.sdf.gz": "damaged or cut off",
    }.items():
        with pytest.raises(FormatError, match=message):
            read(tmp_path / name)


def test_empty_records_and_bytes_at_random(tmp_path):
    (tmp_path / "a.sdf").write_text("$$$$\n\n\n\n$$$$\n")
    assert [bool(record.problem) for record in read(tmp_path / "a.sdf")] == [True, True]
    (tmp_path / "b.sdf").write_bytes(np.random.default_rng(0).bytes(5000))
    assert all(record.problem for record in read(tmp_path / "b.sdf"))


@given(st.sampled_from(sorted(GOOD)), st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=6)), max_size=6))
@settings(max_examples=300, deadline=None)
def test_mutated_files_are_read_or_refused(tmp_path_factory, write, form, changes):
    body = getattr(write, form)(*ETHANOL).encode() * 2
    for place, piece in changes:
        body = body[:place] + piece + body[place + len(piece) // 2 :]
    path = tmp_path_factory.getbasetemp() / f"mutated{GOOD[form]}"
    path.write_bytes(body)
    try:
        records = read(path)
    except FormatError:
        return
    for record in records:
        if record.problem:
            assert record.topology is None
        else:
            n = len(record.topology.elements)
            assert len(record.positions) == 3 * n and np.isfinite(record.positions).all()
            assert all(0 <= i < j < n for i, j, _ in record.topology.bonds)


def test_the_text_decides_where_the_suffix_says_nothing(tmp_path, write):
    for form in GOOD:
        (tmp_path / form).write_text(getattr(write, form)(*ETHANOL))
        (record,) = read(tmp_path / form)
        assert record.topology.elements == (6, 6, 8)


def test_a_molfile_needs_no_dollars_but_an_end(tmp_path, write):
    (tmp_path / "a.mol").write_text(write.v2000(*ETHANOL, end="M  END\n"))
    assert read(tmp_path / "a.mol")[0].topology.bonds == ((0, 1, 1), (1, 2, 1))
    (tmp_path / "a.sdf").write_text(write.v2000(*ETHANOL, end="> <x>\n1\n\n$$$$\n") + write.v2000(*ETHANOL, end="$$$$"))
    assert not any(record.problem for record in read(tmp_path / "a.sdf"))
    (tmp_path / "b.mol").write_text(write.v2000(*ETHANOL, end=""))
    assert "without 'M  END'" in read(tmp_path / "b.mol")[0].problem


def test_mol2_without_bonds_that_connect(tmp_path, write):
    text = write.mol2(*ETHANOL).replace("2 2 3 1", "2 2 3 nc")
    (tmp_path / "a.mol2").write_text(text)
    assert read(tmp_path / "a.mol2")[0].topology.bonds == ((0, 1, 1),)


def test_a_file_of_any_length_is_read_by_pieces(write, monkeypatch):
    monkeypatch.setattr(_files, "PIECE", 1000)
    for form in ("v2000", "mol2"):
        once = getattr(write, form)(*ETHANOL).encode()
        for body in (once * 500, gzip.compress(once * 500), b"".join(gzip.compress(once) for _ in range(500))):
            stream = io.BytesIO(body)
            records = _files._records("stream", stream, "mol2" if form == "mol2" else "sdf", Topologies())
            for number in range(10):
                assert next(records).number == number
            if len(body) > 10000:
                assert stream.tell() < len(body) / 2
            assert [record.number for record in records] == list(range(10, 500))


def test_the_places_of_some_atoms(tmp_path, write):
    (tmp_path / "a.sdf").write_text(write.v2000(*ETHANOL))
    (record,) = read(tmp_path / "a.sdf")
    out = np.full(7, np.nan)
    record.place(np.array([2, 0], dtype=np.int32), out, 1)
    assert out[1:].tolist() == [2.0, 1.4, 0.0, 0.0, 0.0, 0.0] and np.isnan(out[0])
    for atoms, first in (([3], 0), ([-1], 0), ([0, 1, 2], 0), ([0], 5), ([0], -1)):
        with pytest.raises(IndexError):
            record.place(np.array(atoms, dtype=np.int32), out, first)
    with pytest.raises(IndexError):
        Topologies().record("a", 0, 1, b"abc", 1, 9, True, False)
    for columns, rows in ((2, (0, 4)), (-1, (0, 1)), (1, (2, 1))):
        with pytest.raises(IndexError):
            rows_text(out, columns, *rows)


def test_charges_of_the_formats(tmp_path, write):
    texts = write.v2000(*ETHANOL).split("\n"), write.v3000(*ETHANOL)
    column = [line[:36] + "  3" + line[39:] if line[31:34] == "O  " else line for line in texts[0]]
    line = [*column[:-3], "M  CHG  2   1  -1   2   2", *column[-3:]]
    third = texts[1].replace("0 CFG=0", "0 CHG=-2 CFG=0")
    for text, charges in (("\n".join(column), (0, 0, 1)), ("\n".join(line), (-1, 2, 0)), (third, (-2, -2, -2))):
        (tmp_path / "a.sdf").write_text(text)
        (record,) = read_records(str(tmp_path / "a.sdf"), Topologies(True))
        assert record.topology.charges == charges
        assert read(tmp_path / "a.sdf")[0].topology.charges is None
    for bad in ("M  CHG  2   1  -1", "M  CHG  1   4   1", "M  CHG  1   1   x", "M  CHG"):
        (tmp_path / "a.sdf").write_text("\n".join([*column[:-3], bad, *column[-3:]]))
        assert "does not give a number and so many pairs" in read(tmp_path / "a.sdf")[0].problem
    (tmp_path / "a.sdf").write_text(third.replace("CHG=-2", "CHG=x"))
    assert "'CHG=x' is no charge" in read(tmp_path / "a.sdf")[0].problem
