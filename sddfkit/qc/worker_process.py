"""The worker seen from outside: its process, its scratch folder and its log."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Final

import psutil

from sddfkit.qc.child import ONE_THREAD, ChildLostError, JsonLineChild
from sddfkit.qc.scratch import Scratch
from sddfkit.qc.usage import Meter, tree

START_LIMIT_S: Final = 120.0
TAIL_CHARACTERS: Final = 4000
LONGEST_LOG_MIB: Final = 16
JOBS_AT_LEAST: Final = 50
_WORK_PER_START: Final = 100.0


class WorkerProcess:
    """A child process with its scratch folder, log and meter.

    Attributes
    ----------
    jobs, worked_s : int, float
        What it has done so far.
    """

    def __init__(self) -> None:
        begun = time.monotonic()
        self.scratch = Scratch()
        self.jobs = 0
        self.worked_s = 0.0
        self._log = (self.scratch.path / "worker.log").open("ab+", buffering=0)
        package_root = str(Path(__file__).resolve().parents[2])
        search_path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        try:
            self.child = JsonLineChild(
                [sys.executable, "-m", "sddfkit.qc.worker"],
                directory=self.scratch.files,
                environment={**os.environ, **ONE_THREAD, **self.scratch.environment(), "PYTHONPATH": search_path},
                log=self._log,
                new_group=True,
            )
        except OSError:
            self._remove()
            raise
        self.meter = Meter(self.child.pid)
        self._begun: float | None = begun
        self.start_s = 0.0

    def worn(self, max_jobs: int | None, memory_gib: float) -> bool:
        """Whether another worker should take over.

        Parameters
        ----------
        max_jobs : int or None
            After so many jobs; None: after `JOBS_AT_LEAST`, as soon as a start costs less than a hundredth of the work
            that was done, or if half of the memory limit is taken by what jobs left behind.
        """
        if max_jobs is not None:
            return self.jobs >= max_jobs
        paid = self.worked_s >= _WORK_PER_START * self.start_s or self.meter.rss_mib > memory_gib * 1024 / 2
        return self.jobs >= JOBS_AT_LEAST and paid

    def ready(self) -> None:
        """Wait until the child has loaded what it needs.

        Raises
        ------
        ChildLostError
            If it is gone or takes too long.
        """
        if self._begun is not None:
            self._receive()
            self.start_s, self._begun = time.monotonic() - self._begun, None

    def accept(self, job: str) -> None:
        """Hand over the text of a job, wait until the child has taken it, and begin to measure.

        Raises
        ------
        ChildLostError
            If the child is gone or does not answer.
        """
        self.ready()
        self._log.truncate(0)
        self.jobs += 1
        self.child.send(job)
        self._receive()
        self.meter.begin()

    def _receive(self) -> None:
        if self.child.receive(START_LIMIT_S) is None:
            raise ChildLostError(f"it did not answer within {START_LIMIT_S:.0f} s")

    def log_tail(self) -> str:
        """The last of what the child and its programs printed during this job."""
        return self._tail().decode("utf-8", "replace")[-TAIL_CHARACTERS:]

    def trim_log(self) -> None:
        """Keep the tail alone of a log that has become long; what is printed in this very moment may be lost."""
        if os.fstat(self._log.fileno()).st_size > LONGEST_LOG_MIB * 2**20:
            tail = self._tail()
            self._log.truncate(0)
            self._log.write(tail)

    def _tail(self) -> bytes:
        size = os.fstat(self._log.fileno()).st_size
        if not size:
            return b""
        self._log.seek(max(0, size - 4 * TAIL_CHARACTERS))
        return self._log.read(4 * TAIL_CHARACTERS)

    def kill(self) -> None:
        """End the child with its whole group and all that descends from it, and remove its scratch folder."""
        family = self._family()
        self.child.kill()
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._remove()

    def close(self) -> None:
        """Ask the child to end; then as `kill`."""
        family = self._family()
        self.child.close()
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._remove()

    def _family(self) -> list[psutil.Process]:
        """The descendants, some of which may have left the group; psutil knows them from later users of their pids."""
        found = []
        for process in tree(self.child.pid)[1:]:
            with contextlib.suppress(psutil.Error):
                found.append(psutil.Process(process.pid))
        return found

    def _remove(self) -> None:
        self._log.close()
        self.scratch.remove()
