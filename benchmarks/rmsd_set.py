"""A benchmark set for symmetry-corrected RMSD, from the Chemical Component Dictionary: files and verified values.

    python benchmarks/rmsd_set.py FOLDER --sample 100                     two processes here
    python benchmarks/rmsd_set.py FOLDER --all --cluster slurm cluster.engines=64 cluster.time_limit=8:00:00
    python benchmarks/rmsd_set.py FOLDER --all --conformers 0             automorphisms alone, no files
    python benchmarks/rmsd_set.py --quick                                 a few molecules, seconds

Stopped or killed at any moment, the same command goes on where it was; --sample may grow, up to --all. FOLDER must lie
on a disk that the engines of a cluster see as well. What is in it: ``sddfkit.rmsd_set``; reading it back:
``sddfkit.rmsd_set.read_rmsd_set(FOLDER)``. It has the columns of the shared reference set: ``rmsd.py`` can read it too.
A hundred molecules take about a minute on two cores.
The last line is one JSON object: counts, failures by class, rates, and how symmetric the molecules are.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from flashrmsd_cy import rmsd
from sddfkit.rmsd_set import Dictionary, LocalProcesses, RmsdSetError, Settings, build_set, read_manifest, read_rmsd_set
from sddfkit.rmsd_set.series import hash_order
from sddfkit.workflows.console import progress, say

QUICK = ("ALA", "BNZ", "GOL", "HEM", "PO4", "TFA", "TRS", "VAL")


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="of the set; made, or gone on with")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sample", type=int, metavar="N", help="so many components, drawn by the seed")
    which.add_argument("--ids", help="components by id: ATP,HEM,GOL")
    which.add_argument("--all", action="store_true", help="every component with five heavy atoms or more")
    which.add_argument("--quick", action="store_true", help="eight components in a folder that is removed again")
    defaults = Settings()
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--conformers", type=int, default=defaults.conformers, help="in each file; 0: count only")
    parser.add_argument("--brute-force-limit", type=int, default=defaults.brute_force_limit, metavar="ORDER")
    parser.add_argument("--spyrmsd-limit", type=int, default=defaults.spyrmsd_limit, metavar="ORDER")
    parser.add_argument("--component-limit", type=float, default=defaults.component_limit_s, metavar="SECONDS")
    parser.add_argument("--retry", default="", metavar="CLASSES", help="build these again: time,died,engine_lost")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--processes", type=int, default=2, metavar="N", help="on this machine (default 2)")
    where.add_argument("--cluster", help="a name in conf/cluster: local, slurm, pbs, sge, lsf, htcondor, ssh, mpi, …")
    parser.add_argument("--chunk", type=int, default=4, help="components in one task")
    parser.add_argument("overrides", nargs="*", help="settings of the cluster: cluster.engines=64")
    asked = parser.parse_intermixed_args()
    if asked.quick == (asked.folder is not None):
        parser.error("name a folder, or ask for --quick")
    if not (asked.quick or asked.all or asked.sample or asked.ids):
        parser.error("say which components: --sample N, --ids A,B or --all")
    if asked.overrides and asked.cluster is None:
        parser.error(f"{asked.overrides[0]} is for a cluster: add --cluster local, slurm, …")
    return asked


def wanted(asked: argparse.Namespace, dictionary: Dictionary) -> list[str]:
    """Ids of the components that were asked for."""
    if asked.ids:
        return asked.ids.split(",")
    ids = dictionary.ids()
    if asked.sample:
        ids = sorted(ids, key=lambda name: hash_order(asked.seed, f"sample {name}"))[: asked.sample]
    return ids


def symmetry(folder: Path) -> dict[str, Any]:
    """How large the automorphism groups of a set are, and how the values were verified."""
    found: dict[str, Any] = {}
    components = read_manifest(folder)["components"]
    for kind in ("heavy", "all"):
        graphs = [row["graphs"][kind] for row in components if kind in row["graphs"]]
        orders = np.array([float(graph["n_automorphisms"]) for graph in graphs])
        if len(orders):
            found[kind] = {
                "graphs": len(orders),
                "median": float(np.median(orders)),
                "p99": float(np.percentile(orders, 99)),
                "largest": float(orders.max()),
                **{f"above_1e{power}": int((orders > 10.0**power).sum()) for power in (3, 5, 6, 9)},
                "verified": dict(Counter(graph["method_min"] for graph in graphs if graph["method_min"])),
                "spyrmsd": dict(Counter(graph["spyrmsd"].partition(":")[0] for graph in graphs if graph["spyrmsd"])),
            }
    found["methods"] = dict(Counter(method for row in components for method in row["how"]))
    return found


def build(folder: Path, asked: argparse.Namespace, ids: list[str], dictionary: Dictionary) -> dict[str, Any]:
    """Build, and say what came of it."""
    settings = Settings(
        seed=asked.seed,
        conformers=asked.conformers,
        brute_force_limit=asked.brute_force_limit,
        spyrmsd_limit=asked.spyrmsd_limit,
        component_limit_s=asked.component_limit,
    )
    with opened(folder, asked) as place:
        outcome = build_set(
            folder,
            dictionary,
            ids,
            settings,
            place.executor,
            chunk=asked.chunk,
            retry=[kind for kind in asked.retry.split(",") if kind],
            progress=progress("components"),
        )
    say(
        f"{folder}: {outcome.known} known before, {outcome.built} built in {outcome.wall_s:.1f} s, "
        f"{outcome.with_failures} of {outcome.wanted} with failures {outcome.classes or ''}"
    )
    rate = outcome.built / outcome.wall_s
    return {
        "benchmark": "rmsd_set",
        **outcome._asdict(),
        "per_minute": round(60 * rate, 1),
        # a sample is what they all are like; chosen ones are not
        "hours_for_all": round(len(dictionary.ids()) / rate / 3600, 2) if rate and asked.sample else None,
        "symmetry": symmetry(folder),
    }


def opened(folder: Path, asked: argparse.Namespace) -> Any:
    """The processes here, or the cluster; a context with an executor."""
    if asked.cluster is None:
        return LocalProcesses(asked.processes)
    from hydra.utils import instantiate

    from sddfkit.config import SettingsError, load

    try:
        cfg = load("label", [f"cluster={asked.cluster}", *asked.overrides])
        return instantiate(cfg.cluster)(folder.absolute() / "clusters" / "rmsd-set")
    except SettingsError as error:
        raise RmsdSetError(str(error)) from error


def quick(asked: argparse.Namespace, dictionary: Dictionary) -> dict[str, Any]:
    """A small set, built and read back; all that can be wrong with it is asserted."""
    asked.conformers = 4
    asked.chunk = 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        summary = build(folder, asked, list(QUICK), dictionary)
        assert summary["built"] == len(QUICK) and not summary["classes"], summary
        begun = time.perf_counter()
        pairs = 0
        for entry in read_rmsd_set(folder):
            for row in entry.references:
                for align, expected in ((False, row.sc_rmsd), (True, row.min_sc_rmsd)):
                    a, b = entry.positions[row.i], entry.positions[row.j]
                    value = rmsd(a, b, entry.molecule, align=align).value
                    assert expected is not None and abs(value - expected) < 1e-5, (entry.file, row, value)
                    pairs += 1
        summary |= {"values_checked": pairs, "check_s": round(time.perf_counter() - begun, 3)}
        again = build(folder, asked, list(QUICK), dictionary)
        assert again["built"] == 0 and again["known"] == len(QUICK), again
    return summary


def main() -> int:
    """Build a set; the exit code is 0 when every component has a row."""
    asked = arguments()
    try:
        dictionary = Dictionary()
        if asked.quick:
            summary = quick(asked, dictionary)
        else:
            ids = wanted(asked, dictionary)
            say(f"{len(ids)} of {len(dictionary)} components of {dictionary.version}")
            summary = build(asked.folder, asked, ids, dictionary)
    except RmsdSetError as error:
        print(f"rmsd_set: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
