"""A server that does what a test says: for what the real one does rarely."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Optional

import grpc

from contact_worker._wire import contact_pb2 as pb
from contact_worker._wire import message

from rig import DEADLINE, eventually

_Status, _ErrorInfo, _RetryInfo = (message(f"google.rpc.{name}") for name in ("Status", "ErrorInfo", "RetryInfo"))


class Fake:
    """Its tasks are what is put into `tasks`; `told` is what it was told, one list for each stream of results."""

    def __init__(self, port: int = 0, heartbeat: bool = True, max_task: int = 1 << 20) -> None:
        self.tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.told: list[list[Any]] = []
        self.registered: list[dict[str, str]] = []
        #: What happened, in order: `asked` for tasks, and what it was told, by the outcome and the id.
        self.events: list[Any] = []
        #: What comes of a stream of results; it may abort the call. It is given all results of it.
        self.answer: Callable[[list[Any], grpc.ServicerContext], None] = lambda results, context: None
        self._heartbeat, self._max_task = heartbeat, max_task
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        handlers = {
            "getTask": grpc.unary_stream_rpc_method_handler(self._get_task, pb.Empty.FromString, pb.ServerMsg.SerializeToString),
            "tellResult": grpc.stream_unary_rpc_method_handler(self._tell_result, pb.Result.FromString, pb.Empty.SerializeToString),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Contact", handlers),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def _get_task(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self.events.append("asked")
        self.registered.append({str(key): str(value) for key, value in context.invocation_metadata()})
        context.send_initial_metadata([("contact-max-task", str(self._max_task))])
        if self._heartbeat:
            yield pb.ServerMsg()
        while context.is_active():
            try:
                task = self.tasks.get(timeout=0.02)
            except queue.Empty:
                continue
            if callable(task):
                task(context)
            else:
                yield task

    def _tell_result(self, requests: Any, context: grpc.ServicerContext) -> Any:
        results: list[Any] = []
        self.told.append(results)
        for request in requests:
            results.extend(request.batch or [request])
            self.events += [(it.outcome, it.id) for it in request.batch or [request]]
        self.answer(results, context)
        return pb.Empty()

    def send(self, id: int, text: str = "x", attempt: int = 1, **fields: Any) -> None:
        """Sends a task."""
        self.tasks.put(pb.ServerMsg(id=id, task=text, attempt=attempt, **fields))

    def results(self, *outcomes: int) -> list[tuple[int, str]]:
        """What it was told with these outcomes (without WORKING, unless it is said), as (id, text), streams one after the other."""
        wanted = outcomes or (pb.DONE, pb.RETRY, pb.FAILED)
        return [(it.id, it.ret) for stream in list(self.told) for it in list(stream) if it.outcome in wanted]

    def wait_results(self, count: int, *outcomes: int) -> list[tuple[int, str]]:
        """Waits until it was told so many."""
        return list(eventually(f"{count} results", lambda: it if len(it := self.results(*outcomes)) >= count else None))

    def stop(self, grace: Optional[float] = None) -> None:
        self._server.stop(grace).wait(DEADLINE)


def refuse(context: grpc.ServicerContext, code: grpc.StatusCode, reason: str, retry_after: Optional[int] = None) -> None:
    """Ends a call as a Contact server does."""
    status = _Status(code=code.value[0], message="no")
    info = _ErrorInfo(domain="contact", reason=reason)
    status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=info.SerializeToString())
    if retry_after is not None:
        retry = _RetryInfo()
        retry.retry_delay.seconds = retry_after
        status.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo", value=retry.SerializeToString())
    context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
    context.abort(code, "no")


class Once:
    """True the first time it is asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False

    def __call__(self) -> bool:
        with self._lock:
            asked, self._asked = self._asked, True
            return not asked
