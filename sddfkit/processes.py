"""Whether a process that somebody wrote down still runs."""

import os


def started(pid: int | None = None) -> float:
    """Return when a process (default: this one) was started, s since 1970: with its number, that names it for good.

    Raises
    ------
    ProcessLookupError
        It does not run; one that is dead, though nobody has taken notice of it yet, does not.
    """
    import psutil

    try:
        process = psutil.Process(os.getpid() if pid is None else pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            raise ProcessLookupError(f"process {pid} is dead")
        return float(process.create_time())
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(f"there is no process {pid}") from error


def lives(pid: int, its_start: float) -> bool:
    """Say whether the process of this number and start still runs; a number that is used again has another start."""
    try:
        return abs(started(pid) - its_start) < 1.0
    except ProcessLookupError:
        return False
