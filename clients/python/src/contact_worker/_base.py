"""What both faces of a worker share: how it is set, its handler, and what becomes of what that returns or raises."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping
from typing import Any, Callable, Optional, Union

from ._channel import Path, Target, worker_address
from ._engine import Engine
from ._ledger import Job, time_limit_outcome
from ._settings import Settings
from ._wire import contact_pb2 as pb
from .task import Duration, Fail, Reply, Retry, Task, seconds, sendable

log = logging.getLogger("contact_worker")

Handler = Callable[[Task], Any]
#: What a handler may return.
Returned = Union[str, bytes, Reply, None]
#: What a program is told to end by.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Programs that start others pass a Ctrl-C on that the terminal sent to both: one that comes so soon, in seconds, is the same.
DOUBLED = 0.5
#: Delays longer than a field of the wire has room for are cut to that: 49 days.
_MOST_MS = 2**32 - 1


class BaseWorker:
    """How a worker is set; see `Worker`."""

    _default_concurrency = 1

    def __init__(
        self,
        server: Optional[str] = None,
        *,
        group: Optional[str] = None,
        id: Optional[str] = None,
        labels: Union[Mapping[str, str], str, None] = None,
        concurrency: Optional[int] = None,
        window: Optional[int] = None,
        batch: Optional[int] = None,
        start_at: Optional[str] = None,
        heartbeat: Optional[Duration] = 15,
        announce_begin: bool = True,
        grace: Duration = 25,
        renew_every: Duration = 10,
        confirm_every: Duration = 1,
        first_backoff: Duration = 1,
        most_backoff: Duration = 30,
        ca: Optional[Path] = None,
        cert: Optional[Path] = None,
        key: Optional[Path] = None,
        token: Optional[str] = None,
        token_file: Optional[Path] = None,
    ) -> None:
        """Sets a worker. It connects when it is started. Times are seconds, or timedeltas.

        server: where the server listens for workers, host:port; without it `CONTACT_SERVER` of the environment, or else this machine.
        group: share tasks with the other workers that name this group.
        id: a stable name. Without a group, the worker gets every task for it and for all, and settles them for itself.
            Without an id, one that has no token and no certificate is called by its machine and its process: berlin-4711-3f9a.
        labels: what it is, as in {"os": "linux"}: tasks may be for those whose labels match.
        concurrency: how many tasks are handled at the same time: threads (1), or coroutines (10 with `contact_worker.aio`).
        window: most tasks that are held; without it, one more than are handled, or a whole batch. More is faster for small tasks.
        batch: most tasks in one message: worth much for small tasks.
        start_at: where a group that is new begins: "first", with what the server keeps, or "new"; else as the server is set.
        heartbeat: the server is to say something after so much silence, and given up after three times that; None: for ever.
        announce_begin: tell the server before a task is begun, so that one that was delivered and not begun spends no attempt. Without,
            small tasks go several times as fast, and what was delivered counts as begun.
        grace: how long a stop waits for what runs. What has not ended then goes to others; 25 s are within what Kubernetes gives.
        renew_every: how often leases are renewed; well below the server's --ack-timeout.
        confirm_every: how long a result may be unconfirmed before the server is asked to confirm.
        first_backoff, most_backoff: the longest wait before the first try to connect again, and before any.
        ca, cert, key: TLS: the file of the server's authority ("system": those of this machine), and of a certificate of one's own.
        token, token_file: what says who calls. The file is read again for each connection.
        """
        self._target = Target(worker_address(server), ca=ca, cert=cert, key=key, token=token, token_file=token_file)
        self._settings = Settings(
            group=group,
            id=id,
            labels=labels,
            concurrency=self._default_concurrency if concurrency is None else concurrency,
            window=window,
            batch=batch,
            start_at=start_at,
            heartbeat=None if heartbeat is None else seconds(heartbeat),
            announce_begin=announce_begin,
            grace=seconds(grace),
            renew_every=seconds(renew_every),
            confirm_every=seconds(confirm_every),
            first_backoff=seconds(first_backoff),
            most_backoff=seconds(most_backoff),
        )
        self._name = group or id or ""
        self._handler: Optional[Handler] = None
        self._engine: Optional[Engine] = None

    def _set_handler(self, handler: Handler) -> None:
        known = self._handler
        # One that is defined again, as a notebook does, takes the place of the first.
        if known is not None and _name_of(known) != _name_of(handler):
            raise ValueError(f"the worker has a handler already, {_name_of(known)}: tell tasks apart in one, or make a worker for each")
        self._handler = handler

    def _new_engine(self, on_ready: Callable[[], None], on_revoked: Callable[[list[Job]], None]) -> Engine:
        if self._handler is None:
            raise ValueError("the worker has no handler: decorate a function with @worker.task")
        if self._engine is not None:
            self._engine.check_process()
            if not self._engine.ended.is_set():
                raise RuntimeError("the worker is running already")
        self._engine = engine = Engine(self._target, self._settings.named(self._target), on_ready, on_revoked)
        return engine

    def _running(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("the worker was not started: call start() or run(), or use it in a with statement")
        return self._engine

    def _raise_error(self) -> None:
        error = self._running().error
        if error is not None:
            raise error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._target.address!r}, {self._name!r})"


def result_of(value: Any) -> Any:
    """The message for what a handler returned."""
    if value is None:
        return pb.Result()
    if isinstance(value, str):
        return pb.Result(ret=sendable(value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return pb.Result(data=bytes(value))
    if isinstance(value, Reply):
        return pb.Result(ret=sendable(value.text), data=value.data, headers=value.headers)
    text = f"the handler returned {type(value).__name__}; return str, bytes, Reply or None, such as json.dumps(...)"
    log.error("%s", text)
    return pb.Result(outcome=pb.FAILED, ret=text)


def result_of_error(task: Task, error: BaseException) -> Any:
    """The message for what a handler raised."""
    if isinstance(error, Retry):
        return pb.Result(outcome=pb.RETRY, ret=sendable(str(error)), delay_ms=min(round(error.delay * 1000), _MOST_MS))
    if isinstance(error, Fail):
        return pb.Result(outcome=pb.FAILED, ret=sendable(str(error)))
    if task.revoked.reason == "TIMED_OUT":
        text = f"timed out after {task.timeout:g} s"
        log.warning("task %d %s", task.id, text)
        return pb.Result(outcome=time_limit_outcome(task), ret=text)
    if isinstance(error, asyncio.CancelledError):
        log.warning("the handler of task %d was cancelled; the task goes to others", task.id)
        return pb.Result(outcome=pb.RETRY, ret=f"the handler was cancelled {task.revoked.reason}".strip())
    log.error("task %d, attempt %d, raised; it is tried again", task.id, task.attempt, exc_info=error)
    return pb.Result(outcome=pb.RETRY, ret=sendable(f"{type(error).__name__}: {error}".removesuffix(": ")))


def _name_of(handler: Callable[..., Any]) -> str:
    return f"{getattr(handler, '__module__', '')}.{getattr(handler, '__qualname__', repr(handler))}"
