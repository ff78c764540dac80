"""MDL molfiles, V2000 and V3000, alone (MOL) or one after another (SDF).

BIOVIA, CTfile Formats (2020). Only what a comparison needs is read: symbols, coordinates, bonds and their types.
"""

from collections.abc import Iterator

from flashrmsd_cy._elements import atom_label
from flashrmsd_cy._records import Bond, Topologies, Topology, check_bond, check_distinct, check_positions
from flashrmsd_cy.errors import FormatError

Parsed = tuple[Topology, list[float]]


def blocks(lines: list[str]) -> Iterator[tuple[int, int]]:
    """First and end index of the lines of each record, without the ``$$$$``."""
    start = 0
    for index, line in enumerate(lines):
        if line[:4] == "$$$$":
            yield start, index
            start = index + 1
    if any(line.strip() for line in lines[start:]):
        yield start, len(lines)


def title(lines: list[str], start: int, stop: int) -> str:
    """The first header line."""
    return lines[start].strip() if start < stop else ""


def parse(lines: list[str], start: int, stop: int, topologies: Topologies) -> Parsed:
    """Graph and coordinates of the record in ``lines[start:stop]``. Raises FormatError."""
    if stop - start < 4:
        what = f"{stop - start} lines" if any(line.strip() for line in lines[start:stop]) else "no text"
        raise FormatError(f"it has {what}, expected three header lines and a counts line")
    if "V3000" in lines[start + 3].upper():
        return _v3000(lines, start, stop, topologies)
    return _v2000(lines, start, stop, topologies)


def _v2000(lines: list[str], start: int, stop: int, topologies: Topologies) -> Parsed:
    counts = lines[start + 3]
    try:
        n_atoms, n_bonds = int(counts[0:3]), int(counts[3:6])
    except ValueError:
        raise FormatError(
            f"line {start + 4}: {counts[:40]!r} is no counts line: expected the numbers of atoms and bonds in three "
            "columns each"
        ) from None
    first_bond = start + 4 + n_atoms
    end = first_bond + n_bonds
    if n_atoms < 0 or n_bonds < 0 or end > stop:
        raise FormatError(
            f"line {start + 4}: {n_atoms} atoms and {n_bonds} bonds are announced, but {stop - start - 4} lines "
            "follow: is the record cut off?"
        )
    atoms = lines[start + 4 : first_bond]
    positions: list[float] = []
    for index, line in enumerate(atoms):
        try:
            positions += (float(line[0:10]), float(line[10:20]), float(line[20:30]))
        except ValueError:
            raise FormatError(
                f"line {start + 5 + index}: {line[:40]!r} does not begin with three coordinates of ten columns each "
                f"(atom {index + 1} of {n_atoms})"
            ) from None
    check_positions(positions, start + 5)
    _check_end(lines, end, stop, n_lists=counts[6:9])
    text = ([line[31:34] for line in atoms], lines[first_bond:end])
    topology = topologies.of_text(text)
    if topology is None:
        elements = tuple(_label(symbol, start + 5 + index) for index, symbol in enumerate(text[0]))
        bonds = _v2000_bonds(lines, first_bond, end, n_atoms)
        topology = topologies.of(text, elements, bonds)
    return topology, positions


def _v2000_bonds(lines: list[str], first: int, end: int, n_atoms: int) -> list[Bond]:
    bonds = []
    for index in range(first, end):
        line = lines[index]
        try:
            i, j, kind = int(line[0:3]) - 1, int(line[3:6]) - 1, int(line[6:9])
        except ValueError:
            raise FormatError(
                f"line {index + 1}: {line[:20]!r} does not begin with two atoms and a bond type of three columns each "
                f"(bond {index - first + 1} of {end - first})"
            ) from None
        check_bond(i, j, n_atoms, index + 1)
        bonds.append((i, j, kind))
    check_distinct(bonds)
    return bonds


