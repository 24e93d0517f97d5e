"""What calls fail with.

Each error of a server has a `reason`, which does not change from version to version: docs/errors.md of Contact lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

import grpc

from ._wire import message

if TYPE_CHECKING:
    from .types import Submitted

_Status, _ErrorInfo = message("google.rpc.Status"), message("google.rpc.ErrorInfo")
_RetryInfo, _BadRequest = message("google.rpc.RetryInfo"), message("google.rpc.BadRequest")
#: How gRPC says that a message is longer than the receiver takes.
_TOO_LONG = ("larger than max", "exceeds maximum size")
#: What words of gRPC mostly mean here.
_HINTS = {
    "http1.x server": "if the server speaks TLS, give ca",
    "WRONG_VERSION_NUMBER": "if the server speaks no TLS, leave ca out",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not of the authority that ca names, or for another name",
    "TSI_DATA_CORRUPTED": "the server wants a certificate, or refused this one: see cert and key",
}


class ContactError(Exception):
    """What a call failed with."""

    #: The code of gRPC, as `NOT_FOUND`.
    code: str = "UNKNOWN"
    #: Why, for programs: as `TASK_UNKNOWN`. Empty: it was not a Contact server that said so.
    reason: str = ""
    #: The particulars of the reason.
    metadata: Mapping[str, str] = {}
    #: The fields of the request that were wrong, and what is.
    fields: Mapping[str, str] = {}
    #: After so many seconds the same call may work.
    retry_after: Optional[float] = None
    #: Of `submit_many`: what became of the tasks that were answered.
    submitted: Optional[Submitted] = None


class InvalidArgument(ContactError):
    """The request makes no sense: `fields` says what of it."""


class NotFound(ContactError):
    """What was asked for is not there."""


class AlreadyExists(ContactError):
    """It is there already: another task has that key, for example."""


class FailedPrecondition(ContactError):
    """Not as things are now."""


class ResourceExhausted(ContactError):
    """A limit was reached."""


class PermissionDenied(ContactError):
    """The caller may not do this."""


class Unauthenticated(ContactError):
    """The server wants to know who calls, or does not know that token."""


class Unavailable(ContactError):
    """The server is not there, or takes nothing now. The same may work later."""


class DeadlineExceeded(ContactError):
    """It took longer than the timeout that was given."""


class Refused(ContactError):
    """The server does not want this worker, and would not the next time either."""


class TakenOver(ContactError):
    """Another worker came with the same id, and has its place now. Give each an id of its own, or let them share one group."""


class Unreported(ContactError):
    """The worker stopped before the server confirmed some results: it will deliver their tasks again."""


class Forked(ContactError):
    """This process was forked from one that had used gRPC, which does not work in both."""


_BY_CODE: dict[str, type[ContactError]] = {
    "INVALID_ARGUMENT": InvalidArgument,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "FAILED_PRECONDITION": FailedPrecondition,
    "RESOURCE_EXHAUSTED": ResourceExhausted,
    "PERMISSION_DENIED": PermissionDenied,
    "UNAUTHENTICATED": Unauthenticated,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}


def of_rpc(failed: grpc.RpcError) -> ContactError:
    """What a failed call says, as an error of this package."""
    error: Any = failed
    code = error.code().name
    said = error.details() or ""
    hints = [hint for words, hint in _HINTS.items() if words in said]
    if code == "UNIMPLEMENTED":
        hints = ["are --listen, for workers, and --control, for operators, mixed up?"]
    said += "".join(f" ({hint})" for hint in hints)
    made = _BY_CODE.get(code, ContactError)(f"{said or 'no more is known'} [{code}]")
    made.code = code
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            _add_details(made, value)
    return made


def _add_details(error: ContactError, details: bytes) -> None:
    try:
        found = _Status.FromString(details).details
    except Exception:  # Some proxy's: not ours to read.
        return
    info = _unpack(found, _ErrorInfo)
    if info is not None and info.domain == "contact":
        error.reason = info.reason
        error.metadata = dict(info.metadata)
        error.args = (f"{str(error).rsplit(' [', 1)[0]} [{error.code}, {error.reason}]",)
    bad = _unpack(found, _BadRequest)
    if bad is not None:
        error.fields = {violation.field: violation.description for violation in bad.field_violations}
    retry = _unpack(found, _RetryInfo)
    if retry is not None:
        error.retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9


def _unpack(details: Any, kind: Any) -> Any:
    """The first of the details that is such a message."""
    name = kind.DESCRIPTOR.full_name
    return next((kind.FromString(any.value) for any in details if any.type_url.endswith(f"/{name}")), None)


# What the status of a call means to a worker. A code alone may be a proxy's, and another one a moment later: only a reason of a
# Contact server ends anything.


def is_refusal(error: ContactError) -> bool:
    """The server takes nothing from this worker."""
    return bool(error.reason) and error.code in ("UNAUTHENTICATED", "PERMISSION_DENIED")


def is_bad_call(error: ContactError) -> bool:
    """The same call would be refused again, whatever it carries."""
    return bool(error.reason) and error.code in ("INVALID_ARGUMENT", "UNIMPLEMENTED")


def is_bad_message(error: ContactError) -> bool:
    """What the call carried would be refused again."""
    if is_grpc_too_long(error):
        return True
    codes = ("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED")
    return bool(error.reason) and (error.code in codes or error.reason == "BATCH_TOO_LARGE")


def is_taken_over(error: ContactError) -> bool:
    """Another worker has the place of this one."""
    return error.reason == "CLIENT_TAKEN_OVER"


def is_too_long(error: ContactError) -> bool:
    """What the call carried was refused for its length."""
    return error.reason == "RESULT_TOO_LONG" or is_grpc_too_long(error)


def is_grpc_too_long(error: ContactError) -> bool:
    """gRPC itself refused a message for its length, before a service saw it."""
    return not error.reason and error.code == "RESOURCE_EXHAUSTED" and any(words in str(error) for words in _TOO_LONG)
