"""Run folders: whose they are, how their job ended, and which of them a job goes on with.

A job keeps ``run.json`` (state, process, command) and ``config.yaml`` (all settings, resolved) in its folder. A job
that was interrupted, failed or was killed is continued in its own folder by the next one with the same settings; so it
goes on in the same MLflow run, and finds what it had kept there.
"""

import datetime as dt
import json
import os
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

RUN = "run.json"
SWEEP = "sweep.json"
CONFIG = "config.yaml"
FINISHED = "finished"


@contextmanager
def claimed(folder: Path, kept: str, identity: Mapping[str, Any], config: str = "") -> Iterator[dict[str, Any]]:
    """Hold a folder for one job: what it is stands in the file `kept` while the context lasts, and how it ended after.

    Parameters
    ----------
    folder
        Made if it is not there.
    kept
        :data:`RUN` or :data:`SWEEP`.
    identity
        What tells this job from others (verb, command), JSON-able.
    config
        The text of ``config.yaml``.

    Yields
    ------
    dict
        To which the job may add what is worth knowing of it; written at the end.

    Raises
    ------
    ValueError
        A job that finished, or that still runs, has this folder.
    """
    before = state_of(folder, kept)
    if before.get("state") == FINISHED:
        raise ValueError(f"{folder} holds a finished run: name another folder")
    if before and alive(before):
        raise ValueError(f"{folder} belongs to process {before['pid']} on {before['host']}, which is running")
    folder.mkdir(parents=True, exist_ok=True)
    if config:
        _write(folder / CONFIG, config)
    row = {**identity, "state": "running", "host": socket.gethostname(), "pid": os.getpid(), "started": _now()}
    row |= {"process_started": _started(os.getpid()), "first_started": before.get("first_started", row["started"])}
    _write(folder / kept, json.dumps(row, indent=1))
    try:
        yield row
    except BaseException as error:
        row |= {"state": "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"}
        row |= {"reason": f"{type(error).__name__}: {error}"[:2000], "ended": _now()}
        with suppress(OSError):  # a full disk must not hide what went wrong
            _write(folder / kept, json.dumps(row, indent=1))
        raise
    row |= {"state": FINISHED, "ended": _now()}
    _write(folder / kept, json.dumps(row, indent=1))


def state_of(folder: Path, kept: str = RUN) -> dict[str, Any]:
    """Return what a job left in its folder, or nothing where there is none."""
    try:
        row: dict[str, Any] = json.loads((folder / kept).read_text())
    except (OSError, ValueError):
        return {}
    return row


def unfinished(runs: Path, kept: str, identity: Mapping[str, Any], config: str = "") -> Path | None:
    """Return the newest folder of a job with this identity and configuration that ended unfinished, if there is one."""
    for folder in sorted(runs.glob("*"), reverse=True):
        row = state_of(folder, kept)
        if not row or row["state"] == FINISHED or alive(row) or any(row.get(k) != v for k, v in identity.items()):
            continue
        if not config or ((folder / CONFIG).is_file() and (folder / CONFIG).read_text() == config):
            return folder
    return None


def fresh(folder: Path) -> Path:
    """Return the folder, or one beside it with a number where it is taken: two jobs may start in one second."""
    number, free = 1, folder
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free


def what_is_safe(root: Path) -> str:
    """Return in words what the next job will not have to do again."""
    done = 0
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{root / 'store.sqlite'}?mode=ro", uri=True)) as store:
        (done,) = store.execute("select count(*) from results").fetchone()
    waiting = len(list((root / "spool").glob("*.json")))
    trained = len(list((root / "members").glob("*/member.json")))
    begun = len(list((root / "members").glob("*/*.ckpt")))
    parts = [f"{done + waiting} finished calculations", f"{trained} trained networks"]
    parts += [f"{begun} half-trained ones"] if begun else []
    return f"safe in {root}: {', '.join(parts)}"


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _started(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def alive(row: Mapping[str, Any]) -> bool:
    """Say whether the process of a job still runs; on another host that cannot be told, so it counts as running."""
    if row["state"] != "running":
        return False
    if row["host"] != socket.gethostname():
        return True
    if row["pid"] == os.getpid():
        return False
    started = _started(row["pid"])
    return started is not None and row["process_started"] is not None and abs(started - row["process_started"]) < 1.0


def _write(path: Path, text: str) -> None:
    """Write beside the target and rename, so that a killed job leaves the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_text(text)
    partial.replace(path)
