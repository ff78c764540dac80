"""The queue: what is open in a batch, longest first, and who has taken it."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

import sqlalchemy as sa

from sddfkit.factory.costs import CostModel
from sddfkit.factory.store import Store, attempts, calculations, requests


class Claim(NamedTuple):
    """A calculation that this coordinator gives to an engine; ``failures`` counts earlier ones by class."""

    key: str
    input: str
    level: str
    program: str
    cost: float
    seconds: float | None
    failures: dict[str, int]


def of_batch(name: str) -> sa.ColumnElement[bool]:
    """Say that a calculation was asked for by a batch; so written, the index ``queue`` gives the order."""
    return sa.exists().where(requests.c.batch == name, requests.c.key == calculations.c.key)


def open_groups(store: Store, batch: str) -> list[tuple[str, str]]:
    """Return the levels and programs of what is ready in a batch."""
    statement = (
        sa.select(calculations.c.level, calculations.c.program)
        .where(calculations.c.state == "ready", of_batch(batch))
        .distinct()
    )
    return sorted((row["level"], row["program"]) for row in store.select(statement))


def claim(store: Store, batch: str, groups: Iterable[tuple[str, str]], model: CostModel, number: int) -> list[Claim]:
    """Take at most so many calculations out of the queue, those expected to take longest first.

    Parameters
    ----------
    store, batch
        What to take from.
    groups
        From :func:`open_groups`.
    model
        What they are expected to take; where it does not know all levels, they are in the order of their costs.
    number
        How many.
    """
    columns = (calculations.c.key, calculations.c.level, calculations.c.program, calculations.c.cost)
    with store.writing() as connection:
        rows: list[sa.RowMapping] = []
        for level, program in sorted(groups):
            statement = (
                sa.select(*columns)
                .where(
                    calculations.c.state == "ready",
                    calculations.c.level == level,
                    calculations.c.program == program,
                    of_batch(batch),
                )
                .order_by(calculations.c.cost.desc(), calculations.c.key)
                .limit(number)
                .with_for_update(skip_locked=True)  # where several coordinators may write; SQLite has but one
            )
            rows += connection.execute(statement).mappings()
        seconds = {row["key"]: model.seconds(row["level"], row["program"], row["cost"]) for row in rows}
        known = None not in seconds.values()
        rows.sort(key=lambda row: (-(seconds[row["key"]] if known else row["cost"]), row["key"]))  # type: ignore[operator]
        keys = [row["key"] for row in rows[:number]]
        if not keys:
            return []
        taken = calculations.update().where(calculations.c.key.in_(keys), calculations.c.state == "ready")
        connection.execute(taken.values(state="running", claimed_by=store.lease_id))
        inputs = dict(
            connection.execute(
                sa.select(calculations.c.key, calculations.c.input).where(calculations.c.key.in_(keys))
            ).all()
        )
        failed: dict[str, dict[str, int]] = {}
        for key, error_class, count in connection.execute(
            sa.select(attempts.c.key, attempts.c.error_class, sa.func.count())
            .where(attempts.c.key.in_(keys), attempts.c.state == "failed")
            .group_by(attempts.c.key, attempts.c.error_class)
        ):
            failed.setdefault(key, {})[error_class or "unknown"] = count
    return [
        Claim(
            row["key"],
            inputs[row["key"]],
            row["level"],
            row["program"],
            row["cost"],
            seconds[row["key"]],
            failed.get(row["key"], {}),
        )
        for row in rows[:number]
    ]


def give_back(store: Store, keys: Collection[str] | None = None) -> None:
    """Put calculations that were claimed here, and not done, back into the queue; without keys, all of them."""
    mine = [calculations.c.state == "running", calculations.c.claimed_by == store.lease_id]
    if keys is not None:
        mine.append(store.among(calculations.c.key, keys))
    with store.writing() as connection:
        connection.execute(calculations.update().where(*mine).values(state="ready", claimed_by=None))
