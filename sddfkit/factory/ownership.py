"""Whose a cluster is, which processes belong to it, and how what is left of it is ended.

A cluster's folder says whose it is (:data:`OWNER_FILE`); its processes carry the folder, and the process that started
them, in their environment (:data:`MARK`). An environment cannot be changed from outside, but a cluster can be taken
over: the file counts, and the mark only where there is none.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import ipyparallel as ipp
import psutil
from traitlets.config import Config

from sddfkit.processes import lives, started

logger = logging.getLogger(__name__)

MARK: Final = "SDDFKIT_CLUSTER"
OWNER_FILE: Final = "owner.json"
USERS: Final = "users"
BATCH_SYSTEMS: Final = frozenset({"slurm", "pbs", "sge", "lsf", "htcondor"})
STOP_LIMIT_S: Final = 60.0
GRACE_S: Final = 1.0  # busy engines do not listen, so this is what it costs to end a cluster


class Owner(NamedTuple):
    """The process that a cluster ends with: a number that is used again has another start time.

    ``remains``: nobody's; it was asked to stay until it is stopped, and lives as long as its controller does.
    """

    host: str
    pid: int
    started: float
    remains: bool = False

    @classmethod
    def me(cls) -> "Owner":
        """Return this process."""
        return cls(socket.gethostname(), os.getpid(), started())

    def lives(self) -> bool:
        """Say whether the process still runs; of a process on another host that cannot be denied from here."""
        return self.host != socket.gethostname() or lives(self.pid, self.started)


def read_owner(folder: Path) -> Owner | None:
    """Return whose the cluster in a folder is, or None if there is none."""
    return _read(folder / OWNER_FILE)


def write_owner(folder: Path, owner: Owner) -> None:
    """Say whose the cluster in a folder is."""
    _write(folder / OWNER_FILE, owner)


def users(folder: Path) -> list[Owner]:
    """Return the processes that use a cluster which is not theirs, as far as they are known to live."""
    found = (_read(path) for path in sorted((folder / USERS).glob("*.json")))
    return [user for user in found if user is not None and user.lives()]


def enter_user(folder: Path) -> Path:
    """Note in a cluster's folder that this process uses it, and return the note."""
    me = Owner.me()
    path = folder / USERS / f"{me.host}.{me.pid}.json"
    path.parent.mkdir(exist_ok=True)
    _write(path, me)
    return path


def _read(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, owner: Owner) -> None:
    """Write all or nothing: a reader that found half of it would take the cluster for nobody's."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_text(json.dumps(owner._asdict()))
    half.replace(path)


class Marked(NamedTuple):
    """A process of a cluster: which one, its cluster's folder, and the process that started it."""

    process: psutil.Process
    folder: Path
    owner: Owner


def mark_of(folder: Path, owner: Owner) -> str:
    """Return what the environment of a cluster's processes says."""
    return "|".join(map(str, (folder, owner.host, owner.pid, owner.started)))


def marked(folder: Path | None = None) -> list[Marked]:
    """Return the processes of all clusters on this machine, or of one, that may be looked at."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ValueError):
            mark = process.environ().get(MARK)
            if mark and process.status() != psutil.STATUS_ZOMBIE:
                where, host, pid, start = mark.rsplit("|", 3)
                if folder is None or Path(where) == folder:
                    found.append(Marked(process, Path(where), Owner(host, int(pid), float(start))))
    return found


def end(processes: Iterable[psutil.Process], grace_s: float = GRACE_S) -> None:
    """End processes: ask first, then kill; those that another of them has started come after it.

    An engine whose worker ends under it would write down that its calculation has killed the worker.
    """
    every = list(processes)
    numbers = {process.pid for process in every}
    first = [process for process in every if _parent(process) not in numbers]
    for running in (first, every):
        for signal_name in ("terminate", "kill"):
            for process in running:
                with contextlib.suppress(psutil.NoSuchProcess):
                    getattr(process, signal_name)()
            _, running = psutil.wait_procs(running, timeout=grace_s)


def _parent(process: psutil.Process) -> int | None:
    try:
        return int(process.ppid())
    except psutil.NoSuchProcess:
        return None


@contextlib.contextmanager
def alone(clusters: Path) -> Iterator[None]:
    """Keep other processes on this machine from taking or ending clusters below a folder meanwhile."""
    clusters.mkdir(parents=True, exist_ok=True)
    handle = os.open(clusters, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def end_cluster(folder: Path) -> int:
    """End all that belongs to the cluster in a folder, remove the folder, and return how many processes that were.

    Jobs in a batch queue and engines behind ssh are ended by what ipyparallel wrote down of them.
    """
    for file in folder.glob("profile/security/cluster-*.json"):
        end_recorded(file)
    ended = 0
    while left := [item.process for item in marked(folder)]:  # again: some may just have been starting others
        end(left)
        ended += len(left)
    shutil.rmtree(folder, ignore_errors=True)
    return ended


def end_abandoned(clusters: Path, *, but: Path | None = None) -> int:
    """End what is left of clusters below a folder whose owner is dead, and return how many processes that were.

    A cluster whose owner lives, or is on another machine, is left alone, and so is the one in the folder `but`.
    """
    if not clusters.is_dir():
        return 0
    with alone(clusters):
        owners = {folder: read_owner(folder) for folder in clusters.iterdir() if folder != but}
        dead = {folder for folder, owner in owners.items() if owner is not None and not owner.lives()}
        for item in marked():
            if item.folder.parent == clusters and item.folder != but and read_owner(item.folder) is None:
                dead |= set() if item.owner.lives() else {item.folder}
        return sum(end_cluster(folder) for folder in sorted(dead))


def end_recorded(file: Path) -> None:
    """Cancel the jobs, and end the remote engines, that a cluster file names.

    Processes on this machine are known by their marks: a number in a file may be somebody else's process by now.
    """
    document = recorded(file)
    if document is None or document["engines"]["class"] not in BATCH_SYSTEMS | {"ssh"}:
        return
    document.pop("controller", None)

    async def stop() -> None:
        cluster = ipp.Cluster.from_dict(
            document, cluster_file="", load_profile=False, log_level=logging.CRITICAL, config=Config()
        )
        await cluster.stop_engines()

    run_within(STOP_LIMIT_S, stop)


def recorded(file: Path) -> dict[str, Any] | None:
    """Return what a cluster file says of engines that were really started; None if it is half-written or missing."""
    try:
        document: dict[str, Any] = json.loads(file.read_text())
        sets = document["engines"]["sets"]
        document["engines"]["sets"] = {name: of for name, of in sets.items() if of.get("state") != "before"}
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return document


def run_within(limit_s: float, stop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Stop something within a time, because a host or a scheduler may be silent; troubles are said in the log."""
    problems: list[str] = []

    def run() -> None:
        try:
            asyncio.run(stop())
        except Exception as error:
            problems.append(in_words(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        problems.append(f"no answer within {limit_s:g} s")
    for problem in problems:
        logger.warning("a cluster could not be stopped in order (%s); its engines end by themselves", problem)


def in_words(error: BaseException) -> str:
    """Return an error's kind and message."""
    return f"{type(error).__name__}: {error}".rstrip(": ")