def _check_end(lines: list[str], end: int, stop: int, n_lists: str = "") -> None:
    """Refuse a record that is longer than its counts line says, has no end, or runs into the next one."""
    if end < stop and n_lists.strip() in {"", "0"} and lines[end][:9].replace(" ", "").isdigit():
        raise FormatError(f"line {end + 1}: {lines[end][:20]!r} follows the last bond that the counts line announces")
    for index in range(end, stop):
        line = lines[index]
        if line[:6] == "M  END":
            break
        if line[:1] == ">":  # data without an end of the molecule before them, as some programs write
            return
    else:
        if stop == len(lines):
            raise FormatError("it ends without 'M  END': is the file cut off?")
        return
    after = next((i for i in range(index + 1, stop) if lines[i].strip()), None)
    if after is not None and lines[after][:1] != ">":
        raise FormatError(f"line {after + 1}: {lines[after][:40]!r} follows 'M  END': is a line '$$$$' missing?")


def _v3000(lines: list[str], start: int, stop: int, topologies: Topologies) -> Parsed:
    rows: dict[str, list[tuple[int, list[str]]]] = {"ATOM": [], "BOND": []}
    counts: tuple[int, int] | None = None
    section, index = "", start + 4
    ended = False
    while index < stop and not ended:
        line = index + 1
        text = lines[index].rstrip()
        while text.startswith("M  V30 ") and text.endswith("-") and index + 1 < stop:
            index += 1
            text = text[:-1] + lines[index].rstrip()[7:]
        index += 1
        ended = text.startswith("M  END")
        if not text.startswith("M  V30 "):
            continue
        words = text[7:].split()
        if words[:1] == ["BEGIN"]:
            section = words[1].upper() if len(words) > 1 else ""
        elif words[:1] == ["END"]:
            section = "CTAB"
        elif words[:1] == ["COUNTS"]:
            counts = _v3000_counts(words, line)
        elif section in rows:
            rows[section].append((line, words))
    if counts is None:
        raise FormatError("it has no line 'M  V30 COUNTS'")
    _check_end(lines, index - 1, stop)
    if (len(rows["ATOM"]), len(rows["BOND"])) != counts:
        raise FormatError(
            f"{counts[0]} atoms and {counts[1]} bonds are announced, {len(rows['ATOM'])} and {len(rows['BOND'])} given"
        )
    place, elements, positions = _v3000_atoms(rows["ATOM"])
    bonds = _v3000_bonds(rows["BOND"], place)
    return topologies.of(None, elements, bonds), positions


def _v3000_counts(words: list[str], line: int) -> tuple[int, int]:
    try:
        return int(words[1]), int(words[2])
    except (ValueError, IndexError):
        raise FormatError(f"line {line}: {' '.join(words)!r} does not give the numbers of atoms and bonds") from None


def _v3000_atoms(rows: list[tuple[int, list[str]]]) -> tuple[dict[str, int], tuple[int | str, ...], list[float]]:
    place: dict[str, int] = {}
    elements: list[int | str] = []
    positions: list[float] = []
    for line, words in rows:
        try:
            number, symbol, (x, y, z) = words[0], words[1], map(float, words[2:5])
        except (ValueError, IndexError):
            raise FormatError(f"line {line}: {' '.join(words)[:50]!r} is not index, element, x, y, z") from None
        if number in place:
            raise FormatError(f"line {line}: the atom index {number} is given twice")
        place[number] = len(place)
        elements.append(_label(symbol, line))
        positions += (x, y, z)
        check_positions([x, y, z], line)
    return place, tuple(elements), positions


def _v3000_bonds(rows: list[tuple[int, list[str]]], place: dict[str, int]) -> list[Bond]:
    bonds = []
    for line, words in rows:
        try:
            kind, i, j = int(words[1]), place[words[2]], place[words[3]]
        except (ValueError, IndexError):
            raise FormatError(f"line {line}: {' '.join(words)[:50]!r} is not index, type, two atoms") from None
        except KeyError as missing:
            raise FormatError(f"line {line}: the bond names the atom {missing.args[0]}, which is not there") from None
        check_bond(i, j, len(place), line)
        bonds.append((i, j, kind))
    check_distinct(bonds)
    return bonds


def _label(symbol: str, line: int) -> int | str:
    try:
        return atom_label(symbol)
    except FormatError as error:
        raise FormatError(f"line {line}: {error}") from None
