"""Many components on an executor: nothing finished is lost, nothing is done twice, and a manifest at the end."""

import contextlib
import fcntl
import hashlib
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from sddfkit.qc.child import ONE_THREAD, ChildLostError, JsonLineChild
from sddfkit.rmsd_set.build import Settings, failed
from sddfkit.rmsd_set.components import Component, Dictionary, RmsdSetError
from sddfkit.rmsd_set.journal import Journal, finished
from sddfkit.rmsd_set.manifest import claim_settings, write_manifest

TASKS_PER_ENGINE = 2  # none waits for its next task, and little is asked of an engine that is lost
ENGINE_LOSSES = 2  # of one component, before it is given up
START_LIMIT_S = 120.0
HEARTBEAT_S = 20.0

OpenExecutor = Callable[[], tuple[Executor, int]]
Progress = Callable[[Iterator[None], int], Iterable[None]]


class Outcome(NamedTuple):
    """What a call did: components wanted, known before, built now, with failures of any class, and classes of these."""

    wanted: int
    known: int
    built: int
    with_failures: int
    classes: dict[str, int]
    wall_s: float


def build_set(
    folder: str | Path,
    dictionary: Dictionary,
    ids: Sequence[str],
    settings: Settings,
    executor: OpenExecutor,
    *,
    chunk: int = 4,
    retry: Sequence[str] = (),
    progress: Progress | None = None,
) -> Outcome:
    """Build a set, or go on with one, and write its manifest.

    Parameters
    ----------
    folder
        Of the set; engines must see it under the same path.
    dictionary, ids
        Where components come from, and which are wanted. More may be asked for later in the same folder.
    settings
        Must be those with which the folder was begun.
    executor
        Called once there is something to do, and again when engines are lost; an executor and its number of engines:
        :meth:`LocalProcesses.executor`, or ``sddfkit.factory.Cluster.executor``.
    chunk
        Components in one task.
    retry
        Classes of failure whose components are built again.
    progress
        Wraps an iterator that steps once per finished component, given the total.

    Raises
    ------
    RmsdSetError
        If another process holds the folder, or it was begun with other settings or versions of programs.

    Notes
    -----
    Whatever is killed, the next call goes on. What a component comes to depends on the settings and versions alone,
    unless a limit on time is met, so the manifest is the same however often the work was interrupted.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with _held(folder):
        identity = claim_settings(folder, settings, dictionary.version)
        done = finished(folder)
        wanted = sorted(set(ids))
        open_again = frozenset(retry)
        todo = [name for name in wanted if name not in done or done[name].classes & open_again]
        attempts = {name: done[name].attempt + 1 if name in done else 1 for name in todo}
        # In an order of chance: the time that is left follows from what is done, and the last task is not the largest.
        todo.sort(key=lambda name: hash_order(settings.seed, name))
        steps = _steps(folder, dictionary, todo, attempts, settings, executor, chunk)
        for _ in progress(steps, len(todo)) if progress and todo else steps:
            pass
        places = finished(folder)
        write_manifest(folder, identity, places)
    classes = Counter(kind for name in wanted for kind in places[name].classes)
    with_failures = sum(bool(places[name].classes) for name in wanted)
    wall = time.perf_counter() - begun
    return Outcome(len(wanted), len(wanted) - len(todo), len(todo), with_failures, dict(classes), wall)


def hash_order(seed: int, name: str) -> bytes:
    """A key that sorts names by chance, the same for the same seed."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def build_chunk(folder: str, settings: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Build components in a child process, which may crash or take too long without harm to this one.

    Runs on an engine or in a thread. Rows go to journals in the folder; the ids of the finished components come back.
    """
    limit_s = float(settings["component_limit_s"])
    for job in jobs:
        kind = reason = ""
        for embed in (True, False):
            try:
                child = _CHILDREN.get()
                child.send({**job, "folder": folder, "settings": dict(settings), "embed": embed})
                if child.receive(limit_s) is not None:
                    break
                kind, reason = "time", f"not finished in {limit_s:g} s"
            except ChildLostError as error:
                kind, reason = "died", str(error)
            _CHILDREN.drop()
        else:
            Journal(Path(folder)).add({**failed(job["component"]["id"], kind, reason), "attempt": job["attempt"]})
    return [job["component"]["id"] for job in jobs]


class LocalProcesses:
    """So many processes on this machine, without a cluster.

    Examples
    --------
    >>> with LocalProcesses(2) as local:
    ...     executor, n = local.executor()
    >>> n
    2
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise RmsdSetError(f"processes is {n}, expected at least 1")
        self.n = n
        self._pool: ThreadPoolExecutor | None = None
        self._threads: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def executor(self) -> tuple[Executor, int]:
        """Return the executor, and how many tasks run at a time."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.n, initializer=self._begin)
        return self._pool, self.n

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        _CHILDREN.close(self._threads)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _begin(self) -> None:
        self._threads.add(threading.get_ident())
        _CHILDREN.open()


class _Children:
    """The child process of each thread that builds, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_thread: dict[int, JsonLineChild] = {}
        self._closed: set[int] = set()

    def get(self) -> JsonLineChild:
        """The child of this thread. Raises ChildLostError if it does not start."""
        me = threading.get_ident()
        with self._lock:
            known = self._by_thread.get(me)
        if known is not None and known.alive():
            return known
        self.drop()
        root = str(Path(__file__).resolve().parents[2])
        child = JsonLineChild(
            [sys.executable, "-m", "sddfkit.rmsd_set.worker"],
            directory=Path.cwd(),
            environment={
                **os.environ,
                **ONE_THREAD,
                "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
            },
            new_group=True,
        )
        with self._lock:
            self._by_thread[me] = child
            if me in self._closed:
                child.kill()
        if child.receive(START_LIMIT_S) is None:
            raise ChildLostError(f"it did not start within {START_LIMIT_S:.0f} s")
        return child

    def drop(self) -> None:
        """End the child of this thread. Raises RuntimeError where none may be started any more."""
        with self._lock:
            known = self._by_thread.pop(threading.get_ident(), None)
            closed = threading.get_ident() in self._closed
        if known is not None:
            known.kill()
        if closed:
            raise RuntimeError("the set is no longer being built")

    def open(self) -> None:
        """Allow this thread a child: its number may be that of one that was closed."""
        with self._lock:
            self._closed.discard(threading.get_ident())

    def close(self, threads: set[int]) -> None:
        """End the children of some threads, which get no others."""
        with self._lock:
            self._closed |= threads
            children = [self._by_thread[thread] for thread in threads if thread in self._by_thread]
        for child in children:
            child.kill()


