"""What a notebook shows: views of any structures, figures in the colours of the page, mappings."""

import base64
import json
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rdkit import Chem

from sddfkit.chem import etkdg, molecules_from_smiles
from sddfkit.chem.rmsd import rmsd
from sddfkit.viz import conformer_plots, draw_mapping, picture, run, show, side_by_side, view3d
from sddfkit.viz.symmetry import swaps


@pytest.fixture(scope="module")
def found():
    mol = molecules_from_smiles("OCCc1ccccc1", name="phenylethanol")[0]
    return etkdg(mol, 4, np.random.default_rng(0), prune_rmsd=None)


def data_of(view) -> dict:
    return json.loads(re.search(r'class="view-data">(.*?)</script>', view._repr_html_(), re.DOTALL)[1])


def texts(figure) -> list[str]:
    return [t.get_text() for axes in figure.axes for t in axes.texts]


def test_show_takes_conformers_molecules_and_lists_of_them(found):
    single = Chem.Mol(found.mol, confId=2)
    assert [f["title"] for f in data_of(show(found))["frames"]] == [f"conformer {i}" for i in range(4)]
    assert [f["title"] for f in data_of(show(single))["frames"]] == ["phenylethanol"]
    water = etkdg(Chem.MolFromSmiles("O"), 1, np.random.default_rng(0))
    both = data_of(show([found, water]))
    assert [f["graph"] for f in both["frames"]] == [0, 0, 0, 0, 1]
    assert both["frames"][4]["title"] == "O" and both["frames"][0]["title"] == "phenylethanol, conformer 0"


def test_show_writes_values_with_units_and_labels_under_the_structures(found):
    view = show(
        found, conformers=[3, 1], values={"ΔE, kcal/mol": [0.0, 1.234], "RMSD, Å": [0.0, 0.5]}, labels=["a", "b"]
    )
    frames = data_of(view)["frames"]
    assert [f["title"] for f in frames] == ["conformer 3", "conformer 1"]
    assert frames[1]["caption"] == "ΔE 1.23 kcal/mol · RMSD 0.50 Å · b"


def test_show_leaves_structures_where_they_are_if_asked(found):
    frames = data_of(show(found, align=False))["frames"]
    expected = found.mol.GetConformer(2).GetPositions()
    assert np.array(frames[2]["xyz"]).reshape(-1, 3) == pytest.approx(expected, abs=1e-3)
    fitted = np.array(data_of(show(found))["frames"][2]["xyz"]).reshape(-1, 3)
    assert np.abs(fitted - expected).max() > 0.1


def test_show_refuses_what_it_cannot_show(found):
    with pytest.raises(ValueError, match="no conformer to show"):
        show(Chem.MolFromSmiles("C"))
    with pytest.raises(ValueError, match=r"labels has shape \(1,\), expected one entry for each of 4 structures"):
        show(found, labels=["one"])
    with pytest.raises(ValueError, match=r"no conformer 9; the ids are \[0, 1, 2, 3\]"):
        show(found, conformers=[0, 9])


def test_names_cannot_close_the_script(found):
    hostile = "</script><script>alert(1)</script>"
    view = show(found, titles=[hostile] * 4)
    assert "<script>alert" not in view._repr_html_()
    assert data_of(view)["frames"][0]["title"] == hostile


def test_each_view_carries_its_script_packed_and_asks_nothing_of_the_net(found):
    html = show(found)._repr_html_()
    assert view3d.library()[1] in html
    assert len(html) < 260_000
    assert not re.search(r"https?://", html)


def test_view_tells_jupyterlab_to_leave_the_keys(found):
    assert 'data-lm-suppress-shortcuts="true"' in show(found)._repr_html_()


def test_saved_view_is_a_page(found, tmp_path):
    page = show(found).save_html(tmp_path / "view.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and page.count('class="sddfkit view"') == 1


def test_picture_follows_the_theme_and_keeps_its_ids_to_itself():
    figure = conformer_plots.energy_against_rmsd([0.0, 1.0], [0.0, 2.0], source="GFN2-xTB")
    shown = picture(figure, caption="a < b")
    first, second = shown._repr_html_(), shown._repr_html_()
    assert "var(--series-main" in first and "light-dark(" in first and "a &lt; b" in first
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (first, second)]
    assert ids[0] and ids[0].isdisjoint(ids[1])
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', first))
    assert used and used <= ids[0]


def test_side_by_side_brings_its_own_script(found):
    html = side_by_side(found.mol)._make_html()
    assert "cdn" not in html and "https://" not in html.split("base64,")[0]
    source = re.search(r"loadScriptAsync\('data:text/javascript;base64,([^']+)'\)", html)[1]
    assert base64.b64decode(source).decode() == view3d.script()
    assert html.count("addModel(") == 4


@pytest.mark.parametrize("n", [0, 25])
def test_side_by_side_refuses_nothing_and_too_much(n):
    mol = Chem.AddHs(Chem.MolFromSmiles("C"))
    for _ in range(n):
        mol.AddConformer(Chem.Conformer(5), assignId=True)
    with pytest.raises(ValueError, match=f"was given {n}:"):
        side_by_side(mol)


def test_swaps_are_the_cycles_of_a_mapping():
    assert swaps(np.array([0, 1, 2])) == []
    assert swaps(np.array([3, 1, 4, 0, 5, 2])) == [[0, 3], [2, 4, 5]]


