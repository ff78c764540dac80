"""Files of others, made here in the layout of each format, and the public sets where they lie beside the project."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from rdkit import Chem
from rdkit.Chem import AllChem

from sddfkit.chem.molecules import molecule_id, molecules_from_smiles
from sddfkit.data.quality import flag
from sddfkit.data.readers import ReaderError, Refused, Stated, format_of, open_labels
from sddfkit.data.records import RECORDS, from_records, to_mol
from sddfkit.data.schema import Record
from sddfkit.units import BOHR_TO_ANGSTROM, EV_TO_KCAL_MOL, HARTREE_TO_EV

SHARED = Path(__file__).parents[2] / "../shared/data"
WATER = np.array([[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
LEVEL = "wB97X/6-31G(d)"
STIFFNESS = 0.3  # hartree/Å²


def springs(factors):
    """Waters breathing about their shape: positions, energies and forces that belong together."""
    places = np.array([WATER * f for f in factors])
    pull = places - WATER
    return places, -76.4 + 0.5 * STIFFNESS * (pull**2).sum(axis=(1, 2)), -STIFFNESS * pull


@pytest.fixture
def ani(tmp_path):
    """An HDF5 file as ANI-1 has it, with forces; returns its path and what it holds."""
    places, energies, forces = springs(np.linspace(0.95, 1.1, 8))
    path = tmp_path / "ani.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("gdb/water")
        group["coordinates"] = places.astype(np.float32)
        group["energies"] = energies
        group["forces"] = forces
        group["species"] = [b"O", b"H", b"H"]
        group["smiles"] = [b"O"]
    return path, places, energies, forces


def read(path, *args, **stated):
    source = open_labels(path, Stated(*args, **stated))
    found = list(source.records())
    return source, [r for r in found if isinstance(r, Record)], [r for r in found if isinstance(r, Refused)]


def test_ani_in_our_units(ani):
    path, places, energies, forces = ani
    source, records, refused = read(path, level=LEVEL)
    assert (source.format, source.level, source.count, refused) == ("ani", LEVEL, 8, [])
    assert "hartree" in source.assumed[0] and "published" in source.assumed[0]
    assert [r.conformer for r in records] == list(range(8))
    np.testing.assert_allclose([r.energy for r in records], energies * HARTREE_TO_EV, rtol=1e-14)
    np.testing.assert_allclose(records[3].positions, places[3], atol=1e-6)
    np.testing.assert_allclose(records[3].forces, forces[3] * HARTREE_TO_EV, rtol=1e-12)
    assert {r.molecule_id for r in records} == {"O"}
    assert records[0].bonds.tolist() == [[0, 1, 0], [0, 2, 0]]
    assert records[2].origin == "ani.h5, gdb/water, frame 2; bonds: by the SMILES of the file"
    assert molecule_id(to_mol(records[0])) == "O"
    assert from_records(records).schema.equals(RECORDS)
    assert [r.record_id for r in records] == [r.record_id for r in read(path, level=LEVEL)[1]]


def test_other_units(ani):
    path, places, energies, forces = ani
    with h5py.File(path, "a") as file:
        group = file["gdb/water"]
        group["coordinates"][...] = places / BOHR_TO_ANGSTROM
        group["energies"][...] = energies * HARTREE_TO_EV * EV_TO_KCAL_MOL
        group["forces"][...] = forces * HARTREE_TO_EV * EV_TO_KCAL_MOL * BOHR_TO_ANGSTROM
    _, records, _ = read(path, level=LEVEL, energy_unit="kcal/mol", length_unit="Bohr")
    np.testing.assert_allclose(records[5].energy, energies[5] * HARTREE_TO_EV, rtol=1e-12)
    np.testing.assert_allclose(records[5].positions, places[5], atol=1e-6)
    np.testing.assert_allclose(records[5].forces, forces[5] * HARTREE_TO_EV, rtol=1e-6)
    with pytest.raises(ReaderError, match="unknown unit 'furlong'"):
        open_labels(path, Stated(level=LEVEL, length_unit="furlong"))


def test_gradients_under_the_name_of_forces(ani):
    path, _, _, forces = ani
    with h5py.File(path, "a") as file:
        file["gdb/water/forces"][...] = -forces
    source = open_labels(path, Stated(level=LEVEL))
    with pytest.raises(ReaderError, match="the energy rises where the forces point"):
        list(source.records())
    _, records, _ = read(path, level=LEVEL, forces="gradient")
    np.testing.assert_allclose(records[0].forces, forces[0] * HARTREE_TO_EV, rtol=1e-12)
    with h5py.File(path, "a") as file:  # what COMP6 has beside them
        file["gdb/water/lot"] = [b"wb97x/6-31g*"]
        file["gdb/water/cm5"] = np.zeros((8, 3))
    source, records, _ = read(path)
    assert source.level == LEVEL
    np.testing.assert_allclose(records[0].forces, forces[0] * HARTREE_TO_EV, rtol=1e-12)


def test_several_energies_and_missing_ones(tmp_path):
    places, energies, forces = springs([1.0, 1.02, 1.04])
    path = tmp_path / "ani1x.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("H2O1")
        group["atomic_numbers"] = np.array([8, 1, 1], dtype=np.uint8)
        group["coordinates"] = places
        group["wb97x_dz.energy"] = energies
        group["wb97x_dz.forces"] = forces
        group["wb97x_dz.dipole"] = np.full((3, 3), 0.1)
        group["ccsd(t)_cbs.energy"] = [np.nan, -76.3, np.nan]
    with pytest.raises(ReaderError, match=r"several energies: ccsd\(t\)_cbs.energy, wb97x_dz.energy"):
        open_labels(path)
    source, records, refused = read(path, energy="ccsd(t)_cbs")
    assert (source.level, len(records), records[0].forces) == ("CCSD(T)*/CBS", 1, None)
    assert refused[0] == Refused(str(path), "H2O1, frame 0", "it has no energy") and len(refused) == 2
    source, records, refused = read(path, energy="wb97x_dz.energy")
    assert (source.level, len(records), len(refused)) == (LEVEL, 3, 0)
    assert records[0].dipole.tolist() == [0.1] * 3


def test_what_is_wrong_in_a_group_is_refused_and_the_next_one_read(ani):
    path, places, energies, _ = ani
    with h5py.File(path, "a") as file:
        bad = file.create_group("gdb/alien")
        bad["coordinates"], bad["energies"], bad["species"] = places, energies, [b"O", b"Xx", b"H"]
        short = file.create_group("gdb/short")
        short["coordinates"], short["energies"], short["species"] = places, energies[:3], [b"O", b"H", b"H"]
        file["gdb/water/energies"][1] = np.nan
        file["gdb/water/coordinates"][2, 0, 0] = np.inf
    _, records, refused = read(path, level=LEVEL)
    assert [(r.place, r.reason) for r in refused[:1]] == [
        ("gdb/alien", "the group cannot be read: 'Xx' is not a chemical element")
    ]
    assert "do not fit" in refused[1].reason
    assert [(r.place, r.reason) for r in refused[2:]] == [
        ("gdb/water, frame 1", "it has no energy"),
        ("gdb/water, frame 2", "a position is not finite"),
    ]
    assert len(records) == 6


def test_smiles_that_the_positions_do_not_show(ani):
    path, *_ = ani
    with h5py.File(path, "a") as file:
        del file["gdb/water/smiles"]
        file["gdb/water/smiles"] = [b"C", b"O"]
    _, records, _ = read(path, level=LEVEL)
    assert records[0].molecule_id == "CO", "identity is what the file says it is"
    assert records[0].qc_flags == ("bonds: the positions do not show those of CO",)
    assert records[0].bonds.tolist() == [[0, 1, 0], [0, 2, 0]]
    _, records, _ = read(path, level=LEVEL, bonds="none")
    assert (len(records[0].bonds), records[0].origin.split("; ")[1]) == (0, "bonds: left out, as asked")


@pytest.fixture
def database(tmp_path):
    """A database as SchNetPack writes it: energies above the isolated atoms, in the units of its metadata."""
    path = tmp_path / "set.db"
    with connect(path, append=False) as rows:
        refs = np.zeros(9)
        refs[[1, 8]] = -0.5, -75.0
        rows.metadata = {
            "_distance_unit": "Ang",
            "_property_unit_dict": {"energy": "Hartree", "forces": "Hartree/Ang"},
            "atomrefs": {"energy": refs.tolist()},
        }
        for k, factor in enumerate((1.0, 1.05)):
            places, energies, forces = springs([factor])
            data = {"energy": energies + 76.0, "forces": forces[0]}
            rows.write(Atoms("OHH", places[0]), key_value_pairs={"smiles": "O", "conformation_id": k}, data=data)
        rows.write(Atoms("OHH", WATER, cell=[9, 9, 9], pbc=True), data=data)
        rows.write(Atoms("OHH", WATER * 0.98), key_value_pairs={"converged": False}, data={"energy": [-0.4]})
    return path


def test_ase_database_with_its_references_added(database):
    with pytest.raises(ReaderError, match="does not say whether they were removed"):
        open_labels(database, Stated(level="x"))
    with pytest.raises(ReaderError, match=r"-0\.40 hartree and its isolated atoms have -76\.00"):
        read(database, level="x", zero="total")
    source, records, refused = read(database, level="x", zero="above-atoms")
    assert source.isolated_atoms == pytest.approx({1: -0.5 * HARTREE_TO_EV, 8: -75.0 * HARTREE_TO_EV})
    assert source.count == 4
    _, energies, forces = springs([1.0, 1.05])
    np.testing.assert_allclose([r.energy for r in records[:2]], energies * HARTREE_TO_EV, rtol=1e-12)
    np.testing.assert_allclose(records[1].forces, forces[1] * HARTREE_TO_EV, rtol=1e-12)
    assert [r.conformer for r in records[:2]] == [0, 1]
    assert records[2].qc_flags == ("SCF: the file says converged=False",)
    assert [(r.place, "periodic" in r.reason) for r in refused] == [("row 3", True)]


def test_ase_calculators_are_in_their_units(tmp_path):
    path = tmp_path / "calc.db"
    atoms = Atoms("OHH", WATER)
    atoms.calc = SinglePointCalculator(atoms, energy=-2079.0, forces=np.zeros((3, 3)))
    with connect(path) as rows:
        rows.write(atoms)
    source, records, _ = read(path, level="PBE/def2-SVP")
    assert records[0].energy == -2079.0 and "ASE keeps" in source.assumed[0]
    assert records[0].molecule_id == "O"


def test_energies_without_a_unit_or_a_zero_are_refused(tmp_path):
    path = tmp_path / "bare.db"
    with connect(path) as rows:
        rows.write(Atoms("OHH", WATER), data={"energy": [-0.4]})
    with pytest.raises(ReaderError, match="does not say in which unit of energy"):
        open_labels(path, Stated(level="x"))
    with pytest.raises(ReaderError, match="these are no total energies"):
        read(path, level="x", energy_unit="hartree")
    with pytest.raises(ReaderError, match="holds no energies of isolated atoms to add"):
        open_labels(path, Stated(level="x", energy_unit="hartree", zero="above-atoms"))
    stated = {"level": "x", "energy_unit": "hartree", "zero": "above-atoms"}
    _, records, _ = read(path, isolated_atoms={1: -0.5, 8: -75.0}, **stated)
    assert records[0].energy == pytest.approx(-76.4 * HARTREE_TO_EV)
    _, _, refused = read(path, isolated_atoms={1: -0.5}, **stated)
    assert refused[0].reason == "no energy of the isolated atom Z=8 to add"


def embedded(smiles, name):
    mol = molecules_from_smiles(smiles, name=name)[0]
    AllChem.EmbedMolecule(mol, randomSeed=7)
    return mol


def sdf(mol, energy=None, tag="energy"):
    return Chem.MolToMolBlock(mol) + (f"> <{tag}>\n{energy}\n\n" if energy is not None else "") + "$$$$\n"


def test_sdf_with_energies(tmp_path):
    path = tmp_path / "set.sdf"
    acetate, ethanol = embedded("CC(=O)[O-]", "acetate"), embedded("CCO", "ethanol")
    bare = Chem.RemoveHs(ethanol)
    texts = [sdf(acetate, -228.5), sdf(ethanol, -155.0), sdf(ethanol, -154.9), sdf(bare, -155.0), sdf(ethanol)]
    path.write_text("".join([*texts, sdf(ethanol, "a lot"), "no molecule\n$$$$\n"]))
    source, records, refused = read(path, level=LEVEL)
    assert (source.format, source.count) == ("sdf", 7)
    assert [(r.name, r.molecule_id, r.charge, r.conformer) for r in records] == [
        ("acetate", "CC(=O)[O-]", -1, 0),
        ("ethanol", "CCO", 0, 0),
        ("ethanol", "CCO", 0, 1),
    ]
    assert records[1].energy == -155.0 * HARTREE_TO_EV and records[1].origin.endswith("bonds: of the file")
    assert records[0].formal_charges.sum() == -1
    reasons = [r.reason for r in refused]
    assert "hydrogens are missing" in reasons[0]
    assert reasons[1] == "it has no property <energy> and no line 'Energy:'"
    assert reasons[2] == "its energy is 'a lot', no number"
    assert len(reasons) == 4 and all(r.place.startswith("line ") for r in refused)
    with pytest.raises(ReaderError, match="does not name its level"):
        open_labels(path)


def test_folder_of_mol_files(tmp_path):
    block = Chem.MolToMolBlock(embedded("CCO", "ethanol"))
    for k in range(2):
        (tmp_path / f"m{k}.mol").write_text(f"{block}Energy: {-155.0 - k}\n")
    source, records, refused = read(tmp_path, level=LEVEL)
    assert (source.count, refused) == (2, [])
    assert [r.energy for r in records] == [-155.0 * HARTREE_TO_EV, -156.0 * HARTREE_TO_EV]
    assert records[1].origin.startswith(f"{tmp_path.name}, m1.mol, line 1")


def processed(path, mol, *, types=None, target=-155.0):
    """A conformer as the published code processes it: all pairs are edges, bonds marked among them."""
    kinds = {1: 0, 6: 1, 7: 2, 8: 3}
    n = mol.GetNumAtoms()
    bonded = {frozenset((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in mol.GetBonds()}
    edges = [(i, j) for i in range(n) for j in range(n) if i != j]
    np.savez(
        path,
        x=np.array(types or [[kinds[a.GetAtomicNum()]] for a in mol.GetAtoms()]),
        edge_index=np.array(edges).T,
        edge_attr_0=np.zeros(len(edges)),
        edge_attr_1=np.array([0 if frozenset(edge) in bonded else 6 for edge in edges]),
        edge_attr_2=np.zeros((len(edges), 4)),
        edge_weights=np.ones(len(edges)),
        pos=mol.GetConformer().GetPositions().astype(np.float32),
        smiles=Chem.MolToSmiles(Chem.RemoveHs(mol)),
        file_name="/data/raw/ethanol_3.mol",
        initial_target=target,
    )


def test_processed_conformers(tmp_path):
    mol = embedded("C[NH2+]CC(=O)[O-]", "sarcosine")
    processed(tmp_path / "a.npz", mol)
    processed(tmp_path / "b.npz", mol, types=[[8]] * mol.GetNumAtoms())
    processed(tmp_path / "c.npz", mol, target=np.float32(-1500.1))
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 cut off")
    assert format_of(tmp_path) == "sddf-npz"
    _, records, refused = read(tmp_path, level=LEVEL)
    assert records[0].energy == -155.0 * HARTREE_TO_EV
    assert records[0].molecule_id == molecule_id(mol) and records[0].name == "ethanol_3"
    assert sorted(records[0].formal_charges.tolist()) == [-1, *[0] * (mol.GetNumAtoms() - 2), 1]
    assert records[1].qc_flags == ("energy: kept in single precision, in steps of 3.3 meV",)
    assert [Path(r.source).name for r in refused] == ["b.npz", "d.npz"]
    assert "stands for no element" in refused[0].reason


def test_conformers_with_energies_by_several_methods(tmp_path):
    mol = embedded("CC(=O)[O-]", "acetate")
    n = mol.GetNumAtoms()
    bonds = np.array([[b.GetBeginAtomIdx(), b.GetEndAtomIdx(), 1] for b in mol.GetBonds()], dtype=np.uint8)
    path = tmp_path / "set.npz"
    np.savez(
        path,
        Z=np.tile([a.GetAtomicNum() for a in mol.GetAtoms()], 2).astype(np.uint8),
        xyz=np.tile(mol.GetConformer().GetPositions(), (2, 1)).astype(np.float32),
        offset=[0, n, 2 * n],
        bonds=np.tile(bonds, (2, 1)),
        bond_offset=[0, len(bonds), 2 * len(bonds)],
        name=["acetate", "acetate"],
        conf=["c1", "c2"],
        charge=np.array([-1, -1], dtype=np.int8),
        smiles=["CC(=O)[O-]"] * 2,
        wb97x_nod=[-228.5, np.nan],
        mine=[-228.6, -228.7],
    )
    with pytest.raises(ReaderError, match="say which of wb97x_nod, mine"):
        open_labels(path)
    source, records, refused = read(path, energy="wb97x_nod")
    assert (source.format, source.level, source.count) == ("conformer-benchmark", "wB97X/def2-TZVP", 2)
    assert (records[0].charge, records[0].molecule_id, records[0].conformer) == (-1, "CC(=O)[O-]", 0)
    assert (refused[0].place, refused[0].reason) == ("acetate c2", "it has no energy")
    with pytest.raises(ReaderError, match="does not name its level"):
        open_labels(path, Stated(energy="mine"))


def test_files_that_are_none_of_these(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 64)
    (tmp_path / "x.db").write_bytes(b"SQLite format 3\0" + b"\0" * 200)
    (tmp_path / "x.txt").write_text("hello")
    np.savez(tmp_path / "x.npz", a=np.zeros(2))
    for name, words in (
        ("x.h5", "cannot be read as HDF5"),
        ("x.db", "cannot be read as a database of ASE"),
        ("x.txt", "of no known format"),
        ("x.npz", "of no known layout: its arrays are a"),
        ("none.h5", "no such file"),
    ):
        with pytest.raises(ReaderError, match=words):
            open_labels(tmp_path / name, Stated(level="x"))
    with pytest.raises(ReaderError, match="unknown format 'qm9'"):
        open_labels(tmp_path / "x.h5", format="qm9")


def test_imported_rows_go_through_the_quality_gate(ani):
    path, *_ = ani
    with h5py.File(path, "a") as file:
        group = file["gdb/water"]
        group["forces"][0, 0] += 2.0  # hartree/Å: a large net force
        torn = group["coordinates"][1]
        torn[1] *= 4.0
        group["coordinates"][1] = torn
    _, records, _ = read(path, level=LEVEL)
    reasons = flag(records)
    assert any(r.startswith("net force") for r in reasons[0]) and any(r.startswith("force:") for r in reasons[0])
    assert records[1].molecule_id == "O"
    assert any("SMILES" in r for r in reasons[1]) or records[1].qc_flags
    assert reasons[3] == ()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public sets do not lie beside the project")
def test_public_sets():
    source, records, refused = read(SHARED / "COMP6/s66x8_wb97x6-31gd.h5")
    assert (source.level, len(records), refused) == (LEVEL, 528, [])
    assert records[0].energy == pytest.approx(-152.78863962 * HARTREE_TO_EV)
    assert not any(r.qc_flags for r in records)
    stated = Stated(level="wB97X-D/def2-SVP", zero="above-atoms")
    first = next(open_labels(SHARED / "nablaDFT/test_database.db", stated).records())
    assert isinstance(first, Record)
    assert first.energy / HARTREE_TO_EV == pytest.approx(-6.5379 - 1730.6562, abs=1e-3), "C14H19ClN2O3S"
    assert json.dumps(first.qc_flags) == "[]"
