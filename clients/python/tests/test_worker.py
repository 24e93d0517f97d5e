"""A worker with threads, against the real server."""

from __future__ import annotations

import resource
import threading
import time
import unittest

from contact_worker import ContactError, Fail, NewTask, Refused, Reply, Retry, TakenOver, Task, Worker

from rig import DEADLINE, SOON, Case, Gate, eventually, quietly


def memory():
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Handling(Case):
    def test_tasks_reach_the_handler_and_what_it_returns_is_the_result(self):
        self.client.submit("hello", to="g", key="k-1", ttl=3600, timeout=60, max_attempts=5)
        seen = []
        self.worker(lambda task: seen.append(task) or task.text.upper())
        self.assertEqual(self.outcomes(1), [(1, "DONE", "HELLO")])
        task = seen[0]
        self.assertEqual((task.id, task.attempt, task.spent, task.key, task.timeout), (1, 1, 0, "k-1", 60))
        self.assertEqual(task.max_attempts, 5)
        self.assertAlmostEqual(task.expires_at.timestamp(), time.time() + 3600, delta=60)
        self.assertFalse(task.revoked)

    def test_a_handler_may_return_nothing_and_what_is_no_text_fails(self):
        self.client.submit("none")
        self.client.submit("dict")
        with self.assertLogs("contact_worker", "ERROR"):
            self.worker(lambda task: {"none": None, "dict": {}}[task.text])
            self.assertEqual(self.outcomes(2)[0], (1, "DONE", ""))
        task, outcome, text = self.outcomes(2)[1]
        self.assertEqual((task, outcome), (2, "FAILED"))
        self.assertIn("the handler returned dict", text)

    def test_what_a_handler_raises_becomes_the_outcome(self):
        def handle(task):
            if task.text == "later" and task.attempt == 1:
                raise Retry("not now", delay=0.01)
            if task.text == "never":
                raise Fail("no such file")
            if task.text == "breaks" and task.attempt == 1:
                raise KeyError("k")
            if task.text == "exits" and task.attempt == 1:
                raise SystemExit(3)
            return "ok"

        for text in ("later", "never", "breaks", "exits"):
            self.client.submit(NewTask(text, retry="first=10ms"))
        with self.assertLogs("contact_worker", "ERROR") as logs:
            self.worker(handle)
            outcomes = sorted(self.outcomes(7))
        self.assertEqual(
            outcomes,
            [
                (1, "DONE", "ok"),
                (1, "RETRY", "not now"),
                (2, "FAILED", "no such file"),
                (3, "DONE", "ok"),
                (3, "RETRY", "KeyError: 'k'"),
                (4, "DONE", "ok"),
                (4, "RETRY", "SystemExit: 3"),
            ],
        )
        self.assertTrue(any("KeyError" in line and "Traceback" in line for line in logs.output), logs.output)
        self.assertEqual([it.task_id for it in self.client.dead("g")], [2])

    def test_as_many_tasks_run_at_once_as_the_concurrency_says(self):
        gate = Gate()
        for text in "abcd":
            self.client.submit(text)
        self.worker(gate, concurrency=3)
        gate.wait_begun(3)
        in_group = [self.client.task(id).groups[0] for id in range(1, 5)]
        self.assertEqual([it.state for it in in_group][:3], ["IN_FLIGHT"] * 3)
        self.assertEqual(len(gate.begun), 3)
        gate.open.set()
        self.assertEqual(sorted(text for _, _, text in self.outcomes(4)), ["A", "B", "C", "D"])

    def test_batches_are_unpacked_and_each_task_is_done_once(self):
        count = 5000
        self.client.submit_many(str(n) for n in range(count))
        handled = []
        self.worker(lambda task: handled.append(task.id), batch=500, concurrency=4, announce_begin=False)
        eventually("all are handled", lambda: len(handled) >= count)
        eventually("all are settled", lambda: [it.lag for it in self.client.groups() if it.name == "g"] == [0])
        self.assertEqual(sorted(handled), list(range(1, count + 1)))

    def test_a_worker_holds_no_more_than_its_window_however_much_waits(self):
        self.client.submit_many(str(n) for n in range(1000))
        gate = Gate()
        worker = self.worker(gate, window=20, batch=50)
        gate.wait_begun()
        eventually("it holds its window", lambda: [it.in_flight for it in self.client.clients()] == [20])
        # More would come only over this connection: a heartbeat says that all before it is here.
        self.assertEqual(len(worker._running().ledger.held), 20)
        gate.open.set()

    def test_however_much_waits_its_memory_does_not_grow_with_it(self):
        count, size = 3000, 50_000
        before = memory()
        self.client.submit_many(NewTask("x" * size, to="g") for _ in range(count))
        handled = []
        self.worker(lambda task: handled.append(len(task.text)), window=200, batch=100)
        eventually("all are handled", lambda: len(handled) == count)
        self.assertEqual(handled, [size] * count)
        # All of it would be 150 MB. Its window has 10, and gRPC a few messages of 1 MiB.
        self.assertLess(memory() - before, 80_000_000)

    def test_an_anonymous_worker_is_refused(self):
        with self.assertRaisesRegex(ValueError, "give a group"):
            Worker(self.server.listen)

    def test_a_result_that_is_too_long_is_cut_and_the_log_says_so(self):
        self.client.submit("long")
        with self.assertLogs("contact_worker", "WARNING") as logs:
            self.worker(lambda task: "ü" * 600_000)
            (result,) = self.results(1)
        self.assertEqual((result.outcome, result.text), ("DONE", "ü" * 524_288))
        self.assertIn("cut from 1200000 to 1048576 bytes", logs.output[0])

    def test_headers_and_data_arrive_byte_for_byte_and_a_result_may_carry_them(self):
        data = bytes(range(256))
        self.client.submit(to="g", data=data, headers={"content-type": "image/png"})
        self.client.submit("bytes", to="g")

        def handle(task):
            if task.text == "bytes":
                return b"\xff\x00"
            return Reply("reversed", data=task.data[::-1], headers={"was": task.headers["content-type"]})

        self.worker(handle)
        first, second = sorted(self.results(2), key=lambda it: it.task_id)
        self.assertEqual((first.text, dict(first.headers), first.data_size), ("reversed", {"was": "image/png"}, 256))
        self.assertEqual(self.client.data(first), data[::-1])
        self.assertEqual(self.client.data(self.client.task(1).task), data)
        self.assertEqual((second.text, self.client.data(second)), ("", b"\xff\x00"))
        for headers, said in [({"Content-Type": "x"}, "no key of a header"), ({"a": "\n"}, "cannot be seen")]:
            with self.assertRaisesRegex(ValueError, said):
                Reply(headers=headers)

    def test_data_that_is_too_long_is_left_out_and_the_text_says_so(self):
        self.client.submit("long")
        with self.assertLogs("contact_worker", "WARNING"):
            self.worker(lambda task: Reply("kept", data=b"x" * 2_000_000))
            (result,) = self.results(1)
        self.assertEqual((result.outcome, result.text), ("DONE", "kept\n[left out: 2000000 bytes of data]\n"))
        self.assertEqual((result.data_size, self.client.data(result)), (0, b""))

    def test_text_that_is_no_unicode_is_replaced(self):
        self.client.submit("x")
        self.worker(lambda task: "a\ud800b")
        self.assertEqual(self.outcomes(1), [(1, "DONE", "a?b")])

    def test_a_status_is_on_disk_when_it_returns_and_one_that_is_too_long_is_refused(self):
        worker = self.worker(lambda task: None, id="w")
        worker.status("warm: 21°C", timeout=DEADLINE)
        self.assertEqual([(it.client, it.text) for it in self.client.statuses()], [("w", "warm: 21°C")])
        with self.assertRaises(ContactError) as caught:
            worker.status("x" * 1_100_000, timeout=DEADLINE)
        self.assertEqual(caught.exception.reason, "STATUS_TOO_LONG")

    def test_more_statuses_than_the_server_takes_a_second_wait_their_turn(self):
        worker = self.worker(lambda task: None, id="w")
        for number in range(15):
            worker.status(str(number), timeout=DEADLINE)
        self.assertEqual([it.text for it in self.client.statuses()], [str(number) for number in range(15)])

    def test_how_far_a_task_is_is_shown(self):
        gate = Gate()

        def handle(task):
            task.progress(0.4, "resizing")
            return gate(task)

        self.client.submit("x")
        self.worker(handle)
        found = eventually("its progress", lambda: next((it for it in self.client.task(1).groups if it.progress), None))
        self.assertEqual((round(found.progress, 3), found.said), (0.4, "resizing"))
        gate.open.set()

    def test_a_group_and_labels_of_any_script_arrive(self):
        self.client.submit("a", to="缩略图 50%")
        self.worker(lambda task: task.text, group="缩略图 50%", labels={"os": "linux", "where": "工"})
        self.assertEqual(self.results(1)[0].group, "缩略图 50%")
        self.assertEqual([it.labels for it in self.client.clients()], ["os=linux,where=工"])

    def test_settings_that_cannot_work_are_refused_with_a_reason(self):
        for options, said in [
            ({"concurrency": 0}, "concurrency=0"),
            ({"window": 0}, "window=0"),
            ({"group": " g"}, "without blanks"),
            ({"start_at": "last"}, "first"),
            ({"server": "somewhere"}, "host:port"),
            ({"cert": "a.pem"}, "needs its key"),
            ({"grace": -1}, "cannot be -1"),
        ]:
            with self.subTest(options), self.assertRaisesRegex(ValueError, said):
                Worker(**{"group": "g", **options})
        with self.assertRaisesRegex(ValueError, "no handler"):
            Worker(group="g").start()

    def test_a_worker_has_one_handler_and_an_async_one_belongs_elsewhere(self):
        worker = Worker(group="g")

        @worker.task
        def first(task):
            return "first"

        self.assertEqual(first(Task("a text")), "first")
        with self.assertRaisesRegex(ValueError, r"has a handler already, .*first"):

            @worker.task
            def second(task):
                return None

        # As when the cell of a notebook is run again.
        first_again = type(first)(first.__code__, first.__globals__)
        first_again.__qualname__ = first.__qualname__
        worker.task(first_again)
        self.assertIs(worker._handler, first_again)

        with self.assertRaisesRegex(TypeError, "contact_worker.aio"):

            @worker.task
            async def third(task):
                return None

        with self.assertRaisesRegex(RuntimeError, "not started"):
            worker.stop()


