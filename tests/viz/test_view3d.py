"""Structures for the viewer: aligned without distortion, complete, and with the script that draws them."""

import base64
import json
import re

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from sddfkit.viz import MissingScriptError, show, view3d


def embedded(smiles: str, n: int) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(mol, n, randomSeed=3)
    return mol


def blocks(mol: Chem.Mol, v3000: bool = False) -> list[str]:
    return [Chem.MolToMolBlock(mol, confId=c.GetId(), forceV3000=v3000) for c in mol.GetConformers()]


def positions(block: str) -> np.ndarray:
    return Chem.MolFromMolBlock(block, removeHs=False).GetConformer().GetPositions()


def distances(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


@pytest.mark.parametrize("v3000", [False, True], ids=["V2000", "V3000"])
def test_alignment_keeps_every_distance_and_bond(v3000):
    before = blocks(embedded("OC(=O)c1ccccc1N", 3), v3000)
    after = view3d.aligned(before)
    for old, new in zip(before, after, strict=True):
        assert distances(positions(new)) == pytest.approx(distances(positions(old)), abs=1e-3)
        assert ("V3000" in new) == v3000
        mols = [Chem.MolFromMolBlock(block, removeHs=False) for block in (old, new)]
        assert len({Chem.MolToSmiles(mol) for mol in mols}) == 1


def test_conformers_of_one_molecule_end_on_top_of_each_other():
    before = blocks(embedded("c1ccccc1CCO", 2))
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    mol = Chem.MolFromMolBlock(before[0], removeHs=False)
    mol.GetConformer().SetPositions(positions(before[0]) @ (rotation * np.sign(np.linalg.det(rotation))) + 5.0)
    first, moved = view3d.aligned([before[0], Chem.MolToMolBlock(mol)])
    assert positions(first) == pytest.approx(positions(moved), abs=2e-3)


def test_alignment_keeps_the_enantiomer():
    mol = embedded("F[C@](Cl)(Br)CC", 4)
    for block in view3d.aligned(blocks(mol)):
        turned = Chem.MolFromMolBlock(block, removeHs=False)
        Chem.AssignStereochemistryFrom3D(turned)
        assert Chem.FindMolChiralCenters(turned) == Chem.FindMolChiralCenters(mol)


def test_longest_axis_lies_across():
    (block,) = view3d.aligned(blocks(embedded("CCCCCCCC", 1)))
    spans = np.ptp(positions(block), axis=0)
    assert spans[0] == spans.max()


@pytest.mark.parametrize("smiles", ["[Cl-]", "[H][H]", "C#C", "O"])
def test_atoms_and_linear_molecules_can_be_turned(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    (block,) = view3d.aligned(blocks(mol))
    assert np.isfinite(Chem.MolFromMolBlock(block, removeHs=False, sanitize=False).GetConformer().GetPositions()).all()


def test_viewer_carries_all_structures_in_order():
    mol = embedded("CCO", 2)
    molblocks = dict(zip("ab", blocks(mol), strict=True))
    views = [{"record_id": key, "name": "ethanol & co", "caption": f"conformer {key}"} for key in "ba"]
    html = view3d.viewer(views, molblocks)
    data = json.loads(re.search(r'type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)[1])
    assert [entry["id"] for entry in data] == ["b", "a"]
    assert "1. ethanol &amp; co" in html


def test_missing_and_unreadable_structures_are_refused_by_name():
    with pytest.raises(ValueError, match=r"1 of 1 views.*xyz"):
        view3d.viewer([{"record_id": "xyz", "name": "", "caption": ""}], {})
    with pytest.raises(ValueError, match="structure 0"):
        view3d.aligned(["nothing"])


def test_missing_script_says_which_command_gets_it(monkeypatch, tmp_path):
    monkeypatch.setattr(view3d.resources, "files", lambda package: tmp_path)
    with pytest.raises(MissingScriptError, match="make viewer"):
        view3d.script()


def test_script_cannot_end_its_element_and_carries_its_licence():
    text = view3d.script()
    assert "</script" not in text
    assert text.startswith("/*") and "University of Pittsburgh" in text[: text.index("*/")]


def test_show_brings_its_own_script():
    view = show(embedded("CCO", 3))
    html = view._make_html()
    assert "cdn" not in html and "https://" not in html.split("base64,")[0]
    source = re.search(r"loadScriptAsync\('data:text/javascript;base64,([^']+)'\)", html)[1]
    assert base64.b64decode(source).decode() == view3d.script()
    assert html.count("addModel(") == 3


@pytest.mark.parametrize("n", [0, 25])
def test_show_refuses_nothing_and_too_much(n):
    mol = Chem.AddHs(Chem.MolFromSmiles("C"))
    for _ in range(n):
        mol.AddConformer(Chem.Conformer(5), assignId=True)
    with pytest.raises(ValueError, match=f"was given {n} "):
        show(mol)