_CHILDREN = _Children()


def _steps(
    folder: Path,
    dictionary: Dictionary,
    todo: Sequence[str],
    attempts: Mapping[str, int],
    settings: Settings,
    executor: OpenExecutor,
    chunk: int,
) -> Iterator[None]:
    """Submit and collect until nothing is left, yielding once per finished component."""
    if not todo:
        return
    engines, n_engines = executor()
    queue = deque(list(todo[start : start + chunk]) for start in range(0, len(todo), chunk))
    running: dict[Future[Any], list[str]] = {}
    losses: Counter[str] = Counter()
    beat = time.monotonic()
    try:
        while queue or running:
            while queue and len(running) < TASKS_PER_ENGINE * n_engines:
                names = queue.popleft()
                jobs = [
                    {"component": asdict(item), "attempt": attempts[item.id]}
                    for item in _usable(dictionary, names, attempts, folder)
                ]
                running[engines.submit(build_chunk, str(folder), asdict(settings), jobs)] = names
            done, _ = wait(running, timeout=HEARTBEAT_S, return_when=FIRST_COMPLETED)
            lost = False
            for future in done:
                names = running.pop(future)
                error = future.exception()
                if error is None:
                    yield from (None for _ in names)
                    continue
                lost = True
                there = finished(folder)
                left = [name for name in names if name not in there or there[name].attempt < attempts[name]]
                losses.update(left[:1])  # the first that is not finished was in work
                if left and losses[left[0]] >= ENGINE_LOSSES:
                    given_up = left.pop(0)
                    reason = f"its engine was lost {ENGINE_LOSSES} times: {type(error).__name__}: {error}"
                    Journal(folder).add({**failed(given_up, "engine_lost", reason), "attempt": attempts[given_up]})
                if left:
                    queue.append(left)
                yield from (None for _ in range(len(names) - len(left)))
            if lost or time.monotonic() - beat > HEARTBEAT_S:
                engines, n_engines = executor()  # replaces lost engines; raises where none is left
                beat = time.monotonic()
    finally:
        for future in running:
            future.cancel()


def _usable(
    dictionary: Dictionary, names: Sequence[str], attempts: Mapping[str, int], folder: Path
) -> Iterator[Component]:
    """Components whose entry in the dictionary is sound; the others are failures."""
    for name in names:
        try:
            yield dictionary[name]
        except RmsdSetError as error:
            Journal(folder).add({**failed(name, "input", str(error)), "attempt": attempts[name]})


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes; the kernel takes the lock back from one that dies."""
    with (folder / ".lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RmsdSetError(f"another process builds the set in {folder}: wait for it or stop it") from None
        yield