class Leases(Case):
    arguments = ("--ack-timeout", "3s")

    def test_a_slow_handler_keeps_its_lease(self):
        gate = Gate()
        self.client.submit("slow", to="g")
        self.client.submit("silent", to="h")
        self.worker(gate, renew_every=0.3)
        gate.wait_begun()
        # Its lease would have ended before that of another that begins now and says nothing.
        silent = Gate()
        self.worker(silent, group="h", renew_every=1000)
        result = eventually("the end of a lease", lambda: list(self.client.results()))[0]
        self.assertEqual((result.group, result.outcome), ("h", "TIMED_OUT"))
        gate.open.set()
        silent.open.set()
        self.assertIn((1, "DONE", "SLOW"), eventually("it is done", lambda: [it for it in self.outcomes(2) if it[0] == 1]))

    def test_what_waits_behind_a_long_task_goes_back_so_that_others_get_it(self):
        gate = Gate()
        self.client.submit("long")
        self.worker(gate, window=5, renew_every=0.3)
        gate.wait_begun()
        self.client.submit("waits")
        self.worker(lambda task: task.text.upper())
        eventually("another has it", lambda: (2, "DONE", "WAITS") in self.outcomes(1))
        gate.open.set()


class Revoking(Case):
    def test_a_handler_hears_that_its_task_was_cancelled(self):
        heard = []

        def handle(task):
            heard.append("begun")
            assert task.revoked.wait(DEADLINE)
            heard.append(task.revoked.reason)

        self.client.submit("x")
        self.worker(handle)
        eventually("it has begun", lambda: heard)
        cancelled = self.client.cancel(1)
        self.assertEqual((cancelled.groups, cancelled.told, cancelled.untold), (1, 1, 0))
        eventually("it hears of it", lambda: heard == ["begun", "CANCELLED"])

    def test_one_that_is_not_begun_is_not_begun_any_more(self):
        gate = Gate()
        self.client.submit("first")
        self.client.submit("second")
        self.worker(gate, window=2)
        gate.wait_begun()
        eventually("both are here", lambda: [it.in_flight for it in self.client.clients()] == [2])
        self.client.cancel(2)
        gate.open.set()
        self.client.submit("third")
        texts = eventually("the third one is done", lambda: it if (3, "DONE", "THIRD") in (it := self.outcomes(1)) else None)
        self.assertEqual([task.text for task in gate.begun], ["first", "third"], texts)

    def test_a_task_that_takes_too_long_is_tried_again_or_fails_as_its_submitter_said(self):
        def handle(task):
            assert task.deadline is not None
            assert task.revoked.wait(DEADLINE)
            raise RuntimeError(task.revoked.reason)

        self.client.submit("a", timeout=0.2, max_attempts=1)
        self.client.submit("b", timeout=0.2, timeout_fails=True)
        self.worker(handle, concurrency=2)
        self.assertEqual(
            sorted(it for it in self.outcomes(3) if it[1] != "EXHAUSTED"),
            [(1, "RETRY", "timed out after 0.2 s"), (2, "FAILED", "timed out after 0.2 s")],
        )


