"""From outcomes to rows: what engines answered, what lies in the spool, and what lies in spools of their own."""

import json
import logging
import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
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
SAID_AFTER_S = 20.0
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
            removed += [removers.submit(_remove, item.path) for item in found if item.path is not None]
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
    asked_of = engines.on_each(spool.kept, store.owner.store)
    wait(asked_of.values(), timeout=min(SAID_AFTER_S, limit_s))
    silent = {engine for engine, future in asked_of.items() if not future.done()}
    # Who has a marker in our spool writes its results there, and need not be waited for.
    sharing = {(marker["host"], marker["pid"]) for marker in spool.running_elsewhere(store.spool).values()}
    if len(silent) <= len(sharing):
        asked_of = {engine: future for engine, future in asked_of.items() if engine not in silent}
    for engine, future in asked_of.items():
        try:
            found: dict[str, int] = _answer(engine, future, deadline, said=engine in silent)
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
        _remove(paths[0])
    elif paths:
        with ThreadPoolExecutor(min(REMOVERS, len(paths))) as removers:
            list(removers.map(_remove, paths))
    return states


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # it is in the store; a file that stays is taken in again, which changes nothing
        logger.warning("the spool file %s cannot be removed: %s", path, error.strerror)


def _write(store: Store, arrived: Sequence[Arrived]) -> dict[str, str]:
    """Write attempts and results, and return the states; once this returns, they are on the disk."""
    if not arrived:
        return {}
    known = _known(store, {item.key for item in arrived})
    # in the order of keys, lest two coordinators wait for each other's rows
    outcomes = [(item.key, _checked(item, known[item.key])) for item in sorted(arrived, key=lambda item: item.key)]
    with store.writing() as connection:
        rows = [
            {
                **{name: outcome.get(name) for name in _ATTEMPT_FIELDS},
                "key": key,
                "state": "done" if outcome["success"] else "failed",
            }
            for key, outcome in outcomes
        ]
        connection.execute(store.insert(attempts).on_conflict_do_nothing(), rows)
        good = [_result(key, outcome) for key, outcome in outcomes if outcome["success"]]
        if good:
            connection.execute(store.insert(results).on_conflict_do_nothing(), good)
        settled = [_settled(connection, key, outcome, known[key]["program"]) for key, outcome in outcomes]
        connection.execute(_SETTLE, settled)
        states = {row["of"]: row["to"] for row in settled}
        failed = [row["of"] for row in settled if row["to"] != "done"]
        if failed:  # of one that is done already another failure changes nothing
            statement = sa.select(calculations.c.key, calculations.c.state).where(calculations.c.key.in_(failed))
            states |= {row.key: row.state for row in connection.execute(statement)}
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


def _known(store: Store, keys: Collection[str]) -> dict[str, sa.RowMapping]:
    rows = store.select(
        sa.select(calculations.c.key, calculations.c.program, calculations.c.program_version).where(
            calculations.c.key.in_(keys)
        )
    )
    return {row["key"]: row for row in rows}


def _checked(item: Arrived, known: sa.RowMapping) -> dict[str, Any]:
    """Return the outcome, turned into a failure where its result cannot be right."""
    if not item.outcome["success"]:
        return item.outcome
    document = item.outcome.get("result") or {}
    wrong = wrong_document(document, item.key, known["program_version"]) or _other_version(
        document, known, item.outcome
    )
    if wrong is None:
        return item.outcome
    return {**item.outcome, "success": False, "error_class": "unknown", "error_message": f"refused: {wrong}"}


def _other_version(document: Mapping[str, Any], known: sa.RowMapping, outcome: Mapping[str, Any]) -> str | None:
    """Say that an engine has another version of the program than the one that is part of the key."""
    asked, used = known["program_version"], (document.get("provenance") or {}).get("version")
    if used is None or str(used).split(".")[:2] == asked.split(".")[:2]:
        return None
    return (
        f"it was computed by {known['program']} {used} on {outcome.get('host')}, and {asked} was asked for: install "
        "the same version there"
    )


def _result(key: str, outcome: dict[str, Any]) -> dict[str, Any]:
    document = outcome["result"]
    return {
        "key": key,
        "energy_hartree": float(document["properties"]["return_energy"]),
        "document": zlib.compress(json.dumps(document).encode(), level=3),
        "ingested": now(),
    }


def _settled(connection: sa.Connection, key: str, outcome: Mapping[str, Any], program: str) -> dict[str, Any]:
    """Return the next state of a calculation whose attempt is written, and why, as ``_SETTLE`` takes it."""
    if outcome["success"]:
        return {"of": key, "to": "done", "failed_as": None, "because": None}
    error_class, message = outcome["error_class"], outcome.get("error_message")
    same = sa.select(sa.func.count()).select_from(attempts)
    failures = connection.scalar(same.where(attempts.c.key == key, attempts.c.error_class == error_class))
    state = verdict(error_class, failures or 0, rungs_of(program))
    logger.warning("calculation %s: %s: %s", key[:12], error_class, message)
    return {"of": key, "to": state, "failed_as": error_class, "because": message}


def _answer(engine: str, future: Future[Any], deadline: float, *, said: bool = False) -> Any:
    """Wait for an engine's answer until the deadline; what it cannot do is said with its reason."""
    if said and not future.done():
        logger.warning("engine %s does not answer yet: it may be busy with what it was given before", engine)
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
