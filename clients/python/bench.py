"""How many tasks a second one worker process takes, handles and reports.

    contact-server --listen 127.0.0.1:50051 --control 127.0.0.1:50052 &
    python bench.py --tasks 200000 --batch 1000

The tasks are submitted before the worker starts. It counts from its first task to the last result that the server has on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import threading
import time

import contact_worker
import contact_worker.aio


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--control", default="127.0.0.1:50052")
    parser.add_argument("--tasks", type=int, default=200_000)
    parser.add_argument("--bytes", type=int, default=100, help="of the text of each")
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--window", type=int, default=None)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--announce", action="store_true", help="say that a task is begun before it is")
    parser.add_argument("--aio", action="store_true", help="by the face for asyncio")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    group = f"bench-{time.time_ns()}"
    options = {
        "group": group,
        "batch": arguments.batch,
        "window": arguments.window,
        "concurrency": arguments.concurrency,
        "announce_begin": arguments.announce,
    }
    with contact_worker.Client(arguments.control) as client:
        begun = time.monotonic()
        text = "x" * arguments.bytes
        client.submit_many(contact_worker.NewTask(text, to=group) for _ in range(arguments.tasks))
        print(f"submitted: {arguments.tasks / (time.monotonic() - begun):,.0f} tasks/s")
        busy = time.process_time()
        seconds = asyncio.run(with_asyncio(arguments, options)) if arguments.aio else with_threads(arguments, options)
        busy = time.process_time() - busy
        left = next(it.lag for it in client.groups() if it.name == group)
        assert left == 0, f"{left} tasks are not settled"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"worked off: {arguments.tasks / seconds:,.0f} tasks/s, with {busy / seconds:.2f} cores and {memory / 1024:.0f} MiB at most")


def with_threads(arguments: argparse.Namespace, options: dict) -> float:
    worker = contact_worker.Worker(arguments.server, **options)
    counter = Counter(arguments.tasks)

    @worker.task
    def handle(task):
        counter.count()
        return task.text

    with worker:
        counter.done.wait()
    return counter.seconds()


async def with_asyncio(arguments: argparse.Namespace, options: dict) -> float:
    worker = contact_worker.aio.Worker(arguments.server, **options)
    counter = Counter(arguments.tasks)

    @worker.task
    async def handle(task):
        counter.count()
        return task.text

    async with worker:
        await asyncio.to_thread(counter.done.wait)
    return counter.seconds()


class Counter:
    """Until all tasks were handled, and from the first one until the worker has ended, which is when all is confirmed."""

    def __init__(self, tasks: int) -> None:
        self._left = tasks
        self._lock = threading.Lock()
        self._begun = 0.0
        self.done = threading.Event()

    def count(self) -> None:
        with self._lock:
            self._begun = self._begun or time.monotonic()
            self._left -= 1
            if not self._left:
                self.done.set()

    def seconds(self) -> float:
        return time.monotonic() - self._begun


if __name__ == "__main__":
    main()
