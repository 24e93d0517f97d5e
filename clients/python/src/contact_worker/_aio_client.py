"""The client of operators for asyncio: the calls of `Client`, to be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union

import grpc
import grpc.aio

from . import _calls
from ._calls import Call, Submission
from ._channel import OPTIONS, Path, Target, control_address
from ._wire import Stub
from .errors import ContactError, Unavailable, of_rpc
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
    """Speaks with the port of operators (`--control`). Connects when it is first used; belongs to one event loop.

    ```python
    async with Client("127.0.0.1:50052") as client:
        task = await client.submit("a.png", to="thumbs")
        print((await client.wait(task.id)).result.text)
    ```

    What each call does is said at `contact_worker.Client`.
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
        self._channel: Optional[grpc.aio.Channel] = None
        self._stub: Any = None

    async def submit(self, task: Union[str, NewTask] = "", **options: Unpack[TaskOptions]) -> Accepted:
        """Submits a task; see `contact_worker.Client.submit`."""
        return (await self._ask(_calls.submit([_calls.new_task(task, **options)])))[0]

    async def submit_many(
        self,
        tasks: Union[Iterable[Union[str, NewTask]], AsyncIterable[Union[str, NewTask]]],
        *,
        batch: int = 1000,
        on_answer: Optional[Callable[[Submitted], None]] = None,
    ) -> Submitted:
        """Submits tasks, as many as there are, also from an async iterator; see `contact_worker.Client.submit_many`."""
        submission = Submission(batch)
        call: Any = None
        try:
            async for request in _requests(submission, tasks):
                # The server waits ten seconds for the first one, however long that took to be read.
                call = call or self._call("SubmitStream")(metadata=self._target.metadata())
                await call.write(request)
                if submission.is_far_ahead():
                    await _take_answer(submission, call, on_answer)
            if call is not None:
                await call.done_writing()
            while submission.is_open():
                await _take_answer(submission, call, on_answer)
        except (grpc.RpcError, asyncio.InvalidStateError) as failed:
            # A call that has ended takes no more, and says why when it is asked.
            error = _of_write(failed) if isinstance(failed, grpc.RpcError) else await _end_of(call)
            error.submitted = submission.submitted
            raise error from None
        finally:
            if call is not None:
                call.cancel()
        return submission.end()

    async def task(self, id: int) -> TaskDetails:
        """A task, where it stands with each group, and what came of it."""
        return await self._ask(_calls.task(id))

    async def data(self, of: Union[TaskRecord, TaskResult]) -> bytes:
        """The bytes that a task, or a result, has beside its text."""
        return await self._ask(_calls.data(of))

    async def wait(self, id: int, timeout: Optional[float] = None) -> TaskDetails:
        """Waits until all groups that a task is for have settled it, for so many seconds at most."""
        watch = _calls.Watch()
        async for ledger, results in self._stream(_calls.watch_task(id), timeout):
            watch.add(ledger, results)
        return watch.end()

    async def watch(self, id: int, timeout: Optional[float] = None) -> AsyncIterator[TaskResult]:
        """What comes of a task, as it comes, until all groups that it is for have settled it, for so many seconds at most."""
        async for _, results in self._stream(_calls.watch_task(id), timeout):
            for result in results:
                yield result

    async def tasks(
        self,
        *,
        to: Optional[str] = None,
        state: Optional[str] = None,
        outcome: Optional[str] = None,
        text: Optional[str] = None,
    ) -> AsyncIterator[FoundTask]:
        """Tasks, newest first: those for a group, in a state, with an outcome, with that in their text. Read as they are taken."""
        before: Optional[int] = 0
        while before is not None:
            found = await self._ask(_calls.find_tasks(before, to, state, outcome, text))
            for task in found.tasks:
                yield task
            before = found.before
            if before is not None:
                await asyncio.sleep(found.pause)

    def results(
        self,
        *,
        after: int = 0,
        follow: bool = False,
        task: Optional[int] = None,
        group: Optional[str] = None,
        client: Optional[str] = None,
        outcome: Optional[str] = None,
    ) -> AsyncIterator[TaskResult]:
        """The log of outcomes, after a position; with `follow`, also what is to come, without an end."""
        return self._each(_calls.results(after, follow, task, group, client, outcome))

    def statuses(self, *, after: int = 0, follow: bool = False, client: Optional[str] = None) -> AsyncIterator[Status]:
        """What clients reported, after a position; with `follow`, also what is to come, without an end."""
        return self._each(_calls.statuses(after, follow, client))

    def dead(self, group: Optional[str] = None) -> AsyncIterator[TaskResult]:
        """Tasks that were given up, with their last error."""
        return self._each(_calls.dead(group))

    async def groups(self) -> list[Group]:
        """The groups, and how far each has come."""
        return await self._ask(_calls.groups())

    async def clients(self) -> list[ConnectedClient]:
        """The clients that are connected."""
        return await self._ask(_calls.clients())

    async def server(self) -> Server:
        """The server itself."""
        return await self._ask(_calls.server())

    async def retry(self, id: int, group: Optional[str] = None) -> int:
        """Gives a task again; see `contact_worker.Client.retry`."""
        return await self._ask(_calls.retry(id, group))

    async def cancel(self, id: int) -> Cancelled:
        """Takes a task back: no group gets it any more, and workers that are at work on it are told."""
        return await self._ask(_calls.cancel(id))

    async def drop(self, id: int, group: str) -> None:
        """Takes a dead letter off the list."""
        await self._ask(_calls.drop(id, group))

    async def set_limits(self, group: str, **limits: Unpack[LimitsOptions]) -> GroupLimits:
        """Limits how many tasks of a group are under way at a time; what is not named stays as it was. Returns all limits."""
        return await self._ask(_calls.set_limits(group, limits))

    async def pause(self, group: str) -> None:
        """Gives a group no more tasks, until `resume`."""
        await self._ask(_calls.pause(group, True))

    async def resume(self, group: str) -> None:
        """Gives a group tasks again."""
        await self._ask(_calls.pause(group, False))

    async def run(self, text: str, **options: Unpack[RunOptions]) -> Running:
        """Does one thing on many machines; iterate over it for results. See `contact_worker.Client.run`."""
        return Running(self, await self._ask(_calls.begin_run(text, options)))

    async def watch_run(self, number: int) -> Running:
        """A run that was begun before."""
        async for run, _ in self._stream(_calls.watch_run(number), self._timeout):
            return Running(self, run)
        raise ContactError(f"the server said nothing of run {number}")

    async def runs(self) -> list[Run]:
        """The newest runs, newest first."""
        return await self._ask(_calls.runs())

    async def set_schedule(
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
        """Has a task made at each moment; see `contact_worker.Client.set_schedule`."""
        return await self._ask(_calls.set_schedule(name, _calls.new_task(task, **options), cron, zone, every, missed))

    async def schedules(self) -> AsyncIterator[Schedule]:
        """The schedules, by name, each with its next moment. Read as they are taken."""
        after: Optional[str] = ""
        while after is not None:
            found, following = await self._ask(_calls.schedules(after))
            for schedule in found:
                yield schedule
            after = following or None

    async def schedule(self, name: str, moments: int = 5) -> Schedule:
        """A schedule, with so many of its next moments."""
        return await self._ask(_calls.schedule(name, moments))

    async def pause_schedule(self, name: str) -> Schedule:
        """Has a schedule make no tasks, until `resume_schedule`."""
        return await self._ask(_calls.pause_schedule(name, True))

    async def resume_schedule(self, name: str) -> Schedule:
        """Has a schedule make tasks again, from its next moment on."""
        return await self._ask(_calls.pause_schedule(name, False))

    async def run_schedule(self, name: str) -> int:
        """Makes a task of a schedule now; returns its id."""
        return await self._ask(_calls.run_schedule(name))

    async def remove_schedule(self, name: str) -> None:
        """Removes a schedule. The tasks that it made stay."""
        await self._ask(_calls.remove_schedule(name))

    async def close(self) -> None:
        """Ends the connection, and what goes on over it."""
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Client({self._target.address!r})"

    def _call(self, method: str) -> Any:
        self._target.check_process()
        if self._stub is None:
            credentials = self._target.credentials()
            address = self._target.address
            if credentials is None:
                self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
            else:
                self._channel = grpc.aio.secure_channel(address, credentials, options=OPTIONS)
            self._stub = Stub(self._channel, "contact.control.v1.Control")
        return getattr(self._stub, method)

    async def _ask(self, call: Call[T]) -> T:
        try:
            answer = await self._call(call.method)(call.request, metadata=self._target.metadata(), timeout=self._timeout)
        except grpc.RpcError as failed:
            raise of_rpc(failed) from None
        return call.read(answer)

    async def _stream(self, call: Call[T], timeout: Optional[float] = None) -> AsyncIterator[T]:
        answers = self._call(call.method)(call.request, metadata=self._target.metadata(), timeout=timeout)
        try:
            async for answer in answers:
                yield call.read(answer)
        except grpc.RpcError as failed:
            raise of_rpc(failed) from None
        finally:
            answers.cancel()

    async def _each(self, call: Call[list[T]]) -> AsyncIterator[T]:
        async for page in self._stream(call):
            for entry in page:
                yield entry


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

    async def __aiter__(self) -> AsyncIterator[TaskResult]:
        async for run, results in self._client._stream(_calls.watch_run(self.number)):
            self.state = run
            for result in results:
                yield result

    async def wait(self) -> Run:
        """Waits until it ends; returns how it went."""
        async for _ in self:
            pass
        return self.state

    async def cancel(self) -> Run:
        """Takes everything back: workers that are at work on it are told to end."""
        self.state = await self._client._ask(_calls.cancel_run(self.number))
        return self.state

    def __repr__(self) -> str:
        return f"Running({self.state!r})"


async def _requests(
    submission: Submission, tasks: Union[Iterable[Union[str, NewTask]], AsyncIterable[Union[str, NewTask]]]
) -> AsyncIterator[Any]:
    if not isinstance(tasks, AsyncIterable):
        for request in submission.requests(tasks):
            yield request
        return
    async for task in tasks:
        request = submission.add(task)
        if request is not None:
            yield request
    last = submission.request()
    if last is not None:
        yield last


async def _take_answer(submission: Submission, call: Any, on_answer: Optional[Callable[[Submitted], None]]) -> None:
    answer = await call.read()
    if answer is grpc.aio.EOF:
        raise asyncio.InvalidStateError
    submission.read(answer)
    if on_answer is not None:
        on_answer(submission.submitted)


def _of_write(failed: grpc.RpcError) -> ContactError:
    """A write to a connection that was lost just now fails so, before gRPC knows why."""
    error = of_rpc(failed)
    return Unavailable(f"the connection was lost: {error}") if error.code == "INTERNAL" and not error.reason else error


async def _end_of(call: Any) -> ContactError:
    """Why a call ended that takes nothing any more."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.RpcError as failed:
        return of_rpc(failed)
    return ContactError("the server ended the stream")
