"""The context of a trace rides with a task, in its headers, where the package opentelemetry is there. It is no dependency."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, MutableMapping
from typing import Union

from .task import Task

try:
    from opentelemetry import propagate, trace
except ImportError:
    HAS_TRACES = False
else:
    HAS_TRACES = True


def inject(headers: MutableMapping[str, str]) -> None:
    """Adds the context of the caller to the headers of a task, such as `traceparent`."""
    if HAS_TRACES:
        propagate.inject(headers)


@contextlib.contextmanager
def handling(task: Task, name: str) -> Iterator[None]:
    """A span for the work on a task, below the one that submitted it. An exception of the work is recorded there."""
    if not HAS_TRACES:
        yield
        return
    attributes: dict[str, Union[str, int]] = {
        "messaging.system": "contact",
        "messaging.destination.name": name,
        "messaging.message.id": str(task.id),
        "contact.task.attempt": task.attempt,
    }
    tracer = trace.get_tracer("contact_worker")
    context = propagate.extract(task.headers)
    with tracer.start_as_current_span(f"process {name}", context=context, kind=trace.SpanKind.CONSUMER, attributes=attributes):
        yield
