"""What differs between the databases that can hold a store."""

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa


class StoreError(RuntimeError):
    """The store cannot be used as asked; the message says why and what to do."""


class Database(ABC):
    """One database, opened by one process.

    ``name`` is what people read: a path, or a URL without its password. ``path`` is the file, if it is one. ``spool``
    is the folder in which a coordinator has its spool, if one is known. ``shared`` says whether several coordinators
    may write at the same time.
    """

    name: str
    path: Path | None
    spool: Path | None
    shared: bool

    @abstractmethod
    def engine(self) -> sa.Engine:
        """Return the engine through which this process reads, or reads and writes, the database."""

    @abstractmethod
    def be_alone(self, connection: sa.Connection) -> None:
        """Keep other openers out until the transaction, which must not have begun, ends."""

    @abstractmethod
    def insert(self, table: sa.Table) -> Any:
        """Return an INSERT that knows ``on_conflict_do_nothing``."""

    @abstractmethod
    def among(self, column: sa.ColumnElement[str], values: Collection[str]) -> sa.ColumnElement[bool]:
        """Return the condition that a column has one of these values, however many they are."""

    @abstractmethod
    def time(self, connection: sa.Connection) -> dt.datetime:
        """Return the time by the clock that all writers of this database share."""

    @abstractmethod
    def sentence(self, error: BaseException | None) -> str:
        """Say what an error means for a person: what is wrong, where, and what to do."""

    @abstractmethod
    def is_wrong_sql(self, error: BaseException | None) -> bool:
        """Say whether the statement is at fault, and not the database."""

    @abstractmethod
    def size_bytes(self, connection: sa.Connection) -> int:
        """Return how much room the store takes."""

    @abstractmethod
    def damage(self, connection: sa.Connection) -> Iterator[str]:
        """Yield what the database itself finds wrong with it."""

    @abstractmethod
    def strangers(self, tables: Collection[str], ours: Collection[str]) -> list[str]:
        """Return the tables that say that this is something else than a store that is still to be made."""

    @abstractmethod
    def back_up(self, version: int) -> Path | None:
        """Copy what is committed before it is changed; None where that is the business of the server's keeper."""

    @abstractmethod
    def read_older(self, engine: sa.Engine, views: Collection[str]) -> bool:
        """Let an older store be read through these temporary views; False where that cannot be."""

    def close(self) -> None:  # noqa: B027 (most have nothing to do)
        """Remove what was made for this process alone."""
