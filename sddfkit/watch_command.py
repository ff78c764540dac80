"""``sddfkit watch``: how far a job is, in a terminal, while it runs. It only looks.

Help loads nothing; a look loads the factory and rich.
"""

import argparse
import datetime as dt
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from sddfkit.plain_command import ended
from sddfkit.store_command import reading

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.text import Text

    from sddfkit.factory.progress import FailureGroup, Progress

LINE_EVERY_S: Final = 20.0  # in a log
SHARE: Final = 4.0  # a look that takes long comes seldom, so that a fifth of the time goes into looking;
LONGEST_S: Final = 10.0  # but what is seen is not much older than this
PLAIN_WIDTH: Final = 100
TAIL_LINES: Final = 6
ENGINE_ROWS: Final = 16


def main(argv: Sequence[str]) -> int:
    """Look until nothing is open, and return the exit code: 0 done, 1 the store cannot be read, 2 used wrongly."""
    given = _parser().parse_args(argv)

    def work() -> int:
        _watch(given)
        return 0

    return ended("watch", work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sddfkit watch",
        description="How far a job is: counts by state and error class, time left, core hours, what each engine does, "
        "what failed and how. It looks until nothing is open (Ctrl-C: no longer) and never disturbs the job.",
        epilog="To act: sddfkit store retry, sddfkit store stop. Exit codes: 0 done, 1 the store cannot be read, 2 the "
        "command is wrong, 130 interrupted.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--store", metavar="PATH", help="as in sddfkit store (default: store.sqlite in SDDFKIT_ROOT or ./sddfkit-data)"
    )
    where.add_argument("--root", metavar="DIR", help="the job's paths.root, which holds the store")
    parser.add_argument("--batch", metavar="NAME", help="only this batch (default: everything in the store)")
    parser.add_argument("--once", action="store_true", help="look once, as plain text")
    parser.add_argument("--json", action="store_true", help="each look as one line, a JSON object with every number")
    parser.add_argument(
        "--interval", type=_seconds, default=2.0, metavar="S", help="seconds between looks (default: 2)"
    )
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.1 <= value <= 86400.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 to 86400")
    return value


def _watch(given: argparse.Namespace) -> None:
    looks = _looks(given.store or given.root, given.batch, given.interval)
    if given.json:
        for now in looks:
            print(json.dumps(now.document()), flush=True)
            if given.once:
                return
    elif given.once:
        _print(next(looks))
    elif sys.stdout.isatty():
        _live(looks)
    else:
        _log(looks)


def _looks(store: str | None, batch: str | None, interval_s: float) -> Iterator["Progress"]:
    """Look again and again; the last look is the one that finds nothing open."""
    from sddfkit.factory.progress import Learnt

    learnt = Learnt()
    while True:
        begun = time.monotonic()
        with reading(store) as opened:  # anew each time: what a writer does to the file is its own affair
            now = learnt.look(opened, batch)
        yield now
        if not now.open:
            return
        time.sleep(max(interval_s, min(LONGEST_S, SHARE * (time.monotonic() - begun))))


def _print(now: "Progress") -> None:
    """Print everything, without control codes, as wide as the terminal, or as a page where there is none."""
    from rich.console import Console

    width = shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns
    console = Console(file=sys.stdout, force_terminal=False, color_system=None, width=width)
    console.print(_Frame(now, whole=True))
    sys.stdout.flush()


def _log(looks: Iterator["Progress"]) -> None:
    """For a file: a line now and then, and everything at the end."""
    said = -math.inf
    for now in looks:
        if time.monotonic() - said >= LINE_EVERY_S and now.open:
            said = time.monotonic()
            print(f"{_counts(now)}; {_eta(now)}", flush=True)
    _print(now)


def _live(looks: Iterator["Progress"]) -> None:
    """For a person: a screen that is drawn anew in place; what was seen last stays behind."""
    from rich.console import Console
    from rich.live import Live

    now = next(looks)
    console = Console(file=sys.stdout)
    frame = _Frame(now)
    try:
        with Live(frame, console=console, screen=True, refresh_per_second=2):
            for now in looks:
                frame.now = now
    finally:
        console.print(_Frame(now, whole=True))


