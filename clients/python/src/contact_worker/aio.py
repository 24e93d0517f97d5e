"""The same for asyncio: a worker whose handler is an async function, and a client of operators.

The connection of a worker has threads of its own, so that a handler which blocks the event loop for a while loses no lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import signal
import threading
from collections.abc import Awaitable, Iterator
from types import TracebackType
from typing import Any, Callable, Optional, TypeVar

from ._aio_client import Client, Running
from ._base import DOUBLED, SIGNALS, BaseWorker, Returned, result_of, result_of_error
from ._engine import Engine
from ._ledger import Job
from ._trace import handling
from .task import Task

__all__ = ["Client", "Running", "Worker"]


F = TypeVar("F", bound=Callable[[Task], Awaitable[Returned]])


class Worker(BaseWorker):
    """Takes tasks from a Contact server, has an async function handle them, and reports what came of them.

    ```python
    worker = Worker("127.0.0.1:50051", group="pages", concurrency=50)

    @worker.task
    async def page(task):
        return await fetch(task.text)

    asyncio.run(worker.run())
    ```

    A handler whose task is revoked, or has taken longer than it may, is cancelled.
    """

    _default_concurrency = 10
    _dispatcher: Optional[_Dispatcher] = None

    def task(self, handler: F) -> F:
        """Decorates the function that handles tasks; it stays as it is, for tests to call.

        What it returns, a str, bytes, a `Reply` with both, or None, is the result. `Retry` and `Fail` say otherwise; any other
        exception has the task tried again, as its retry policy says.
        """
        is_async = inspect.iscoroutinefunction(handler)
        if not is_async:
            raise TypeError("the handler is no async function: use contact_worker.Worker, or asyncio.to_thread in an async one")
        self._set_handler(handler)
        return handler

    async def run(self) -> None:
        """Works until it is told to end, by Ctrl-C, SIGTERM, `stop` or its cancellation, or the server refuses it, which is raised.

        Then what runs is finished, for `grace` seconds at most; a second signal ends at once.
        """
        await self.start()
        dispatcher = self._dispatching()
        with _heeding_signals(dispatcher):
            try:
                await dispatcher.ended.wait()
            except asyncio.CancelledError:
                dispatcher.engine.stop()
                await dispatcher.ended.wait()
                raise
        self._raise_error()

    async def start(self) -> None:
        """Begins, and returns at once: the server need not be there yet."""
        dispatcher = _Dispatcher(self._work)
        dispatcher.engine = engine = self._new_engine(dispatcher.on_ready, dispatcher.on_revoked)
        self._dispatcher = dispatcher
        engine.start()

    async def stop(self, grace: Optional[float] = None) -> None:
        """Stops gracefully, and waits for it. Raises what the worker ended with, if that is no orderly end.

        A handler that runs has `grace` seconds to end, as the worker is set unless it is said; then it is cancelled, and its task
        goes to others. What has not begun goes back at once. A handler that calls this is not waited for.
        """
        self._running().stop(grace)
        if not self._dispatching().is_handler(asyncio.current_task()):
            await self._dispatching().ended.wait()
            self._raise_error()

    async def wait_connected(self, timeout: Optional[float] = None) -> bool:
        """Waits until the server has answered, for so many seconds at most; returns whether it has."""
        return await asyncio.to_thread(self._running().wait_connected, timeout)

    async def status(self, text: str, timeout: Optional[float] = None) -> None:
        """Reports a free text, and returns when it is on the server's disk; for so many seconds it is tried."""
        await asyncio.to_thread(self._running().status, text, timeout)

    async def __aenter__(self) -> Worker:
        await self.start()
        return self

    async def __aexit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        await self.stop()

    def _dispatching(self) -> _Dispatcher:
        self._running()
        assert self._dispatcher is not None  # It is made with the engine.
        return self._dispatcher

    async def _work(self, task: Task) -> Any:
        handler = self._handler
        assert handler is not None  # There is no engine without one.
        try:
            with handling(task, self._name):
                return result_of(await handler(task))
        except (KeyboardInterrupt, SystemExit) as error:
            return result_of_error(task, RuntimeError(repr(error)))
        except BaseException as error:
            return result_of_error(task, error)


class _Dispatcher:
    """Has coroutines of one event loop handle what the engine has."""

    engine: Engine

    def __init__(self, work: Callable[[Task], Awaitable[Any]]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[Job, asyncio.Task[None]] = {}
        self._woken = False
        self.ended = asyncio.Event()

    def on_ready(self) -> None:
        """Under the engine's lock: tasks are ready, or the worker has ended."""
        if not self._woken:
            self._woken = True
            self._in_loop(self._take)

    def on_revoked(self, jobs: list[Job]) -> None:
        """Likewise: these tasks were taken from their handlers."""
        for job in jobs:
            self._in_loop(self._cancel, job)

    def is_handler(self, task: Optional[asyncio.Task[Any]]) -> bool:
        """Whether that is a coroutine which handles a task."""
        return task in self._handlers.values()

    def _in_loop(self, callback: Callable[..., None], *arguments: Any) -> None:
        # A loop that was closed has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _take(self) -> None:
        with self.engine.lock:
            self._woken = False
        while (job := self.engine.take()) is not None:
            self._handlers[job] = self._loop.create_task(self._handle(job))
        if self.engine.ended.is_set():
            self.ended.set()

    async def _handle(self, job: Job) -> None:
        try:
            self.engine.finish(job, await self._work(job.task))
        finally:
            del self._handlers[job]

    def _cancel(self, job: Job) -> None:
        handler = self._handlers.get(job)
        if handler is not None:
            handler.cancel()


@contextlib.contextmanager
def _heeding_signals(dispatcher: _Dispatcher) -> Iterator[None]:
    """SIGINT and SIGTERM stop the worker; the second one ends it at once. In the main thread, where the loop can have them."""
    loop = asyncio.get_running_loop()
    told: list[float] = []

    def heed() -> None:
        if not told:
            told.append(loop.time())
            dispatcher.engine.stop()
        elif loop.time() >= told[0] + DOUBLED:
            dispatcher.engine.abort()

    taken = []
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            before = signal.getsignal(number)
            # Not on Windows, where Ctrl-C cancels what asyncio.run() runs.
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, heed)
                taken.append((number, before))
    try:
        yield
    finally:
        for number, before in taken:
            loop.remove_signal_handler(number)
            signal.signal(number, before)
