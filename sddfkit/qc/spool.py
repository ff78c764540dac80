"""The spool: one JSON file per finished calculation, there whole or not at all.

An engine writes into the coordinator's spool where that is the same folder for both: the coordinator puts a token
there, and the engine must find it. An engine on another machine, under another user, or with a full disk there keeps a
spool of its own instead, per user and store, until the coordinator has it handed over: `kept`, `read_kept`,
`drop_kept`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import socket
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from sddfkit.processes import started

TOKEN_FILE: Final = ".coordinator"
STALE_AFTER_S: Final = 86400.0
_SAFE_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class Owner(NamedTuple):
    """Whose results these are.

    ``store`` is the store's id, which names an engine's own spool; ``token`` is what the coordinator wrote into its
    spool when it opened the store: who reads the same there shares the folder.
    """

    store: str
    token: str


def spool_path(spool: str | Path, key: object) -> Path:
    """Where the result of `key` is written; a key that cannot be a file name is replaced by its hash.

    >>> spool_path("spool", "ab12").name, spool_path("spool", "../x").name[:8]
    ('ab12.json', 'invalid-')
    """
    if isinstance(key, str) and _SAFE_KEY.fullmatch(key):
        return Path(spool) / f"{key}.json"
    return Path(spool) / f"invalid-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.json"


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document such that after any crash its file is either complete or absent.

    Raises
    ------
    OSError
        If the folder cannot be made or written.
    """
    write_text(path, json.dumps(document))


def write_text(path: Path, text: str) -> None:
    """As `write_json`, for any text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # a read-only disk refuses this as well
            partial.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_outcome(path: Path) -> dict[str, Any] | None:
    """What an engine left in a file, or None if it cannot be read (an engine renames whole files only)."""
    try:
        outcome = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return outcome if isinstance(outcome, dict) else None


def remove_stale(spool: Path) -> None:
    """Remove half-written files whose writer is dead: a process of this host that is gone, or unchanged for a day."""
    for partial in spool.glob(".*.tmp"):
        host, _, pid = partial.name.removesuffix(".tmp").partition(".json.")[2].rpartition(".")
        dead = host == socket.gethostname() and pid.isdigit() and not _runs(int(pid))
        with contextlib.suppress(OSError):
            if dead or time.time() - partial.stat().st_mtime > STALE_AFTER_S:
                partial.unlink()


def _runs(pid: int) -> bool:
    try:
        started(pid)
    except ProcessLookupError:
        return False
    return True


def folders_for(spool: str, owner: Owner | None) -> list[Path]:
    """Where an engine tries to write, in this order: the coordinator's spool if it is shared, then its own.

    Without an owner nobody could ask for an own spool, so `spool` is taken as it is.
    """
    if owner is None:
        return [Path(spool)]
    try:
        shared = (Path(spool) / TOKEN_FILE).read_text(encoding="utf-8") == owner.token
    except (OSError, ValueError):
        shared = False
    return [*([Path(spool)] if shared else []), *own_folders(owner.store)]


def own_folders(store: str) -> list[Path]:
    """Where this user's engines keep results for a store out of their reach: the state folder, else a temporary one.

    Raises
    ------
    ValueError
        If `store` is not the id of a store.
    """
    if not re.fullmatch(r"[0-9a-f]{32}", store):
        raise ValueError(f"the id of a store has 32 hexadecimal digits, got {store!r}")
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 (never raises)
    temporary = _temporary_base()
    usable = not temporary.exists() or _private(temporary)
    bases = [Path(state) / "sddfkit", *([temporary] if usable else [])]
    return [base / "spool" / store for base in bases if base.is_absolute()]


def kept(store: str) -> dict[str, int]:
    """Return what this engine's own spool holds for a store: time of change in ns, by key."""
    return {path.stem: changed for path, changed in _kept_files(store)}


def read_kept(store: str, keys: Iterable[str]) -> list[dict[str, Any]]:
    """Return the outcomes of these keys from this engine's own spool; what cannot be read is left out."""
    wanted = set(keys)
    found = (read_outcome(path) for path, _ in _kept_files(store) if path.stem in wanted)
    return [outcome for outcome in found if outcome is not None]


def drop_kept(store: str, handed_over: Mapping[str, int]) -> None:
    """Remove from this engine's own spool what was handed over, unless it has changed since; safe to repeat."""
    for path, changed in _kept_files(store):
        if handed_over.get(path.stem) == changed:
            path.unlink(missing_ok=True)
    for folder in own_folders(store):
        with contextlib.suppress(OSError):  # not empty, or not there
            folder.rmdir()


def write_outcome(path: Path, document: Mapping[str, Any]) -> None:
    """As `write_json`; a folder in a place open to all is made for this user alone.

    Raises
    ------
    OSError
        If the folder cannot be made or written, or is not this user's alone.
    """
    base = _temporary_base()
    if path.is_relative_to(base):
        base.mkdir(mode=0o700, exist_ok=True)
        if not _private(base):
            raise PermissionError(errno.EPERM, "the folder is open to others", str(base))
    write_json(path, document)


def _temporary_base() -> Path:
    return Path(tempfile.gettempdir()) / f"sddfkit-{os.getuid()}"


def _kept_files(store: str) -> Iterator[tuple[Path, int]]:
    for folder in own_folders(store):
        for path in sorted(folder.glob("*.json")):
            with contextlib.suppress(OSError):
                yield path, path.stat().st_mtime_ns


def _private(folder: Path) -> bool:
    """Say whether a folder in a place open to all is ours alone, and no link to somewhere else."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
