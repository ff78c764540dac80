"""An ipyparallel cluster that starts when it is needed and leaves no process behind."""

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import ipyparallel as ipp
import psutil

# One thread per engine and quiet waiting: OpenMP threads that spin on busy cores cost a factor of ten and more.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
}


MARK = "SDDFKIT_CLUSTER"


class ClusterError(RuntimeError):
    """The cluster did not start; the message says why and what to do."""


class Cluster:
    """An ipyparallel cluster, started by the first call of :meth:`executor` and stopped at the end of the context.

    Parameters
    ----------
    folder
        Where the cluster keeps its connection files and logs while it runs; its own, below a folder for all clusters.
    engines
        Number of engines.
    launcher
        An ipyparallel launcher: ``local``, ``ssh``, ``slurm``, ``mpi``, ``pbs``, ``sge``, ``lsf``, ``htcondor``.
    start_timeout_s
        How long the engines may take to register.

    Notes
    -----
    Its processes carry a mark in their environment: the folder and the process that started them. Clusters beside this
    one whose owner is dead are ended before a new one starts.
    """

    def __init__(
        self, folder: str | Path, *, engines: int = 2, launcher: str = "local", start_timeout_s: float = 120.0
    ) -> None:
        if engines < 1:
            raise ClusterError(f"a cluster needs at least one engine, got engines={engines}")
        self.folder = Path(folder).absolute()
        self.engines = engines
        self.launcher = launcher
        self.start_timeout_s = start_timeout_s
        self._cluster: ipp.Cluster | None = None
        self._client: ipp.Client | None = None

    def __enter__(self) -> Self:
        end_abandoned(self.folder.parent)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def executor(self) -> tuple[Executor, int]:
        """Return the executor and its number of engines, starting the cluster if it does not run yet."""
        if self._client is None:
            self._start()
        assert self._client is not None
        if not len(self._client):
            raise ClusterError(
                f"all {self.engines} engines are lost; what was finished is in the store: start the same command again"
            )
        return self._client.load_balanced_view().executor, len(self._client)

    def engine_pids(self) -> list[int]:
        """Return the process ids of the engines on this machine's side of the connection."""
        assert self._client is not None
        return list(self._client[:].apply_sync(os.getpid))

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with _environment(self.folder):
            self._cluster = ipp.Cluster(
                n=self.engines,
                engines=self.launcher,
                controller="local",
                profile_dir=str(self.folder / "profile"),
                engine_timeout=int(self.start_timeout_s),
                shutdown_atexit=True,
                log_level=logging.ERROR,
            )
            try:
                self._cluster.start_cluster_sync()
                self._client = self._cluster.connect_client_sync()
                self._client.wait_for_engines(self.engines, timeout=self.start_timeout_s, interactive=False)
            except (TimeoutError, ipp.error.TimeoutError, OSError) as error:
                self.stop()
                raise ClusterError(
                    f"{self.engines} engines by the launcher {self.launcher!r} did not register within "
                    f"{self.start_timeout_s:g} s ({error}): its log is under {self.folder}"
                ) from error

    def stop(self) -> None:
        """End the cluster with all its processes; safe to call twice."""
        if self._client is not None:
            self._client.close(linger=0)
            self._client = None
        if self._cluster is not None:
            with contextlib.suppress(TimeoutError, ipp.error.TimeoutError):
                self._cluster.stop_cluster_sync()
            self._cluster = None
        # Whatever started late, or outlived its parent, carries the mark too.
        while left := [item.process for item in marked() if item.folder == self.folder]:
            end(left)
        shutil.rmtree(self.folder, ignore_errors=True)


class Marked(NamedTuple):
    """A process of a cluster: which one, and the process that started it."""

    process: psutil.Process
    folder: Path
    owner_lives: bool


def marked() -> list[Marked]:
    """Return all processes of clusters on this machine that may be looked at."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mark = process.environ().get(MARK)
            if mark and process.status() != psutil.STATUS_ZOMBIE:
                folder, pid, started = mark.rsplit("|", 2)
                found.append(Marked(process, Path(folder), _lives(int(pid), float(started))))
    return found


def end(processes: Iterable[psutil.Process], grace_s: float = 3.0) -> None:
    """End processes: ask first, then kill."""
    running = list(processes)
    for signal_name in ("terminate", "kill"):
        for process in running:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, signal_name)()
        _, running = psutil.wait_procs(running, timeout=grace_s)


def end_abandoned(clusters: Path) -> int:
    """End what is left of clusters below a folder whose owner is dead, and return how many processes that were."""
    left = [item.process for item in marked() if item.folder.parent == clusters and not item.owner_lives]
    end(left)
    return len(left)


def _lives(pid: int, started: float) -> bool:
    """Say whether the process still runs; a reused number has another start time."""
    try:
        return abs(psutil.Process(pid).create_time() - started) < 1.0
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Give child processes the worker environment and an IPython folder of their own while they are started."""
    me = psutil.Process()
    changed = {
        **WORKER_ENVIRONMENT,
        "IPYTHONDIR": str(folder / "ipython"),
        "PATH": _path_with_this_python(),
        MARK: f"{folder}|{me.pid}|{me.create_time()}",
    }
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _path_with_this_python() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
