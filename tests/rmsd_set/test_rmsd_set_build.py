"""One component: the ladder of conformers, the files, and the dictionary itself."""

import contextlib
import gzip
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem

pytest.importorskip("pynauty", reason="pynauty is not installed (extra bench)")

from flashrmsd_cy.cli import main as flashrmsd
from sddfkit.rmsd_set import Dictionary, RmsdSetError, Settings, build_component
from sddfkit.rmsd_set.conformers import NoConformersError, make_conformers
from sddfkit.rmsd_set.files import atom_orders

SETTINGS = Settings(conformers=3)


def made(item, k=3, **options):
    return make_conformers(item, k, np.random.default_rng(5), **options)


def bond_lengths(item, x):
    i, j = np.array([bond[:2] for bond in item.bonds]).T
    return np.linalg.norm(x[:, i] - x[:, j], axis=-1)


def test_conformers_are_embedded_relaxed_and_the_same_again(few):
    first, again = made(few["GLY"]), made(few["GLY"])
    assert first.how == {"etkdg+mmff": 3} and first.positions.shape == (3, 10, 3)
    assert np.array_equal(first.positions, again.positions)
    assert np.array_equal(first.positions, np.round(first.positions, 4))
    assert np.abs(first.positions[0, few["GLY"].heavy].mean(axis=0)).max() < 1e-3


def test_valences_that_rdkit_refuses_leave_the_coordinates_of_the_dictionary(few):
    strange = replace(few["TFE"], elements=["C" if element == "F" else element for element in few["TFE"].elements])
    bad = replace(strange, bonds=[(i, j, 3) for i, j, _ in strange.bonds])
    found = made(bad)
    assert found.how == {"ideal+torsion+noise": 3} and "valence" in found.notes[0]
    assert np.ptp(bond_lengths(bad, found.positions), axis=0).max() < 1.0  # noise, but nothing torn


def test_turned_bonds_keep_lengths_but_for_the_noise(few):
    item = few["GLY"]
    found = made(item, embed=False)
    assert found.how == {"ideal+torsion+noise": 3}
    off = bond_lengths(item, found.positions) - bond_lengths(item, np.array([item.ideal]))
    assert 0 < np.abs(off).max() < 0.8
    far = np.linalg.norm(found.positions[0][:, None] - found.positions[0][None], axis=-1)
    other = np.linalg.norm(found.positions[1][:, None] - found.positions[1][None], axis=-1)
    assert np.abs(far - other).max() > 0.5  # another shape, not only noise


def test_model_coordinates_serve_where_ideal_ones_are_missing(few):
    item = few["ETH"]
    found = made(replace(item, ideal=None, model=item.ideal), embed=False)
    assert np.array_equal(found.positions, made(item, embed=False).positions)


def test_without_any_way_the_component_is_a_failure_that_was_counted(few, tmp_path):
    bare = replace(few["BNZ"], ideal=None)
    with pytest.raises(NoConformersError, match="no complete coordinates"):
        made(bare, embed=False)
    row = build_component(bare, SETTINGS, tmp_path, embed=False)
    assert [item["class"] for item in row["failures"]] == ["conformers"] and row["files"] == []
    assert row["graphs"]["all"]["n_automorphisms"] == 12 and row["graphs"]["all"]["sc"] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ACT", "BNZ", "TFE"])
def test_files_hold_the_molecule_in_an_order_per_record(few, tmp_path, name):
    item = few[name]
    row = build_component(item, SETTINGS, tmp_path)
    smiles = set()
    orders = []
    with gzip.open(tmp_path / f"{name[-1]}/{name}_H.sdf.gz") as stream:
        for mol in Chem.ForwardSDMolSupplier(io.BytesIO(stream.read()), removeHs=False):
            smiles.add(Chem.MolToSmiles(Chem.RemoveHs(mol)))
            orders.append([atom.GetSymbol() for atom in mol.GetAtoms()])
    assert smiles == {Chem.MolToSmiles(Chem.MolFromSmiles(Chem.MolToSmiles(mol_of(item))))}
    expected = atom_orders(SETTINGS.seed, f"{name[-1]}/{name}_H", len(item.elements), 3)
    assert orders == [[item.elements[i] for i in order] for order in expected]
    assert len({tuple(order) for order in expected.tolist()}) == 3
    assert len(row["files"]) == 4 and not row["failures"]


def mol_of(item):
    mol = Chem.RWMol()
    for element, charge in zip(item.elements, item.charges, strict=True):
        atom = Chem.Atom(element)
        atom.SetFormalCharge(charge)
        mol.AddAtom(atom)
    for i, j, order in item.bonds:
        mol.AddBond(i, j, [None, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE][order])
    Chem.SanitizeMol(mol)
    return Chem.RemoveHs(mol)


@pytest.mark.parametrize("suffix", ["sdf", "mol2"])
@pytest.mark.parametrize("kind", ["heavy", "all"])
@pytest.mark.parametrize("align", [False, True])
def test_the_command_gives_the_reference_values_for_both_formats(few, tmp_path, suffix, kind, align):
    values = build_component(few["TBA"], SETTINGS, tmp_path)["graphs"][kind]
    options = ["-x"] + ["-m"] * align + ["-h"] * (kind == "all")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert flashrmsd([str(tmp_path / f"{values['file']}.{suffix}.gz"), *options]) == 0
    matrix = np.array([line.split() for line in said.getvalue().splitlines()], dtype=float)
    assert matrix[np.triu_indices(3, 1)] == pytest.approx(values["least" if align else "sc"], abs=2e-6)


def test_a_row_is_plain_json_and_the_same_again(few, tmp_path):
    rows = [json.dumps(build_component(few["DMS"], SETTINGS, tmp_path / name)) for name in "ab"]
    assert rows[0] == rows[1]
    assert (tmp_path / "a/S/DMS.mol2.gz").read_bytes() == (tmp_path / "b/S/DMS.mol2.gz").read_bytes()


@pytest.fixture(scope="module")
def dictionary():
    pytest.importorskip("biotite", reason="biotite is not installed (extra bench)")
    return Dictionary()


def test_the_dictionary_has_the_published_number_of_components(dictionary):
    assert (len(dictionary), len(dictionary.ids())) == (49195, 48813)
    with pytest.raises(RmsdSetError, match="no component 'no such'"):
        dictionary["no such"]


def test_components_are_complete(dictionary):
    atp, glx, haem = (dictionary[name] for name in ("ATP", "GLX", "HEM"))
    assert len(atp.heavy) == 31 and len(atp.elements) == 47 and len(atp.bonds) == 49 and sum(atp.charges) == 0
    assert sorted({kind for *_, kind in atp.bonds}) == [1, 2]
    assert "*" in glx.elements  # an atom that is either O or N
    assert haem.elements.count("Fe") == 1 and np.shape(haem.ideal or haem.model) == (len(haem.elements), 3)


def test_deuterium_is_hydrogen(dictionary):
    assert set(dictionary["DOD"].elements) == {"O", "H"}
