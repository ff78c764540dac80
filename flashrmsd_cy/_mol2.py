"""Tripos MOL2: any number of molecules in a file.

Tripos Mol2 File Format (2005). Only what a comparison needs is read: atom types, coordinates, bonds and their types.
"""

from collections.abc import Iterator
from itertools import pairwise

from flashrmsd_cy._elements import sybyl_label
from flashrmsd_cy._records import Bond, Topologies, Topology, check_bond, check_distinct, check_positions
from flashrmsd_cy.errors import FormatError

MOLECULE = "@<TRIPOS>MOLECULE"
# Numbered as in molfiles. An amide bond is a single one; dummy and unknown bonds are like their own kind only.
BOND_TYPES = {"1": 1, "2": 2, "3": 3, "am": 1, "ar": 4, "du": -1, "un": -2}
NOT_CONNECTED = "nc"


def blocks(lines: list[str]) -> Iterator[tuple[int, int]]:
    """First and end index of the lines of each record; what stands before the first is comment."""
    starts = [index for index, line in enumerate(lines) if line.startswith(MOLECULE)]
    yield from pairwise([*starts, len(lines)])


def title(lines: list[str], start: int, stop: int) -> str:
    """The line after ``@<TRIPOS>MOLECULE``."""
    return lines[start + 1].strip() if start + 1 < stop else ""


def parse(lines: list[str], start: int, stop: int, topologies: Topologies) -> tuple[Topology, list[float]]:
    """Graph and coordinates of the record in ``lines[start:stop]``. Raises FormatError."""
    sections = _sections(lines, start, stop)
    n_atoms, n_bonds = _counts(lines, start, stop)
    atoms, bonds = sections.get("ATOM", []), sections.get("BOND", [])
    if n_bonds is None:
        n_bonds = len(bonds)
    if (len(atoms), len(bonds)) != (n_atoms, n_bonds):
        raise FormatError(
            f"{n_atoms} atoms and {n_bonds} bonds are announced, {len(atoms)} and {len(bonds)} given: "
            "is the record cut off?"
        )
    place: dict[str, int] = {}
    elements: list[int | str] = []
    positions: list[float] = []
    for index in atoms:
        words = lines[index].split()
        try:
            number, (x, y, z), kind = words[0], map(float, words[2:5]), words[5]
        except (ValueError, IndexError):
            raise FormatError(f"line {index + 1}: {lines[index][:50]!r} is not id, name, x, y, z, type") from None
        if number in place:
            raise FormatError(f"line {index + 1}: the atom id {number} is given twice")
        place[number] = len(place)
        try:
            elements.append(sybyl_label(kind))
        except FormatError as error:
            raise FormatError(f"line {index + 1}: {error}") from None
        check_positions([x, y, z], index + 1)
        positions += (x, y, z)
    return topologies.of(None, tuple(elements), _bonds(lines, bonds, place)), positions


def _sections(lines: list[str], start: int, stop: int) -> dict[str, list[int]]:
    """Indices of the lines of each section, without comments and blank lines."""
    sections: dict[str, list[int]] = {}
    current: list[int] = []
    for index in range(start, stop):
        line = lines[index]
        if line.startswith("@<TRIPOS>"):
            current = sections.setdefault(line[9:].strip(), [])
        elif line.strip() and not line.startswith("#"):
            current.append(index)
    return sections


def _counts(lines: list[str], start: int, stop: int) -> tuple[int, int | None]:
    words = lines[start + 2].split() if start + 2 < stop else []
    try:
        return int(words[0]), int(words[1]) if len(words) > 1 else None
    except (ValueError, IndexError):
        raise FormatError(
            f"line {start + 3}: expected the numbers of atoms and bonds two lines after {MOLECULE}"
        ) from None


def _bonds(lines: list[str], indices: list[int], place: dict[str, int]) -> list[Bond]:
    bonds = []
    for index in indices:
        words = lines[index].split()
        if len(words) < 4 or words[3].lower() not in {*BOND_TYPES, NOT_CONNECTED}:
            raise FormatError(
                f"line {index + 1}: {lines[index][:50]!r} is not id, two atoms and a bond type, which is one of "
                f"{', '.join(BOND_TYPES)}"
            )
        if words[1] not in place or words[2] not in place:
            raise FormatError(f"line {index + 1}: the bond {words[1]}–{words[2]} names an atom that is not there")
        if words[3].lower() == NOT_CONNECTED:
            continue
        i, j = place[words[1]], place[words[2]]
        check_bond(i, j, len(place), index + 1)
        bonds.append((i, j, BOND_TYPES[words[3].lower()]))
    check_distinct(bonds)
    return bonds