class Stopping(Case):
    def test_a_stop_finishes_what_runs_and_gives_back_what_has_not_begun(self):
        gate = Gate()
        for text in ("runs", "waits"):
            self.client.submit(text)
        worker = self.worker(gate, id="w", window=2)
        gate.wait_begun()
        eventually("both are here", lambda: [it.in_flight for it in self.client.clients()] == [2])
        stopping = threading.Thread(target=worker.stop)
        stopping.start()
        eventually("the other one goes back", lambda: (2, "RELEASED", "") in self.outcomes(1))
        eventually("it is given no more", lambda: [it.draining for it in self.client.clients()] == [True])
        self.client.submit("comes later")
        gate.open.set()
        stopping.join(DEADLINE)
        self.assertIn((1, "DONE", "RUNS"), self.outcomes(2))
        self.assertEqual([task.text for task in gate.begun], ["runs"])
        self.assertEqual(self.client.clients(), [])

    def test_what_outlasts_the_grace_goes_to_others(self):
        gate = Gate()
        self.client.submit("endless", retry="first=10ms")
        worker = self.worker(gate)
        gate.wait_begun()
        worker.stop(grace=0)
        self.assertEqual(gate.begun[0].revoked.reason, "STOPPED")
        # It may have been given to the first one once more, which gave it back unspent.
        self.worker(lambda task: f"spent {task.spent}")
        self.assertIn((1, "DONE", "spent 1"), eventually("another has it", lambda: [it for it in self.outcomes(2) if it[1] == "DONE"]))
        gate.open.set()

    def test_a_worker_can_be_started_again_and_works_in_a_with_statement(self):
        worker = Worker(self.server.listen, group="g", start_at="first", **SOON)
        worker.task(lambda task: task.text)
        for number in (1, 2):
            self.client.submit("x")
            with worker:
                with self.assertRaisesRegex(RuntimeError, "running already"):
                    worker.start()
                self.results(number)

    def test_a_handler_can_stop_its_worker(self):
        self.client.submit("last")
        worker = Worker(self.server.listen, group="g", start_at="first", **SOON)

        @worker.task
        def handle(task):
            worker.stop()
            return "stopped"

        worker.run()
        self.assertEqual(self.outcomes(1), [(1, "DONE", "stopped")])

    def test_a_worker_without_a_server_can_be_stopped(self):
        worker = Worker("127.0.0.1:1", group="g", **SOON)
        worker.task(lambda task: None)
        with self.assertLogs("contact_worker", "WARNING") as logs, worker:
            eventually("it says so", lambda: any("cannot reach 127.0.0.1:1" in line for line in logs.output))
            self.assertFalse(worker.wait_connected(0.01))


