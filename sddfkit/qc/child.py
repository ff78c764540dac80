"""A child process that is spoken to in JSON lines: the parent's side."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from sddfkit.qc.harnesses.protocol import PARENT_PID

_READ_BYTES: Final = 1 << 16
_GRACE_S: Final = 2.0

ONE_THREAD: Final[dict[str, str]] = {
    # Spinning OpenMP threads on busy cores cost a factor of ten and more; programs are told their threads by call.
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
}
"""Environment of every process that computes."""


class ChildLostError(RuntimeError):
    """The child ended although an answer was expected; the message says how it ended."""


class JsonLineChild:
    """A process that reads one JSON message per line and answers in kind.

    Parameters
    ----------
    command : sequence of str
    directory : Path
        Its working directory.
    environment : mapping
        Complete environment; the parent's pid is added.
    log : binary file or None
        Where its stderr (and what it prints) goes; None inherits ours.
    new_group : bool
        Give it a session and process group of its own, so that `kill` reaches its children as well.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str],
        log: IO[bytes] | None = None,
        new_group: bool = False,
    ) -> None:
        self._new_group = new_group
        self._buffer = bytearray()
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=directory,
            env={**environment, PARENT_PID: str(os.getpid())},
            start_new_session=new_group,
            bufsize=0,
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.returncode is None and self._exit_status() is None

    def send(self, message: Mapping[str, Any] | str) -> None:
        """Write one message, or the text of one: JSON without line breaks.

        Raises
        ------
        ChildLostError
            If nobody reads any more.
        """
        assert self._process.stdin is not None
        text = message if isinstance(message, str) else json.dumps(message)
        data = memoryview((text + "\n").encode())
        try:
            while data:
                data = data[self._process.stdin.write(data) :]
        except BrokenPipeError:
            raise ChildLostError(self._how_it_ended()) from None

    def receive(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        """The next message, or None if none came within `timeout_s` (None: wait for ever).

        Raises
        ------
        ChildLostError
            If the process ended, or wrote something that is not a message.
        """
        assert self._process.stdout is not None
        stream = self._process.stdout.fileno()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([stream], [], [], left)[0]:
                return None
            chunk = os.read(stream, _READ_BYTES)
            if not chunk:
                raise ChildLostError(self._how_it_ended())
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError):
            self.kill()
            raise ChildLostError(f"it answered something that is not a message: {line[:200]!r}") from None

    def kill(self) -> None:
        """End the process (with `new_group`: all processes of its group) at once and wait for it."""
        if self._process.returncode is None:  # not waited for yet, so the pid is still ours to signal
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if self._new_group else os.kill)(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._close_streams()

    def close(self) -> None:
        """Let the process end by itself at the end of its input; kill it if it does not."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._await_exit()
        self.kill()

    def _close_streams(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _exit_status(self) -> os.waitid_result | None:
        """How the process ended, None if it has not; it stays a zombie, so that its group can still be signalled."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def _await_exit(self) -> os.waitid_result | None:
        deadline = time.monotonic() + _GRACE_S
        while (status := self._exit_status()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return status

    def _how_it_ended(self) -> str:
        """Words for the exit status; waits a moment for a process that has just closed its streams."""
        status = self._await_exit()
        if status is None:
            return "it closed its output without ending"
        if status.si_code == os.CLD_EXITED:
            return f"it ended with exit code {status.si_status}"
        return f"it was killed by signal {signal.Signals(status.si_status).name}"
