"""An ipyparallel cluster that starts when it is needed and leaves no process behind."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Container, Iterator
from concurrent.futures import Executor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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


class ClusterError(RuntimeError):
    """The cluster did not start; the message says why and what to do."""


class Cluster:
    """An ipyparallel cluster, started by the first call of :meth:`executor` and stopped at the end of the context.

    Parameters
    ----------
    folder
        Where the cluster keeps its connection files, logs and the list of its processes.
    engines
        Number of engines.
    launcher
        An ipyparallel launcher: ``local``, ``ssh``, ``slurm``, ``mpi``, ``pbs``, ``sge``, ``lsf``, ``htcondor``.
    start_timeout_s
        How long the engines may take to register.

    Notes
    -----
    A cluster of an earlier run that was killed is found by its recorded processes and ended before a new one starts.
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
        end_recorded(self._record)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def _record(self) -> Path:
        return self.folder / "processes.json"

    def executor(self) -> tuple[Executor, int]:
        """Return the executor and its number of engines, starting the cluster if it does not run yet."""
        if self._client is None:
            self._start()
        assert self._client is not None
        return self._client.load_balanced_view().executor, len(self._client)

    def engine_pids(self) -> list[int]:
        """Return the process ids of the engines on this machine's side of the connection."""
        assert self._client is not None
        return list(self._client[:].apply_sync(os.getpid))

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        before = {process.pid for process in psutil.Process().children(recursive=True)}
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
                write_processes(self._record, before)
                self._client = self._cluster.connect_client_sync()
                self._client.wait_for_engines(self.engines, timeout=self.start_timeout_s, interactive=False)
            except (TimeoutError, ipp.error.TimeoutError, OSError) as error:
                self.stop()
                raise ClusterError(
                    f"{self.engines} engines by the launcher {self.launcher!r} did not register within "
                    f"{self.start_timeout_s:g} s ({error}): its log is under {self.folder}"
                ) from error
        write_processes(self._record, before)

    def stop(self) -> None:
        """End the cluster with all its processes; safe to call twice."""
        if self._client is not None:
            self._client.close(linger=0)
            self._client = None
        if self._cluster is not None:
            with contextlib.suppress(TimeoutError, ipp.error.TimeoutError):
                self._cluster.stop_cluster_sync()
            self._cluster = None
        end_recorded(self._record)


def write_processes(path: Path, others: Container[int]) -> None:
    """Write down the processes that this one has started, but for `others`, with their start times.

    :func:`end_recorded` ends them.
    """
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid not in others:
                found.append({"pid": process.pid, "started": process.create_time()})
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(found))
    partial.replace(path)


def end_recorded(path: Path, grace_s: float = 3.0) -> int:
    """End the processes written down in a file, with what they have started, and return how many still ran.

    A process counts as the recorded one only if its start time agrees, so a reused number harms nobody.
    """
    if not path.is_file():
        return 0
    try:
        recorded: list[dict[str, Any]] = json.loads(path.read_text())
    except ValueError:
        recorded = []
    alive: dict[int, psutil.Process] = {}
    for item in recorded:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(item["pid"])
            if abs(process.create_time() - item["started"]) < 1.0:
                alive |= {p.pid: p for p in [process, *process.children(recursive=True)]}
    for signal_name in ("terminate", "kill"):
        for process in alive.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, signal_name)()
        _, running = psutil.wait_procs(list(alive.values()), timeout=grace_s)
        if not running:
            break
    path.unlink(missing_ok=True)
    return len(alive)


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Give child processes the worker environment and an IPython folder of their own while they are started."""
    changed = {**WORKER_ENVIRONMENT, "IPYTHONDIR": str(folder / "ipython"), "PATH": _path_with_this_python()}
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
