"""Every notebook: committed without outputs, executed for real, and looked at in a browser without a network."""

import html
import io
import json
import re
import shutil
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Set after the cell tagged "parameters". The loop runs with real DFT in tests/workflows; here it must be quick.
QUICK = ["level=gfn2", "model=[gen,resgated]", "strategy=disagreement", "loop.rounds=1", "trainer.max_epochs=2"]
PARAMETERS = {"02_active_learning": f"CHANGES = {QUICK}", "03_dft_batches": "ENGINES = 1"}
# Views in 3D, and cells that show figures.
SHOWN = {"01_conformers_and_rmsd": (3, 4), "02_active_learning": (2, 5), "03_dft_batches": (0, 1)}
CHROMIUM = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-background-networking",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
# One worker executes a notebook for all the tests that look at it.
executing = pytest.mark.xdist_group("notebooks")


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def words(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return a function that executes a notebook once, in a folder of its own, and returns it with its outputs."""

    @cache
    def run(path: Path) -> nbformat.NotebookNode:
        notebook = nbformat.read(path, as_version=4)
        (parameters,) = (cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", []))
        parameters.source += "\n" + PARAMETERS.get(path.stem, "")
        folder = tmp_path_factory.mktemp(path.stem)
        resources = {"metadata": {"path": str(folder)}}
        return NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute()

    return run


def shown(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the HTML of every output that has some."""
    every = (output for cell in code(notebook) for output in cell.outputs)
    return [output.data["text/html"] for output in every if "text/html" in output.get("data", {})]


def as_page(notebook: nbformat.NotebookNode, theme: str = "light") -> str:
    """Return the executed notebook as one page, as an export does: sources, and outputs as they are."""
    parts = []
    for cell in notebook.cells:
        parts.append(f"<pre>{html.escape(cell.source)}</pre>")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            plain = output.get("text") or data.get("text/plain", "")
            parts.append(data.get("text/html") or f"<pre>{html.escape(plain)}</pre>")
    colours = "background: #fff" if theme == "light" else "background: #111; color: #ddd"
    return f"""<!DOCTYPE html>
<meta charset="utf-8"><link rel="icon" href="data:,">
<style>body {{ {colours}; max-width: 70rem; margin: 1rem auto }} pre {{ white-space: pre-wrap }}</style>
<body data-jp-theme-light="{json.dumps(theme == "light")}">{"".join(parts)}</body>"""


def test_every_notebook_is_known_here():
    assert {path.stem for path in NOTEBOOKS} == set(SHOWN)


@each
def test_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.source for cell in code(notebook) if cell.outputs or cell.execution_count is not None] == []


@each
def test_tells_a_story_and_hides_no_code(path):
    notebook = nbformat.read(path, as_version=4)
    parts = ("# ", "**Aim.**", "**Inputs.**", "**Steps.**", "**Takes**", "**Look.**", "## Next")
    assert [part for part in parts if part not in words(notebook)] == []
    for cell in code(notebook):
        assert len(cell.source.splitlines()) <= 15, cell.source
        assert not re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE), "what is worth a function is in sddfkit"


@each
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", words(nbformat.read(path, as_version=4))):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_other_settings_are_another_run():
    """The folder's name decides whether the loop runs or an old run is shown."""
    parameters, setup = code(nbformat.read(FOLDER / "02_active_learning.ipynb", as_version=4))[:2]
    folders = []
    for changes in ([], [], ["seed=1"], ["strategy=random"]):
        names: dict = {}
        exec(f"{parameters.source}\nCHANGES = {changes}\n{setup.source}", names)
        folders.append(names["folder"])
    assert folders[0] == folders[1] and len(set(folders)) == 3
    assert all(re.fullmatch("notebook-smoke-[0-9a-f]{8}", folder.name) for folder in folders)


@executing
@each
@pytest.mark.timeout(300)
def test_runs_and_shows_figures_and_views(path, executed):
    found = shown(executed(path))
    views = [text for text in found if 'class="sddfkit view"' in text]
    figures = [text for text in found if "<svg" in text]
    assert (len(views), len(figures)) == SHOWN[path.stem]
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", "".join(found)), "an output loads something from outside"


@executing
@each
@pytest.mark.browser
@pytest.mark.timeout(300)
def test_page_of_the_outputs_draws_and_steps_without_a_network(path, executed, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on PATH")
    file = tmp_path / "notebook.html"
    file.write_text(as_page(executed(path)), encoding="utf-8")
    said: list[str] = []
    asked: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        for view in page.locator(".sddfkit.view").all():
            stage = view.locator(".view-stage")
            stage.scroll_into_view_if_needed()
            stage.locator("canvas").wait_for()
            before = pixels(stage)
            assert before.std() > 0.02, "the stage is one flat colour"
            if view.locator(".view-next").count():
                view.focus()
                page.keyboard.press("ArrowRight")
                assert np.abs(before - pixels(stage)).max() > 0.3, "stepping changes nothing"
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def pixels(target) -> np.ndarray:
    """Return a screenshot of an element, without the edge that the focus outlines, as (height, width, 3) floats."""
    from matplotlib.image import imread

    return imread(io.BytesIO(target.screenshot()))[8:-8, 8:-8, :3]
