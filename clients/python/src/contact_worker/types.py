"""What operators give to the server, and get from it. Times are moments in UTC, or None where there is none."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Optional, TypedDict, Union

from ._trace import inject
from ._wire import control_pb2 as pb
from ._wire import enum
from .task import Duration, moment, seconds

Moment = Optional[datetime.datetime]

_OUTCOMES = enum("contact.control.v1.Outcome")
_STATES = enum("contact.control.v1.TaskState")
_WAITS = enum("contact.control.v1.WaitReason")
_PHASES = enum("contact.control.v1.RunPhase")
_TARGETS = enum("contact.control.v1.TargetState")
_PRIORITIES = {"normal": pb.NORMAL, "high": pb.HIGH, "low": pb.LOW}
_MISSED = {"skip": pb.SKIP, "once": pb.ONCE, "all": pb.ALL}
_MISSED_NAMES = {number: name for name, number in _MISSED.items()}
_PRIORITY_NAMES = {number: name for name, number in _PRIORITIES.items()}


@dataclasses.dataclass(frozen=True)
class NewTask:
    """A task to submit."""

    #: What to do.
    text: str = ""
    #: The group it is for, or several that are there; without it and `select`, it is for every group.
    to: Union[str, Sequence[str], None] = None
    #: It is for the groups whose labels match, as in "os=linux,role in (web,api),!canary".
    select: Optional[str] = None
    #: A second task with the same key is not accepted again, and answered with the id of the first.
    key: str = ""
    #: Not to be delivered before so long from now.
    delay: Optional[Duration] = None
    #: Not to be begun after so long from now.
    ttl: Optional[Duration] = None
    #: "high", "normal" or "low": which tasks of a group go first.
    priority: str = "normal"
    #: How it is tried again: parts of "max=5,first=10s,factor=2,cap=10m,jitter=0.1"; else as the server is set.
    retry: str = ""
    #: Attempts before it is given up; 0: as the server is set.
    max_attempts: int = 0
    #: How long work on it may take; then it is tried again, or given up if `timeout_fails`.
    timeout: Optional[Duration] = None
    timeout_fails: bool = False
    #: What it has to do with, as a tenant or a file: of one lane, a group has only so many tasks under way at a time, one by default.
    lane: str = ""
    #: What rides with it, as {"content-type": "image/png"}: at most 32, of which keys and values have 4,096 bytes in all.
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: It takes the place of the newest task with this key for the same groups, where that has not begun.
    replace: str = ""
    #: With `replace`: it is not given out before nothing newer with that key came for so long.
    quiet: Optional[Duration] = None
    #: With `quiet`: but so long after the first of those that came one after another.
    max_wait: Optional[Duration] = None
    #: Bytes, beside or instead of the text.
    data: bytes = b""

    def message(self, *, traced: bool = True) -> Any:
        """As it is sent; `traced`: with the context of the trace that is current."""
        if self.priority not in _PRIORITIES:
            raise ValueError(f"priority={self.priority!r}: use one of {', '.join(_PRIORITIES)}")
        made = pb.NewTask(
            task=self.text,
            select=self.select or "",
            key=self.key,
            priority=_PRIORITIES[self.priority],
            retry=self.retry,
            max_attempts=self.max_attempts,
            timeout_fails=self.timeout_fails,
            lane=self.lane,
            headers=self._carried() if traced else self.headers,
            data=self.data,
            replace=self.replace,
        )
        if self.quiet is not None:
            made.quiet_ms = millis(self.quiet)
        if self.max_wait is not None:
            made.max_wait_ms = millis(self.max_wait)
        if isinstance(self.to, str):
            made.to = self.to
        elif self.to is not None:
            made.groups.extend(self.to)
        if self.delay is not None:
            made.delay_ms = millis(self.delay)
        if self.ttl is not None:
            made.ttl_ms = millis(self.ttl)
        if self.timeout is not None:
            made.timeout_ms = millis(self.timeout)
        return made

    def _carried(self) -> Mapping[str, str]:
        """With that of the trace."""
        headers = dict(self.headers)
        inject(headers)
        return headers


class TaskOptions(TypedDict, total=False):
    """What `submit` takes beside the text: see `NewTask`."""

    to: Union[str, Sequence[str], None]
    select: Optional[str]
    key: str
    delay: Optional[Duration]
    ttl: Optional[Duration]
    priority: str
    retry: str
    max_attempts: int
    timeout: Optional[Duration]
    timeout_fails: bool
    lane: str
    headers: Mapping[str, str]
    replace: str
    quiet: Optional[Duration]
    max_wait: Optional[Duration]
    data: bytes


class LimitsOptions(TypedDict, total=False):
    """What `set_limits` takes; what is left out stays as it was."""

    #: Most tasks with the clients of the group, all together; None: as many as they want.
    max_in_flight: Optional[int]
    #: Most deliveries in a second; None: any.
    max_begun_per_second: Optional[float]
    #: Most tasks of one lane.
    lane_max: int
    #: "release" or "hold": what becomes of a lane when a task of it is given up.
    lane_on_dead: str


class RunOptions(TypedDict, total=False):
    """What `run` takes beside the text."""

    #: The machines: the groups whose labels match, or those that are named.
    select: Optional[str]
    to: Union[str, Sequence[str], None]
    #: How long it goes on at most; without it, an hour.
    deadline: Optional[Duration]
    #: In parts: how many are the first one, and each, as 10 or "10%"; how long to wait between; how many may fail.
    canary: Union[str, int, None]
    batch: Union[str, int, None]
    soak: Optional[Duration]
    max_failed: Union[str, int, None]
    #: Of each task; one attempt, unless it is said.
    max_attempts: int
    retry: str
    timeout: Optional[Duration]
    headers: Mapping[str, str]
    data: bytes


@dataclasses.dataclass(frozen=True)
class Accepted:
    """A task that was accepted: it is on disk."""

    id: int
    #: It was accepted before, with the same key.
    known: bool = False


@dataclasses.dataclass
class Submitted:
    """What became of many tasks."""

    #: How many were accepted, those that were known by their key included.
    accepted: int = 0
    known: int = 0
    #: How many were refused, and the first hundred of them: (place from 0, reason, what to do).
    refused: int = 0
    refusals: list[tuple[int, str, str]] = dataclasses.field(default_factory=list)
    #: The ids of the first and of the last one.
    first_id: Optional[int] = None
    last_id: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class TaskRecord:
    """A task as it was accepted."""

    id: int
    text: str
    to: str
    groups: tuple[str, ...]
    select: str
    key: str
    accepted_at: Moment
    not_before: Moment
    expires_at: Moment
    max_attempts: int
    priority: str
    retry: str
    timeout: Optional[float]
    timeout_fails: bool
    lane: str
    cancelled: bool
    submitted_by: str
    headers: Mapping[str, str]
    #: How many bytes it has beside its text: `data` of a client has them.
    data_size: int
    #: Which schedule made it, and for which moment; None: it was run by hand. Empty: none did.
    schedule: str
    schedule_moment: Moment
    #: As `NewTask` has them.
    replace: str = ""
    quiet: Optional[float] = None
    max_wait: Optional[float] = None
    #: The task that took its place, at `expires_at`, where it had not begun; 0: none did.
    replaced_by: int = 0
    #: The task whose place it took; 0: of none.
    replaces: int = 0

    @classmethod
    def of(cls, task: Any) -> TaskRecord:
        return cls(
            id=task.id,
            text=task.task,
            to=task.to,
            groups=tuple(task.groups),
            select=task.select,
            key=task.key,
            accepted_at=moment(task.accepted_at),
            not_before=moment(task.not_before),
            expires_at=moment(task.expires_at),
            max_attempts=task.max_attempts,
            priority=_PRIORITY_NAMES.get(task.priority, "normal"),
            retry=task.retry,
            timeout=task.timeout_ms / 1000 if task.timeout_ms else None,
            timeout_fails=task.timeout_fails,
            lane=task.lane,
            cancelled=task.cancelled,
            submitted_by=task.submitted_by,
            headers=dict(task.headers),
            data_size=task.data_size,
            replace=task.replace,
            quiet=task.quiet_ms / 1000 if task.quiet_ms else None,
            max_wait=task.max_wait_ms / 1000 if task.max_wait_ms else None,
            replaced_by=task.replaced_by,
            replaces=task.replaces,
            schedule=task.schedule,
            schedule_moment=moment(task.schedule_moment),
        )


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """An entry of the log of outcomes."""

    #: Its position in the log, from 1.
    seq: int
    task_id: int
    group: str
    client: str
    attempt: int
    #: `DONE`, `RETRY`, `FAILED`, `LOST`, `TIMED_OUT`, `EXHAUSTED`, `EXPIRED`, `CANCELLED`, `REPLACED` and so on.
    outcome: str
    text: str
    at: Moment
    #: It came after the task was settled, and changed nothing.
    late: bool
    headers: Mapping[str, str]
    #: How many bytes it has beside its text: `data` of a client has them.
    data_size: int

    @classmethod
    def of(cls, result: Any) -> TaskResult:
        return cls(
            seq=result.seq,
            task_id=result.task_id,
            group=result.group,
            client=result.client,
            attempt=result.attempt,
            outcome=_OUTCOMES.get(result.outcome, str(result.outcome)),
            text=result.ret,
            at=moment(result.at),
            late=result.late,
            headers=dict(result.headers),
            data_size=result.data_size,
        )


@dataclasses.dataclass(frozen=True)
class TaskInGroup:
    """Where a task stands with a group."""

    group: str
    #: `WAITING`, `IN_FLIGHT`, `SETTLED` or `DEAD`.
    state: str
    client: str
    attempt: int
    #: What it waits for, such as `NO_CLIENT`.
    wait: Optional[str]
    #: When its lease ends, or its time comes.
    until: Moment
    outcome: Optional[str]
    #: What its client said last, and how far it is, from 0 to 1.
    said: str
    progress: Optional[float]

    @classmethod
    def of(cls, it: Any) -> TaskInGroup:
        return cls(
            group=it.group,
            state=_STATES.get(it.state, str(it.state)),
            client=it.client,
            attempt=it.attempt,
            wait=_WAITS.get(it.wait) if it.HasField("wait") else None,
            until=moment(it.until),
            outcome=_OUTCOMES.get(it.outcome) if it.HasField("outcome") else None,
            said=it.said,
            progress=it.progress if it.HasField("progress") else None,
        )


@dataclasses.dataclass(frozen=True)
class TaskDetails:
    """A task, where it stands with each group, and what came of it so far, oldest first."""

    task: TaskRecord
    groups: tuple[TaskInGroup, ...]
    results: tuple[TaskResult, ...]
    #: With how many groups it is in each state.
    waiting: int
    in_flight: int
    settled: int
    dead: int

    @property
    def result(self) -> TaskResult:
        """What came of it last. If nothing did yet, a LookupError: `results` is then empty."""
        for result in reversed(self.results):
            if not result.late:
                return result
        raise LookupError(f"nothing came of task {self.task.id} yet")

    @classmethod
    def of(cls, ledger: Any, results: Sequence[TaskResult] = ()) -> TaskDetails:
        return cls(
            task=TaskRecord.of(ledger.task),
            groups=tuple(TaskInGroup.of(it) for it in ledger.groups),
            results=tuple(results) or tuple(TaskResult.of(it) for it in ledger.results),
            waiting=ledger.waiting,
            in_flight=ledger.in_flight,
            settled=ledger.settled,
            dead=ledger.dead,
        )


@dataclasses.dataclass(frozen=True)
class FoundTask:
    """A task, its state with the group that has most to do with it, and what came of it last."""

    task: TaskRecord
    state: str
    outcome: Optional[str]
    last_at: Moment

    @classmethod
    def of(cls, it: Any) -> FoundTask:
        return cls(
            task=TaskRecord.of(it.task),
            state=_STATES.get(it.state, str(it.state)),
            outcome=_OUTCOMES.get(it.outcome) if it.HasField("outcome") else None,
            last_at=moment(it.last_at),
        )


@dataclasses.dataclass(frozen=True)
class GroupLimits:
    """How much of a group's tasks may be under way at a time."""

    #: With its clients, all together. None: as many as they want.
    max_in_flight: Optional[int]
    #: Deliveries in a second. None: any.
    max_begun_per_second: Optional[float]
    #: Tasks of one lane.
    lane_max: int
    #: "release" or "hold": what becomes of a lane when a task of it is given up.
    lane_on_dead: str

    @classmethod
    def of(cls, it: Any) -> GroupLimits:
        return cls(
            max_in_flight=it.max_in_flight or None,
            max_begun_per_second=it.max_begun_per_second or None,
            lane_max=it.lane_max or 1,
            lane_on_dead="hold" if it.lane_on_dead == pb.HOLD else "release",
        )


