"""The ledger by itself: no server, no threads, no clock; and what else needs none."""

from __future__ import annotations

import random
import sys
import unittest

from contact_worker import NewTask, Task
from contact_worker._backoff import Backoff
from contact_worker._ledger import INBOX_BYTES, UNSENT_BYTES, Ledger
from contact_worker._wire import contact_pb2 as pb
from contact_worker._wire import control_pb2, enum

OUTCOMES = enum("Outcome")


def task(id, attempt=1, text="x", **fields):
    return pb.ServerMsg(id=id, attempt=attempt, task=text, **fields)


def said(ledger):
    """All that the ledger has to say, as (id, outcome)."""
    found = []
    while (message := ledger.next()) is not None:
        found += [(it.id, OUTCOMES[it.outcome]) for it in (message.batch or [message])]
    return found


def begun(ledger, *ids):
    """Has tasks come and begin; returns them as they are held."""
    for id in ids:
        ledger.accept(task(id), 0, 0)
    ledger.promote(0)
    said(ledger)
    ledger.written()
    return [ledger.take(0, 0) for _ in ids]


class Beginning(unittest.TestCase):
    def test_a_task_may_be_taken_when_its_announcement_is_on_its_way(self):
        ledger = Ledger(1, True)
        ledger.accept(task(1), 0, 0)
        ledger.accept(task(2), 0, 0)
        ledger.promote(0)
        self.assertIsNone(ledger.take(0, 0))
        self.assertEqual(said(ledger), [(1, "WORKING")])
        self.assertIsNone(ledger.take(0, 0))
        ledger.written()
        job = ledger.take(0, 0)
        self.assertEqual(job.id, 1)
        ledger.promote(0)
        self.assertEqual(said(ledger), [], "one at a time")
        ledger.finish(job, pb.Result(ret="done"))
        ledger.promote(0)
        self.assertEqual(said(ledger), [(2, "WORKING"), (1, "DONE")])

    def test_without_announcements_it_may_be_taken_at_once(self):
        ledger = Ledger(1, False)
        ledger.accept(task(1), 0, 0)
        ledger.promote(0)
        self.assertEqual(ledger.take(0, 0).id, 1)

    def test_what_expires_while_it_waits_is_given_back_and_by_the_clock_of_this_machine_alone(self):
        ledger = Ledger(1, True)
        (job,) = begun(ledger, 1)
        ledger.accept(task(2, expires_at=1_005_000), 0, 1000)
        # By this clock it was over before it came: so the clock is not the server's.
        ledger.accept(task(3, expires_at=1_000), 0, 1000)
        ledger.finish(job, pb.Result())
        ledger.promote(6)
        self.assertEqual(said(ledger), [(3, "WORKING"), (1, "DONE"), (2, "RELEASED")])

    def test_a_time_beyond_what_python_knows_is_its_last_one(self):
        ledger = Ledger(1, False)
        ledger.accept(task(1, expires_at=2**63 - 1), 0, 1000)
        self.assertEqual(ledger.held[1].task.expires_at.year, 9999)


class Renewing(unittest.TestCase):
    def test_what_is_begun_is_renewed_and_what_waited_for_long_goes_back(self):
        ledger = Ledger(1, True)
        begun(ledger, 1)
        ledger.accept(task(2), 0, 0)
        ledger.renew()
        self.assertEqual(said(ledger), [(1, "WORKING")])
        ledger.renew()
        self.assertEqual(said(ledger), [(1, "WORKING"), (2, "RELEASED")])
        self.assertEqual(list(ledger.held), [1])

    def test_tasks_that_go_back_and_come_again_fill_no_inbox(self):
        ledger = Ledger(1, True)
        begun(ledger, 1)
        for number in range(1000):
            ledger.accept(task(2 + number, text="x" * 1000), 0, 0)
            ledger.renew()
            ledger.renew()
        self.assertEqual((len(ledger._inbox), ledger._inbox_bytes), (0, 0))

    def test_no_word_follows_the_result_of_a_task(self):
        ledger = Ledger(1, True)
        (job,) = begun(ledger, 1)
        ledger.renew()
        ledger.finish(job, pb.Result())
        self.assertEqual(said(ledger), [(1, "DONE")])

    def test_one_that_was_revoked_is_not_renewed_and_a_later_delivery_stands(self):
        ledger = Ledger(2, True)
        (job,) = begun(ledger, 1)
        ledger.revoke(1, 1, "CANCELLED")
        ledger.renew()
        self.assertEqual(said(ledger), [])
        ledger.accept(task(1, attempt=2), 0, 0)
        ledger.promote(0)
        self.assertEqual(said(ledger), [(1, "WORKING")])
        ledger.finish(job, pb.Result(ret="of the first"))
        self.assertEqual(said(ledger), [], "what came of the first delivery is not told as of the second")

    def test_one_that_was_revoked_while_it_waited_is_neither_begun_nor_given_back(self):
        for announces in (True, False):
            ledger = Ledger(1, announces)
            (job,) = begun(ledger, 1)
            ledger.accept(task(2), 0, 0)
            ledger.revoke(2, 1, "CANCELLED")
            ledger.finish(job, pb.Result())
            ledger.promote(0)
            self.assertIsNone(ledger.take(0, 0))
            self.assertEqual(said(ledger), [(1, "DONE")])


