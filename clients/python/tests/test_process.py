"""A worker as a program of its own: signals, threads, forks."""

from __future__ import annotations

import os
import signal
import threading
import unittest

from contact_worker import Worker

from rig import DEADLINE, SOON, Case, Program, eventually

WORKER = """
import sys, time, logging
from contact_worker import Worker
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
worker = Worker(sys.argv[1], group="g", start_at="first", grace=float(sys.argv[2]))
@worker.task
def handle(task):
    print(f"begun {task.text}\\n", end="", flush=True)
    if task.text == "wait":
        sys.stdin.readline()
    time.sleep(float(task.text) if task.text[0].isdigit() else 0)
    return task.text
worker.run()
print("over", flush=True)
"""

AIO_WORKER = """
import asyncio, sys, logging
from contact_worker.aio import Worker
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
worker = Worker(sys.argv[1], group="g", start_at="first", grace=float(sys.argv[2]))
@worker.task
async def handle(task):
    print(f"begun {task.text}\\n", end="", flush=True)
    await asyncio.sleep(float(task.text))
    return task.text
asyncio.run(worker.run())
print("over", flush=True)
"""

FORKS = """
import os, sys
from contact_worker import Client, Forked, Worker
client, unused = Client(sys.argv[1]), Client(sys.argv[1])
worker = Worker(sys.argv[2], group="g")
worker.task(lambda task: None)
client.server()
worker.start()
worker.wait_connected(60)
if os.fork() == 0:
    for call in (client.server, unused.server, worker.stop, worker.start, lambda: worker.status("x")):
        try:
            call()
            print("it was not refused", flush=True)
        except Forked as error:
            print("refused:", error, flush=True)
    os._exit(0)
os.wait()
worker.stop()
print("over", flush=True)
"""


class Signals(Case):
    def program(self, source, grace="20"):
        program = Program(source, self.server.listen, grace)
        self.addCleanup(program.close)
        return program

    def test_sigint_and_sigterm_finish_what_runs(self):
        for source in (WORKER, AIO_WORKER):
            for number in (signal.SIGINT, signal.SIGTERM):
                with self.subTest(number=number, source=source[:30]):
                    id = self.client.submit("1", to="g").id
                    program = self.program(source)
                    program.wait_for("begun 1")
                    program.signal(number)
                    self.assertEqual(program.ended(), 0, program.lines)
                    self.assertEqual(program.lines[-1], "over")
                    done = list(self.client.results(task=id))
                    self.assertEqual([(it.outcome, it.text) for it in done], [("DONE", "1")])

    def test_what_outlasts_the_grace_is_given_up_and_the_program_ends(self):
        for source in (WORKER, AIO_WORKER):
            with self.subTest(source=source[:30]):
                id = self.client.submit("1000", to="g", max_attempts=1).id
                program = self.program(source, "0.1")
                program.wait_for("begun 1000")
                program.signal(signal.SIGTERM)
                self.assertEqual(program.ended(), 0, program.lines)
                results = [(it.outcome, it.text) for it in self.client.results(task=id)]
                self.assertEqual(results[0], ("RETRY", "the worker was stopped before its handler had ended"))

    def test_a_second_ctrl_c_ends_at_once(self):
        self.client.submit("1000", to="g", max_attempts=1)
        program = self.program(WORKER)
        program.wait_for("begun 1000")
        program.signal(signal.SIGINT)
        program.wait_for("stopping")
        self.assertIsNone(self.until_it_ends(program))
        self.assertNotIn("over", program.lines)
        self.assertTrue(any("KeyboardInterrupt" in line for line in program.lines), program.lines)

    def until_it_ends(self, program):
        """A signal again and again: the first ones may be the first passed on by another program."""

        def ends():
            program.signal(signal.SIGINT)
            return program.process.poll() is not None

        eventually("it ends", ends)
        program.ended()

    def test_a_worker_runs_on_a_thread_where_signals_are_not_its_own(self):
        worker = Worker(self.server.listen, group="g", start_at="first", **SOON)
        worker.task(lambda task: task.text)
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        thread = threading.Thread(target=worker.run)
        thread.start()
        self.client.submit("x")
        self.assertEqual(self.outcomes(1), [(1, "DONE", "x")])
        worker.stop()
        thread.join(DEADLINE)
        self.assertEqual([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], before)

    def test_a_worker_leaves_no_thread_and_no_file_behind(self):
        def once():
            worker = Worker(self.server.listen, group="g", start_at="first", **SOON)
            worker.task(lambda task: task.text)
            with worker:
                self.assertTrue(worker.wait_connected(DEADLINE))

        before = set(threading.enumerate())
        once()
        files = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            once()
        eventually(
            "its threads have ended",
            lambda: not [it for it in set(threading.enumerate()) - before if it.name.startswith("contact-")],
        )
        eventually("its files are closed", lambda: len(os.listdir("/proc/self/fd")) <= files)


ADDRESSES = """
from contact_worker import Client, Worker
worker = Worker(group="g")
worker.task(lambda task: "done")
with Client() as client, worker:
    print(client.wait(client.submit("x", to="g").id).result.text)
"""


class Environment(Case):
    def test_addresses_are_those_of_the_environment_where_none_are_given(self):
        program = Program(ADDRESSES, CONTACT_SERVER=self.server.listen, CONTACT_CONTROL=self.server.control)
        self.addCleanup(program.close)
        self.assertEqual((program.ended(), program.lines), (0, ["done"]))


@unittest.skipUnless(hasattr(os, "fork"), "there is no fork here")
class Forks(Case):
    def test_a_fork_is_refused_clearly(self):
        program = Program(FORKS, self.server.control, self.server.listen)
        self.addCleanup(program.close)
        self.assertEqual(program.ended(), 0, program.lines)
        said = [line for line in program.lines if "refused" in line]
        self.assertEqual(len(said), 5, program.lines)
        for line in said:
            self.assertTrue(line.startswith("refused:"), said)
        self.assertIn("multiprocessing", said[0])
        self.assertEqual(program.lines[-1], "over")


if __name__ == "__main__":
    unittest.main()
