"""What happens when either side, or the network between, fails."""

from __future__ import annotations

import signal
import time
import unittest

import grpc

from contact_worker import ContactError, Refused, Unreported, Worker
from contact_worker._wire import contact_pb2 as pb

from fake import Fake, Once, refuse
from rig import DEADLINE, SOON, Case, Gate, Program, Proxy, eventually, quietly, quietly_list

WORKER = """
import sys, time
from contact_worker import Worker
worker = Worker(sys.argv[1], group="g", id="dies", start_at="first", concurrency=2)
@worker.task
def handle(task):
    print(f"begun {task.text}\\n", end="", flush=True)
    time.sleep(1000)
worker.run()
"""


class RealServer(Case):
    def test_a_worker_goes_on_with_what_it_has_when_the_server_was_killed(self):
        gate = Gate()
        self.client.submit("long")
        self.worker(gate, id="w")
        gate.wait_begun()
        self.server.kill()
        self.server.restart()
        eventually("it is back", lambda: quietly_list(self.client.clients))
        self.client.submit("next")
        gate.open.set()
        self.assertEqual(sorted(self.outcomes(2)), [(1, "DONE", "LONG"), (2, "DONE", "NEXT")])
        self.assertEqual([(it.attempt) for it in self.results(2)], [1, 1])
        self.assertEqual(len(gate.begun), 2)

    def test_what_was_finished_while_the_server_was_away_is_told_when_it_is_back(self):
        gate = Gate()
        self.client.submit("long")
        worker = self.worker(gate, id="w")
        gate.wait_begun()
        self.server.kill()
        gate.open.set()
        eventually("the result waits", lambda: worker._running().ledger.unreported() == 1)
        self.server.restart()
        self.assertEqual(self.outcomes(1), [(1, "DONE", "LONG")])

    def test_what_a_killed_worker_had_begun_goes_to_another(self):
        self.client.submit("a", retry="first=10ms")
        self.client.submit("b", retry="first=10ms")
        program = Program(WORKER, self.server.listen)
        self.addCleanup(program.close)
        program.wait_for("begun a")
        program.wait_for("begun b")
        program.signal(signal.SIGKILL)
        program.ended()
        self.worker(lambda task: f"{task.text}, spent {task.spent}", concurrency=2)
        done = eventually("both are done", lambda: it if len(it := [it for it in self.outcomes(2) if it[1] == "DONE"]) == 2 else None)
        self.assertEqual(sorted(done), [(1, "DONE", "a, spent 1"), (2, "DONE", "b, spent 1")])

    def test_a_cut_network_loses_no_result_and_no_task_is_handled_twice(self):
        proxy = Proxy(self.server.listen)
        self.addCleanup(proxy.close)
        gate = Gate()
        self.client.submit("long")
        worker = self.worker(gate, proxy.address, id="w")
        gate.wait_begun()
        # Another one of the group would have the task at once, if it were given up.
        other = self.worker(lambda task: "by another", id="other")
        other.wait_connected(DEADLINE)
        proxy.cut()
        eventually("it is back", lambda: sorted(it.id for it in self.client.clients()) == ["other", "w"])
        other.stop()
        gate.open.set()
        self.assertEqual(self.outcomes(1), [(1, "DONE", "LONG")])
        for number in range(2, 6):
            self.client.submit(f"task {number}")
            proxy.cut()
            self.assertIn((number, "DONE", f"TASK {number}"), self.done(number))
        self.assertEqual(sorted(task.id for task in gate.begun), [1, 2, 3, 4, 5])
        worker.stop()

    def done(self, count):
        """Waits until so many tasks are done."""

        def find():
            done = [(it.task_id, it.outcome, it.text) for it in self.client.results(outcome="DONE") if not it.late]
            return done if len(done) >= count else None

        return eventually(f"{count} are done", find)

    def test_a_network_that_swallows_everything_is_noticed_by_missing_heartbeats(self):
        proxy = Proxy(self.server.listen)
        self.addCleanup(proxy.close)
        with self.assertLogs("contact_worker", "WARNING") as logs:
            worker = self.worker(lambda task: task.text, proxy.address, heartbeat=1, renew_every=1000)
            self.assertTrue(worker.wait_connected(DEADLINE))
            proxy.mute = True
            eventually("it is given up", lambda: any("heartbeats stopped" in line for line in logs.output))
            proxy.mute = False
            proxy.cut()
            self.client.submit("x", to="g")
            self.assertEqual(self.outcomes(1), [(1, "DONE", "x")])

    def test_a_server_that_stops_says_when_to_come_back_and_the_worker_does(self):
        gate = Gate()
        self.client.submit("long")
        with self.assertLogs("contact_worker", "WARNING") as logs:
            self.worker(gate, id="w")
            gate.wait_begun()
            self.server.stop()
            self.server.restart()
            gate.open.set()
            self.assertEqual(self.outcomes(1), [(1, "DONE", "LONG")])
        self.assertTrue(any("SERVER_STOPPING" in line for line in logs.output), logs.output)

    def test_a_stop_while_the_server_is_away_says_what_could_not_be_told(self):
        gate = Gate()
        self.client.submit("long")
        worker = self.worker(gate)
        gate.wait_begun()
        self.server.kill()
        gate.open.set()
        engine = worker._running()
        eventually("the result waits", lambda: engine.ledger.unreported() == 1)
        engine.stop()
        with engine.lock:
            engine._end_at = time.monotonic()  # Not the ten seconds that the last results have.
            engine.clock.notify()
        with self.assertRaisesRegex(Unreported, "1 results could not be reported"):
            worker.stop()


