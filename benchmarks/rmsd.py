"""Symmetry-corrected RMSD: correctness first, then time against RDKit, spyrmsd, Open Babel and the C tool FlashRMSD.

    python benchmarks/rmsd.py [--flashrmsd PATH] [--quick] [--out FOLDER]

1. Every value of the shared set (``../shared/data/rmsd``, where present) and brute force on small molecules.
2. Drugs with 100 conformers, all pairs; the programs must agree.
3. Time as symmetry grows: families of molecules, and |Aut| from 10³ to 10¹⁵ at equal size.
4. The shared set by symmetry class; whole processes and their memory; one and two threads.

Everybody runs on one thread, in one run, by turns; the least time of several repeats counts: processor time of the
search, and the clock on the wall for whole processes and threads. Programs that do not come back are ended and said to
have timed out; programs that are not there are null, with the reason. All get the graph alone (single bonds), the
coordinates in one order of atoms, heavy atoms unless said otherwise. Writes ``report.md``, CSV, ``result.json`` and
plots; prints, as the last line, one JSON object. Exit 1 if a value is wrong.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from _rmsd_races import FULL, QUICK, Field, Row, classes, drugs, equal_growth, growth, threads
from _rmsd_reference import TOLERANCE, brute_force_check, check, load, stored, summary
from _rmsd_report import markdown, plots, write_csv
from _rmsd_whole import command_imports_numpy, whole_processes

OUT = Path(__file__).parents[1] / "sddfkit-data" / "benchmarks" / "rmsd"


def main() -> int:
    """Measure, write, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few molecules and conformers: seconds instead of minutes")
    parser.add_argument("--flashrmsd", metavar="PATH", help="executable of the C tool FlashRMSD")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=OUT, help="where tables and plots go")
    given = parser.parse_args()
    field = Field(given.flashrmsd, QUICK if given.quick else FULL)
    try:
        results, tables = measure(field)
    finally:
        field.stop()
    results = {"benchmark": "rmsd", "quick": given.quick, "machine": machine(), **results}
    given.out.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        write_csv(given.out / f"{name}.csv", rows)
    (given.out / "report.md").write_text(markdown(results, tables["times"], tables["processes"]))
    (given.out / "result.json").write_text(json.dumps(results, indent=1))
    plots(given.out, tables["times"], tables["processes"])
    print(f"report and plots: {given.out}")
    print(json.dumps(results))
    return 0 if results["correct"] else 1


def measure(field: Field) -> tuple[Row, dict[str, list[Row]]]:
    """The story: what is right, then how long it takes."""
    results: Row = {"brute_force_worst_deviation": brute_force_check()}
    say(field, f"brute force: worst deviation {results['brute_force_worst_deviation']:.1e} Å")
    files = load(stored(field.size.stored_every))
    checked: list[Row] = []
    for file in files:
        start = time.monotonic()
        checked.append(check(file))
        if time.monotonic() - start > 5:
            say(field, f"{file.name}, {file.atoms} atoms: {time.monotonic() - start:.0f} s for all its pairs")
    results["correctness"] = summary(checked) if checked else {"why": "the shared set is not here"}
    problems = results["correctness"].get("problems", [])
    results["correct"] = results["brute_force_worst_deviation"] < TOLERANCE and not problems
    say(field, f"shared set: {len(checked)} files, {len(problems)} problems")
    for problem in problems:
        print("  ", problem)
    times = drugs(field)
    say(field, "drugs")
    others = whole_processes(field)
    results["command_imports_numpy"] = command_imports_numpy()
    say(field, "whole processes")
    others += threads(field)
    say(field, "threads")
    times += equal_growth(field)
    say(field, "|Aut| at equal size")
    times += growth(field)
    say(field, "families")
    times += classes(field, files)
    say(field, "classes")
    results |= {
        "peers": {peer.name: peer.absent or "present" for peer in field.peers},
        "growth": growth_figures(times),
        "drugs": drug_figures(times),
        "whole_process": [rounded(row) for row in others if row["section"] == "whole process"],
        "threads": thread_figures(others),
    }
    results["bars"] = bars(results)
    shared = [{**row, "problems": len(row["problems"])} for row in checked]
    return results, {"times": times, "processes": others, **({"shared_set": shared} if shared else {})}


