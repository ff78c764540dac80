"""How far a batch is, as HTML: what a notebook shows while calculations run.

It takes the numbers as `sddfkit.factory.progress.Progress` names them, and knows no store.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from sddfkit.viz.figures import drawing
from sddfkit.viz.page import Markup, element, folded, joined, long_table, paragraph, table
from sddfkit.viz.words import core_time, count, duration, number, number_of

STATES: Final = ("ready", "running", "done", "failed", "held")
TAIL_LINES: Final = 15
SHOWN_ENGINES: Final = 16
SECTIONS: Final = ("head", "states", "engines", "failures")
"""The parts of the view, from top to bottom."""


class Numbers(Protocol):
    """What is shown of a batch; see `sddfkit.factory.progress.Progress` for the meanings and units."""

    @property
    def store(self) -> str: ...
    @property
    def batch(self) -> str | None: ...
    @property
    def writer(self) -> Mapping[str, Any] | None: ...
    @property
    def states(self) -> Mapping[str, int]: ...
    @property
    def error_classes(self) -> Mapping[str, int]: ...
    @property
    def groups(self) -> Sequence[Any]: ...
    @property
    def total(self) -> int: ...
    @property
    def done(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def open(self) -> int: ...
    @property
    def core_hours(self) -> float: ...
    @property
    def peak_rss_mib(self) -> float: ...
    @property
    def elapsed_s(self) -> float: ...
    @property
    def window_min(self) -> float: ...
    @property
    def per_minute(self) -> float: ...
    @property
    def per_minute_overall(self) -> float: ...
    @property
    def engines(self) -> Sequence[Any]: ...
    @property
    def engines_working(self) -> int: ...
    @property
    def rest_core_hours(self) -> float | None: ...
    @property
    def eta_s(self) -> float | None: ...
    @property
    def eta_how(self) -> str: ...
    @property
    def failures(self) -> Sequence[Any]: ...


def sections(now: Numbers, *, buttons: bool) -> dict[str, Markup]:
    """Return the HTML of each of `SECTIONS`.

    Parameters
    ----------
    now : the numbers.
    buttons : whether there is somebody who hears of a click: elements with ``data-do``, and ``data-class`` if only one
        error class is meant.
    """
    return {
        "head": joined([_title(now, buttons), _bar(now), _tiles(now)]),
        "states": _states(now),
        "engines": _engines(now),
        "failures": _failures(now, buttons),
    }


def _title(now: Numbers, buttons: bool) -> Markup:
    name = element("strong", f"Batch {now.batch}" if now.batch else "All batches")
    if not now.open:
        state = "complete" if not now.failed else "nothing is left to be done"
    elif now.writer:
        does = "works on it" if now.states["running"] else "has it open; nothing is running"
        state = f"process {now.writer['pid']} on {now.writer['host']} {does}"
    else:
        state = "no process works on it; what is done is kept, and it goes on where it is started again"
    stop = _button("stop", "Stop", "Let what runs finish, start nothing more") if buttons and _going(now) else ""
    words = joined([name, element("span", state, class_="muted")], " ")
    return element("div", joined([element("div", words), stop]), class_="monitor-title")


def _going(now: Numbers) -> bool:
    return bool(now.states["running"] and now.writer)


def _button(do: str, label: str, title: str, error_class: str = "") -> Markup:
    given = {"data_class": error_class} if error_class else {}
    return element("button", label, type="button", data_do=do, data_key=f"{do} {error_class}", title=title, **given)


def _bar(now: Numbers) -> Markup:
    parts = {"done": now.done, "failed": now.failed, "running": now.states["running"]}
    pieces = [
        element("span", "", class_=f"monitor-{name}", style=f"width:{100.0 * part / now.total:.3f}%", data_key=name)
        for name, part in parts.items()
        if part
    ]
    ended = now.done + now.failed
    percent = int(100.0 * ended / now.total) if now.total else 100
    bar = element(
        "div", joined(pieces, ""), class_="monitor-bar", role="progressbar", aria_label="calculations that have ended",
        aria_valuemin="0", aria_valuemax=str(now.total), aria_valuenow=str(ended), aria_valuetext=f"{percent} %",
    )  # fmt: skip
    words = [
        element(
            "span", f"{number_of(now.states[state])} {state}", class_=f"monitor-key monitor-{state}", data_key=state
        )
        for state in ("done", "failed", "held", "running", "ready")
        if now.states[state]
    ]
    share = element("span", f"{percent} % of {count(now.total, 'calculation')}", class_="monitor-share")
    return joined([bar, element("div", joined([share, *words], " "), class_="monitor-keys")])


def _tiles(now: Numbers) -> Markup:
    tiles = []
    if now.open:
        left = duration(now.eta_s) if now.eta_s is not None else "not known yet"
        tiles.append(("Time left", left, now.eta_how))
    tiles.append(("Time taken" if not now.open else "Time so far", duration(now.elapsed_s), ""))
    used, unit = core_time(now.core_hours)
    rest = ""
    if now.open and now.rest_core_hours is not None:
        rest = f"about {' '.join(core_time(now.rest_core_hours))} to go"
    tiles.append((unit.capitalize(), used, rest))
    overall = f"{number(now.per_minute_overall)} over all the time"
    if _going(now):
        tiles.append(("Results per minute", number(now.per_minute), f"last {now.window_min:g} min; {overall}"))
        tiles.append(("Engines at work", number_of(now.engines_working), ""))
    else:
        tiles.append(("Results per minute", number(now.per_minute_overall), ""))
    tiles.append(("Largest memory", f"{number_of(round(now.peak_rss_mib))} MiB", ""))
    return element(
        "dl",
        joined(
            element(
                "div",
                joined(
                    [element("dt", name), element("dd", value), element("dd", note, class_="muted") if note else ""], ""
                ),
                data_key=name,
            )
            for name, value, note in tiles
        ),
        class_="monitor-tiles",
    )


def _states(now: Numbers) -> Markup:
    rows: dict[tuple[str, str, str], dict[str, int]] = {}
    for item in now.groups:
        rows.setdefault((item.level, item.program, item.error_class), {})[item.state] = item.calculations
    levels = {f"{level}, {program}" for level, program, _ in rows}
    body = [
        [f"{level}, {program}", error_class or "none", *(number_of(found[s]) if s in found else "" for s in STATES)]
        for (level, program, error_class), found in sorted(rows.items())
    ]
    if len(body) > 1:
        body.append(["all", "all", *(number_of(now.states[state]) for state in STATES)])
    heads, at = ["Level", "Last error", *STATES], ""
    if len(levels) == 1:  # which is said once, then
        heads, body, at = heads[1:], [row[1:] for row in body], f" at {levels.pop()}"
    numeric = range(len(heads) - len(STATES), len(heads))
    return table(f"Calculations{at} by state and class of the last error", heads, body, numeric=numeric)


def _engines(now: Numbers) -> Markup:
    if not now.engines:
        return paragraph("No engine has finished anything yet.", class_="muted")
    most = max(item.per_minute for item in now.engines) or max(item.done for item in now.engines) or 1.0
    rated = any(item.per_minute for item in now.engines)
    order = sorted(now.engines, key=lambda item: (not item.working, item.engine))
    rows = [
        [
            item.engine,
            "at work" if item.working else f"heard {_clock(item.last)}",
            _measure((item.per_minute if rated else item.done) / most, number(item.per_minute)),
            number_of(item.done),
            number_of(item.failed),
            f"{100.0 * item.busy:.0f} %",
            number_of(round(item.peak_rss_mib)),
        ]
        for item in order
    ]
    heads = ["Engine", "Now", "Results per minute", "Done", "Failed", "In the program", "Largest MiB"]
    return long_table("What each engine does", heads, rows, numeric=(3, 4, 5, 6), shown=SHOWN_ENGINES)


def _measure(part: float, label: str) -> Markup:
    """Return a bar with its number beside it."""
    bar = element("span", "", class_="monitor-measure", style=f"--part:{part:.4f}", aria_hidden="true")
    return element("span", joined([bar, element("span", label)], ""), class_="monitor-measured")


def _failures(now: Numbers, buttons: bool) -> Markup:
    if not now.failed:
        return paragraph("No failures.", class_="muted")
    every = _button("retry", "Retry all failed", "Make all failed and held calculations ready again") if buttons else ""
    heading = element("strong", f"{number_of(now.failed)} failed")
    each = [
        _button("retry", f"Retry {number_of(n)} × {name}", f"Make those that failed as {name} ready again", name)
        for name, n in now.error_classes.items()
        if buttons and len(now.error_classes) > 1
    ]
    head = element("div", joined([heading, every, *each], " "), class_="monitor-title")
    groups = [_failure(item) for item in now.failures]
    rest = now.failed - sum(item.count for item in now.failures)
    more = paragraph(f"and {number_of(rest)} more, of other kinds", class_="muted") if rest > 0 else ""
    return joined([head, *groups, more])


def _failure(item: Any) -> Markup:
    held = f", {number_of(item.held)} held" if item.held else ""
    summary = joined(
        [element("strong", f"{number_of(item.count)} × {item.error_class}{held}"), item.error_message], " "
    )
    picture = Markup(drawing(item.smiles) or "") if item.smiles else Markup("")
    example = joined(
        [
            paragraph("For example", element("strong", item.label), element("code", item.key[:12])),
            element("code", item.smiles) if item.smiles else "",
            paragraph("asked for by " + ", ".join(item.batches), class_="muted") if len(item.batches) > 1 else "",
        ]
    )
    tail = "\n".join(_plain(line) for line in item.output_tail.rstrip().splitlines()[-TAIL_LINES:])
    output = element("pre", tail, tabindex="0", aria_label="end of the output") if tail else ""
    silent = "" if tail else paragraph("The program had printed nothing.", class_="muted")
    content = joined(
        [element("div", joined([picture, element("div", example)]), class_="monitor-example"), output, silent]
    )
    part = folded(summary, content)
    return Markup(part.replace("<details>", f'<details data-key="{item.key[:12]}">', 1))


def _plain(line: str) -> str:
    """Return a line of output without what only a terminal understands."""
    return "".join(sign if sign.isprintable() else " " for sign in line.expandtabs(4))


def _clock(moment: str) -> str:
    """Return a time of day here, with the date unless it is today's."""
    if not moment:
        return "never"
    local = dt.datetime.fromisoformat(moment).astimezone()
    return f"{local:%H:%M}" if local.date() == dt.datetime.now().astimezone().date() else f"{local:%d %b, %H:%M}"