class Refusals(Case):
    def test_a_worker_whose_id_another_takes_stops_and_says_so_after_its_result(self):
        gate = Gate()
        self.client.submit("x")
        first = self.worker(gate, group=None, id="same")
        gate.wait_begun()
        second = self.worker(lambda task: "by the second", group=None, id="same")
        self.assertTrue(second.wait_connected(DEADLINE))
        gate.open.set()
        eventually("the first one has ended", first._running().ended.is_set)
        with self.assertRaises(TakenOver) as caught:
            first.stop()
        self.assertEqual(caught.exception.reason, "CLIENT_TAKEN_OVER")

    def test_a_worker_that_the_server_refuses_ends_with_the_reason(self):
        worker = Worker(self.server.listen, group="g\u200b", **SOON)
        worker.task(lambda task: None)
        with self.assertRaises(Refused) as caught:
            worker.run()
        self.assertEqual(caught.exception.reason, "METADATA_INVALID")

    def test_the_port_of_operators_is_told_apart(self):
        worker = Worker(self.server.control, group="g", **SOON)
        worker.task(lambda task: None)
        with self.assertLogs("contact_worker", "WARNING") as logs:
            worker.start()
            self.addCleanup(quietly, worker.stop)
            eventually("it says so", lambda: any("--control" in line for line in logs.output))


if __name__ == "__main__":
    unittest.main()
