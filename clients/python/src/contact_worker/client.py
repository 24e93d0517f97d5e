"""The client of operators: submits tasks, and shows and changes what becomes of them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union

import grpc

from . import _calls
from ._calls import Call, Submission
from ._channel import Path, Target, control_address
from ._wire import Stub
from .errors import ContactError, of_rpc
from .task import Duration
from .types import (
    Accepted,
    Cancelled,
    ConnectedClient,
    FoundTask,
    Group,
    GroupLimits,
    LimitsOptions,
    NewTask,
    Run,
    RunOptions,
    Schedule,
    ScheduleSet,
    Server,
    Status,
    Submitted,
    TaskDetails,
    TaskOptions,
    TaskRecord,
    TaskResult,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


class Client:
    """Speaks with the port of operators (`--control`). Connects when it is first used; may be used by several threads.

    ```python
    with Client("127.0.0.1:50052") as client:
        task = client.submit("a.png", to="thumbs")
        print(client.wait(task.id).result.text)
    ```
    """

    def __init__(
        self,
        server: Optional[str] = None,
        *,
        timeout: Optional[float] = 30,
        ca: Optional[Path] = None,
        cert: Optional[Path] = None,
        key: Optional[Path] = None,
        token: Optional[str] = None,
        token_file: Optional[Path] = None,
    ) -> None:
        """Sets a client. `timeout`: how long a call may take, in seconds, unless it waits for what is to come.

        `server`: where the server listens for operators; without it `CONTACT_CONTROL` of the environment, or else this machine.
        """
        self._target = Target(control_address(server), ca=ca, cert=cert, key=key, token=token, token_file=token_file)
        self._timeout = timeout
        self._channel: Optional[grpc.Channel] = None
        self._stub: Any = None
        self._lock = threading.Lock()

    def submit(self, task: Union[str, NewTask] = "", **options: Unpack[TaskOptions]) -> Accepted:
        """Submits a task, of its text and the options of `NewTask`; it is on disk when this returns."""
        return self._ask(_calls.submit([_calls.new_task(task, **options)]))[0]

    def submit_many(
        self,
        tasks: Iterable[Union[str, NewTask]],
        *,
        batch: int = 1000,
        on_answer: Optional[Callable[[Submitted], None]] = None,
    ) -> Submitted:
        """Submits tasks, as many as there are, in memory that does not grow with them: they are read as the server takes them.

        `on_answer` hears how far it is after each batch that is on disk. If the call fails, what is on disk is in `submitted` of
        the error; with a key in each task, all may be submitted again. Tasks that are refused are raised as `TasksRefused` at
        the end: the others are accepted.
        """
        submission = Submission(batch)
        requests = submission.requests(tasks)
        first = next(requests, None)
        if first is None:
            return submission.end()
        # The server waits ten seconds for the first one, however long that took to be read.
        sending: queue.SimpleQueue[Any] = queue.SimpleQueue()
        sending.put(first)
        answers = self._call("SubmitStream")(iter(sending.get, None), metadata=self._target.metadata())
        try:
            for request in requests:
                sending.put(request)
                if submission.is_far_ahead():
                    _take_answer(submission, next(answers), on_answer)
            sending.put(None)
            for answer in answers:
                _take_answer(submission, answer, on_answer)
        except (grpc.RpcError, StopIteration) as failed:
            error = of_rpc(failed) if isinstance(failed, grpc.RpcError) else ContactError("the server ended the stream")
            error.submitted = submission.submitted
            raise error from None
        finally:
            sending.put(None)
            answers.cancel()
        return submission.end()

    def task(self, id: int) -> TaskDetails:
        """A task, where it stands with each group, and what came of it."""
        return self._ask(_calls.task(id))

    def data(self, of: Union[TaskRecord, TaskResult]) -> bytes:
        """The bytes that a task, or a result, has beside its text."""
        return self._ask(_calls.data(of))

    def wait(self, id: int, timeout: Optional[float] = None) -> TaskDetails:
        """Waits until all groups that a task is for have settled it, for so many seconds at most."""
        watch = _calls.Watch()
        for ledger, results in self._stream(_calls.watch_task(id), timeout):
            watch.add(ledger, results)
        return watch.end()

    def watch(self, id: int, timeout: Optional[float] = None) -> Iterator[TaskResult]:
        """What comes of a task, as it comes, until all groups that it is for have settled it, for so many seconds at most."""
        for _, results in self._stream(_calls.watch_task(id), timeout):
            yield from results

    def tasks(
        self,
        *,
        to: Optional[str] = None,
        state: Optional[str] = None,
        outcome: Optional[str] = None,
        text: Optional[str] = None,
    ) -> Iterator[FoundTask]:
        """Tasks, newest first: those for a group, in a state, with an outcome, with that in their text. Read as they are taken."""
        before: Optional[int] = 0
        while before is not None:
            found = self._ask(_calls.find_tasks(before, to, state, outcome, text))
            yield from found.tasks
            before = found.before
            if before is not None:
                time.sleep(found.pause)

    def results(
        self,
        *,
        after: int = 0,
        follow: bool = False,
        task: Optional[int] = None,
        group: Optional[str] = None,
        client: Optional[str] = None,
        outcome: Optional[str] = None,
    ) -> Iterator[TaskResult]:
        """The log of outcomes, after a position; with `follow`, also what is to come, without an end."""
        return self._each(_calls.results(after, follow, task, group, client, outcome))

    def statuses(self, *, after: int = 0, follow: bool = False, client: Optional[str] = None) -> Iterator[Status]:
        """What clients reported, after a position; with `follow`, also what is to come, without an end."""
        return self._each(_calls.statuses(after, follow, client))

    def dead(self, group: Optional[str] = None) -> Iterator[TaskResult]:
        """Tasks that were given up, with their last error."""
        return self._each(_calls.dead(group))

    def groups(self) -> list[Group]:
        """The groups, and how far each has come."""
        return self._ask(_calls.groups())

    def clients(self) -> list[ConnectedClient]:
        """The clients that are connected."""
        return self._ask(_calls.clients())

    def server(self) -> Server:
        """The server itself."""
        return self._ask(_calls.server())

    def retry(self, id: int, group: Optional[str] = None) -> int:
        """Gives a task again that a group has settled, or given up; without a group, to each that settled it without DONE.

        Returns to how many.
        """
        return self._ask(_calls.retry(id, group))

    def cancel(self, id: int) -> Cancelled:
        """Takes a task back: no group gets it any more, and workers that are at work on it are told."""
        return self._ask(_calls.cancel(id))

    def drop(self, id: int, group: str) -> None:
        """Takes a dead letter off the list."""
        self._ask(_calls.drop(id, group))

    def set_limits(self, group: str, **limits: Unpack[LimitsOptions]) -> GroupLimits:
        """Limits how many tasks of a group are under way at a time; what is not named stays as it was. Returns all limits."""
        return self._ask(_calls.set_limits(group, limits))

    def pause(self, group: str) -> None:
        """Gives a group no more tasks, until `resume`."""
        self._ask(_calls.pause(group, True))

    def resume(self, group: str) -> None:
        """Gives a group tasks again."""
        self._ask(_calls.pause(group, False))

    def run(self, text: str, **options: Unpack[RunOptions]) -> Running:
        """Does one thing on many machines: those whose labels match `select`, or the groups of `to`. Iterate over it for results.

        Options: `deadline` (an hour), `timeout` of each, `max_attempts` (1) and `retry`, `headers` and `data`; and for one in parts
        `canary`, `batch`, `soak` and `max_failed`. It goes on though this program ends.
        """
        return Running(self, self._ask(_calls.begin_run(text, options)))

    def watch_run(self, number: int) -> Running:
        """A run that was begun before."""
        for run, _ in self._stream(_calls.watch_run(number), self._timeout):
            return Running(self, run)
        raise ContactError(f"the server said nothing of run {number}")

    def runs(self) -> list[Run]:
        """The newest runs, newest first."""
        return self._ask(_calls.runs())

    def set_schedule(
        self,
        name: str,
        task: Union[str, NewTask] = "",
        *,
        cron: Optional[str] = None,
        zone: Optional[str] = None,
        every: Optional[Duration] = None,
        missed: str = "skip",
        **options: Unpack[TaskOptions],
    ) -> ScheduleSet:
        """Has a task made at each moment of `cron`, as in "0 3 * * *", or each so long (`every`).

        `zone`: as in "Europe/Berlin", else UTC. `missed`: what becomes of moments that came more than a minute ago and have no task:
        none ("skip"), one task for all of them ("once"), or one for each of the last hundred ("all"). The task is of its text and the
        options of `NewTask`, without `key`. Setting it again as it is changes nothing.
        """
        return self._ask(_calls.set_schedule(name, _calls.new_task(task, **options), cron, zone, every, missed))

    def schedules(self) -> Iterator[Schedule]:
        """The schedules, by name, each with its next moment. Read as they are taken."""
        after: Optional[str] = ""
        while after is not None:
            found, following = self._ask(_calls.schedules(after))
            yield from found
            after = following or None

    def schedule(self, name: str, moments: int = 5) -> Schedule:
        """A schedule, with so many of its next moments."""
        return self._ask(_calls.schedule(name, moments))

    def pause_schedule(self, name: str) -> Schedule:
        """Has a schedule make no tasks, until `resume_schedule`."""
        return self._ask(_calls.pause_schedule(name, True))

    def resume_schedule(self, name: str) -> Schedule:
        """Has a schedule make tasks again, from its next moment on."""
        return self._ask(_calls.pause_schedule(name, False))

    def run_schedule(self, name: str) -> int:
        """Makes a task of a schedule now; returns its id."""
        return self._ask(_calls.run_schedule(name))

    def remove_schedule(self, name: str) -> None:
        """Removes a schedule. The tasks that it made stay."""
        self._ask(_calls.remove_schedule(name))

    def close(self) -> None:
        """Ends the connection, and what goes on over it."""
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._target.address!r})"

    def _call(self, method: str) -> Any:
        self._target.check_process()
        with self._lock:
            if self._stub is None:
                self._channel = self._target.open()
                self._stub = Stub(self._channel, "contact.control.v1.Control")
            return getattr(self._stub, method)

    def _ask(self, call: Call[T]) -> T:
        try:
            answer = self._call(call.method)(call.request, metadata=self._target.metadata(), timeout=self._timeout)
        except grpc.RpcError as failed:
            raise of_rpc(failed) from None
        return call.read(answer)

    def _stream(self, call: Call[T], timeout: Optional[float] = None) -> Iterator[T]:
        answers = self._call(call.method)(call.request, metadata=self._target.metadata(), timeout=timeout)
        try:
            for answer in answers:
                yield call.read(answer)
        except grpc.RpcError as failed:
            raise of_rpc(failed) from None
        finally:
            answers.cancel()

    def _each(self, call: Call[list[T]]) -> Iterator[T]:
        for page in self._stream(call):
            yield from page


class Running:
    """A run: iterating gives the results that decided, as they come, until it ends."""

    def __init__(self, client: Client, run: Run) -> None:
        self._client = client
        #: How it is, as was heard last.
        self.state = run

    @property
    def number(self) -> int:
        """By which it is known."""
        return self.state.number

    def __iter__(self) -> Iterator[TaskResult]:
        for run, results in self._client._stream(_calls.watch_run(self.number)):
            self.state = run
            yield from results

    def wait(self) -> Run:
        """Waits until it ends; returns how it went."""
        for _ in self:
            pass
        return self.state

    def cancel(self) -> Run:
        """Takes everything back: workers that are at work on it are told to end."""
        self.state = self._client._ask(_calls.cancel_run(self.number))
        return self.state

    def __repr__(self) -> str:
        return f"Running({self.state!r})"


def _take_answer(submission: Submission, answer: Any, on_answer: Optional[Callable[[Submitted], None]]) -> None:
    submission.read(answer)
    if on_answer is not None:
        on_answer(submission.submitted)