class Telling(unittest.TestCase):
    def test_what_is_unconfirmed_is_told_again_over_another_connection_and_what_is_confirmed_is_not(self):
        ledger = Ledger(3, True)
        jobs = begun(ledger, 1, 2, 3)
        ledger.finish(jobs[0], pb.Result())
        self.assertEqual(said(ledger), [(1, "DONE")])
        ledger.confirm()
        ledger.finish(jobs[1], pb.Result())
        self.assertEqual(said(ledger), [(2, "DONE")])
        ledger.disconnected()
        ledger.renew()
        self.assertEqual(said(ledger), [(2, "DONE"), (3, "WORKING")])

    def test_what_is_not_begun_when_the_connection_is_lost_goes_back(self):
        ledger = Ledger(2, True)
        begun(ledger, 1)
        for id in (2, 3):
            ledger.accept(task(id), 0, 0)
        ledger.promote(0)
        self.assertEqual(said(ledger), [(2, "WORKING")])
        ledger.disconnected()
        self.assertEqual(said(ledger), [(2, "RELEASED"), (3, "RELEASED")])
        self.assertEqual(list(ledger.held), [1])

    def test_of_results_that_are_refused_together_each_is_told_alone_and_one_is_dropped(self):
        ledger = Ledger(3, True)
        for job in begun(ledger, 1, 2, 3):
            ledger.finish(job, pb.Result())
        self.assertEqual(len(ledger.next().batch), 3)
        self.assertIsNone(ledger.refuse(False, "no"))
        self.assertEqual(ledger.next().id, 1)
        self.assertTrue(ledger.is_full())
        ledger.confirm()
        self.assertEqual(ledger.next().id, 2)
        self.assertEqual(ledger.refuse(False, "no"), 2)
        self.assertEqual(ledger.next().id, 3)
        ledger.confirm()
        self.assertEqual(ledger.unreported(), 0)

    def test_a_result_is_told_once_after_a_long_text_was_cut_at_a_character(self):
        ledger = Ledger(1, True)
        ledger.max_result = 5
        (job,) = begun(ledger, 1)
        ledger.finish(job, pb.Result(ret="üüü"))
        with self.assertLogs("contact_worker", "WARNING"):
            self.assertEqual(ledger.next().ret, "üü")

    def test_a_handler_that_does_not_end_is_given_up(self):
        ledger = Ledger(1, True)
        ledger.accept(task(1, timeout_ms=1000, timeout_fails=True), 0, 0)
        ledger.promote(0)
        said(ledger)
        ledger.written()
        job = ledger.take(100, 0)
        self.assertEqual(ledger.over_time(100.5), [])
        self.assertEqual(ledger.over_time(101), [job])
        self.assertEqual(job.task.revoked.reason, "TIMED_OUT")
        ledger.renew()
        self.assertEqual(said(ledger), [(1, "WORKING")], "its lease is kept while the handler may still end")
        with self.assertLogs("contact_worker", "WARNING"):
            self.assertEqual(ledger.over_time(111), [])
        self.assertEqual(said(ledger), [(1, "FAILED")])
        ledger.finish(job, pb.Result())
        self.assertEqual(said(ledger), [])


