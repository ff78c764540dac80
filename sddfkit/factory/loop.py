"""The coordinator's loop: claim what is longest, give it to engines, take in what comes back, until nothing is left."""

import contextlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, Final

import sqlalchemy as sa

from sddfkit.factory import inbox
from sddfkit.factory.claims import Claim, claim, give_back, of_batch, open_groups
from sddfkit.factory.cluster import ClusterError
from sddfkit.factory.costs import CostModel
from sddfkit.factory.ingest import Arrived, ReachesEngines, collect, hand_over, ingest
from sddfkit.factory.reopen import ReopenError, reopen
from sddfkit.factory.retry import recipe
from sddfkit.factory.spools import spools
from sddfkit.factory.store import Store, StoreError, calculations, now
from sddfkit.qc import supervisor
from sddfkit.qc.spool import read_outcome, running_elsewhere, spool_path

logger = logging.getLogger(__name__)

OpenExecutor = Callable[[], tuple[Executor, int]]

HEARTBEAT_S: Final = 20.0
"""How often the lease is renewed, and the cluster asked whether it is well."""
TICK_S: Final = 0.5
"""How often the inbox, and what runs without us, is looked at."""
HAND_OVER_S: Final = 60.0  # for an idle engine
MESSAGE_S: Final = 0.5
"""Short calculations share a message that is expected to take so long."""
LONGEST_MESSAGE: Final = 64
LONG_S: Final = 2.0
"""An engine that has so much to do is given nothing more: whoever is free first shall have the next calculation."""
UNSTARTED_IN_A_ROW: Final = 30
_NOT_OURS: Final = frozenset({"ImportError", "ModuleNotFoundError", "AttributeError"})


