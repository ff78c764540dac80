"""One calculation at a time in a child process with limits, and its outcome in a spool: what an engine runs.

The child (`sddfkit.qc.worker`) is started once and reused, so a program's start-up is paid once. It has a process group
and a scratch folder of its own, and dies with this process. Whatever happens to it is an outcome of the calculation,
never an exception here.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from sddfkit.qc.child import ChildLostError
from sddfkit.qc.errors import ErrorType, failure
from sddfkit.qc.spool import Owner, Running, folders_for, read_outcome, spool_path, sync_folder, write_outcome
from sddfkit.qc.usage import tree_usage
from sddfkit.qc.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

SAMPLE_S: Final = 0.2


class Outcome(NamedTuple):
    """result : AtomicResult or FailedOperation as dict; the rest is what the calculation used."""

    result: dict[str, Any]
    pid: int
    wall_s: float
    cpu_s: float
    peak_rss_mib: float
    output_tail: str
    recipe: str | None = None


class Limits(NamedTuple):
    """Limits of one calculation."""

    timeout_s: float
    memory_gib: float


class _JobError(ValueError):
    """A job that is none; the message says why."""


class _Slot:
    """The one worker of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.worker: WorkerProcess | None = None

    def healthy(self, max_jobs: int) -> WorkerProcess:
        """The worker at hand, or a new one if there is none, it died, or it has done enough."""
        if self.worker is not None and (not self.worker.child.alive() or self.worker.jobs >= max_jobs):
            self.close()
        if self.worker is None:
            self.worker = WorkerProcess()
        return self.worker

    def kill(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker = None

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def forget(self) -> None:
        """After a fork: the worker belongs to the parent."""
        self.lock = threading.RLock()
        self.worker = None


_slot = _Slot()
os.register_at_fork(after_in_child=_slot.forget)


def calculate(
    job: dict[str, Any],
    *,
    spool: str,
    timeout_s: float,
    memory_gib: float,
    owner: Owner | None = None,
    max_jobs_per_worker: int = 50,
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
        Resident memory of the worker and all its children, sampled five times a second.
    owner : Owner, optional
        Whose spool that is. Where this process does not share it, or cannot write there, it keeps the outcome in a
        spool of its own (`sddfkit.qc.spool`) and the answer holds it whole. Without an owner, `spool` is made and used
        as it is.
    max_jobs_per_worker : int
        Replace the worker after so many calculations.

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
    max_jobs_per_worker: int = 50,
) -> list[dict[str, Any]]:
    """Run calculations one after the other, for very short ones that share a message.

    Parameters are those of `calculate`. Each outcome is in a spool before the next calculation starts: an interrupt or
    a death in the middle loses none that was finished.

    Returns
    -------
    list of dict
        What `calculate` returns, in the order of the jobs.
    """
    folders = folders_for(spool, owner)
    asked = _Asked(Path(spool), folders, owner, Limits(timeout_s, memory_gib), max_jobs_per_worker)
    written: set[Path] = set()
    try:
        with _marked(jobs, asked) as marker:
            return [_calculate(job, asked, marker, written) for job in jobs]
    finally:
        for folder in written:
            try:
                sync_folder(folder)
            except OSError as problem:
                logger.warning("results in %s may not survive a loss of power: %s", folder, problem)


class _Asked(NamedTuple):
    """What holds for all jobs of a message."""

    spool: Path
    folders: list[Path]
    owner: Owner | None
    limits: Limits
    max_jobs: int


def _marked(jobs: Sequence[dict[str, Any]], asked: _Asked) -> contextlib.AbstractContextManager[Running | None]:
    """The marker of these jobs, where this process shares the coordinator's spool."""
    if asked.folders[0] != asked.spool:
        return contextlib.nullcontext()
    keys = [job["key"] for job in jobs if isinstance(job, dict) and isinstance(job.get("key"), str)]
    return Running(asked.spool, keys)


def _calculate(job: dict[str, Any], asked: _Asked, marker: Running | None, written: set[Path]) -> dict[str, Any]:
    """Answer one job: from a spool if its result is there, else by computing it and writing it down."""
    key = job.get("key") if isinstance(job, dict) else None
    paths = [spool_path(folder, key) for folder in asked.folders]
    for path in paths if asked.owner is not None else []:
        found = read_outcome(path)
        if found is not None and found.get("success"):
            return _answer(found, path, asked)
    document = _outcome_document(job, key, asked, marker)
    problems = []
    for path in paths:
        try:
            write_outcome(path, document)
        except OSError as problem:
            problems.append(f"{path}: {problem}")
        else:
            written.add(path.parent)
            return _answer(document, path, asked)
    summary = {name: value for name, value in document.items() if name != "result"}
    message = f"the result could not be written to {'; '.join(problems)}"
    return {
        **summary,
        "success": False,
        "error_class": "disk",
        "error_message": message,
        "path": str(spool_path(asked.spool, key)),
    }


def _answer(document: dict[str, Any], path: Path, asked: _Asked) -> dict[str, Any]:
    """The outcome without its result where the coordinator can read the file, and whole where it cannot."""
    shared = path.parent == asked.spool
    return {
        **{name: value for name, value in document.items() if name != "result" or not shared},
        "path": str(path),
    }


def _outcome_document(job: dict[str, Any], key: object, asked: _Asked, marker: Running | None) -> dict[str, Any]:
    """Run one calculation and return all that is to be known of it."""
    started = datetime.now(UTC).isoformat()
    limits = asked.limits
    with _slot.lock:
        try:
            limits = _limits(job, asked.limits)
            outcome = _run(job, limits, asked.max_jobs, marker)
        except _JobError as problem:
            outcome = _unstarted(job, "input", str(problem))
        except OSError as problem:
            _slot.kill()
            outcome = _unstarted(job, "disk", f"the worker process could not be started: {problem}")
        except BaseException:  # an interrupt: the worker is in the middle of a job that nobody waits for any more
            _slot.kill()
            raise
    error = outcome.result.get("error") or {}
    return {
        "key": key,
        "success": bool(outcome.result.get("success")),
        "result": outcome.result,
        "host": socket.gethostname(),
        "pid": outcome.pid,
        "engine": f"{socket.gethostname()}:{os.getpid()}",
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


def close() -> None:
    """End this process's worker, if there is one; the next `calculate` starts another."""
    with _slot.lock:
        _slot.close()


atexit.register(close)


def _run(job: dict[str, Any], limits: Limits, max_jobs: int, marker: Running | None) -> Outcome:
    begun = time.monotonic()
    for last_try in (False, True):  # an idle worker may have died, unnoticed, since its last job
        worker = _slot.healthy(max_jobs)
        try:
            worker.accept(job)
            break
        except ChildLostError as error:
            tail, pid = worker.log_tail(), worker.child.pid
            _slot.kill()
            if last_try:
                message = f"the worker process could not take the job: {error}"
                result = _failed(job["input"], "killed", message)
                return Outcome(result, pid, time.monotonic() - begun, 0.0, 0.0, tail)
    return _watch(worker, job, limits, marker)


def _watch(worker: WorkerProcess, job: dict[str, Any], limits: Limits, marker: Running | None) -> Outcome:
    """Wait for the answer, looking at the clock and at the memory."""
    begun = time.monotonic()
    at_start = usage = tree_usage(worker.child.pid)
    peak = at_start.rss_mib
    result: dict[str, Any] | None = None
    recipe: str | None = None
    lost: tuple[ErrorType, str] | None = None
    while result is None and lost is None:
        left = limits.timeout_s - (time.monotonic() - begun)
        try:
            answer = worker.child.receive(max(0.0, min(SAMPLE_S, left)))
        except ChildLostError as error:
            lost = ("killed", f"the worker process died during the calculation: {error}")
            break
        usage = tree_usage(worker.child.pid)
        peak = max(peak, usage.rss_mib)
        if marker is not None:
            marker.refresh()
        if answer is not None:
            recipe, result = answer.get("recipe", recipe), answer.get("result")
        elif peak > limits.memory_gib * 1024:
            lost = ("memory", f"the calculation used {peak:.0f} MiB, more than its limit of {limits.memory_gib:g} GiB")
        elif left <= 0:
            lost = ("time", f"the calculation did not finish within its limit of {limits.timeout_s:g} s")
    wall, cpu = time.monotonic() - begun, max(0.0, usage.cpu_s - at_start.cpu_s)
    tail, pid = worker.log_tail(), worker.child.pid
    if lost is not None:
        _slot.kill()
        result = _failed(job["input"], *lost)
    assert result is not None
    return Outcome(result, pid, wall, cpu, peak, tail, recipe)


def _limits(job: object, defaults: Limits) -> Limits:
    """The limits of a job: its own, or the defaults.

    Raises
    ------
    _JobError
        If it is no job.
    """
    if not isinstance(job, dict) or "input" not in job:
        raise _JobError("a job is a dict with the keys 'key' and 'input'")
    if not isinstance(job.get("key"), str) or spool_path("", job["key"]).stem != job["key"]:
        raise _JobError(f"the job's key {job.get('key')!r} cannot be a file name; use a content key")
    try:
        json.dumps(job)
    except (TypeError, ValueError) as error:
        raise _JobError(f"the job is not JSON: {error}; dump its AtomicInput with model_dump(mode='json')") from None
    own = {name: job.get(name) for name in Limits._fields}
    for name, value in own.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
            raise _JobError(f"the job's {name} is {value!r}, expected a positive number")
    return defaults._replace(**{name: float(value) for name, value in own.items() if value is not None})


def _unstarted(job: object, kind: ErrorType, message: str) -> Outcome:
    data = job.get("input") if isinstance(job, dict) else None
    result = _failed(data if isinstance(data, dict) else None, kind, message)
    return Outcome(result, os.getpid(), 0.0, 0.0, 0.0, "")


def _failed(data: dict[str, Any] | None, kind: ErrorType, message: str) -> dict[str, Any]:
    return dict(json.loads(failure(data, kind, message).model_dump_json()))
