"""One calculation at a time in a child process with limits, and its outcome in the spool: what an engine runs.

The child (`sddfkit.qc.worker`) is started once and reused, so a program's start-up is paid once. It has a process group
and a scratch folder of its own, and dies with this process. Whatever happens to it is an outcome of the calculation,
never an exception here.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from sddfkit.qc.child import ONE_THREAD, ChildLostError, JsonLineChild
from sddfkit.qc.errors import ErrorType, failure
from sddfkit.qc.scratch import Scratch
from sddfkit.qc.spool import spool_path, write_json
from sddfkit.qc.usage import tree_usage

START_LIMIT_S: Final = 120.0
SAMPLE_S: Final = 0.2
TAIL_CHARACTERS: Final = 4000


class Outcome(NamedTuple):
    """result : AtomicResult or FailedOperation as dict; the rest is what the calculation used."""

    result: dict[str, Any]
    pid: int
    wall_s: float
    cpu_s: float
    peak_rss_mib: float
    output_tail: str


class Limits(NamedTuple):
    """Limits of one calculation."""

    timeout_s: float
    memory_gib: float


class Worker:
    """A child process with its scratch folder and log."""

    def __init__(self) -> None:
        self.scratch = Scratch()
        self.jobs = 0
        self._log = (self.scratch.path / "worker.log").open("ab+", buffering=0)
        package_root = str(Path(__file__).resolve().parents[2])
        search_path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        self.child = JsonLineChild(
            [sys.executable, "-m", "sddfkit.qc.worker"],
            directory=self.scratch.path,
            environment={**os.environ, **ONE_THREAD, **self.scratch.environment(), "PYTHONPATH": search_path},
            log=self._log,
            new_group=True,
        )

    def accept(self, job: Mapping[str, Any]) -> None:
        """Hand over a job and wait until the child has taken it.

        Raises
        ------
        ChildLostError
            If the child is gone or does not answer.
        """
        self._log.truncate(0)
        self.jobs += 1
        self.child.send(job)
        if self.child.receive(START_LIMIT_S) is None:
            raise ChildLostError(f"it did not start within {START_LIMIT_S:.0f} s")

    def log_tail(self) -> str:
        """The last of what the child and its programs printed during this job."""
        size = os.fstat(self._log.fileno()).st_size
        self._log.seek(max(0, size - 4 * TAIL_CHARACTERS))
        return self._log.read().decode("utf-8", "replace")[-TAIL_CHARACTERS:]

    def kill(self) -> None:
        """End the child with its whole group, and remove its scratch folder."""
        self.child.kill()
        self._remove()

    def close(self) -> None:
        """Ask the child to end; then as `kill`."""
        self.child.close()
        self._remove()

    def _remove(self) -> None:
        self._log.close()
        self.scratch.remove()


class _Slot:
    """The one worker of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.worker: Worker | None = None

    def healthy(self, max_jobs: int) -> Worker:
        """The worker at hand, or a new one if there is none, it died, or it has done enough."""
        if self.worker is not None and (not self.worker.child.alive() or self.worker.jobs >= max_jobs):
            self.close()
        if self.worker is None:
            self.worker = Worker()
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
    job: dict[str, Any], *, spool: str, timeout_s: float, memory_gib: float, max_jobs_per_worker: int = 50
) -> dict[str, Any]:
    """Run one calculation in the worker process of this process and spool its outcome.

    Parameters
    ----------
    job : dict
        ``{"key": str, "input": AtomicInput as JSON-able dict}``.
    spool : str
        Folder for ``<key>.json``; made if it is not there.
    timeout_s : float
        Wall time of the calculation; the start of a worker does not count.
    memory_gib : float
        Resident memory of the worker and all its children, sampled five times a second.
    max_jobs_per_worker : int
        Replace the worker after so many calculations.

    Returns
    -------
    dict
        key, success, host, pid (of the worker), wall_s, cpu_s, peak_rss_mib, started, finished (ISO, UTC), error_class
        (None or a word of `sddfkit.qc.errors.ErrorType`), error_message, output_tail, path. The file holds the same
        without path, and ``result``. A job that is wrong, or kills its worker, is an outcome; nothing is raised for it.
    """
    key = job.get("key") if isinstance(job, dict) else None
    path = spool_path(spool, key)
    started = datetime.now(UTC).isoformat()
    with _slot.lock:
        try:
            outcome = _run(job, Limits(timeout_s, memory_gib), max_jobs_per_worker)
        except BaseException:  # an interrupt: the worker is in the middle of a job that nobody waits for any more
            _slot.kill()
            raise
    error = outcome.result.get("error") or {}
    document = {
        "key": key,
        "success": bool(outcome.result.get("success")),
        "result": outcome.result,
        "host": socket.gethostname(),
        "pid": outcome.pid,
        "wall_s": outcome.wall_s,
        "cpu_s": outcome.cpu_s,
        "peak_rss_mib": outcome.peak_rss_mib,
        "started": started,
        "finished": datetime.now(UTC).isoformat(),
        "error_class": error.get("error_type"),
        "error_message": error.get("error_message"),
        "output_tail": outcome.output_tail,
    }
    summary = {name: value for name, value in document.items() if name != "result"}
    try:
        write_json(path, document)
    except OSError as problem:
        message = f"the result could not be written to {path}: {problem}"
        return {**summary, "success": False, "error_class": "disk", "error_message": message, "path": str(path)}
    return {**summary, "path": str(path)}


def close() -> None:
    """End this process's worker, if there is one; the next `calculate` starts another."""
    with _slot.lock:
        _slot.close()


atexit.register(close)


def _run(job: dict[str, Any], limits: Limits, max_jobs: int) -> Outcome:
    problem = _job_problem(job)
    if problem is not None:
        data = job.get("input") if isinstance(job, dict) else None
        return Outcome(
            _failed(data if isinstance(data, dict) else None, "input", problem), os.getpid(), 0.0, 0.0, 0.0, ""
        )
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
    return _watch(worker, job, limits)


def _watch(worker: Worker, job: dict[str, Any], limits: Limits) -> Outcome:
    """Wait for the answer, looking at the clock and at the memory."""
    begun = time.monotonic()
    at_start = usage = tree_usage(worker.child.pid)
    peak = at_start.rss_mib
    result: dict[str, Any] | None = None
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
        if answer is not None:
            result = answer["result"]
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
    return Outcome(result, pid, wall, cpu, peak, tail)


def _job_problem(job: object) -> str | None:
    if not isinstance(job, dict) or "input" not in job:
        return "a job is a dict with the keys 'key' and 'input'"
    if not isinstance(job.get("key"), str) or spool_path("", job["key"]).stem != job["key"]:
        return f"the job's key {job.get('key')!r} cannot be a file name; use a content key"
    try:
        json.dumps(job)
    except (TypeError, ValueError) as error:
        return f"the job is not JSON: {error}; dump its AtomicInput with model_dump(mode='json')"
    return None


def _failed(data: dict[str, Any] | None, kind: ErrorType, message: str) -> dict[str, Any]:
    return dict(json.loads(failure(data, kind, message).model_dump_json()))
