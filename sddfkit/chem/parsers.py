"""One function per file format: a byte stream to entries, each with its line number."""

import bz2
import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Literal, NamedTuple, cast

from rdkit import Chem, rdBase

from sddfkit.chem.messages import reason_for
from sddfkit.chem.molecules import MoleculeError


class Entry(NamedTuple):
    """A line, row or record that may be a molecule; `molecule` is a SMILES or what RDKit read from a mol block."""

    line: int
    text: str
    molecule: str | Chem.Mol
    name: str


class Unreadable(NamedTuple):
    """A line, row or record that is not one."""

    line: int
    text: str
    reason: str


class _Line(NamedTuple):
    number: int
    text: str
    problem: str  # why the text cannot be trusted; empty when it can


SMILES_COLUMNS = ("smiles", "canonicalsmiles", "isomericsmiles", "smi", "cxsmiles", "structure", "molecule", "mol")
NAME_COLUMNS = ("name", "title", "id", "compoundname", "moleculename", "compound", "identifier", "cid", "inchikey")


def entries(
    path: Path, *, smiles_column: str | None = None, name_column: str | None = None
) -> Iterator[Entry | Unreadable]:
    """Entries of a file by its suffix (see `sddfkit.chem.sources.read_molecules`).

    Raises
    ------
    MoleculeError
        Unknown suffix, a .gz that is not gzip, a CSV file without a column of SMILES.
    """
    kind = _kind(path)
    if kind == "smiles":
        return _smiles_lines(_lines(path))
    if kind == "table":
        return _csv_rows(_lines(path), str(path), smiles_column, name_column)
    return _sdf_records(_lines(path))


class Chunk(NamedTuple):
    """Some lines or records of a file as they stand there, for another process to parse (:func:`parsed`).

    Parameters
    ----------
    kind : of the file
    line : number of the first line, from 1
    end : where the next chunk begins, in bytes of the unpacked file
    read : bytes of the file, packed as it may be, that were read so far
    n_lines : how many lines there are
    content : the bytes
    table : how the columns lie, of a table
    """

    kind: "Kind"
    line: int
    end: int
    read: int
    n_lines: int
    content: bytes
    table: "Table | None"


def chunks(
    path: Path,
    *,
    size: int,
    begin: tuple[int, int] = (1, 0),
    smiles_column: str | None = None,
    name_column: str | None = None,
) -> Iterator[Chunk]:
    """Cut a file into chunks of about `size` lines; lines end with LF or CR LF.

    Parameters
    ----------
    path : see `sddfkit.chem.sources.read_molecules` for the suffixes
    size : of a chunk, in lines; records of an SDF file are not cut
    begin : line and offset of the chunk to begin with: where an earlier one ended
    smiles_column, name_column : columns of a table; guessed from the header if None

    Raises
    ------
    MoleculeError
        At the first chunk, as :func:`entries`; and where a packed file is damaged or a line is beyond all measure.
    """
    kind = _kind(path)
    with path.open("rb") as raw, _unpacked(raw, path) as stream:
        try:
            line, offset, table = 1, 0, None
            if kind == "table":
                header = b"\n"
                while header and not header.strip():
                    header = stream.readline(LONGEST_LINE)
                    offset, line = offset + len(header), line + 1
                if not header:
                    return
                table = _table(_decoded(1, header.rstrip(b"\r\n")), str(path), smiles_column, name_column)
            if begin[1] > offset:
                line, offset = begin
                stream.seek(offset)
            while found := _some(stream, size, records=kind == "sdf"):
                content = b"".join(found)
                offset += len(content)
                yield Chunk(kind, line, offset, raw.tell(), len(found), content, table)
                line += len(found)
        except (EOFError, zlib.error, OSError) as error:
            raise MoleculeError(f"{path} is damaged or cut off: {error}") from error


def parsed(chunk: Chunk) -> Iterator[Entry | Unreadable]:
    """Parse the lines or records of a chunk."""
    rows = chunk.content.split(b"\n")[: chunk.n_lines]
    lines = (_decoded(number, row.rstrip(b"\r")) for number, row in enumerate(rows, start=chunk.line))
    if chunk.kind == "smiles":
        return _smiles_lines(lines, opening=chunk.line == 1)
    if chunk.table is not None:
        return _table_rows(lines, chunk.table)
    return _sdf_records(lines)


