"""The report and the views of notebooks in Chromium with name resolution off."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from sddfkit.viz import show, side_by_side, write_report

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

FLAGS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]


@pytest.fixture(scope="module")
def launch():
    """Return a function that starts Chromium with the flags given."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on PATH")
    with sync_api.sync_playwright() as playwright:
        yield lambda flags: playwright.chromium.launch(executable_path=program, args=flags)


@pytest.fixture(scope="module")
def chromium(launch):
    browser = launch(FLAGS)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def path(built, tmp_path_factory) -> Path:
    return write_report(*built, tmp_path_factory.mktemp("browser"))


@pytest.fixture
def page(chromium, path):
    """Return the opened report; the test fails at the end if anything was said on the console or asked of the net."""
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.locator(".view-stage").scroll_into_view_if_needed()
    page.wait_for_selector(".view-stage canvas")
    page.wait_for_function("document.querySelector('.view-position')?.textContent")
    yield page
    page.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def pixels(target) -> np.ndarray:
    """Return a screenshot of an element, without the edge that the focus outlines, as (height, width, 3) floats."""
    from matplotlib.image import imread

    return imread(io.BytesIO(target.screenshot()))[8:-8, 8:-8, :3]


def test_canvas_shows_a_molecule_and_another_one_for_another_conformer(page):
    stage = page.locator(".view-stage")
    first = pixels(stage)
    assert first.std() > 0.02, "the stage is one flat colour"
    page.click(".view-next")
    second = pixels(stage)
    assert np.abs(first - second).max() > 0.3
    page.click(".view-previous")
    assert np.abs(first - pixels(stage)).max() < 0.05


def test_picker_arrow_keys_and_links_lead_to_a_structure(page):
    position = page.locator(".view-position")
    assert position.inner_text() == "1 of 12"
    page.focus(".view")
    page.keyboard.press("ArrowLeft")
    assert position.inner_text() == "12 of 12"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert position.inner_text() == "2 of 12"
    page.select_option(".view-pick", "4")
    assert position.inner_text() == "5 of 12"
    assert "conformer 2" in page.locator(".view-caption").inner_text()
    page.click("a.to3d >> nth=0")
    assert position.inner_text() == "1 of 12"
    assert "lidocaine" in page.locator(".view-caption").inner_text()


def test_spin_is_off_until_asked_for(page):
    stage = page.locator(".view-stage")
    before = pixels(stage)
    page.wait_for_timeout(400)
    assert np.array_equal(before, pixels(stage))
    # Software rendering leaves a spinning page no time for clicks and screenshots: start and stop it by script.
    page.evaluate("[...document.querySelectorAll('.view-controls label')].at(-1).click()")
    page.wait_for_timeout(600)
    page.evaluate("[...document.querySelectorAll('.view-controls label')].at(-1).click()")
    assert np.abs(before - pixels(stage)).max() > 0.3


def test_wheel_scrolls_the_page_until_the_viewer_is_clicked(page):
    stage = page.locator(".view-stage")
    page.evaluate("document.querySelector('#view3d').scrollIntoView()")
    box = stage.bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    top = page.evaluate("scrollY")
    page.mouse.wheel(0, 60)
    page.wait_for_function(f"scrollY > {top}")
    page.mouse.click(box["x"] + 40, box["y"] + 40)
    top, before = page.evaluate("scrollY"), pixels(stage)
    page.mouse.wheel(0, 60)
    page.wait_for_timeout(300)
    assert page.evaluate("scrollY") == top
    assert np.abs(before - pixels(stage)).max() > 0.3


def test_page_reads_without_sideways_scrolling(page):
    for width in (1280, 820, 390):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_webgl_a_sentence_stands_in(launch, path):
    browser = launch(["--no-sandbox", "--no-first-run", "--disable-3d-apis", FLAGS[-1]])
    page = browser.new_page()
    page.goto(path.as_uri())
    assert "no WebGL" in page.locator(".view-note").inner_text()
    assert page.locator(".view-controls").count() == 0
    browser.close()


@pytest.fixture
def mol() -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles("OCCc1ccccc1"))
    AllChem.EmbedMultipleConfs(mol, 4, randomSeed=1)
    return mol


@pytest.fixture
def open_page(chromium, tmp_path):
    """Return a function that opens HTML as a page; the test fails if anything was said or asked of the net."""
    said: list[str] = []
    asked: list[str] = []
    pages = []

    def opened(body: str):
        file = tmp_path / f"{len(pages)}.html"
        head = '<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,">'
        file.write_text(f"{head}<body>{body}</body>", encoding="utf-8")
        page = chromium.new_page(viewport={"width": 1000, "height": 800})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def differ(before: np.ndarray, after: np.ndarray) -> bool:
    return bool(np.abs(before - after).max() > 0.3)


