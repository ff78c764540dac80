"""The engines of a cluster as an executor, on which nobody waits in vain.

ipyparallel's own futures are never completed once the controller is dead, and only some seconds after their engine is.
Those that are given out here fail at once in either case: the controller's death closes its connections, and an engine
says which task it has begun before it works on it.
"""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, Final

import ipyparallel as ipp
import zmq
from zmq.eventloop.zmqstream import ZMQStream

# Each belongs to another process of the controller.
CONNECTIONS: Final = ("query", "notification", "control", "mux", "task", "iopub", "broadcast")
CLOSE_LIMIT_S: Final = 5.0


class EngineGoneError(RuntimeError):
    """The engine that was asked something, or the controller in between, does not exist any more."""


class Engines(Executor):
    """The engines of a cluster, balanced by load, as an executor; each can be reached by itself as well.

    Attributes
    ----------
    lost
        Why no engine is reached any more, or None; then all futures fail with :class:`EngineGoneError`.
    ever
        The ids of all engines that have registered so far.
    here
        They run on this machine, as this user: what they keep in spools of their own can be read without asking them.
    """

    def __init__(self, client: ipp.Client, *, here: bool = False) -> None:
        self.here = here
        self.lost: str | None = None
        self.ever: set[int] = set(client.ids)
        self._client = client
        self._view = client.load_balanced_view(retries=0)
        self._lock = threading.Lock()
        self._open: dict[str, Future[Any]] = {}
        self._watched: list[ZMQStream] = []
        client._registration_callbacks.append(self._registration)
        self._in_io_thread(self._watch)
        self.ever |= set(client.ids)  # of an engine that came meanwhile nobody has told us

    def __len__(self) -> int:
        return 0 if self.lost else len(self._client.ids)

    def ids(self) -> list[int]:
        """Return the ids of the engines that can be reached."""
        return [] if self.lost else list(self._client.ids)

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """Give a call to the engine that has least to do; if that dies: :class:`EngineGoneError` in the future."""
        return self._send(lambda: self._view.apply_async(function, *args, **named))

    def on_each(self, function: Callable[..., Any], /, *args: Any) -> dict[str, Future[Any]]:
        """Call a function on every engine: a future for each."""
        return {str(engine): self.on_one(str(engine), function, *args) for engine in self.ids()}

    def on_one(self, engine: str, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Call a function on one engine; :class:`EngineGoneError` in the future if there is no such engine any more."""
        return self._send(lambda: self._client[int(engine)].apply_async(function, *args))

    def cancel(self) -> None:
        """Take back all calls: none that has not begun is begun any more, and their futures are cancelled."""
        with self._lock:
            taken, self._open = self._open, {}
        if taken and self.ids():
            with contextlib.suppress(ipp.error.IPythonError):
                self._client.abort(list(taken), block=False)
        for future in taken.values():
            future.cancel()
            future.set_running_or_notify_cancel()

    def close(self) -> None:
        """Leave the cluster as it is; calls that are still open fail."""
        self._fail_all("the connection to the engines was closed")
        if self._client._closed:
            return
        self._in_io_thread(self._unwatch)
        self._client.close(linger=0)

    def _send(self, send: Callable[[], ipp.AsyncResult]) -> Future[Any]:
        answer: Future[Any] = Future()
        if self.lost:
            answer.set_exception(EngineGoneError(self.lost))
            return answer
        try:
            sent = send()
        except (IndexError, ipp.error.NoEnginesRegistered) as error:
            answer.set_exception(EngineGoneError(str(error)))
            return answer
        identity = sent.msg_ids[0]
        with self._lock:
            self._open[identity] = answer
        sent.add_done_callback(partial(self._answered, identity))
        if self.lost:  # since the first look
            self._fail([identity], self.lost)
        return answer

    def _answered(self, identity: str, sent: Future[Any]) -> None:
        with self._lock:
            answer = self._open.pop(identity, None)
        if answer is None or not answer.set_running_or_notify_cancel():
            return
        error = sent.exception()
        if error is None:
            answer.set_result(sent.result())
        elif getattr(error, "ename", "") == "EngineError":  # ipyparallel's word for an engine that died
            answer.set_exception(EngineGoneError(str(error)))
        else:
            answer.set_exception(error)

    def _fail(self, identities: list[str], reason: str) -> None:
        with self._lock:
            failed = [self._open.pop(identity) for identity in identities if identity in self._open]
        for answer in failed:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(EngineGoneError(reason))

    def _fail_all(self, reason: str) -> None:
        self.lost = self.lost or reason
        with self._lock:
            waiting = list(self._open)
        self._fail(waiting, self.lost)

    def _registration(self, event: dict[str, Any]) -> None:
        """Note an engine that comes; when one goes, fail what it had begun."""
        if event.get("event") == "register":
            self.ever.add(int(event["id"]))
            return
        with self._lock:
            waiting = list(self._open)
        told = self._client.metadata
        begun = [item for item in waiting if item in told and told[item]["engine_uuid"] == event.get("uuid")]
        self._fail(begun, f"engine {event.get('id')} died during the call")

    def _watch(self) -> None:
        for name in CONNECTIONS:
            monitor = getattr(self._client, f"_{name}_socket").get_monitor_socket(zmq.EVENT_DISCONNECTED)
            stream = ZMQStream(monitor, self._client._io_loop)
            stream.on_recv(partial(self._disconnected, name))
            self._watched.append(stream)

    def _disconnected(self, name: str, _: list[bytes]) -> None:
        self._fail_all(f"the controller has closed its connection for {name}")

    def _unwatch(self) -> None:
        for name, stream in zip(CONNECTIONS, self._watched, strict=False):
            stream.close(linger=0)
            getattr(self._client, f"_{name}_socket").disable_monitor()
        self._watched = []

    def _in_io_thread(self, work: Callable[[], None]) -> None:
        """Do something where the client's sockets live, because none of them may be touched from two threads."""
        done = threading.Event()

        def run() -> None:
            try:
                work()
            finally:
                done.set()

        self._client._io_loop.add_callback(run)
        done.wait(CLOSE_LIMIT_S)
