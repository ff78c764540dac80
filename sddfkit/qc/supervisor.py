"""One calculation at a time in a child process with limits, and its outcome in a spool: what an engine runs.

The child (`sddfkit.qc.worker`) is started once and reused, so a program's start-up is paid once. It has a process group
and a scratch folder of its own, and dies with this process; with it end all processes that it has started, in whatever
group they are. Whatever happens to it is an outcome of the calculation (`sddfkit.qc.attempt`), never an exception here.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sddfkit.qc.attempt import Attempt, JobError, Limits, NotStartedError, Outcome, Slot, failed
from sddfkit.qc.child import ChildLostError
from sddfkit.qc.errors import ErrorType
from sddfkit.qc.spool import (
    Owner,
    Running,
    folders_for,
    read_outcome,
    spool_path,
    still_wanted,
    sync_folder,
    write_outcome,
)

logger = logging.getLogger(__name__)

_slot = Slot()
os.register_at_fork(after_in_child=_slot.forget)


def calculate(
    job: dict[str, Any],
    *,
    spool: str,
    timeout_s: float,
    memory_gib: float,
    owner: Owner | None = None,
    max_jobs_per_worker: int | None = None,
) -> dict[str, Any]:
    """Run one calculation in the worker process of this process and spool its outcome.

    Parameters
    ----------
    job : dict
        ``{"key": str, "input": AtomicInput as JSON-able dict}``; ``rung`` (a step of the harness' ladder, 0: as asked)
        and limits of its own, ``timeout_s`` and ``memory_gib``, where it has them.
    spool : str
        The coordinator's folder for ``<key>.json``.
    timeout_s : float
        Wall time of the calculation; the start of a worker does not count.
    memory_gib : float
        Resident memory of the worker and all its descendants, sampled five times a second; Linux also tells the peak
        of each.
    owner : Owner, optional
        Whose spool that is. Where this process does not share it, or cannot write there, it keeps the outcome in a
        spool of its own (`sddfkit.qc.spool`) and the answer holds it whole. Without an owner, `spool` is made and used
        as it is.
    max_jobs_per_worker : int, optional
        Replace the worker after so many calculations; without it, as soon as the start of another costs less than a
        hundredth of what this one has worked, but not before the fiftieth.

    Returns
    -------
    dict
        key, success, host, pid (of the worker), engine ("host:pid" of this process), wall_s, cpu_s, peak_rss_mib,
        started, finished (ISO, UTC), timeout_s, memory_gib, recipe (the name of the rung, or None), error_class (None
        or a word of `sddfkit.qc.errors.ErrorType`), error_message, output_tail, path. The file holds the same without
        path, and ``result``; the answer has ``result`` if the file is not in `spool`. A job that is wrong, or kills its
        worker, is an outcome; nothing is raised for it. A result that lies in a spool already is not computed again.
    """
    (answer,) = calculate_many(
        [job],
        spool=spool,
        timeout_s=timeout_s,
        memory_gib=memory_gib,
        owner=owner,
        max_jobs_per_worker=max_jobs_per_worker,
    )
    return answer


def calculate_many(
    jobs: Sequence[dict[str, Any]],
    *,
    spool: str,
    timeout_s: float = 600.0,
    memory_gib: float = 4.0,
    owner: Owner | None = None,
    max_jobs_per_worker: int | None = None,
) -> list[dict[str, Any]]:
    """Run calculations one after the other, for very short ones that share a message.

    Parameters are those of `calculate`. Each outcome is written while the next calculation runs, and is in a spool
    before this returns, also if an interrupt ends it: a death in the middle loses no more than the last of the
    finished ones.

    Returns
    -------
    list of dict
        What `calculate` returns, in the order of the jobs; no more are begun once another coordinator has taken over
        the spool.
    """
    folders = folders_for(spool, owner)
    asked = _Asked(Path(spool), folders, owner, Limits(timeout_s, memory_gib), max_jobs_per_worker)
    with _marked(jobs, asked) as marker:
        return _Series(asked, marker).answers_to(jobs)


class _Asked(NamedTuple):
    """What holds for all jobs of a message."""

    spool: Path
    folders: list[Path]
    owner: Owner | None
    limits: Limits
    max_jobs: int | None


def _marked(jobs: Sequence[dict[str, Any]], asked: _Asked) -> contextlib.AbstractContextManager[Running | None]:
    """The marker of these jobs, where this process shares the coordinator's spool."""
    if asked.folders[0] != asked.spool:
        return contextlib.nullcontext()
    keys = [job["key"] for job in jobs if isinstance(job, dict) and isinstance(job.get("key"), str)]
    return Running(asked.spool, keys)


class _Series:
    """Answers one job after the other; while the worker computes one, the outcome of the one before is written."""

    def __init__(self, asked: _Asked, marker: Running | None) -> None:
        self._asked = asked
        self._meanwhile: Callable[[], object] = marker.refresh if marker is not None else lambda: None
        self._unwritten: dict[str, Any] | None = None
        self._written: set[Path] = set()
        self._answers: list[dict[str, Any]] = []

    def answers_to(self, jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            for job in jobs:
                if not still_wanted(self._asked.spool, self._asked.owner):
                    break
                if not self._found(job):
                    self._compute(job)
        finally:  # what was finished before an interrupt is kept
            self._write()
            self._sync()
        return self._answers

    def _found(self, job: dict[str, Any]) -> bool:
        """Answer a job whose result lies in a spool, and say whether it does."""
        again = isinstance(job, dict) and job.get("again")  # what lies there was refused
        for path in self._paths(_key(job)) if self._asked.owner is not None and not again else []:
            found = read_outcome(path)
            if found is not None and found.get("success"):
                self._write()
                self._answers.append(self._answer(found, path))
                return True
        return False

    def _compute(self, job: dict[str, Any]) -> None:
        """Run one calculation; its outcome is written later."""
        started = datetime.now(UTC).isoformat()
        limits = self._asked.limits
        with _slot.lock:
            try:
                limits = limits.of(job) if isinstance(job, dict) else limits
                attempt = Attempt.begin(_slot, job, limits, self._asked.max_jobs)
                self._write()
                outcome = attempt.outcome(self._meanwhile)
            except JobError as problem:
                outcome = _unstarted(job, "input", str(problem))
            except ChildLostError as problem:
                # No job has begun: this says more about the machine than about the calculation.
                outcome = _unstarted(job, "unknown", f"the worker process could not take the job: {problem}")
            except NotStartedError as problem:
                outcome = _unstarted(job, "disk", str(problem))
            except OSError as problem:
                _slot.kill()
                outcome = _unstarted(
                    job,
                    "disk",
                    f"the worker process could not be started: {problem}; look at the scratch folder's disk, or set "
                    "TMPDIR to another folder",
                )
            except BaseException:  # an interrupt: the worker is in the middle of a job that nobody waits for any more
                _slot.kill()
                raise
        self._write()
        self._unwritten = _document(job, outcome, limits, started)

    def _write(self) -> None:
        """Write the outcome that is not written yet, if there is one, and answer it."""
        if self._unwritten is not None:
            self._answers.append(self._spooled(self._unwritten))
            self._unwritten = None

    def _spooled(self, document: dict[str, Any]) -> dict[str, Any]:
        problems = []
        for path in self._paths(document["key"]):
            try:
                write_outcome(path, document)
            except OSError as problem:
                problems.append(f"{path}: {problem}")
            else:
                self._written.add(path.parent)
                return self._answer(document, path)
        return {
            **_without_result(document),
            "success": False,
            "error_class": "disk",
            "error_message": f"the result could not be written to {'; '.join(problems)}",
            "path": str(spool_path(self._asked.spool, document["key"])),
        }

    def _sync(self) -> None:
        for folder in self._written:
            try:
                sync_folder(folder)
            except OSError as problem:
                logger.warning("results in %s may not survive a loss of power: %s", folder, problem)

    def _paths(self, key: object) -> list[Path]:
        return [spool_path(folder, key) for folder in self._asked.folders]

    def _answer(self, document: dict[str, Any], path: Path) -> dict[str, Any]:
        """The outcome without its result where the coordinator can read the file, and whole where it cannot."""
        shared = path.parent == self._asked.spool
        return {**(_without_result(document) if shared else document), "path": str(path)}


def _key(job: object) -> object:
    return job.get("key") if isinstance(job, dict) else None


def _without_result(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "result"}


def _document(job: object, outcome: Outcome, limits: Limits, started: str) -> dict[str, Any]:
    """All that is to be known of an attempt."""
    error = outcome.result.get("error") or {}
    host = socket.gethostname()
    return {
        "key": _key(job),
        "success": bool(outcome.result.get("success")),
        "result": outcome.result,
        "host": host,
        "pid": outcome.pid,
        "engine": f"{host}:{os.getpid()}",
        "wall_s": outcome.wall_s,
        "cpu_s": outcome.cpu_s,
        "peak_rss_mib": outcome.peak_rss_mib,
        "started": started,
        "finished": datetime.now(UTC).isoformat(),
        "timeout_s": limits.timeout_s,
        "memory_gib": limits.memory_gib,
        "recipe": outcome.recipe,
        "error_class": error.get("error_type"),
        "error_message": error.get("error_message"),
        "output_tail": outcome.output_tail,
    }


def _unstarted(job: object, kind: ErrorType, message: str) -> Outcome:
    data = job.get("input") if isinstance(job, dict) else None
    result = failed(data if isinstance(data, dict) else None, kind, message)
    return Outcome(result, os.getpid(), 0.0, 0.0, 0.0, "", None)


def prepare() -> None:
    """Start this process's worker and wait for it, so that the first calculation need not; what fails is tried then."""
    with _slot.lock, contextlib.suppress(OSError, ChildLostError):
        _slot.healthy(None, math.inf).ready()


def close() -> None:
    """End this process's worker, if there is one; the next `calculate` starts another."""
    with _slot.lock:
        _slot.close()


atexit.register(close)
