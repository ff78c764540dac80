"""What is wasted: idle engines, the work around a calculation, and an order that leaves the longest to the end.

Jobs keep one core busy for a stated processor time, so the ideal is known. On two engines: a few of no length, by which
engines and workers are started, then equal jobs of 5 s and more, then sizes that differ 50-fold.

in_program_fraction
    Σ wall time in the program / (engines × time from the first start to the last end), of the equal jobs; the wall time
    of the start is added to theirs. Without it: ``in_program_fraction_warm``.
makespan_ratio
    time from the first start to the last end, over max(Σ wall time in the program / engines, the longest), of the rest.
overhead_ms
    processor time of everything (this process, the controller, engines, workers) outside the program, an equal job.
    What the start takes is paid once and given apart (``start``).
"""

import contextlib
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import sqlalchemy as sa
from _factory_work import burning

from sddfkit.factory import Batch, Calculation, Cluster, Store
from sddfkit.factory.cluster import marked
from sddfkit.factory.store import attempts

Row = dict[str, Any]
ENGINES = 2
LIMITS = {"timeout_s": 600.0, "memory_gib": 2.0}


def waste(folder: Path, n_equal: int, seconds: float, n_varied: int, longest: float, rng: np.random.Generator) -> Row:
    """Run both batches and say what was lost.

    Parameters
    ----------
    n_equal, seconds
        Jobs of `seconds` to 1.4 times that, s of processor time.
    n_varied, longest
        Jobs of `longest` / 50 to `longest`, s, as many in each factor of two.
    """
    folder.mkdir(parents=True)
    equal = burning(seconds * (1.0 + 0.4 * rng.random(n_equal)))
    sizes = longest * 50.0 ** -rng.random(n_varied)
    sizes[:2] = longest, longest / 50.0
    varied = burning(rng.permutation(sizes))
    first = burning(0.001 * (1.0 + np.arange(4 * ENGINES)))
    with Store(folder / "store.sqlite") as store, Cluster(folder / "clusters" / "waste", engines=ENGINES) as cluster:
        cluster.executor()
        start = _batch(store, cluster, "start", first)
        figures = {
            "equal": {"seconds_each": [seconds, round(1.4 * seconds, 2)], **_batch(store, cluster, "equal", equal)},
            "varied": {"seconds_each": [round(longest / 50, 3), longest], **_batch(store, cluster, "varied", varied)},
        }
    alike = figures["equal"]
    return {
        "in_program_fraction": round(alike["program_wall_s"] / (ENGINES * (alike["span_s"] + start["span_s"])), 4),
        "in_program_fraction_warm": alike["in_program_fraction"],
        "overhead_ms": alike["overhead_ms"],
        "makespan_ratio": figures["varied"]["makespan_ratio"],
        "start": {"wall_s": start["span_s"], "cpu_s": round(1e-3 * start["overhead_ms"] * len(first), 2)},
        **figures,
    }


def _batch(store: Store, cluster: Cluster, name: str, asked: Sequence[Calculation]) -> Row:
    batch = Batch(store, name, **LIMITS)
    batch.add(asked)
    before, begun = cpu_of_all(cluster), time.perf_counter()
    outcome = batch.run(cluster.executor)
    whole = time.perf_counter() - begun
    spent = cpu_of_all(cluster) - before
    if outcome.computed != len(asked):
        raise RuntimeError(
            f"{len(asked) - outcome.computed} of {len(asked)} jobs of the batch {name!r} were not computed"
        )
    keys = [item.key for item in asked]
    tries = store.select(sa.select(attempts).where(attempts.c.key.in_(keys), attempts.c.state == "done"))
    program = sum(store.result(key)["extras"]["program_cpu_s"] for key in keys)
    return {
        "jobs": len(asked),
        "wall_s": round(whole, 2),
        **_times(tries),
        "program_cpu_s": round(program, 2),
        "overhead_ms": round(1e3 * (spent - program) / len(asked), 1),
        "workers": len({row["pid"] for row in tries}),
    }


def _times(tries: Sequence[sa.RowMapping]) -> Row:
    starts = [datetime.fromisoformat(row["started"]).timestamp() for row in tries]
    ends = [datetime.fromisoformat(row["finished"]).timestamp() for row in tries]
    walls = [row["wall_s"] for row in tries]
    span = max(ends) - min(starts)
    return {
        "span_s": round(span, 2),
        "program_wall_s": round(sum(walls), 2),
        "in_program_fraction": round(sum(walls) / (ENGINES * span), 4),
        "makespan_ratio": round(span / max(sum(walls) / ENGINES, *walls), 4),
    }


def cpu_of_all(cluster: Cluster) -> float:
    """Processor time so far of this process and of the cluster's, with the children that have ended, s."""
    spent = time.process_time()
    for item in marked():
        if item.folder == cluster.folder:
            with contextlib.suppress(psutil.Error):
                times = item.process.cpu_times()
                spent += times.user + times.system + times.children_user + times.children_system
    return spent
