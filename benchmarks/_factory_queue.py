"""A coordinator with a long queue, in a process of its own so that its memory can be told.

    python benchmarks/_factory_queue.py ROOT QUEUED FINISHED TASKS

Adds to a batch of FINISHED calculations until QUEUED more have been asked for, adds some by the clock, then hands out
and takes in TASKS of them with an executor that answers at once. Prints one JSON object.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import sqlalchemy as sa
from _factory_work import environment, level, planned, waters

from sddfkit.factory import Batch, Store
from sddfkit.factory.store import requests
from sddfkit.qc.spool import spool_path, write_outcome

BATCH = "queue"
FILLED_AT_ONCE = 1000
ADDED = 200
REPEATS = 5
TEMPLATE = "template.json"


class AnswersAtOnce:
    """An executor whose engines take no time: outcomes are in the spool when `submit` returns, which took ``own_s``."""

    def __init__(self, root: Path) -> None:
        self.template = json.loads((root / TEMPLATE).read_text())
        self.moments: list[float] = []
        self.own_s = 0.0
        self.tasks = 0

    def __call__(self) -> tuple["AnswersAtOnce", int]:
        return self, 2

    def submit(self, function: Any, jobs: Any, /, *, spool: str, **limits: Any) -> Future[Any]:
        """Answer one job, or the jobs of one message in their order."""
        begun = time.perf_counter()
        several = isinstance(jobs, list)
        answers = [self._answer(job, spool) for job in (jobs if several else [jobs])]
        future: Future[Any] = Future()
        future.set_result(answers if several else answers[0])
        self.tasks += len(answers)
        self.moments.append(time.perf_counter())
        self.own_s += time.perf_counter() - begun
        return future

    def _answer(self, job: dict[str, Any], spool: str) -> dict[str, Any]:
        outcome = outcome_of(self.template, job["key"], job["input"])
        path = spool_path(spool, job["key"])
        write_outcome(path, outcome)
        return {**{name: value for name, value in outcome.items() if name != "result"}, "path": str(path)}


def outcome_of(template: dict[str, Any], key: str, document: dict[str, Any]) -> dict[str, Any]:
    """A real outcome's document with the input of another geometry: what an engine would leave for it."""
    result = {**template["result"], "input_data": document, "molecule": document["molecule"]}
    return {**template, "key": key, "result": result}


def main() -> None:
    """Fill, look, run, print."""
    environment()
    root, queued, finished, tasks = Path(sys.argv[1]), *map(int, sys.argv[2:])
    with Store(root / "store.sqlite") as store:
        batch = Batch(store, BATCH)
        for start in range(_asked(store), finished + queued, FILLED_AT_ONCE):
            some = waters(start, min(FILLED_AT_ONCE, finished + queued - start))
            batch.add(planned(some, level("gfn2")))
        submits = []
        for _ in range(REPEATS):
            some = planned(waters(_asked(store), ADDED), level("gfn2"))
            begun = time.perf_counter()
            batch.add(some)
            submits.append(1e3 * (time.perf_counter() - begun) / len(some))
        looks = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            there = batch.open_count()
            looks.append(1e3 * (time.perf_counter() - begun))
        looked = _progress_ms(store)
        engines = AnswersAtOnce(root)
        begun = time.perf_counter()
        batch.run(engines, progress=lambda steps, _: _some(steps, tasks))
    whole = engines.moments[-1] - engines.moments[0] - engines.own_s
    print(
        json.dumps(
            {
                "queued": there,
                "submit_ms": round(median(submits), 4),
                "count_ms": round(median(looks), 3),
                "status_ms": looked,
                "first_job_ms": round(1e3 * (engines.moments[0] - begun), 1),
                "next_job_ms": round(1e3 * whole / max(1, engines.tasks - 1), 3),
                "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            }
        )
    )


def _asked(store: Store) -> int:
    """How many calculations the batch has asked for so far, done ones as well."""
    statement = sa.select(sa.func.count().label("n")).select_from(requests).where(requests.c.batch == BATCH)
    return int(store.select(statement)[0]["n"])


def _some(steps: Iterator[None], number: int) -> Iterator[None]:
    yield from islice(steps, number)


def _progress_ms(store: Store) -> float | None:
    """Time of the live table's numbers."""
    from sddfkit.factory.progress import progress

    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        progress(store, BATCH)
        times.append(1e3 * (time.perf_counter() - begun))
    return round(median(times), 2)


if __name__ == "__main__":
    main()
