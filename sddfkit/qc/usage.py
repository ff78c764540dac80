"""What a process and all its children use: by ``/proc`` where there is one, because that is quick, else by psutil."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import psutil

_KIB_PER_MIB: Final = 1024.0
_HAS_CHILDREN_FILES: Final = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists()


class ProcessUsage(NamedTuple):
    """One process of a tree.

    rss_mib : resident memory; high_mib : the most it ever had (0 where the kernel does not say); cpu_s : CPU time so
    far, that of ended children included.
    """

    pid: int
    rss_mib: float
    high_mib: float
    cpu_s: float


def tree(pid: int) -> list[ProcessUsage]:
    """A process and its descendants; those that end meanwhile are left out."""
    return list(_from_proc(pid) if _HAS_CHILDREN_FILES else _from_psutil(pid))


class Meter:
    """What a process and its descendants use from `begin` on.

    Memory is sampled, and the kernel's own record of the peak (Linux: VmHWM) shows what came and went between samples.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu_before = 0.0
        self._high_before: dict[int, float] = {}
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        processes = tree(self._pid)
        self._cpu_before = sum(process.cpu_s for process in processes)
        self._high_before = {process.pid: process.high_mib for process in processes if not _reset_high(process.pid)}
        self.rss_mib = sum(process.rss_mib for process in processes)
        self.peak_rss_mib = self.rss_mib
        self.cpu_s = 0.0
        self.alone = len(processes) < 2

    def sample(self) -> None:
        """Look again: rss_mib and peak_rss_mib (MiB), cpu_s (s), and whether the process has no descendants."""
        processes = tree(self._pid)
        self.rss_mib = sum(process.rss_mib for process in processes)
        # Each process at its own peak, beside the others as they are now: not all had theirs at the same time.
        above = [self._high(process) - process.rss_mib for process in processes]
        self.peak_rss_mib = max(self.peak_rss_mib, self.rss_mib + max([0.0, *above]))
        self.cpu_s = max(self.cpu_s, sum(process.cpu_s for process in processes) - self._cpu_before)
        self.alone = self.alone and len(processes) < 2

    def _high(self, process: ProcessUsage) -> float:
        """The peak since `begin`: where the record could not be reset, it counts if it was broken since."""
        return process.high_mib if process.high_mib > self._high_before.get(process.pid, 0.0) else process.rss_mib


def _reset_high(pid: int) -> bool:
    """Have the kernel begin its record of the peak anew; False where it does not."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_bytes(b"5")
    except OSError:
        return False
    return True


def _from_proc(root: int) -> Iterator[ProcessUsage]:
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):  # it has ended
            for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 (names, not paths: many times a second)
                with contextlib.suppress(OSError):
                    waiting += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
            fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()  # from the state on, the third of proc(5)
            ticks = sum(map(int, fields[11:15]))
            status = _read(f"/proc/{pid}/status")
            yield ProcessUsage(pid, _mib(status, b"VmRSS:"), _mib(status, b"VmHWM:"), ticks / os.sysconf("SC_CLK_TCK"))


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)


def _mib(status: bytes, name: bytes) -> float:
    """A field of ``/proc/<pid>/status``, there in KiB; 0 if it is absent, as it is for a zombie."""
    value = status.partition(name)[2].split(maxsplit=1)
    return int(value[0]) / _KIB_PER_MIB if value else 0.0


def _from_psutil(root: int) -> Iterator[ProcessUsage]:
    try:
        top = psutil.Process(root)
        processes = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied), process.oneshot():
            times = process.cpu_times()
            ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
            rss = process.memory_info().rss / 2**20
            yield ProcessUsage(process.pid, rss, 0.0, times.user + times.system + ended)
