"""An ipyparallel cluster that starts when it is needed, is found again after a crash, and leaves no process behind."""

import asyncio
import atexit
import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import ipyparallel as ipp
import psutil
from ipyparallel.util import disambiguate_ip_address
from traitlets.config import Config

import sddfkit
from sddfkit.factory.engines import EngineGoneError, Engines
from sddfkit.factory.ownership import (
    BATCH_SYSTEMS,
    MARK,
    OWNER_FILE,
    Owner,
    alone,
    end_abandoned,
    end_cluster,
    enter_user,
    in_words,
    mark_of,
    marked,
    read_owner,
    recorded,
    write_owner,
)
from sddfkit.processes import lives, started

__all__ = [
    "MARK", "OWNER_FILE", "Cluster", "ClusterError", "EngineGoneError", "Engines", "Owner", "answers",
    "client_file", "end_abandoned", "engine_environment", "marked", "read_owner", "read_settings",
]  # fmt: skip

logger = logging.getLogger(__name__)

# One thread per engine and quiet waiting: OpenMP threads that spin on busy cores cost a factor of ten and more.
WORKER_ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
}
SETTINGS_FILE: Final = "settings.json"
# Engines of these launchers are processes of this machine, or end with one.
HERE: Final = frozenset({"local", "mpi"})
PORTS: Final = ("registration", "notification", "control", "mux", "task", "iopub", "broadcast")
ANSWER_LIMIT_S: Final = 5.0
LOOK_S: Final = 0.05
# Budgets of an hour: a cluster may lose any number of engines in weeks, but one that loses all of them is of no use.
REPLACEMENTS_PER_ENGINE: Final = 2
RESTARTS: Final = 5
BUDGET_S: Final = 3600.0
T = TypeVar("T")
_open: dict[Path, int] = {}  # clusters that end with this process
_ending = threading.Event()  # set once this process ends: a batch in the background must not start a cluster again


