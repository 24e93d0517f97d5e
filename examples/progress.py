"""A progress bar for a task: its worker says how far it is, and whoever submitted it sees that.
Run `progress.py work`, and `progress.py hash FOLDER`; Ctrl-C there has the worker end its work, too.
Prints a bar that grows, in place on a terminal and else in lines, and then the checksum of all files of the folder.
"""

import hashlib
import pathlib
import sys
import time

from contact_worker import Client, Retry, Worker

worker = Worker(group="checksums")


@worker.task
def checksum(task):
    files = sorted(path for path in pathlib.Path(task.text).rglob("*") if not path.is_dir())
    found = hashlib.sha256()
    for number, path in enumerate(files):
        if task.revoked:
            raise Retry(task.revoked.reason)  # What this says of a task that was taken back counts no more.
        task.progress(number / len(files), path.name)
        found.update(path.read_bytes())
    return found.hexdigest()


def show(part, what):
    start, end = ("\r", "") if sys.stdout.isatty() else ("", "\n")
    print(f"{start}[{'#' * round(30 * part):30}] {part:4.0%} {what[:30]:30}", end=end, flush=True)


def follow(client, id):
    shown = None
    while (details := client.task(id)).waiting or details.in_flight:
        (group,) = details.groups
        now = (group.progress or 0, group.said or group.state)
        if now != shown:
            show(*now)
            shown = now
        time.sleep(0.1)
    result = client.wait(id).result
    show(1, result.outcome)
    return result


if sys.argv[1:] == ["work"]:
    worker.run()
elif sys.argv[1:2] == ["hash"] and len(sys.argv) == 3:
    with Client() as operator:
        id = operator.submit(str(pathlib.Path(sys.argv[2]).resolve()), to="checksums").id
        try:
            print(f"\n{follow(operator, id).text}")
        except KeyboardInterrupt:
            operator.cancel(id)
            sys.exit("\ncancelled")
else:
    sys.exit(__doc__)
