"""The face for asyncio, against the real server."""

from __future__ import annotations

import asyncio
import time
import unittest

from contact_worker import Refused, Retry
from contact_worker.aio import Worker
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
        begun = asyncio.Event()

        async def handle(task):
            begun.set()
            await asyncio.sleep(0.3)
            return "finished"

        async def main():
            worker = Worker(self.server.listen, group="g", start_at="first", **SOON)
            worker.task(handle)
            running = asyncio.create_task(worker.run())
            await asyncio.wait_for(begun.wait(), DEADLINE)
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
