"""The context of a trace rides with a task, where OpenTelemetry is there."""

from __future__ import annotations

import unittest

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rig import Case, Program, eventually

SPANS = InMemorySpanExporter()
PROVIDER = TracerProvider()
PROVIDER.add_span_processor(SimpleSpanProcessor(SPANS))
trace.set_tracer_provider(PROVIDER)

WITHOUT = """
import sys
sys.modules["opentelemetry"] = None  # As if it were not installed.
from contact_worker import Client, Worker
from contact_worker._trace import HAS_TRACES
worker = Worker(sys.argv[1], group="g", start_at="first")
worker.task(lambda task: str(dict(task.headers)))
with Client(sys.argv[2]) as client, worker:
    print(HAS_TRACES, client.wait(client.submit("x", to="g").id).result.text)
"""


class Traces(Case):
    def test_a_handler_runs_in_a_span_below_the_one_that_submitted(self):
        with trace.get_tracer("test").start_as_current_span("submit") as above:
            self.client.submit("x", to="g", max_attempts=1)
        inside = []

        def handle(task):
            inside.append(trace.get_current_span().get_span_context())
            raise ValueError("broken")

        with self.assertLogs("contact_worker", "ERROR"):
            self.worker(handle)
            eventually("it is handled", lambda: inside)
            spans = eventually("its span has ended", lambda: [it for it in SPANS.get_finished_spans() if it.name == "process g"])
        self.assertEqual(inside[0].trace_id, above.get_span_context().trace_id)
        self.assertEqual(spans[0].parent.span_id, above.get_span_context().span_id)
        self.assertEqual(spans[0].attributes["messaging.message.id"], "1")
        self.assertEqual([it.name for it in spans[0].events], ["exception"])

    def test_a_task_with_a_key_is_the_same_when_it_is_submitted_again(self):
        for _ in range(2):
            with trace.get_tracer("test").start_as_current_span("submit"):
                accepted = self.client.submit("x", to="g", key="k")
        self.assertTrue(accepted.known)
        self.assertEqual(self.client.task(1).task.headers, {})

    def test_without_the_package_nothing_rides(self):
        program = Program(WITHOUT, self.server.listen, self.server.control)
        self.addCleanup(program.close)
        self.assertEqual((program.ended(), program.lines), (0, ["False {}"]))


if __name__ == "__main__":
    unittest.main()
