"""How the factory grows: a queue of 100,000, a spool of 20,000 results, asking again for what is known, and tasks/s.

All in one store: first the finished ones come from the spool, then the queue grows by steps, each measured in a process
of its own. Results are copies of a real one with another geometry, energy and all; inputs, keys and files are what they
would be.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from _factory_queue import BATCH, TEMPLATE, outcome_of
from _factory_waste import cpu_of_all
from _factory_work import BENCHMARKS, constants, level, planned, water, waters

from sddfkit.factory import Batch, Cluster, Store
from sddfkit.factory.ingest import collect
from sddfkit.factory.store import calculations, results
from sddfkit.factory.verify import wrong_result
from sddfkit.qc import supervisor
from sddfkit.qc.spool import spool_path

Row = dict[str, Any]
ENGINES = 2
CHECKED = 200
AT_ONCE = 1000


def scale(folder: Path, queued: int, finished: int, tasks: int) -> Row:
    """Measure everything that should not grow.

    Parameters
    ----------
    queued, finished
        Calculations in the queue at the end, and results in the store before it is filled.
    tasks
        Number of calculations that return a constant, for the rate from end to end.
    """
    folder.mkdir(parents=True)
    template = _template(folder)
    figures = _ingest(folder, template, finished)
    steps = [n for n in (queued // 100, queued // 10, queued) if n]
    rows = [_queue(folder, n, finished) for n in steps]
    figures["queue"] = rows
    figures["queue_growth"] = {
        name: round(max(row[name] for row in rows) / min(row[name] for row in rows), 2)
        for name in ("submit_ms", "status_ms", "count_ms", "first_job_ms", "next_job_ms")
    }
    figures["coordinator_rss_mb"] = max(row["peak_rss_mb"] for row in rows)
    figures |= _dedupe(folder, queued, finished)
    figures |= _rate(folder / "rate", tasks)
    return figures


def _template(folder: Path) -> Row:
    """The outcome of one real calculation, as an engine leaves it."""
    (item,) = planned([water(0)], level("gfn2"))
    spool = folder / "template"
    answer = supervisor.calculate({"key": item.key, "input": item.input}, spool=str(spool), timeout_s=60, memory_gib=2)
    supervisor.close()
    if not answer["success"]:
        raise RuntimeError(f"GFN2-xTB of water failed: {answer['error_message']}")
    text = spool_path(spool, item.key).read_text()
    (folder / TEMPLATE).write_text(text)
    return dict(json.loads(text))


def _ingest(folder: Path, template: Row, n: int) -> Row:
    """Results per second from files in the spool to rows on the disk."""
    with Store(folder / "store.sqlite") as store:
        batch = Batch(store, BATCH)
        for start in range(0, n, AT_ONCE):
            some = planned(waters(start, min(AT_ONCE, n - start)), level("gfn2"))
            batch.add(some)
            for item in some:
                path = spool_path(store.spool, item.key)
                path.write_text(json.dumps(outcome_of(template, item.key, item.input)))
        os.sync()
        begun, spent = time.perf_counter(), time.process_time()
        taken = collect(store)
        seconds, spent = time.perf_counter() - begun, time.process_time() - spent
        there = store.select(sa.select(sa.func.count().label("n")).select_from(results))[0]["n"]
        left = sum(1 for _ in store.spool.glob("*.json"))
        if (taken, there, left) != (n, n, 0):
            raise RuntimeError(f"{taken} of {n} results were taken in, {there} are there, {left} files are left")
        rows = store.select(
            sa.select(calculations.c.program_version, results)
            .join(results, results.c.key == calculations.c.key)
            .order_by(results.c.key)
            .limit(CHECKED)
        )
        if problems := list(filter(None, map(wrong_result, rows))):
            raise RuntimeError(f"what was taken in is wrong: {problems[0]}")
    return {"ingested": n, "ingest_per_s": round(n / seconds), "ingest_cpu_ms": round(1e3 * spent / n, 3)}


def _queue(folder: Path, queued: int, finished: int) -> Row:
    command = [sys.executable, str(BENCHMARKS / "_factory_queue.py"), str(folder), str(queued), str(finished), "300"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the coordinator with {queued} in its queue failed:\n{done.stderr[-2000:]}")
    return {"finished": finished, **json.loads(done.stdout.splitlines()[-1])}


def _dedupe(folder: Path, queued: int, finished: int) -> Row:
    """Ask again for everything that is queued, and then for what is finished: nothing new, nothing to compute."""

    def never() -> tuple[Any, int]:
        raise AssertionError("an executor was asked for although everything is known")

    with Store(folder / "store.sqlite") as store:
        before = _count(store)
        chosen = level("gfn2").choose()
        known = waters(finished, queued)
        again = Batch(store, BATCH)
        begun = time.perf_counter()
        again.submit(known, level("gfn2"), chosen)
        from_records = time.perf_counter() - begun
        spent = 0.0
        for start in range(0, queued, AT_ONCE):
            some = planned(known[start : start + AT_ONCE], level("gfn2"))
            begun = time.perf_counter()
            again.add(some)
            spent += time.perf_counter() - begun
        done = Batch(store, "what is done")
        for_good = done.submit(waters(0, finished), level("gfn2"), chosen).known
        outcome = done.run(never)
        if (_count(store), for_good, outcome.computed) != (before, finished, 0):
            raise RuntimeError(
                f"asking again made {_count(store) - before} new calculations, {outcome.computed} computed"
            )
    return {"dedupe_s": round(from_records, 2), "dedupe_by_key_s": round(spent, 2), "deduped": queued}


def _count(store: Store) -> int:
    return int(store.select(sa.select(sa.func.count().label("n")).select_from(calculations))[0]["n"])


def _rate(folder: Path, tasks: int) -> Row:
    """Calculations that return a constant per second, from the first submission to the last row, engines warm."""
    with Store(folder / "store.sqlite") as store, Cluster(folder / "clusters" / "rate", engines=ENGINES) as cluster:
        warm = Batch(store, "warm")
        warm.add(constants(0, 40))
        warm.run(cluster.executor)
        batch = Batch(store, "rate")
        batch.add(constants(40, tasks))
        before, begun = cpu_of_all(cluster), time.perf_counter()
        outcome = batch.run(cluster.executor)
        seconds, spent = time.perf_counter() - begun, cpu_of_all(cluster) - before
        if outcome.computed != tasks:
            raise RuntimeError(f"{outcome.computed} of {tasks} constants were computed")
    return {
        "tasks": tasks,
        "tasks_per_s": round(tasks / seconds, 1),
        "cpu_ms_per_task": round(1e3 * spent / tasks, 2),
    }
