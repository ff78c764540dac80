"""One attempt at a calculation: a job given to a worker process, watched against its limits until it ends somehow."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Self

from sddfkit.qc.child import ChildLostError
from sddfkit.qc.errors import ErrorType, failure
from sddfkit.qc.spool import spool_path
from sddfkit.qc.worker_process import WorkerProcess

SAMPLE_S: Final = 0.2


class JobError(ValueError):
    """A job that is none; the message says why."""


class NotStartedError(RuntimeError):
    """A calculation could not be started on this machine; the message says why and what to do."""


class Outcome(NamedTuple):
    """result : AtomicResult or FailedOperation as dict; the rest is what the calculation used."""

    result: dict[str, Any]
    pid: int
    wall_s: float
    cpu_s: float
    peak_rss_mib: float
    output_tail: str
    recipe: str | None


class Limits(NamedTuple):
    """Limits of one calculation: wall time, and resident memory of the worker with all its descendants."""

    timeout_s: float
    memory_gib: float

    def of(self, job: Mapping[str, Any]) -> Limits:
        """Those of a job: its own where it has them, else these.

        Raises
        ------
        JobError
            If they are no positive numbers.
        """
        own = {name: job[name] for name in self._fields if job.get(name) is not None}
        for name, value in own.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise JobError(f"the job's {name} is {value!r}, expected a positive number")
        return self._replace(**own)


def job_text(job: object) -> str:
    """A job as one line of JSON.

    Raises
    ------
    JobError
        If it is no job.
    """
    if not isinstance(job, dict) or "input" not in job:
        raise JobError("a job is a dict with the keys 'key' and 'input'")
    if not isinstance(job.get("key"), str) or spool_path("", job["key"]).stem != job["key"]:
        raise JobError(f"the job's key {job.get('key')!r} cannot be a file name; use a content key")
    try:
        return json.dumps(job)
    except (TypeError, ValueError) as error:
        raise JobError(f"the job is not JSON: {error}; dump its AtomicInput with model_dump(mode='json')") from None


class Slot:
    """The one worker of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.worker: WorkerProcess | None = None

    def healthy(self, max_jobs: int | None, memory_gib: float) -> WorkerProcess:
        """The worker at hand, or a new one if there is none, it died, or it is worn.

        Raises
        ------
        OSError
            If it cannot be started.
        """
        if self.worker is not None and (not self.worker.child.alive() or self.worker.worn(max_jobs, memory_gib)):
            self.close()
        if self.worker is None:
            self.worker = WorkerProcess()
        return self.worker

    def kill(self) -> None:
        """End the worker at once, with all that it has started."""
        if self.worker is not None:
            self.worker.kill()
            self.worker = None

    def close(self) -> None:
        """Let the worker end by itself."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def forget(self) -> None:
        """After a fork: the worker belongs to the parent."""
        self.lock = threading.RLock()
        self.worker = None


class Attempt:
    """A job that a worker has taken; `outcome` waits for its end.

    Parameters
    ----------
    slot : Slot
        Its worker is killed if the attempt ends otherwise than by an answer.
    worker : WorkerProcess
    job : mapping
    limits : Limits
    """

    def __init__(self, slot: Slot, worker: WorkerProcess, job: Mapping[str, Any], limits: Limits) -> None:
        self._slot, self._worker, self._job, self._limits = slot, worker, job, limits
        self._begun = time.monotonic()
        self._recipe: str | None = None

    @classmethod
    def begin(cls, slot: Slot, job: Mapping[str, Any], limits: Limits, max_jobs: int | None) -> Self:
        """Give a job to the worker of a slot.

        Raises
        ------
        JobError
            If it is no job.
        NotStartedError
            If there is no space for scratch files.
        OSError, ChildLostError
            If no worker could be started, or none took the job.
        """
        text = job_text(job)
        for last_try in (False, True):  # an idle worker may have died, unnoticed, since its last job
            worker = slot.healthy(max_jobs, limits.memory_gib)
            if (shortage := worker.scratch.shortage()) is not None:
                raise NotStartedError(shortage)
            try:
                worker.accept(text)
                break
            except ChildLostError as error:
                tail = worker.log_tail()
                slot.kill()
                if last_try:
                    raise ChildLostError(f"{error}\n{tail}".strip()) from error
        return cls(slot, worker, job, limits)

    def outcome(self, meanwhile: Callable[[], object]) -> Outcome:
        """Wait for the end, looking at the clock, the memory and the length of the log.

        Parameters
        ----------
        meanwhile : callable
            Called now and then.
        """
        worker = self._worker
        answer: dict[str, Any] = {}
        lost: tuple[ErrorType, str] | None = None
        while "result" not in answer and lost is None:
            left = self._limits.timeout_s - (time.monotonic() - self._begun)
            try:
                answer = worker.child.receive(max(0.0, min(SAMPLE_S, left))) or {}
            except ChildLostError as error:
                lost = self._blame("killed", f"the worker process died during the calculation: {error}")
                break
            self._recipe = answer.get("recipe", self._recipe)
            worker.meter.sample()
            if not answer:
                worker.trim_log()
                meanwhile()
                lost = self._beyond_limits(left)
        wall = float(answer.get("wall_s", time.monotonic() - self._begun))
        cpu = float(answer["cpu_s"]) if worker.meter.alone and "cpu_s" in answer else worker.meter.cpu_s
        tail, pid = worker.log_tail(), worker.child.pid
        if lost is not None:
            self._slot.kill()
            result = failed(self._job["input"], *lost)
        else:
            worker.worked_s += wall
            result = self._judged(answer["result"])
            worker.scratch.clear()
        return Outcome(result, pid, wall, cpu, worker.meter.peak_rss_mib, tail, self._recipe)

    def _beyond_limits(self, left_s: float) -> tuple[ErrorType, str] | None:
        peak, limit = self._worker.meter.peak_rss_mib, self._limits.memory_gib
        if peak > limit * 1024:
            return "memory", f"the calculation used {peak:.0f} MiB, more than its limit of {limit:g} GiB"
        if left_s <= 0:
            return "time", f"the calculation did not finish within its limit of {self._limits.timeout_s:g} s"
        return None

    def _judged(self, result: dict[str, Any]) -> dict[str, Any]:
        """What the worker answered; a failure that nothing explains may be explained by the disk."""
        error = result.get("error") or {}
        if error.get("error_type") not in ("killed", "unknown"):
            return result
        kind, message = self._blame(error["error_type"], error["error_message"])
        return result if kind == error["error_type"] else failed(self._job["input"], kind, message)

    def _blame(self, kind: ErrorType, message: str) -> tuple[ErrorType, str]:
        """A death for want of scratch space is the disk's."""
        try:
            shortage = self._worker.scratch.shortage()
        except OSError as error:
            shortage = f"the scratch folder is gone: {error}"
        return (kind, message) if shortage is None else ("disk", f"{message}; {shortage}")


def failed(data: dict[str, Any] | None, kind: ErrorType, message: str) -> dict[str, Any]:
    """A `FailedOperation` as dict."""
    return dict(json.loads(failure(data, kind, message).model_dump_json()))
