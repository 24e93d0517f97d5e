"""What is open between a worker and the server: tasks held, results not sent yet, results sent and not confirmed.

Plain data: no gRPC, no threads, no clock. A task that is held

- waits in the *inbox* until fewer than `concurrency` are with handlers;
- is announced, if the worker does so: WORKING is to be sent (*begins*), and then is on its way (*announced*);
- is *ready* to be taken by a handler, and then *running*.

What comes of it is *unsent*, then *unconfirmed* until the stream that carried it is answered, and then forgotten. If the connection
is lost before, it is sent again: the server takes what it has already as late. So no confirmed result is sent twice, and none is
forgotten unconfirmed.

What was not begun spends no attempt: it is not renewed, but given back with RELEASED when it has waited for long, when the
connection is lost, and at a stop.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from itertools import count
from typing import Any, Optional

from ._wire import contact_pb2 as pb
from .task import Task, moment

log = logging.getLogger("contact_worker")

#: Results, and bytes of them, that wait to be sent: with more, no other task is begun.
UNSENT, UNSENT_BYTES = 4096, 8 << 20
#: Results, and bytes of them, that are sent before a confirmation is asked for. Bounds what is kept.
UNCONFIRMED, UNCONFIRMED_BYTES = 10_000, 8 << 20
#: Most results in one message, and about how many bytes of them.
BATCH, BATCH_BYTES = 1024, 1 << 20
#: Bytes of tasks that wait for a handler: with more, the stream is not read, and flow control holds the server up.
INBOX_BYTES = 8 << 20
#: The longest text of a result that replaces one that was refused, in bytes.
REASON = 512
#: How long after the end of its time a handler is given up, in seconds.
OVER_TIME = 10.0

REVOKED = {0: "CANCELLED", 1: "EXPIRED", 2: "GIVEN_TO_ANOTHER"}
_NAMES = {pb.DONE: "DONE", pb.RETRY: "RETRY", pb.FAILED: "FAILED"}


class Job:
    """A task that is held, and how far it is."""

    __slots__ = ("attempt", "begun", "expires", "has_slot", "id", "part", "receipt", "renews", "said", "size", "task", "waited")

    def __init__(self, message: Any, now: float, wall: float) -> None:
        self.id: int = message.id
        self.attempt: int = message.attempt
        self.receipt: bytes = message.receipt
        self.begun = False
        #: It was not begun at the last renewal.
        self.waited = False
        #: It counts among those that are with handlers.
        self.has_slot = False
        #: A WORKING for it is to be sent.
        self.renews = False
        self.said = ""
        self.part: Optional[float] = None
        text = message.task
        self.size = len(text)
        self.task = task = Task(
            text,
            id=self.id,
            attempt=self.attempt,
            spent=message.spent,
            max_attempts=message.max_attempts,
            key=message.key,
        )
        if message.headers:
            task.headers = dict(message.headers)
        if message.data:
            task.data = message.data
            self.size += len(task.data)
        if message.timeout_ms:
            task.timeout, task.timeout_fails = message.timeout_ms / 1000, message.timeout_fails
        #: When it is not to be begun any more. The server sends none whose time is over: where the clock of this machine says
        #: so, it is not the server's, and says nothing.
        self.expires: Optional[float] = None
        if message.expires_at:
            task.expires_at = moment(message.expires_at)
            left = message.expires_at / 1000 - wall
            self.expires = now + left if left > 0 else None


class Ledger:
    """The tasks and results of one worker, by how far they are."""

    def __init__(self, concurrency: int, announces: bool) -> None:
        self._concurrency = concurrency
        self._announces = announces
        #: The longest text of a result, in bytes, once the server has said so.
        self.max_result: Optional[int] = None
        self.held: dict[int, Job] = {}
        self.stopping = False
        self._slots = 0
        self._inbox: deque[Job] = deque()
        self._inbox_bytes = 0
        self._begins: deque[Job] = deque()
        self._announced: list[Job] = []
        self.ready: deque[Job] = deque()
        self._renewals: deque[Job] = deque()
        self._releases: deque[Any] = deque()
        self._unsent: deque[Any] = deque()
        self._unsent_bytes = 0
        self._unconfirmed: deque[Any] = deque()
        self._unconfirmed_bytes = 0
        # How many of the first unsent were on a refused stream: at least one of them is the reason.
        self._alone = 0
        self._sent_alone = False
        # When a handler has taken too long: (time, tie-breaker, job), the first one first.
        self._limits: list[tuple[float, int, Job]] = []
        self._ties = count()

    # What comes from the server.

    def accept(self, message: Any, now: float, wall: float) -> None:
        """Adds a task that came. One that is held is not handled twice: its result will name the newest attempt."""
        held = self.held.get(message.id)
        if held is not None and not held.task.revoked:
            held.attempt, held.receipt = message.attempt, message.receipt
            return
        # Of what was revoked a later delivery stands by itself: what comes of the earlier one is not told any more.
        job = Job(message, now, wall)
        job.begun = not self._announces
        self.held[job.id] = job
        if self.stopping:
            self._release(job)
        else:
            self._inbox.append(job)
            self._inbox_bytes += job.size

    def revoke(self, id: int, attempt: int, reason: str) -> Optional[Job]:
        """The server took an attempt away; returns it if it is held.

        One that runs is the handler's to end, and its lease is not renewed any more; another one is not begun.
        """
        job = self.held.get(id)
        if job is None or job.attempt != attempt:
            return None
        job.task.revoked._set(reason)
        if not job.begun:
            self._forget(job)
            self._prune()
        return job

    def has_inbox_room(self) -> bool:
        """Whether more tasks may be read."""
        return self._inbox_bytes < INBOX_BYTES

    # To the handlers.

    def promote(self, now: float) -> None:
        """Has tasks of the inbox begun, as many as handlers are free for."""
        while self._inbox and self._slots < self._concurrency and self._has_unsent_room():
            job = self._inbox.popleft()
            self._inbox_bytes -= job.size
            if self.held.get(job.id) is not job:
                continue
            if job.task.revoked or (job.expires is not None and now >= job.expires):
                self._release(job)
                continue
            job.has_slot = True
            self._slots += 1
            (self._begins if self._announces else self.ready).append(job)

    def written(self) -> None:
        """What was sent so far is on its way: the tasks that were announced may be begun."""
        for job in self._announced:
            if self.held.get(job.id) is job:
                self.ready.append(job)
        self._announced.clear()

    def take(self, now: float, wall: float) -> Optional[Job]:
        """The next task for a handler, and its time begins."""
        while self.ready:
            job = self.ready.popleft()
            if job.task.revoked:
                self._forget(job)
            if self.held.get(job.id) is not job:
                continue
            if job.task.timeout is not None:
                job.task.deadline = moment(int((wall + job.task.timeout) * 1000))
                heapq.heappush(self._limits, (now + job.task.timeout, next(self._ties), job))
            return job
        return None

    def finish(self, job: Job, result: Any) -> None:
        """What came of a task. It names the newest attempt; nothing is said of one that was given up meanwhile."""
        if self.held.get(job.id) is job:
            self._say(job, result)
        self._free(job)

    def _say(self, job: Job, result: Any) -> None:
        del self.held[job.id]
        result.id, result.attempt, result.receipt = job.id, job.attempt, job.receipt
        self._unsent.append(result)
        self._unsent_bytes += _size(result)

    def progress(self, job: Job, part: float, text: str) -> None:
        """A handler says how far it is: the server is told, and again with each renewal, as it may be another then."""
        job.part, job.said = part, text
        if self.held.get(job.id) is job and not job.task.revoked:
            self._renew(job)

    # The clock.

    def next_limit(self) -> Optional[float]:
        """When a handler has taken too long next."""
        while self._limits and self.held.get(self._limits[0][2].id) is not self._limits[0][2]:
            heapq.heappop(self._limits)
        return self._limits[0][0] if self._limits else None

    def over_time(self, now: float) -> list[Job]:
        """Tasks whose time is over since the last call. One whose handler has not ended OVER_TIME later is given up."""
        over = []
        while (at := self.next_limit()) is not None and at <= now:
            job = heapq.heappop(self._limits)[2]
            if job.task.revoked.reason == "TIMED_OUT":
                log.warning("task %d takes longer than it may, and its handler does not end: the server was told", job.id)
                text = f"timed out after {job.task.timeout:g} s, and its handler had not ended {OVER_TIME:g} s later"
                self._say(job, pb.Result(ret=text, outcome=time_limit_outcome(job.task)))
            elif not job.task.revoked:
                job.task.revoked._set("TIMED_OUT")
                heapq.heappush(self._limits, (now + OVER_TIME, next(self._ties), job))
                over.append(job)
        return over

    def renew(self) -> None:
        """Renews the leases of all that is begun, and gives back what has waited since the last time."""
        for job in list(self.held.values()):
            if job.begun:
                # One whose time is over is still this worker's, until it is given up.
                if job.task.revoked.reason in ("", "TIMED_OUT"):
                    self._renew(job)
            elif job.waited:
                self._release(job)
            else:
                job.waited = True
        self._prune()

    def stop(self) -> None:
        """No task is begun any more: what is not, goes back."""
        self.stopping = True
        for job in [*self._inbox, *self._begins]:
            self._release(job)
        self._prune()
        self._begins.clear()

    def give_up(self) -> list[Job]:
        """Gives back what handlers still work on: others get it at once, and an attempt is spent. Returns it."""
        jobs = list(self.held.values())
        for job in jobs:
            was_revoked = bool(job.task.revoked)
            job.task.revoked._set("STOPPED")
            if was_revoked:
                self._forget(job)
            elif job.begun:
                self._say(job, pb.Result(ret="the worker was stopped before its handler had ended", outcome=pb.RETRY))
            else:
                self._release(job)
        return jobs

    # To the server.

    def unreported(self) -> int:
        """Results that are not known to have arrived."""
        return len(self._unsent) + len(self._unconfirmed)

    def has_next(self) -> bool:
        """Whether `next` has something."""
        return bool(self._unsent or self._begins or self._releases or self._renewals)

    def has_unconfirmed(self) -> bool:
        """Whether a confirmation is awaited."""
        return bool(self._unconfirmed)

    def is_full(self) -> bool:
        """Whether the stream must be answered before more is sent."""
        most = 1 if self._alone or self._sent_alone else UNCONFIRMED
        return len(self._unconfirmed) >= most or self._unconfirmed_bytes >= UNCONFIRMED_BYTES

    def next(self) -> Optional[Any]:
        """The next message for the stream of results."""
        self._sent_alone = self._alone > 0
        if self._sent_alone:
            self._alone -= 1
            return self._next_result()
        results: list[Any] = []
        size = 0
        while len(results) < BATCH and size < BATCH_BYTES:
            result = self._next_one()
            if result is None:
                break
            size += _size(result)
            results.append(result)
        if len(results) > 1:
            return pb.Result(batch=results)
        return results[0] if results else None

    def _next_one(self) -> Optional[Any]:
        while self._begins:
            job = self._begins.popleft()
            if self.held.get(job.id) is job:
                job.begun = True
                self._announced.append(job)
                return _word_on(job)
        # Results first: after them, a WORKING for the same task is not sent any more.
        if self._unsent:
            return self._next_result()
        while self._renewals:
            job = self._renewals.popleft()
            job.renews = False
            if self.held.get(job.id) is job:
                return _word_on(job)
        return self._releases.popleft() if self._releases else None

    def _next_result(self) -> Any:
        result = self._unsent.popleft()
        self._unsent_bytes -= _size(result)
        # UTF-8 has four bytes for a character at most.
        if self.max_result is not None and _size(result) * 4 > self.max_result:
            _shorten(result, self.max_result)
        self._unconfirmed.append(result)
        self._unconfirmed_bytes += _size(result)
        return result

    def confirm(self) -> None:
        """The stream was answered: its results are not sent again."""
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0

    def refuse(self, too_long: bool, why: str) -> Optional[int]:
        """The stream was refused. All it carried is sent again, each on a stream of its own; what was alone on it is dropped.

        If that is too long, `why` is told in its place, and FAILED for DONE: else the task would be tried again for nothing.
        Returns the id of what was dropped.
        """
        self._begins.extendleft(reversed(self._announced))
        self._announced.clear()
        if len(self._unconfirmed) != 1:
            self._alone += len(self._unconfirmed)
            self._take_back()
            return None
        refused = self._unconfirmed.popleft()
        self._unconfirmed_bytes = 0
        # What is that short was not refused for its length, whatever the server says.
        if too_long and _size(refused) > REASON:
            self._unsent.appendleft(_refused_for_length(refused, why))
            self._unsent_bytes += _size(self._unsent[0])
        return int(refused.id)

    def disconnected(self) -> None:
        """The connection was lost. What is unconfirmed is sent again, before all else; what is not begun goes back."""
        for job in self._renewals:
            job.renews = False
        self._renewals.clear()
        # Also over the next connection: one of them would be refused again with all others.
        self._alone += len(self._unconfirmed) if self._sent_alone else 0
        self._take_back()
        self._alone = min(self._alone, len(self._unsent))
        for job in [*self._begins, *self._announced]:
            job.begun = False
        self._begins.clear()
        self._announced.clear()
        for job in list(self.held.values()):
            if not job.begun:
                self._release(job)
        self._prune()

    def _take_back(self) -> None:
        self._unsent.extendleft(reversed(self._unconfirmed))
        self._unsent_bytes += self._unconfirmed_bytes
        self.confirm()

    # Parts.

    def _has_unsent_room(self) -> bool:
        return len(self._unsent) < UNSENT and self._unsent_bytes < UNSENT_BYTES

    def _renew(self, job: Job) -> None:
        # What was not begun may not be spoken of.
        if job.begun and not job.renews:
            job.renews = True
            self._renewals.append(job)

    def _release(self, job: Job) -> None:
        """Gives back a task that no handler has begun."""
        if self.held.get(job.id) is job:
            self._forget(job)
            if not job.task.revoked:
                result = pb.Result(id=job.id, attempt=job.attempt, outcome=pb.RELEASED, receipt=job.receipt)
                self._releases.append(result)

    def _forget(self, job: Job) -> None:
        if self.held.get(job.id) is job:
            del self.held[job.id]
        self._free(job)

    def _free(self, job: Job) -> None:
        if job.has_slot:
            job.has_slot = False
            self._slots -= 1

    def _prune(self) -> None:
        """Takes out of the inbox what is not held any more: more may come in its place."""
        self._inbox = deque(job for job in self._inbox if self.held.get(job.id) is job)
        self._inbox_bytes = sum(job.size for job in self._inbox)


def time_limit_outcome(task: Task) -> Any:
    """What comes of a task that took too long."""
    return pb.FAILED if task.timeout_fails else pb.RETRY


def _word_on(job: Job) -> Any:
    word = pb.Result(id=job.id, attempt=job.attempt, outcome=pb.WORKING, receipt=job.receipt, ret=job.said)
    if job.part is not None:
        word.progress = job.part
    return word


def _size(result: Any) -> int:
    """About how many bytes a result is: the characters of some scripts are more than one."""
    return len(result.ret) + len(result.data)


def _cut(text: str, most: int) -> str:
    """The beginning of a text, of so many bytes."""
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


def _shorten(result: Any, most: int) -> None:
    """Makes text and data no longer than the server takes, together. What came of the task is told in any case.

    Data that finds no room beside the text is left out, and the text says so; a text that is longer by itself is cut.
    """
    size, data = len(result.ret.encode("utf-8")), len(result.data)
    if size + data <= most:
        return
    if data:
        log.warning("the data of the result of task %d is left out: with %d bytes it is longer than %d", result.id, data, most)
        result.data = b""
        result.ret += f"\n[left out: {data} bytes of data]\n"
    if size > most:
        log.warning("the result of task %d is cut from %d to %d bytes, which the server takes", result.id, size, most)
    result.ret = _cut(result.ret, most)


def _refused_for_length(refused: Any, why: str) -> Any:
    """What is told in the place of a result that was refused because it is too long."""
    outcome = pb.FAILED if refused.outcome == pb.DONE else refused.outcome
    text = _cut(f"the result ({_NAMES[refused.outcome]}, {_size(refused)} bytes) was refused: {why}", REASON)
    return pb.Result(id=refused.id, attempt=refused.attempt, receipt=refused.receipt, outcome=outcome, ret=text)
