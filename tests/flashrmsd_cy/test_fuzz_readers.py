"""Damaged files: each is read, or refused with a FormatError; there is no other way out, and no piecewise one.

A few hundred files here; ``make fuzz`` goes on for ten minutes (``FLASHRMSD_FUZZ_SECONDS``) and prints its seeds.
"""

import gzip
import io
import math
import os
import secrets
import time

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from flashrmsd_cy import _files
from flashrmsd_cy._text import Topologies, rows_text
from flashrmsd_cy.errors import FormatError

SYMBOLS = ["C", "N", "O", "Cl", "H", "C"]
PLACES = [(0.0, 0.0, 0.0), (1.4, 0.1, 0.0), (-1.2, 3.4567, 12.5), (2.5, -2.5, 1.0), (-0.5, 0.9, 0.3), (0, 0, 99.9)]
BONDS = [(0, 1, 1), (1, 2, 2), (1, 3, 1), (0, 4, 1), (2, 5, 3)]
CHARGED = "M  CHG  2   2   1   3  -1\nM  ISO  1   5   2\nM  END"
NUMBERS = b"-1 0 999 1000 99999999999999999999 2147483648 1e400 nan - 0x10 1_0".split()
WORDS = [
    b"M  END\n",
    b"$$$$\n",
    b"@<TRIPOS>MOLECULE\n",
    b"@<TRIPOS>ATOM\n",
    b"@<TRIPOS>BOND\n",
    b"> <a>\n",
    b"#",
    b"-\n",
]
WORDS += [b"M  V30 BEGIN ATOM\n", b"M  V30 END CTAB\n", b"M  V30 -\n", b"M  V30 \n", b"M  V30", b" CHG=x", b" CHG=+1"]
WORDS += [b"M  CHG  8   1   1\n", b"M  CHG999", b"M  RAD\n", b"V3000", b"V2000"]
WORDS += [b"-\n", b"\t", b"\x0b", b"\r", b"\r\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf"]


@st.composite
def damaged(draw, write):
    """Suffix and bytes of a file of a few records with some damage."""
    form = draw(st.sampled_from(["v2000", "v3000", "mol2"]))
    text = "".join(getattr(write, form)(SYMBOLS, PLACES, BONDS, f"title {i}") for i in range(draw(st.integers(1, 3))))
    if form == "v2000" and draw(st.booleans()):
        text = text.replace("M  END", CHARGED)
    body = text.encode()
    for _ in range(draw(st.integers(0, 5))):
        body = _damage(draw, body)
    suffix = draw(st.sampled_from(["mol2", "sdf", ""]))
    if draw(st.integers(0, 3)) == 0:
        body = gzip.compress(body, 1, mtime=0)
        if draw(st.booleans()):
            body = _damage(draw, body)
    return suffix, body


def _damage(draw, body):
    at, end = sorted(draw(st.tuples(st.integers(0, len(body)), st.integers(0, len(body)))))
    kind = draw(st.sampled_from(["flip", "cut", "line", "drop line", "double line", "number", "word", "long", "bytes"]))
    lines = body.split(b"\n")
    line = draw(st.integers(0, len(lines) - 1))
    match kind:
        case "flip":
            return body[:at] + bytes(b ^ draw(st.integers(0, 255)) for b in body[at : at + 2]) + body[at + 2 :]
        case "cut":
            return body[:at] if draw(st.booleans()) else body[:at] + body[end:]
        case "line":
            lines[line] = lines[line][: draw(st.integers(0, 40))]
        case "drop line":
            del lines[line]
        case "double line":
            lines.insert(draw(st.integers(0, len(lines))), lines[line])
        case "number":
            words = lines[line].split(b" ")
            words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(NUMBERS))
            lines[line] = b" ".join(words)
        case "word":
            return body[:at] + draw(st.sampled_from(WORDS)) + body[at:]
        case "long":
            return body[:at] + body[at : at + 1] * draw(st.sampled_from([10, 300, 5000])) + body[at:]
        case "bytes":
            return body[:at] + draw(st.binary(max_size=40)) + body[at:]
    return b"\n".join(lines)