class _Frame:
    """What is seen, drawn for the size that the terminal has at that moment; `whole`: as long as it must be."""

    def __init__(self, now: "Progress", *, whole: bool = False) -> None:
        self.now = now
        self.whole = whole

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> Iterator["RenderableType"]:
        now, width = self.now, options.max_width
        yield from _header(now)
        yield ""
        yield _bar(now, width)
        yield from _summary(now, width)
        yield ""
        states = _states(now)
        yield states
        left = 10**6 if self.whole else console.size.height - 8 - states.row_count - len(_summary(now, width))
        if now.engines and left > 4:
            rows = min(len(now.engines), ENGINE_ROWS, left - 3 if not now.failures else max(2, left // 2 - 2))
            yield ""
            yield _engines(now, rows)
            left -= 2 + rows + (len(now.engines) > rows)
        if now.failures and left > 3:
            yield ""
            yield from _failures(now, left - 1, width)


def _header(now: "Progress") -> list["Text"]:
    batch = f"batch {now.batch}" if now.batch else "all batches" if len(now.batches) != 1 else f"batch {now.batches[0]}"
    if now.writer:
        who = f"process {now.writer['pid']} on {now.writer['host']}"
        does = (f"{who} works on it", "green") if now.running else f"{who} has it open, nothing is running"
        state = _line(does, f"; last heard of {_ago(now.writer['heartbeat'])}")
    else:
        state = _line(("no process works on it", "yellow" if now.open else ""))
        if now.open:
            state.append(": the command that asked for it goes on from here")
    return [_line((batch, "bold"), f"  {now.store}"), state]


def _line(*parts: str | tuple[str, str]) -> "Text":
    from rich.text import Text

    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _bar(now: "Progress", width: int) -> "RenderableType":
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    ended = now.done + now.failed
    percent = math.floor(100.0 * ended / now.total) if now.total else 100
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    grid.add_row(
        ProgressBar(total=max(now.total, 1), completed=ended if now.total else 1),
        _line((f"{percent} %", "bold"), f"  {_number(ended)} of {_number(now.total)}  ", (_eta(now), "bold cyan")),
    )
    return grid


def _summary(now: "Progress", width: int) -> list["Text"]:
    """Counts, speed and cost: in as many lines as they need."""
    overall = f"{now.per_minute_overall:.3g}/min over {_span(now.elapsed_s)}"
    lately = f"{now.per_minute:.3g}/min in the last {now.window_min:g} min, "
    rest = f", about {_core_time(now.rest_core_hours)} to go" if now.open and now.rest_core_hours is not None else ""
    spent = [
        lately + overall if now.writer and now.running else overall,
        f"{_core_time(now.core_hours)} used{rest}, at most {now.peak_rss_mib:.0f} MiB",
    ]
    parts = [_counts(now), *(spent if now.attempts else [])]
    if now.running and now.writer:
        parts.append(now.eta_how)
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 3 <= width:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    return [_line((line, "dim" if i else "")) for i, line in enumerate(lines)]


def _counts(now: "Progress") -> str:
    states = now.states
    named = [
        f"{_number(states[name])} {name}" for name in ("done", "failed", "held", "running", "ready") if states[name]
    ]
    return ", ".join(named) or "nothing was asked for"


def _eta(now: "Progress") -> str:
    return "complete" if not now.open else f"ETA {_span(now.eta_s)}" if now.eta_s is not None else "ETA unknown"


def _states(now: "Progress") -> "Table":
    from sddfkit.factory.progress import STATES

    table = _columns(["level", "program", "error class"], STATES)
    rows: dict[tuple[str, str, str], dict[str, int]] = {}
    for item in now.groups:
        rows.setdefault((item.level, item.program, item.error_class), {})[item.state] = item.calculations
    styles = {"failed": "red", "held": "red", "running": "green"}
    before: tuple[str, ...] = ()
    for level, program, error_class in sorted(rows):
        found = rows[level, program, error_class]
        words = ("", "") if before == (level, program) else (level, program)
        numbers = [(_number(found[state]) if state in found else "·", styles.get(state, "")) for state in STATES]
        table.add_row(*map(_line, words), _line(error_class or "–"), *(_line(cell) for cell in numbers))
        before = (level, program)
    return table


def _engines(now: "Progress", rows: int) -> "Table":
    table = _columns(["engine", "now"], ["done", "failed", "per min", "busy", "peak MiB", "last"])
    for item in sorted(now.engines, key=lambda item: (not item.working, item.engine))[:rows]:
        table.add_row(
            _line(item.engine),
            _line(("at work", "green") if item.working else "–"),
            _line(_number(item.done)),
            _line((_number(item.failed), "red" if item.failed else "")),
            _line(f"{item.per_minute:.3g}"),
            _line(f"{100.0 * item.busy:.0f} %"),
            _line(f"{item.peak_rss_mib:.0f}"),
            _line(_ago(item.last)),
        )
    if len(now.engines) > rows:
        table.add_row(_line(f"and {len(now.engines) - rows} more"))
    return table


def _columns(words: Sequence[str], numbers: Sequence[str]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for i, name in enumerate(words):
        table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=6 if i else 10)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    return table


def _failures(now: "Progress", left: int, width: int) -> Iterator["Text"]:
    """Draw the groups of failures that fit into so many lines, each with an example and the end of its output."""
    shown = 0
    for item in now.failures:
        lines = list(_failure(item, width))
        rest = len(now.failures) - shown
        room = left - (rest > 1)
        if room < 2:
            break
        yield from lines[:room]
        shown += 1
        left -= min(len(lines), room)
    if shown < len(now.failures):
        yield _line((f"and {len(now.failures) - shown} more kinds: sddfkit store failures", "dim"))


def _failure(item: "FailureGroup", width: int) -> Iterator["Text"]:
    held = f", {item.held} held" if item.held else ""
    yield _line((f"{_number(item.count)} × {item.error_class}{held}: ", "red"), _plain(item.error_message))
    yield _line((f"  such as {item.key[:12]}  {item.label}  {item.smiles}", "dim"))
    for line in item.output_tail.rstrip().splitlines()[-TAIL_LINES:]:
        yield _line((f"  │ {_plain(line)}", "dim"))


def _plain(text: str) -> str:
    """Return text that cannot move the cursor or colour the rest."""
    return "".join(sign if sign.isprintable() else " " for sign in text.expandtabs(4))


def _number(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _ago(moment: str) -> str:
    if not moment:
        return "–"
    return f"{_span((dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(moment)).total_seconds())} ago"


def _core_time(hours: float) -> str:
    """Return computing time in the unit that keeps the number readable."""
    for unit, value in (("core h", hours), ("core min", 60.0 * hours)):
        if value >= 1.0:
            return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
    return f"{3600.0 * hours:.2g} core s" if hours < 10 / 3600 else f"{3600.0 * hours:.0f} core s"


def _span(seconds: float) -> str:
    """Return a time with the unit that matters: 0 s, 48 s, 3 min, 2.5 h, 4.0 d."""
    seconds = max(0.0, seconds)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60.0:
        return f"{seconds / 60.0:.0f} min"
    return f"{seconds / 3600.0:.1f} h" if seconds < 48 * 3600.0 else f"{seconds / 86400.0:.1f} d"