@dataclasses.dataclass(frozen=True)
class Group:
    """How far a group has come."""

    name: str
    #: How many of its clients are connected.
    clients: int
    #: How many tasks it has not settled, and how many of these are with a client.
    lag: int
    in_flight: int
    #: The oldest of them, and when it was accepted.
    oldest: Optional[int]
    oldest_at: Moment
    #: Settled a second, over the last ten seconds.
    rate: float
    paused: bool
    dead: int
    #: Tasks are for it, but no client of that name ever came.
    never_came: bool
    retry: str
    #: How much may be under way.
    limits: GroupLimits
    #: Lanes that have tasks under way, and how many of them are held by a dead letter.
    lanes: int
    held_lanes: int
    labels: str

    @classmethod
    def of(cls, it: Any) -> Group:
        return cls(
            name=it.name,
            clients=it.clients,
            lag=it.lag,
            in_flight=it.in_flight,
            oldest=it.oldest or None,
            oldest_at=moment(it.oldest_at),
            rate=it.rate,
            paused=it.paused,
            dead=it.dead,
            never_came=it.never_came,
            retry=it.retry,
            limits=GroupLimits.of(it.limits),
            lanes=it.lanes,
            held_lanes=it.held_lanes,
            labels=it.labels,
        )


@dataclasses.dataclass(frozen=True)
class ConnectedClient:
    """A client that is connected."""

    id: str
    group: str
    peer: str
    since: Moment
    window: int
    in_flight: int
    delivered: int
    #: It gets no more tasks, and finishes what it has.
    draining: bool
    labels: str
    version: str
    system: str

    @classmethod
    def of(cls, it: Any) -> ConnectedClient:
        return cls(
            id=it.client,
            group=it.group,
            peer=it.peer,
            since=moment(it.since),
            window=it.window,
            in_flight=it.in_flight,
            delivered=it.delivered,
            draining=it.HasField("draining"),
            labels=it.labels,
            version=it.version,
            system=it.system,
        )


