"""The report and the notebook view in Chromium with name resolution off."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from sddfkit.viz import show, write_report

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
    page.wait_for_function("document.querySelector('#viewer-position')?.textContent !== ''")
    yield page
    page.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def pixels(target) -> np.ndarray:
    """Return a screenshot of an element as (height, width, 3) floats."""
    from matplotlib.image import imread

    return imread(io.BytesIO(target.screenshot()))[..., :3]


def test_canvas_shows_a_molecule_and_another_one_for_another_conformer(page):
    stage = page.locator("#viewer-stage")
    first = pixels(stage)
    assert first.std() > 0.02, "the stage is one flat colour"
    page.click("#viewer-next")
    second = pixels(stage)
    assert np.abs(first - second).max() > 0.3
    page.click("#viewer-previous")
    assert np.abs(first - pixels(stage)).max() < 0.05


def test_picker_arrow_keys_and_links_lead_to_a_structure(page):
    position = page.locator("#viewer-position")
    assert position.inner_text() == "1 of 12"
    page.focus("#viewer")
    page.keyboard.press("ArrowLeft")
    assert position.inner_text() == "12 of 12"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert position.inner_text() == "2 of 12"
    page.select_option("#viewer-pick", "4")
    assert position.inner_text() == "5 of 12"
    assert "conformer 2" in page.locator("#viewer-caption").inner_text()
    page.click("a.to3d >> nth=0")
    assert position.inner_text() == "1 of 12"
    assert "lidocaine" in page.locator("#viewer-caption").inner_text()


def test_spin_is_off_until_asked_for(page):
    stage = page.locator("#viewer-stage")
    before = pixels(stage)
    page.wait_for_timeout(400)
    assert np.array_equal(before, pixels(stage))
    # Software rendering leaves a spinning page no time for clicks and screenshots: start and stop it by script.
    page.evaluate("document.querySelector('#viewer-spin').click()")
    page.wait_for_timeout(600)
    page.evaluate("document.querySelector('#viewer-spin').click()")
    assert np.abs(before - pixels(stage)).max() > 0.3


def test_wheel_scrolls_the_page_until_the_viewer_is_clicked(page):
    stage = page.locator("#viewer-stage")
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
    assert page.locator("#viewer-missing").is_visible()
    assert not page.locator("#viewer-controls").is_visible()
    browser.close()


def test_notebook_view_draws_offline(chromium, tmp_path):
    mol = Chem.AddHs(Chem.MolFromSmiles("c1ccccc1O"))
    AllChem.EmbedMultipleConfs(mol, 2, randomSeed=1)
    notebook = tmp_path / "view.html"
    notebook.write_text(f"<!DOCTYPE html><script></script><body>{show(mol)._make_html()}</body>", encoding="utf-8")
    page = chromium.new_page()
    page.goto(notebook.as_uri())
    page.wait_for_selector("canvas")
    page.wait_for_timeout(500)
    picture = pixels(page.locator("canvas").first)
    half = picture.shape[1] // 2
    assert picture[:, :half].std() > 0.02 and picture[:, half:].std() > 0.02
    page.close()