def growth_figures(rows: list[Row]) -> Row:
    """C40H82, and for each family of equal size the longest time over the shortest, |Aut| from 10³ to 10¹⁵."""
    ours = [row for row in rows if row["program"] == "ours"]
    figures: Row = {"minimised_at_equal_size": {}}
    for mode in ("fixed", "minimised"):
        c40 = [r for r in ours if (r["family"], r["molecule"], r["mode"]) == ("alkane, all atoms", "C40H82", mode)]
        figures[f"C40H82_{mode}_ms"] = {row["kind"]: ms(row["us_per_pair"]) for row in c40}
    equal = [row for row in ours if row["section"] == "equal size" and row["mode"] == "minimised"]
    for family, kind in dict.fromkeys((row["family"], row["kind"]) for row in equal):
        mine = [row for row in equal if (row["family"], row["kind"]) == (family, kind)]
        mine.sort(key=lambda row: row["n_automorphisms"])
        said = [row["us_per_pair"] for row in mine]
        complete = None not in said
        pairs = [(row["n_automorphisms"], row["us_per_pair"]) for row in mine]
        figures["minimised_at_equal_size"][f"{family}; {kind}"] = {
            "n_atoms": mine[0]["n_atoms"],
            "n_automorphisms": [float(f"{row['n_automorphisms']:.3g}") for row in mine],
            "ms": [ms(value) for value in said],
            "max_over_min": round(max(said) / min(said), 2) if complete else None,
            "max_over_min_from_1e6": _spread([t for n, t in pairs if n >= 1e6]) if complete else None,
        }
    return figures


def _spread(times: list[float]) -> float | None:
    return round(max(times) / min(times), 2) if len(times) > 1 else None


def drug_figures(rows: list[Row]) -> Row:
    """Theirs over ours for each peer and mode, of the search alone and with our preparation counted."""
    here = [row for row in rows if row["section"] == "drugs"]
    times = {(row["program"], row["molecule"], row["mode"]): row for row in here}
    figures: Row = {"rows": [rounded({k: row[k] for k in DRUG_COLUMNS}) for row in here]}
    for peer in dict.fromkeys(row["program"] for row in here if row["program"] != "ours"):
        for mode in ("fixed", "minimised"):
            ratios = []
            for name in dict.fromkeys(row["molecule"] for row in here):
                theirs, mine = times[peer, name, mode]["us_per_pair"], times["ours", name, mode]
                if theirs and mine["us_per_pair"]:
                    ratios.append((theirs / mine["us_per_pair"], theirs / mine["us_per_pair_with_preparation"]))
            search, whole = zip(*ratios, strict=True) if ratios else ((), ())
            figures[f"{peer}_over_ours_{mode}"] = {
                "least": round(min(search), 2) if search else None,
                "geometric_mean": round(geometric_mean(search), 2) if search else None,
                "least_with_preparation": round(min(whole), 2) if whole else None,
                **({} if search else {"why": next(r["why"] for r in here if r["program"] == peer)}),
            }
    return figures


DRUG_COLUMNS = ("molecule", "mode", "program", "conformers", "us_per_pair", "us_per_pair_with_preparation", "why")


def thread_figures(rows: list[Row]) -> Row:
    """One thread's time over two threads', both modes."""
    figures: Row = {"cores": os.cpu_count()}
    for mode in ("fixed", "minimised"):
        one, two = (r for r in rows if r["section"] == "threads" and r["mode"] == mode)
        figures["conformers"] = one["conformers"]
        both = one["seconds"] and two["seconds"]
        figures[mode] = {
            "one_s": one["seconds"],
            "two_s": two["seconds"],
            "ratio": round(one["seconds"] / two["seconds"], 3) if both else None,
            **({} if both else {"why": one["why"] or two["why"]}),
        }
    return figures


