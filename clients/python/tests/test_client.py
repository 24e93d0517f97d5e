"""The client of operators, against the real server."""

from __future__ import annotations

import itertools
import unittest

from contact_worker import (
    AlreadyExists,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    NewTask,
    NotFound,
    Retry,
    TasksRefused,
    Unavailable,
)

from rig import DEADLINE, Case, Gate, eventually


class Submitting(Case):
    def test_a_task_is_accepted_once_for_each_key(self):
        first = self.client.submit("a", to="g", key="k")
        again = self.client.submit("a", to="g", key="k")
        self.assertEqual((first.id, first.known, again.id, again.known), (1, False, 1, True))
        with self.assertRaises(AlreadyExists) as caught:
            self.client.submit("b", to="g", key="k")
        error = caught.exception
        self.assertEqual((error.reason, error.code, error.metadata["key"]), ("KEY_REUSED", "ALREADY_EXISTS", "k"))

    def test_what_a_task_says_is_kept(self):
        self.client.submit("a", to="g", key="k", ttl=3600, priority="high", retry="first=1s", max_attempts=3, timeout=5, timeout_fails=True)
        task = self.client.task(1).task
        self.assertEqual((task.text, task.to, task.key, task.priority, task.max_attempts), ("a", "g", "k", "high", 3))
        self.assertEqual((task.timeout, task.timeout_fails), (5, True))
        self.assertIn("first=1s", task.retry)
        self.assertAlmostEqual((task.expires_at - task.accepted_at).total_seconds(), 3600, delta=1)

    def test_a_task_that_makes_no_sense_is_refused_and_the_field_named(self):
        with self.assertRaises(InvalidArgument) as caught:
            self.client.submit("a", select="os in (")
        self.assertEqual(caught.exception.reason, "SELECTOR_INVALID")
        self.assertIn("tasks[0].select", caught.exception.fields)
        for options, said in [({"priority": "urgent"}, "high, low|normal, high"), ({"delay": -1}, "cannot be -1")]:
            with self.assertRaisesRegex(ValueError, said):
                self.client.submit("a", **options)
        with self.assertRaisesRegex(TypeError, "selct"):
            self.client.submit("a", selct="os=linux")

    def test_many_tasks_are_submitted_in_their_order_from_an_iterator(self):
        heard = []
        submitted = self.client.submit_many(
            (NewTask(f"t{number}", to="g", key=f"k{number}") for number in range(2500)),
            on_answer=lambda so_far: heard.append(so_far.accepted),
        )
        self.assertEqual((submitted.accepted, submitted.known, submitted.refused), (2500, 0, 0))
        self.assertEqual((submitted.first_id, submitted.last_id), (1, 2500))
        self.assertEqual(heard, [1000, 2000, 2500])
        again = self.client.submit_many(NewTask(f"t{number}", to="g", key=f"k{number}") for number in range(2500))
        self.assertEqual((again.accepted, again.known, again.last_id), (2500, 2500, 2500))
        self.assertEqual(self.client.submit_many([]).accepted, 0)

    def test_an_endless_iterator_is_read_no_faster_than_the_server_answers(self):
        read = itertools.count()
        ahead = []

        def endless():
            while True:
                yield f"t{next(read)}"

        class Enough(Exception):
            pass

        def heard(so_far):
            ahead.append(self.submitted_so_far(read) - so_far.accepted)
            if len(ahead) == 50:
                raise Enough

        with self.assertRaises(Enough):
            self.client.submit_many(endless(), batch=100, on_answer=heard)
        self.assertLessEqual(max(ahead), 4 * 100)
        # The client goes on.
        self.assertGreater(self.client.submit("after").id, 4000)

    @staticmethod
    def submitted_so_far(counter):
        return int(repr(counter)[len("count(") : -1])

    def test_what_an_iterator_raises_reaches_the_caller(self):
        def broken():
            yield "a"
            raise OSError("the file is gone")

        with self.assertRaisesRegex(OSError, "the file is gone"):
            self.client.submit_many(broken())

    def test_of_many_tasks_those_that_are_refused_are_named_and_the_others_accepted(self):
        with self.assertRaises(TasksRefused) as caught:
            self.client.submit_many(["a", "", "c", NewTask("d", select="(")], batch=2)
        submitted = caught.exception.submitted
        self.assertEqual((submitted.accepted, submitted.refused), (2, 2))
        self.assertEqual([(place, reason) for place, reason, _ in submitted.refusals], [(1, "TASK_EMPTY"), (3, "SELECTOR_INVALID")])
        self.assertEqual(caught.exception.reason, "TASK_EMPTY")

    def test_a_server_that_goes_away_says_what_is_on_disk(self):
        def tasks():
            for number in itertools.count():
                if number == 5000:
                    self.server.kill()
                yield f"t{number}"

        with self.assertRaises(Unavailable) as caught:
            self.client.submit_many(tasks(), batch=100)
        accepted = caught.exception.submitted.accepted
        self.assertGreaterEqual(accepted, 4600)
        self.server.restart()
        with Client(self.server.control) as client:
            self.assertGreaterEqual(client.server().tasks, accepted)

    def test_a_server_that_is_not_there_is_said_at_once(self):
        with Client("127.0.0.1:1") as client, self.assertRaisesRegex(Unavailable, "127.0.0.1:1"):
            client.submit("a")

    def test_the_port_of_workers_is_told_apart(self):
        with Client(self.server.listen) as client, self.assertRaisesRegex(Exception, "mixed up"):
            client.groups()


