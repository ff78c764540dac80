"""The results of one store into another, by key."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from sddfkit.factory.store import Store, StoreError, attempts, calculations, meta, records, results
from sddfkit.factory.verify import wrong_result

SAME_ENERGY_HARTREE: Final = 1e-6
"""Two results of one calculation agree within this: threads and processors change the last digits of an SCF."""
ROWS_AT_ONCE: Final = 200


class Conflict(NamedTuple):
    """A result of the other store that was kept out, and why."""

    key: str
    label: str
    reason: str


class Merged(NamedTuple):
    """What a merge did with the other store's calculations.

    ``taken`` results are new here, ``known`` ones were here already, ``failures`` are failed and held calculations that
    were unknown here, ``conflicts`` were kept out; ``open`` ones have no result there either and were left alone.
    """

    taken: int
    known: int
    failures: int
    open: int
    conflicts: list[Conflict]


def merge(store: Store, other: Store) -> Merged:
    """Take over the results of another store; giving the same store again changes nothing.

    Records and attempts come with their calculations. What batches asked for, and what rounds of active learning chose,
    stays behind: it belongs to the runs beside the other store.

    Parameters
    ----------
    store
        Opened for writing.
    other
        Opened for reading; another process may be writing it.

    Raises
    ------
    StoreError
        If both are the same store.
    """
    if _same(store, other):
        raise StoreError(f"{store.name} cannot be merged into itself: give another store")
    taken = known = failures = still_open = 0
    conflicts: list[Conflict] = []
    for rows in _rows(other):
        here = _here(store, [row["key"] for row in rows])
        wanted: list[sa.RowMapping] = []
        for row in rows:
            mine = here.get(row["key"])
            if row["document"] is None:
                if row["state"] not in ("failed", "held"):
                    still_open += 1
                elif mine is None:
                    failures += 1
                    wanted.append(row)
                else:
                    known += 1
            elif wrong := wrong_result(row):
                conflicts.append(Conflict(row["key"], row["label"], wrong))
            elif mine is None or mine["energy_hartree"] is None:
                taken += 1
                wanted.append(row)
            elif abs(mine["energy_hartree"] - row["energy_hartree"]) <= SAME_ENERGY_HARTREE:
                known += 1
            else:
                conflicts.append(Conflict(row["key"], row["label"], _differ(mine, row)))
        _take(store, other, wanted)
    return Merged(taken, known, failures, still_open, conflicts)


def _same(store: Store, other: Store) -> bool:
    """Say whether both are one file, or one database, which may go by several names: there our lease is seen."""
    if store.path is not None and other.path is not None:
        return store.path.samefile(other.path)
    ids = {row["value"] for row in other.select(sa.select(meta.c.value).where(meta.c.name == "store_id"))}
    return store.owner.store in ids and store.lease_id in {writer["id"] for writer in other.writers()}


def _differ(mine: sa.RowMapping, row: sa.RowMapping) -> str:
    return f"its energy is {row['energy_hartree']:.8f} hartree there and {mine['energy_hartree']:.8f} here"


def _rows(other: Store) -> Iterator[Sequence[sa.RowMapping]]:
    statement = (
        sa.select(calculations, results.c.energy_hartree, results.c.document, results.c.ingested)
        .select_from(calculations.outerjoin(results, results.c.key == calculations.c.key))
        .order_by(calculations.c.key)
        .limit(ROWS_AT_ONCE)
    )
    last = ""
    while rows := other.select(statement.where(calculations.c.key > last)):
        yield rows
        last = rows[-1]["key"]


def _here(store: Store, keys: Sequence[str]) -> dict[str, sa.RowMapping]:
    """Return the energies (none: no result) of those calculations that this store knows."""
    found = store.select(
        sa.select(calculations.c.key, results.c.energy_hartree)
        .select_from(calculations.outerjoin(results, results.c.key == calculations.c.key))
        .where(calculations.c.key.in_(keys))
    )
    return {row["key"]: row for row in found}


def _take(store: Store, other: Store, wanted: Sequence[sa.RowMapping]) -> None:
    """Write some calculations with their records, attempts and results, all or none of them."""
    if not wanted:
        return
    keys = [row["key"] for row in wanted]
    own = other.select(sa.select(records).where(records.c.record_id.in_({row["record_id"] for row in wanted} - {None})))
    tries = other.select(sa.select(attempts).where(attempts.c.key.in_(keys)).order_by(attempts.c.id))
    mine = {_try(row) for row in store.select(sa.select(attempts).where(attempts.c.key.in_(keys)))}
    fresh = [{k: v for k, v in row.items() if k != "id"} for row in tries if _try(row) not in mine]
    done = [row for row in wanted if row["document"] is not None]
    with store.writing() as connection:
        for table, found in (
            (records, [dict(row) for row in own]),
            (calculations, [{**_columns(calculations, row), "claimed_by": None} for row in wanted]),
            (attempts, fresh),
            (results, [_columns(results, row) for row in done]),
        ):
            if found:
                connection.execute(store.insert(table).on_conflict_do_nothing(), found)
        for row in done:
            known_before = calculations.update().where(calculations.c.key == row["key"])
            connection.execute(known_before.values(state="done", claimed_by=None, error_class=None, error_message=None))


def _columns(table: sa.Table, row: sa.RowMapping) -> dict[str, Any]:
    return {column.name: row[column.name] for column in table.columns}


def _try(row: sa.RowMapping) -> tuple[Any, ...]:
    """What tells one attempt from another, also where no host or process is known."""
    return tuple(row[name] for name in ("key", "host", "pid", "started", "finished", "state"))
