"""The factory: is anything lost or repeated when processes are killed, what is wasted, how it grows, and the others.

    python benchmarks/factory.py [--kill-rounds N] [--jobs N] [--queued N] [--quick] [--only kill,waste,scale,peers]
                                 [--seed N] [--out FOLDER]

1. kill: SIGKILL at random moments to engines, workers, controller and coordinator of a batch of GFN2-xTB and DFT.
2. waste: idle engines, the work around a calculation, the order of a batch whose sizes differ 50-fold.
3. scale: a long queue, many results, asking again for what is known, calculations that return a constant.
4. peers: the same work by bare ipyparallel, dask.distributed and parsl.

Two engines throughout. Writes ``report.md``, ``result.json`` and plots, and leaves the database of the kill rounds in
the folder; prints, as the last line, one JSON object. Exit 1 if something is lost, repeated, wrong or left running:
times never decide.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _factory_account import wrong
from _factory_kill import kill_rounds
from _factory_peers import peers
from _factory_report import markdown, plots
from _factory_scale import scale
from _factory_waste import waste
from _factory_work import environment

Row = dict[str, Any]
OUT = Path(__file__).parents[1] / "sddfkit-data" / "benchmarks" / "factory"
SECTIONS = ("kill", "waste", "scale", "peers")


@dataclass(frozen=True)
class Size:
    """How much of everything; times in s."""

    kill_rounds: int = 10
    jobs: int = 200
    equal_jobs: int = 40
    equal_s: float = 5.0
    varied_jobs: int = 80
    longest_s: float = 15.0
    queued: int = 100_000
    tasks: int = 2000
    mixed: int = 60
    trivial: tuple[int, ...] = (1_000, 10_000, 100_000)
    peer_limit_s: float = 900.0

    @property
    def finished(self) -> int:
        """Results in the store beside the queue."""
        return self.queued // 5


QUICK = Size(
    kill_rounds=3, jobs=20, equal_jobs=4, equal_s=0.5, varied_jobs=12, longest_s=1.0, queued=1_000, tasks=100, mixed=8,
    trivial=(50,), peer_limit_s=60.0,
)  # fmt: skip


def main() -> int:
    """Measure, write, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kill-rounds", metavar="N", type=int, help="SIGKILLs (default 10)")
    parser.add_argument("--jobs", metavar="N", type=int, help="calculations of the kill rounds, a tenth DFT (200)")
    parser.add_argument(
        "--queued", metavar="N", type=int, help="length of the queue (100000), a fifth more is finished"
    )
    parser.add_argument("--quick", action="store_true", help="little of everything: a minute or two")
    parser.add_argument("--only", metavar="SECTIONS", default=",".join(SECTIONS), help="some of kill,waste,scale,peers")
    parser.add_argument("--seed", metavar="N", type=int, default=5, help="all that is drawn depends on it")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=OUT, help="where store, tables and plots go")
    given = parser.parse_args()
    chosen = [name for name in SECTIONS if name in given.only.split(",")]
    if unknown := sorted(set(given.only.split(",")) - set(SECTIONS)):
        parser.error(f"there is no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    asked = {name: getattr(given, name) for name in ("kill_rounds", "jobs", "queued")}
    size = replace(QUICK if given.quick else Size(), **{name: n for name, n in asked.items() if n is not None})
    environment()
    out = given.out.absolute()
    print(f"seed {given.seed}; everything goes to {out}", flush=True)
    results = {"benchmark": "factory", "quick": given.quick, "seed": given.seed, "machine": machine()}
    results |= measure(size, chosen, out, given.seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(markdown(results))
    (out / "result.json").write_text(json.dumps(results, indent=1))
    plots(out, results)
    print(f"report and plots: {out}")
    print(json.dumps(results))
    return 0 if results["correct"] else 1


def measure(size: Size, chosen: list[str], out: Path, seed: int) -> Row:
    """The story: what must not happen first, then how long it takes."""
    work: dict[str, Callable[[Path], Row]] = {
        "kill": lambda folder: kill_rounds(folder, size.kill_rounds, size.jobs, seed),
        "waste": lambda folder: waste(
            folder, size.equal_jobs, size.equal_s, size.varied_jobs, size.longest_s, np.random.default_rng(seed)
        ),
        "scale": lambda folder: scale(folder, size.queued, size.finished, size.tasks),
        "peers": lambda folder: peers(
            folder, size.mixed, size.trivial, size.peer_limit_s, np.random.default_rng(seed)
        ),
    }  # fmt: skip
    found: Row = {}
    problems: list[str] = []
    for name in chosen:
        begun = time.monotonic()
        shutil.rmtree(out / name, ignore_errors=True)
        try:
            found[name] = work[name](out / name)
        except Exception as error:  # what was measured before is worth having
            traceback.print_exc()
            found[name] = {"why": f"{type(error).__name__}: {error}"}
            problems.append(f"{name}: {error}")
        if name != "kill":
            shutil.rmtree(out / name, ignore_errors=True)
        print(f"[{time.monotonic() - begun:5.0f} s] {name}", flush=True)
    problems += wrong(found["kill"]) if "lost" in found.get("kill", {}) else []
    for problem in problems:
        print("  ", problem)
    kill, wasted, grown = (found.get(name, {}) for name in ("kill", "waste", "scale"))
    figures = {
        "correct": not problems,
        "problems": problems,
        "store": str(out / "kill" / "store.sqlite") if "lost" in kill else None,
        "rounds": kill.get("rounds"),
        **{name: kill.get(name) for name in ("lost", "repeated", "twice", "hangs", "orphans", "verify")},
        **{name: wasted.get(name) for name in ("in_program_fraction", "overhead_ms", "makespan_ratio")},
        **{name: grown.get(name) for name in SCALE_FIGURES},
        **found,
    }
    return {**figures, "bars": bars(figures)}


SCALE_FIGURES = (
    "tasks_per_s", "ingest_per_s", "queue_growth", "coordinator_rss_mb", "dedupe_s", "dedupe_by_key_s",
)  # fmt: skip


def bars(figures: Row) -> list[Row]:
    """Each claim with its figure and whether it held; None where it was not measured."""
    growth = figures["queue_growth"] or {}
    claims = [
        ("kill rounds", figures["rounds"], "≥", 10),
        ("lost", figures["lost"], "≤", 0),
        ("repeated", figures["repeated"], "≤", 0),
        ("processes left behind", figures["orphans"], "≤", 0),
        ("in_program_fraction", figures["in_program_fraction"], "≥", 0.97),
        ("overhead_ms, a job", figures["overhead_ms"], "≤", 40),
        ("makespan_ratio", figures["makespan_ratio"], "≤", 1.05),
        ("submit, growth with the queue", growth.get("submit_ms"), "≤", 2),
        ("status, growth with the queue", growth.get("status_ms"), "≤", 2),
        ("next job, growth with the queue", growth.get("next_job_ms"), "≤", 2),
        ("coordinator, MB", figures["coordinator_rss_mb"], "≤", 300),
        ("tasks_per_s", figures["tasks_per_s"], "≥", 100),
        ("ingest_per_s", figures["ingest_per_s"], "≥", 1000),
        ("dedupe_s", figures["dedupe_s"], "≤", 5),
    ]
    return [
        {
            "bar": name,
            "value": value,
            "target": f"{relation} {target:g}",
            "holds": None if value is None else bool(value <= target if relation == "≤" else value >= target),
        }
        for name, value, relation, target in claims
    ]


def machine() -> Row:
    """What the figures were measured on."""
    versions: dict[str, str | None] = {}
    for name in ("sddfkit", "pyscf", "tblite", "ipyparallel", "distributed", "parsl"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": versions,
    }


if __name__ == "__main__":
    sys.exit(main())
