"""A store in one SQLite file: write-ahead log, every commit on the disk before it counts, one writer."""

import contextlib
import datetime as dt
import errno
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from sddfkit.factory.database import Database, StoreError

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "fuse.sshfs", "afs", "ceph"}
)


class SQLite(Database):
    """A file, whose spool lies beside it unless another folder is named."""

    shared = False

    def __init__(self, path: Path, spool: Path | None, *, read_only: bool) -> None:
        self.path: Path = path
        self.name = str(path)
        self.spool: Path = spool or path.parent / "spool"
        self.read_only = read_only
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        if not read_only:
            _prepare_folders(path, self.spool)
        elif not path.is_file():
            raise StoreError(f"there is no store at {path}: label something first, or check paths.root")

    def engine(self) -> sa.Engine:
        if self.read_only:
            return self._reader()
        engine = sa.create_engine(sa.URL.create("sqlite", database=self.name), connect_args={"timeout": 60})
        sa.event.listen(engine, "connect", _set_pragmas)
        return engine

    def _reader(self) -> sa.Engine:
        """Return an engine that writes nothing, not even the files that SQLite keeps beside a write-ahead log."""
        path, immutable = self.path, False
        if not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-shm").exists():
            log = path.with_name(f"{path.name}-wal")
            if (
                log.exists() and log.stat().st_size
            ):  # of a writer that was killed: its last changes are in the log alone
                try:
                    self._copy = tempfile.TemporaryDirectory(prefix="sddfkit-store-")
                    for file in (path, log):
                        shutil.copy(file, self._copy.name)
                except OSError as error:
                    raise StoreError(
                        f"{path} lies in a read-only folder beside the unfinished log {log.name}, and a copy of both "
                        f"cannot be made in {tempfile.gettempdir()} ({error.strerror}): set TMPDIR to a larger folder"
                    ) from error
                path = Path(self._copy.name) / path.name
            else:
                immutable = True
        uri = f"file:{quote(str(path))}?{'immutable=1' if immutable else 'mode=ro' if path == self.path else 'mode=rw'}"

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(uri, uri=True, timeout=60, check_same_thread=False)

        return sa.create_engine(sa.URL.create("sqlite", database=str(path)), creator=connect)

    def close(self) -> None:
        if self._copy is not None:
            self._copy.cleanup()

    def be_alone(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def insert(self, table: sa.Table) -> sqlite.Insert:
        return sqlite.insert(table)

    def among(self, column: sa.ColumnElement[str], values: Collection[str]) -> sa.ColumnElement[bool]:
        each = sa.func.json_each(json.dumps(list(values))).table_valued("value")  # the variables of IN are limited
        return column.in_(sa.select(each.c.value))

    def time(self, connection: sa.Connection) -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    def size_bytes(self, connection: sa.Connection) -> int:
        files = [self.path, self.path.with_name(f"{self.path.name}-wal")]
        return sum(file.stat().st_size for file in files if file.exists())

    def damage(self, connection: sa.Connection) -> Iterator[str]:
        for (said,) in connection.exec_driver_sql("PRAGMA integrity_check"):
            if said != "ok":
                yield str(said)

    def strangers(self, tables: Collection[str], ours: Collection[str]) -> list[str]:
        return sorted(tables)  # a file is for a store alone

    def back_up(self, version: int) -> Path:
        """Copy the store beside it, there whole or not at all."""
        copy = self.path.with_name(f"{self.path.name}.v{version}.bak")
        partial = copy.with_name(f"{copy.name}.partial")
        try:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()
            with (
                contextlib.closing(sqlite3.connect(self.path, timeout=60)) as source,
                contextlib.closing(sqlite3.connect(partial)) as target,
            ):
                source.backup(target)
            with partial.open("rb+") as stream:
                os.fsync(stream.fileno())
            partial.replace(copy)
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise StoreError(
                f"{self.name} is of an earlier schema version ({version}) and was not changed, because the copy "
                f"{copy.name} cannot be made ({error}): free as much space as the store takes, then start the same "
                "command again"
            ) from error
        return copy

    def read_older(self, engine: sa.Engine, views: Collection[str]) -> bool:
        @sa.event.listens_for(engine, "connect")
        def show(connection: sqlite3.Connection, _record: object) -> None:
            for view in views:
                connection.execute(view)

        engine.dispose()  # what is connected already has no views
        return True

    def is_wrong_sql(self, error: BaseException | None) -> bool:
        return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR

    def sentence(self, error: BaseException | None) -> str:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extension that says how it was noticed
        here, go_on = f"the store {self.path}", "start the same command again: what was finished is kept"
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _free_bytes(self.path.parent) < 1 << 20):
            return f"{here} cannot grow: its disk is full; free some space there, then {go_on}"
        match code:
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                return (
                    f"{here} cannot be written or opened ({error}): its file, its folder or its disk is read-only for "
                    "you; make it writable, or set paths.root to another folder"
                )
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return (
                    f"{here} has been locked by another program for more than a minute: close it (a database browser? "
                    f"a backup?), then {go_on}"
                )
            case sqlite3.SQLITE_IOERR:
                return f"{here} could not be read or written ({error}): its disk may be failing; check it, then {go_on}"
            case sqlite3.SQLITE_CORRUPT:
                return (
                    f"{here} is damaged ({error}): put a backup in its place, or move it away and recover it with "
                    f"`sqlite3 {self.path.name} .recover`"
                )
            case sqlite3.SQLITE_NOTADB:
                return (
                    f"{self.path} cannot be used as a store: it is no SQLite database; set paths.root to another folder"
                )
        return f"{self.path} cannot be used as a store: {error}; set paths.root to another folder"


def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=60000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def remedy(error: OSError) -> str:
    """Say what to do about a folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space there, then start the same command again: what was finished is kept"
    return "make it writable, or set paths.root to another folder"


def _prepare_folders(path: Path, spool: Path) -> None:
    if path.is_dir():
        raise StoreError(f"{path} is a folder, a store is a file: set paths.root to the folder that holds store.sqlite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        spool.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the folder {path.parent} cannot be made or written: {error.strerror}; {remedy(error)}"
        ) from error
    kind = file_system(path.parent)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreError(
            f"{path.parent} lies on a network file system ({kind}), where SQLite's write-ahead log loses data: "
            "set paths.root to a folder on a local disk"
        )


def file_system(folder: Path) -> str:
    """Return the type of the file system that holds a folder, or an empty string where it cannot be told."""
    resolved = folder.resolve()
    holding = [p for p in psutil.disk_partitions(all=True) if resolved.is_relative_to(p.mountpoint)]
    return max(holding, key=lambda p: len(p.mountpoint)).fstype if holding else ""
