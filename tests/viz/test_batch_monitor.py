"""The live view of a batch: its HTML, its thread, its buttons, and what it does to a page (in Chromium)."""

import dataclasses
import json
import re
import shutil
import threading
from xml.etree import ElementTree

import pytest

from sddfkit.factory.progress import EngineUse, FailureGroup, Group, Progress
from sddfkit.viz import batch_view
from sddfkit.viz.batch_monitor import BatchMonitor

TIME = "2026-12-01T03:00:00.000+00:00"
CAFFEINE = "CN1C=NC2=C1C(=O)N(C(=O)N2C)C"
CONVERGENCE = FailureGroup(
    "convergence", "not <converged>", 3, 0, "0a" * 32, "caffeine", CAFFEINE, ("b",), "1\n2\x1b[0m"
)
KILLED = FailureGroup("killed", "signal 9", 1, 1, "0b" * 32, "atom 8", "", ("b", "c"), "")
NOW = Progress(
    time=TIME, store="store.sqlite", batch="b", batches=("b",), writer={"host": "node", "pid": 4711, "heartbeat": TIME},
    states={"ready": 1200, "running": 2, "done": 794, "failed": 3, "held": 1},
    error_classes={"convergence": 3, "killed": 1},
    groups=(
        Group("gfn2", "tblite", "ready", "", 1190), Group("gfn2", "tblite", "ready", "unknown", 10),
        Group("gfn2", "tblite", "running", "", 2), Group("gfn2", "tblite", "done", "", 794),
        Group("gfn2", "tblite", "failed", "convergence", 3), Group("gfn2", "tblite", "held", "killed", 1),
    ),
    total=2000, done=794, failed=4, open=1202, running=2, attempts=801, wall_s=1000.0, core_hours=2.5,
    peak_rss_mib=321.4, first=TIME, last=TIME, elapsed_s=600.0, window_min=10.0, per_minute=80.0,
    per_minute_overall=79.4,
    engines=(
        EngineUse("node:1", 500, 1, 500.0, 0.97, 50.0, TIME, TIME, 300.0, working=True),
        EngineUse("node:2", 294, 6, 500.0, 0.95, 30.0, TIME, TIME, 321.4, working=False),
    ),
    engines_working=1, rest_s=7200.0, rest_core_hours=2.0, eta_s=3725.0, eta_how="120 min of calculations on 2 engines",
    failures=(CONVERGENCE, KILLED),
)  # fmt: skip


class Batch:
    """A batch of which we say how far it is, and which notes what it is asked for."""

    def __init__(self, now: Progress) -> None:
        self.now = now
        self.asked: list[object] = []
        self.looked = threading.Event()

    def progress(self) -> Progress:
        self.looked.set()
        return self.now

    def retry(self, classes=()) -> dict[str, int]:
        self.asked.append(list(classes))
        return {"killed": 1}

    def stop(self) -> None:
        self.asked.append("stop")


@pytest.fixture
def batch():
    return Batch(NOW)


@pytest.fixture
def monitor(batch):
    view = BatchMonitor(batch, interval_s=0.01)
    yield view
    view.close()


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def test_every_number_is_said(monitor):
    head, states, engines, failures = (text(getattr(monitor, name)) for name in batch_view.SECTIONS)
    for said in (
        "Batch b", "process 4711 on node works on it", "39 % of 2 000 calculations", "794 done", "2 running",
        "1 200 ready", "1 held", "Time left 1 h 2 min", "120 min of calculations", "Core hours 2.50",
        "about 2.00 core hours to go", "80.0", "321 MiB",
    ):  # fmt: skip
        assert said in head, said
    assert "none 1 190 2 794 convergence 3 killed 1 unknown 10" in states
    assert "gfn2, tblite" in states and "all 1 200 2 794 3 1" in states
    assert "node:1 at work 50.0 500 1 97 % 300" in engines and "node:2 heard" in engines
    assert "4 failed" in failures and "3 × convergence not &lt;converged&gt;" in failures
    assert "1 × killed, 1 held" in failures and "asked for by b, c" in failures


def test_the_html_is_well_formed_and_draws_the_molecule(monitor):
    html = str(monitor.html())
    ElementTree.fromstring(html)
    assert html.count("<svg") == 1, "an isolated atom has no picture"
    assert "\x1b" not in html and "http" not in html.replace("http://www.w3.org/2000/svg", "")
    bar = re.search(r'role="progressbar"[^>]*', html)
    assert bar and 'aria-valuemax="2000"' in bar[0] and 'aria-valuenow="798"' in bar[0]


def test_levels_are_told_apart_where_there_are_several(batch):
    batch.now = dataclasses.replace(NOW, groups=(*NOW.groups, Group("hf", "pyscf", "ready", "", 1)))
    states = text(batch_view.sections(batch.now, buttons=False)["states"])
    assert "gfn2, tblite none" in states and "hf, pyscf none" in states


def test_what_can_only_be_looked_at_has_no_buttons():
    class Looks:
        def progress(self) -> Progress:
            return dataclasses.replace(NOW, open=0)

    view = BatchMonitor(Looks())
    assert "<button" not in view.html() and not view._looking
    view.close()


