"""Structures for the viewer: aligned without distortion, complete, and with the script that draws them."""

import base64
import gzip
import json
import re

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from sddfkit.viz import MissingScriptError, view3d


def embedded(smiles: str, n: int) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(mol, n, randomSeed=3)
    return mol


def single(mol: Chem.Mol) -> list[Chem.Mol]:
    return [Chem.Mol(mol, confId=c.GetId()) for c in mol.GetConformers()]


def blocks(mol: Chem.Mol, v3000: bool = False) -> list[str]:
    return [Chem.MolToMolBlock(mol, confId=c.GetId(), forceV3000=v3000) for c in mol.GetConformers()]


def distances(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def data_of(html: str) -> dict:
    return json.loads(re.search(r'type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)[1])


def test_alignment_keeps_every_distance():
    mols = single(embedded("OC(=O)c1ccccc1N", 3))
    for mol, turned in zip(mols, view3d.aligned(mols), strict=True):
        assert distances(turned) == pytest.approx(distances(mol.GetConformer().GetPositions()), abs=1e-9)


def test_conformers_of_one_molecule_end_on_top_of_each_other():
    first, moved = single(embedded("c1ccccc1CCO", 2))
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    moved.GetConformer().SetPositions(first.GetConformer().GetPositions() @ rotation + 5.0)
    x, y = view3d.aligned([first, moved])
    assert x == pytest.approx(y, abs=1e-6)


def test_a_turned_phenyl_ring_is_no_difference():
    (mol,) = single(embedded("c1ccccc1CCO", 1))
    turned = Chem.Mol(mol)
    x = mol.GetConformer().GetPositions()
    order = np.arange(len(x))
    order[[0, 4, 1, 3]] = [4, 0, 3, 1]  # ortho and meta carbons trade places
    turned.GetConformer().SetPositions(np.ascontiguousarray(x[order]))
    a, b = view3d.aligned([mol, turned])
    heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
    assert a[order][heavy] == pytest.approx(b[heavy], abs=1e-6)


def test_alignment_keeps_the_enantiomer():
    mol = embedded("F[C@](Cl)(Br)CC", 4)
    for positions in view3d.aligned(single(mol)):
        turned = single(mol)[0]
        turned.GetConformer().SetPositions(np.ascontiguousarray(positions))
        Chem.AssignStereochemistryFrom3D(turned)
        assert Chem.FindMolChiralCenters(turned) == Chem.FindMolChiralCenters(mol)


def test_longest_axis_lies_across():
    (x,) = view3d.aligned(single(embedded("CCCCCCCC", 1)))
    spans = np.ptp(x, axis=0)
    assert spans[0] == spans.max()


@pytest.mark.parametrize("smiles", ["[Cl-]", "[H][H]", "C#C", "O"])
def test_atoms_and_linear_molecules_can_be_turned(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    x, again = view3d.aligned([mol, mol])
    assert np.isfinite(x).all() and np.isfinite(again).all()


@pytest.mark.parametrize("v3000", [False, True], ids=["V2000", "V3000"])
def test_viewer_carries_all_structures_in_order_with_the_bonds_of_the_molecule(v3000):
    mol = embedded("CC=O", 2)
    molblocks = dict(zip("ab", blocks(mol, v3000), strict=True))
    views = [{"record_id": key, "name": "ethanal & co", "caption": f"conformer {key}"} for key in "ba"]
    data = data_of(view3d.viewer(views, molblocks))
    assert [frame["id"] for frame in data["frames"]] == ["b", "a"]
    assert [frame["title"] for frame in data["frames"]] == ["ethanal & co"] * 2
    (graph,) = data["graphs"]
    assert graph["elements"] == [atom.GetSymbol() for atom in mol.GetAtoms()]
    assert [0, 1, 1] in graph["bonds"] and [1, 2, 2] in graph["bonds"] and len(graph["bonds"]) == 6
    assert all(len(frame["xyz"]) == 3 * mol.GetNumAtoms() for frame in data["frames"])


def test_ring_bonds_alternate_and_frames_may_be_different_molecules():
    mols = single(embedded("c1ccccc1", 1)) + single(embedded("C#N", 2))
    data = view3d.scene(mols, titles=["a", "b", "c"], captions=["", "", ""])
    assert [frame["graph"] for frame in data["frames"]] == [0, 1, 1]
    assert sorted(order for *_, order in data["graphs"][0]["bonds"])[-6:] == [1, 1, 1, 2, 2, 2]
    assert sorted(order for *_, order in data["graphs"][1]["bonds"]) == [1, 3]


def test_missing_and_unreadable_structures_are_refused_by_name():
    with pytest.raises(ValueError, match=r"1 of 1 views.*xyz"):
        view3d.viewer([{"record_id": "xyz", "name": "", "caption": ""}], {})
    with pytest.raises(ValueError, match="structure 0"):
        view3d.viewer([{"record_id": "xyz", "name": "", "caption": ""}], {"xyz": "nothing"})


def test_missing_script_says_which_command_gets_it(monkeypatch, tmp_path):
    monkeypatch.setattr(view3d.resources, "files", lambda package: tmp_path)
    with pytest.raises(MissingScriptError, match="make viewer"):
        view3d.script()


def test_script_cannot_end_its_element_and_carries_its_licence():
    text = view3d.script()
    assert "</script" not in text
    assert text.startswith("/*") and "University of Pittsburgh" in text[: text.index("*/")]


def test_library_holds_both_scripts_and_leaves_the_page_alone():
    key, packed = view3d.library()
    text = gzip.decompress(base64.b64decode(packed)).decode()
    assert view3d.script() in text and "(function (define, module, exports)" in text
    assert len(packed) < 250_000, "every view of a notebook carries it"
    assert view3d.library() == (key, packed)
