"""A store on a PostgreSQL server: several coordinators at once, on as many machines as reach it."""

import datetime as dt
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from sddfkit.factory.database import Database, StoreError
from sddfkit.factory.schema import metadata

OPENING: Final = 0x5DDF
"""The advisory lock of whoever makes, changes or opens a store for writing."""
CONNECT_TIMEOUT_S: Final = 10


class PostgreSQL(Database):
    """A database by URL; its password is best kept out of it, in ``~/.pgpass`` or ``PGPASSWORD``."""

    shared = True

    def __init__(self, url: sa.URL, spool: Path | None, *, read_only: bool) -> None:
        if not url.database:
            raise StoreError(f"{_shown(url)} names no database: expected postgresql+psycopg://user@host/database")
        self.url = url.set(drivername="postgresql+psycopg")
        self.name = _shown(self.url)
        self.path = None
        self.spool = spool
        self.read_only = read_only

    def engine(self) -> sa.Engine:
        try:
            engine = sa.create_engine(
                self.url,
                pool_pre_ping=True,  # a server may have been started anew
                connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "sddfkit"},
                execution_options={"postgresql_readonly": True} if self.read_only else {},
            )
        except ModuleNotFoundError as error:
            raise StoreError(f"{self.name} needs psycopg ({error}): pip install 'sddfkit[postgres]'") from error
        if not self.read_only:
            sa.event.listen(engine, "connect", _be_durable)
        return engine

    def be_alone(self, connection: sa.Connection) -> None:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(OPENING)))

    def insert(self, table: sa.Table) -> postgresql.Insert:
        return postgresql.insert(table)

    def among(self, column: sa.ColumnElement[str], values: Collection[str]) -> sa.ColumnElement[bool]:
        return column == sa.func.any(sa.literal(list(values), postgresql.ARRAY(sa.String)))

    def time(self, connection: sa.Connection) -> dt.datetime:
        found: dt.datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return found.astimezone(dt.UTC)

    def size_bytes(self, connection: sa.Connection) -> int:
        sizes = (sa.func.pg_total_relation_size(sa.cast(table, postgresql.REGCLASS)) for table in metadata.tables)
        return int(sum(connection.execute(sa.select(*sizes)).one()))

    def damage(self, connection: sa.Connection) -> Iterator[str]:
        failures = connection.exec_driver_sql(
            "SELECT checksum_failures FROM pg_stat_database WHERE datname = current_database()"
        ).scalar()  # null where the server keeps no checksums
        if failures:
            yield f"the server has found {failures} pages whose checksum is wrong"

    def strangers(self, tables: Collection[str], ours: Collection[str]) -> list[str]:
        return sorted(set(tables) & set(ours))  # other tables may live beside a store

    def back_up(self, version: int) -> None:
        return None

    def read_older(self, engine: sa.Engine, views: Collection[str]) -> bool:
        return False  # a transaction that reads may make no view

    def is_wrong_sql(self, error: BaseException | None) -> bool:
        return _sqlstate(error)[:2] in ("42", "22")  # syntax or names; values that do not fit an operation

    def sentence(self, error: BaseException | None) -> str:
        here, go_on = f"the store {self.name}", "start the same command again: what was finished is kept"
        reason = " ".join(str(error).split())
        match _sqlstate(error):
            case "53100":
                return f"{here} cannot grow ({reason}): free some space on the server's disk, then {go_on}"
            case "25006" | "42501":
                return (
                    f"{here} cannot be written ({reason}): it is read-only for you; ask for the right to write, or use "
                    "another database"
                )
            case "53300" | "53400" | "53200" | "57P03":
                return f"{here} cannot be reached now ({reason}): wait a little, then {go_on}"
            case "40P01" | "40001" | "55P03":
                return f"{here} was changed by another process at the same moment ({reason}): {go_on}"
            case "58030" | "XX001" | "XX002":
                return f"{here} is damaged, or its disk is failing ({reason}): have the server looked at"
            case "3D000":
                return self._no_database(reason)
            case "28P01" | "28000":
                return self._refused(reason)
            case "" | "57P01" | "57P02" | "08000" | "08001" | "08003" | "08004" | "08006":
                return self._connection(reason, go_on)
        return f"{self.name} cannot be used as a store: {reason}; use another database"

    def _connection(self, reason: str, go_on: str) -> str:
        """Tell refusals of a connection apart, which come without a code."""
        if f'database "{self.url.database}" does not exist' in reason:
            return self._no_database(reason)
        if any(word in reason for word in ("password", "authentication", "pg_hba.conf", "role ")):
            return self._refused(reason)
        return (
            f"the database server of {self.name} cannot be reached ({reason}): see that it runs and that host and port "
            f"are right, then {go_on}"
        )

    def _no_database(self, reason: str) -> str:
        return f"{self.name} cannot be opened: {reason}; make the database with `createdb {self.url.database}`"

    def _refused(self, reason: str) -> str:
        return f"{self.name} cannot be opened: {reason}; check the user, and the password in ~/.pgpass or PGPASSWORD"


def _shown(url: sa.URL) -> str:
    return url.set(password=None).difference_update_query(["password"]).render_as_string()


def _sqlstate(error: BaseException | None) -> str:
    return getattr(error, "sqlstate", None) or ""


def _be_durable(connection: Any, _record: object) -> None:
    """See that what is committed is on the server's disk, whatever the server's own setting."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
    connection.commit()
