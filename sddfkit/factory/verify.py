"""Is a store whole? What it says is done must be there, once, readable, of the right calculation, and make sense."""

import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa
from qcelemental.models.v2 import AtomicInput

from sddfkit.factory.accept import wrong_document
from sddfkit.factory.schema import metadata
from sddfkit.factory.store import Store, attempts, calculations, results
from sddfkit.qc.inputs import InputError, check_input, content_key

STATES: Final = ("ready", "running", "done", "failed", "held")
ROWS_AT_ONCE: Final = 200


class Problem(NamedTuple):
    """What is wrong, and with which calculation (empty: with the file)."""

    key: str
    what: str


class Verdict(NamedTuple):
    """What was looked at, and what is wrong with it.

    ``done`` is the number of results that were read; ``repeated`` that of calculations done more than once, which
    wastes time and breaks nothing.
    """

    calculations: int
    done: int
    repeated: int
    problems: list[Problem]


def verify(store: Store) -> Verdict:
    """Read the whole store, without keeping its writer from writing.

    Returns
    -------
    Verdict
        Without problems if the database is sound, each finished calculation has one result that can be read, whose
        input hashes to its key and whose energy (and gradient) are numbers in atomic units, nothing else has a
        result, and nothing is running without a living process that writes the store.
    """
    problems = list(_damage(store))
    if problems:  # whatever else is wrong follows from that
        return Verdict(0, 0, 0, problems)
    problems += [*_dangling(store), *_running_alone(store)]
    total = done = 0
    for row in _rows(store):
        total += 1
        done += row["document"] is not None
        problems += [Problem(row["key"], what) for what in _calculation(row)]
    again = sa.select(attempts.c.key).where(attempts.c.state == "done").group_by(attempts.c.key)
    repeated = store.select(again.having(sa.func.count() > 1))
    return Verdict(total, done, len(repeated), problems)


def wrong_result(row: sa.RowMapping) -> str | None:
    """Say what is wrong with a result, or nothing.

    Parameters
    ----------
    row
        ``key``, ``program_version``, ``energy_hartree`` and the compressed ``document``.
    """
    try:
        document = json.loads(zlib.decompress(row["document"]))
    except Exception as error:  # whatever damaged bytes do to the libraries that read them
        return f"its result cannot be read ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
    if (wrong := wrong_document(document, row["key"], row["program_version"])) is not None:
        return wrong
    energy = document["properties"]["return_energy"]
    if energy != row["energy_hartree"]:
        return f"its energy is {row['energy_hartree']} in the table and {energy} in the result"
    return None


def _damage(store: Store) -> Iterator[Problem]:
    with store.reading() as connection:
        for said in store.database.damage(connection):
            yield Problem("", f"the database is damaged: {said}")


def _dangling(store: Store) -> Iterator[Problem]:
    for table in metadata.sorted_tables:
        for key in table.foreign_keys:
            there = sa.exists().where(key.column == key.parent)
            lost = sa.select(sa.func.count().label("rows")).where(key.parent.is_not(None), ~there)
            (found,) = store.select(lost.select_from(table))
            if found["rows"]:
                missing = key.column.table.name
                yield Problem("", f"{found['rows']} rows of {table.name} refer to {missing} that are not there")


def _running_alone(store: Store) -> Iterator[Problem]:
    living = [writer["id"] for writer in store.writers()]
    running = sa.select(calculations.c.key).where(
        calculations.c.state == "running", sa.func.coalesce(calculations.c.claimed_by, 0).not_in(living)
    )
    tried = sa.select(attempts.c.key).where(attempts.c.state == "running")
    for row in store.select(running if living else running.union(tried)):
        yield Problem(row["key"], "it is running, but no living process that writes the store has it")


def _rows(store: Store) -> Iterator[sa.RowMapping]:
    """Yield the calculations with their results, a few at a time: a long look would make the writer's log grow."""
    names = ("key", "program_version", "state", "error_class", "input")
    statement = (
        sa.select(*(calculations.c[name] for name in names), results.c.energy_hartree, results.c.document)
        .select_from(calculations.outerjoin(results, results.c.key == calculations.c.key))
        .order_by(calculations.c.key)
        .limit(ROWS_AT_ONCE)
    )
    last = ""
    while rows := store.select(statement.where(calculations.c.key > last)):
        yield from rows
        last = rows[-1]["key"]


def _calculation(row: sa.RowMapping) -> Sequence[str]:
    """Return what is wrong with one calculation, in words."""
    state, has_result = row["state"], row["document"] is not None
    if state not in STATES:
        return [f"its state is {state!r}, none of {', '.join(STATES)}"]
    wrong = []
    if state == "done" and not has_result:
        wrong.append("it is done, but has no result")
    if state != "done" and has_result:
        wrong.append(f"it is {state}, but has a result")
    if state in ("failed", "held") and not row["error_class"]:
        wrong.append(f"it is {state} without a reason")
    if has_result and (said := wrong_result(row)):
        wrong.append(said)
    try:
        asked = AtomicInput(**json.loads(row["input"]))
        if content_key(asked, row["program_version"]) != row["key"]:
            wrong.append("its input hashes to another key")
        check_input(asked)
    except InputError as error:
        if state == "done":
            wrong.append(f"its input should have been refused: {error}")
    except Exception as error:  # as above
        wrong.append(f"its input cannot be read ({type(error).__name__}: {str(error).splitlines()[0][:200]})")
    return wrong