@dataclasses.dataclass(frozen=True)
class Status:
    """What a client reported."""

    seq: int
    client: str
    text: str
    at: Moment

    @classmethod
    def of(cls, it: Any) -> Status:
        return cls(seq=it.seq, client=it.client, text=it.msg, at=moment(it.at))


@dataclasses.dataclass(frozen=True)
class Run:
    """One thing that is done on many machines, and how that goes."""

    number: int
    text: str
    select: str
    #: `GOING`, `PAUSED`, `STOPPED`, `COMPLETED`, `ABORTED`, `CANCELLED`, `EXPIRED` and so on.
    phase: str
    began_at: Moment
    deadline: Moment
    ended_at: Moment
    #: How many targets are in each state: `QUEUED`, `OFFLINE`, `SENT`, `BEGUN`, `DONE`, `FAILED`, `EXPIRED`, `CANCELLED`.
    targets: Mapping[str, int]
    submitted_by: str

    @classmethod
    def of(cls, it: Any) -> Run:
        names = (_TARGETS.get(number, str(number)).removeprefix("TARGET_") for number in range(len(it.counts)))
        return cls(
            number=it.number,
            text=it.task,
            select=it.select,
            phase=_PHASES.get(it.phase, str(it.phase)).removeprefix("RUN_"),
            began_at=moment(it.began_at),
            deadline=moment(it.deadline),
            ended_at=moment(it.ended_at),
            targets=dict(zip(names, it.counts)),
            submitted_by=it.submitted_by,
        )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A task that is made again and again."""

    name: str
    #: At times of the calendar, in this zone; or each so many seconds.
    cron: str
    zone: str
    every: Optional[float]
    #: What becomes of moments that were missed: "skip", "once" or "all".
    missed: str
    #: What its tasks say, and for whom they are.
    text: str
    to: str
    groups: tuple[str, ...]
    select: str
    #: As `NewTask` has them.
    lane: str
    replace: str
    quiet: Optional[float]
    max_wait: Optional[float]
    headers: Mapping[str, str]
    data_size: int
    paused: bool
    #: Its next moments, as many as were asked for.
    next: tuple[datetime.datetime, ...]
    #: The last task that it made, if it did, and for which moment; None: it was run by hand.
    last_task: Optional[int]
    last_moment: Moment
    set_at: Moment
    set_by: str
    #: Why it makes no tasks though it is not paused; empty: it does.
    trouble: str

    @classmethod
    def of(cls, it: Any) -> Schedule:
        return cls(
            name=it.name,
            cron=it.cron,
            zone=it.zone,
            every=it.every_ms / 1000 if it.every_ms else None,
            missed=_MISSED_NAMES.get(it.missed, str(it.missed)),
            text=it.task.task,
            to=it.task.to,
            groups=tuple(it.task.groups),
            select=it.task.select,
            lane=it.task.lane,
            replace=it.task.replace,
            quiet=it.task.quiet_ms / 1000 if it.task.quiet_ms else None,
            max_wait=it.task.max_wait_ms / 1000 if it.task.max_wait_ms else None,
            headers=dict(it.task.headers),
            data_size=it.data_size,
            paused=it.paused,
            next=tuple(at for at in map(moment, it.next) if at is not None),
            last_task=it.last_task or None,
            last_moment=moment(it.last_moment),
            set_at=moment(it.set_at),
            set_by=it.set_by,
            trouble=it.trouble,
        )


@dataclasses.dataclass(frozen=True)
class ScheduleSet:
    """What setting a schedule did."""

    schedule: Schedule
    #: It was not there.
    is_new: bool
    #: What is not as it was: "when", "missed", "task"; none, if it was set so already.
    changed: tuple[str, ...]

    @classmethod
    def of(cls, it: Any) -> ScheduleSet:
        return cls(schedule=Schedule.of(it.schedule), is_new=it.is_new, changed=tuple(it.changed))


@dataclasses.dataclass(frozen=True)
class Cancelled:
    """What cancelling a task did."""

    #: How many groups had not settled it.
    groups: int
    #: It had been cancelled before.
    already: bool
    #: With how many a client was at work on it and was told to end it, or cannot be told.
    told: int
    untold: int


@dataclasses.dataclass(frozen=True)
class Server:
    """A server, and how it is."""

    version: str
    now: Moment
    started_at: Moment
    clients: int
    groups: int
    #: Tasks, outcomes and statuses that were written down, ever.
    tasks: int
    results: int
    statuses: int
    in_flight: int
    max_attempts: int
    #: The longest text of a task, a status or a result, in bytes.
    max_task: int
    #: Why it takes no tasks now; empty: it does.
    refuses: str

    @classmethod
    def of(cls, it: Any) -> Server:
        return cls(
            version=it.version,
            now=moment(it.now),
            started_at=moment(it.started_at),
            clients=it.clients,
            groups=it.groups,
            tasks=it.tasks,
            results=it.results,
            statuses=it.statuses,
            in_flight=it.in_flight,
            max_attempts=it.max_attempts,
            max_task=it.max_task,
            refuses=it.refuses,
        )


def outcome_number(name: str) -> int:
    """The number of an outcome."""
    found = {known: number for number, known in _OUTCOMES.items()}.get(name)
    if found is None:
        raise ValueError(f"outcome={name!r}: use one of {', '.join(_OUTCOMES.values())}")
    return found


def state_number(name: str) -> int:
    """The number of a state of a task."""
    found = {known: number for number, known in _STATES.items()}.get(name)
    if found is None:
        raise ValueError(f"state={name!r}: use one of {', '.join(_STATES.values())}")
    return found


def missed_number(name: str) -> int:
    """The number of what becomes of missed moments."""
    if name not in _MISSED:
        raise ValueError(f"missed={name!r}: use one of {', '.join(_MISSED)}")
    return int(_MISSED[name])


def millis(duration: Duration) -> int:
    """A duration in milliseconds; not 0, which would be none."""
    return max(1, round(seconds(duration) * 1000)) if seconds(duration) else 0
