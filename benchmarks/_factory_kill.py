"""Kill rounds: SIGKILL to engines, workers, controller and coordinator of a running batch; is anything lost, repeated?

One round is one SIGKILL to one process. Each has its share of the batch: it comes when so much of the work is on disk,
after a random delay, so that rounds are spread over the batch's life, sometimes one upon the other. Work is counted in
results, a DFT result as nine of GFN2-xTB: half of the time goes there. Victims are drawn in turn (each kind equally
often); the processes of a kind have equal chances. Whoever ends before the batch is done is started again, as a person
would do it: same command, same store.

A watcher looks at the spool and at the store all the time, and notes when the result of each key was first seen there.
Afterwards

lost
    keys that were asked for and have no result; there can be no second one, as the key is the table's primary key.
repeated
    keys of which an attempt began after their result had been seen on the disk, by the stored start of each attempt.
twice
    keys that were computed to the end more than once, for whatever reason: two can be at work on one key when a
    coordinator dies and its engines have not noticed yet.
held
    calculations that lost two workers under them, which the factory sets aside by design; they are put back once, as
    `sddfkit store retry` does, and the batch is run again.
orphans
    processes that descend from any coordinator of this run, whatever their parent is now: all inherit a mark.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import sqlalchemy as sa
from _factory_account import account
from _factory_coordinator import ASKED, BATCH
from _factory_work import BENCHMARKS, calculations, mixed, write_tasks

from sddfkit.factory import Calculation, Store, StoreError
from sddfkit.factory import store as tables
from sddfkit.factory.ingest import collect
from sddfkit.factory.reopen import reopen
from sddfkit.qc.spool import TOKEN_FILE, read_outcome

Row = dict[str, Any]
KINDS = ("engine", "worker", "controller", "coordinator")
MARK = "SDDFKIT_KILL_ROUNDS"
LOOK_S = 0.05
MEAN_DELAY_S = 0.5
LAST_SHARE = 0.93  # of the work; the last kill comes before all is done
NO_VICTIM_S = 60.0
HANGS_AFTER_S = 240.0
DFT_WEIGHT = 9.0


class Kill(NamedTuple):
    """One kill: who, when (s since the start), and what was on the disk then."""

    round: int
    kind: str
    pid: int
    at_s: float
    on_disk: int


def kill_rounds(folder: Path, rounds: int, n_jobs: int, seed: int) -> Row:
    """Run one batch through so many kills, and say what came of it.

    Parameters
    ----------
    folder
        Where store, spool and clusters are; the store is left there.
    rounds
        Number of kills.
    n_jobs
        Calculations: one in ten is DFT, the others GFN2-xTB.
    seed
        All that is drawn depends on it: molecules, moments, victims.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    tasks, about = mixed(n_jobs, 0.1, rng)
    write_tasks(folder / ASKED, tasks)
    run = _Run(folder, calculations(tasks))
    try:
        for number, (share, kind) in enumerate(zip(_shares(rounds, rng), _kinds(rounds, rng), strict=True), 1):
            if not run.reach(share):
                break
            run.look_for(float(rng.exponential(MEAN_DELAY_S)))
            run.kill(number, kind, rng)
        run.reach(1.0)
        run.finish()
        held = run.reopen_held()
        orphans = run.orphans()
    finally:
        run.end()
    return {"seed": seed, "jobs": about, "rounds_asked": rounds, "held": held, **run.figures(orphans)}


def _shares(rounds: int, rng: np.random.Generator) -> list[float]:
    """One moment at random in each of so many equal parts of the work."""
    return [float(share) for share in LAST_SHARE * (np.arange(rounds) + rng.random(rounds)) / rounds]


