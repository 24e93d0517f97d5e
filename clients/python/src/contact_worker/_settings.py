"""How a worker is set."""

from __future__ import annotations

import dataclasses
import os
import platform
import secrets
import sys
from collections.abc import Mapping
from typing import Optional, Union
from urllib.parse import quote

from ._channel import MAX_MESSAGE, Target

#: The version of this package.
VERSION = "0.1.0"
#: The most handlers: each is a thread, or a coroutine, and as many tasks are held.
MOST_HANDLERS = 4096


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a worker is told at its making; times are in seconds. The arguments of `Worker` say what each is."""

    group: Optional[str]
    id: Optional[str]
    labels: Union[Mapping[str, str], str, None]
    concurrency: int
    window: Optional[int]
    batch: Optional[int]
    start_at: Optional[str]
    heartbeat: Optional[float]
    announce_begin: bool
    grace: float
    renew_every: float
    confirm_every: float
    first_backoff: float
    most_backoff: float

    def __post_init__(self) -> None:
        if not self.group and not self.id:
            raise ValueError("give a group, whose tasks are shared, or an id, for tasks of its own")
        for name in ("group", "id"):
            value = getattr(self, name)
            if value is not None and (not value or value != value.strip() or len(value.encode("utf-8")) > 256):
                raise ValueError(f"{name}={value!r}: a name is 1 to 256 bytes, without blanks at its ends")
        if not 1 <= self.concurrency <= MOST_HANDLERS:
            raise ValueError(f"concurrency={self.concurrency} is not between 1 and {MOST_HANDLERS}")
        for name in ("window", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} would take no task; use 1 or more")
        if self.start_at not in (None, "first", "new"):
            raise ValueError(f'start_at={self.start_at!r}: use "first", to begin with what is kept, or "new"')
        if self.renew_every <= 0:
            raise ValueError("renew_every=0: leases cannot be renewed every 0 s; use 1 or more")
        for name in ("grace", "confirm_every", "first_backoff", "most_backoff"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} cannot be negative")

    def named(self, target: Target) -> Settings:
        """With a name for this process, and a word by which containers differ, where it has none: with a name, what it holds it goes on
        with when it is back after a lost connection. Who shows a token or a certificate may not call itself anything."""
        if self.id or target.token or target.token_file or target.cert:
            return self
        machine = "".join(c for c in platform.node() if c.isprintable()).strip() or "worker"
        return dataclasses.replace(self, id=f"{machine}-{os.getpid()}-{secrets.token_hex(2)}")

    def metadata(self, instance: str, stopping: bool) -> list[tuple[str, str]]:
        """What says who this worker is, in each call. One that is `stopping` wants no more tasks."""
        said = {
            "contact-client": _encoded(self.id),
            "contact-group": _encoded(self.group),
            "contact-instance": instance,
            "contact-labels": _encoded(self._labels()),
            "contact-version": f"contact-worker {VERSION}, Python {platform.python_version()}",
            "contact-system": f"{sys.platform} {platform.machine()}",
            "contact-max-message": str(MAX_MESSAGE),
            "contact-revoke": "1",
            "contact-receipts": "1",
            "contact-output": "1",
            "contact-drain": "1" if stopping else None,
            "contact-begins": "1" if self.announce_begin else None,
            # One that stops holds something, so one more is nothing.
            "contact-window": "1" if stopping else str(self._window()),
            "contact-batch": None if self.batch is None else str(self.batch),
            "contact-from": self.start_at,
            "contact-heartbeat": str(max(1, round(self.heartbeat))) if self.heartbeat else None,
        }
        return [(key, value) for key, value in said.items() if value is not None]

    def _window(self) -> int:
        """One more than are handled at the same time, so that the next is there when one is finished; or a whole batch."""
        return self.window or max(self.concurrency + 1, self.batch or 1)

    def _labels(self) -> Optional[str]:
        if self.labels is None or isinstance(self.labels, str):
            return self.labels or None
        return ",".join(f"{key}={value}" for key, value in self.labels.items()) or None


def _encoded(name: Optional[str]) -> Optional[str]:
    """As names travel in metadata, which is ASCII, and loses blanks at its ends."""
    return None if name is None else quote(name, safe="=,/:@+")