@contextmanager
def open_packed(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, unpacked if its name ends with ``.gz`` or ``.bz2``."""
    with path.open("rb") as raw, _unpacked(raw, path) as stream:
        yield stream


@contextmanager
def _unpacked(raw: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        with gzip.GzipFile(fileobj=raw) as stream:
            yield cast(IO[bytes], stream)
    elif suffix == ".bz2":
        with bz2.BZ2File(raw) as stream:
            yield cast(IO[bytes], stream)
    else:
        yield raw


LONGEST_LINE: Final = 1 << 20
"""Bytes. A longer line is no molecule, and would have to be held whole."""
_LONGEST_RECORD: Final = 1 << 24


def _some(stream: IO[bytes], size: int, *, records: bool) -> list[bytes]:
    """Return the next `size` lines, and those after them to the end of a record."""
    found: list[bytes] = []
    held = 0
    while len(found) < size or (records and not found[-1].startswith(b"$$$$")):
        line = stream.readline(LONGEST_LINE)
        if not line:
            break
        held += len(line)
        if len(line) == LONGEST_LINE or (records and len(found) >= size and held > _LONGEST_RECORD):
            raise OSError(f"a line or record is longer than {LONGEST_LINE >> 20} MiB, no molecule")
        found.append(line)
    return found


Kind = Literal["smiles", "table", "sdf"]
_KINDS: Final[dict[str, Kind]] = {
    ".smi": "smiles",
    ".smiles": "smiles",
    ".txt": "smiles",
    ".csv": "table",
    ".tsv": "table",
    ".sdf": "sdf",
}


def _kind(path: Path) -> Kind:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] in ([".gz"], [".bz2"]):
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix == ".cxsmiles":
        return "table" if _has_header(path) else "smiles"
    if suffix not in _KINDS:
        known = " ".join([*list(_KINDS)[:3], ".cxsmiles", *list(_KINDS)[3:]])
        raise MoleculeError(f"{path.name}: unknown suffix; expected {known}, or one of them with .gz or .bz2")
    return _KINDS[suffix]


def _has_header(path: Path) -> bool:
    """Whether the first line names columns, as vendors' catalogues have it: ``smiles <tab> id <tab> …``."""
    try:
        with open_packed(path) as stream:
            first = stream.readline(LONGEST_LINE)
    except (EOFError, zlib.error, OSError) as error:
        raise MoleculeError(f"{path} cannot be read: {error}") from error
    cells = first.decode("utf-8", errors="replace").removeprefix("\ufeff").split("\t")
    return len(cells) > 1 and any(_key(cell) in SMILES_COLUMNS for cell in cells)


def _lines(path: Path) -> Iterator[_Line]:
    number = 0
    with open_packed(path) as stream:
        try:
            for raw in stream:
                for line in raw.rstrip(b"\r\n").split(b"\r"):  # files of old Macs have CR alone
                    number += 1
                    yield _decoded(number, line)
        except (EOFError, zlib.error) as error:
            yield _Line(number + 1, "", f"the {_packing(path)} stream is damaged or cut off: {error}")
        except OSError as error:  # of both packings, for what is none
            if not _packing(path) or error.errno is not None:
                raise
            if number == 0:
                raise MoleculeError(f"{path} is not a {_packing(path)} file: {error}") from error
            yield _Line(number + 1, "", f"the {_packing(path)} stream is damaged: {error}")


def _packing(path: Path) -> str:
    return {".gz": "gzip", ".bz2": "bzip2"}.get(path.suffix.lower(), "")


def _decoded(number: int, raw: bytes) -> _Line:
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")  # byte-order mark of Windows editors
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text: byte 0x{raw[error.start]:02x} at column {error.start + 1}"
        return _Line(number, raw.decode("utf-8", errors="replace"), problem)
    return _Line(number, text, "it holds a NUL byte: not a text file" if "\0" in text else "")


def _smiles_lines(lines: Iterator[_Line], *, opening: bool = True) -> Iterator[Entry | Unreadable]:
    # CXSMILES puts |…| between SMILES and name, and the extension itself may hold spaces.
    pattern = re.compile(r"(?P<smiles>\S+)(?P<extension>\s+\|[^|]*\|)?(?:\s+(?P<name>.*))?$")
    for line in lines:
        text = line.text.strip()
        if line.problem:
            yield Unreadable(line.number, text, line.problem)
            continue
        match = pattern.match(text)
        if match is None or text.startswith("#"):
            continue
        header, opening = opening and _key(match["smiles"]) in SMILES_COLUMNS, False
        if not header:
            extension = " " + match["extension"].strip() if match["extension"] else ""
            yield Entry(line.number, text, match["smiles"] + extension, (match["name"] or "").strip())


def _csv_rows(
    lines: Iterator[_Line], source: str, smiles_column: str | None, name_column: str | None
) -> Iterator[Entry | Unreadable]:
    header = next((line for line in lines if line.text.strip()), None)
    if header is not None:
        yield from _table_rows(lines, _table(header, source, smiles_column, name_column))


class Table(NamedTuple):
    """Where a table has its SMILES and names."""

    delimiter: str
    columns: list[str]
    smiles_at: int
    name_at: int | None


def _table(header: _Line, source: str, smiles_column: str | None, name_column: str | None) -> Table:
    if header.problem:
        raise MoleculeError(f"{source}: the header line is {header.problem}")
    delimiter = max(",;\t", key=header.text.count)
    columns = [column.strip() for column in next(csv.reader([header.text], delimiter=delimiter))]
    smiles_at = _column(columns, smiles_column, SMILES_COLUMNS, source)
    if smiles_at is None:
        raise MoleculeError(
            f"{source}: no column looks like SMILES: is the header line missing? Else name the column with "
            f"smiles_column. Columns: {columns}"
        )
    return Table(delimiter, columns, smiles_at, _column(columns, name_column, NAME_COLUMNS, source))


def _table_rows(lines: Iterator[_Line], table: Table) -> Iterator[Entry | Unreadable]:
    delimiter, columns, smiles_at, name_at = table
    for line in lines:
        if line.problem:
            yield Unreadable(line.number, line.text, line.problem)
            continue
        try:
            row = next(csv.reader([line.text], delimiter=delimiter), [])
        except csv.Error as error:
            yield Unreadable(line.number, line.text, f"not a row of a CSV file: {error}")
            continue
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= smiles_at or not row[smiles_at].strip():
            yield Unreadable(line.number, line.text, f"no value in the column {columns[smiles_at]!r}")
            continue
        name = row[name_at].strip() if name_at is not None and len(row) > name_at else ""
        yield Entry(line.number, line.text, row[smiles_at].strip(), name)


def _column(columns: list[str], wanted: str | None, guesses: tuple[str, ...], source: str) -> int | None:
    if wanted is not None:
        if wanted not in columns:
            raise MoleculeError(f"{source}: no column {wanted!r}: is the header line missing? Columns: {columns}")
        return columns.index(wanted)
    keys = [_key(column) for column in columns]
    return next((keys.index(guess) for guess in guesses if guess in keys), None)


def _key(column: str) -> str:
    return re.sub(r"[^a-z]", "", column.lower())


def sdf_blocks(path: Path) -> Iterator[tuple[int, str, str]]:
    """First line, text and problem ("" if there is none) of each record of an SDF file, properties included.

    The file may be packed (``.gz``); a MOL file is an SDF file of one record.
    """
    for block in _blocks(_lines(path)):
        problem = next((f"line {line.number}: {line.problem}" for line in block if line.problem), "")
        yield block[0].number, "\n".join(line.text for line in block), problem


def _blocks(lines: Iterator[_Line]) -> Iterator[list[_Line]]:
    block: list[_Line] = []
    for line in lines:
        if line.text.startswith("$$$$"):
            yield block or [line]
            block = []
        else:
            block.append(line)
    if any(line.text.strip() for line in block):  # files without the last $$$$ are common
        yield block


def _sdf_records(lines: Iterator[_Line]) -> Iterator[Entry | Unreadable]:
    yield from map(_sdf_record, _blocks(lines))


def _sdf_record(block: list[_Line]) -> Entry | Unreadable:
    start, title = block[0].number, block[0].text.strip()
    bad = next((line for line in block if line.problem), None)
    if bad is not None:
        return Unreadable(bad.number, bad.text, bad.problem)
    text = "\n".join(line.text for line in block)
    with rdBase.BlockLogs():
        mol = Chem.MolFromMolBlock(text, removeHs=False)
    if mol is None:
        reason = reason_for(lambda: Chem.MolFromMolBlock(text, removeHs=False))
        return Unreadable(start, title, reason or "RDKit refuses it without a reason")
    if mol.GetNumAtoms() == 0:
        return Unreadable(start, title, "the record holds no atoms")
    if mol.GetConformer().Is3D():
        Chem.AssignStereochemistryFrom3D(mol)
    else:
        mol.RemoveAllConformers()
    return Entry(start, title, mol, title)
