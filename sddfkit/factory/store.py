"""The store: one database that holds records, calculations, every attempt and every result."""

import datetime as dt
import json
import logging
import secrets
import threading
import time
import uuid
import weakref
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa

from sddfkit.factory import leases
from sddfkit.factory.database import Database, StoreError
from sddfkit.factory.schema import (
    SCHEMA_VERSION,
    attempts,
    batches,
    calculations,
    lease,
    meta,
    metadata,
    records,
    requests,
    results,
    rounds,
)
from sddfkit.factory.spools import open_spool

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from sddfkit.qc.spool import Owner

__all__ = [
    "KEYS_PER_QUERY", "SCHEMA_VERSION", "Store", "StoreError", "now",
    "attempts", "batches", "calculations", "lease", "meta", "records", "requests", "results", "rounds",
]  # fmt: skip

logger = logging.getLogger(__name__)

KEYS_PER_QUERY = 1000  # of those that are looked for one by one
_OPEN: "weakref.WeakSet[Store]" = weakref.WeakSet()  # of this process, for writing


def now() -> str:
    """Return the current time, ISO 8601, UTC."""
    return leases.stamp(dt.datetime.now(dt.UTC))


class Store:
    """A store opened for writing by this process, or by any number of processes for reading.

    A store opened for writing has an ``owner``: what engines must know to find its spool, or to keep one of their own;
    and a ``lease_id``, by which it claims calculations. What is claimed by a lease that is gone is ready again.

    Parameters
    ----------
    path
        An SQLite file or ``sqlite:///path``, made with its folder when opened for writing; or a database on a
        PostgreSQL server, ``postgresql+psycopg://user@host/database``, whose tables are made then.
    spool
        The folder where engines leave finished results; of an SQLite file, the folder ``spool`` beside it if not given.
        On a server each coordinator has a folder of its own in it.
    read_only
        Open an existing store without taking the writer's lease, and without writing anything, so that it may lie on a
        read-only disk.
    wait_s
        How long to wait for another process that holds the lease, as the jobs of a sweep do while one of them labels.
        On a server nobody waits: several coordinators work off one queue together.

    Raises
    ------
    StoreError
        Here and in all methods: if another living process holds the lease, the schema is of another version, the file
        is no store, the file system cannot carry one, the disk is full, read-only or broken, or the server cannot be
        reached.

    Notes
    -----
    A store of an earlier version is brought to this one when it is opened for writing (an SQLite file is copied to
    ``<name>.v<version>.bak`` first), and read as it is otherwise.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        spool: str | Path | None = None,
        read_only: bool = False,
        wait_s: float = 0.0,
    ) -> None:
        self.database = _database(path, spool, read_only=read_only)
        self.path = self.database.path
        self.name = self.database.name
        self.read_only = read_only
        self.lease_id = 0  # none
        self.busy: str | None = None  # the batch that runs on it
        self._occupying = threading.Lock()
        self._engine = self.database.engine()
        try:
            with self._database_errors():
                if read_only:
                    self._look()
                else:
                    self._take_lease(wait_s)
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
        """The folder where engines leave finished results for this coordinator."""
        if self._spool is None:
            raise StoreError(f"the store {self.name} was opened without a spool, where engines leave their results")
        return self._spool

    @property
    def inbox(self) -> Path:
        """The folder where other processes leave requests (:mod:`sddfkit.factory.inbox`)."""
        return (self.database.spool or self.spool).parent / "inbox"

    @property
    def _spool(self) -> Path | None:
        return self.database.spool if self.read_only or not self.database.shared else self._own_spool

    def close(self) -> None:
        """Give back what this store has claimed, and the writer's lease, and close the database."""
        try:
            if not self.read_only:
                _OPEN.discard(self)
                with self.writing() as connection:
                    leases.bury(connection, [self.lease_id])
        finally:
            self._dispose()

    def occupy(self, batch: str) -> None:
        """Say that a batch runs on this store from now on, until ``busy`` is None again.

        Raises
        ------
        StoreError
            If one does already: two would compute the same things.
        """
        with self._occupying:
            if self.busy is not None:
                raise StoreError(
                    f"the batch {self.busy!r} is running on {self.name} in this process: wait for it, or stop it first"
                )
            self.busy = batch

    def heartbeat(self) -> None:
        """Renew the lease, and on a server put back what coordinators had claimed that have died since.

        Raises
        ------
        StoreError
            If another process has taken over an SQLite file, because nothing was heard of this one for too long.
        """
        with self.writing() as connection:
            time = self.database.time(connection)
            there = leases.renew(connection, self.lease_id, time)
            others = [row for row in self._leases(connection) if row["id"] != self.lease_id or not there]
            if not there:
                if others and not self.database.shared:
                    raise StoreError(f"{_who(others[0])} has taken over the store {self.name}: stop one of the two")
                leases.take(connection, time, self.lease_id)
            if self.database.shared:
                leases.bury(connection, [row["id"] for row in others if not self._alive(row, time)])

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give a connection whose changes are committed together, or not at all."""
        if self.read_only:
            writer = self.writer()
            why = (
                f"{_who(writer)} writes it: wait for it, or stop it, and open again"
                if writer
                else "open it for writing"
            )
            raise StoreError(f"{self.name} was opened read-only, and nothing can be added: {why}")
        with self._database_errors(), self._engine.begin() as connection:
            yield connection

    def select(self, statement: sa.Select[Any] | sa.CompoundSelect) -> list[sa.RowMapping]:
        """Return the rows of a SELECT as mappings."""
        with self.reading() as connection:
            return list(connection.execute(statement).mappings())

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection that sees what is committed, and whose changes are forgotten."""
        with self._database_errors(), self._engine.connect() as connection:
            yield connection

    def insert(self, table: sa.Table) -> Any:
        """Return the database's INSERT, which knows ``on_conflict_do_nothing``."""
        return self.database.insert(table)

    def among(self, column: sa.ColumnElement[str], values: Collection[str]) -> sa.ColumnElement[bool]:
        """Return the condition that a column has one of these values, however many they are."""
        return self.database.among(column, values)

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
            raise StoreError(f"the store {self.name} holds no record {record_id}")
        document: dict[str, Any] = json.loads(rows[0]["document"])
        return document

    def result(self, key: str) -> dict[str, Any]:
        """Return the AtomicResult document of a finished calculation (bohr, hartree)."""
        rows = self.select(sa.select(results.c.document).where(results.c.key == key))
        if not rows:
            raise StoreError(f"the store {self.name} holds no result for the calculation {key}")
        document: dict[str, Any] = json.loads(zlib.decompress(rows[0]["document"]))
        return document

    def states(self, keys: Iterable[str]) -> dict[str, sa.RowMapping]:
        """Return record, label, state, error class and message of the calculations that are known, by key."""
        columns = ("key", "record_id", "label", "state", "error_class", "error_message")
        statement = sa.select(*(calculations.c[name] for name in columns)).order_by(calculations.c.key)
        wanted = sorted(set(keys))  # as they lie in the index
        rows = self.select(statement.where(self.among(calculations.c.key, wanted)))
        return {row["key"]: row for row in rows}

    def writers(self) -> list[sa.RowMapping]:
        """Return id, host, pid and heartbeat of the living processes that write the store; the first to come first."""
        with self.reading() as connection:
            rows, time = self._leases(connection), self.database.time(connection)
        return [row for row in rows if leases.alive(row, time, [row["id"]])]

    def writer(self) -> sa.RowMapping | None:
        """Return the first of :meth:`writers`; None if there is none."""
        return next(iter(self.writers()), None)

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

    def _dispose(self) -> None:
        self._engine.dispose()
        self.database.close()

    @contextmanager
    def _database_errors(self) -> Iterator[None]:
        """Turn what the database says into a sentence."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise StoreError(self.database.sentence(error.orig)) from error

    def _look(self) -> None:
        """Check the version of a store that is only read, and let it look like one of this version if it is older."""
        with self._engine.connect() as connection:
            version = _version(connection, self.name)
            views = _views(connection) if version < SCHEMA_VERSION else []
        if version < SCHEMA_VERSION and not self.database.read_older(self._engine, views):
            raise StoreError(
                f"the store {self.name} has schema version {version}, this sddfkit reads version {SCHEMA_VERSION}: "
                "open it once for writing, as any job that labels does, and it is brought to that version"
            )

    def _take_lease(self, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        said = False
        while holder := self._try_lease():
            if time.monotonic() >= deadline:
                raise StoreError(
                    f"the store {self.name} is being written by {_who(holder)}: wait for it, stop it, or use another "
                    "store (paths.root)"
                )
            if not said:
                logger.warning("waiting for %s, which writes the store %s", _who(holder), self.name)
                said = True
            time.sleep(1.0)
        _OPEN.add(self)

    def _try_lease(self) -> sa.RowMapping | None:
        """Take the lease and return None, or return the living process that has it.

        Tables that are missing or of an earlier version are made or changed in the same transaction, so that of two
        openers one finds the work done, and a process that dies leaves things as they were.
        """
        with self._engine.begin() as connection:
            self.database.be_alone(connection)
            self._make_tables(connection)
            version = _version(connection, self.name)
            clock = self.database.time(connection)
            rows = self._leases(connection)
            living = [row for row in rows if self._alive(row, clock)]
            if living and (not self.database.shared or version < SCHEMA_VERSION):
                return living[0]
            if version < SCHEMA_VERSION:
                self._migrate(connection, version)
            leases.bury(connection, [row["id"] for row in rows if row not in living])
            self.lease_id = leases.take(connection, clock)
            self.owner, self._own_spool = self._open_spool(connection, [row["id"] for row in living])
        return None

    def _open_spool(self, connection: sa.Connection, living: Sequence[int]) -> "tuple[Owner, Path | None]":
        from sddfkit.qc.spool import Owner  # with all of qc, which a look at a store needs not

        store_id = connection.execute(sa.select(meta.c.value).where(meta.c.name == "store_id")).scalar_one()
        owner = Owner(store=store_id, token=secrets.token_hex(16))
        if self.database.spool is None:
            return owner, None
        own = self.lease_id if self.database.shared else None
        return owner, open_spool(self.database.spool, owner, own, living)

    def _make_tables(self, connection: sa.Connection) -> None:
        tables = sa.inspect(connection).get_table_names()
        if meta.name in tables:
            return
        if strangers := self.database.strangers(tables, metadata.tables):
            raise StoreError(
                f"{self.name} cannot be used as a store: it holds something else ({', '.join(strangers[:5])}); "
                "name another file or database"
            )
        metadata.create_all(connection)
        about = {"schema_version": str(SCHEMA_VERSION), "store_id": uuid.uuid4().hex}
        connection.execute(meta.insert(), [{"name": name, "value": value} for name, value in about.items()])

    def _migrate(self, connection: sa.Connection, version: int) -> None:
        from sddfkit.factory.migrations import migrate  # with Alembic, which nobody else waits for

        copy = self.database.back_up(version)
        kept = f"; as it was, it is kept as {copy}" if copy else ""
        logger.warning("the store %s is brought from version %d to %d%s", self.name, version, SCHEMA_VERSION, kept)
        migrate(connection, version)

    def _leases(self, connection: sa.Connection) -> list[sa.RowMapping]:
        return list(connection.execute(sa.select(lease).order_by(lease.c.id)).mappings())

    def _alive(self, row: sa.RowMapping, time: dt.datetime) -> bool:
        """Say whether a coordinator lives; on a file this process may take over from itself, unless it is at work."""
        here = [store for store in _OPEN if store.name == self.name]
        mine = {store.lease_id for store in here if store.busy is not None or self.database.shared}
        return leases.alive(row, time, mine)


def _database(where: str | Path, spool: str | Path | None, *, read_only: bool) -> Database:
    """Return the database that a path or a URL names."""
    folder = None if spool is None else Path(spool).expanduser().absolute()
    text = str(where)
    scheme, separator, rest = text.partition("://")
    if isinstance(where, Path) or not separator:
        path = Path(where)
    elif scheme == "sqlite" and len(rest) > 1:
        path = Path(rest.removeprefix("/"))
    elif scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        from sddfkit.factory.postgres import PostgreSQL

        return PostgreSQL(_url(text.replace("postgres:", "postgresql:", 1)), folder, read_only=read_only)
    else:
        raise StoreError(
            f"{scheme}:// is no store: expected the path of an SQLite file, sqlite:///path, or "
            "postgresql+psycopg://user@host/database"
        )
    from sddfkit.factory.sqlite import SQLite

    return SQLite(path.absolute(), folder, read_only=read_only)


def _url(text: str) -> sa.URL:
    try:
        return sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:  # a port that is no number, say
        raise StoreError("the URL cannot be read: expected postgresql+psycopg://user@host:port/database") from error


def _version(connection: sa.Connection, name: str) -> int:
    """Return the version of a store's tables, if this code knows it.

    Raises
    ------
    StoreError
        If it is newer, or none.
    """
    found = connection.execute(sa.select(meta.c.value).where(meta.c.name == "schema_version")).scalar()
    if found is None or not found.isdecimal() or int(found) > SCHEMA_VERSION:
        raise StoreError(
            f"the store {name} has schema version {found or 'unknown'}, this sddfkit reads version {SCHEMA_VERSION}: "
            "use the sddfkit that wrote it, or another store (paths.root)"
        )
    return int(found)


def _views(connection: sa.Connection) -> list[str]:
    """Return views that show the tables of an earlier version with all columns and tables of this one, empty."""
    inspector = sa.inspect(connection)
    there = inspector.get_table_names()
    views = []
    for table in metadata.sorted_tables:
        known = [column["name"] for column in inspector.get_columns(table.name)] if table.name in there else []
        new = ", ".join(f'NULL AS "{column.name}"' for column in table.columns if column.name not in known)
        if not known:
            views.append(f'CREATE TEMP VIEW "{table.name}" AS SELECT {new} WHERE 0')
        elif new:
            views.append(f'CREATE TEMP VIEW "{table.name}" AS SELECT *, {new} FROM main."{table.name}"')
    return views


def _who(holder: sa.RowMapping) -> str:
    return f"process {holder['pid']} on {holder['host']} (last heard of {holder['heartbeat']})"
