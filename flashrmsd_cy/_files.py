"""From a path, or standard input, to records; a broken record is a record with a problem and keeps its place."""

import gzip
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from flashrmsd_cy import _mol2, _molfile
from flashrmsd_cy._records import Record, Topologies
from flashrmsd_cy.errors import FormatError

STDIN = "-"
SUFFIXES = {
    **dict.fromkeys((".sdf", ".sd", ".mol", ".mdl"), _molfile),
    **dict.fromkeys((".mol2", ".ml2"), _mol2),
}


def read_records(path: str, topologies: Topologies) -> Iterator[Record]:
    """Records of an SDF, MOL or MOL2 file, plain or gzipped, in order.

    Parameters
    ----------
    path : str
        The suffix decides on the format, in any case, with or without ``.gz``; without a known one the text does.
        ``-`` is standard input.
    topologies : Topologies
        Where graphs are kept; give the same object for files that will be compared.

    Raises
    ------
    FormatError
        If there is no such file, it cannot be read, or it holds no record.
    """
    lines = _text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    name = "standard input" if path == STDIN else path
    format_ = _format(path, lines)
    number = -1
    for number, (start, stop) in enumerate(format_.blocks(lines)):
        title = format_.title(lines, start, stop)
        try:
            topology, positions = format_.parse(lines, start, stop, topologies)
        except FormatError as error:
            yield Record(name, number, start + 1, title, None, (), str(error))
        else:
            yield Record(name, number, start + 1, title, topology, tuple(positions))
    if number < 0:
        raise FormatError("it holds no molecule")


def _text(path: str) -> str:
    try:
        data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except IsADirectoryError:
        raise FormatError("it is a folder, expected an SDF, MOL or MOL2 file") from None
    except FileNotFoundError:
        raise FormatError("there is no such file") from None
    except OSError as error:
        raise FormatError(f"it cannot be read: {error.strerror or error}") from None
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise FormatError(f"it is gzipped and damaged or cut off ({error})") from None
    if not data.strip():
        raise FormatError("it is empty")
    return data.decode("utf-8-sig", errors="replace")


def _format(path: str, lines: list[str]) -> ModuleType:
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes[-1:] in ([".gz"], [".gzip"]):
        suffixes.pop()
    known = SUFFIXES.get(suffixes[-1]) if suffixes else None
    if known is not None:
        return known
    if any(line.startswith(_mol2.MOLECULE) for line in lines):
        return _mol2
    if len(lines) > 3 and lines[3].rstrip()[-5:] in {"V2000", "V3000"}:
        return _molfile
    raise FormatError(
        "it is neither SDF, MOL nor MOL2: its name has none of their suffixes, its text none of their marks"
    )
