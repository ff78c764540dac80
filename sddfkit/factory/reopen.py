"""Failed and held calculations, back to the queue because somebody asks for it."""

from collections.abc import Collection, Sequence
from typing import Final

import sqlalchemy as sa

from sddfkit.factory.retry import BUDGET
from sddfkit.factory.store import Store, calculations

SHORTEST_PREFIX: Final = 6


class ReopenError(ValueError):
    """What was asked for cannot be reopened; the message says why and what to do."""


def reopen(store: Store, *, classes: Collection[str] = (), keys: Sequence[str] = ()) -> dict[str, int]:
    """Put failed and held calculations back to ready and return how many, by error class.

    They are computed when a batch that asked for them runs again, and have one try: what failed before still counts
    against the budget of :mod:`sddfkit.factory.retry`.

    Parameters
    ----------
    store
        A store opened for writing.
    classes
        Error classes; without any, all but ``input``: what is wrong with an input stays wrong.
    keys
        Only these, also those with errors in their input; the first digits of a key are enough.

    Raises
    ------
    ReopenError
        If a class is unknown, ``input`` is asked for without keys, or a key is unknown, ambiguous, or not of a failed
        or held calculation.
    """
    if unknown := sorted(set(classes) - BUDGET.keys()):
        raise ReopenError(f"there is no error class {unknown[0]!r}; the classes are {', '.join(BUDGET)}")
    if "input" in classes and not keys:
        raise ReopenError("errors in the input stay as they are however often they are tried; name single ones by key")
    wanted: list[sa.ColumnElement[bool]] = [calculations.c.state.in_(("failed", "held"))]
    if classes:
        wanted.append(calculations.c.error_class.in_(classes))
    elif not keys:
        wanted.append(sa.func.coalesce(calculations.c.error_class, "unknown") != "input")
    found: dict[str, int] = {}
    with store.writing() as connection:
        if keys:
            wanted.append(store.among(calculations.c.key, _whole_keys(connection, keys)))
        counts = sa.select(calculations.c.error_class, sa.func.count()).where(*wanted)
        for error_class, count in connection.execute(counts.group_by(calculations.c.error_class)):
            found[error_class or "unknown"] = found.get(error_class or "unknown", 0) + count
        connection.execute(calculations.update().where(*wanted).values(state="ready"))
    return dict(sorted(found.items()))


def _whole_keys(connection: sa.Connection, keys: Sequence[str]) -> list[str]:
    """Return the keys that begin so, if each is one failed or held calculation."""
    whole = set()
    for key in keys:
        if len(key) < SHORTEST_PREFIX or not all(digit in "0123456789abcdef" for digit in key):
            raise ReopenError(
                f"{key!r} is no key: give at least {SHORTEST_PREFIX} of its hexadecimal digits, as `sddfkit store "
                "failures` shows them"
            )
        begins = calculations.c.key.between(key, f"{key}g")  # "g" comes after all digits; an index finds a range
        rows = connection.execute(sa.select(calculations.c.key, calculations.c.state).where(begins).limit(2)).all()
        if len(rows) != 1:
            many = "more than one calculation begins" if rows else "no calculation begins"
            raise ReopenError(f"{many} with the key {key}")
        if rows[0].state not in ("failed", "held"):
            raise ReopenError(f"the calculation {key} is {rows[0].state}; only failed and held ones can be retried")
        whole.add(rows[0].key)
    return sorted(whole)
