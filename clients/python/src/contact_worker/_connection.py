"""One connection to the server: a channel of its own, the stream of tasks, and the streams of results."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Optional

import grpc

from ._ledger import REVOKED
from ._wire import Stub
from ._wire import contact_pb2 as pb
from .errors import (
    ContactError,
    Refused,
    TakenOver,
    is_bad_call,
    is_bad_message,
    is_refusal,
    is_taken_over,
    is_too_long,
    of_rpc,
)

if TYPE_CHECKING:
    from ._engine import Engine

log = logging.getLogger("contact_worker")


class _Stream:
    """A stream of results: they are confirmed together, when it was ended here and is answered."""

    ended = False
    closed = False


class Connection:
    """Made, run and closed once."""

    def __init__(self, engine: Engine, said: list[tuple[str, str]]) -> None:
        self._engine = engine
        self._metadata = said + engine.target.metadata()
        self._channel = engine.target.open()
        self._stub: Any = Stub(self._channel, "Contact")
        self._call: Any = None
        self._next_call: Any = None
        self._stream: Optional[_Stream] = None
        self._lost: Optional[ContactError] = None
        #: It is of no use any more.
        self.closed = False
        #: A Contact server has said something.
        self.answered = False
        #: It sends heartbeats.
        self.heartbeats = False
        self.received_at = time.monotonic()

    def run(self) -> ContactError:
        """Passes tasks and results until it is over; returns why it is."""
        tell = threading.Thread(target=self._engine.guard, args=(self._tell,), name="contact-tell", daemon=True)
        tell.start()
        try:
            self._read()
        except grpc.RpcError as failed:
            self._failed(of_rpc(failed))
        finally:
            self.close()
            # With it all calls end.
            self._channel.close()
            tell.join()
        return self._lost or ContactError("the connection was closed")

    # Under the engine's lock.

    def lose(self, error: ContactError) -> None:
        """Something is wrong with it."""
        if self._lost is None:
            self._lost = error
        self.close()

    def close(self) -> None:
        """Has all threads of it end."""
        with self._engine.lock:
            self.closed = True
            for call in (self._call, self._next_call):
                if call is not None:
                    call.cancel()
            self._engine.tell.notify_all()
            self._engine.state.notify_all()

    def is_idle(self) -> bool:
        """Whether all that was sent was answered."""
        return self._stream is None

    def narrow(self, said: list[tuple[str, str]]) -> None:
        """Asks for tasks anew, as the same process that wants no more of them: what the stream before held, the new one holds.

        That is not cancelled here: the server could see that before the new call, and give everything to others.
        """
        if self._call is not None and self._next_call is None and not self.closed:
            self._next_call = self._stub.getTask(pb.Empty(), metadata=said + self._engine.target.metadata())

    def status(self, text: str, timeout: Optional[float]) -> Any:
        """Reports a status, and waits for its answer."""
        answers = self._stub.sendStatus(iter([pb.ClientMsg(msg=text)]), metadata=self._metadata, timeout=timeout)
        return next(answers, pb.Result(outcome=pb.RETRY, ret="the server ended the call without an answer", delay_ms=1000))

    # Tasks.

    def _read(self) -> None:
        # First the old tasks are reported, finished or still worked on, and then new ones are asked for: so the server does not
        # deliver the old ones again. A worker that stops asks for none.
        engine = self._engine
        with engine.lock:
            engine.state.wait_for(self._may_ask)
            if self.closed:
                return
            self._call = self._stub.getTask(pb.Empty(), metadata=self._metadata)
        while self._call is not None:
            try:
                for message in self._call:
                    self._receive(message)
                error = ContactError("the server ended getTask")
            except grpc.RpcError as failed:
                error = of_rpc(failed)
            with engine.lock:
                self._call, self._next_call = self._next_call, None
                if self._call is None:
                    self._failed(error)
                    # Results are told though there are no more tasks, if the server still takes them.
                    engine.state.wait_for(lambda: self.closed)

    def _may_ask(self) -> bool:
        ledger = self._engine.ledger
        reported = not (ledger.unreported() or ledger.has_next()) and self._stream is None
        return self.closed or (reported and not ledger.stopping)

    def _failed(self, error: ContactError) -> None:
        """The stream of tasks ended."""
        with self._engine.lock:
            if is_taken_over(error):
                self._engine.fail(_of_kind(TakenOver, error), at_once=False)
            elif is_refusal(error) or is_bad_call(error):
                self._engine.fail(_of_kind(Refused, error), at_once=True)
            else:
                self.lose(error)

    def _receive(self, message: Any) -> None:
        engine, ledger = self._engine, self._engine.ledger
        if not self.answered:
            self._greet(dict(self._call.initial_metadata() or ()))
        with engine.lock:
            now, wall = time.monotonic(), time.time()
            for revoked in message.revoked:
                engine.revoke(revoked.id, revoked.attempt, REVOKED.get(revoked.reason, "GIVEN_TO_ANOTHER"))
            if message.id:
                ledger.accept(message, now, wall)
            for task in message.batch:
                ledger.accept(task, now, wall)
            if not (message.id or message.batch or message.revoked):
                if not self.heartbeats:
                    self.heartbeats = True
                    engine.clock.notify()
                if message.task or message.data:
                    engine.fail(Refused("the server gives its tasks no ids: it is no Contact server"), at_once=True)
            engine.changed()
            engine.waits_for_room = True
            engine.state.wait_for(lambda: self.closed or ledger.has_inbox_room())
            engine.waits_for_room = False
            # Silence counts from when the stream is read again.
            self.received_at = time.monotonic()

    def _greet(self, metadata: dict[str, str]) -> None:
        engine = self._engine
        log.info("connected to %s", engine.target.address)
        group = engine.settings.group or engine.settings.id
        new = metadata.get("contact-new-group")
        if new is not None:
            what = "what is kept, and what is" if new == "first" else 'what is (start_at="first": also what is kept)'
            log.info("group %r is new here: it gets %s submitted for all from now on", group, what)
        if "contact-window" in metadata:
            log.info("the server lets a worker hold %s tasks at most, fewer than it asked for", metadata["contact-window"])
        with engine.lock:
            if "contact-max-task" in metadata:
                engine.ledger.max_result = int(metadata["contact-max-task"])
            self.answered = True
            # The server knows only now the stream that holds them.
            engine.ledger.renew()
            engine.state.notify_all()

    # Results.

    def _tell(self) -> None:
        engine, ledger = self._engine, self._engine.ledger
        while True:
            with engine.lock:
                engine.tell.wait_for(lambda: self.closed or ledger.has_next())
                if self.closed:
                    return
                self._stream = stream = _Stream()
            error: Optional[ContactError] = None
            try:
                self._stub.tellResult(self._guarded(self._messages(stream)), metadata=self._metadata)
            except grpc.RpcError as failed:
                error = of_rpc(failed)
            with engine.lock:
                stream.closed, self._stream = True, None
                if error is not None:
                    self._refused(error)
                elif stream.ended:
                    ledger.confirm()
                else:
                    # An answer to what was not finished does not say how much of it was read.
                    self.lose(ContactError("the server ended tellResult"))
                engine.changed()
                engine.tell.notify_all()
                engine.state.notify_all()

    def _guarded(self, messages: Iterator[Any]) -> Iterator[Any]:
        # They are made on a thread of gRPC, to which a mistake would be one more failed call.
        try:
            yield from messages
        except Exception as mistake:
            self._engine.end_by(mistake)

    def _messages(self, stream: _Stream) -> Iterator[Any]:
        """What a stream carries. gRPC asks for the next message when the last one is on its way."""
        engine, ledger = self._engine, self._engine.ledger
        ends_at: Optional[float] = None
        while True:
            with engine.lock:
                if stream.closed:
                    return
                ledger.written()
                engine.changed()
                message = None
                while message is None:
                    if self.closed or stream.closed:
                        return
                    now = time.monotonic()
                    if ledger.is_full() or (ends_at is not None and now >= ends_at):
                        stream.ended = True
                        return
                    message = ledger.next()
                    if message is None:
                        if self._call is None or ledger.stopping:
                            stream.ended = True
                            return
                        engine.tell.wait(None if ends_at is None else ends_at - now)
                if ends_at is None and ledger.has_unconfirmed():
                    ends_at = now + engine.settings.confirm_every
            yield message

    def _refused(self, error: ContactError) -> None:
        """A stream of results was not taken."""
        if is_refusal(error):
            self._engine.fail(_of_kind(Refused, error), at_once=True)
        elif is_bad_message(error):
            dropped = self._engine.ledger.refuse(is_too_long(error), str(error))
            if dropped is None:
                log.warning("the server refused results: %s; they are told again one by one", error)
            else:
                log.warning("the server refused the result of task %d: %s", dropped, error)
        else:
            self.lose(error)


def _of_kind(kind: type[ContactError], error: ContactError) -> ContactError:
    made = kind(str(error))
    made.__dict__.update(error.__dict__)
    return made
