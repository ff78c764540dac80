"""The spool: one JSON file per finished calculation, there whole or not at all.

An engine writes into the coordinator's spool where that is the same folder for both: the coordinator puts a token
there, and the engine must find it. An engine on another machine, under another user, or with a full disk there keeps a
spool of its own instead, per user and store, until the coordinator has it handed over: `kept`, `read_kept`,
`drop_kept`.

While an engine computes, a marker in the coordinator's spool says what: `Running` puts it there, `running_elsewhere`
reads it.
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
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, Self

from sddfkit.processes import lives, started

TOKEN_FILE: Final = ".coordinator"
STALE_AFTER_S: Final = 86400.0
REFRESH_S: Final = 30.0
"""How often an engine touches its marker."""
SILENCE_S: Final = 300.0
"""A marker of another host that nobody has touched for so long is that of a dead process."""

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
    _replace(path, text, sync=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the disk keep the names of the files in a folder: the last step of writing any number of them.

    Raises
    ------
    OSError
        If the folder is not there, or its disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str, *, sync: bool) -> None:
    """Write a file under another name, then rename it; without `sync` a loss of power may leave it empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # a read-only disk refuses this as well
            partial.unlink()
        raise


def read_outcome(path: Path) -> dict[str, Any] | None:
    """What an engine left in a file, or None if it cannot be read (an engine renames whole files only)."""
    try:
        outcome = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return outcome if isinstance(outcome, dict) else None


def remove_stale(spool: Path) -> None:
    """Remove what a dead process left half-written or marked: one of this host that is gone, or silent for a day."""
    running_elsewhere(spool)
    for partial in spool.glob(".*.tmp"):
        host, _, pid = partial.name.removesuffix(".tmp").partition(".json.")[2].rpartition(".")
        dead = host == socket.gethostname() and pid.isdigit() and not _runs(int(pid))
        with contextlib.suppress(OSError):
            if dead or _silence_s(partial) > STALE_AFTER_S:
                partial.unlink()
    for marker in _markers(spool):
        with contextlib.suppress(OSError):
            if _silence_s(marker) > STALE_AFTER_S and not marker.name.startswith(f".running.{socket.gethostname()}."):
                marker.unlink()


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
        shared = owner.token in (Path(spool) / TOKEN_FILE).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        shared = False
    return [*([Path(spool)] if shared else []), *own_folders(owner.store)]


def still_wanted(spool: str | Path, owner: Owner | None) -> bool:
    """Say whether the coordinator that gave out work still has the spool: its successor gives it out anew."""
    if owner is None:
        return True
    try:
        tokens = (Path(spool) / TOKEN_FILE).read_text(encoding="utf-8").split()
    except (OSError, ValueError):  # not shared
        return True
    return owner.token not in tokens[1:]


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
    """Write a document whole or not at all; a folder in a place open to all is made for this user alone.

    The file is on the disk when this returns, its name after the next `sync_folder`.

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
    _replace(path, json.dumps(document), sync=True)


class Running:
    """Marks calculations as being computed by this process, within a ``with`` block.

    The marker ``.running.<host>.<pid>.json`` in the spool holds host, pid, process_started (s since 1970) and keys. It
    serves living processes alone, so it is not synced; where it cannot be written, there is none.

    Parameters
    ----------
    folder : Path
    keys : iterable of str
    """

    _here: ClassVar[Counter[tuple[Path, str]]] = Counter()
    """What all threads of this process compute: folder and key."""
    _lock: ClassVar[Any] = threading.RLock()

    def __init__(self, folder: Path, keys: Iterable[str]) -> None:
        self._folder = folder
        self._mine = Counter((folder, key) for key in keys)
        self._path = folder / f".running.{socket.gethostname()}.{os.getpid()}.json"
        self._touched = time.monotonic()

    def __enter__(self) -> Self:
        with self._lock:
            self._here.update(self._mine)
            self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        with self._lock:
            self._here.subtract(self._mine)
            for item in self._mine:
                if self._here[item] <= 0:
                    del self._here[item]
            self._write()

    def refresh(self) -> None:
        """Say that this process still computes; costs nothing if that was said within the last half minute."""
        if time.monotonic() - self._touched >= REFRESH_S:
            self._touched = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def _write(self) -> None:
        keys = sorted(key for folder, key in self._here if folder == self._folder)
        with contextlib.suppress(OSError):
            if keys:
                marker = {"host": socket.gethostname(), "pid": os.getpid(), "process_started": started(), "keys": keys}
                _replace(self._path, json.dumps(marker), sync=False)
            else:
                self._path.unlink(missing_ok=True)

    @classmethod
    def forget(cls) -> None:
        """After a fork: the calculations are the parent's."""
        cls._here, cls._lock = Counter(), threading.RLock()


os.register_at_fork(after_in_child=Running.forget)


def running_elsewhere(spool: str | Path) -> dict[str, dict[str, Any]]:
    """Return what other living processes compute for this spool: by key, the marker of its engine.

    A marker of this host lives as long as its process does, and is removed when that is dead; one of another host as
    long as it is touched.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in _markers(spool):
        marker = read_outcome(path)
        if marker is None or not marker.keys() >= _MARKER_FIELDS:
            continue  # removed just now, or nothing of ours
        if marker["host"] != socket.gethostname():
            with contextlib.suppress(OSError):
                if _silence_s(path) < SILENCE_S:
                    found.update(dict.fromkeys(marker["keys"], marker))
        elif not lives(marker["pid"], marker["process_started"]):
            with contextlib.suppress(OSError):
                path.unlink()
        elif marker["pid"] != os.getpid():
            found.update(dict.fromkeys(marker["keys"], marker))
    return found


_MARKER_FIELDS: Final = frozenset({"host", "pid", "process_started", "keys"})


def _markers(spool: str | Path) -> list[Path]:
    return sorted(Path(spool).glob(".running.*.json"))


def _silence_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _temporary_base() -> Path:
    return Path(tempfile.gettempdir()) / f"sddfkit-{os.getuid()}"


def _kept_files(store: str) -> Iterator[tuple[Path, int]]:
    for folder in own_folders(store):
        for path in sorted(folder.glob("[!.]*.json")):
            with contextlib.suppress(OSError):
                yield path, path.stat().st_mtime_ns


def _private(folder: Path) -> bool:
    """Say whether a folder in a place open to all is ours alone, and no link to somewhere else."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
