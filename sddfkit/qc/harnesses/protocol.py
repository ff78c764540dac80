"""JSON lines over the standard streams of a child process: the child's side.

Needs the standard library alone, because the Psi4 worker loads it under whichever Python has Psi4.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any, TextIO

PARENT_PID = "SDDFKIT_PARENT_PID"
"""Environment variable by which a parent tells its child who it is."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent() -> None:
    """Have the kernel (Linux) kill this process as soon as its parent is gone; elsewhere the end of stdin does."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.environ.pop(PARENT_PID, None)  # it is about this process, not about those it starts
    if parent is not None and os.getppid() != int(parent):
        os._exit(1)  # the parent died before the call above


def adopt_orphans() -> None:
    """Have the kernel (Linux) make this process the parent of descendants whose own is gone: they stay in its tree."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def take_streams() -> tuple[TextIO, TextIO]:
    """Take stdin and stdout for the protocol; what programs print afterwards goes to stderr.

    Returns
    -------
    incoming, outgoing : text streams of JSON lines
    """
    incoming = os.fdopen(os.dup(0), "r", encoding="utf-8")
    outgoing = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return incoming, outgoing


def send(outgoing: TextIO, message: dict[str, Any]) -> None:
    """Write one message and flush it."""
    outgoing.write(json.dumps(message) + "\n")
    outgoing.flush()
