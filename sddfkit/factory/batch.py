"""A batch: what somebody asked for, run on an executor until nothing is left to do."""

import json
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import sqlalchemy as sa

from sddfkit.factory import inbox
from sddfkit.factory.claims import of_batch
from sddfkit.factory.cluster import Cluster
from sddfkit.factory.ingest import collect
from sddfkit.factory.jobs import Calculation, Refusal, planned, record_document
from sddfkit.factory.loop import Loop, OpenExecutor
from sddfkit.factory.progress import Learnt, Progress, frames
from sddfkit.factory.reopen import reopen
from sddfkit.factory.retry import OPEN_AGAIN
from sddfkit.factory.store import Store, StoreError, attempts, batches, calculations, now, requests
from sddfkit.qc.inputs import Structure
from sddfkit.qc.levels import ChosenProgram, Level

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from sddfkit.viz.batch_monitor import BatchMonitor

logger = logging.getLogger(__name__)

ProgressBar = Callable[[Iterator[None], int], Iterable[None]]
ADDED_AT_ONCE = 1000
STORE_NAME = "store.sqlite"


class BatchOutcome(NamedTuple):
    """What a run of a batch did: how many calculations were known before, computed now, failed, and the time spent."""

    known: int
    computed: int
    failed: int
    program_wall_s: float
    core_hours: float


class Submitted(NamedTuple):
    """How many calculations are new, how many were known (finished or failed for good), and what was refused."""

    new: int
    known: int
    refusals: list[Refusal]


