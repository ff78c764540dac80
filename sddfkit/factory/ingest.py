"""From outcomes to rows: what engines answered, what lies in the spool, and what lies in spools of their own."""

import json
import logging
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from sddfkit.factory.cluster import ClusterError, EngineGoneError
from sddfkit.factory.retry import verdict
from sddfkit.factory.store import Store, attempts, calculations, now, results
from sddfkit.qc import spool

logger = logging.getLogger(__name__)

OUTCOMES_PER_MESSAGE = 50


@runtime_checkable
class ReachesEngines(Protocol):
    """An executor that can also call a function on each of its engines: a future for each, by a name of the engine."""

    def on_each(self, function: Callable[..., Any], /, *args: Any) -> dict[str, Future[Any]]: ...

    def on_one(self, engine: str, function: Callable[..., Any], /, *args: Any) -> Future[Any]: ...


def collect(store: Store) -> int:
    """Take over what engines left in the spool, and return how many results were new."""
    taken = 0
    spooled = sorted(store.spool.glob("*.json"))
    known = store.states(path.stem for path in spooled)
    for path in spooled:
        if path.stem not in known:
            continue  # of another store that shares the folder, or damaged: not ours to remove
        outcome = spool.read_outcome(path)
        if outcome is None:
            logger.warning("the spool file %s cannot be read and is left alone", path)
            continue
        ingest(store, path.stem, outcome, path)
        taken += 1
    spool.remove_stale(store.spool)
    return taken


def hand_over(store: Store, engines: ReachesEngines, limit_s: float) -> int:
    """Take over what engines keep in spools of their own, have it removed there, and return how many results were new.

    An engine that is busy answers when it has finished; one that does not answer within `limit_s` is passed over: what
    it keeps is handed over the next time.

    Raises
    ------
    ClusterError
        If an engine cannot run the package.
    """
    deadline = time.monotonic() + limit_s
    taken = 0
    for engine, future in engines.on_each(spool.kept, store.owner.store).items():
        try:
            found: dict[str, int] = _answer(engine, future, deadline, said_after_s=5.0)
            states = store.states(found)
            wanted = [key for key in found if key in states and states[key]["state"] != "done"]
            for start in range(0, len(wanted), OUTCOMES_PER_MESSAGE):
                keys = wanted[start : start + OUTCOMES_PER_MESSAGE]
                asked = engines.on_one(engine, spool.read_kept, store.owner.store, keys)
                for outcome in _answer(engine, asked, deadline):
                    ingest(store, outcome["key"], outcome, None)
                    taken += 1
            ours = {key: changed for key, changed in found.items() if key in states}
            if ours:
                _answer(engine, engines.on_one(engine, spool.drop_kept, store.owner.store, ours), deadline)
        except TimeoutError:
            logger.warning("engine %s is busy; what it keeps for this store is handed over the next time", engine)
    return taken


def ingest(store: Store, key: str, outcome: dict[str, Any], spooled: Path | None) -> str:
    """Write one attempt, and its result if it has one, then remove it from the spool.

    Returns
    -------
    state
        The state of the calculation afterwards. Taking the same attempt in twice changes nothing.
    """
    success = bool(outcome["success"])
    with store.writing() as connection:
        attempt = {name: outcome.get(name) for name in _ATTEMPT_FIELDS}
        connection.execute(
            insert(attempts).on_conflict_do_nothing(),
            [{**attempt, "key": key, "state": "done" if success else "failed"}],
        )
        if success:
            state = "done"
            document = outcome["result"]
            connection.execute(
                insert(results).on_conflict_do_nothing(),
                [
                    {
                        "key": key,
                        "energy_hartree": float(document["properties"]["return_energy"]),
                        "document": zlib.compress(json.dumps(document).encode()),
                        "ingested": now(),
                    }
                ],
            )
        else:
            failures = connection.scalar(
                sa.select(sa.func.count())
                .select_from(attempts)
                .where(attempts.c.key == key, attempts.c.error_class == outcome["error_class"])
            )
            state = verdict(outcome["error_class"], failures or 0)
            logger.warning("calculation %s: %s: %s", key[:12], outcome["error_class"], outcome["error_message"])
        connection.execute(
            calculations.update()
            .where(calculations.c.key == key, calculations.c.state != "done")
            .values(state=state, error_class=outcome.get("error_class"), error_message=outcome.get("error_message"))
        )
    if spooled is not None:
        spooled.unlink(missing_ok=True)
    return state


_ATTEMPT_FIELDS = (
    "host", "pid", "started", "finished", "wall_s", "cpu_s", "peak_rss_mib",
    "error_class", "error_message", "output_tail",
)  # fmt: skip


def _answer(engine: str, future: Future[Any], deadline: float, said_after_s: float | None = None) -> Any:
    """Wait for an engine's answer until the deadline; what it cannot do is said with its reason."""
    if said_after_s is not None and not _ready(future, min(said_after_s, deadline - time.monotonic())):
        logger.warning("engine %s is still busy with what it was given before: waiting for its results", engine)
    if not _ready(future, deadline - time.monotonic()):
        raise TimeoutError
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, EngineGoneError):
        raise TimeoutError from error
    raise ClusterError(
        f"engine {engine} cannot run sddfkit: {error}: install this version of sddfkit[label] for its Python"
    ) from error


def _ready(future: Future[Any], seconds: float) -> bool:
    return bool(wait([future], timeout=max(0.0, seconds)).done)