class ClusterError(RuntimeError):
    """The cluster cannot do what is asked of it; the message says why and what to do."""


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
    running
        The cluster in `folder` was started by ``sddfkit cluster start``: as with a connection file.
    keep
        If this process ends before the cluster was stopped, as a kernel does that is restarted, the engines finish what
        they have, and wait to be taken over.

    Attributes
    ----------
    adopted
        The cluster was found running: its owner had died, and its engines had gone on.

    Notes
    -----
    A cluster whose owner is dead is taken over by the next one of the same folder and settings, if its controller
    answers; its engines finish what they were at. Other clusters beside this one whose owner is dead are ended before a
    new one starts, with their jobs in a batch queue. Connections beyond this machine are encrypted and authenticated
    (CurveZMQ).
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
        running: bool = False,
        keep: bool = False,
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
        self.running = running
        self.keep = keep
        self.adopted = False
        self._cluster: ipp.Cluster | None = None
        self._engines: Engines | None = None
        self._controller: list[tuple[int, float]] = []
        self._seen = 0
        self._coming: deque[float] = deque()
        self._replaced: deque[float] = deque()
        self._restarted: deque[float] = deque()
        self._folder_is_mine = False
        self._note: Path | None = None

    def __enter__(self) -> Self:
        if not self.foreign:
            end_abandoned(self.folder.parent, but=self.folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def foreign(self) -> bool:
        """Whether somebody else started the cluster: then it is never stopped, and nothing is started."""
        return self.running or self.connection_file is not None

    def executor(self) -> tuple[Executor, int]:
        """Return the executor and its number of engines; start, adopt or repair the cluster if need be.

        May be called at any time, and must be called from time to time: what was lost is replaced here. The executor
        stays the same until the controller is lost, which ends all its futures with :class:`EngineGoneError`.

        Raises
        ------
        ClusterError
            If the cluster does not start, or all engines are lost and no more are to be started.
        """
        if _ending.is_set():
            raise ClusterError("this process is ending, and starts no engines any more")
        lost = self._why_lost()
        if lost is not None:
            self._restart(lost)
        elif self._engines is None:
            self._start()
        assert self._engines is not None
        self._replace_lost()
        if self._engines.lost:
            return self.executor()
        if not len(self._engines):
            raise ClusterError(
                f"all {len(self._engines.ever)} engines are lost; what was finished is in the store: look into the "
                "memory and time limits of the machines, then start the same command again"
            )
        return self._engines, len(self._engines)

    def engine_pids(self) -> list[int]:
        """Return the process ids of the engines, each on its machine."""
        assert self._engines is not None
        return [future.result() for future in self._engines.on_each(os.getpid).values()]

    def make(self) -> ipp.Cluster:
        """Return ipyparallel's cluster as configured, not started."""
        return ipp.Cluster(**self._arguments())

    def start_and_leave(self) -> int:
        """Start the cluster, let it remain when this process ends, and return how many engines have registered.

        Engines of a batch queue come when they may, and are not waited for.
        """
        self._start_anew(wait_for=0 if self.launcher in BATCH_SYSTEMS else self.engines)
        assert self._engines is not None and self._cluster is not None
        came = len(self._engines)
        controller = self._cluster.controller.pid
        write_owner(self.folder, Owner(socket.gethostname(), controller, started(controller), remains=True))
        self._folder_is_mine = False
        _open.pop(self.folder, None)
        self._leave_client()
        self._cluster = None
        return came

    def stop(self) -> None:
        """End the cluster with all its processes and jobs, but never a foreign one; safe to call twice."""
        if self._engines is not None and self.foreign:
            self._engines.cancel()
        self._leave_client()
        self._cluster = None
        if self._note is not None:
            self._note.unlink(missing_ok=True)
            self._note = None
        if self.foreign:
            return
        if self._folder_is_mine:
            end_cluster(self.folder)
            _open.pop(self.folder, None)
            self._folder_is_mine = False
        else:
            end_abandoned(self.folder.parent)  # one that could have been taken over, but nothing was to be done

    def _arguments(self) -> dict[str, Any]:
        arguments = [] if self.launcher == "local" else ["--IPController.enable_curve=True"]
        config = Config()
        for name, values in self.traits.items():
            config[name].update(values)
        return {
            "n": self.engines,
            "engines": self.launcher,
            "controller": "local",
            "controller_args": arguments,
            "controller_ip": self.controller_ip or ("" if self.launcher == "local" else "*"),
            "controller_location": self.controller_location or "",
            "cluster_id": self.folder.name,
            "profile_dir": str(self.folder / "profile"),
            "engine_timeout": int(self.start_timeout_s),
            "delay": 0.0,  # engines are told where the controller is once that is known
            "shutdown_atexit": False,  # it would keep to what it started itself; see _end_open
            "load_profile": False,
            "log_level": logging.CRITICAL,
            "config": config,
        }

    def _start(self) -> None:
        if self.foreign:
            self._connect()
        elif not self._adopt():
            self._start_anew(wait_for=1 if self.launcher in BATCH_SYSTEMS else self.engines)

    def _start_anew(self, *, wait_for: int) -> None:
        self._take_folder()
        with _environment(self.folder):
            self._cluster = self.make()
            try:
                _run(self._cluster.start_cluster())
                self._reach(client_file(self.folder), self.start_timeout_s)
                self._coming.clear()
                self._expect(self.engines)
                self._wait_for(wait_for)
            except (TimeoutError, ipp.error.TimeoutError) as error:
                tail = self._log_tail()
                self.stop()
                raise ClusterError(
                    f"{wait_for} of {self.engines} engines by the launcher {self.launcher!r} did not register within "
                    f"{self.start_timeout_s:g} s ({error}): look at the settings of cluster={self.launcher}, above all "
                    f"controller_location and the Python that the engines run{tail}"
                ) from error
            except Exception as error:  # each launcher has errors of its own
                self.stop()
                raise ClusterError(
                    f"the engines could not be started by the launcher {self.launcher!r} ({in_words(error)}): look at "
                    f"the settings of cluster={self.launcher}, and whether its programs can be used on this machine"
                ) from error

    def _take_folder(self) -> None:
        """Make the folder and say in it whose it is; what a dead run of the same name left is ended and removed."""
        owner = read_owner(self.folder)
        if owner is not None and owner.lives() and owner.remains:
            raise ClusterError(
                f"a cluster is running in {self.folder}: use it by cluster=running cluster.name={self.folder.name}, or "
                f"end it by `sddfkit cluster stop {self.folder.name}`"
            )
        if owner is not None and owner.lives() and owner != Owner.me():
            raise ClusterError(
                f"the cluster in {self.folder} belongs to process {owner.pid} on {owner.host}: wait for it or stop it; "
                "if that machine is gone, remove the folder"
            )
        end_abandoned(self.folder.parent, but=self.folder)
        with alone(self.folder.parent):
            if read_owner(self.folder) != owner:
                raise ClusterError(
                    f"another process has just taken the cluster in {self.folder}: wait for it or stop it"
                )
            end_cluster(self.folder)
            self.folder.mkdir()
            self._own()
        about = {
            "of": self._settings(),
            "launcher": self.launcher,
            "engines": self.engines,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        (self.folder / SETTINGS_FILE).write_text(json.dumps(about, indent=1))

    def _own(self) -> None:
        write_owner(self.folder, Owner.me())
        self._folder_is_mine = True
        if not self.keep:
            _open[self.folder] = os.getpid()

    def _settings(self) -> str:
        """Return all that must be alike for one cluster to stand in for another: settings, Python and code."""
        package = Path(sddfkit.__file__).parent
        of = {
            "launcher": self.launcher,
            "engines": self.engines,
            "traits": self.traits,
            "controller": [self.controller_ip, self.controller_location],
            "python": sys.executable,
            "code": [str(package), max(path.stat().st_mtime for path in package.rglob("*.py"))],
        }
        mine = json.dumps(mark_of(self.folder, Owner.me()))[1:-1]
        return json.dumps(of, sort_keys=True).replace(mine, "")

    def _adopt(self) -> bool:
        """Take over the cluster that a dead owner left in the folder, if it is as this one would be and answers."""
        if not self._is_left_to_us() or not answers(client_file(self.folder)):
            return False
        try:
            self._cluster = _run(self._restored())
            self._reach(client_file(self.folder), ANSWER_LIMIT_S)
        except Exception as error:
            logger.warning("the cluster in %s cannot be taken over (%s): a new one is started", self.folder, error)
            self._cluster = None
            return False
        assert self._engines is not None
        with alone(self.folder.parent):
            # Of engines elsewhere that do not answer nobody can say here whether they are still to come.
            if self._is_left_to_us() and (len(self._engines) or self.launcher in HERE):
                self._own()
                self.adopted = True
        if not self.adopted:
            self._leave_client()
            self._cluster = None
            return False
        self._seen = len(self._engines.ever)
        self._coming.clear()
        logger.warning("the cluster in %s is taken over from a process that died", self.folder)
        return True

    def _is_left_to_us(self) -> bool:
        owner = read_owner(self.folder)
        if owner is None or owner.remains or (owner.lives() and owner != Owner.me()):
            return False
        return bool(read_settings(self.folder).get("of") == self._settings())

    async def _restored(self) -> ipp.Cluster:
        """Return ipyparallel's cluster as it was written down: with jobs in a queue, but no engines by their number."""
        file = self.folder / "profile" / "security" / f"cluster-{self.folder.name}.json"
        document = recorded(file)
        if document is None:
            raise ClusterError(f"{file} cannot be read")
        if self.launcher in HERE:
            document["engines"]["sets"] = {}
        return ipp.Cluster.from_dict(document, **self._arguments())

    def _connect(self) -> None:
        file = client_file(self.folder) if self.running else self.connection_file
        assert file is not None
        if not file.is_file():
            raise ClusterError(
                f"there is no running cluster {self.folder.name!r} below {self.folder.parent}: `sddfkit cluster start "
                f"--name {self.folder.name}` starts one, `sddfkit cluster status` shows which there are"
                if self.running
                else f"there is no connection file {file}: copy security/ipcontroller-client.json of the running "
                "controller here (it is a secret), or check cluster.connection_file"
            )
        try:
            if not answers(file):
                raise TimeoutError(f"no answer within {ANSWER_LIMIT_S:g} s")
            self._reach(file, min(self.start_timeout_s, 30.0))
            self._wait_for(self.engines)
        except Exception as error:
            self.stop()
            raise ClusterError(
                f"the controller of {file} does not answer, or has fewer than {self.engines} engines "
                f"({in_words(error)}): "
                + (
                    f"`sddfkit cluster stop {self.folder.name}` ends what is left of it, then start it again"
                    if self.running
                    else "start it and its engines (ipcontroller, ipengine), and check that this machine reaches it "
                    "and that the file is of this start of it"
                )
            ) from error
        if self.running:
            self._note = enter_user(self.folder)

    def _reach(self, file: Path, timeout_s: float) -> None:
        with _encrypted_is_enough():
            client = ipp.Client(str(file), timeout=timeout_s)
        self._engines = Engines(client, here=self.launcher == "local" and not self.foreign)
        self._seen = 0
        self._controller = []
        if not self.foreign:
            controller = [item.process for item in marked(self.folder) if _is_controller(item.process)]
            for process in controller:
                with contextlib.suppress(ProcessLookupError):  # its absence is noticed at the next look
                    self._controller.append((process.pid, started(process.pid)))

    def _wait_for(self, n: int) -> None:
        assert self._engines is not None
        deadline = time.monotonic() + self.start_timeout_s
        while len(self._engines) < n:
            if self._engines.lost:
                raise ClusterError(self._engines.lost)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self._engines)} have")
            time.sleep(LOOK_S)

    def _leave_client(self) -> None:
        if self._engines is not None:
            self._engines.close()
            self._engines = None

    def _why_lost(self) -> str | None:
        """Return why the cluster that was in use is of no use any more; None if it is, or there is none yet."""
        if self._engines is None:
            return None
        if self._engines.lost is None and not all(lives(*process) for process in self._controller):
            return "a process of the controller has died"
        return self._engines.lost

    def _restart(self, lost: str) -> None:
        """Start the whole cluster again, because its controller is lost; connect again to one that is not ours."""
        if not _left(self._restarted, RESTARTS):
            raise ClusterError(
                f"{lost}, and that {RESTARTS} times within an hour: look into the memory of this machine"
            )
        self._restarted.append(time.monotonic())
        logger.warning("%s: %s", lost, "connecting again" if self.foreign else "the cluster is started again")
        self._leave_client()
        self._cluster = None
        if not self.foreign:
            end_cluster(self.folder)
        self._start()

    def _replace_lost(self) -> None:
        """Start as many engines as are missing, within limits, and wait if none is left."""
        assert self._engines is not None
        for _ in range(min(len(self._engines.ever) - self._seen, len(self._coming))):
            self._coming.popleft()
        self._seen = len(self._engines.ever)
        while self._coming and self._coming[0] < time.monotonic():
            self._coming.popleft()
        # ssh would start them on the first host, whichever lost them
        if self._cluster is not None and self.launcher != "ssh":
            missing = self.engines - len(self._engines) - len(self._coming)
            n = min(missing, _left(self._replaced, REPLACEMENTS_PER_ENGINE * self.engines))
            if n > 0:
                logger.warning("%d of %d engines are lost; starting %d new ones", missing, self.engines, n)
                with _environment(self.folder):
                    _run(self._cluster.start_engines(n))
                self._expect(n)
                self._replaced.extend([time.monotonic()] * n)
        if not len(self._engines) and self._coming:  # some have yet to come
            with contextlib.suppress(TimeoutError, ClusterError):
                self._wait_for(1)

    def _expect(self, n: int) -> None:
        """Note that engines were asked for: those of a queue come when they may, others in time or never."""
        limit = float("inf") if self.launcher in BATCH_SYSTEMS else time.monotonic() + self.start_timeout_s
        self._coming.extend([limit] * n)

    def _log_tail(self) -> str:
        """Return the last lines that controller and engines wrote, because their files are removed with the folder."""
        logs = sorted((self.folder / "profile" / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
        lines = [line for path in logs[-2:] for line in path.read_text(errors="replace").splitlines()[-4:]]
        return "".join(f"\n  {line}" for line in lines)


def client_file(folder: Path) -> Path:
    """Return where the controller of the cluster in a folder says how a client reaches it."""
    return folder / "profile" / "security" / f"ipcontroller-{folder.name}-client.json"


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what the cluster in a folder says of itself: launcher, engines, since, and of, which names all it is."""
    try:
        return dict(json.loads((folder / SETTINGS_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def answers(file: Path) -> bool:
    """Say whether each process of the controller that a client would need accepts connections."""
    try:
        told = json.loads(file.read_text())
        if told.get("ssh"):  # behind a tunnel, which only a client makes
            return True
        address = disambiguate_ip_address(told["interface"].partition("://")[2], told.get("location"))
        for name in PORTS:
            socket.create_connection((address, told[name]), timeout=ANSWER_LIMIT_S).close()
    except (OSError, ValueError, KeyError):
        return False
    return True


def _is_controller(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "ipyparallel.controller" in process.cmdline()
    return False


def _left(times: deque[float], limit: int) -> int:
    """Return how much of a budget is left; what was spent more than an hour ago is forgotten."""
    while times and times[0] < time.monotonic() - BUDGET_S:
        times.popleft()
    return max(0, limit - len(times))


@atexit.register
def _end_open() -> None:
    """End with this process the clusters that it has not stopped, but none of a process that it was forked from."""
    _ending.set()
    for folder, pid in list(_open.items()):
        if pid == os.getpid():
            end_cluster(folder)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; an interrupt cancels all that it started before it is passed on."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:  # in a notebook this thread's loop is busy: it is running this cell
        return pool.submit(asyncio.run, work).result()


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
    return {**WORKER_ENVIRONMENT, MARK: mark_of(folder, Owner.me())}


def _path_with_this_python() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