def test_mapping_is_drawn_with_the_numbers_of_both_conformers(found):
    mol = found.mol
    turned = Chem.Mol(mol, confId=0)
    order = list(range(mol.GetNumAtoms()))
    order[4], order[8], order[5], order[7] = 8, 4, 7, 5  # the ortho and the meta carbons
    x = mol.GetConformer(0).GetPositions()
    turned.GetConformer().SetPositions(np.ascontiguousarray(x[order]))
    shown = draw_mapping(mol, rmsd(mol, turned, align=True))._repr_html_()
    assert re.search(r"RMSD [\d.]+ Å, the least over 2 numberings", shown)
    assert "4\u00a0↔\u00a08 and 5\u00a0↔\u00a07 change places" in shown
    assert shown.count("<svg") == 2 and "color-mix(in srgb, var(--series-0" in shown
    same = draw_mapping(mol, rmsd(mol, mol, align=True))._repr_html_()
    assert "every atom is compared with itself" in same


def test_mapping_with_hydrogens_is_refused(found):
    result = rmsd(found.mol, found.mol, align=True, hydrogens=True)
    with pytest.raises(ValueError, match="hydrogens=False"):
        draw_mapping(found.mol, result)


def test_heatmap_puts_alike_conformers_side_by_side():
    points = np.array([0.0, 5.0, 0.1, 5.1])
    figure = conformer_plots.rmsd_heatmap(np.abs(points[:, None] - points), names=["a", "b", "c", "d"])
    heat = figure.axes[0]
    order = "".join(label.get_text() for label in heat.get_xticklabels())
    assert {order[:2], order[2:]} in ({"ac", "bd"}, {"ca", "bd"}, {"ac", "db"}, {"ca", "db"})
    cells = heat.collections[0].get_array().reshape(4, 4)
    assert cells[0, 1] < 0.2 and cells[1, 2] > 4


def test_heatmap_refuses_names_that_do_not_fit_and_says_when_there_is_nothing():
    with pytest.raises(ValueError, match=r"expected \(k, k\) with k = 3"):
        conformer_plots.rmsd_heatmap(np.zeros((2, 2)), names="abc")
    assert texts(conformer_plots.rmsd_heatmap([[0.0]])) == ["no pair of conformers"]


def test_naive_rmsd_is_drawn_over_the_exact_one():
    exact = np.array([[0, 1, 2], [1, 0, 1], [2, 1, 0]], dtype=float)
    naive = exact.copy()
    naive[0, 1] = naive[1, 0] = 2.5
    figure = conformer_plots.naive_against_exact(naive, exact)
    assert texts(figure) == ["1 of 3 pairs\nmore than 0.05 Å too far,\nat worst by 1.50 Å"]
    assert texts(conformer_plots.naive_against_exact([[0.0]], [[0.0]])) == ["no pair of conformers"]


def test_energies_without_a_number_are_left_out():
    figure = conformer_plots.energy_against_rmsd([0.0, 1.0, 2.0], [0.0, np.nan, 1.0], source="GFN2-xTB")
    assert texts(figure) == ["0", "2"]
    assert "GFN2-xTB" in figure.axes[0].get_ylabel()
    nothing = conformer_plots.energy_against_rmsd([0.0], [np.nan], source="GFN2-xTB")
    assert texts(nothing) == ["no conformer with an energy"]


def test_names_of_points_keep_clear_of_each_other():
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0.5, 1.3, 12), rng.uniform(1, 3.5, 12)
    figure = conformer_plots.energy_against_rmsd([0, *x], [0, *y], source="GFN2-xTB")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]
    assert len(boxes) == 13
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_predictions_are_relative_to_the_mean_of_each_network():
    figure = conformer_plots.predicted_energies({"a": [10.0, 12.0], "b": [100.0, 98.0]}, [0.0, 1.0], source="DFT")
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(lines["a"]) == [-1.0, 1.0] and list(lines["b"]) == [1.0, -1.0]
    assert list(lines["DFT"]) == [-0.5, 0.5]
    assert texts(conformer_plots.predicted_energies({})) == ["no conformer"]


@pytest.mark.parametrize("piece", [run.learning, run.parity, run.calibration, run.chosen])
def test_the_pictures_of_a_run_stand_alone(built, piece):
    html = piece(built[0])._repr_html_()
    assert "<svg" in html and "<h2" not in html
    assert 'href="#view3d"' not in html, "no link to a view that is not there"


def test_chosen_structures_are_found_by_their_record_id(built, monkeypatch):
    report, molblocks = built
    mols = {key: Chem.MolFromMolBlock(block, removeHs=False) for key, block in molblocks.items()}
    monkeypatch.setattr(run, "to_mol", lambda record: mols[record.record_id])
    records = [type("Row", (), {"record_id": key})() for key in mols]
    frames = data_of(run.chosen_structures(report, records))["frames"]
    assert [f["caption"] for f in frames] == [view["caption"] for view in report["views"]]
    with pytest.raises(ValueError, match=r"1 of \d+ chosen records"):
        run.chosen_structures(report, records[1:])


def test_a_folder_without_a_report_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"report\.json does not exist"):
        run.read_report(tmp_path)
