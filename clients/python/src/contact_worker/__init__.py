"""Workers and operators of a Contact server.

`Worker` takes tasks and has a function handle them; `contact_worker.aio` has the same for asyncio. `Client` submits tasks, and shows
what became of them.
"""

from ._calls import TasksRefused
from ._settings import VERSION as __version__
from .client import Client, Running
from .errors import (
    AlreadyExists,
    ContactError,
    DeadlineExceeded,
    FailedPrecondition,
    Forked,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Refused,
    ResourceExhausted,
    TakenOver,
    Unauthenticated,
    Unavailable,
    Unreported,
)
from .task import Fail, Reply, Retry, Revoked, Task
from .types import NewTask
from .worker import Worker

__all__ = [
    "AlreadyExists",
    "Client",
    "ContactError",
    "DeadlineExceeded",
    "Fail",
    "FailedPrecondition",
    "Forked",
    "InvalidArgument",
    "NewTask",
    "NotFound",
    "PermissionDenied",
    "Refused",
    "Reply",
    "ResourceExhausted",
    "Retry",
    "Revoked",
    "Running",
    "TakenOver",
    "Task",
    "TasksRefused",
    "Unauthenticated",
    "Unavailable",
    "Unreported",
    "Worker",
    "__version__",
]
