"""Workers whose network, server and processes fail at random: in the end each task is settled once, with its own result."""

from __future__ import annotations

import collections
import logging
import random
import threading
import time
import unittest

from contact_worker import NewTask, Retry, Worker

from rig import SOON, Case, Proxy, eventually, quietly_list

TASKS = 1500
SECONDS = 8


class Chaos(Case):
    arguments = ("--ack-timeout", "5s")

    def setUp(self):
        super().setUp()
        logger = logging.getLogger("contact_worker")
        self.addCleanup(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        self.rng = random.Random()

    def test_each_task_is_settled_once_whatever_fails(self):
        tasks = (NewTask(str(number), to="g", max_attempts=1000, retry="first=10ms") for number in range(1, TASKS + 1))
        self.client.submit_many(tasks)
        proxies = [Proxy(self.server.listen) for _ in range(3)]
        workers = [self.one_of_three(number, proxy) for number, proxy in enumerate(proxies)]
        self.fail_at_random(proxies, workers)
        eventually("all are settled", lambda: [it.lag for it in quietly_list(self.client.groups)] == [0])
        for worker, proxy in zip(workers, proxies):
            worker.stop()
            ledger = worker._running().ledger
            self.assertEqual((ledger.held, ledger._slots, ledger.unreported()), ({}, 0, 0))
            proxy.close()
        done = list(self.client.results(outcome="DONE"))
        settled = collections.Counter(it.task_id for it in done if not it.late)
        self.assertEqual(settled, dict.fromkeys(range(1, TASKS + 1), 1))
        self.assertEqual({it.text for it in done if it.text != f"result {it.task_id}"}, set())

    def one_of_three(self, number, proxy):
        """A worker: one announces each task, one takes batches without, one both."""
        options = {"batch": [None, 16, 64][number], "announce_begin": number != 1}
        worker = Worker(proxy.address, group="g", id=f"w{number}", concurrency=4, renew_every=1, **options, **SOON)
        rng, lock = random.Random(), threading.Lock()

        @worker.task
        def handle(task):
            with lock:
                seconds, again = rng.random() * 0.04, rng.random() < 0.02
            time.sleep(seconds)
            if again:
                raise Retry("again")
            return f"result {task.text}"

        worker.start()
        return worker

    def fail_at_random(self, proxies, workers):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(self.rng.random())
            what = self.rng.random()
            if what < 0.5:
                self.rng.choice(proxies).cut()
            elif what < 0.7:
                self.server.kill()
                self.server.restart()
            elif what < 0.8:
                self.server.stop()
                self.server.restart()
            else:
                worker = self.rng.choice(workers)
                worker.stop(grace=self.rng.random())
                worker.start()


if __name__ == "__main__":
    unittest.main()
