"""From outcomes to rows: what engines answered, what lies in the spool, and what lies in spools of their own."""

import json
import logging
import time
import zlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import sqlalchemy as sa

from sddfkit.factory.accept import wrong_document
from sddfkit.factory.cluster import ClusterError, EngineGoneError
from sddfkit.factory.retry import rungs_of, verdict
from sddfkit.factory.store import Store, attempts, calculations, now, results
from sddfkit.qc import spool

logger = logging.getLogger(__name__)

OUTCOMES_PER_MESSAGE = 50
OUTCOMES_PER_COMMIT = 200
REMOVERS = 8
"""Files are removed so many at a time: a file system that has its disk forget what is freed takes 3 ms for each."""


@runtime_checkable
class ReachesEngines(Protocol):
    """An executor that can also call a function on each of its engines: a future for each, by a name of the engine.

    ``here`` says that they run on this machine, as this user.
    """

    here: bool

    def on_each(self, function: Callable[..., Any], /, *args: Any) -> dict[str, Future[Any]]: ...

    def on_one(self, engine: str, function: Callable[..., Any], /, *args: Any) -> Future[Any]: ...


def collect(store: Store) -> int:
    """Take over what engines left in the spool, or in this user's own on this machine; return how many there were."""
    taken = 0
    folders = [store.spool, *spool.own_folders(store.owner.store)]
    spooled = [path for folder in folders for path in sorted(folder.glob("[!.]*.json"))]
    removed: list[Future[None]] = []
    with ThreadPoolExecutor(REMOVERS) as removers:
        for start in range(0, len(spooled), OUTCOMES_PER_COMMIT):
            found = _spooled(store, spooled[start : start + OUTCOMES_PER_COMMIT])
            _write(store, found)
            removed += [removers.submit(item.path.unlink, missing_ok=True) for item in found if item.path is not None]
            taken += len(found)
    for future in removed:
        future.result()
    spool.remove_stale(store.spool)
    return taken


def _spooled(store: Store, paths: Sequence[Path]) -> "list[Arrived]":
    """Read those files that are of this store."""
    known = store.states(path.stem for path in paths)
    found = []
    for path in paths:
        if path.stem not in known:
            continue  # of another store that shares the folder, or damaged: not ours to remove
        outcome = spool.read_outcome(path)
        if outcome is None:
            logger.warning("the spool file %s cannot be read and is left alone", path)
            continue
        found.append(Arrived(path.stem, outcome, path))
    return found


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
            found: dict[str, int] = _answer(engine, future, deadline, said_after_s=20.0)
            states = store.states(found)
            wanted = [key for key in found if key in states and states[key]["state"] != "done"]
            for start in range(0, len(wanted), OUTCOMES_PER_MESSAGE):
                keys = wanted[start : start + OUTCOMES_PER_MESSAGE]
                asked = engines.on_one(engine, spool.read_kept, store.owner.store, keys)
                arrived = [Arrived(outcome["key"], outcome, None) for outcome in _answer(engine, asked, deadline)]
                ingest(store, arrived)
                taken += len(arrived)
            ours = {key: changed for key, changed in found.items() if key in states}
            if ours:
                _answer(engine, engines.on_one(engine, spool.drop_kept, store.owner.store, ours), deadline)
        except TimeoutError:
            logger.warning("engine %s is busy; what it keeps for this store is handed over the next time", engine)
    return taken


class Arrived(NamedTuple):
    """What an engine found out about a calculation; the file in our spool that holds it (None: there is none)."""

    key: str
    outcome: dict[str, Any]
    path: Path | None


def ingest(store: Store, arrived: Sequence[Arrived]) -> dict[str, str]:
    """Write attempts, and the results they have, in one transaction; then remove them from the spool.

    A result is looked at first: one that cannot be right is a failure of class "unknown".

    Returns
    -------
    dict
        The state of each calculation afterwards, by key. Taking the same attempt in twice changes nothing.
    """
    states = _write(store, arrived)
    paths = [item.path for item in arrived if item.path is not None]
    if len(paths) == 1:
        paths[0].unlink(missing_ok=True)
    elif paths:
        with ThreadPoolExecutor(min(REMOVERS, len(paths))) as removers:
            list(removers.map(lambda path: path.unlink(missing_ok=True), paths))
    return states


