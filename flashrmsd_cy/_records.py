"""What the readers make: records of coordinates that share their molecular graphs."""

from dataclasses import dataclass
from math import isfinite

from flashrmsd_cy.errors import FormatError

Bond = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """Atoms (atomic number, or the name of what has none) and bonds (i, j, type), i < j, sorted; indices from 0."""

    elements: tuple[int | str, ...]
    bonds: tuple[Bond, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One molecule of a file: number from 0, first line from 1, coordinates x y z x y z … in Å, or what is wrong."""

    file: str
    number: int
    line: int
    title: str
    topology: Topology | None
    positions: tuple[float, ...]
    problem: str = ""

    def __str__(self) -> str:
        title = f", {self.title[:60]!r}" if self.title else ""
        return f"{self.file}: record {self.number} (line {self.line}{title})"


class Topologies:
    """Keeps one object for each distinct graph, so that what is prepared for it is prepared once."""

    def __init__(self) -> None:
        self._known: dict[tuple, Topology] = {}
        self._last: tuple[object, Topology | None] = (None, None)

    def of_text(self, text: object) -> Topology | None:
        """The graph of the record before, if it was written in the same words."""
        return self._last[1] if text == self._last[0] else None

    def of(self, text: object, elements: tuple[int | str, ...], bonds: list[Bond]) -> Topology:
        """The graph with these atoms and bonds; `text` is how the record wrote it."""
        key = (elements, tuple(sorted((min(i, j), max(i, j), kind) for i, j, kind in bonds)))
        topology = self._known.setdefault(key, Topology(*key))
        self._last = (text, topology)
        return topology


def check_bond(i: int, j: int, n_atoms: int, line: int) -> None:
    """Refuse a bond (indices from 0) that joins what cannot be joined."""
    if not (0 <= i < n_atoms and 0 <= j < n_atoms):
        raise FormatError(f"line {line}: the bond {i + 1}–{j + 1} names an atom beyond the {n_atoms} of the record")
    if i == j:
        raise FormatError(f"line {line}: the bond {i + 1}–{j + 1} joins an atom to itself")


def check_positions(positions: list[float], first_line: int) -> None:
    """Refuse coordinates that are not finite; atoms stand one to a line from `first_line`."""
    if not all(map(isfinite, positions)):
        bad = next(i for i, value in enumerate(positions) if not isfinite(value))
        raise FormatError(f"line {first_line + bad // 3}: the coordinate {positions[bad]} is not finite")


def check_distinct(bonds: list[Bond]) -> None:
    """Refuse a bond that is given twice."""
    seen = set()
    for i, j, _ in bonds:
        if (i, j) in seen or (j, i) in seen:
            raise FormatError(f"the bond {i + 1}–{j + 1} is given twice")
        seen.add((i, j))
