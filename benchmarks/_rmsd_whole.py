"""Whole processes: the command against the C tool, ``obrms`` and a Python that does nothing; time and memory."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _rmsd_molecules import Example, Float, conformers, sdf, whole_drug
from _rmsd_peers import FLASHRMSD_RECORDS, FlashRMSD, Run, plain_matrix, process
from _rmsd_races import Field, Row

COMMAND = Path(sys.executable).with_name("flashrmsd")
SCRIPT = [str(COMMAND)] if COMMAND.exists() else ["-m", "flashrmsd_cy"]
OURS = SCRIPT if COMMAND.exists() else [sys.executable, *SCRIPT]


def whole_processes(field: Field) -> list[Row]:
    """The command against the C tool, obrms and a Python that does nothing, on files with all hydrogens."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in field.size.file_drugs:
            example = whole_drug(name)
            x = conformers(example, max(field.size.files), "unrelated")
            for k in field.size.files:
                whole = _written(Path(folder, f"{name}-{k}.sdf"), example, x[:k])
                cut = {
                    key: [
                        _written(Path(folder, f"{name}-{k}-{key}-{i}.sdf"), example, x[part])
                        for i, part in enumerate(parts)
                    ]
                    for key, parts in _parts(k).items()
                }
                for align in (False, True):
                    arguments = [str(whole), "-x", *(["-m"] if align else [])]
                    tools: dict[str, Callable[[], Run | None]] = {
                        "ours": lambda a=arguments: process([*OURS, *a], 120),
                        "python -c pass": lambda: process([sys.executable, "-c", "pass"], 30),
                    }
                    if not field.obrms.absent:
                        tools["obrms"] = lambda w=whole, m=align: field.obrms.run([w], m, 10)
                    if not field.c.absent:
                        for key, paths in cut.items():
                            tools[f"flashrmsd_c, {key}"] = lambda p=paths, m=align: field.c.run(p, m, 60)
                    rows += _whole(tools, example, k, align, field.size.repeats + 2)
                    verbose = [("ours, its own figure", process([*OURS, *arguments, "-v"], 120))]
                    if not field.c.absent and k <= FLASHRMSD_RECORDS:
                        verbose.append(("flashrmsd_c, its own figure", field.c.run([whole], align, 60, verbose=True)))
                    for program, run in verbose:
                        said = FlashRMSD.timing.search(run.out) if run else None
                        row = {**rows[-1], "program": program, "seconds": None, "peak_rss_mb": None, "why": ""}
                        rows.append(row | ({"seconds": FlashRMSD.said(said)} if said else {"why": "printed none"}))
    return rows


def _written(path: Path, example: Example, x: Float) -> Path:
    path.write_text(sdf(example, x))
    return path


def _parts(k: int) -> dict[str, list[Float]]:
    """Files that the C tool can read: by hundreds (only pairs within each), and so that every pair is in one."""
    hundreds = [np.arange(i, min(k, i + FLASHRMSD_RECORDS)) for i in range(0, k, FLASHRMSD_RECORDS)]
    if k <= FLASHRMSD_RECORDS:
        return {"all pairs": hundreds}
    half = FLASHRMSD_RECORDS // 2
    blocks = [np.arange(i, min(k, i + half)) for i in range(0, k, half)]
    every = [np.concatenate((blocks[i], blocks[j])) for j in range(len(blocks)) for i in range(j)]
    return {"by hundreds": hundreds, "all pairs": every}


def _whole(
    tools: dict[str, Callable[[], Run | None]], example: Example, k: int, align: bool, repeats: int
) -> list[Row]:
    best: dict[str, Run | None] = {}
    for repeat in range(repeats):
        for name, tool in tools.items():
            known = best.get(name)
            if repeat and (known is None or known.seconds > 3):
                continue
            run = tool()
            if not repeat or (run and run.seconds < known.seconds):
                best[name] = run
    mine = plain_matrix(best["ours"].out, k) if best["ours"] else None
    assert mine is not None and best["ours"].code == 0, f"the command failed: {best['ours']}"
    return [
        {
            "section": "whole process",
            "molecule": example.name,
            "conformers": k,
            "mode": "minimised" if align else "fixed",
            "program": name,
            "seconds": run.seconds if run and not run.code else None,
            "peak_rss_mb": run.peak_rss_mb if run else None,
            "why": "timed out" if run is None else run.err.strip()[-200:] if run.code else "",
        }
        for name, run in best.items()
    ]


def command_imports_numpy() -> bool:
    """Whether a run of the command on a file loads NumPy."""
    example = whole_drug("aspirin")
    with tempfile.TemporaryDirectory() as folder:
        path = _written(Path(folder, "two.sdf"), example, conformers(example, 2, "similar"))
        run = process([sys.executable, "-X", "importtime", *SCRIPT, str(path), "-x", "-m"], 60)
    assert run and run.code == 0, "the command failed"
    return any(line.split("|")[-1].strip() == "numpy" for line in run.err.splitlines())
