"""The same work by bare ipyparallel, dask.distributed, parsl and us, each in a process of its own, on two engines.

    python benchmarks/_factory_peers.py SYSTEM WORK

The others compute in their engines, get results back as Python objects and keep nothing: no limits, no record, nothing
on the disk. For them a trivial task is a plain function that returns a number, and beside it ("same trivial") the very
calculation that is trivial for us. They get the tasks in the order given and keep to it; we sort by cost. Everybody is
warmed up: programs are imported before the clock runs. All listen on the loopback interface alone.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import _factory_tasks as tasks
import numpy as np
from _factory_work import BENCHMARKS, Task, calculations, constants, environment, read_tasks, sized, waters, write_tasks

Row = dict[str, Any]
Mapper = Callable[[Callable[..., Any], Sequence[Any]], list[Any]]
ENGINES = 2
NEEDS = {"ours": "sddfkit", "ipyparallel": "ipyparallel", "dask": "distributed", "parsl": "parsl"}
LOOPBACK = "127.0.0.1"


def peers(folder: Path, n_mixed: int, trivial: Sequence[int], limit_s: float, rng: np.random.Generator) -> Row:
    """Run everybody who is there on the same work.

    Parameters
    ----------
    n_mixed
        GFN2-xTB calculations from methanol to imatinib.
    trivial
        Numbers of trivial tasks, in rising order.
    limit_s
        Time for one system and one number of tasks; a longer list is not tried after a shorter one took half of it.
    """
    folder.mkdir(parents=True)
    write_tasks(folder / "mixed.jsonl", sized(n_mixed, rng))
    write_tasks(folder / "same.jsonl", [Task("Constant", one) for one in waters(0, trivial[0])])
    work = {"mixed": "mixed.jsonl", "same": "same.jsonl", "trivial": list(trivial), "limit_s": limit_s}
    (folder / "work.json").write_text(json.dumps(work))
    found = {system: _one(folder, system, limit_s * (2 + len(trivial))) for system in NEEDS}
    energies = {name: row["mixed"].pop("energies") for name, row in found.items() if "mixed" in row}
    for name, values in energies.items():
        worst = float(np.abs(np.array(values) - np.array(energies.get("ours", values))).max())
        if worst > 1e-8:
            raise RuntimeError(f"{name} computed energies that differ from ours by up to {worst:.1e} hartree")
    return found


def _one(folder: Path, system: str, limit_s: float) -> Row:
    """Run one system in a process of its own, or say why not."""
    if find_spec(NEEDS[system]) is None:
        return {"why": f"the package {NEEDS[system]} is not installed"}
    command = [sys.executable, str(BENCHMARKS / "_factory_peers.py"), system, str(folder / "work.json")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            said, complained = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            return {"why": f"did not end within {limit_s:.0f} s"}
    if child.returncode:
        lines = complained.strip().splitlines() or [f"exit code {child.returncode}"]
        return {"why": f"failed: {lines[-1][:300]}"}
    return dict(json.loads(said.splitlines()[-1]))


def main() -> None:
    """Run one system and print what it took."""
    environment()
    system, file = sys.argv[1], Path(sys.argv[2])
    work = json.loads(file.read_text())
    work |= {name: read_tasks(file.parent / work[name]) for name in ("mixed", "same")}
    scratch = Path(tempfile.mkdtemp(prefix=f"{system}-", dir=file.parent))
    try:
        print(json.dumps(_ours(scratch, work) if system == "ours" else _theirs(SYSTEMS[system], scratch, work)))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _theirs(system: Callable[[Path], Any], scratch: Path, work: Row) -> Row:
    with system(scratch) as mapper:
        mixed, same = ([item.input for item in calculations(work[name])] for name in ("mixed", "same"))
        mapper(tasks.compute, [*same[:20], *mixed[:4]])
        answers, seconds = _timed(mapper, tasks.compute, mixed)
        energies = [answer["result"]["properties"]["return_energy"] for answer in answers]
        found = {"mixed": {**_efficiency([a["wall_s"] for a in answers], seconds), "energies": energies}}
        found["same trivial"] = _rate(len(same), _timed(mapper, tasks.compute, same)[1])
        found["trivial"] = []
        for n in work["trivial"]:
            answers, seconds = _timed(mapper, tasks.constant, range(n))
            if answers != [2 * i for i in range(n)]:
                raise RuntimeError("wrong answers")
            found["trivial"].append(_rate(n, seconds))
            if 10 * seconds > work["limit_s"]:
                break
    return found


def _ours(scratch: Path, work: Row) -> Row:
    import sqlalchemy as sa

    from sddfkit.factory import Batch, Calculation, Cluster, Store
    from sddfkit.factory.store import attempts

    with Store(scratch / "store.sqlite") as store, Cluster(scratch / "clusters" / "c", engines=ENGINES) as cluster:

        def run(name: str, asked: Sequence[Calculation]) -> float:
            begun = time.perf_counter()
            batch = Batch(store, name, timeout_s=600, memory_gib=2)
            batch.add(asked)
            outcome = batch.run(cluster.executor)
            if outcome.computed != len(asked):
                raise RuntimeError(f"{outcome.computed} of {len(asked)} computed")
            return time.perf_counter() - begun

        mixed = calculations(work["mixed"])
        run("warm", [*constants(10_000_000, 20), *calculations(_turned(work["mixed"][:4]))])
        seconds = run("mixed", mixed)
        keys = [item.key for item in mixed]
        walls = store.select(sa.select(attempts.c.wall_s).where(attempts.c.key.in_(keys), attempts.c.state == "done"))
        energies = [store.result(key)["properties"]["return_energy"] for key in keys]
        found: Row = {"mixed": {**_efficiency([r["wall_s"] for r in walls], seconds), "energies": energies}}
        found["same trivial"] = _rate(len(work["same"]), run("same", calculations(work["same"])))
        found["trivial"] = []
        for number, n in enumerate(work["trivial"], 1):
            seconds = run(f"trivial {n}", constants(1_000_000 * number, n))
            found["trivial"].append(_rate(n, seconds))
            if 10 * seconds > work["limit_s"]:
                break
    return found


def _turned(some: Sequence[Task]) -> list[Task]:
    """The same molecules in another frame, so that warming up does not know the answers beforehand."""
    return [Task(name, one._replace(positions=one.positions[:, [1, 2, 0]])) for name, one in some]


def _timed(mapper: Mapper, function: Callable[..., Any], items: Sequence[Any]) -> tuple[list[Any], float]:
    begun = time.perf_counter()
    answers = mapper(function, items)
    return answers, time.perf_counter() - begun


def _efficiency(walls: Sequence[float], seconds: float) -> Row:
    return {
        "tasks": len(walls),
        "seconds": round(seconds, 3),
        "program_wall_s": round(sum(walls), 3),
        "efficiency": round(max(sum(walls) / ENGINES, *walls) / seconds, 4),
        "overhead_ms": round(1e3 * (ENGINES * seconds - sum(walls)) / len(walls), 2),
    }


def _rate(n: int, seconds: float) -> Row:
    return {"tasks": n, "seconds": round(seconds, 2), "tasks_per_s": round(n / seconds, 1)}


@contextmanager
def _ipyparallel(scratch: Path) -> Iterator[Mapper]:
    import logging

    import ipyparallel as ipp

    os.environ["IPYTHONDIR"] = str(scratch / "ipython")
    with ipp.Cluster(n=ENGINES, profile_dir=str(scratch / "profile"), log_level=logging.CRITICAL) as client:
        client.wait_for_engines(ENGINES, interactive=False)
        view = client.load_balanced_view()

        def mapper(function: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
            return [answer.get() for answer in [view.apply_async(function, item) for item in items]]

        yield mapper


@contextmanager
def _dask(scratch: Path) -> Iterator[Mapper]:
    import dask
    from distributed import Client, LocalCluster

    dask.config.set({"temporary-directory": str(scratch)})
    with (
        LocalCluster(n_workers=ENGINES, threads_per_worker=1, host=LOOPBACK, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def mapper(function: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
            return list(client.gather(client.map(function, items, pure=False)))

        yield mapper


@contextmanager
def _parsl(scratch: Path) -> Iterator[Mapper]:
    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    here = str(Path(sys.executable).parent)  # it starts programs of its own by name
    os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])
    engines = HighThroughputExecutor(
        label="two",
        address=LOOPBACK,
        loopback_address=LOOPBACK,
        max_workers_per_node=ENGINES,
        cores_per_worker=1,
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
    )
    config = Config(
        executors=[engines],
        run_dir=str(scratch / "runinfo"),
        strategy="none",
        initialize_logging=False,
        usage_tracking=0,
    )
    with parsl.load(config):

        def mapper(function: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
            app = parsl.python_app(function)
            return [future.result() for future in [app(item) for item in items]]

        yield mapper


SYSTEMS = {"ipyparallel": _ipyparallel, "dask": _dask, "parsl": _parsl}

if __name__ == "__main__":
    main()