def _kinds(rounds: int, rng: np.random.Generator) -> list[str]:
    """Each kind equally often, in random order."""
    turns = [str(kind) for _ in range(-(-rounds // len(KINDS))) for kind in rng.permutation(KINDS)]
    return turns[:rounds]


class _Run:
    """The batch in its coordinators, and what the watcher has seen."""

    def __init__(self, folder: Path, asked: list[Calculation]) -> None:
        self.folder, self.spool = folder, folder / "spool"
        self.weights = {item.key: 1.0 if item.program == "tblite" else DFT_WEIGHT for item in asked}
        self.mark = secrets.token_hex(8)
        self.seen: dict[str, float] = {}
        self.kills: list[Kill] = []
        self.ended: Counter[str] = Counter()
        self.hangs = self.starts = 0
        self.started = self.last_news = self.ended_at = time.time()
        self.log = (folder / "coordinator.log").open("ab")
        self.done = False
        self.reader: Store | None = None
        self.coordinator = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        """Start a coordinator, with scratch folders below ours and a mark that all it starts inherit."""
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        self.starts += 1
        return subprocess.Popen(
            [sys.executable, str(BENCHMARKS / "_factory_coordinator.py"), str(self.folder), "2"],
            env={**os.environ, MARK: self.mark, "TMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def reach(self, share: float) -> bool:
        """Watch until so much of the work is on the disk; False once the batch is at its end."""
        total = sum(self.weights.values())
        while not self.done:
            if share < 1.0 and sum(self.weights[key] for key in self.seen) >= share * total:
                return True
            self.look()
            time.sleep(LOOK_S)
        return False

    def look_for(self, seconds: float) -> None:
        """Watch for a while."""
        end = time.time() + seconds
        while time.time() < end:
            self.look()
            time.sleep(max(0.0, min(LOOK_S, end - time.time())))

    def look(self) -> None:
        """Note what is on the disk, and start the coordinator again if it ended before its time."""
        new = self._on_disk() - self.seen.keys()
        at = time.time()
        self.seen |= dict.fromkeys(new, at)
        if new:
            self.last_news = at
        code = self.coordinator.poll()
        if code is None:
            if at - self.last_news > HANGS_AFTER_S:
                self.hangs += 1
                self.coordinator.kill()
        elif code == 0:
            self.done = True
        else:
            self.ended["killed" if code == -signal.SIGKILL else f"exit code {code}"] += 1
            if self.starts > 3 * len(self.kills) + 10:
                raise RuntimeError(f"the coordinator does not come to an end; its log is {self.log.name}")
            self.coordinator = self._start()
            self.last_news = time.time()

    def _on_disk(self) -> set[str]:
        """Keys whose result is whole in the spool or in the store, of those that we asked for."""
        found = set()
        for path in self.spool.glob("*.json") if self.spool.is_dir() else ():
            if path.stem in self.weights and path.stem not in self.seen:
                outcome = read_outcome(path)
                if outcome is not None and outcome.get("success"):
                    found.add(path.stem)
        if self.reader is None:
            with contextlib.suppress(StoreError):
                self.reader = Store(self.folder / "store.sqlite", read_only=True)
        if self.reader is not None:
            with contextlib.suppress(StoreError):
                found |= {row["key"] for row in self.reader.select(sa.select(tables.results.c.key))}
        return found & self.weights.keys()

    def kill(self, number: int, kind: str, rng: np.random.Generator) -> None:
        """Send SIGKILL to one process of a kind, as soon as there is one."""
        end = time.time() + NO_VICTIM_S
        while time.time() < end and not self.done:
            victims = self._processes(kind)
            if victims:
                victim = victims[int(rng.integers(len(victims)))]
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
                    at = time.time() - self.started
                    self.kills.append(Kill(number, kind, victim.pid, round(at, 2), len(self.seen)))
                    if kind == "coordinator":
                        self.coordinator.wait()
                    return
            self.look()
            time.sleep(LOOK_S)

    def _processes(self, kind: str) -> list[psutil.Process]:
        """Our processes of a kind, in the order of their numbers; what is started just now may be of no kind yet."""
        if kind == "coordinator":
            return [psutil.Process(self.coordinator.pid)] if self.coordinator.poll() is None else []
        return sorted((p for p in self._ours() if _kind(p) == kind), key=lambda p: p.pid)

    def _ours(self) -> Iterable[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self.mark:
                    yield process

    def finish(self) -> None:
        """Collect, as everybody does who opens the store again."""
        self.look()
        self.ended_at = time.time()
        with Store(self.folder / "store.sqlite") as store:
            collect(store)

    def reopen_held(self) -> int:
        """Put back what was set aside because two workers were killed under it, and run that."""
        with Store(self.folder / "store.sqlite") as store:
            held = sa.select(tables.calculations.c.key).where(tables.calculations.c.state == "held")
            keys = [row["key"] for row in store.select(held)]
            if keys:
                reopen(store, keys=keys)
        if keys:
            self.done = False
            self.coordinator = self._start()
            self.reach(1.0)
        return len(keys)

    def orphans(self) -> list[str]:
        """What still runs although the coordinator has ended in order; processes have five seconds to go."""
        end = time.time() + 5.0
        while left := list(self._ours()):
            if time.time() > end:
                return [_words(process) for process in left]
            time.sleep(0.1)
        return []

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self.coordinator.poll() is None:
            self.coordinator.kill()
            self.coordinator.wait()
        for process in list(self._ours()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.reader is not None:
            self.reader.close()
        self.log.close()

    def figures(self, orphans: list[str]) -> Row:
        """What came of it."""
        with Store(self.folder / "store.sqlite", read_only=True) as store:
            found = account(store, BATCH, self.weights.keys(), self.seen)
        kinds = Counter(kill.kind for kill in self.kills)
        first = found.pop("first")
        return {
            "calculations": len(self.weights),
            "rounds": len(self.kills),
            "kills": {kind: kinds[kind] for kind in KINDS},
            "moments": [kill._asdict() for kill in self.kills],
            "on_disk_s": [round(at - self.started, 2) for at in sorted(first.values())],
            "seconds": round(self.ended_at - self.started, 1),
            "coordinator_starts": self.starts,
            "coordinator_ends": dict(self.ended),
            "hangs": self.hangs,
            **found,
            "orphans": len(orphans),
            "orphan_processes": orphans,
            "left_in_spool": sum(path.name != TOKEN_FILE for path in self.spool.iterdir()),
            "left_scratch_folders": sum(1 for _ in (self.folder / "scratch").iterdir()),
        }


def _kind(process: psutil.Process) -> str | None:
    """What a process of a cluster is, by its command line."""
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return None
    for part, kind in (
        ("sddfkit.qc.worker", "worker"),
        ("ipyparallel.engine.nanny", None),  # it watches an engine and does nothing itself
        ("ipyparallel.engine", "engine"),
        ("ipyparallel.controller", "controller"),
    ):
        if part in command:
            return kind
    return None


def _words(process: psutil.Process) -> str:
    try:
        return f"{process.pid}: {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return str(process.pid)
