"""Run folders: whose they are, how their job ended, and which of them a job goes on with.

A job keeps ``run.json`` (state, process, command) and ``config.yaml`` (all settings, resolved) in its folder, and locks
the folder while it lives. A job that was interrupted, failed or was killed is continued in its own folder by the next
one with the same settings; so it goes on in the same MLflow run, and finds what it had kept there.
"""

import datetime as dt
import fcntl
import json
import os
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from sddfkit.processes import started

RUN = "run.json"
SWEEP = "sweep.json"
CONFIG = "config.yaml"
LOCK = ".lock"
RUNNING = "running"
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
        To which the job may add what is worth knowing of it, and its ``state`` where it ends other than finished.

    Raises
    ------
    ValueError
        A job that finished, or that still runs, has this folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, kept) as mine:
        before = state_of(folder, kept)
        if not mine:
            raise ValueError(f"{folder} belongs to process {before.get('pid')}, which is running")
        if before.get("state") == FINISHED:
            raise ValueError(f"{folder} holds a finished run: name another folder")
        if config:
            write_whole(folder / CONFIG, config)
        row = {**identity, "state": RUNNING, "host": socket.gethostname(), "pid": os.getpid(), "started": _now()}
        row |= {"process_started": started(), "first_started": before.get("first_started", row["started"])}
        write_whole(folder / kept, json.dumps(row, indent=1))
        try:
            yield row
        except BaseException as error:
            row["state"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            row |= {"reason": f"{type(error).__name__}: {error}"[:2000], "ended": _now()}
            with suppress(OSError):  # a full disk must not hide what went wrong
                write_whole(folder / kept, json.dumps(row, indent=1))
            raise
        row |= {"state": FINISHED if row["state"] == RUNNING else row["state"], "ended": _now()}
        write_whole(folder / kept, json.dumps(row, indent=1))


def state_of(folder: Path, kept: str = RUN) -> dict[str, Any]:
    """Return what a job left in its folder, or nothing where there is none that can be read."""
    try:
        row = json.loads((folder / kept).read_text())
    except (OSError, ValueError):
        return {}
    return row if isinstance(row, dict) and "state" in row else {}


def held(folder: Path, kept: str = RUN) -> bool:
    """Say whether a living job has a folder."""
    with _locked(folder, kept) as free:
        return not free


def unfinished(runs: Path, kept: str, identity: Mapping[str, Any], config: str = "") -> Path | None:
    """Return the newest folder of a job with this identity and configuration that ended unfinished, if there is one."""
    for folder in sorted(runs.glob("*"), reverse=True):
        row = state_of(folder, kept)
        if not row or row["state"] == FINISHED or any(row.get(k) != v for k, v in identity.items()):
            continue
        if config and not ((folder / CONFIG).is_file() and (folder / CONFIG).read_text() == config):
            continue
        if not held(folder, kept):
            return folder
    return None


def fresh(folder: Path) -> Path:
    """Make a folder and return it, or one beside it with a number where it is taken: two jobs may start together."""
    number, free = 1, folder
    while True:
        try:
            free.mkdir(parents=True)
            return free
        except FileExistsError:
            if not free.is_dir():
                raise
            number += 1
            free = folder.with_name(f"{folder.name}-{number}")


def point_latest(root: Path, folder: Path) -> None:
    """Let ``runs/latest`` under the root point to a finished run."""
    link = root / "runs" / "latest"
    link.parent.mkdir(parents=True, exist_ok=True)
    partial = link.with_name(f".latest-{folder.name}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(folder, target_is_directory=True)
    partial.replace(link)


def what_is_safe(root: Path, store: str | Path) -> str:
    """Return in words what the next job will not have to do again; `store` is a file or a URL."""
    done = waiting = 0
    if "://" in str(store):
        from sddfkit.factory.store import Store, StoreError
        from sddfkit.factory.survey import stats

        with suppress(StoreError), Store(store, spool=root / "spool", read_only=True) as opened:
            found = stats(opened)
            done, waiting = found["states"].get("done", 0), found["spooled"]
    else:
        with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            (done,) = connection.execute("select count(*) from results").fetchone()
        waiting = len(list((Path(store).parent / "spool").glob("*.json")))
    trained = len(list((root / "members").glob("*/member.json")))
    begun = len(list((root / "members").glob("*/*.ckpt")))
    parts = [f"{done + waiting} finished calculations", f"{trained} trained networks"]
    parts += [f"{begun} half-trained ones"] if begun else []
    return f"safe in {root}: {', '.join(parts)}"


def write_whole(path: Path, text: str) -> None:
    """Write beside the target and rename, so that a killed job leaves the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


@contextmanager
def _locked(folder: Path, kept: str) -> Iterator[bool]:
    """Give whether the folder's lock is ours; the kernel takes it back from a process that dies, however it dies."""
    handle = os.open(folder / f"{LOCK}-{kept}", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
