"""The command line, killed from within at a chosen moment: ``kill_at.py MOMENT VERB …``."""

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from sddfkit import cli
from sddfkit.factory import loop
from sddfkit.workflows import active, label, train


def dies(function: Callable[..., Any], at_call: int = 1, after: bool = False) -> Callable[..., Any]:
    """Return the function; this process is killed, as by the kernel, at one of its calls (or right after it)."""
    calls = 0

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if calls == at_call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


MOMENTS = {
    "conformers": (label, "_conformers_of", {"at_call": 6}),
    "DFT": (loop, "ingest", {"at_call": 2}),  # its result is in the spool, not in the store
    "training": (train.Trainers, "submit", {"at_call": 2, "after": True}),
    "selection": (active, "make_pool", {}),
    "labels of a round": (loop, "ingest", {"at_call": 1, "after": True}),
    "report": (active, "write_report", {}),
    "the end of the report": (active, "save_snapshot", {"after": True}),
}

if __name__ == "__main__":
    owner, name, when = MOMENTS[sys.argv.pop(1)]
    setattr(owner, name, dies(getattr(owner, name), **when))
    sys.exit(cli.main())