def test_notebook_view_steps_overlays_and_hides_hydrogens(open_page, mol):
    page = open_page(show(mol, values={"ΔE, kcal/mol": [0.0, 1.0, 2.0, 3.0]})._repr_html_())
    page.wait_for_selector("canvas")
    stage, caption = page.locator(".view-stage"), page.locator(".view-caption")
    first = pixels(stage)
    assert first.std() > 0.02
    page.focus(".view")
    page.keyboard.press("ArrowRight")
    second = pixels(stage)
    assert differ(first, second) and "conformer 1  ΔE 1.00 kcal/mol" in caption.inner_text()
    page.keyboard.press("End")
    assert "4 of 4" in page.locator(".view-position").inner_text()
    page.keyboard.press("Home")
    assert not differ(first, pixels(stage))
    page.keyboard.press("o")
    together = pixels(stage)
    assert differ(first, together) and page.get_by_label("Overlay").is_checked()
    assert not page.get_by_label("Hydrogens").is_checked()
    page.get_by_label("Hydrogens").click()
    assert differ(together, pixels(stage))
    page.locator("input[type=range]").fill("2")
    assert "conformer 2" in caption.inner_text()
    page.get_by_label("labels").select_option("atom numbers")
    assert page.locator(".view-controls select").last.input_value() == "atom"


def test_views_share_one_script_and_each_works_without_the_others(open_page, mol):
    views = [show(mol)._repr_html_(), show(Chem.MolFromMolBlock(Chem.MolToMolBlock(mol)))._repr_html_()]
    page = open_page("".join(views))
    page.wait_for_function("document.querySelectorAll('canvas').length === 2")
    assert page.evaluate("Object.keys(window.sddfkitViews).length") == 1
    alone = open_page(views[1])
    alone.wait_for_selector("canvas")
    assert alone.locator(".view-stepping").count() == 0, "one structure needs no steps"


# How JupyterLab and Notebook 7, and how VS Code, make the scripts of an output run.
RUN_SCRIPTS = {
    "jupyter": "old.replaceWith(made);",
    "vscode": "cell.appendChild(made).parentNode.removeChild(made);",
}


@pytest.mark.parametrize("way", RUN_SCRIPTS)
def test_a_cell_that_runs_again_gets_a_new_view(open_page, mol, way):
    page = open_page(f"<div id=cell>{show(mol)._repr_html_()}</div>")
    page.wait_for_selector("canvas")
    page.evaluate(
        """html => {
          const cell = document.querySelector("#cell");
          cell.innerHTML = html;
          for (const old of [...cell.querySelectorAll("script")]) {
            const made = document.createElement("script");
            for (const a of old.attributes) made.setAttribute(a.nodeName, a.nodeValue);
            made.textContent = old.textContent;
            RUN
          }
        }""".replace("RUN", RUN_SCRIPTS[way]),
        show(mol, overlay=True)._repr_html_(),
    )
    page.wait_for_selector("canvas")
    assert page.get_by_label("Overlay").is_checked()
    assert pixels(page.locator(".view-stage")).std() > 0.02


def test_many_views_stay_drawn_though_a_browser_keeps_few_contexts(open_page, mol):
    page = open_page("".join(show(mol, height=120)._repr_html_() for _ in range(10)))
    for stage in page.locator(".view-stage").all():
        stage.scroll_into_view_if_needed()
        stage.locator("canvas").wait_for()
    drawn = page.locator(".view-stage canvas").count()
    stills = page.locator(".view-still:visible")
    assert drawn <= 8 and stills.count() == 10 - drawn, "what is out of sight is a still picture"
    stage = page.locator(".view-stage").filter(has=stills).first
    index = page.locator(".view-stage").evaluate_all("(all, one) => all.indexOf(one)", stage.element_handle())
    again = page.locator(".view-stage").nth(index)
    again.scroll_into_view_if_needed()
    again.locator("canvas").wait_for()
    assert pixels(again).std() > 0.02


@pytest.mark.parametrize("theme", ["true", "false"], ids=["light", "dark"])
def test_views_follow_the_theme_of_the_notebook(open_page, mol, theme):
    page = open_page(f"<div data-jp-theme-light={theme}>{show(mol)._repr_html_()}</div>")
    page.wait_for_selector("canvas")
    corner = pixels(page.locator(".view-stage"))[:20, :20].mean()
    assert corner > 0.8 if theme == "true" else corner < 0.3


def test_another_3dmol_on_the_page_is_left_alone(open_page, mol):
    page = open_page(f"<script>window.$3Dmol = {{another: true}}</script>{show(mol)._repr_html_()}")
    page.wait_for_selector("canvas")
    assert page.evaluate("window.$3Dmol.another") is True


def test_without_scripts_a_sentence_says_what_to_do(chromium, mol, tmp_path):
    file = show(mol).save_html(tmp_path / "view.html")
    page = chromium.new_context(java_script_enabled=False).new_page()
    page.goto(file.as_uri())
    assert "run this cell, or trust this notebook" in page.locator(".view-note").inner_text()
    page.context.close()


def test_structures_side_by_side_draw_offline(open_page, mol):
    page = open_page(
        "<script></script>" + side_by_side([Chem.Mol(mol, confId=0), Chem.Mol(mol, confId=1)])._make_html()
    )
    page.wait_for_selector("canvas")
    page.wait_for_timeout(500)
    picture = pixels(page.locator("canvas").first)
    half = picture.shape[1] // 2
    assert picture[:, :half].std() > 0.02 and picture[:, half:].std() > 0.02
