"""One function per file format: a byte stream to entries, each with its line number."""

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    if kind in ([".smi"], [".smiles"], [".txt"]):
        return _smiles_lines(_lines(path, packed))
    if kind == [".csv"]:
        return _csv_rows(_lines(path, packed), str(path), smiles_column, name_column)
    if kind == [".sdf"]:
        return _sdf_records(_lines(path, packed))
    raise MoleculeError(f"{path.name}: unknown suffix; expected .smi .smiles .txt .csv .sdf, or one of them with .gz")


def _lines(path: Path, packed: bool) -> Iterator[_Line]:
    number = 0
    with gzip.open(path, "rb") if packed else path.open("rb") as stream:
        try:
            for raw in stream:
                for line in raw.rstrip(b"\r\n").split(b"\r"):  # files of old Macs have CR alone
                    number += 1
                    yield _decoded(number, line)
        except gzip.BadGzipFile as error:
            if number == 0:
                raise MoleculeError(f"{path} is not a gzip file: {error}") from error
            yield _Line(number + 1, "", f"the gzip stream is damaged: {error}")
        except (EOFError, zlib.error) as error:
            yield _Line(number + 1, "", f"the gzip stream is damaged or cut off: {error}")


def _decoded(number: int, raw: bytes) -> _Line:
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")  # byte-order mark of Windows editors
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text: byte 0x{raw[error.start]:02x} at column {error.start + 1}"
        return _Line(number, raw.decode("utf-8", errors="replace"), problem)
    return _Line(number, text, "it holds a NUL byte: not a text file" if "\0" in text else "")


def _smiles_lines(lines: Iterator[_Line]) -> Iterator[Entry | Unreadable]:
    # CXSMILES puts |…| between SMILES and name, and the extension itself may hold spaces.
    pattern = re.compile(r"(?P<smiles>\S+)(?P<extension>\s+\|[^|]*\|)?(?:\s+(?P<name>.*))?$")
    opening = True
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
    if header is None:
        return
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
    name_at = _column(columns, name_column, NAME_COLUMNS, source)
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
    for block in _blocks(_lines(path, path.suffix.lower() == ".gz")):
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
