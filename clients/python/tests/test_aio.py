"""The face for asyncio, against the real server."""

from __future__ import annotations

import asyncio
import itertools
import time
import unittest

from contact_worker import NotFound, Refused, Retry, TasksRefused, Unavailable
from contact_worker.aio import Client, Worker

from rig import DEADLINE, SOON, Case


class Asyncio(Case):
    def run_with(self, handler, check, **options):
        """Runs `check` beside a worker, on one event loop."""

        async def main():
            worker = Worker(self.server.listen, **{"group": "g", "start_at": "first", **SOON, **options})
            worker.task(handler)
            async with worker:
                return await check(worker)

        return asyncio.run(main())

    async def outcomes_of(self, count):
        return await asyncio.to_thread(self.outcomes, count)

    def test_tasks_are_handled_by_coroutines_side_by_side(self):
        begun, most = [], []

        async def handle(task):
            begun.append(task)
            while len(begun) < 20:
                await asyncio.sleep(0.01)
            most.append(len(begun))
            return task.text.upper()

        async def check(worker):
            outcomes = await self.outcomes_of(20)
            self.assertEqual({outcome for _, outcome, _ in outcomes}, {"DONE"})

        self.client.submit_many(f"t{number}" for number in range(20))
        self.run_with(handle, check, concurrency=20)
        self.assertEqual(most, [20] * 20)

    def test_what_a_handler_raises_becomes_the_outcome(self):
        async def handle(task):
            if task.attempt == 1:
                raise Retry("not yet", delay=0.01)
            return "ok"

        async def check(worker):
            self.assertEqual(await self.outcomes_of(2), [(1, "RETRY", "not yet"), (1, "DONE", "ok")])

        self.client.submit("x")
        self.run_with(handle, check)

    def test_a_handler_is_cancelled_when_its_task_is(self):
        seen = []

        async def handle(task):
            seen.append("begun")
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                seen.append(task.revoked.reason)
                raise

        async def check(worker):
            while not seen:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(self.client.cancel, 1)
            while len(seen) < 2:
                await asyncio.sleep(0.01)

        self.client.submit("x")
        self.run_with(handle, check)
        self.assertEqual(seen, ["begun", "CANCELLED"])

    def test_a_handler_that_takes_longer_than_its_task_may_is_cancelled(self):
        async def handle(task):
            await asyncio.sleep(1000)

        async def check(worker):
            self.assertEqual(await self.outcomes_of(1), [(1, "FAILED", "timed out after 0.2 s")])

        self.client.submit("x", timeout=0.2, timeout_fails=True)
        self.run_with(handle, check)

    def test_statuses_are_acknowledged(self):
        async def handle(task):
            return None

        async def check(worker):
            await worker.status("warm", timeout=DEADLINE)
            self.assertEqual([it.text for it in await asyncio.to_thread(lambda: list(self.client.statuses()))], ["warm"])

        self.run_with(handle, check)

    def test_a_run_that_is_cancelled_finishes_what_runs(self):
        begun = []

        async def handle(task):
            begun.append(task)
            await asyncio.sleep(0.3)
            return "finished"

        async def main():
            worker = Worker(self.server.listen, group="g", start_at="first", **SOON)
            worker.task(handle)
            running = asyncio.create_task(worker.run())
            while not begun:
                await asyncio.sleep(0.01)
            running.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await running

        self.client.submit("x")
        asyncio.run(main())
        self.assertEqual(self.outcomes(1), [(1, "DONE", "finished")])

    def test_what_outlasts_the_grace_is_cancelled_and_goes_to_others(self):
        seen = []

        async def handle(task):
            seen.append("begun")
            try:
                await asyncio.sleep(1000)
            finally:
                seen.append(task.revoked.reason)

        async def main():
            worker = Worker(self.server.listen, group="g", start_at="first", **SOON)
            worker.task(handle)
            await worker.start()
            while not seen:
                await asyncio.sleep(0.01)
            await worker.stop(grace=0)

        self.client.submit("x")
        asyncio.run(main())
        self.assertEqual(seen, ["begun", "STOPPED"])
        self.assertEqual(self.outcomes(1)[0][1], "RETRY")

    def test_a_refusal_is_raised(self):
        async def handle(task):
            return None

        worker = Worker(self.server.listen, group="g\u200b", **SOON)
        worker.task(handle)
        with self.assertRaises(Refused):
            asyncio.run(worker.run())

    def test_a_function_that_is_not_async_is_refused(self):
        with self.assertRaisesRegex(TypeError, "to_thread"):
            Worker(group="g").task(lambda task: None)


