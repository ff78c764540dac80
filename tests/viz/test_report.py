"""write_report: self-contained, escaped, the same numbers as JSON, and nothing breaks when there is little to show."""

import copy
import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sddfkit.viz import write_report
from sddfkit.viz.report import CONTENTS, plain

VOID = {"meta", "link", "br", "input", "img", "hr"}


class Page(HTMLParser):
    """Collect what a browser would load, the ids, the text, and unbalanced tags."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.unlabelled: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [given[key] for key in ("src", "data", "poster", "action") if given.get(key)]
        self.loads += [given["href"]] if tag == "link" else []
        self.links += [given["href"]] if tag == "a" else []
        self.loads += [given["xlink:href"]] if given.get("xlink:href") else []
        self.ids += [given["id"]] if "id" in given else []
        self.headings += [tag] if re.fullmatch("h[1-6]", tag) else []
        if tag == "svg" and not given.get("aria-label"):
            self.unlabelled.append(tag)
        if any(key.startswith("on") for key in given):
            self.unlabelled.append(f"inline handler in {tag}")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] in ("script", "style") else self.words).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def written(report, molblocks, folder: Path) -> tuple[Page, dict]:
    path = write_report(report, molblocks, folder)
    assert path == folder / "report.html"
    return Page(path), json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(built, tmp_path_factory) -> tuple[Page, dict]:
    return written(*built, tmp_path_factory.mktemp("report"))


@pytest.fixture
def report(built):
    return copy.deepcopy(built[0])


def test_page_loads_nothing_from_outside(page):
    html = page[0]
    outside = [url for url in html.loads if not url.startswith(("#", "data:"))]
    assert outside == []
    assert [link for link in html.links if not link.startswith("#")] == ["report.json"]
    assert not [text for text in html.scripts if re.search(r"@import|url\(\s*['\"]?(?!#)(?!data:)\w", text[:4000])]


def test_links_lead_somewhere_and_ids_are_unique(page):
    html = page[0]
    assert len(html.ids) == len(set(html.ids))
    targets = {link[1:] for link in html.links if link.startswith("#")}
    assert targets <= set(html.ids)
    assert {key for key, _ in CONTENTS} <= set(html.ids)
    used = {url[1:] for url in html.loads if url.startswith("#")}
    assert used and used <= set(html.ids), "a figure refers to a definition that is not on the page"


def test_page_is_well_formed_and_described(page):
    html = page[0]
    assert html.open == []
    assert html.unlabelled == []
    assert html.headings[0] == "h1" and html.headings.count("h1") == 1
    assert "h3" in html.headings and "h4" not in html.headings


def test_json_equals_the_input(page, built):
    derived = page[1]["derived"]
    assert {key: value for key, value in page[1].items() if key != "derived"} == plain(built[0])
    assert derived["energy"]["n"] == 72 and derived["energy"]["molecules"] == 12


def test_derived_numbers_agree_with_the_stated_metrics(page, built):
    stated = built[0]["rounds"][-1]["metrics"]["ensemble"]
    derived = page[1]["derived"]
    assert derived["energy"]["mae"] == pytest.approx(stated["energy_mae_kcal_mol"], rel=1e-6)
    assert derived["forces"]["mae"] == pytest.approx(stated["force_mae_kcal_mol_A"], rel=1e-6)
    low, high = derived["energy"]["mae_interval"]
    assert low < derived["energy"]["mae"] < high


def test_headline_names_level_program_errors_and_cost(page):
    text = page[0].text
    for expected in (
        "ωB97X/6-31G(d)",
        "PySCF 2.14.0",
        "224 conformers",
        "231 calculations",
        "64 molecules",
        "2.31",
        "core hours",
    ):
        assert expected in text
    assert re.search(r"In three rounds of active learning .* fell from 5\.\d\d to 1\.\d\d kcal/mol", text)
    assert "not that the choice beats chance" in text


def test_every_part_of_the_account_is_there(page):
    text = page[0].text
    for expected in (
        "9f2c41d07be34a6e8812",
        "similarity 0.82 to c1ccc2ocnc2c1",
        "element Si is not covered",
        "640 conformers asked for, 634 embedded, 301 kept",
        "SCF not converged after 100 cycles",
        "largest force disagreement",
        "−12 520.400",
        "sddfkit active experiment=demo seed=42",
        "2026.9.1",
    ):
        assert expected in text


def test_same_input_gives_the_same_bytes(built, tmp_path):
    first = write_report(*built, tmp_path / "a").read_bytes()
    assert write_report(*built, tmp_path / "b").read_bytes() == first


def test_nothing_but_the_report_is_left_in_the_folder(built, tmp_path):
    write_report(*built, tmp_path)
    write_report(*built, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert (tmp_path / "report.html").stat().st_mode & 0o777 == 0o644


HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"


def test_text_from_files_is_escaped_everywhere(report, built, tmp_path):
    report["title"] = report["command"] = HOSTILE
    report["failures"][0]["examples"][0]["message"] = HOSTILE
    report["molecules"]["rejected"][0]["text"] = HOSTILE
    report["predictions"][0]["name"] = report["predictions"][0]["molecule_id"] = HOSTILE
    report["rounds"][0]["selected"][0].update(name=HOSTILE, molecule_id=HOSTILE, reason=HOSTILE)
    report["views"][0].update(name=HOSTILE, caption=HOSTILE)
    path = write_report(report, built[1], tmp_path)
    raw = path.read_text(encoding="utf-8")
    assert "<script>alert" not in raw and "<img" not in raw
    assert raw.count("</script>") == 4, "the structures, 3Dmol, two of our own: no name closes or opens a script"
    html = Page(path)
    assert HOSTILE in html.text
    structures = next(s for s in html.scripts if s.startswith('{"graphs"'))
    assert json.loads(structures)["frames"][0]["caption"] == HOSTILE


def test_run_of_one_round_with_nothing_chosen_and_no_failures(report, tmp_path):
    report["rounds"] = report["rounds"][:1]
    report["rounds"][0]["selected"] = []
    report.update(views=[], failures=[])
    report["molecules"]["rejected"] = []
    report["split"]["excluded"] = []
    report["conformers"].update(failures={}, molecules=[])
    html, _ = written(report, {}, tmp_path)
    assert "Nothing was chosen" in html.text and "No structure was chosen" in html.text
    assert "Failures by class None." in html.text
    assert "0 lines rejected" in html.text and "No embedding failed" in html.text
    assert len(html.scripts[-1]) < 10_000, "without structures the viewer's script is not needed"


def test_missing_numbers_are_gaps_not_errors(report, built, tmp_path):
    for entry in report["rounds"]:
        for metrics in (entry["metrics"]["ensemble"], entry["metrics"]["members"]["gen"]):
            metrics.update(dict.fromkeys(metrics, math.nan))
        for chosen in entry["selected"]:
            chosen["energy_error_kcal_mol"] = None
    for prediction in report["predictions"][::2]:
        prediction["energy_pred"] = None
        prediction["energy_std"] = math.inf
    html, numbers = written(report, built[1], tmp_path)
    assert not re.search(r"\b(nan|inf|None)\b", html.text)
    assert "energy error on the test fold is not known" in html.text
    assert "36 test conformers without a finite label or prediction are left out" in html.text
    assert "no label" in html.text
    assert numbers["rounds"][0]["metrics"]["ensemble"]["energy_mae_kcal_mol"] is None
    assert numbers["predictions"][0]["energy_std"] is None


def test_empty_test_fold(report, built, tmp_path):
    report["predictions"] = []
    html, numbers = written(report, built[1], tmp_path)
    assert "no finite pair of values" in html.text
    assert numbers["derived"]["energy"]["mae"] is None


def test_report_says_when_a_guess_does_as_well(report, built, tmp_path):
    report["rounds"][-1]["metrics"]["ensemble"]["energy_mae_kcal_mol"] = 20.0
    html, _ = written(report, built[1], tmp_path)
    assert "The energies are no better than a guess yet" in html.text
    assert "they were not made on the same conformers" in html.text


def test_report_says_when_the_error_rose(report, built, tmp_path):
    report["rounds"][0]["metrics"]["ensemble"]["energy_mae_kcal_mol"] = 1.0
    assert "rose from 1.00" in written(report, built[1], tmp_path)[0].text


def test_report_does_not_credit_networks_with_better_reference_energies(report, built, tmp_path):
    assert "reference energies fitted to more labels" not in written(report, built[1], tmp_path)[0].text
    report["rounds"][0]["metrics"]["baseline"]["energy_mae_kcal_mol"] = 80.0
    text = written(report, built[1], tmp_path)[0].text
    assert "improved from 80.0 to 9.10 kcal/mol" in text


def test_arrays_are_accepted_as_numbers(report, built, tmp_path):
    report["predictions"][0]["forces"] = np.array(report["predictions"][0]["forces"])
    report["rounds"][0]["n_labelled_train"] = np.int64(96)
    _, numbers = written(report, built[1], tmp_path)
    assert numbers["rounds"][0]["n_labelled_train"] == 96


def test_a_report_without_a_round_is_refused(report, tmp_path):
    report["rounds"] = []
    with pytest.raises(ValueError, match="no round"):
        write_report(report, {}, tmp_path)


def test_forces_of_another_conformer_are_refused(report, built, tmp_path):
    report["predictions"][3]["forces_pred"] = [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match=report["predictions"][3]["record_id"]):
        write_report(report, built[1], tmp_path)


def test_figures_are_xml(built, tmp_path):
    raw = write_report(*built, tmp_path).read_text(encoding="utf-8")
    figures = re.findall(r'<figure class="plot">(<svg.*?</svg>)', raw, flags=re.DOTALL)
    assert len(figures) == 8
    for figure in figures:
        ET.fromstring(figure)
        assert "<style" not in figure and "<metadata" not in figure


def test_a_strategy_that_ranks_by_nothing_has_no_scores(report, built, tmp_path):
    for entry in report["rounds"]:
        for item in entry["selected"]:
            item["score"] = None
    html = write_report(report, built[1], tmp_path).read_text()
    assert ">–</td>" in html
    assert ">None<" not in html
