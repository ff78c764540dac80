"""A live view of a batch in a notebook: it looks every few seconds and draws what has changed."""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

import anywidget
import traitlets

from sddfkit.viz import batch_view
from sddfkit.viz.page import Markup, element, joined, static
from sddfkit.viz.words import number_of

logger = logging.getLogger(__name__)

INTERVAL_S: Final = 2.0
SHARE: Final = 4.0
LONGEST_S: Final = 10.0
STOPPING: Final = "Stopping: what runs is finished, nothing more is started."


class Watched(Protocol):
    """A batch, or whatever can tell how far it is; one that has no `retry` or `stop` gets no such buttons."""

    def progress(self) -> batch_view.Numbers: ...


class BatchMonitor(anywidget.AnyWidget):
    """Progress, time left, core hours, states, engines and failures of a batch, with buttons for retry and stop.

    It is drawn from a thread of its own, also while the kernel is busy with a cell; a click is heard when the kernel is
    free. The thread ends with the batch, or with :meth:`close`.

    Parameters
    ----------
    batch
        Has ``progress()``, and for the buttons ``retry(classes=…)`` and ``stop()``: a `sddfkit.factory.Batch`.
    interval_s
        How long to wait between two looks, s.
    """

    _esm = static("monitor.js")
    _css = static("parts.css") + static("monitor.css")
    head = traitlets.Unicode().tag(sync=True)
    states = traitlets.Unicode().tag(sync=True)
    engines = traitlets.Unicode().tag(sync=True)
    failures = traitlets.Unicode().tag(sync=True)
    said = traitlets.Unicode().tag(sync=True)
    """What came of the last click, or why nothing can be seen."""

    def __init__(self, batch: Watched, *, interval_s: float = INTERVAL_S) -> None:
        super().__init__()
        self.batch = batch
        self.interval_s = interval_s
        self._closed = threading.Event()
        self._looking: threading.Thread | None = None
        self._one_at_a_time = threading.Lock()
        self.on_msg(self._heard)
        if self.look():
            self._start()

    def look(self) -> bool:
        """Read the numbers, show what has changed, and say whether there will be more to see."""
        with self._one_at_a_time:
            try:
                now = self.batch.progress()
            except Exception as error:  # a full disk, a store that is locked: the job may outlive it, and so must we
                logger.warning("the batch cannot be looked at: %s", error)
                self.said = f"What is shown is old: {error}"
                return True
            if self.said.startswith("What is shown is old"):
                self.said = ""
            buttons = hasattr(self.batch, "retry") and hasattr(self.batch, "stop")
            for name, content in batch_view.sections(now, buttons=buttons).items():
                self.set_trait(name, content)  # which tells the browser only if it is another
            return bool(now.open)

    def html(self) -> Markup:
        """Return the view as it is now, as HTML that stands for itself."""
        parts = [element("div", Markup(getattr(self, name)), class_=f"monitor-{name}") for name in batch_view.SECTIONS]
        return element("div", joined(parts), class_="sddfkit shown monitor")

    def close(self) -> None:
        """End the view, and the thread that looks."""
        self._closed.set()
        super().close()

    def _start(self) -> None:
        if self._looking is None or not self._looking.is_alive():
            self._looking = threading.Thread(target=self._look_on, name="sddfkit batch monitor", daemon=True)
            self._looking.start()

    def _look_on(self) -> None:
        pause = self.interval_s
        while not self._closed.wait(pause):
            begun = time.monotonic()
            if not self.look():
                return
            # A look that takes long comes seldom.
            pause = max(self.interval_s, min(LONGEST_S, SHARE * (time.monotonic() - begun)))

    def _heard(self, _widget: Any, message: Any, _buffers: Any) -> None:
        """Do what a button asks for."""
        batch: Any = self.batch
        try:
            match message:
                case {"do": "stop"}:
                    asked = batch.stop() is not False
                    self.said = STOPPING if asked else "There is nothing to stop: no process works on the batch."
                case {"do": "retry", "classes": [*classes]}:
                    self.said = _ready_again(batch.retry(classes=classes), getattr(batch, "running", True))
        except Exception as error:  # it is for the person who clicked
            self.said = f"That could not be done: {error}"
        if self.look():
            self._start()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """Add what a page shows that runs no widgets: a saved notebook."""
        bundle = super()._repr_mimebundle_(**options)
        if bundle:
            data = bundle[0] if isinstance(bundle, tuple) else bundle
            data["text/html"] = f"<style>{self._css}</style>{self.html()}"
        return bundle


def _ready_again(found: Mapping[str, int] | None, running: bool) -> str:
    """Say what a retry has made ready: counts by error class, or nothing where another process was asked to do it."""
    if not found:
        return "Asked for: the process that works on the batch takes what had failed into its queue."
    counts = ", ".join(f"{number_of(count)} × {name}" for name, count in found.items())
    return f"Ready again: {counts}." + ("" if running else " Start the batch to compute them.")