class Loop:
    """Works through what is open in one batch; made anew for each run.

    Parameters
    ----------
    store
        A store opened for writing.
    batch
        Name of the batch.
    executor
        Returns an executor and its number of engines; asked again whenever engines were lost.
    timeout_s, memory_gib
        Limits of one calculation.
    """

    def __init__(
        self, store: Store, batch: str, executor: OpenExecutor, *, timeout_s: float, memory_gib: float
    ) -> None:
        self.store = store
        self.batch = batch
        self._executor = executor
        self._timeout_s = timeout_s
        self._memory_gib = memory_gib
        self._model = CostModel()
        self._since = time.time()
        self._trouble: StoreError | None = None
        self._unstarted = 0
        self._groups: set[tuple[str, str]] = set()  # of what may be ready
        self._pending: deque[Claim] = deque()
        self._running: dict[Future[Any], list[Claim]] = {}
        self._watched: dict[str, Claim] = {}  # computed by an engine that somebody else gave it to
        self._stop = threading.Event()
        self._stop_now = threading.Event()
        self._stale = threading.Event()
        self._stale.set()
        self._kept_elsewhere = False
        self._per_message = 1

    def stop(self, *, now: bool = False) -> None:
        """Give nothing more to the engines; `now`: do not wait for what they have. May be called from any thread."""
        if now:
            self._stop_now.set()
        self._stop.set()

    def wake(self) -> None:
        """Say that there is more to do."""
        self._stale.set()

    def steps(self) -> Generator[None]:
        """Do the work, yielding once per calculation that needs no more attempts."""
        ended = threading.Event()
        beating = threading.Thread(target=self._beat, args=(ended,), name="heartbeat", daemon=True)
        beating.start()
        try:
            yield from self._work()
        finally:
            ended.set()
            self._leave()
            beating.join()
        if self._trouble is not None:
            raise self._trouble

    def _beat(self, ended: threading.Event) -> None:
        """Renew the lease however long engines take to come or to answer."""
        while not ended.wait(HEARTBEAT_S):
            try:
                self.store.heartbeat()
            except StoreError as error:  # somebody else has taken the store
                self._trouble = error
                self.stop(now=True)
                return

    def _work(self) -> Generator[None]:
        give_back(self.store)  # of an earlier run on this store that ended in the middle
        self._model = CostModel.fit(self.store)
        engines, n_engines = self._executor()
        if isinstance(engines, ReachesEngines):
            engines.on_each(supervisor.prepare)
        before = self._open()
        self._take_over(engines, self._timeout_s + HAND_OVER_S)  # what is there is not computed again
        for _ in range(before - self._open()):
            yield
        beat = time.monotonic()
        while not self._stop_now.is_set():
            self._take_requests()
            if not self._stop.is_set():
                self._fill(engines, n_engines)
            if not self._running and not self._watched and self._finished():
                break
            lost = False
            for state in self._settle():
                lost |= state == "lost"
                if state != "lost":
                    yield
            if lost or time.monotonic() - beat > HEARTBEAT_S:
                engines, n_engines = self._executor()  # replaces lost engines; raises where none is left
                beat = time.monotonic()
                if self.store.database.shared:  # others may have added to the queue, or died
                    self._stale.set()
        if self._kept_elsewhere and not self._stop_now.is_set():
            self._take_over(engines, HAND_OVER_S)

    def _take_over(self, engines: Executor, limit_s: float) -> None:
        """Take in what engines have kept for us; engines of this machine need not be asked, and may be busy."""
        if isinstance(engines, ReachesEngines):
            if engines.here:
                collect(self.store)
            else:
                hand_over(self.store, engines, limit_s)

    def _open(self) -> int:
        """Count what is neither done nor failed."""
        statement = sa.select(sa.func.count().label("n")).where(
            calculations.c.state.in_(("ready", "running")), of_batch(self.batch)
        )
        return int(self.store.select(statement)[0]["n"])

    def _finished(self) -> bool:
        """Say whether nothing is left, with nothing in flight; what other coordinators have is waited for."""
        if self._stop.is_set():
            return True
        return not self._pending and not self._stale.is_set() and self._open() == 0

    def _take_requests(self) -> None:
        for request in inbox.take(self.store.inbox, self.batch):
            if request["do"] == "stop":
                if request["at"] >= self._since:  # one that is older was for a job that is gone
                    logger.warning("process %s on %s asks to stop", request["by"]["pid"], request["by"]["host"])
                    self.stop(now=request["now"])
            else:
                try:
                    reopen(self.store, classes=request["classes"], keys=request["keys"])
                except ReopenError as error:
                    logger.warning("a request to retry was refused: %s", error)
                self.wake()

    def _fill(self, engines: Executor, n_engines: int) -> None:
        """Give messages to engines that have too little to do."""
        while len(self._running) < n_engines * self._messages_per_engine():
            if not self._pending:
                self._claim(n_engines)
            message = self._next_message(n_engines)
            if not message:
                return
            self._running[self._submit(engines, message)] = message

    def _messages_per_engine(self) -> int:
        """One more than an engine works at, unless that would make a long calculation wait behind another."""
        longest = max(
            (sum(item.seconds or LONG_S for item in message) for message in self._running.values()), default=0.0
        )
        return 1 if longest >= LONG_S else 2

    def _claim(self, n_engines: int) -> None:
        if self._stale.is_set():
            self._stale.clear()
            self._groups = set(open_groups(self.store, self.batch))
        if not self._groups:
            return
        number = 2 * n_engines * self._per_message
        elsewhere = self._elsewhere()
        claimed = claim(self.store, self.batch, self._groups, self._model, number)
        for item in claimed:
            if item.key in elsewhere:
                self._watched[item.key] = item
            else:
                self._pending.append(item)
        if len(claimed) < number:
            self._groups.clear()  # until something is added, or comes back
        if claimed and claimed[-1].seconds is not None:  # those that follow are no longer than the last
            self._per_message = int(min(LONGEST_MESSAGE, max(1.0, MESSAGE_S / max(claimed[-1].seconds, 1e-3))))

    def _next_message(self, n_engines: int) -> list[Claim]:
        """Take the next calculation, and those after it that are short enough to come along."""
        message: list[Claim] = []
        expected = 0.0
        most = max(1, min(LONGEST_MESSAGE, len(self._pending) // n_engines))  # at the end, something for everybody
        while self._pending and len(message) < most:
            seconds = self._pending[0].seconds
            if message and (seconds is None or expected + seconds > MESSAGE_S):
                break
            message.append(self._pending.popleft())
            expected += seconds if seconds is not None else MESSAGE_S
        return message

    def _submit(self, engines: Executor, message: Sequence[Claim]) -> Future[Any]:
        jobs = [
            {
                "key": item.key,
                "input": json.loads(item.input),
                "timeout_s": self._timeout_s,
                **recipe(item.failures, item.program, self._memory_gib),
            }
            for item in message
        ]
        return engines.submit(
            supervisor.calculate_many,
            jobs,
            spool=str(self.store.spool),
            owner=self.store.owner,
        )

    def _settle(self) -> list[str]:
        """Wait a moment and take in what came back; "lost" for each message whose engine is gone, else final states."""
        arrived: list[Arrived] = []
        claims: dict[str, Claim] = {}
        states: list[str] = []
        done: set[Future[Any]] = set()
        if self._running:
            done, _ = wait(self._running, timeout=TICK_S, return_when=FIRST_COMPLETED)
        elif not self._pending:  # for what runs elsewhere
            self._stop_now.wait(TICK_S)
            self._stale.set()
        for future in done:
            message = self._running.pop(future)
            claims |= {item.key: item for item in message}
            outcomes, gone = self._outcomes(future, message)
            arrived += outcomes
            states += ["lost"] if gone else []
        arrived += self._arrived_elsewhere(claims)
        self._kept_elsewhere |= any(item.path is None and item.outcome["success"] for item in arrived)
        if not arrived:
            return states
        settled = ingest(self.store, arrived)
        self._look_at_disks(arrived, n_messages=len(done))
        for item in arrived:
            mine = claims[item.key]
            if settled[item.key] == "done":
                self._model.learn(mine.level, mine.program, mine.cost, item.outcome.get("wall_s"))
            elif settled[item.key] == "ready":
                self._groups.add((mine.level, mine.program))
        return states + [state for state in settled.values() if state != "ready"]

    def _look_at_disks(self, arrived: Sequence[Arrived], n_messages: int) -> None:
        """End the run where nothing can be started any more: an engine without room would fail the whole queue."""
        for item in arrived:
            self._unstarted = self._unstarted + 1 if item.outcome["error_class"] == "disk" else 0
        if self._unstarted >= UNSTARTED_IN_A_ROW and n_messages:
            raise ClusterError(
                f"the last {self._unstarted} calculations failed for want of disk space "
                f"({arrived[-1].outcome['error_message']}): what was finished is kept, and these are tried again when "
                "they are asked for again"
            )

    def _outcomes(self, future: Future[Any], message: Sequence[Claim]) -> tuple[list[Arrived], bool]:
        """Return what a message brought, and whether its engine is gone.

        A lost engine is an outcome of the calculation that it was at; those after it had not begun and are given back.
        """
        error = future.exception()
        if error is None:
            answers = {answer["key"]: answer for answer in future.result()}
            return [self._answered(item.key, answers.get(item.key)) for item in message], False
        if getattr(error, "ename", "") in _NOT_OURS:
            raise ClusterError(
                f"the engines cannot run sddfkit: {error}: install this version of sddfkit[label] for their Python"
            ) from error
        found = [self._spooled(item.key) for item in message]
        arrived = [item for item in found if item is not None]
        unfinished = [item.key for item, there in zip(message, found, strict=True) if there is None]
        if unfinished:
            arrived.append(_lost(unfinished[0], f"{type(error).__name__}: {error}"))
            give_back(self.store, unfinished[1:])
            self._groups |= {(item.level, item.program) for item in message}
        return arrived, True

    def _answered(self, key: str, answer: dict[str, Any] | None) -> Arrived:
        if answer is None:
            return _lost(key, "the engine's answer does not speak of it")
        if "result" in answer:  # whole, because the engine keeps it in a spool of its own
            return Arrived(key, answer, None)
        if (spooled := self._spooled(key)) is not None:
            return spooled
        if answer["error_class"] is not None:  # it could not be written anywhere: full disks, say
            return Arrived(key, answer, None)
        return _lost(key, f"the engine answered, but its result {answer['path']} cannot be read")

    def _spooled(self, key: str) -> Arrived | None:
        """Return what lies in our spool, or where an engine of a coordinator that is gone has left it."""
        for folder in (self.store.spool, *spools(self.store.database)):
            path = spool_path(folder, key)
            if (outcome := read_outcome(path)) is not None:
                return Arrived(key, outcome, path)
        return None

    def _elsewhere(self) -> set[str]:
        """Return what living engines compute that were not given it here."""
        return {key for folder in {self.store.spool, *spools(self.store.database)} for key in running_elsewhere(folder)}

    def _arrived_elsewhere(self, claims: dict[str, Claim]) -> list[Arrived]:
        """Return what engines finished for a coordinator that is dead; what dead engines had is ours to compute."""
        if not self._watched:
            return []
        living = self._elsewhere()
        found = []
        for key in list(self._watched):
            if (spooled := self._spooled(key)) is not None:
                found.append(spooled)
                claims[key] = self._watched.pop(key)
            elif key not in living:
                self._pending.append(self._watched.pop(key))
        return found

    def _leave(self) -> None:
        """Give back what was claimed and is not done; its results are taken in whenever they come."""
        for future in self._running:
            future.cancel()
        with contextlib.suppress(StoreError):  # of a full disk, say: the next run, or the next opening, does it
            give_back(self.store)


def _lost(key: str, reason: str) -> Arrived:
    outcome = {
        "success": False,
        "error_class": "engine_lost",
        "error_message": reason[:2000],
        "started": now(),
        "finished": now(),
    }
    return Arrived(key, outcome, None)
