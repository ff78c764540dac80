"""What a process and all its children use, by psutil."""

from __future__ import annotations

from typing import NamedTuple

import psutil


class Usage(NamedTuple):
    """rss_mib : resident memory of the tree; cpu_s : CPU time it has used so far, ended children included."""

    rss_mib: float
    cpu_s: float


def tree_usage(pid: int) -> Usage:
    """Sum over a process and its descendants; processes that end meanwhile count as zero."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return Usage(0.0, 0.0)
    rss = cpu = 0.0
    for process in processes:
        try:
            with process.oneshot():
                rss += process.memory_info().rss
                times = process.cpu_times()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        cpu += times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return Usage(rss / 2**20, cpu)
