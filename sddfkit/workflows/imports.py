"""From a file of others to the store: labels that were computed elsewhere, with what is known of their origin."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sddfkit import __version__
from sddfkit.chem.molecules import element_number, element_symbol
from sddfkit.data.readers import Frame, Refused, Source, Stated, labelled_record, open_labels
from sddfkit.data.readers.sddf import files_of
from sddfkit.data.records import Record
from sddfkit.factory.imports import Conflict, Origin, Row, noted, row_of, take
from sddfkit.factory.jobs import record_document
from sddfkit.factory.store import Store
from sddfkit.qc.atoms import GROUND_STATE_MULTIPLICITY
from sddfkit.qc.inputs import InputError
from sddfkit.workflows.console import progress, say

FRAMES_AT_ONCE = 200
REASONS_KEPT = 200
_READER_VERSION = 1  # another way to read a file makes what was noted about it void


class Imported(NamedTuple):
    """What was done with a file.

    ``frames`` of it were read, by this call or by earlier ones that were interrupted; ``new`` labels were taken over by
    this call and ``known`` ones were in the store before; ``refused`` counts by reason, and ``examples`` names a place
    for each.
    """

    frames: int
    new: int
    known: int
    refused: dict[str, int]
    examples: dict[str, str]
    conflicts: list[Conflict]


class _Atom(NamedTuple):
    """An isolated atom in its ground state, with its energy in eV."""

    atomic_numbers: NDArray[np.int32]
    name: str
    multiplicity: int
    energy: float
    record_id: str = ""
    charge: int = 0
    positions: NDArray[np.float64] = np.zeros((1, 3))
    forces: None = None
    dipole: None = None


def import_labels(
    store: Store,
    path: Path,
    stated: Stated,
    *,
    format: str = "auto",
    program: str = "unknown",
    version: str = "",
    limit: int | None = None,
) -> Imported:
    """Take the labels of a file into a store; an import that was interrupted goes on where it was.

    Giving the same again changes nothing.

    Parameters
    ----------
    store
        Opened for writing.
    path
        A file, or a folder of files, that :func:`sddfkit.data.readers.open_labels` knows.
    stated, format
        What the file does not say by itself.
    program, version
        By which the labels were computed; the store knows the program as ``imported:<program>``.
    limit
        Read so many frames of it, from the first.

    Raises
    ------
    ReaderError
        The file as a whole cannot be used, or something must be stated first.
    """
    source = open_labels(path, stated, format=format)
    whole = sha256_of(path)
    origin = Origin(source.level, program.strip().lower() or "unknown", version, path.name, whole, source.assumed)
    count = "" if source.count is None else f", {source.count} frames"
    say(f"{path}: {source.format}{count}, {source.level} by {origin.marked_program} {version}".rstrip())
    for sentence in source.assumed:
        say(f"  {sentence}")
    mark = f"import:{_hash([_READER_VERSION, source.format, origin._asdict(), repr(stated)])}"
    state: dict[str, Any] = json.loads(noted(store, mark) or '{"frames": 0, "taken": 0, "refused": {}, "examples": {}}')
    before = state["frames"]
    if before:
        say(f"  {before} frames of it were read before: {state['taken']} labels")
    taken = take(store, _atoms(source, origin))
    new, known, conflicts = taken.new, state["taken"], list(taken.conflicts)
    frames = itertools.islice(source.frames(), before, limit)
    left = max(0, min(source.count or 0, source.count or 0 if limit is None else limit) - before)
    for chunk in _chunks(progress("import")(frames, left) if left else frames):
        rows = list(_rows(chunk, source, origin, state))
        state["frames"] += len(chunk)
        state["taken"] += len(rows)
        found = take(store, rows, (mark, json.dumps(state)))
        store.heartbeat()
        new += found.new
        known += found.known
        conflicts += found.conflicts
    return Imported(state["frames"], new, known, state["refused"], state["examples"], conflicts)


def say_imported(path: Path, found: Imported) -> None:
    """Tell what was done with a file, and what was refused and why, most first."""
    refused = sum(found.refused.values())
    say(
        f"{path}: {found.new} labels new, {found.known} known before, {refused} frames refused, "
        f"{len(found.conflicts)} conflicts"
    )
    for reason, count in sorted(found.refused.items(), key=lambda item: -item[1])[:20]:
        say(f"  refused {count} × {reason} (for example {found.examples[reason]})")
    for conflict in found.conflicts[:20]:
        say(f"  kept out {conflict.label}: {conflict.reason}")
    if len(found.conflicts) > 20:
        say(f"  and {len(found.conflicts) - 20} conflicts more")


def read_isolated_atoms(path: Path) -> dict[int, float]:
    """Energies of isolated atoms from a JSON file, symbol (or atomic number) → energy in the unit of the labels.

    Raises
    ------
    ValueError
        The file does not hold such an object.
    """
    try:
        content = json.loads(path.read_text())
        return {element_number(int(z) if z.isdecimal() else z): float(energy) for z, energy in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f'{path}: expected a JSON object such as {{"H": -0.5, "C": -37.8}}: {error}') from error


def sha256_of(path: Path) -> str:
    """Hash of a file, or of the names and hashes of the files in a folder."""
    if path.is_dir():
        return _hash([(file.name, sha256_of(file)) for file in files_of(path)])
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _rows(chunk: Iterable[Frame | Refused], source: Source, origin: Origin, state: dict[str, Any]) -> Iterator[Row]:
    for frame in chunk:
        record = frame if isinstance(frame, Refused) else labelled_record(frame, source)
        if isinstance(record, Refused):
            _refuse(state, record.place, record.reason)
            continue
        try:
            yield row_of(record, origin, _without_label(record))
        except InputError as error:
            _refuse(state, frame.place, str(error))


def _refuse(state: dict[str, Any], place: str, reason: str) -> None:
    """Count a refusal; beyond a number of different reasons, only that there are more."""
    if reason not in state["refused"] and len(state["refused"]) >= REASONS_KEPT:
        reason = "another reason"
    state["refused"][reason] = state["refused"].get(reason, 0) + 1
    state["examples"].setdefault(reason, place)


def _without_label(record: Record) -> dict[str, Any]:
    bare = record._replace(energy=None, forces=None, dipole=None, level="", code_version=__version__)
    return record_document(bare)


def _atoms(source: Source, origin: Origin) -> list[Row]:
    return [
        row_of(
            _Atom(np.array([z], dtype=np.int32), f"atom {element_symbol(z)}", GROUND_STATE_MULTIPLICITY[z], energy),
            origin,
            None,
        )
        for z, energy in sorted(source.isolated_atoms.items())
        if z in GROUND_STATE_MULTIPLICITY
    ]


def _chunks(items: Iterable[Frame | Refused]) -> Iterator[list[Frame | Refused]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, FRAMES_AT_ONCE)):
        yield chunk


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
