"""A batch: what somebody asked for, run on an executor until nothing is left to do."""

import json
import logging
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from sddfkit.factory.jobs import Calculation
from sddfkit.factory.retry import OPEN_AGAIN, verdict
from sddfkit.factory.store import Store, attempts, calculations, now, requests, results
from sddfkit.qc import supervisor

logger = logging.getLogger(__name__)

# More than the engines can do at once, so that none waits for its next task; few, because the queue is the database.
TASKS_PER_ENGINE = 2
HEARTBEAT_S = 20.0


class BatchOutcome(NamedTuple):
    """What a run of a batch did: how many calculations were known before, computed now, failed, and the time spent."""

    known: int
    computed: int
    failed: int
    program_wall_s: float
    core_hours: float


class Batch:
    """The calculations asked for under one name.

    Parameters
    ----------
    store
        A store opened for writing.
    name
        Names the batch; asking again under the same name adds to it.
    timeout_s, memory_gib
        Limits of one calculation.
    """

    def __init__(self, store: Store, name: str, *, timeout_s: float = 600.0, memory_gib: float = 4.0) -> None:
        self.store = store
        self.name = name
        self.timeout_s = timeout_s
        self.memory_gib = memory_gib
        collect(store)

    def add(self, wanted: Sequence[Calculation]) -> int:
        """Ask for calculations and return how many of them are known already (finished or failed for good).

        Failures for reasons that lay outside the calculation are open again.
        """
        if not wanted:
            return 0
        keys = {item.key for item in wanted}
        with self.store.writing() as connection:
            connection.execute(insert(calculations).on_conflict_do_nothing(), [_row(item) for item in wanted])
            connection.execute(
                insert(requests).on_conflict_do_nothing(), [{"batch": self.name, "key": key} for key in sorted(keys)]
            )
            mine = sa.select(requests.c.key).where(requests.c.batch == self.name)
            connection.execute(
                calculations.update()
                .where(
                    calculations.c.key.in_(mine),
                    calculations.c.state == "failed",
                    calculations.c.error_class.in_(OPEN_AGAIN),
                )
                .values(state="ready")
            )
        return sum(row["state"] != "ready" for row in self.store.states(keys).values())

    def open_count(self) -> int:
        """Return how many calculations of this batch are still to be done."""
        return len(self._open_rows())

    def run(
        self,
        executor: Callable[[], tuple[Executor, int]],
        *,
        progress: Callable[[Iterator[None], int], Iterable[None]] | None = None,
    ) -> BatchOutcome:
        """Do what is open in this batch.

        Parameters
        ----------
        executor
            Called once there is something to do; returns an executor and its number of engines.
        progress
            Wraps an iterator that steps once per finished calculation, given the total: a progress bar.

        Notes
        -----
        A KeyboardInterrupt leaves the batch as it is: everything that had reached the spool is in the store the next
        time it is opened, and the rest is still open.
        """
        rows = self._open_rows()
        known = len(self._all_keys()) - len(rows)
        if not rows:
            return BatchOutcome(known, 0, 0, 0.0, 0.0)
        first_new = self._last_attempt()
        steps = self._steps(rows, executor)
        for _ in progress(steps, len(rows)) if progress else steps:
            pass
        return self._outcome(known, first_new, {row["key"] for row in rows})

    def _steps(self, rows: Sequence[sa.RowMapping], executor: Callable[[], tuple[Executor, int]]) -> Iterator[None]:
        """Submit and collect until the queue is empty, yielding once per calculation that needs no more attempts."""
        queue = deque((row["key"], row["input"]) for row in rows)
        inputs = dict(queue)
        running: dict[Future[Any], str] = {}
        engines, n_engines = executor()
        beat = time.monotonic()
        try:
            while queue or running:
                while queue and len(running) < TASKS_PER_ENGINE * n_engines:
                    key, document = queue.popleft()
                    running[self._submit(engines, key, document)] = key
                done, _ = wait(running, timeout=HEARTBEAT_S, return_when=FIRST_COMPLETED)
                if time.monotonic() - beat > HEARTBEAT_S:
                    self.store.heartbeat()
                    executor()  # raises where no engine is left, instead of waiting for ever
                    beat = time.monotonic()
                for future in done:
                    key = running.pop(future)
                    if ingest(self.store, *_outcome_of(future, key)) == "ready":
                        queue.append((key, inputs[key]))
                    else:
                        yield
        finally:
            for future in running:
                future.cancel()

    def _submit(self, executor: Executor, key: str, document: str) -> Future[Any]:
        job = {"key": key, "input": json.loads(document)}
        return executor.submit(
            supervisor.calculate,
            job,
            spool=str(self.store.spool),
            timeout_s=self.timeout_s,
            memory_gib=self.memory_gib,
        )

    def _open_rows(self) -> list[sa.RowMapping]:
        """Return the open calculations, longest first (by key among equals, so that the order is always the same)."""
        return self.store.select(
            sa.select(calculations.c.key, calculations.c.input)
            .join(requests, requests.c.key == calculations.c.key)
            .where(requests.c.batch == self.name, calculations.c.state == "ready")
            .order_by(calculations.c.cost.desc(), calculations.c.key)
        )

    def _all_keys(self) -> set[str]:
        rows = self.store.select(sa.select(requests.c.key).where(requests.c.batch == self.name))
        return {row["key"] for row in rows}

    def _last_attempt(self) -> int:
        return self.store.select(sa.select(sa.func.coalesce(sa.func.max(attempts.c.id), 0).label("id")))[0]["id"]

    def _outcome(self, known: int, first_new: int, keys: set[str]) -> BatchOutcome:
        tries = self.store.select(
            sa.select(attempts.c.wall_s, attempts.c.cpu_s).where(attempts.c.id > first_new, attempts.c.key.in_(keys))
        )
        states = [row["state"] for row in self.store.states(keys).values()]
        return BatchOutcome(
            known=known,
            computed=states.count("done"),
            failed=states.count("failed") + states.count("held"),
            program_wall_s=sum(row["wall_s"] or 0.0 for row in tries),
            core_hours=sum(row["cpu_s"] or 0.0 for row in tries) / 3600.0,
        )