class Operators(Case):
    """The calls are those of `contact_worker.Client`, which test_client tests: here it is how they are awaited."""

    def test_tasks_are_submitted_waited_for_and_listed(self):
        async def main():
            async with Client(self.server.control) as client:
                accepted = await client.submit("a", to="g", key="k")
                self.assertTrue((await client.submit("a", to="g", key="k")).known)
                details = await client.wait(accepted.id, timeout=DEADLINE)
                self.assertEqual((details.result.outcome, details.result.text), ("DONE", "A"))
                self.assertEqual([it.text async for it in client.watch(accepted.id)], ["A"])
                self.assertEqual((await client.task(accepted.id)).settled, 1)
                self.assertEqual([it.task.id async for it in client.tasks()], [accepted.id])
                self.assertEqual([it.text async for it in client.results()], ["A"])
                self.assertEqual([it.name for it in await client.groups()], ["g"])
                self.assertEqual([it.group for it in await client.clients()], ["g"])
                self.assertEqual([it async for it in client.dead()], [])
                await client.pause("g")
                self.assertTrue((await client.groups())[0].paused)
                await client.resume("g")
                self.assertEqual((await client.cancel((await client.submit("b", to="h")).id)).groups, 1)
                self.assertEqual((await client.server()).tasks, 2)
                self.assertTrue((await client.set_schedule("n", "c", cron="0 3 * * *", to="h")).is_new)
                self.assertEqual([it.name async for it in client.schedules()], ["n"])
                self.assertEqual((await client.pause_schedule("n")).paused, True)
                self.assertEqual((await client.resume_schedule("n")).next, (await client.schedule("n", moments=1)).next)
                self.assertEqual(await client.run_schedule("n"), 3)
                await client.remove_schedule("n")
                self.assertEqual([it async for it in client.schedules()], [])

        self.worker(lambda task: task.text.upper())
        asyncio.run(main())

    def test_many_are_submitted_from_iterators_of_both_kinds(self):
        async def texts():
            for number in range(2500):
                yield f"t{number}"

        async def main():
            async with Client(self.server.control) as client:
                first = await client.submit_many(texts())
                second = await client.submit_many(["a", "b"])
                self.assertEqual((first.accepted, first.last_id, second.first_id), (2500, 2500, 2501))
                self.assertEqual((await client.submit_many([])).accepted, 0)
                with self.assertRaises(TasksRefused) as caught:
                    await client.submit_many(["a", "", "c"])
                self.assertEqual(caught.exception.submitted.accepted, 2)

        asyncio.run(main())

    def test_a_server_that_goes_away_says_what_is_on_disk(self):
        async def texts():
            for number in itertools.count():
                if number == 5000:
                    await asyncio.to_thread(self.server.kill)
                yield f"t{number}"

        async def main():
            async with Client(self.server.control) as client:
                with self.assertRaises(Unavailable) as caught:
                    await client.submit_many(texts(), batch=100)
                self.assertGreaterEqual(caught.exception.submitted.accepted, 4600)
                with self.assertRaises(Unavailable):
                    await client.submit("x")

        asyncio.run(main())

    def test_errors_have_their_reason(self):
        async def main():
            async with Client(self.server.control) as client:
                with self.assertRaises(NotFound) as caught:
                    await client.cancel(99)
                self.assertEqual(caught.exception.reason, "TASK_UNKNOWN")

        asyncio.run(main())

    def test_a_run_gives_results_as_they_come(self):
        worker = self.worker(lambda task: "up", group=None, id="w1", labels={"role": "web"})
        worker.wait_connected(DEADLINE)

        async def main():
            async with Client(self.server.control) as client:
                run = await client.run("uptime", select="role=web")
                self.assertEqual([it.text async for it in run], ["up"])
                self.assertEqual(run.state.phase, "COMPLETED")
                self.assertEqual((await (await client.watch_run(run.number)).wait()).targets["DONE"], 1)

        asyncio.run(main())


class Blocking(Case):
    arguments = ("--ack-timeout", "2s")

    def test_a_handler_that_blocks_the_loop_loses_no_lease(self):
        async def handle(task):
            # What nobody should do, and everybody does once.
            time.sleep(4)
            return f"attempt {task.attempt}"

        async def main():
            worker = Worker(self.server.listen, group="g", start_at="first", renew_every=0.3, **SOON)
            worker.task(handle)
            async with worker:
                await asyncio.to_thread(self.results, 1)

        self.client.submit("x")
        asyncio.run(main())
        self.assertEqual(self.outcomes(1), [(1, "DONE", "attempt 1")])


if __name__ == "__main__":
    unittest.main()
