"""Finished rows on disk, as they come: one file per writer, one line per component."""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

FOLDER = "journal"


class Journal:
    """A new journal in the folder of a set; the file is made with the first line."""

    def __init__(self, folder: Path) -> None:
        name = f"{time.time_ns():020d}-{socket.gethostname()}-{os.getpid()}.jsonl"
        self.path = folder / FOLDER / name
        self._stream: IO[str] | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is on the disk when this returns."""
        if self._stream is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("a", encoding="utf-8")
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())


class Place:
    """Where a row lies."""

    __slots__ = ("attempt", "classes", "offset", "path")

    def __init__(self, path: Path, offset: int, attempt: int, classes: frozenset[str]) -> None:
        self.path = path
        self.offset = offset
        self.attempt = attempt
        self.classes = classes

    def row(self) -> dict[str, Any]:
        """Read it."""
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            return dict(json.loads(stream.readline()))


def finished(folder: Path) -> dict[str, Place]:
    """Return where the row of each finished component lies, by id, after a look at its files.

    Half a line, which a killed writer left, is none; nor is a row whose files are not there in full. Of two rows of one
    component the later attempt counts, and of the same attempt the first.
    """
    found: dict[str, Place] = {}
    for path in sorted((folder / FOLDER).glob("*.jsonl")):
        for offset, row in _rows(path):
            place = Place(path, offset, row["attempt"], frozenset(item["class"] for item in row["failures"]))
            known = found.get(row["id"])
            if (known is None or place.attempt > known.attempt) and _files_are_there(row, folder):
                found[row["id"]] = place
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    offset = 0
    with path.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                with suppress(ValueError):
                    yield offset, json.loads(line)
            offset += len(line)


def _files_are_there(row: Mapping[str, Any], folder: Path) -> bool:
    for item in row["files"]:
        try:
            if (folder / item["path"]).stat().st_size != item["bytes"]:
                return False
        except FileNotFoundError:
            return False
    return True