class Batch:
    """The calculations asked for under one name.

    Parameters
    ----------
    store
        A store; one that is opened read-only shows the batch, and requests go to whoever writes it.
    name
        Names the batch; asking again under the same name adds to it.
    timeout_s, memory_gib
        Limits of one calculation.
    """

    def __init__(self, store: Store, name: str, *, timeout_s: float = 600.0, memory_gib: float = 4.0) -> None:
        self.store = store
        self.name = name
        self.timeout_s = timeout_s
        self.memory_gib = memory_gib
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        self._result: BatchOutcome | BaseException | None = None
        self._owns_store = False
        self._learnt = Learnt()
        if not store.read_only and store.busy is None:  # else the batch that runs takes them in
            collect(store)

    @classmethod
    def open(cls, name: str, root: str | Path = "sddfkit-data", *, spool: str | Path | None = None) -> Self:
        """Open a batch again by its name: after the kernel was restarted, say, or while another process runs it.

        Results that arrived meanwhile are taken in. Where no living process writes the store, the batch can be run;
        otherwise it is shown, and :meth:`stop` and :meth:`retry` are passed on to the process that does.

        Parameters
        ----------
        name
            Of the batch.
        root
            The folder that holds ``store.sqlite``, that file, or the URL of a store.
        spool
            Of a store on a server: the folder where engines leave results, without which the batch cannot be run.

        Raises
        ------
        StoreError
            If there is no such store or batch; the message names those that are there.
        """
        path = str(root)
        if "://" not in path and not path.endswith(".sqlite"):
            path = str(Path(path) / STORE_NAME)
        with Store(path, spool=spool, read_only=True) as reader:
            found = {row["name"]: row for row in reader.select(sa.select(batches))}
            taken = reader.writer() is not None and not reader.database.shared
        if name not in found:
            names = ", ".join(sorted(found)) or "none"
            raise StoreError(f"{path} has no batch {name!r}; there: {names}")
        row = found[name]
        store = Store(path, spool=spool, read_only=taken)
        batch = cls(store, name, timeout_s=row["timeout_s"], memory_gib=row["memory_gib"])
        batch._owns_store = True
        return batch

    def submit(self, records: Iterable[Structure], level: Level, chosen: ChosenProgram) -> Submitted:
        """Ask for the calculations of records, in a stream: memory stays flat, and what is known costs next to nothing.

        Parameters
        ----------
        records
            As :func:`sddfkit.factory.jobs.plan`; named tuples, which the store keeps.
        level, chosen
            The level of theory, and the program that it chose.
        """
        new = known = 0
        refusals: list[Refusal] = []

        rest = iter(records)
        while some := list(islice(rest, ADDED_AT_ONCE)):
            states: _States = {}

            def look_up(keys: Collection[str], states: _States = states) -> Collection[str]:
                states.update(self._states(keys))
                return states.keys()

            wanted = []
            for item in planned(some, level, chosen, known=look_up):
                if isinstance(item, Refusal):
                    refusals.append(item)
                else:
                    wanted.append(item)
            by_id = {record.record_id: record for record in some}
            self.store.add_records(
                record_document(by_id[item.record_id])
                for item in wanted
                if item.key not in states and item.record_id is not None
            )
            settled = self._add(wanted, states)
            known += settled
            new += len({item.key for item in wanted} - states.keys())
        return Submitted(new, known, refusals)

    def add(self, wanted: Sequence[Calculation]) -> int:
        """Ask for calculations and return how many of them are known already (finished or failed for good).

        Failures for reasons that lay outside the calculation are open again.
        """
        settled = 0
        for start in range(0, len(wanted), ADDED_AT_ONCE):
            some = wanted[start : start + ADDED_AT_ONCE]
            settled += self._add(some, self._states({item.key for item in some}))
        return settled

    def _states(self, keys: Collection[str]) -> "_States":
        """Return state and error class of the calculations that are known, by key."""
        statement = sa.select(calculations.c.key, calculations.c.state, calculations.c.error_class)
        with self.store.reading() as connection:
            rows = connection.execute(statement.where(self.store.among(calculations.c.key, keys))).all()
        return {key: (state, error_class) for key, state, error_class in rows}

    def _add(self, wanted: Sequence[Calculation], states: "_States") -> int:
        if not wanted:
            return 0
        keys = sorted({item.key for item in wanted})
        new = {item.key: item for item in wanted if item.key not in states}
        again = [key for key, (state, why) in states.items() if state == "failed" and why in OPEN_AGAIN]
        with self.store.writing() as connection:
            about = {"name": self.name, "timeout_s": self.timeout_s, "memory_gib": self.memory_gib, "created": now()}
            connection.execute(self.store.insert(batches).on_conflict_do_nothing(), [about])
            limits = {"timeout_s": self.timeout_s, "memory_gib": self.memory_gib}
            connection.execute(batches.update().where(batches.c.name == self.name).values(limits))
            if new:
                connection.execute(
                    self.store.insert(calculations).on_conflict_do_nothing(), [_row(new[key]) for key in sorted(new)]
                )
            connection.execute(
                self.store.insert(requests).on_conflict_do_nothing(), [{"batch": self.name, "key": key} for key in keys]
            )
            if again:
                failed = (self.store.among(calculations.c.key, again), calculations.c.state == "failed")
                connection.execute(calculations.update().where(*failed).values(state="ready"))
        if self._loop is not None:
            self._loop.wake()
        still = sum(state in ("ready", "running") for state, _ in states.values())
        return len(states) - still - len(again)

    def open_count(self) -> int:
        """Return how many calculations of this batch are still to be done."""
        return self._count(calculations.c.state.in_(("ready", "running")))

    def run(
        self,
        executor: OpenExecutor,
        *,
        progress: ProgressBar | None = None,
    ) -> BatchOutcome:
        """Do what is open in this batch.

        Parameters
        ----------
        executor
            Called once there is something to do; returns an executor and its number of engines.
        progress
            Wraps an iterator that steps once per finished calculation, given the total: a progress bar.

        Notes
        -----
        A KeyboardInterrupt leaves the batch as it is: everything that had reached the spool is in the store the next
        time it is opened, and the rest is still open.
        """
        return self._run(self._occupy(executor), progress)

    def _occupy(self, executor: OpenExecutor) -> Loop:
        """Return the loop of a run, beside which no other can begin on this store."""
        self.store.occupy(self.name)
        self._loop = Loop(self.store, self.name, executor, timeout_s=self.timeout_s, memory_gib=self.memory_gib)
        return self._loop

    def _run(self, loop: Loop, progress: ProgressBar | None = None) -> BatchOutcome:
        try:
            return self._work(loop, progress)
        finally:
            self._free()

    def _free(self) -> None:
        """Let another run begin on this store."""
        self._loop = None
        self.store.busy = None

    def _work(self, loop: Loop, progress: ProgressBar | None) -> BatchOutcome:
        left = self.open_count()
        known = self._count(sa.true()) - left
        if not left:
            return BatchOutcome(known, 0, 0, 0.0, 0.0)
        first_new = self._last_attempt()
        failed_before = self._count(calculations.c.state.in_(("failed", "held")))
        done_before = self._count(calculations.c.state == "done")
        steps = loop.steps()
        try:
            for _ in progress(steps, left) if progress else steps:
                pass
        finally:
            steps.close()
        return BatchOutcome(
            known=known,
            computed=self._count(calculations.c.state == "done") - done_before,
            failed=self._count(calculations.c.state.in_(("failed", "held"))) - failed_before,
            **self._spent(first_new),
        )

    def start(self, cluster: Cluster | None = None, *, engines: int = 2, keep: bool = False) -> None:
        """Run the batch in the background, so that the kernel stays free; :meth:`wait` for it, or look at it.

        Parameters
        ----------
        cluster
            Where to compute; it is stopped when the batch has ended. Without one, so many `engines` on this machine, in
            a folder of the batch's name: if the kernel dies, they finish what they have, and the next `start` takes
            them over.
        engines, keep
            Number of engines on this machine, if there is no cluster; with `keep` they remain when the kernel is
            restarted in order, too.

        Raises
        ------
        StoreError
            If another process writes the store.
        """
        if self.store.read_only:
            writer = self.store.writer()
            who = f"process {writer['pid']} on {writer['host']}" if writer else "another process"
            raise StoreError(
                f"{who} writes {self.store.name}: wait for it, or stop it by batch.stop(); then open again"
            )
        if self.running:
            return
        chosen = cluster or Cluster(self._clusters() / self.name.replace("/", "-"), engines=engines, keep=keep)
        loop = self._occupy(chosen.executor)
        self._result = None

        def work() -> None:
            try:
                with chosen:
                    self._result = self._run(loop)
            except BaseException as error:  # handed over to whoever waits
                self._result = error
                logger.warning("the batch %s ended: %s", self.name, error)
            finally:
                if self._loop is loop:  # the cluster could not be entered; else another batch may be running by now
                    self._free()

        self._thread = threading.Thread(target=work, name=f"batch {self.name}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the batch runs in the background of this process."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, timeout_s: float | None = None) -> BatchOutcome | None:
        """Wait for the run in the background and return its outcome; None if it goes on after `timeout_s`.

        Raises
        ------
        Exception
            What ended the run, if it did not end in order.
        """
        if self._thread is None:
            return None
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return None
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result

    def stop(self, *, now: bool = False) -> bool:
        """Give nothing more to the engines; with `now`, do not wait for what they have. The rest stays open.

        Returns
        -------
        bool
            Whether the batch is running anywhere: here, or in the process that writes the store, which is asked to.
        """
        if self._loop is not None:
            self._loop.stop(now=now)
            return True
        elsewhere = self.store.read_only or self.store.database.shared
        if not elsewhere or self.store.writer() is None:
            return False
        inbox.leave(self.store.inbox, {"do": "stop", "batch": self.name, "now": now})
        return True

    def retry(self, classes: Collection[str] = (), keys: Sequence[str] = ()) -> dict[str, int]:
        """Put failed and held calculations back into the queue; see :func:`sddfkit.factory.reopen.reopen`.

        Where another process writes the store, it is asked to, and the answer is empty.
        """
        if self.store.read_only:
            inbox.leave(self.store.inbox, {"do": "retry", "classes": list(classes), "keys": list(keys)})
            return {}
        found = reopen(self.store, classes=classes, keys=keys)
        if self._loop is not None:
            self._loop.wake()
        return found

    def progress(self) -> Progress:
        """Return how far the batch is: counts, speed, cost, time left, engines, failures.

        Raises
        ------
        StoreError
            If nothing has been asked for under its name.
        """
        return self._learnt.look(self.store, self.name)

    def frames(self) -> dict[str, "pd.DataFrame"]:
        """Return every number as tables: ``states``, ``engines``, ``failures`` and ``attempts``."""
        return frames(self.store, self.name)

    def monitor(self, *, interval_s: float = 2.0) -> "BatchMonitor":
        """Return a live view for a notebook, with buttons for :meth:`retry` and :meth:`stop`.

        Parameters
        ----------
        interval_s
            How long to wait between two looks, s.
        """
        try:
            from sddfkit.viz.batch_monitor import BatchMonitor
        except ModuleNotFoundError as error:
            raise StoreError(f"a view in a notebook needs more ({error}): pip install 'sddfkit[view]'") from error
        return BatchMonitor(self, interval_s=interval_s)

    def close(self) -> None:
        """Stop what runs in the background, in order, and close the store if :meth:`open` opened it."""
        try:
            if self.running:
                self.stop()
                self.wait()
        finally:
            if self._owns_store:
                self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _clusters(self) -> Path:
        return self.store.inbox.parent / "clusters"

    def _count(self, condition: sa.ColumnElement[bool]) -> int:
        statement = (
            sa.select(sa.func.count().label("n")).select_from(calculations).where(condition, of_batch(self.name))
        )
        return int(self.store.select(statement)[0]["n"])

    def _last_attempt(self) -> int:
        return int(self.store.select(sa.select(sa.func.coalesce(sa.func.max(attempts.c.id), 0).label("id")))[0]["id"])

    def _spent(self, first_new: int) -> dict[str, float]:
        sums = sa.select(
            sa.func.coalesce(sa.func.sum(attempts.c.wall_s), 0.0).label("wall"),
            sa.func.coalesce(sa.func.sum(attempts.c.cpu_s), 0.0).label("cpu"),
        ).where(
            attempts.c.id > first_new,
            sa.exists().where(requests.c.batch == self.name, requests.c.key == attempts.c.key),
        )
        (row,) = self.store.select(sums)
        return {"program_wall_s": float(row["wall"]), "core_hours": float(row["cpu"]) / 3600.0}


_States = dict[str, tuple[str, str | None]]


def _row(item: Calculation) -> dict[str, Any]:
    return {
        "key": item.key,
        "record_id": item.record_id,
        "level": item.level,
        "program": item.program,
        "program_version": item.program_version,
        "label": item.label,
        "cost": item.cost,
        "input": json.dumps(item.input, sort_keys=True),
        "state": "ready",
        "created": now(),
    }