def collect(store: Store) -> int:
    """Take over what engines left in the spool, and return how many results were new."""
    taken = 0
    spooled = sorted(store.spool.glob("*.json"))
    known = store.states(path.stem for path in spooled)
    for path in spooled:
        if path.stem not in known:
            continue  # of another store that shares the folder, or damaged: not ours to remove
        outcome = _read_spool(path)
        if outcome is not None:
            ingest(store, path.stem, outcome, path)
            taken += 1
    for partial in store.spool.glob("*.tmp"):
        partial.unlink(missing_ok=True)
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


def _row(item: Calculation) -> dict[str, Any]:
    return {
        **item._asdict(),
        "input": json.dumps(item.input, sort_keys=True),
        "state": "ready",
        "created": now(),
    }


def _outcome_of(future: Future[Any], key: str) -> tuple[str, dict[str, Any], Path | None]:
    """Return key, outcome and spool file of a finished task; a lost engine is an outcome too."""
    error = future.exception()
    if error is None:
        answer = future.result()
        path = Path(answer["path"])
        spooled = _read_spool(path)
        if spooled is not None:
            return key, spooled, path
        if answer["error_class"] is not None:  # it could not be written: a full disk, say
            return key, answer, None
        error = RuntimeError(f"the engine answered, but its result {path} cannot be read")
    lost = {
        "success": False,
        "error_class": "engine_lost",
        "error_message": f"{type(error).__name__}: {error}"[:2000],
        "started": now(),
        "finished": now(),
    }
    return key, lost, None


def _read_spool(path: Path) -> dict[str, Any] | None:
    """Return what an engine left, or None if it is not whole (an engine renames whole files only)."""
    try:
        outcome: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        logger.warning("the spool file %s cannot be read and is left alone", path)
        return None
    return outcome