def test_buttons_ask_the_batch_and_say_what_came_of_it(monitor, batch):
    found = re.findall(r'<button[^>]*data-do="(\w+)"(?:[^>]*data-class="(\w+)")?', monitor.html())
    assert sorted(found) == [("retry", ""), ("retry", "convergence"), ("retry", "killed"), ("stop", "")]
    monitor._heard(monitor, {"do": "retry", "classes": []}, [])
    monitor._heard(monitor, {"do": "retry", "classes": ["killed"]}, [])
    assert batch.asked == [[], ["killed"]] and monitor.said == "Ready again: 1 × killed."
    batch.running = False
    monitor._heard(monitor, {"do": "retry", "classes": []}, [])
    assert "Start the batch" in monitor.said
    monitor._heard(monitor, {"do": "stop"}, [])
    assert batch.asked[-1] == "stop" and "Stopping" in monitor.said
    batch.stop = lambda: False
    monitor._heard(monitor, {"do": "stop"}, [])
    assert "nothing to stop" in monitor.said
    batch.stop = lambda: 1 / 0
    monitor._heard(monitor, {"do": "stop"}, [])
    assert monitor.said == "That could not be done: division by zero"


def test_it_looks_on_until_the_batch_ends_and_again_after_a_retry(monitor, batch):
    assert monitor._looking.is_alive() and monitor._looking.daemon
    batch.now = dataclasses.replace(NOW, done=1996, open=0, running=0, writer=None)
    monitor._looking.join(10)
    assert not monitor._looking.is_alive() and "nothing is left to be done" in monitor.head
    assert 'data-do="stop"' not in monitor.head
    batch.now = NOW
    monitor._heard(monitor, {"do": "retry", "classes": []}, [])
    assert monitor._looking.is_alive()
    monitor.close()
    monitor._looking.join(10)
    assert not monitor._looking.is_alive()


def test_it_outlives_a_store_that_cannot_be_read_for_a_while(monitor, batch):
    see, batch.progress = batch.progress, lambda: (_ for _ in ()).throw(OSError("the disk is away"))
    monitor.look()
    assert "the disk is away" in monitor.said and monitor._looking.is_alive() and "794 done" in monitor.head
    batch.progress = see
    monitor.look()
    assert monitor.said == ""


def test_only_what_has_changed_is_sent(monitor, batch):
    monitor._closed.set()
    monitor._looking.join(10)
    sent = []
    monitor.observe(lambda change: sent.append(change["name"]), list(batch_view.SECTIONS))
    monitor.look()
    assert sent == []
    batch.now = dataclasses.replace(NOW, eta_s=100.0)
    monitor.look()
    assert sent == ["head"]


def test_a_page_that_runs_no_widgets_shows_what_was_seen(monitor):
    bundle = monitor._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "794 done" in data["text/html"] and "monitor-bar" in data["text/html"]


PAGE = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><style>{css}</style>
<body data-jp-theme-light="false"><div id="el"></div>
<script type="module">{script}
const on = {{}};
window.sent = [];
window.values = {values};
window.change = (name, value) => {{ values[name] = value; on[`change:${{name}}`].forEach((act) => act()); }};
const model = {{
  get: (name) => values[name], on: (name, act) => (on[name] ??= []).push(act),
  off: (name, act) => on[name].splice(on[name].indexOf(act), 1), send: (message) => sent.push(message),
}};
window.end = monitor.render({{ model, el: document.querySelector("#el") }});
window.on = on;
</script>"""


@pytest.mark.browser
@pytest.mark.timeout(120)
def test_a_new_look_leaves_alone_what_the_reader_does(monitor, batch, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on PATH")
    values = {name: str(getattr(monitor, name)) for name in (*batch_view.SECTIONS, "said")}
    script = monitor._esm.replace("export default", "const monitor =")
    file = tmp_path / "monitor.html"
    page_text = PAGE.format(css=monitor._css, script=script, values=json.dumps(values).replace("<", "\\u003c"))
    file.write_text(page_text, encoding="utf-8")
    wrong: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--no-first-run"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(file.as_uri())
        page.locator("summary").nth(0).click()
        page.get_by_role("button", name="Retry 3 × convergence").focus()
        page.evaluate("document.querySelectorAll('.monitor *').forEach((node) => (node.seen = true))")

        batch.now = dataclasses.replace(
            NOW, done=900, states={**NOW.states, "done": 900}, error_classes={**NOW.error_classes, "convergence": 5},
            failures=(KILLED, dataclasses.replace(CONVERGENCE, count=5)),
        )  # fmt: skip
        for name, html in batch_view.sections(batch.now, buttons=True).items():
            page.evaluate("([name, html]) => change(name, html)", [name, str(html)])
        new = page.evaluate("[...document.querySelectorAll('.monitor *')].filter((node) => !node.seen).length")
        assert new == 0, "nothing was made anew"
        assert page.locator(".monitor-keys").inner_text().count("900 done") == 1
        opened = page.locator("details[open] summary")
        assert opened.count() == 1 and "5 × convergence" in opened.inner_text()
        order = page.locator("summary").all_inner_texts()
        assert "killed" in order[0] and "convergence" in order[1]
        assert page.evaluate("document.activeElement.textContent") == "Retry 5 × convergence"

        page.keyboard.press("Enter")
        assert page.evaluate("sent") == [{"do": "retry", "classes": ["convergence"]}]
        assert "kernel is free" in page.locator(".monitor-said").inner_text()
        page.get_by_role("button", name="Stop").click()
        assert page.evaluate("sent.at(-1)") == {"do": "stop", "classes": []}
        page.evaluate("change('said', 'Stopping')")
        assert page.get_by_role("status").inner_text() == "Stopping"
        assert page.evaluate("getComputedStyle(document.querySelector('.monitor')).color") == "rgb(232, 234, 237)"
        for width in (1280, 600):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("end()")
        assert page.evaluate("Object.values(on).flat().length") == 0
        browser.close()
    assert wrong == []
