"""What a person sees while a workflow runs: progress bars with an ETA, sentences, and one table per round."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

T = TypeVar("T")


def say(text: str) -> None:
    """Print a sentence without breaking a progress bar."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def progress(description: str) -> Callable[[Iterable[T], int], Iterable[T]]:
    """Return a function that shows an iterable's progress, rate and ETA on standard error."""
    quiet = not sys.stderr.isatty()

    def wrap(items: Iterable[T], total: int) -> Iterable[T]:
        return tqdm(
            items,
            total=total,
            desc=description,
            mininterval=20.0 if quiet else 0.2,
            dynamic_ncols=True,
            leave=not quiet,
        )

    return wrap


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
        table.add_row(*row)
    Console(file=sys.stdout).print(table)
    sys.stdout.flush()
