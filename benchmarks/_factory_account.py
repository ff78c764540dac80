"""The account of the kill rounds: what was asked for against what is in the store, and when each attempt began."""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from sddfkit.factory import Store
from sddfkit.factory.store import attempts, requests, results
from sddfkit.factory.verify import verify

Row = dict[str, Any]


def account(store: Store, batch: str, asked: Collection[str], seen: Mapping[str, float]) -> Row:
    """Compare what was asked for with what is there.

    Parameters
    ----------
    store
        Opened in any way.
    batch
        Name of the batch.
    asked
        Keys that were asked for.
    seen
        When the result of a key was first seen on the disk, s since 1970; the store knows when it took a result in, and
        the earlier of both counts.

    Returns
    -------
    dict
        accepted, lost, repeated (with their keys), twice, attempts, failed_attempts by class, verify and its problems;
        ``first`` holds the moment of each result.
    """
    requested = {row["key"] for row in store.select(sa.select(requests.c.key).where(requests.c.batch == batch))}
    there = {row["key"]: row["ingested"] for row in store.select(sa.select(results.c.key, results.c.ingested))}
    columns = (attempts.c.key, attempts.c.state, attempts.c.started, attempts.c.error_class, attempts.c.pid)
    tries = store.select(sa.select(*columns))
    verdict = verify(store)
    first = {key: min(seen.get(key, float("inf")), seconds(at)) for key, at in there.items()}
    # What has no process was never begun: an engine was lost with it.
    begun = [row for row in tries if row["pid"] is not None and row["key"] in first]
    repeated = sorted({row["key"] for row in begun if seconds(row["started"]) > first[row["key"]]})
    return {
        "accepted": len(there),
        "lost": len(set(asked) - (there.keys() & requested)),
        "repeated": len(repeated),
        "repeated_keys": repeated,
        "twice": verdict.repeated,
        "attempts": len(tries),
        "failed_attempts": dict(Counter(row["error_class"] for row in tries if row["state"] == "failed")),
        "verify": "not clean" if verdict.problems else "clean",
        "problems": [f"{key[:12]} {what}" for key, what in verdict.problems],
        "first": first,
    }


def wrong(figures: Row) -> list[str]:
    """What must not be, in words."""
    bad = [
        f"{figures[name]} {what}"
        for name, what in (
            ("lost", "calculations without a result"),
            ("repeated", "calculations done again although their result was on the disk"),
            ("orphans", "processes left behind"),
            ("hangs", "times nothing went on until somebody ended the coordinator"),
            ("left_in_spool", "files left in the spool"),
        )
        if figures[name]
    ]
    if figures["rounds"] < figures["rounds_asked"]:
        bad.append(f"only {figures['rounds']} of {figures['rounds_asked']} rounds took place")
    return bad + [f"verify: {problem}" for problem in figures["problems"]]


def seconds(iso: str) -> float:
    """Seconds since 1970 of a time as the store writes it."""
    return datetime.fromisoformat(iso).timestamp()