def _read(suffix, body, topologies, piece):
    """What can be told of each record, and the reason why there are no more."""
    kept, _files.PIECE = _files.PIECE, piece
    told = []
    try:
        for record in _files._records("file", io.BytesIO(body), suffix, topologies):
            graph = None
            if record.topology is None:
                assert record.problem and not record.positions
            else:
                graph = record.topology.elements, record.topology.bonds, record.topology.charges
                n = len(graph[0])
                assert not record.problem and len(record.positions) == 3 * n
                assert all(map(math.isfinite, record.positions))
                assert all(0 <= i < j < n for i, j, _ in graph[1])
                assert list(graph[1]) == sorted(set(graph[1]))
            told.append((record.number, record.line, record.title, record.problem, graph, record.positions.tobytes()))
    except FormatError as error:
        return told, str(error)
    finally:
        _files.PIECE = kept
    return told, ""


def _check(file, piece, kept):
    suffix, body = file
    at_once = _read(suffix, body, Topologies(), 1 << 20)
    assert _read(suffix, body, kept, 1 << 20) == at_once  # whatever was read before
    told_by_head = suffix or len(body) <= _files.HEAD
    if told_by_head and body[:2] != b"\x1f\x8b":  # where the damage of a gzipped file is met depends on the pieces
        assert _read(suffix, body, Topologies(), piece) == at_once
    _read(suffix, body, Topologies(True), piece)


def _fuzz(write, number, examples):
    """So many damaged files, the same for the same number."""
    kept = Topologies()

    @seed(number)
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(damaged(write), st.integers(1, 200))
    def check(file, piece):
        _check(file, piece, kept)

    check()


@pytest.mark.parametrize("number", range(4))
def test_damaged_files(write, number):
    _fuzz(write, number, 150)


SECONDS = float(os.environ.get("FLASHRMSD_FUZZ_SECONDS", 0))


@pytest.mark.skipif(not SECONDS, reason="make fuzz")
@pytest.mark.timeout(SECONDS + 600)
def test_damaged_files_for_long(write):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        number = secrets.randbits(32)
        print(f"seed {number}", flush=True)
        _fuzz(write, number, 2000)


SIGNS, POINTS = st.sampled_from(["", "-", "+", " -"]), st.sampled_from(["", ".", "..", "e"])
DIGITS = st.integers(0, 12).flatmap(lambda n: st.integers(0, 10**n - 1).map(lambda i: f"{i:0{n}d}" if n else ""))


@given(
    st.one_of(
        st.tuples(SIGNS, DIGITS, POINTS, DIGITS).map("".join),
        st.floats(-1e5, 1e5).map(lambda x: f"{x:.4f}"),
        st.floats(allow_nan=False, allow_infinity=False).map(repr),
        st.sampled_from(["1e60", "-1e60", "1.0000000000000001e+60", "1e200", "-1e308"]),
        st.floats(-9, 9).map(lambda x: f"{x:.16f}"),
    )
)
@settings(max_examples=400, deadline=None)
def test_coordinates_are_the_nearest_doubles(write, text):
    body = write.mol2(["C"], [(7.5, 0, 0)], []).replace("7.5000", text).encode()
    told, _ = _read("mol2", body, Topologies(), 1 << 20)
    ((*_, problem, graph, positions),) = told
    words = text.split()
    try:
        (expected,) = map(float, words)
        expected = expected if abs(expected) <= 1e60 else None  # more is no coordinate
    except ValueError:
        expected = None
    if expected is None:
        assert problem and graph is None
        return
    assert memoryview(positions).cast("d")[0].hex() == expected.hex()


TIES = st.integers(0, 10**13).map(lambda i: (i + 0.5) * 1e-6)


@given(st.lists(st.one_of(st.floats(), st.floats(0, 20), st.floats(0, 2e6), TIES), max_size=12))
@settings(max_examples=400, deadline=None)
def test_numbers_are_printed_as_c_prints_them(values):
    from array import array

    expected = "".join(f"{value:f} " for value in map(abs, values)) + "\n"
    assert rows_text(array("d", map(abs, values)), len(values), 0, 1) == expected
