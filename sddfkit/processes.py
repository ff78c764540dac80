"""Whether a process that somebody wrote down still runs."""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def started(pid: int | None = None) -> float:
    """Return a number of seconds for the start of a process (default: this one): with its pid, that names it for good.

    Linux counts them by a clock that nobody sets, from a number of the boot on; elsewhere they are those since 1970.

    Raises
    ------
    ProcessLookupError
        It does not run; one that is dead, though nobody has taken notice of it yet, does not.
    """
    import psutil

    process = _living(os.getpid() if pid is None else pid)
    boot = _boot_number()
    try:
        return float(process.create_time()) if boot is None else boot + _since_boot(process.pid)
    except (psutil.NoSuchProcess, FileNotFoundError) as error:
        raise ProcessLookupError(f"there is no process {process.pid}") from error


def lives(pid: int, its_start: float) -> bool:
    """Say whether the process of this number and start still runs; a number that is used again has another start.

    Parameters
    ----------
    pid
    its_start
        By `started`; psutil's ``create_time()`` will do while the clock is not set.
    """
    import psutil

    try:
        return abs(started(pid) - its_start) < 1.0 or abs(_living(pid).create_time() - its_start) < 1.0
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def _living(pid: int) -> "psutil.Process":
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            raise ProcessLookupError(f"process {pid} is dead")
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(f"there is no process {pid}") from error
    return process


@functools.cache
def _boot_number() -> float | None:
    """A number for this boot of the machine, beyond all seconds since 1970 and apart from those of other boots."""
    try:
        return (1000 + int(_BOOT_ID.read_text()[:5], 16)) * 1e8
    except (OSError, ValueError):
        return None


def _since_boot(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")
