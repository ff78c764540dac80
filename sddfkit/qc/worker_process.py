"""The worker seen from outside: its process, its scratch folder and its log."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sddfkit.qc.child import ONE_THREAD, ChildLostError, JsonLineChild
from sddfkit.qc.scratch import Scratch

START_LIMIT_S: Final = 120.0
TAIL_CHARACTERS: Final = 4000


class WorkerProcess:
    """A child process with its scratch folder and log."""

    def __init__(self) -> None:
        self.scratch = Scratch()
        self.jobs = 0
        self._log = (self.scratch.path / "worker.log").open("ab+", buffering=0)
        package_root = str(Path(__file__).resolve().parents[2])
        search_path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        try:
            self.child = JsonLineChild(
                [sys.executable, "-m", "sddfkit.qc.worker"],
                directory=self.scratch.path,
                environment={**os.environ, **ONE_THREAD, **self.scratch.environment(), "PYTHONPATH": search_path},
                log=self._log,
                new_group=True,
            )
        except OSError:
            self._remove()
            raise

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