class Bounds(unittest.TestCase):
    def test_with_many_results_to_be_told_no_task_is_begun(self):
        ledger = Ledger(100, False)
        for id in range(1, 101):
            ledger.accept(task(id), 0, 0)
        ledger.promote(0)
        for _ in range(9):
            ledger.finish(ledger.take(0, 0), pb.Result(ret="y" * (UNSENT_BYTES // 8)))
        for id in range(101, 110):
            ledger.accept(task(id), 0, 0)
        ledger.promote(0)
        self.assertEqual(len(ledger.ready), 91, "none of those that came later")

    def test_with_many_bytes_of_tasks_no_more_are_read(self):
        ledger = Ledger(1, True)
        begun(ledger, 1)
        for id in range(2, 10):
            self.assertTrue(ledger.has_inbox_room())
            ledger.accept(task(id, text="x" * (INBOX_BYTES // 8)), 0, 0)
        self.assertFalse(ledger.has_inbox_room())

    def test_any_life_keeps_the_bounds_and_tells_each_task_once(self):
        for seed in range(200):
            with self.subTest(seed=seed):
                self.live(random.Random(seed))

    def live(self, rng):
        """Random events; in the end each task was told of once over the last connection, or given back, or revoked."""
        ledger = Ledger(rng.randint(1, 4), rng.random() < 0.7)
        running, confirmed, given, revoked, sent = [], [], set(), set(), []
        ids = iter(range(1, 10_000))

        def send():
            message = ledger.next()
            for it in (message.batch or [message]) if message is not None else ():
                sent.append(it)
                if it.outcome == pb.RELEASED:
                    given.add(it.id)

        for now in range(300):
            event = rng.randrange(10)
            if event < 3:
                ledger.accept(task(next(ids)), now, 0)
            elif event == 3 and running:
                ledger.finish(running.pop(rng.randrange(len(running))), pb.Result())
            elif event == 4:
                send()
            elif event == 5:
                ledger.written()
            elif event == 6 and not ledger.has_next():
                confirmed += [it.id for it in sent if it.outcome == pb.DONE]
                sent.clear()
                ledger.confirm()
            elif event == 7 and rng.random() < 0.2:
                ledger.disconnected()
                sent.clear()
            elif event == 8:
                ledger.renew()
            elif event == 9 and ledger.held and rng.random() < 0.2:
                id = rng.choice(list(ledger.held))
                revoked.add(id)
                ledger.revoke(id, 1, "CANCELLED")
            ledger.promote(now)
            job = ledger.take(now, 0)
            if job is not None:
                running.append(job)
            self.assertLessEqual(ledger._slots, ledger._concurrency)
            self.assertLessEqual(len(running), ledger._concurrency)
        ledger.stop()
        for _ in range(100):
            send()
            ledger.written()
            while (job := ledger.take(0, 0)) is not None:
                running.append(job)
            while running:
                ledger.finish(running.pop(), pb.Result())
        confirmed += [it.id for it in sent if it.outcome == pb.DONE]
        self.assertEqual((ledger.held, ledger._slots), ({}, 0))
        self.assertEqual(len(confirmed), len(set(confirmed)), "none is confirmed twice")
        self.assertEqual(set(range(1, next(ids))) - set(confirmed) - given - revoked, set(), "none is forgotten")


class Others(unittest.TestCase):
    def test_waits_grow_are_jittered_and_bounded_and_not_before_what_was_asked_for(self):
        backoff = Backoff(1, 30)
        waits = [backoff.next() for _ in range(100)]
        self.assertTrue(waits[0] <= 1 and max(waits) <= 30 and len(set(waits)) > 90 and max(waits) > 8, waits)
        backoff.reset()
        self.assertTrue(3 <= backoff.next(3) <= 4)
        self.assertTrue(all(15 <= Backoff(1, 30).next(3600) <= 30 for _ in range(100)))

    def test_the_messages_meet_no_others_of_the_process(self):
        from google.protobuf import descriptor_pb2, descriptor_pool

        other = descriptor_pb2.FileDescriptorProto(name="contact.proto")
        other.message_type.add(name="ServerMsg")
        pool = descriptor_pool.Default()
        pool.AddSerializedFile(other.SerializeToString())
        self.assertEqual(len(pool.FindMessageTypeByName("ServerMsg").fields), 0)
        self.assertIn("task", pb.ServerMsg.DESCRIPTOR.fields_by_name)
        self.assertNotIn("contact_pb2", sys.modules)

    def test_a_task_can_be_made_for_the_test_of_a_handler(self):
        handled = Task("a text", attempt=2)
        handled.progress(0.5, "half")
        with self.assertRaises(ValueError):
            NewTask("a", ttl=float("inf")).message()
        self.assertFalse(handled.revoked.wait(0))
        self.assertEqual(control_pb2.NewTask(task="a"), NewTask("a").message())


if __name__ == "__main__":
    unittest.main()
