"""The store: one SQLite file that holds records, calculations, every attempt and every result."""

import datetime as dt
import json
import logging
import os
import socket
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
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
    sa.Column("input", sa.String, nullable=False),  # AtomicInput as JSON, bohr
    sa.Column("cost", sa.Float, nullable=False),
    sa.Column("state", sa.String, nullable=False, index=True),  # ready, done, failed, held
    sa.Column("error_class", sa.String),
    sa.Column("error_message", sa.String),
    sa.Column("created", sa.String, nullable=False),
)
attempts = sa.Table(
    "attempts",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.String, sa.ForeignKey("calculations.key"), nullable=False, index=True),
    sa.Column("state", sa.String, nullable=False),  # done or failed
    sa.Column("host", sa.String),
    sa.Column("pid", sa.Integer),
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

    Parameters
    ----------
    path
        The SQLite file; it is made with its folder when opened for writing.
    read_only
        Open an existing store without taking the writer's lease.
    wait_s
        How long to wait for another process that holds the lease, as the jobs of a sweep do while one of them labels.

    Raises
    ------
    StoreError
        If another living process holds the lease, the schema is of another version, the file is no store, or the
        file system cannot carry one.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False, wait_s: float = 0.0) -> None:
        self.path = Path(path).absolute()
        self.read_only = read_only
        if read_only and not self.path.is_file():
            raise StoreError(f"there is no store at {self.path}: label something first, or check paths.root")
        if not read_only:
            _prepare_folder(self.path)
        self._engine = sa.create_engine(f"sqlite:///{self.path}", connect_args={"timeout": 60})
        sa.event.listen(self._engine, "connect", _set_pragmas)
        try:
            self._open_schema()
            if not read_only:
                self._take_lease(wait_s)
        except sa.exc.DatabaseError as error:
            self._engine.dispose()
            raise StoreError(f"{self.path} cannot be used as a store: {error.orig}") from error
        except StoreError:
            self._engine.dispose()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def spool(self) -> Path:
        """The folder where engines leave finished results."""
        return self.path.parent / "spool"

    def close(self) -> None:
        """Give back the writer's lease and close the file."""
        if not self.read_only:
            with self._engine.begin() as connection:
                connection.execute(lease.delete().where(lease.c.pid == os.getpid()))
        self._engine.dispose()

    def heartbeat(self) -> None:
        """Renew the lease."""
        with self.writing() as connection:
            connection.execute(lease.update().values(heartbeat=now()))

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give a connection whose changes are committed together, or not at all."""
        if self.read_only:
            raise StoreError(f"{self.path} was opened read-only")
        with self._engine.begin() as connection:
            yield connection

    def select(self, statement: sa.Select[Any] | sa.CompoundSelect) -> list[sa.RowMapping]:
        """Return the rows of a SELECT as mappings."""
        with self._engine.connect() as connection:
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
            connection.execute(insert(records).on_conflict_do_nothing(), rows)
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
                connection.execute(insert(rounds).on_conflict_do_nothing(), rows)

    def _open_schema(self) -> None:
        if not self.read_only:
            with self._engine.begin() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # jobs of a sweep make a new store at the same moment
                _metadata.create_all(connection)
                connection.execute(
                    insert(meta).values(name="schema_version", value=str(SCHEMA_VERSION)).on_conflict_do_nothing()
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
        mine = psutil.Process()
        with self._engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # two openers must not both find it free
            holder = connection.execute(sa.select(lease)).mappings().first()
            if holder and _alive(holder):
                return holder
            connection.execute(lease.delete())
            connection.execute(
                lease.insert().values(
                    id=1,
                    host=socket.gethostname(),
                    pid=mine.pid,
                    process_started=mine.create_time(),
                    heartbeat=now(),
                )
            )
        return None


def _alive(holder: sa.RowMapping) -> bool:
    """Say whether the holder of a lease still runs; a holder on another host counts for ten minutes of silence."""
    if holder["host"] != socket.gethostname():
        silence = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(holder["heartbeat"])
        return silence < dt.timedelta(minutes=10)
    try:
        started = psutil.Process(holder["pid"]).create_time()
    except psutil.NoSuchProcess:
        return False
    return holder["pid"] != os.getpid() and abs(started - holder["process_started"]) < 1.0


def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=60000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_folder(path: Path) -> None:
    if path.is_dir():
        raise StoreError(f"{path} is a folder, a store is a file: set paths.root to the folder that holds store.sqlite")
    try:
        (path.parent / "spool").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the folder {path.parent} cannot be made or written: {error.strerror}") from error
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
