"""A worker whose handler runs on threads."""

from __future__ import annotations

import contextlib
import inspect
import logging
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Callable, Optional, TypeVar

from ._base import DOUBLED, SIGNALS, BaseWorker, Returned, result_of, result_of_error
from ._engine import Engine
from ._trace import handling
from .task import Task

log = logging.getLogger("contact_worker")

#: Whether a thread is one of a worker's handlers.
_handling = threading.local()


F = TypeVar("F", bound=Callable[[Task], Returned])


class Worker(BaseWorker):
    """Takes tasks from a Contact server, has a function handle them on threads, and reports what came of them.

    ```python
    worker = Worker("127.0.0.1:50051", group="thumbs")

    @worker.task
    def thumb(task):
        return task.text.upper()

    worker.run()
    ```
    """

    def task(self, handler: F) -> F:
        """Decorates the function that handles tasks; it stays as it is, for tests to call.

        What it returns, a str, bytes, a `Reply` with both, or None, is the result. `Retry` and `Fail` say otherwise; any other
        exception has the task tried again, as its retry policy says.
        """
        if inspect.iscoroutinefunction(handler):
            raise TypeError("the handler is an async function: use the Worker of contact_worker.aio")
        self._set_handler(handler)
        return handler

    def run(self) -> None:
        """Works until it is told to end, by Ctrl-C, SIGTERM or `stop`, or the server refuses it, which is raised.

        At the first signal what runs is finished, for `grace` seconds at most; the second one ends at once. Signals are heeded where
        Python lets them be: in the main thread.
        """
        self.start()
        engine = self._running()
        with _heeding_signals(engine):
            engine.ended.wait()
        self._raise_error()

    def start(self) -> None:
        """Starts threads, and returns at once: the server need not be there yet."""
        handlers = _Handlers(self._settings.concurrency, self._work)
        engine = self._new_engine(handlers.on_ready, lambda jobs: None)
        engine.start()
        handlers.start(engine)

    def stop(self, grace: Optional[float] = None) -> None:
        """Stops gracefully, and waits for it. Raises what the worker ended with, if that is no orderly end.

        A task that runs has `grace` seconds to end, as the worker is set unless it is said; then it goes to others. What has not
        begun goes back at once. A handler that calls this is not waited for.
        """
        engine = self._running()
        engine.stop(grace)
        if not getattr(_handling, "is_handler", False):
            engine.ended.wait()
            self._raise_error()

    def wait_connected(self, timeout: Optional[float] = None) -> bool:
        """Waits until the server has answered, for so many seconds at most; returns whether it has."""
        return self._running().wait_connected(timeout)

    def status(self, text: str, timeout: Optional[float] = None) -> None:
        """Reports a free text, and returns when it is on the server's disk; for so many seconds it is tried."""
        self._running().status(text, timeout)

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.stop()

    def _work(self, task: Task) -> Any:
        handler = self._handler
        assert handler is not None  # There is no engine without one.
        try:
            with handling(task, self._name):
                return result_of(handler(task))
        except BaseException as error:  # sys.exit() in a handler ends no worker.
            return result_of_error(task, error)


class _Handlers:
    """The threads that handle tasks."""

    def __init__(self, count: int, work: Callable[[Task], Any]) -> None:
        self._count = count
        self._handle = work
        self._work: Optional[threading.Condition] = None

    def start(self, engine: Engine) -> None:
        with engine.lock:
            self._ready = engine.ledger.ready
            self._work = threading.Condition(engine.lock)
        for number in range(self._count):
            threading.Thread(target=self._run, args=(engine, self._work), name=f"contact-handler-{number}", daemon=True).start()

    def on_ready(self) -> None:
        """Under the engine's lock: tasks are ready, or the worker has ended."""
        if self._work is not None:
            self._work.notify(len(self._ready) or self._count)

    def _run(self, engine: Engine, work: threading.Condition) -> None:
        _handling.is_handler = True
        while True:
            with engine.lock:
                while (job := engine.take()) is None:
                    if engine.ended.is_set():
                        return
                    work.wait()
            engine.finish(job, self._handle(job.task))


@contextlib.contextmanager
def _heeding_signals(engine: Engine) -> Iterator[None]:
    """SIGINT and SIGTERM stop the worker; the second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    told: list[float] = []

    def heed(number: int, frame: Optional[FrameType]) -> None:
        now = time.monotonic()
        if not told:
            told.append(now)
            # On a thread of its own: what is interrupted here may hold what a stop needs.
            threading.Thread(target=engine.stop, name="contact-stop", daemon=True).start()
        elif now >= told[0] + DOUBLED:
            log.warning("told again: ending at once")
            engine.abort()
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {number: signal.signal(number, heed) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
