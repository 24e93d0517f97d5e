"""The connection of a worker: makes it, loses it, makes the next; passes tasks in and results out, and renews leases.

Threads: `contact-pipe` connects, and reads tasks; `contact-tell` sends results, one stream after another, and lives as long as the
connection; `contact-clock` does what is due at a time. All that they share is in the ledger, under one lock. Those who handle
tasks, threads or an event loop, call `take` and `finish`.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import threading
import time
from typing import Any, Callable, Optional

import grpc

from ._backoff import Backoff
from ._channel import Target
from ._connection import Connection
from ._ledger import Job, Ledger
from ._settings import Settings
from ._wire import contact_pb2 as pb
from .errors import ContactError, DeadlineExceeded, Forked, Unavailable, Unreported, is_bad_message, is_refusal, of_rpc

log = logging.getLogger("contact_worker")

#: How often the server is told at most how far handlers are.
PROGRESS = 0.2
#: How often leases are renewed at most while the worker stops: its streams change then.
RENEW_STOPPING = 2.0
#: How long a stop waits for the server to confirm the last results.
LAST_WORDS = 10.0
#: A server that is known to send heartbeats is given up after this many are missing.
MISSED_HEARTBEATS = 3
#: After a connection that lasted so long the backoff starts anew.
WORKED = 10.0


class Engine:
    """One worker's connection, from start to end. It is not used again."""

    def __init__(
        self,
        target: Target,
        settings: Settings,
        on_ready: Callable[[], None],
        on_revoked: Callable[[list[Job]], None],
    ) -> None:
        """`on_ready`: tasks may be taken. `on_revoked`: these were taken from their handlers. Both are called under the lock."""
        self.target = target
        self.settings = settings
        self._on_ready = on_ready
        self._on_revoked = on_revoked
        self.lock = threading.RLock()
        #: Something is to be sent, or the stream of results is to end.
        self.tell = threading.Condition(self.lock)
        #: Something is due earlier.
        self.clock = threading.Condition(self.lock)
        #: The connection, or what is left to do, has changed.
        self.state = threading.Condition(self.lock)
        self.ledger = Ledger(settings.concurrency, settings.announce_begin)
        instance = secrets.token_hex(8)
        self._said = settings.metadata(instance, False)
        self._said_stopping = settings.metadata(instance, True)
        self.connection: Optional[Connection] = None
        #: No task is read, because too much waits for handlers.
        self.waits_for_room = False
        self._progress: dict[Job, tuple[float, str]] = {}
        self._progress_at = 0.0
        self._renew_at = 0.0
        #: Until when handlers may go on, and until when results are still sent.
        self._grace_until: Optional[float] = None
        self._end_at: Optional[float] = None
        #: Nothing is left to do, or to be waited for.
        self.is_over = False
        self.error: Optional[ContactError] = None
        self.ended = threading.Event()
        self._process = os.getpid()

    # For those who handle tasks.

    def start(self) -> None:
        """Starts the threads. What cannot work is said at once; the server need not be there yet."""
        self.target.credentials()
        self.target.metadata()
        threading.Thread(target=self._pipe, name="contact-pipe", daemon=True).start()
        threading.Thread(target=self.guard, args=(self._keep_time,), name="contact-clock", daemon=True).start()

    def guard(self, work: Callable[[], None]) -> None:
        """Does the work of a thread. A mistake in that ends the worker, and not the thread alone."""
        try:
            work()
        except Exception as mistake:
            self.end_by(mistake)

    def end_by(self, mistake: Exception) -> None:
        """Ends the worker because of a mistake in it."""
        log.error("the worker ends because of a mistake in it; please report it", exc_info=mistake)
        with self.lock:
            self.fail(ContactError(f"a mistake in contact_worker: {mistake!r}"), at_once=True)

    def check_process(self) -> None:
        """Refuses a process that was forked from the one that started the worker: its threads are not here."""
        if os.getpid() != self._process:
            raise Forked(f"this worker was started in process {self._process}; make one in this process, before it uses gRPC")

    def take(self) -> Optional[Job]:
        """The next task to be handled, if there is one."""
        with self.lock:
            job = self.ledger.take(time.monotonic(), time.time())
            if job is not None:
                job.task._say = functools.partial(self._note_progress, job)
                if job.task.timeout is not None:
                    self.clock.notify()
            return job

    def finish(self, job: Job, result: Any) -> None:
        """What came of a task."""
        with self.lock:
            # Else the two would keep each other.
            job.task._say = None
            self._progress.pop(job, None)
            self.ledger.finish(job, result)
            self.changed()

    def stop(self, grace: Optional[float] = None) -> None:
        """No task is begun any more; handlers have `grace` seconds to finish, as it is set unless it is said."""
        self.check_process()
        with self.lock:
            if self.ended.is_set():
                return
            if not self.ledger.stopping:
                log.info("stopping; what runs is finished first")
                self.ledger.stop()
                self._renew_at = min(self._renew_at, time.monotonic() + RENEW_STOPPING)
                if self.connection is not None and self.settings.id and self.ledger.held:
                    self.connection.narrow(self._said_stopping)
            until = time.monotonic() + (self.settings.grace if grace is None else grace)
            self._grace_until = until if self._grace_until is None else min(self._grace_until, until)
            self.changed()
            self.clock.notify()

    def wait_connected(self, timeout: Optional[float]) -> bool:
        """Waits until the server has said something, for so many seconds at most. Raises what the worker ended with."""
        with self.lock:
            self.state.wait_for(lambda: self.is_connected() or self.ended.is_set(), timeout)
            if self.ended.is_set() and self.error is not None:
                raise self.error
            return self.is_connected()

    def is_connected(self) -> bool:
        """Whether a server has answered on the connection there is."""
        return self.connection is not None and self.connection.answered

    def status(self, text: str, timeout: Optional[float]) -> None:
        """Reports a status, over one connection after another, until it is on the server's disk."""
        self.check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        backoff = Backoff(self.settings.first_backoff, self.settings.most_backoff)
        while True:
            connection = self._connection_until(deadline)
            error: Optional[ContactError] = None
            wait: Optional[float] = None
            try:
                answer = connection.status(text, None if deadline is None else deadline - time.monotonic())
                if answer.outcome != pb.RETRY:
                    return
                wait = answer.delay_ms / 1000
                error = Unavailable(f"the server does not store the status now [{answer.ret}]")
                error.reason = answer.ret
            except grpc.RpcError as failed:
                error = of_rpc(failed)
                if is_bad_message(error) or is_refusal(error):
                    raise error from None
            wait = backoff.next(error.retry_after) if wait is None else wait
            if self.ledger.stopping or (deadline is not None and time.monotonic() + wait >= deadline):
                raise error
            with self.lock:
                self.state.wait_for(lambda: self.ledger.stopping, wait)

    def _connection_until(self, deadline: Optional[float]) -> Connection:
        with self.lock:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self.state.wait_for(lambda: self.is_connected() or self.ledger.stopping, left)
            if self.connection is not None and self.connection.answered:
                return self.connection
            if self.ledger.stopping:
                raise Unavailable("the worker is stopped")
            raise DeadlineExceeded("no connection to the server came about in time")

    # Under the lock.

    def changed(self) -> None:
        """Hands on what the ledger has become."""
        ledger = self.ledger
        ledger.promote(time.monotonic())
        if ledger.ready:
            self._on_ready()
        if ledger.has_next():
            self.tell.notify_all()
        if self.waits_for_room and ledger.has_inbox_room():
            self.state.notify_all()
        if ledger.stopping:
            self._check_over()

    def revoke(self, id: int, attempt: int, reason: str) -> None:
        """The server took a task away."""
        job = self.ledger.revoke(id, attempt, reason)
        if job is not None:
            log.info("task %d was taken back (%s)", id, reason)
            self._on_revoked([job])

    def fail(self, error: ContactError, *, at_once: bool) -> None:
        """The worker is over. Unless `at_once`, what runs is finished, and told."""
        if self.error is None:
            self.error = error
        if at_once:
            self.ledger.stop()
            self._end()
        else:
            self.stop()

    def abort(self) -> None:
        """Ends at once: what is not told is lost, and comes again."""
        with self.lock:
            self._end()

    def _check_over(self) -> None:
        """Whether a worker that stops is through."""
        if not self.ledger.held and self._end_at is None:
            self._end_at = time.monotonic() + LAST_WORDS
            self.clock.notify()
        idle = self.connection is None or self.connection.is_idle()
        told = not self.ledger.unreported() and not (self.ledger.has_next() and self.is_connected())
        if not self.ledger.held and (told and idle):
            self._end()
        self.tell.notify_all()

    def _end(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.state.notify_all()
            self.clock.notify_all()
            if self.connection is not None:
                self.connection.close()

    # The threads.

    def _pipe(self) -> None:
        self.guard(self._keep_connected)
        self._close()

    def _keep_connected(self) -> None:
        backoff = Backoff(self.settings.first_backoff, self.settings.most_backoff)
        while not self.is_over:
            begun = time.monotonic()
            connection, error = self._connect()
            if self.is_over:
                return
            answered = connection is not None and connection.answered
            if answered or error.reason or (connection is not None and begun + WORKED <= time.monotonic()):
                backoff.reset()
            wait = backoff.next(error.retry_after)
            what = "turned away by" if error.reason else "lost the connection to" if answered else "cannot reach"
            log.warning("%s %s: %s; next try in %.1f s", what, self.target.address, error, wait)
            with self.lock:
                self.state.wait_for(lambda: self.is_over, wait)

    def _connect(self) -> tuple[Optional[Connection], ContactError]:
        """One connection, from its beginning to its end; returns that, and why it ended."""
        try:
            connection = Connection(self, self._said)
        except (OSError, ValueError) as wrong:  # A file of TLS, or of the token.
            return None, ContactError(str(wrong))
        with self.lock:
            self.connection = connection
            self.ledger.renew()
        error = connection.run()
        with self.lock:
            self.connection = None
            self.ledger.disconnected()
            self.changed()
            self.state.notify_all()
        return connection, error

    def _close(self) -> None:
        with self.lock:
            self.is_over = True
            self.ledger.stop()
            left = self.ledger.give_up()
            self._on_revoked(left)
            unreported = self.ledger.unreported()
            if self.error is None and unreported:
                self.error = Unreported(
                    f"{unreported} results could not be reported before the end; the server will deliver these tasks again"
                )
            self.ended.set()
            self._on_ready()
            self.state.notify_all()
            self.clock.notify_all()

    def _keep_time(self) -> None:
        with self.lock:
            while not self.is_over:
                now = time.monotonic()
                self._do_what_is_due(now)
                at = self._next_time()
                self.clock.wait(None if at is None else max(0.0, at - time.monotonic()))

    def _next_time(self) -> Optional[float]:
        times = [self._renew_at, self._grace_until, self._end_at, self.ledger.next_limit()]
        if self._progress:
            times.append(self._progress_at)
        if self.connection is not None:
            times.append(self._silence_deadline(self.connection))
        return min((at for at in times if at is not None), default=None)

    def _do_what_is_due(self, now: float) -> None:
        if now >= self._renew_at:
            every = self.settings.renew_every
            self._renew_at = now + (min(every, RENEW_STOPPING) if self.ledger.stopping else every)
            self.ledger.renew()
        if self._progress and now >= self._progress_at:
            self._progress_at = now + PROGRESS
            for job, (part, text) in self._progress.items():
                self.ledger.progress(job, part, text)
            self._progress.clear()
        over = self.ledger.over_time(now)
        if over:
            self._on_revoked(over)
        if self._grace_until is not None and now >= self._grace_until:
            self._grace_until = None
            self._on_revoked(self.ledger.give_up())
        if self._end_at is not None and now >= self._end_at:
            self._end()
        connection = self.connection
        if connection is not None:
            silent = self._silence_deadline(connection)
            if silent is not None and now >= silent:
                connection.lose(ContactError("the server's heartbeats stopped"))
        self.changed()

    def _silence_deadline(self, connection: Connection) -> Optional[float]:
        if not connection.heartbeats or connection.closed or not self.settings.heartbeat or self.ledger.stopping:
            return None
        return connection.received_at + self.settings.heartbeat * MISSED_HEARTBEATS

    def _note_progress(self, job: Job, part: float, text: str) -> None:
        with self.lock:
            if not self._progress:
                self.clock.notify()
            self._progress[job] = (part, text)