class Watching(Case):
    def test_a_task_is_waited_for(self):
        gate = Gate()
        id = self.client.submit("a", to="g").id
        with self.assertRaises(DeadlineExceeded):
            self.client.wait(id, timeout=0.1)
        with self.assertRaisesRegex(LookupError, "nothing came of task 1 yet"):
            self.assertIsNone(self.client.task(id).result)
        self.worker(gate)
        gate.open.set()
        details = self.client.wait(id, timeout=DEADLINE)
        self.assertEqual((details.settled, details.result.outcome, details.result.text), (1, "DONE", "A"))
        with self.assertRaises(NotFound) as caught:
            self.client.wait(99)
        self.assertEqual(caught.exception.reason, "TASK_UNKNOWN")

    def test_what_comes_of_a_task_is_watched_until_all_groups_have_settled_it(self):
        attempts = iter(["not yet", "done"])

        def handle(task):
            if next(attempts) == "not yet":
                raise Retry("not yet")
            return "done"

        id = self.client.submit("a", to="g", retry="first=10ms").id
        watched = self.client.watch(id, timeout=DEADLINE)
        self.worker(handle)
        self.assertEqual([(it.outcome, it.text) for it in watched], [("RETRY", "not yet"), ("DONE", "done")])

    def test_tasks_are_found_newest_first(self):
        self.client.submit_many(NewTask(f"t{number}", to="g" if number % 2 else "h") for number in range(500))
        self.assertEqual([it.task.id for it in self.client.tasks()], list(range(500, 0, -1)))
        self.assertEqual([it.task.text for it in self.client.tasks(to="g", text="t49")][:2], ["t499", "t497"])
        self.assertEqual({it.state for it in self.client.tasks(state="WAITING")}, {"WAITING"})
        with self.assertRaisesRegex(ValueError, "WAITING, IN_FLIGHT"):
            list(self.client.tasks(state="waiting"))

    def test_results_are_followed(self):
        self.worker(lambda task: task.text.upper())
        results = self.client.results(follow=True)
        for number in range(3):
            self.client.submit(f"t{number}", to="g")
            self.assertEqual(next(results).text, f"T{number}")
        results.close()

    def test_a_dead_letter_is_tried_again_and_another_dropped(self):
        answers = iter(["no", "no", "yes"])

        def handle(task):
            if next(answers) == "no":
                raise ValueError("broken")
            return "repaired"

        for text in "ab":
            self.client.submit(text, to="g", max_attempts=1)
        self.worker(handle)
        dead = eventually("both are dead", lambda: it if len(it := list(self.client.dead("g"))) == 2 else None)
        self.assertEqual([it.task_id for it in dead], [1, 2])
        self.assertEqual(self.client.retry(1, "g"), 1)
        self.assertEqual(self.client.wait(1, timeout=DEADLINE).result.text, "repaired")
        self.client.drop(2, "g")
        self.assertEqual(list(self.client.dead()), [])

    def test_a_group_is_paused_and_resumed(self):
        self.client.pause("g")
        self.worker(lambda task: "done")
        self.client.submit("a", to="g")
        (group,) = self.client.groups()
        self.assertEqual((group.name, group.paused, group.lag), ("g", True, 1))
        self.client.resume("g")
        self.assertEqual(self.outcomes(1), [(1, "DONE", "done")])

    def test_a_group_has_limits_and_a_task_a_lane(self):
        limits = self.client.set_limits("g", max_in_flight=3, max_begun_per_second=0.5, lane_on_dead="hold")
        self.assertEqual((limits.max_in_flight, limits.max_begun_per_second, limits.lane_on_dead), (3, 0.5, "hold"))
        limits = self.client.set_limits("g", max_begun_per_second=None)
        self.assertEqual((limits.max_in_flight, limits.max_begun_per_second, limits.lane_max), (3, None, 1))
        with self.assertRaises(ValueError):
            self.client.set_limits("g", lane_on_dead="burn")
        self.client.submit("a", to="g", lane="tenant 7")
        self.assertEqual([found.task.lane for found in self.client.tasks()], ["tenant 7"])
        (group,) = self.client.groups()
        self.assertEqual((group.limits, group.lanes, group.held_lanes), (limits, 0, 0))

    def test_the_server_says_what_it_is(self):
        self.client.submit("a")
        server = self.client.server()
        self.assertEqual((server.tasks, server.max_task, server.refuses), (1, 1 << 20, ""))