def _write(store: Store, arrived: Sequence[Arrived]) -> dict[str, str]:
    """Write attempts and results, and return the states; once this returns, they are on the disk."""
    if not arrived:
        return {}
    states: dict[str, str] = {}
    arrived = sorted(
        arrived, key=lambda item: item.key
    )  # in one order, so that two coordinators never block each other
    known = _known(store, {item.key for item in arrived})
    good: list[tuple[str, dict[str, Any]]] = []
    bad: list[tuple[str, dict[str, Any]]] = []
    with store.writing() as connection:
        for item in arrived:
            outcome = _checked(item, known[item.key]["program_version"])
            (good if outcome["success"] else bad).append((item.key, outcome))
        rows = [
            {
                **{name: _text(outcome.get(name)) for name in _ATTEMPT_FIELDS},
                "key": key,
                "state": "done" if outcome["success"] else "failed",
            }
            for key, outcome in (*good, *bad)
        ]
        connection.execute(store.insert(attempts).on_conflict_do_nothing(), rows)
        if good:
            connection.execute(store.insert(results).on_conflict_do_nothing(), [_result(*item) for item in good])
            connection.execute(_SETTLE, [{"of": key, **_DONE} for key, _ in good])
            states |= dict.fromkeys((key for key, _ in good), "done")
        for key, outcome in bad:
            states[key] = _failed(connection, key, outcome, known[key]["program"])
    return states


_ATTEMPT_FIELDS = (
    "host", "pid", "engine", "recipe", "timeout_s", "memory_gib", "started", "finished", "wall_s", "cpu_s",
    "peak_rss_mib", "error_class", "error_message", "output_tail",
)  # fmt: skip
_SETTLE = (
    calculations.update()
    .where(calculations.c.key == sa.bindparam("of"), calculations.c.state != "done")
    .values(
        state=sa.bindparam("to"),
        claimed_by=None,
        error_class=sa.bindparam("failed_as"),
        error_message=sa.bindparam("because"),
    )
)
_DONE = {"to": "done", "failed_as": None, "because": None}


def _known(store: Store, keys: Collection[str]) -> dict[str, sa.RowMapping]:
    rows = store.select(
        sa.select(calculations.c.key, calculations.c.program, calculations.c.program_version).where(
            calculations.c.key.in_(keys)
        )
    )
    return {row["key"]: row for row in rows}


def _checked(item: Arrived, program_version: str) -> dict[str, Any]:
    """Return the outcome, turned into a failure where its result cannot be right."""
    if not item.outcome["success"]:
        return item.outcome
    wrong = wrong_document(item.outcome.get("result") or {}, item.key, program_version)
    if wrong is None:
        return item.outcome
    return {**item.outcome, "success": False, "error_class": "unknown", "error_message": f"refused: {wrong}"}


def _result(key: str, outcome: dict[str, Any]) -> dict[str, Any]:
    document = outcome["result"]
    return {
        "key": key,
        "energy_hartree": float(document["properties"]["return_energy"]),
        "document": zlib.compress(json.dumps(document).encode(), level=3),
        "ingested": now(),
    }


def _failed(connection: sa.Connection, key: str, outcome: dict[str, Any], program: str) -> str:
    """Write down how a calculation failed and return its next state."""
    error_class, message = outcome["error_class"], _text(outcome.get("error_message"))
    same = sa.select(sa.func.count()).select_from(attempts)
    failures = connection.scalar(same.where(attempts.c.key == key, attempts.c.error_class == error_class))
    state = verdict(error_class, failures or 0, rungs_of(program))
    connection.execute(_SETTLE, {"of": key, "to": state, "failed_as": error_class, "because": message})
    logger.warning("calculation %s: %s: %s", key[:12], error_class, message)
    settled = connection.scalar(sa.select(calculations.c.state).where(calculations.c.key == key))
    return str(settled)


def _text(value: Any) -> Any:
    """PostgreSQL's texts hold no NUL, and no halves of characters."""
    if not isinstance(value, str):
        return value
    return value.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode("utf-8")


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
