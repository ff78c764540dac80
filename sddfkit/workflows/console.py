"""What a person sees while a workflow runs: progress bars with an ETA, sentences, and one table per round."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

T = TypeVar("T")
LINE_EVERY_S = 20.0


def say(text: str) -> None:
    """Print a sentence without breaking a progress bar."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def progress(description: str) -> Callable[[Iterable[T], int], Iterable[T]]:
    """Return a function that shows an iterable's progress, rate and ETA on standard error.

    A bar for a person at a terminal; a line every twenty seconds for a log.
    """

    def wrap(items: Iterable[T], total: int) -> Iterable[T]:
        if not sys.stderr.isatty():
            return _lines(items, total, description)
        return tqdm(items, total=total, desc=description, dynamic_ncols=True)

    return wrap


def _lines(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    begun = said = time.monotonic()
    print(f"{description}: 0/{total}", file=sys.stderr, flush=True)
    for done, item in enumerate(items, start=1):
        now = time.monotonic()
        if now - said >= LINE_EVERY_S or done == total:
            left = (now - begun) / done * (total - done)
            print(f"{description}: {done}/{total}, ETA {left:.0f} s", file=sys.stderr, flush=True)
            said = now
        yield item


class Stopwatch:
    """Wall time by stage, in the order of first use."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent in the context to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def show_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table with all columns aligned to the right but those of words."""
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for column in columns:
        table.add_column(column, justify="left" if column.islower() and column != "labels" else "right")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))  # [gen] is a list of networks here, not a style
    Console(file=sys.stdout).print(table)
    sys.stdout.flush()
