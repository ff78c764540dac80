"""Who may write a store: a row for each coordinator, by which it also claims calculations."""

import datetime as dt
import os
import socket
from collections.abc import Collection
from typing import Final

import sqlalchemy as sa

from sddfkit.factory.schema import calculations, lease, meta
from sddfkit.processes import lives, started

LAST_LEASE: Final = "last_lease"  # a name in ``meta``
SILENCE: Final = dt.timedelta(minutes=10)
"""After this a coordinator on another host counts as dead."""


def alive(holder: sa.RowMapping, time: dt.datetime, mine: Collection[int] = ()) -> bool:
    """Say whether the holder of a lease still runs; of this process' leases, `mine` are still held."""
    if holder["host"] != socket.gethostname():
        return time - dt.datetime.fromisoformat(holder["heartbeat"]) < SILENCE
    if holder["pid"] == os.getpid() and holder["id"] not in mine:
        return False
    return lives(holder["pid"], holder["process_started"])


def take(connection: sa.Connection, time: dt.datetime, number: int | None = None) -> int:
    """Write a lease for this process, with its old number if it had one, and return the number."""
    row = {"host": socket.gethostname(), "pid": os.getpid(), "process_started": started(), "heartbeat": stamp(time)}
    number = _next_number(connection) if number is None else number
    connection.execute(lease.insert().values(id=number, **row))
    return number


def _next_number(connection: sa.Connection) -> int:
    """Return a number that no lease of this store ever had: what was claimed by it must not be taken for ours."""
    one_more = sa.cast(sa.cast(meta.c.value, sa.Integer) + 1, sa.String)
    counted = meta.update().where(meta.c.name == LAST_LEASE).values(value=one_more).returning(meta.c.value)
    number = connection.execute(counted).scalar()
    if number is None:
        number = (connection.scalar(sa.select(sa.func.max(lease.c.id))) or 0) + 1
        connection.execute(meta.insert().values(name=LAST_LEASE, value=str(number)))
    return int(number)


def renew(connection: sa.Connection, lease_id: int, time: dt.datetime) -> bool:
    """Write the heartbeat, and say whether the lease was still there."""
    mine = lease.update().where(
        lease.c.id == lease_id, lease.c.pid == os.getpid(), lease.c.host == socket.gethostname()
    )
    return connection.execute(mine.values(heartbeat=stamp(time))).rowcount == 1


def bury(connection: sa.Connection, dead: Collection[int]) -> None:
    """Remove these leases; what they, or nobody any more, had claimed goes back to the queue."""
    if dead:
        connection.execute(lease.delete().where(lease.c.id.in_(dead)))
    held = sa.exists().where(lease.c.id == calculations.c.claimed_by)
    connection.execute(
        calculations.update().where(calculations.c.state == "running", ~held).values(state="ready", claimed_by=None)
    )


def stamp(time: dt.datetime) -> str:
    """Return a time as the store keeps it: ISO 8601, UTC."""
    return time.astimezone(dt.UTC).isoformat(timespec="milliseconds")
