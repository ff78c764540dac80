"""The store: one SQLite file that holds records, calculations, every attempt and every result."""

import datetime as dt
import errno
import json
import logging
import os
import secrets
import shutil
import socket
import sqlite3
import tempfile
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import psutil
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from sddfkit.processes import lives, started
from sddfkit.qc.spool import TOKEN_FILE, Owner, write_text

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2
KEYS_PER_QUERY = 1000  # SQLite limits the variables of a statement
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "fuse.sshfs", "afs", "ceph"}
)

_metadata = sa.MetaData()
meta = sa.Table("meta", _metadata, sa.Column("name", sa.String, primary_key=True), sa.Column("value", sa.String))
lease = sa.Table(
    "lease",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_started", sa.Float, nullable=False),
    sa.Column("heartbeat", sa.String, nullable=False),
)
records = sa.Table(
    "records",
    _metadata,
    sa.Column("record_id", sa.String, primary_key=True),
    sa.Column("molecule_id", sa.String, nullable=False, index=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("document", sa.String, nullable=False),  # the whole record as JSON, positions in Å
    sa.Column("created", sa.String, nullable=False),
)
calculations = sa.Table(
    "calculations",
    _metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("record_id", sa.String, sa.ForeignKey("records.record_id"), nullable=True, index=True),
    sa.Column("level", sa.String, nullable=False),
    sa.Column("program", sa.String, nullable=False),
    sa.Column("program_version", sa.String, nullable=False),
    sa.Column("label", sa.String, nullable=False),
    sa.Column("cost", sa.Float, nullable=False),  # relative; sddfkit.factory.costs turns it into seconds
    sa.Column("state", sa.String, nullable=False),  # ready, running, done, failed, held
    sa.Column("claimed_by", sa.Integer),  # lease of the coordinator that has given it to an engine
    sa.Column("error_class", sa.String),
    sa.Column("error_message", sa.String),
    sa.Column("created", sa.String, nullable=False),
    sa.Column("input", sa.String, nullable=False),  # AtomicInput as JSON, bohr; last, so that the others are read fast
)
sa.Index(
    "queue",
    calculations.c.state,
    calculations.c.level,
    calculations.c.program,
    calculations.c.cost.desc(),
    calculations.c.key,
)
attempts = sa.Table(
    "attempts",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.String, sa.ForeignKey("calculations.key"), nullable=False, index=True),
    sa.Column("state", sa.String, nullable=False),  # done or failed
    sa.Column("host", sa.String),
    sa.Column("pid", sa.Integer),  # of the worker
    sa.Column("engine", sa.String),  # host:pid of the engine that had the worker
    sa.Column("recipe", sa.String),  # what was done otherwise than asked, so that the SCF converges; null: nothing
    sa.Column("timeout_s", sa.Float),  # the limits it had
    sa.Column("memory_gib", sa.Float),
    sa.Column("started", sa.String),
    sa.Column("finished", sa.String),
    sa.Column("wall_s", sa.Float),
    sa.Column("cpu_s", sa.Float),
    sa.Column("peak_rss_mib", sa.Float),
    sa.Column("error_class", sa.String),
    sa.Column("error_message", sa.String),
    sa.Column("output_tail", sa.String),
    sa.UniqueConstraint("key", "host", "pid", "started", name="one_row_per_attempt"),
)
results = sa.Table(
    "results",
    _metadata,
    sa.Column("key", sa.String, sa.ForeignKey("calculations.key"), primary_key=True),
    sa.Column("energy_hartree", sa.Float, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),  # AtomicResult as JSON, zlib
    sa.Column("ingested", sa.String, nullable=False),
)
batches = sa.Table(
    "batches",
    _metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("timeout_s", sa.Float, nullable=False),
    sa.Column("memory_gib", sa.Float, nullable=False),
    sa.Column("created", sa.String, nullable=False),
)
requests = sa.Table(
    "requests",
    _metadata,
    sa.Column("batch", sa.String, primary_key=True),
    sa.Column("key", sa.String, sa.ForeignKey("calculations.key"), primary_key=True),
)
rounds = sa.Table(
    "rounds",
    _metadata,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("record_id", sa.String, sa.ForeignKey("records.record_id"), primary_key=True),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("score", sa.Float),  # null where the strategy ranks by nothing
    sa.Column("reason", sa.String, nullable=False),
)


