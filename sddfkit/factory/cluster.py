"""An ipyparallel cluster that starts when it is needed and leaves no process behind."""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

import ipyparallel as ipp
import psutil
from traitlets.config import Config

from sddfkit.processes import lives, started

logger = logging.getLogger(__name__)

# One thread per engine and quiet waiting: OpenMP threads that spin on busy cores cost a factor of ten and more.
WORKER_ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
}
MARK: Final = "SDDFKIT_CLUSTER"
OWNER_FILE: Final = "owner.json"
BATCH_SYSTEMS: Final = frozenset({"slurm", "pbs", "sge", "lsf", "htcondor"})
STOP_LIMIT_S: Final = 60.0
REPLACEMENTS_PER_ENGINE: Final = 2
T = TypeVar("T")


class ClusterError(RuntimeError):
    """The cluster cannot do what is asked of it; the message says why and what to do."""


class EngineGoneError(RuntimeError):
    """An engine that was asked something does not exist any more."""


class Cluster:
    """An ipyparallel cluster, started by the first call of :meth:`executor` and stopped at the end of the context.

    Parameters
    ----------
    folder
        Where the cluster keeps its connection files and logs while it runs; its own, below a folder for all clusters.
    engines
        Number of engines; for engines that somebody else started, the number to wait for.
    launcher
        An ipyparallel launcher for the engines: ``local``, ``ssh``, ``mpi``, ``slurm``, ``pbs``, ``sge``, ``lsf``,
        ``htcondor``. The controller always runs here.
    start_timeout_s
        How long the engines may take to register. Those of a batch queue come when they may: the first is enough.
    traits
        Settings of ipyparallel's launchers, by class and trait; :mod:`sddfkit.factory.launchers` makes them.
    controller_ip, controller_location
        The address that the controller listens on (``*``: all), and the name or address by which engines find it.
        Without them: this machine alone for local engines, else all addresses and this machine's name.
    connection_file
        A client connection file (``ipcontroller-client.json``) of a controller that somebody else started: its engines
        are used and never stopped, and nothing is started.

    Notes
    -----
    Its processes carry a mark in their environment: the folder and the process that started them. Clusters beside this
    one whose owner is dead are ended before a new one starts, with their jobs in a batch queue. Connections beyond this
    machine are encrypted and authenticated (CurveZMQ).
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        engines: int = 2,
        launcher: str = "local",
        start_timeout_s: float = 120.0,
        traits: Mapping[str, Mapping[str, Any]] | None = None,
        controller_ip: str | None = None,
        controller_location: str | None = None,
        connection_file: str | Path | None = None,
    ) -> None:
        if engines < 1:
            raise ClusterError(f"a cluster needs at least one engine, got engines={engines}")
        self.folder = Path(folder).absolute()
        self.engines = engines
        self.launcher = launcher
        self.start_timeout_s = start_timeout_s
        self.traits = traits or {}
        self.controller_ip = controller_ip
        self.controller_location = controller_location
        self.connection_file = None if connection_file is None else Path(connection_file).expanduser().absolute()
        self._cluster: ipp.Cluster | None = None
        self._client: ipp.Client | None = None
        self._seen: set[int] = set()
        self._replaced = 0
        self._folder_is_mine = False

    def __enter__(self) -> Self:
        end_abandoned(self.folder.parent)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def executor(self) -> tuple[Executor, int]:
        """Return the executor and its number of engines; start the cluster, or engines for lost ones, if need be.

        Raises
        ------
        ClusterError
            If the cluster does not start, or all engines are lost and no more are to be started.
        """
        if self._client is None:
            self._start()
        assert self._client is not None
        self._replace_lost()
        if not len(self._client):
            raise ClusterError(
                f"all {len(self._seen)} engines are lost; what was finished is in the store: look into the memory and "
                "time limits of the machines, then start the same command again"
            )
        return Engines(self._client), len(self._client)

    def engine_pids(self) -> list[int]:
        """Return the process ids of the engines, each on its machine."""
        assert self._client is not None
        return list(self._client[:].apply_sync(os.getpid))

    def make(self) -> ipp.Cluster:
        """Return ipyparallel's cluster as configured, not started."""
        arguments = [] if self.launcher == "local" else ["--IPController.enable_curve=True"]
        config = Config()
        for name, values in self.traits.items():
            config[name].update(values)
        return ipp.Cluster(
            n=self.engines,
            engines=self.launcher,
            controller="local",
            controller_args=arguments,
            controller_ip=self.controller_ip or ("" if self.launcher == "local" else "*"),
            controller_location=self.controller_location or "",
            cluster_id=self.folder.name,
            profile_dir=str(self.folder / "profile"),
            engine_timeout=int(self.start_timeout_s),
            delay=0.0,  # engines are told where the controller is once that is known
            shutdown_atexit=True,
            load_profile=False,
            log_level=logging.CRITICAL,
            config=config,
        )

    def _start(self) -> None:
        if self.connection_file is not None:
            self._connect(self.connection_file)
            return
        self._take_folder()
        first = 1 if self.launcher in BATCH_SYSTEMS else self.engines
        with _environment(self.folder):
            self._cluster = self.make()
            try:
                _run(self._cluster.start_cluster())
                with _encrypted_is_enough():
                    self._client = _run(self._cluster.connect_client())
                self._client.wait_for_engines(first, timeout=self.start_timeout_s, interactive=False)
            except (TimeoutError, ipp.error.TimeoutError) as error:
                tail = self._log_tail()
                self.stop()
                raise ClusterError(
                    f"{first} of {self.engines} engines by the launcher {self.launcher!r} did not register within "
                    f"{self.start_timeout_s:g} s ({error}): look at the settings of cluster={self.launcher}, above all "
                    f"controller_location and the Python that the engines run{tail}"
                ) from error
            except Exception as error:  # each launcher has errors of its own
                self.stop()
                raise ClusterError(
                    f"the engines could not be started by the launcher {self.launcher!r} ({_words(error)}): look at "
                    f"the settings of cluster={self.launcher}, and whether its programs can be used on this machine"
                ) from error

    def _connect(self, file: Path) -> None:
        if not file.is_file():
            raise ClusterError(
                f"there is no connection file {file}: copy security/ipcontroller-client.json of the running controller "
                "here (it is a secret), or check cluster.connection_file"
            )
        try:
            with _encrypted_is_enough():
                self._client = ipp.Client(str(file), timeout=min(self.start_timeout_s, 30.0))
            self._client.wait_for_engines(self.engines, timeout=self.start_timeout_s, interactive=False)
        except Exception as error:
            self.stop()
            raise ClusterError(
                f"the controller of {file} does not answer, or has fewer than {self.engines} engines "
                f"({_words(error)}): start it and its engines (ipcontroller, ipengine), and check that this machine "
                "reaches it and that the file is of this start of it"
            ) from error

    def _replace_lost(self) -> None:
        """Start as many engines as were lost since the last look, within limits, and wait if none is left."""
        assert self._client is not None
        alive = set(self._client.ids)
        self._seen |= alive
        if (
            self._cluster is None or self.launcher == "ssh"
        ):  # ssh would start them on the first host, whichever lost them
            return
        lost = len(self._seen - alive) - self._replaced
        n = min(lost, REPLACEMENTS_PER_ENGINE * self.engines - self._replaced)
        if n > 0:
            logger.warning("%d of %d engines are lost; starting as many new ones", lost, self.engines)
            self._replaced += n
            with _environment(self.folder):
                _run(self._cluster.start_engines(n))
        if not alive and self.engines + self._replaced > len(self._seen):  # some have yet to come
            with contextlib.suppress(TimeoutError, ipp.error.TimeoutError):
                self._client.wait_for_engines(1, timeout=self.start_timeout_s, interactive=False)
            self._seen |= set(self._client.ids)

    def _take_folder(self) -> None:
        """Make the folder and say in it whose it is; what a dead run of the same name left is ended and removed."""
        owner = read_owner(self.folder)
        if owner is not None and owner.lives() and owner != Owner.me():
            raise ClusterError(
                f"the cluster in {self.folder} belongs to process {owner.pid} on {owner.host}: wait for it or stop it; "
                "if that machine is gone, remove the folder"
            )
        end_abandoned(self.folder.parent)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / OWNER_FILE).write_text(json.dumps(Owner.me()._asdict()))
        self._folder_is_mine = True

    def _log_tail(self) -> str:
        """Return the last lines that controller and engines wrote, because their files are removed with the folder."""
        logs = sorted((self.folder / "profile" / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
        lines = [line for path in logs[-2:] for line in path.read_text(errors="replace").splitlines()[-4:]]
        return "".join(f"\n  {line}" for line in lines)

    def stop(self) -> None:
        """End the cluster with all its processes and jobs, but never a foreign one; safe to call twice."""
        if self._client is not None:
            self._client.close(linger=0)
            self._client = None
        if self.connection_file is not None:
            return
        if self._cluster is not None:
            for name, engines in list(self._cluster.engines.items()):
                if engines.state == "before":  # it could not be started, so there is nothing that could be stopped
                    del self._cluster.engines[name]
            _run_within(STOP_LIMIT_S, self._cluster.stop_cluster)
            self._cluster.shutdown_atexit = False  # it was tried; ipyparallel would try again at the end of the process
            self._cluster = None
        if not self._folder_is_mine:
            return
        # Whatever started late, or outlived its parent, carries the mark too.
        while left := [item.process for item in marked() if item.folder == self.folder]:
            end(left)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._folder_is_mine = False


class Engines(Executor):
    """The engines of a cluster, balanced by load, as an executor; each can be reached by itself as well."""

    def __init__(self, client: ipp.Client) -> None:
        self._client = client
        self._view = client.load_balanced_view(retries=0)

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """Give a call to the engine that has least to do."""
        future: Future[Any] = self._view.apply_async(function, *args, **named)
        return future

    def on_each(self, function: Callable[..., Any], /, *args: Any) -> dict[str, Future[Any]]:
        """Call a function on every engine: a future for each."""
        return {str(engine): self.on_one(str(engine), function, *args) for engine in self._client.ids}

    def on_one(self, engine: str, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Call a function on one engine; :class:`EngineGoneError` in the future if there is no such engine any more."""
        answer: Future[Any] = Future()

        def pass_on(done: Future[Any]) -> None:
            error = done.exception()
            if error is None:
                answer.set_result(done.result())
            elif getattr(error, "ename", "") == "EngineError":  # ipyparallel's word for an engine that died
                answer.set_exception(EngineGoneError(str(error)))
            else:
                answer.set_exception(error)

        try:
            self._client[int(engine)].apply_async(function, *args).add_done_callback(pass_on)
        except (IndexError, ipp.error.NoEnginesRegistered) as error:
            answer.set_exception(EngineGoneError(str(error)))
        return answer


class Owner(NamedTuple):
    """The process that started a cluster: a number that is used again has another start time."""

    host: str
    pid: int
    started: float

    @classmethod
    def me(cls) -> "Owner":
        """Return this process."""
        return cls(socket.gethostname(), os.getpid(), started())

    def lives(self) -> bool:
        """Say whether the process still runs; of a process on another host that cannot be denied from here."""
        return self.host != socket.gethostname() or lives(self.pid, self.started)


def read_owner(folder: Path) -> Owner | None:
    """Return who started the cluster in a folder, or None if there is none."""
    try:
        return Owner(**json.loads((folder / OWNER_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


class Marked(NamedTuple):
    """A process of a cluster: which one, and the process that started it."""

    process: psutil.Process
    folder: Path
    owner: Owner


def marked() -> list[Marked]:
    """Return all processes of clusters on this machine that may be looked at."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ValueError):
            mark = process.environ().get(MARK)
            if mark and process.status() != psutil.STATUS_ZOMBIE:
                folder, host, pid, started = mark.rsplit("|", 3)
                found.append(Marked(process, Path(folder), Owner(host, int(pid), float(started))))
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
    """End what is left of clusters below a folder whose owner is dead, and return how many processes that were.

    Jobs in a batch queue and engines behind ssh are ended by what ipyparallel wrote down of them. A cluster whose owner
    lives, or is on another machine, is left alone.
    """
    abandoned = []
    for folder in clusters.iterdir() if clusters.is_dir() else []:
        owner = read_owner(folder)
        if owner is not None and not owner.lives():
            abandoned.append(folder)
            for file in folder.glob("profile/security/cluster-*.json"):
                _end_recorded(file)
    left = [item.process for item in marked() if item.folder.parent == clusters and not item.owner.lives()]
    end(left)
    for folder in abandoned:
        shutil.rmtree(folder, ignore_errors=True)
    return len(left)


def _end_recorded(file: Path) -> None:
    """Cancel the jobs, and end the remote engines, that a cluster file names.

    Processes on this machine are known by their marks: a number in a file may be somebody else's process by now.
    """
    try:
        document = json.loads(file.read_text())
        if document["engines"]["class"] not in BATCH_SYSTEMS | {"ssh"}:
            return
        document.pop("controller", None)
    except (OSError, ValueError, KeyError):
        return  # half-written: its owner died while it started

    async def stop() -> None:
        cluster = ipp.Cluster.from_dict(
            document, cluster_file="", load_profile=False, log_level=logging.CRITICAL, config=Config()
        )
        await cluster.stop_engines()

    _run_within(STOP_LIMIT_S, stop)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; an interrupt cancels all that it started before it is passed on."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:  # in a notebook this thread's loop is busy: it is running this cell
        return pool.submit(asyncio.run, work).result()


def _run_within(limit_s: float, stop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Stop something within a time, because a host or a scheduler may be silent; troubles are said in the log."""
    problems: list[str] = []

    def run() -> None:
        try:
            asyncio.run(stop())
        except Exception as error:
            problems.append(_words(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        problems.append(f"no answer within {limit_s:g} s")
    for problem in problems:
        logger.warning("a cluster could not be stopped in order (%s); its engines end by themselves", problem)


@contextlib.contextmanager
def _encrypted_is_enough() -> Iterator[None]:
    """Keep back the warning that messages are not signed: CurveZMQ takes the place of signatures."""
    log = logging.getLogger("traitlets")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Give child processes the worker environment and an IPython folder of their own while they are started."""
    changed = {**engine_environment(folder), "IPYTHONDIR": str(folder / "ipython"), "PATH": _path_with_this_python()}
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


def engine_environment(folder: Path) -> dict[str, str]:
    """Return what an engine's environment must hold, wherever it runs: quiet threads, and whose it is."""
    return {**WORKER_ENVIRONMENT, MARK: "|".join(map(str, (folder, *Owner.me())))}


def _path_with_this_python() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
