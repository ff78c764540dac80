"""The spool: one JSON file per finished calculation, there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_SAFE_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def spool_path(spool: str | Path, key: object) -> Path:
    """Where the result of `key` is written; a key that cannot be a file name is replaced by its hash.

    >>> spool_path("spool", "ab12").name, spool_path("spool", "../x").name[:8]
    ('ab12.json', 'invalid-')
    """
    if isinstance(key, str) and _SAFE_KEY.fullmatch(key):
        return Path(spool) / f"{key}.json"
    return Path(spool) / f"invalid-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.json"


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a file such that after any crash it is either complete or absent.

    Raises
    ------
    OSError
        If the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            json.dump(document, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