def bars(results: Row) -> list[Row]:
    """Each claim with its figure and whether it held; None where it was not measured."""
    found: list[Row] = []

    def bar(name: str, value: float | None, relation: str, target: float) -> None:
        holds = None if value is None else value <= target if relation == "≤" else value >= target
        found.append({"bar": name, "value": value, "target": f"{relation} {target:g}", "holds": holds})

    correctness, growing, drug = results["correctness"], results["growth"], results["drugs"]
    for mode, limit in (("fixed", 1.0), ("minimised", 20.0)):
        part = correctness.get(mode, {})
        for atoms in ("heavy", "all"):
            bar(f"worst deviation, {mode}, {atoms} atoms, Å", part.get(f"worst_deviation_{atoms}"), "≤", TOLERANCE)
        bar(f"slowest pair, {mode}, ms", part.get("slowest_pair_ms"), "≤", 1000)
        bar(f"median pair of the most symmetric, {mode}, ms", part.get("top_median_pair_ms"), "≤", limit)
    bar("failures", None if "why" in correctness else len(correctness["problems"]), "≤", 0)
    c40 = growing["C40H82_fixed_ms"].values()
    bar("C40H82, all atoms, fixed, ms a pair", max(c40, default=None) if None not in c40 else None, "≤", 20)
    for family, figures in growing["minimised_at_equal_size"].items():
        bar(f"minimised, |Aut| 10³ to 10¹⁵, longest over shortest: {family}", figures["max_over_min"], "≤", 3)
    bar("FlashRMSD (C) -x over ours, least", drug["flashrmsd_c_over_ours_fixed"]["least"], "≥", 5)
    bar("FlashRMSD (C) -x -m over ours, least", drug["flashrmsd_c_over_ours_minimised"]["least"], "≥", 10)
    bar("RDKit GetAllConformerBestRMS over ours, least", drug["rdkit_over_ours_minimised"]["least"], "≥", 5)
    wall = {(r["molecule"], r["mode"], r["conformers"], r["program"]): r["seconds"] for r in results["whole_process"]}
    for (name, mode, k, program), seconds in wall.items():
        if program != "ours":
            continue
        theirs = wall.get((name, mode, k, "flashrmsd_c, all pairs"))
        if k <= 100:
            bar(
                f"{name}, {k}, {mode}: whole process, ms above FlashRMSD (C)",
                theirs and 1e3 * (seconds - theirs),
                "≤",
                30,
            )
        else:
            bar(
                f"{name}, {k}, {mode}: FlashRMSD (C), all pairs, over ours, whole process",
                theirs and theirs / seconds,
                "≥",
                1,
            )
            hundreds = wall.get((name, mode, k, "flashrmsd_c, by hundreds"))
            bar(
                f"{name}, {k}, {mode}: FlashRMSD (C), by hundreds, over ours, whole process",
                hundreds and hundreds / seconds,
                "≥",
                1,
            )
    bar("the command imports NumPy (0 = no)", int(results["command_imports_numpy"]), "≤", 0)
    for mode in ("fixed", "minimised"):
        bar(f"two threads over one, {mode}", results["threads"][mode]["ratio"], "≥", 1.8)
    return [rounded(row) for row in found]


def ms(us: float | None) -> float | None:
    """Milliseconds with four figures."""
    return None if us is None else float(f"{us / 1e3:.4g}")


def rounded(row: Row) -> Row:
    """Four figures are enough."""
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}


def say(field: Field, what: str) -> None:
    """Progress, with seconds since the start."""
    print(f"[{time.monotonic() - field.started:5.0f} s] {what}", flush=True)


def machine() -> Row:
    """What the figures were measured on."""
    versions: dict[str, Any] = {}
    for name in ("sddfkit", "numpy", "rdkit", "spyrmsd", "openbabel-wheel"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    return {"cores": os.cpu_count(), "load": load, "python": platform.python_version(), "versions": versions}


if __name__ == "__main__":
    sys.exit(main())
