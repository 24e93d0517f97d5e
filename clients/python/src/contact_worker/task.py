"""What a handler gets, and what it can say instead of a result."""

from __future__ import annotations

import dataclasses
import datetime
import re
import threading
from collections.abc import Mapping
from typing import Callable, Optional, Union

#: Seconds, or the same as a timedelta.
Duration = Union[float, datetime.timedelta]


class Retry(Exception):
    """Raised by a handler: not now, try again. Without a delay the task waits as its retry policy says."""

    def __init__(self, text: str = "", *, delay: Optional[Duration] = None) -> None:
        super().__init__(text)
        self.delay = 0.0 if delay is None else seconds(delay)


class Fail(Exception):
    """Raised by a handler: this will never work. The task becomes a dead letter, with this text."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """Returned by a handler that has more to say than a text, or bytes."""

    text: str = ""
    #: Bytes; with the text at most as long as the server's --max-task. What finds no room is left out, and the text says so.
    data: bytes = b""
    #: As {"content-type": "image/png"}: at most 32, of which keys and values have 4,096 bytes in all.
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_headers(self.headers)


class Revoked:
    """Whether a task was taken from this worker while it works on it: an event, with a reason."""

    __slots__ = ("_event", "_reason")

    def __init__(self) -> None:
        self._reason = ""
        self._event: Optional[threading.Event] = None

    @property
    def reason(self) -> str:
        """`CANCELLED` by an operator, `EXPIRED`, `GIVEN_TO_ANOTHER`, `TIMED_OUT`, or `STOPPED` with the worker; empty: it was not."""
        return self._reason

    def is_set(self) -> bool:
        """Whether it was; cheap, to be asked often."""
        return bool(self._reason)

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Waits until it is, for so many seconds at most; returns whether it was."""
        event = self._event
        if event is None:
            self._event = event = threading.Event()
            # It may have been taken meanwhile.
            if self._reason:
                event.set()
        return event.wait(timeout)

    __bool__ = is_set

    def __repr__(self) -> str:
        return f"Revoked({self._reason!r})"

    def _set(self, reason: str) -> None:
        self._reason = self._reason or reason
        if self._event is not None:
            self._event.set()


class Task:
    """A task, as a handler gets it. Made without arguments but its text, it serves tests of a handler."""

    __slots__ = (
        "_say",
        "attempt",
        "data",
        "deadline",
        "expires_at",
        "headers",
        "id",
        "key",
        "max_attempts",
        "revoked",
        "spent",
        "text",
        "timeout",
        "timeout_fails",
    )

    #: What to do, as it was submitted.
    text: str
    #: Its position in the server's log, from 1.
    id: int
    #: Which delivery of it to this group this is, from 1.
    attempt: int
    #: Attempts that were spent on it before this one: work had begun.
    spent: int
    #: How many attempts it has, if it or its group says so; 0: as the server is set.
    max_attempts: int
    #: Its idempotency key; empty if it has none.
    key: str
    #: What rides with it, as its submitter said.
    headers: Mapping[str, str]
    #: Its bytes, beside or instead of the text.
    data: bytes
    #: It is not begun after this time; None: at any time.
    expires_at: Optional[datetime.datetime]
    #: How long work on it may take, in seconds; None: as long as it takes.
    timeout: Optional[float]
    #: Whether it is given up after `timeout`, and not tried again.
    timeout_fails: bool
    #: When `timeout` is over, counted from when its handler began.
    deadline: Optional[datetime.datetime]
    #: Set when it was taken from this worker: what comes of it here changes nothing any more.
    revoked: Revoked

    def __init__(
        self,
        text: str = "",
        *,
        id: int = 0,
        attempt: int = 1,
        spent: int = 0,
        max_attempts: int = 0,
        key: str = "",
        headers: Optional[Mapping[str, str]] = None,
        data: bytes = b"",
        expires_at: Optional[datetime.datetime] = None,
        timeout: Optional[float] = None,
        timeout_fails: bool = False,
    ) -> None:
        self.text = text
        self.id = id
        self.attempt = attempt
        self.spent = spent
        self.max_attempts = max_attempts
        self.key = key
        self.headers = {} if headers is None else headers
        self.data = data
        self.expires_at = expires_at
        self.timeout = timeout
        self.timeout_fails = timeout_fails
        self.deadline = None
        self.revoked = Revoked()
        self._say: Optional[Callable[[float, str], None]] = None

    def progress(self, part: float, text: str = "") -> None:
        """Says how far the work is, from 0 to 1, and perhaps what is being done, in up to 256 bytes.

        Operators see the newest. Cheap: it goes out with others, five times a second at most.
        """
        if self._say is not None:
            self._say(float(part), sendable(text))

    def __repr__(self) -> str:
        return f"Task(id={self.id}, attempt={self.attempt}, text={self.text[:80]!r})"


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuses headers that a server would."""
    for key, value in headers.items():
        if not re.fullmatch(r"[a-z0-9_.-]{1,64}", key):
            raise ValueError(f"{key!r} is no key of a header: 1 to 64 of a-z, 0-9, '-', '_' and '.'")
        if len(value.encode("utf-8")) > 1024 or not value.isprintable():
            raise ValueError(f"the header {key} is longer than 1024 bytes, or has characters that cannot be seen")
    if len(headers) > 32 or sum(len(key) + len(value.encode("utf-8")) for key, value in headers.items()) > 4096:
        raise ValueError("there may be 32 headers at most, of which keys and values have 4096 bytes in all")


def seconds(duration: Duration) -> float:
    """A duration as seconds; refused if it is negative or no number."""
    value = duration.total_seconds() if isinstance(duration, datetime.timedelta) else float(duration)
    if not 0 <= value < float("inf"):
        raise ValueError(f"a time cannot be {value} s")
    return value


def moment(millis: int) -> Optional[datetime.datetime]:
    """Milliseconds since 1970 as a moment in UTC, at the latest the last one that Python knows; 0 is none."""
    if not millis:
        return None
    try:
        return datetime.datetime.fromtimestamp(millis / 1000, datetime.timezone.utc)
    except (OverflowError, OSError, ValueError):
        return datetime.datetime.max.replace(tzinfo=datetime.timezone.utc)


def sendable(text: str) -> str:
    """A text as it can be sent: lone surrogates are no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
