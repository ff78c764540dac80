"""A sweep: jobs side by side below one parent run, a table of what came out, and the best ensemble."""

import csv
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from sddfkit.processes import lives
from sddfkit.runs import FINISHED, RUNNING, SWEEP, held, state_of

BEST: Final = "best"
SUMMARY: Final = "summary.csv"
SCORE: Final = "validation_energy_mae_kcal_mol"
"""The column by which the best job is chosen: the test fold only judges."""
_POLL_S: Final = 1.0
_GRACE_S: Final = 30.0


def summary(folder: Path, varied: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row per job of a sweep: its number, the overrides that were varied, how it ended, and its errors.

    Parameters
    ----------
    folder
        Of the sweep, with one folder per job, named by its number.
    varied
        Keys of the overrides that differ.
    """
    rows = []
    for job in sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)):
        kept = job / ".hydra" / "overrides.yaml"
        overrides = [str(text) for text in OmegaConf.load(kept)] if kept.is_file() else []
        given = dict(text.split("=", 1) for text in overrides if "=" in text)
        state = state_of(job)
        if state.get("state") == RUNNING and not held(job):
            state |= {"state": "interrupted", "reason": "its process was ended"}
        row: dict[str, Any] = {"job": int(job.name), **{key: given.get(key) for key in varied}}
        row |= {"state": state.get("state", "not started"), "reason": state.get("reason", "")}
        rows.append(row | _metrics(job) | {"mlflow_run_id": _mlflow_run_id(job)})
    return rows


def best_of(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the index of the finished job with the smallest energy error on the validation fold, if there is one."""
    judged = [i for i, row in enumerate(rows) if row["state"] == FINISHED and math.isfinite(row.get(SCORE, math.nan))]
    return min(judged, key=lambda index: rows[index][SCORE]) if judged else None


def keep(folder: Path, rows: Sequence[Mapping[str, Any]], best: int | None) -> list[Path]:
    """Write the table of a sweep and a copy of the best ensemble into its folder, and return the files of the table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / SUMMARY).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    if best is not None:
        partial = folder / f".{BEST}.{os.getpid()}.part"
        shutil.copytree(folder / str(rows[best]["job"]) / "ensemble", partial)
        (partial / "origin.json").write_text(json.dumps({"run": f"../{rows[best]['job']}"}))
        shutil.rmtree(folder / BEST, ignore_errors=True)
        partial.rename(folder / BEST)
    return [folder / SUMMARY]


def parent_run_id(folder: Path) -> str | None:
    """Return the MLflow run of the sweep that a job's folder belongs to, if it belongs to one."""
    return _mlflow_run_id(folder.parent) if (folder.parent / SWEEP).is_file() else None


def end_with_sweep(folder: Path) -> None:
    """Have this process interrupt itself when the process that holds the sweep is gone; for the launcher's workers."""
    owner = state_of(folder, SWEEP)
    if not owner or owner["pid"] == os.getpid():
        return

    def watch() -> None:
        while lives(owner["pid"], owner["process_started"]):
            time.sleep(_POLL_S)
        os.kill(os.getpid(), signal.SIGINT)  # an orderly end first: engines stop, the store is closed
        time.sleep(_GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _mlflow_run_id(folder: Path) -> str | None:
    path = folder / "mlflow-run.json"
    return str(json.loads(path.read_text())["run_id"]) if path.is_file() else None


def _metrics(job: Path) -> dict[str, Any]:
    """Return the errors that a finished job wrote, flat."""
    path = job / "metrics.json"
    if state_of(job).get("state") != FINISHED or not path.is_file():
        return {}
    found = json.loads(path.read_text())
    flat = {"n_labelled_train": found["n_labelled_train"]}
    for fold in ("validation", "test"):
        flat |= {f"{fold}_{name}": value for name, value in found[fold]["ensemble"].items()}
    return flat