class StoreError(RuntimeError):
    """The store cannot be used as asked; the message says why and what to do."""


def now() -> str:
    """Return the current time, ISO 8601, UTC."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")


class Store:
    """A store opened for writing by this process, or by any number of processes for reading.

    A store opened for writing has an ``owner``: what engines must know to find its spool, or to keep one of their own;
    and a ``lease_id``, by which it claims calculations. What is claimed by a lease that is gone is ready again.

    Parameters
    ----------
    path
        The SQLite file; it is made with its folder when opened for writing.
    read_only
        Open an existing store without taking the writer's lease, and without writing anything, so that it may lie on a
        read-only disk.
    wait_s
        How long to wait for another process that holds the lease, as the jobs of a sweep do while one of them labels.

    Raises
    ------
    StoreError
        Here and in all methods: if another living process holds the lease, the schema is of another version, the file
        is no store, the file system cannot carry one, or the disk is full, read-only or broken.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False, wait_s: float = 0.0) -> None:
        self.path = Path(path).absolute()
        self.read_only = read_only
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        if read_only and not self.path.is_file():
            raise StoreError(f"there is no store at {self.path}: label something first, or check paths.root")
        if not read_only:
            _prepare_folder(self.path)
        self._engine = self._reader() if read_only else self._writer()
        try:
            with self._database_errors():
                self._open_schema()
                if not read_only:
                    self._take_lease(wait_s)
                    self.owner = self._put_token()
        except BaseException:
            self._dispose()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.close()
        except StoreError as trouble:
            if error is None:
                raise
            logger.warning("while closing: %s", trouble)  # what happened first is what a person must read

    @property
    def spool(self) -> Path:
        """The folder where engines leave finished results."""
        return self.path.parent / "spool"

    def insert(self, table: sa.Table) -> sqlite.Insert:
        """Return an INSERT that knows ``on_conflict_do_nothing``."""
        return sqlite.insert(table)

    def close(self) -> None:
        """Give back what this store has claimed, and the writer's lease, and close the file."""
        try:
            if not self.read_only:
                with self.writing() as connection:
                    connection.execute(lease.delete().where(lease.c.id == self.lease_id))
                    _free_claims(connection)
        finally:
            self._dispose()

    def heartbeat(self) -> None:
        """Renew the lease."""
        with self.writing() as connection:
            connection.execute(lease.update().values(heartbeat=now()))

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give a connection whose changes are committed together, or not at all."""
        if self.read_only:
            raise StoreError(f"{self.path} was opened read-only")
        with self._database_errors(), self._engine.begin() as connection:
            yield connection

    def select(self, statement: sa.Select[Any] | sa.CompoundSelect) -> list[sa.RowMapping]:
        """Return the rows of a SELECT as mappings."""
        with self._database_errors(), self._engine.connect() as connection:
            return list(connection.execute(statement).mappings())

    def add_records(self, documents: Iterable[Mapping[str, Any]]) -> int:
        """Add records that are not known yet and return how many were new.

        Parameters
        ----------
        documents
            JSON-able mappings with at least ``record_id``, ``molecule_id`` and ``name``.
        """
        rows = [
            {
                "record_id": document["record_id"],
                "molecule_id": document["molecule_id"],
                "name": document["name"],
                "document": json.dumps(document, sort_keys=True),
                "created": now(),
            }
            for document in documents
        ]
        if not rows:
            return 0
        with self.writing() as connection:
            before = connection.scalar(sa.select(sa.func.count()).select_from(records)) or 0
            connection.execute(self.insert(records).on_conflict_do_nothing(), rows)
            return (connection.scalar(sa.select(sa.func.count()).select_from(records)) or 0) - before

    def record(self, record_id: str) -> dict[str, Any]:
        """Return the document of a record."""
        rows = self.select(sa.select(records.c.document).where(records.c.record_id == record_id))
        if not rows:
            raise StoreError(f"the store {self.path} holds no record {record_id}")
        document: dict[str, Any] = json.loads(rows[0]["document"])
        return document

    def result(self, key: str) -> dict[str, Any]:
        """Return the AtomicResult document of a finished calculation (bohr, hartree)."""
        rows = self.select(sa.select(results.c.document).where(results.c.key == key))
        if not rows:
            raise StoreError(f"the store {self.path} holds no result for the calculation {key}")
        document: dict[str, Any] = json.loads(zlib.decompress(rows[0]["document"]))
        return document

    def states(self, keys: Iterable[str]) -> dict[str, sa.RowMapping]:
        """Return record, label, state, error class and message of the calculations that are known, by key."""
        columns = ("key", "record_id", "label", "state", "error_class", "error_message")
        wanted = sorted(set(keys))
        statement = sa.select(*(calculations.c[name] for name in columns)).order_by(calculations.c.key)
        return {
            row["key"]: row
            for start in range(0, len(wanted), KEYS_PER_QUERY)
            for row in self.select(statement.where(calculations.c.key.in_(wanted[start : start + KEYS_PER_QUERY])))
        }

    def writer(self) -> sa.RowMapping | None:
        """Return host, pid and heartbeat of the living process that writes the store; None if there is none."""
        for row in self.select(sa.select(lease)):
            here = row["host"] == socket.gethostname()
            if lives(row["pid"], row["process_started"]) if here else _alive(row):
                return row
        return None

    def to_frame(self, where: str | None = None) -> "pd.DataFrame":
        """Return a row per calculation, for a notebook.

        Parameters
        ----------
        where
            A condition in SQL on the columns below, such as ``"state = 'failed' and level = 'GFN2-xTB'"``.

        Returns
        -------
        pandas.DataFrame
            In the order of keys: key, record_id, molecule_id, label, level, program, program_version, state,
            error_class, error_message (of the last failure), attempts (how many), host (of the last attempt), created,
            started, finished (UTC), wall_s, cpu_s (s, all attempts together), peak_rss_mib (MiB, the largest) and
            energy_hartree (hartree; NaN where there is no result). ``frame.attrs["units"]`` holds the units,
            :data:`sddfkit.factory.survey.COLUMNS` the meanings.

        Raises
        ------
        StoreError
            Also if the condition cannot be used, or pandas is missing.
        """
        from sddfkit.factory.survey import frame  # which needs this module

        return frame(self, where)

    def add_round(self, run: str, al_round: int, chosen: Sequence[Mapping[str, Any]]) -> None:
        """Write down what a round chose: ``record_id``, ``score`` and ``reason``, best first."""
        rows = [
            {
                "run": run,
                "round": al_round,
                "record_id": item["record_id"],
                "rank": rank,
                "score": item["score"],
                "reason": item["reason"],
            }
            for rank, item in enumerate(chosen)
        ]
        if rows:
            with self.writing() as connection:
                connection.execute(self.insert(rounds).on_conflict_do_nothing(), rows)

    def _writer(self) -> sa.Engine:
        engine = sa.create_engine(sa.URL.create("sqlite", database=str(self.path)), connect_args={"timeout": 60})
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

    def _dispose(self) -> None:
        self._engine.dispose()
        if self._copy is not None:
            self._copy.cleanup()

    @contextmanager
    def _database_errors(self) -> Iterator[None]:
        """Turn what the database says into a sentence."""
        try:
            yield
        except sa.exc.DatabaseError as error:
            raise StoreError(_sentence(self.path, error.orig)) from error

    def _put_token(self) -> Owner:
        """Write a new token into the spool, by which engines see whether they share the folder."""
        found = self.select(sa.select(meta.c.value).where(meta.c.name == "store_id"))
        owner = Owner(store=str(found[0]["value"]), token=secrets.token_hex(16))
        try:
            write_text(self.spool / TOKEN_FILE, owner.token)
        except OSError as error:
            raise StoreError(f"the spool {self.spool} cannot be written: {error.strerror}; {_remedy(error)}") from error
        return owner

    def _open_schema(self) -> None:
        if not self.read_only:
            with self._engine.begin() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # jobs of a sweep make a new store at the same moment
                _metadata.create_all(connection)
                about = {"schema_version": str(SCHEMA_VERSION), "store_id": uuid.uuid4().hex}
                connection.execute(
                    self.insert(meta).on_conflict_do_nothing(), [{"name": n, "value": v} for n, v in about.items()]
                )
        found = self.select(sa.select(meta.c.value).where(meta.c.name == "schema_version"))
        if not found or found[0]["value"] != str(SCHEMA_VERSION):
            version = found[0]["value"] if found else "unknown"
            raise StoreError(
                f"the store {self.path} has schema version {version}, this sddfkit reads version {SCHEMA_VERSION}: "
                "use the sddfkit that wrote it, or another paths.root"
            )

    def _take_lease(self, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        said = False
        while holder := self._try_lease():
            who = f"process {holder['pid']} on {holder['host']} (last heard of {holder['heartbeat']})"
            if time.monotonic() >= deadline:
                raise StoreError(
                    f"the store {self.path} is being written by {who}: wait for it, stop it, or use another paths.root"
                )
            if not said:
                logger.warning("waiting for %s, which writes the store %s", who, self.path)
                said = True
            time.sleep(1.0)

    def _try_lease(self) -> sa.RowMapping | None:
        """Take the lease and return None, or return the living process that has it."""
        with self._engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # two openers must not both find it free
            holder = connection.execute(sa.select(lease)).mappings().first()
            if holder and _alive(holder):
                return holder
            connection.execute(lease.delete())
            _free_claims(connection)
            taken = connection.scalar(
                lease.insert()
                .values(host=socket.gethostname(), pid=os.getpid(), process_started=started(), heartbeat=now())
                .returning(lease.c.id)
            )
            self.lease_id = int(taken or 0)
        return None


def _free_claims(connection: sa.Connection) -> None:
    """Put calculations that nobody has a lease for back to the queue."""
    held = sa.func.coalesce(calculations.c.claimed_by, -1).in_(sa.select(lease.c.id))
    connection.execute(
        calculations.update().where(calculations.c.state == "running", ~held).values(state="ready", claimed_by=None)
    )


def _alive(holder: sa.RowMapping) -> bool:
    """Say whether the holder of a lease still runs; a holder on another host counts for ten minutes of silence."""
    if holder["host"] != socket.gethostname():
        silence = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(holder["heartbeat"])
        return silence < dt.timedelta(minutes=10)
    return holder["pid"] != os.getpid() and lives(holder["pid"], holder["process_started"])


def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=60000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sentence(path: Path, error: BaseException | None) -> str:
    """Say what a database error means for a person: what is wrong, where, and what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extension that says how it was noticed
    here, go_on = f"the store {path}", "start the same command again: what was finished is kept"
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _free_bytes(path.parent) < 1 << 20):
        return f"{here} cannot grow: its disk is full; free some space there, then {go_on}"
    match code:
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return (
                f"{here} cannot be written or opened ({error}): its file, its folder or its disk is read-only for you; "
                "make it writable, or set paths.root to another folder"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return (
                f"{here} has been locked by another program for more than a minute: close it (a database browser? a "
                f"backup?), then {go_on}"
            )
        case sqlite3.SQLITE_IOERR:
            return f"{here} could not be read or written ({error}): its disk may be failing; check it, then {go_on}"
        case sqlite3.SQLITE_CORRUPT:
            return (
                f"{here} is damaged ({error}): put a backup in its place, or move it away and recover it with "
                f"`sqlite3 {path.name} .recover`"
            )
        case sqlite3.SQLITE_NOTADB:
            return f"{path} cannot be used as a store: it is no SQLite database; set paths.root to another folder"
    return f"{path} cannot be used as a store: {error}; set paths.root to another folder"


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space there, then start the same command again: what was finished is kept"
    return "make it writable, or set paths.root to another folder"


def _prepare_folder(path: Path) -> None:
    if path.is_dir():
        raise StoreError(f"{path} is a folder, a store is a file: set paths.root to the folder that holds store.sqlite")
    try:
        (path.parent / "spool").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the folder {path.parent} cannot be made or written: {error.strerror}; {_remedy(error)}"
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
