"""A worker of the Python package that tells on standard output, in lines of JSON, each task it is given and each result that is confirmed.

    worker.py ADDRESS ID [GROUP]

It ends, without a word to the server, when standard input does.
"""

import json
import logging
import os
import sys
import threading

from contact_worker import Fail, Retry, Worker, _engine
from contact_worker._ledger import _NAMES, Ledger

printing = threading.Lock()


def say(**fields):
    with printing:
        print(json.dumps(fields), flush=True)


class Told(Ledger):
    """Tells of what is confirmed before it is forgotten."""

    is_lost = False

    def confirm(self):
        for result in () if self.is_lost else self._unconfirmed:
            say(confirmed=result.id, attempt=result.attempt, outcome=_NAMES[result.outcome], ret=result.ret)
        super().confirm()

    def _take_back(self):
        self.is_lost = True
        super()._take_back()
        self.is_lost = False


def work(task):
    """What comes of a task is as the other workers of the campaign have it."""
    say(given=task.id, attempt=task.attempt, spent=task.spent, text=task.text, timeout_ms=round(1000 * (task.timeout or 0)))
    text, kind = f"task {task.id}, attempt {task.attempt}", task.id % 100
    if task.attempt < 5 and (kind == 3 or kind == 7 and task.attempt < 3):
        raise Retry(text, delay=task.id % 3 * 0.05)
    if kind == 13:
        raise Fail(text)
    return text


def main():
    address, name, group = (*sys.argv[1:], None)[:3]
    options = {"concurrency": 2, "window": 16, "batch": 8, "start_at": "first", "renew_every": 0.3, "confirm_every": 0.05}
    soon = {"first_backoff": 0.1, "most_backoff": 0.3}
    logging.getLogger("contact_worker").setLevel(logging.ERROR)
    _engine.Ledger = Told
    worker = Worker(address, id=name, group=group, labels={"name": group or name}, **options, **soon)
    worker.task(work)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    worker.run()


if __name__ == "__main__":
    main()
