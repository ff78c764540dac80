"""From a path, or standard input, to records; a broken record is a record with a problem and keeps its place.

Files are read and unpacked by pieces, so that a file may be longer than the memory.
"""

import os
import sys

from flashrmsd_cy._text import MOLECULE, Record, Topologies
from flashrmsd_cy.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    class Stream(Protocol):
        def read(self, size: int, /) -> bytes: ...


STDIN = "-"
PIECE = 1 << 20  # bytes
HEAD = 1 << 12  # bytes that tell the format, or more
MOL2_SUFFIXES = {"mol2", "ml2"}
SUFFIXES = {"sdf", "sd", "mol", "mdl"} | MOL2_SUFFIXES
GZIP_MARK = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_records(path: str, topologies: Topologies) -> "Iterator[Record]":
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
        If there is no such file, it cannot be read, or it holds no record; when the file is damaged, after the records
        before the damage.
    """
    try:
        if path == STDIN:
            yield from _records("standard input", sys.stdin.buffer, "", topologies)
        else:
            with open(path, "rb", buffering=0) as stream:  # noqa: PTH123
                yield from _records(path, stream, _suffix(path), topologies)
    except IsADirectoryError:
        raise FormatError("it is a folder, expected an SDF, MOL or MOL2 file") from None
    except FileNotFoundError:
        raise FormatError("there is no such file") from None
    except OSError as error:
        raise FormatError(f"it cannot be read: {error.strerror or error}") from None


def _suffix(path: str) -> str:
    words = os.path.basename(path).lower().split(".")  # noqa: PTH119
    if words[-1] in ("gz", "gzip"):
        words.pop()
    return words[-1] if len(words) > 1 and words[-1] in SUFFIXES else ""


def _records(name: str, stream: "Stream", suffix: str, topologies: Topologies) -> "Iterator[Record]":
    first = stream.read(PIECE)
    pieces = _with_lf(_unpacked(stream, first) if first[:2] == GZIP_MARK else _plain(stream, first))
    text, ended = _longer(b"", pieces, max(HEAD, PIECE))
    text = text.removeprefix(BYTE_ORDER_MARK)
    if ended and not text.strip():
        raise FormatError("it is empty")
    mol2 = suffix in MOL2_SUFFIXES if suffix else _is_mol2(text)
    start = searched = 0
    # What stands before the first molecule of a MOL2 file is comment.
    number, line = (-1 if mol2 and not text.startswith(MOLECULE.encode()) else 0), 1
    while True:
        end, next_start = _boundary(text, start, searched, mol2, ended)
        if end < 0:
            if ended:
                break
            rest = text[start:]
            start, searched = 0, max(0, len(rest) - len(MOLECULE) - 1)
            text, ended = _longer(rest, pieces, len(rest))
            continue
        if number >= 0:
            yield topologies.record(name, number, line, text, start, end, False, mol2)
        number += 1
        line += text.count(b"\n", start, next_start)
        start = searched = next_start
    if number >= 0 and text[start:].strip():
        yield topologies.record(name, number, line, text, start, len(text), True, mol2)
        number += 1
    if number <= 0:
        raise FormatError("it holds no molecule" if text.strip() else "it is empty")


def _boundary(text: bytes, start: int, searched: int, mol2: bool, ended: bool) -> tuple[int, int]:
    """Where the record that begins at `start` ends and the next one begins; (-1, -1) if `text` does not tell."""
    if mol2:
        end = text.find(b"\n@<TRIPOS>MOLECULE", searched) + 1
        return (end, end) if end else (-1, -1)
    end = start
    if not text.startswith(b"$$$$", start):
        end = text.find(b"\n$$$$", searched) + 1
        if not end:
            return -1, -1
    end_of_line = text.find(b"\n", end)
    if end_of_line >= 0:
        return end, end_of_line + 1
    return (end, len(text)) if ended else (-1, -1)


def _is_mol2(text: bytes) -> bool:
    head = text.split(b"\n", 4)
    if len(head) > 3 and head[3].rstrip()[-5:] in (b"V2000", b"V3000"):
        return False
    if text.startswith(MOLECULE.encode()) or b"\n@<TRIPOS>MOLECULE" in text:
        return True
    raise FormatError(
        "it is neither SDF, MOL nor MOL2: its name has none of their suffixes, its text none of their marks"
    )


def _longer(rest: bytes, pieces: "Iterator[bytes]", least: int) -> tuple[bytes, bool]:
    """At least so many more bytes behind `rest`, and whether that was all."""
    parts, size = [rest] if rest else [], 0  # a single part is not copied
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size >= least:
            return b"".join(parts), False
    return b"".join(parts), True


def _plain(stream: "Stream", first: bytes) -> "Iterator[bytes]":
    yield first
    while piece := stream.read(PIECE):
        yield piece


def _unpacked(stream: "Stream", packed: bytes) -> "Iterator[bytes]":
    """Pieces of a gzip file of one or more members (RFC 1952), perhaps with zeros behind them."""
    import zlib

    try:
        while packed:
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                packed = packed or stream.read(PIECE)
                given = bool(packed)
                piece = member.decompress(packed, PIECE)
                packed = member.unconsumed_tail
                if piece:
                    yield piece
                elif not given:
                    raise FormatError("it is gzipped and damaged or cut off (it ends too early)")
            packed = member.unused_data.lstrip(b"\0")
            while not packed and (more := stream.read(PIECE)):
                packed = more.lstrip(b"\0")
    except zlib.error as error:
        raise FormatError(f"it is gzipped and damaged or cut off ({error})") from None


def _with_lf(pieces: "Iterator[bytes]") -> "Iterator[bytes]":
    """The same text with LF alone at the ends of lines."""
    held = b""
    for piece in pieces:
        if held or b"\r" in piece:
            piece = held + piece
            held = b"\r" if piece.endswith(b"\r") else b""  # perhaps the first half of CR LF
            piece = piece.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if piece:
            yield piece
    if held:
        yield b"\n"
