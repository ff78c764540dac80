"""A batch: what somebody asked for, run on an executor until nothing is left to do."""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from sddfkit.factory.ingest import ReachesEngines, collect, hand_over, ingest
from sddfkit.factory.jobs import Calculation
from sddfkit.factory.retry import OPEN_AGAIN
from sddfkit.factory.store import Store, attempts, calculations, now, requests
from sddfkit.qc import supervisor
from sddfkit.qc.spool import read_outcome

logger = logging.getLogger(__name__)

# More than the engines can do at once, so that none waits for its next task; few, because the queue is the database.
TASKS_PER_ENGINE = 2
HEARTBEAT_S = 20.0
HAND_OVER_S = 60.0  # for an idle engine


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
        inputs = {row["key"]: row["input"] for row in rows}
        engines, n_engines = executor()
        if isinstance(engines, ReachesEngines):  # first what they have kept for us, so that it is not computed again
            hand_over(self.store, engines, self.timeout_s + HAND_OVER_S)
        queue = deque(row["key"] for row in self._open_rows() if row["key"] in inputs)
        for _ in range(len(inputs) - len(queue)):
            yield
        running: dict[Future[Any], str] = {}
        kept_elsewhere = False
        beat = time.monotonic()
        try:
            while queue or running:
                while queue and len(running) < TASKS_PER_ENGINE * n_engines:
                    key = queue.popleft()
                    running[self._submit(engines, key, inputs[key])] = key
                done, _ = wait(running, timeout=HEARTBEAT_S, return_when=FIRST_COMPLETED)
                lost = False
                for future in done:
                    key = running.pop(future)
                    outcome, path = _outcome_of(future)
                    lost |= outcome["error_class"] == "engine_lost"
                    kept_elsewhere |= path is None
                    if ingest(self.store, key, outcome, path) == "ready":
                        queue.append(key)
                    else:
                        yield
                if lost or time.monotonic() - beat > HEARTBEAT_S:
                    self.store.heartbeat()
                    engines, n_engines = executor()  # replaces lost engines; raises where none is left
                    beat = time.monotonic()
            if kept_elsewhere and isinstance(engines, ReachesEngines):
                hand_over(self.store, engines, HAND_OVER_S)
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
            owner=self.store.owner,
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


def _row(item: Calculation) -> dict[str, Any]:
    return {
        **item._asdict(),
        "input": json.dumps(item.input, sort_keys=True),
        "state": "ready",
        "created": now(),
    }


def _outcome_of(future: Future[Any]) -> tuple[dict[str, Any], Path | None]:
    """Return outcome and spool file (None: not in our spool) of a finished task; a lost engine is an outcome too."""
    error = future.exception()
    if error is None:
        answer = future.result()
        if "result" in answer:  # whole, because the engine keeps it in a spool of its own
            return answer, None
        path = Path(answer["path"])
        spooled = read_outcome(path)
        if spooled is not None:
            return spooled, path
        if answer["error_class"] is not None:  # it could not be written anywhere: full disks, say
            return answer, None
        error = RuntimeError(f"the engine answered, but its result {path} cannot be read")
    lost = {
        "success": False,
        "error_class": "engine_lost",
        "error_message": f"{type(error).__name__}: {error}"[:2000],
        "started": now(),
        "finished": now(),
    }
    return lost, None