class Schedules(Case):
    def test_a_schedule_is_set_once_shown_paused_run_and_removed(self):
        first = self.client.set_schedule(
            "nightly", "reindex", cron="0 3 * * *", zone="Asia/Shanghai", missed="once", to="g", headers={"a": "b"}
        )
        self.assertEqual((first.is_new, first.changed), (True, ()))
        again = self.client.set_schedule(
            "nightly", "reindex", cron="0 3 * * *", zone="Asia/Shanghai", missed="once", to="g", headers={"a": "b"}
        )
        self.assertEqual((again.is_new, again.changed), (False, ()))
        self.assertEqual(
            self.client.set_schedule("nightly", NewTask("all", to="g"), cron="0 3 * * *", missed="once").changed, ("when", "task")
        )
        shown = self.client.schedule("nightly", moments=3)
        self.assertEqual(
            (shown.cron, shown.zone, shown.every, shown.missed, shown.text, shown.to), ("0 3 * * *", "UTC", None, "once", "all", "g")
        )
        self.assertEqual([it.hour for it in shown.next], [3, 3, 3])
        self.assertTrue(self.client.pause_schedule("nightly").paused)
        task = self.client.task(self.client.run_schedule("nightly")).task
        self.assertEqual((task.text, task.schedule, task.schedule_moment), ("all", "nightly", None))
        self.assertFalse(self.client.resume_schedule("nightly").paused)
        self.client.set_schedule("often", "x", every=1, to="g")
        made = eventually("a task of the schedule", lambda: [it.task for it in self.client.tasks(to="g") if it.task.schedule == "often"])[0]
        self.assertIsNotNone(made.schedule_moment)
        self.assertEqual([it.name for it in self.client.schedules()], ["nightly", "often"])
        self.client.remove_schedule("often")
        with self.assertRaises(NotFound) as caught:
            self.client.schedule("often")
        self.assertEqual(caught.exception.reason, "SCHEDULE_UNKNOWN")

    def test_its_tasks_may_be_in_a_lane_and_take_the_place_of_others(self):
        unsaid = {"lane": "", "replace": "", "quiet": None, "max_wait": None}
        for options in ({"lane": "tenant 7"}, {"replace": "config", "quiet": 1.5, "max_wait": 60}):
            self.client.set_schedule("nightly", "reindex", cron="0 3 * * *", to="g", **options)
            for shown in (self.client.schedule("nightly"), self.client.task(self.client.run_schedule("nightly")).task):
                self.assertEqual({field: getattr(shown, field) for field in unsaid}, {**unsaid, **options})

    def test_what_makes_no_sense_is_refused(self):
        with self.assertRaises(InvalidArgument) as caught:
            self.client.set_schedule("n", "x", cron="0 3 * * *", zone="Mars/Olympus")
        self.assertEqual(caught.exception.reason, "SCHEDULE_INVALID")
        self.assertIn("zone", caught.exception.fields)
        with self.assertRaisesRegex(ValueError, "skip, once, all"):
            self.client.set_schedule("n", "x", every=60, missed="never")


class Running(Case):
    def test_a_run_gives_a_result_for_each_machine_as_it_comes(self):
        for name in ("w1", "w2"):
            worker = self.worker(lambda task, name=name: f"{task.text} on {name}", group=None, id=name, labels={"role": "web"})
            worker.wait_connected(DEADLINE)
        run = self.client.run("uptime", select="role=web", timeout=10)
        self.assertEqual(sorted(it.text for it in run), ["uptime on w1", "uptime on w2"])
        self.assertEqual((run.state.phase, run.state.targets["DONE"]), ("COMPLETED", 2))
        self.assertEqual([it.number for it in self.client.runs()], [run.number])
        self.assertEqual(self.client.watch_run(run.number).wait().phase, "COMPLETED")

    def test_a_run_that_is_cancelled_ends(self):
        gate = Gate()
        worker = self.worker(gate, group=None, id="w1", labels={"role": "web"})
        worker.wait_connected(DEADLINE)
        run = self.client.run("uptime", to="w1")
        gate.wait_begun()
        run.cancel()
        self.assertEqual(run.wait().phase, "CANCELLED")
        self.assertEqual(gate.begun[0].revoked.reason, "CANCELLED")
        gate.open.set()

    def test_a_run_for_nobody_is_refused(self):
        with self.assertRaises(Exception) as caught:
            self.client.run("uptime", select="role=nobody")
        self.assertEqual(caught.exception.reason, "RUN_WITHOUT_TARGETS")
        with self.assertRaisesRegex(TypeError, "no option selct"):
            self.client.run("uptime", selct="role=web")


if __name__ == "__main__":
    unittest.main()