class FakeServer(unittest.TestCase):
    def setUp(self):
        self.server = Fake()
        self.addCleanup(self.server.stop)

    def worker(self, handler, **options):
        worker = Worker(self.server.address, **{"group": "g", **SOON, **options})
        worker.task(handler)
        worker.start()
        self.addCleanup(quietly, lambda: worker.stop(0))
        return worker

    def test_who_the_worker_is_rides_in_the_metadata(self):
        self.worker(lambda task: None, id="wö", window=7, batch=3, labels={"os": "linux"}, start_at="first", heartbeat=5)
        said = eventually("it registers", lambda: self.server.registered)[0]
        for key, value in {
            "contact-client": "w%C3%B6",
            "contact-group": "g",
            "contact-window": "7",
            "contact-batch": "3",
            "contact-labels": "os=linux",
            "contact-from": "first",
            "contact-heartbeat": "5",
            "contact-begins": "1",
            "contact-receipts": "1",
            "contact-revoke": "1",
        }.items():
            self.assertEqual(said.get(key), value, key)
        # By this the server knows the same process again.
        self.server.tasks.put(lambda context: context.abort(grpc.StatusCode.UNAVAILABLE, "gone"))
        again = eventually("it registers again", lambda: self.server.registered[1:])[0]
        self.assertRegex(said["contact-instance"], "^[0-9a-f]{16}$")
        self.assertEqual(again["contact-instance"], said["contact-instance"])

    def test_each_task_is_announced_before_it_is_begun_and_the_receipt_goes_back(self):
        gate = Gate()
        self.worker(gate)
        self.server.send(1, receipt=b"0123456789abcdef")
        gate.wait_begun()
        self.assertEqual(self.server.results(pb.WORKING), [(1, "")])
        gate.open.set()
        self.server.wait_results(1)
        self.assertEqual({it.receipt for stream in self.server.told for it in stream}, {b"0123456789abcdef"})

    def test_what_was_confirmed_is_not_told_again_and_what_was_not_is_before_more_is_asked_for(self):
        refusing = Once()
        confirmed = []

        def answer(results, context):
            if any(it.id == 2 for it in results) and refusing():
                context.abort(grpc.StatusCode.UNAVAILABLE, "the network is gone")
            confirmed.extend(it.id for it in results if it.outcome == pb.DONE)

        self.server.answer = answer
        self.worker(lambda task: task.text, confirm_every=0)
        self.server.send(1)
        eventually("the first one is confirmed", lambda: confirmed == [1])
        self.server.send(2)
        eventually("the second one, too", lambda: confirmed == [1, 2])
        self.assertEqual([id for id, _ in self.server.results()], [1, 2, 2])
        eventually("it has asked for more", lambda: len(self.server.registered) == 2)
        told = [it for it in self.server.events if it in ("asked", (pb.DONE, 2))]
        self.assertEqual(told, ["asked", (pb.DONE, 2), (pb.DONE, 2), "asked"])

    def test_what_is_held_over_a_reconnect_is_renewed_before_and_right_after_more_is_asked_for(self):
        gate = Gate()
        self.worker(gate, renew_every=1000)
        self.server.send(1)
        gate.wait_begun()
        self.server.tasks.put(lambda context: context.abort(grpc.StatusCode.UNAVAILABLE, "gone"))
        word = (pb.WORKING, 1)
        eventually("it is renewed", lambda: self.server.events == ["asked", word, word, "asked", word])
        gate.open.set()

    def test_a_result_that_the_server_refuses_is_dropped_and_takes_no_other_along(self):
        def answer(results, context):
            if any(it.id == 2 and it.outcome == pb.DONE for it in results):
                refuse(context, grpc.StatusCode.NOT_FOUND, "TASK_UNKNOWN")
            confirmed.extend(it.id for it in results if it.outcome == pb.DONE)

        confirmed = []
        self.server.answer = answer
        gate = Gate()
        with self.assertLogs("contact_worker", "WARNING") as logs:
            self.worker(gate, concurrency=3)
            for id in (1, 2, 3):
                self.server.send(id)
            gate.wait_begun(3)
            gate.open.set()
            eventually("the others are confirmed", lambda: sorted(confirmed) == [1, 3])
            eventually("it says so", lambda: any("the result of task 2" in line for line in logs.output))

    def test_a_result_that_the_server_finds_too_long_is_told_as_failed(self):
        def answer(results, context):
            if any(len(it.ret) > 1000 for it in results):
                refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "RESULT_TOO_LONG")

        self.server.answer = answer
        with self.assertLogs("contact_worker", "WARNING"):
            self.worker(lambda task: "y" * 2000)
            self.server.send(1)
            told = self.server.wait_results(1, pb.FAILED)
        self.assertEqual(told[0][0], 1)
        self.assertIn("the result (DONE, 2000 bytes) was refused", told[0][1])

    def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(self):
        worker = self.worker(lambda task: None, most_backoff=30)
        self.assertTrue(worker.wait_connected(DEADLINE))
        at = time.monotonic()
        self.server.tasks.put(lambda context: refuse(context, grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING", retry_after=2))
        eventually("it is back", lambda: len(self.server.registered) == 2)
        self.assertGreaterEqual(time.monotonic() - at, 2)

    def test_an_answer_that_is_none_of_a_contact_server_ends_no_worker(self):
        worker = self.worker(lambda task: None)
        for number, code in enumerate(("PERMISSION_DENIED", "UNIMPLEMENTED", "INVALID_ARGUMENT", "ABORTED"), 1):
            self.server.tasks.put(lambda context, code=code: context.abort(grpc.StatusCode[code], "404"))
            eventually("it is back", lambda number=number: len(self.server.registered) == number + 1)
        self.assertFalse(worker._running().ended.is_set())

    def test_a_mistake_in_a_thread_of_the_worker_ends_it_and_is_raised(self):
        for broken in ("promote", "next", "over_time"):
            with self.subTest(broken), self.assertLogs("contact_worker", "ERROR"):
                worker = Worker(self.server.address, group="g", confirm_every=0, **SOON)
                worker.task(lambda task: None)
                worker.start()
                engine = worker._running()
                self.assertTrue(worker.wait_connected(DEADLINE))
                with engine.lock:
                    setattr(engine.ledger, broken, None)
                    engine.clock.notify()
                self.server.send(1)
                eventually("it has ended", engine.ended.is_set)
                with self.assertRaisesRegex(ContactError, "a mistake"):
                    worker.stop()

    def test_one_that_gives_no_ids_is_refused_with_a_reason(self):
        worker = self.worker(lambda task: None)
        self.server.tasks.put(pb.ServerMsg(task="x"))
        eventually("it ends", worker._running().ended.is_set)
        with self.assertRaisesRegex(Refused, "no ids"):
            worker.stop()

    def test_a_task_that_comes_again_is_not_handled_twice_and_its_result_names_the_newest_attempt(self):
        gate = Gate()
        self.worker(gate)
        self.server.send(1, attempt=1)
        gate.wait_begun()
        self.server.send(1, attempt=2)
        self.server.send(2)
        eventually("all came", self.server.tasks.empty)
        gate.open.set()
        self.server.wait_results(2)
        attempts = [it.attempt for stream in self.server.told for it in stream if it.id == 1 and it.outcome == pb.DONE]
        self.assertEqual(attempts, [2])
        self.assertEqual([task.id for task in gate.begun], [1, 2])

    def test_how_far_it_is_is_told_again_with_each_renewal(self):
        gate = Gate()

        def handle(task):
            task.progress(0.25, "a quarter")
            return gate(task)

        self.worker(handle, renew_every=0.1)
        self.server.send(1)
        eventually("it is told again", lambda: self.server.results(pb.WORKING).count((1, "a quarter")) >= 3)
        gate.open.set()


if __name__ == "__main__":
    unittest.main()
