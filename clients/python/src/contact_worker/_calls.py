"""The calls of operators: which method, with which request, and what its answer is. Both clients make them."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Callable, Generic, Optional, TypeVar, Union

from ._wire import control_pb2 as pb
from .errors import ContactError
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
    millis,
    missed_number,
    outcome_number,
    state_number,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")
#: Requests of `submit_many` that may be unanswered; and bytes of the texts in one.
AHEAD, REQUEST_BYTES = 4, 1 << 20
#: Refusals that are kept.
REFUSALS = 100


@dataclasses.dataclass(frozen=True)
class Call(Generic[T]):
    """A call, and what each message of its answer is."""

    method: str
    request: Any
    read: Callable[[Any], T]


class TasksRefused(ContactError):
    """Some of many tasks were refused: the others are accepted. `submitted` says which; `reason` is that of the first."""

    def __init__(self, submitted: Submitted) -> None:
        place, reason, text = submitted.refusals[0]
        super().__init__(f"{submitted.refused} tasks were refused, the first one at place {place}: {text} [{reason}]")
        self.submitted = submitted
        self.reason = reason


def new_task(task: Union[str, NewTask], **options: Unpack[TaskOptions]) -> NewTask:
    """A task of its text and options."""
    if isinstance(task, str):
        return NewTask(task, **options)
    if options:
        raise TypeError("the options of a NewTask stand in it")
    return task


def submit(tasks: Sequence[NewTask]) -> Call[list[Accepted]]:
    def read(answer: Any) -> list[Accepted]:
        known = set(answer.known)
        ids = answer.ids or range(answer.first_id, answer.first_id + answer.count)
        return [Accepted(id, place in known) for place, id in enumerate(ids)]

    return Call("Submit", pb.SubmitRequest(tasks=[task.message() for task in tasks]), read)


class Submission:
    """Many tasks, in requests of a bounded size, and what became of them so far."""

    def __init__(self, batch: int) -> None:
        if batch < 1:
            raise ValueError(f"batch={batch} would submit nothing; use 1 or more")
        self._batch = batch
        self.submitted = Submitted()
        self._places: deque[int] = deque()
        self._tasks: list[Any] = []
        self._bytes = 0
        self._place = 0

    def add(self, task: Union[str, NewTask]) -> Optional[Any]:
        """Adds a task; returns a request when it is full."""
        message = new_task(task).message()
        self._tasks.append(message)
        self._bytes += message.ByteSize()
        full = len(self._tasks) >= self._batch or self._bytes >= REQUEST_BYTES
        return self.request() if full else None

    def request(self) -> Optional[Any]:
        """What was added since the last request."""
        if not self._tasks:
            return None
        request = pb.SubmitRequest(tasks=self._tasks)
        self._places.append(self._place)
        self._place += len(self._tasks)
        self._tasks, self._bytes = [], 0
        return request

    def requests(self, tasks: Iterable[Union[str, NewTask]]) -> Iterator[Any]:
        """All requests for the tasks."""
        for task in tasks:
            request = self.add(task)
            if request is not None:
                yield request
        last = self.request()
        if last is not None:
            yield last

    def is_far_ahead(self) -> bool:
        """Whether an answer is to be read before the next request."""
        return len(self._places) >= AHEAD

    def is_open(self) -> bool:
        """Whether a request has no answer yet."""
        return bool(self._places)

    def read(self, answer: Any) -> None:
        """The answer to the oldest request that has none."""
        so_far, place = self.submitted, self._places.popleft()
        so_far.accepted += answer.count
        so_far.known += len(answer.known)
        so_far.refused += len(answer.refused)
        room = REFUSALS - len(so_far.refusals)
        so_far.refusals += [(place + it.index, it.cause, it.reason) for it in answer.refused[:room]]
        if answer.count:
            first = answer.ids[0] if answer.ids else answer.first_id
            so_far.first_id = first if so_far.first_id is None else so_far.first_id
            so_far.last_id = answer.ids[-1] if answer.ids else answer.first_id + answer.count - 1

    def end(self) -> Submitted:
        """What became of all; raises if some were refused."""
        if self.submitted.refused:
            raise TasksRefused(self.submitted)
        return self.submitted


def task(id: int) -> Call[TaskDetails]:
    return Call("DescribeTask", pb.DescribeTaskRequest(id=id), TaskDetails.of)


def data(of: Union[TaskRecord, TaskResult]) -> Call[bytes]:
    request = pb.GetDataRequest(task=of.id) if isinstance(of, TaskRecord) else pb.GetDataRequest(result=of.seq)
    return Call("GetData", request, lambda answer: bytes(answer.data))


def watch_task(id: int) -> Call[tuple[Any, list[TaskResult]]]:
    return Call("WatchTask", pb.WatchTaskRequest(id=id), lambda news: (news.ledger, [TaskResult.of(it) for it in news.results]))


class Watch:
    """What came of a task so far."""

    def __init__(self) -> None:
        self._ledger: Any = None
        self._results: list[TaskResult] = []

    def add(self, ledger: Any, results: list[TaskResult]) -> None:
        self._ledger = ledger
        self._results += results

    def end(self) -> TaskDetails:
        """All of it: the server has no more to say."""
        if self._ledger is None:
            raise ContactError("the server said nothing of the task")
        return TaskDetails.of(self._ledger, self._results)


@dataclasses.dataclass(frozen=True)
class Found:
    """A part of the log that was looked through."""

    tasks: list[FoundTask]
    #: Where to go on; None: that was all.
    before: Optional[int]
    #: How long to wait before that, in seconds.
    pause: float


def find_tasks(before: int, to: Optional[str], state: Optional[str], outcome: Optional[str], text: Optional[str]) -> Call[Found]:
    request = pb.FindTasksRequest(before=before, to=to or "", text=text or "")
    if state is not None:
        request.state = state_number(state)  # type: ignore[assignment]
    if outcome is not None:
        request.outcome = outcome_number(outcome)  # type: ignore[assignment]

    def read(found: Any) -> Found:
        goes_on = found.oldest if found.more else None
        return Found([FoundTask.of(it) for it in found.tasks], goes_on, found.pause_ms / 1000)

    return Call("FindTasks", request, read)


def results(
    after: int, follow: bool, task: Optional[int], group: Optional[str], client: Optional[str], outcome: Optional[str]
) -> Call[list[TaskResult]]:
    request = pb.ListRequest(after=after, follow=follow, task=task or 0, group=group or "", client=client or "")
    if outcome is not None:
        request.outcome = outcome_number(outcome)  # type: ignore[assignment]
    return Call("ListResults", request, lambda page: [TaskResult.of(it) for it in page.results])


def statuses(after: int, follow: bool, client: Optional[str]) -> Call[list[Status]]:
    request = pb.ListRequest(after=after, follow=follow, client=client or "")
    return Call("ListStatuses", request, lambda page: [Status.of(it) for it in page.statuses])


def dead(group: Optional[str]) -> Call[list[TaskResult]]:
    return Call("ListDead", pb.ListDeadRequest(group=group or ""), lambda page: [TaskResult.of(it) for it in page.results])


def groups() -> Call[list[Group]]:
    return Call("ListGroups", pb.ListGroupsRequest(), lambda answer: [Group.of(it) for it in answer.groups])


def clients() -> Call[list[ConnectedClient]]:
    return Call("ListClients", pb.ListClientsRequest(), lambda answer: [ConnectedClient.of(it) for it in answer.clients])


def server() -> Call[Server]:
    return Call("GetServer", pb.GetServerRequest(), Server.of)


def retry(id: int, group: Optional[str]) -> Call[int]:
    return Call("RetryTask", pb.RetryTaskRequest(id=id, group=group or ""), lambda answer: int(answer.groups))


def cancel(id: int) -> Call[Cancelled]:
    def read(answer: Any) -> Cancelled:
        return Cancelled(answer.groups, answer.already, answer.told, answer.untold)

    return Call("CancelTask", pb.CancelTaskRequest(id=id), read)


def drop(id: int, group: str) -> Call[None]:
    return Call("DropDead", pb.DropDeadRequest(id=id, group=group), lambda answer: None)


def pause(group: str, paused: bool) -> Call[None]:
    return Call("PauseGroup", pb.PauseGroupRequest(group=group, paused=paused), lambda answer: None)


def set_limits(group: str, limits: LimitsOptions) -> Call[GroupLimits]:
    unknown = limits.keys() - LimitsOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"a group has no limit {', '.join(sorted(unknown))}")
    request = pb.SetGroupLimitsRequest(group=group)
    if "max_in_flight" in limits:
        request.max_in_flight = limits["max_in_flight"] or 0
    if "max_begun_per_second" in limits:
        request.max_begun_per_second = limits["max_begun_per_second"] or 0
    if "lane_max" in limits:
        request.lane_max = limits["lane_max"]
    if "lane_on_dead" in limits:
        on_dead = {"release": pb.RELEASE, "hold": pb.HOLD}
        if limits["lane_on_dead"] not in on_dead:
            raise ValueError(f"lane_on_dead={limits['lane_on_dead']!r}: use one of {', '.join(on_dead)}")
        request.lane_on_dead = on_dead[limits["lane_on_dead"]]
    return Call("SetGroupLimits", request, lambda answer: GroupLimits.of(answer.limits))


def begin_run(text: str, options: RunOptions) -> Call[Run]:
    unknown = options.keys() - RunOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"a run has no option {', '.join(sorted(unknown))}")
    to, timeout = options.get("to"), options.get("timeout")
    rollout = pb.Rollout(
        canary=_part(options.get("canary")),
        batch=_part(options.get("batch")),
        max_failed=_part(options.get("max_failed")),
        soak_ms=_millis(options.get("soak")),
    )
    request = pb.BeginRunRequest(
        task=text,
        select=options.get("select") or "",
        to=[to] if isinstance(to, str) else to or (),
        deadline_ms=_millis(options.get("deadline")),
        rollout=rollout if rollout.ByteSize() else None,
        max_attempts=options.get("max_attempts", 1),
        retry=options.get("retry", ""),
        timeout_ms=_millis(timeout),
        timeout_fails=timeout is not None,
        headers=options.get("headers"),
        data=options.get("data", b""),
    )
    return Call("BeginRun", request, lambda begun: Run.of(begun.run))


def _millis(duration: Optional[Duration]) -> int:
    return 0 if duration is None else millis(duration)


def _part(of: Union[str, int, None]) -> str:
    return "" if of is None else str(of)


def watch_run(number: int) -> Call[tuple[Run, list[TaskResult]]]:
    def read(news: Any) -> tuple[Run, list[TaskResult]]:
        return Run.of(news.run), [TaskResult.of(it) for it in news.results]

    return Call("WatchRun", pb.WatchRunRequest(number=number), read)


def cancel_run(number: int) -> Call[Run]:
    return Call("CancelRun", pb.CancelRunRequest(number=number), Run.of)


def runs() -> Call[list[Run]]:
    return Call("ListRuns", pb.ListRunsRequest(), lambda answer: [Run.of(it) for it in answer.runs])


def set_schedule(
    name: str, task: NewTask, cron: Optional[str], zone: Optional[str], every: Optional[Duration], missed: str
) -> Call[ScheduleSet]:
    request = pb.SetScheduleRequest(
        name=name,
        cron=cron or "",
        zone=zone or "",
        every_ms=_millis(every),
        missed=missed_number(missed),  # type: ignore[arg-type]
        # The trace of who sets it is none of its tasks.
        task=task.message(traced=False),
    )
    return Call("SetSchedule", request, ScheduleSet.of)


def schedules(after: str) -> Call[tuple[list[Schedule], str]]:
    def read(answer: Any) -> tuple[list[Schedule], str]:
        return [Schedule.of(it) for it in answer.schedules], answer.next

    return Call("ListSchedules", pb.ListSchedulesRequest(after=after), read)


def schedule(name: str, moments: int) -> Call[Schedule]:
    return Call("GetSchedule", pb.GetScheduleRequest(name=name, moments=moments), Schedule.of)


def pause_schedule(name: str, paused: bool) -> Call[Schedule]:
    return Call("ChangeSchedule", pb.ChangeScheduleRequest(name=name, paused=paused), Schedule.of)


def run_schedule(name: str) -> Call[int]:
    return Call("RunSchedule", pb.RunScheduleRequest(name=name), lambda answer: int(answer.id))


def remove_schedule(name: str) -> Call[None]:
    return Call("RemoveSchedule", pb.RemoveScheduleRequest(name=name), lambda answer: None)
