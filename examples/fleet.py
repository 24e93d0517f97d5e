"""Commands for a fleet: agents say by labels what they are, and a selector says who is meant.
Run `fleet.py agent web-1 role=web` on each machine, and `fleet.py run role=web uptime` or `fleet.py broadcast role=web uptime`.
Both print a line for each machine as it answers. A run ends in a minute; a broadcast is also for those who come back within the hour.
"""

import subprocess
import sys

from contact_worker import Client, DeadlineExceeded, Fail, Worker


def agent(name, labels):
    worker = Worker(id=name, labels=labels)

    @worker.task
    def execute(task):
        shell = subprocess.run(["sh", "-c", task.text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        said = shell.stdout.decode(errors="replace").strip()
        if shell.returncode != 0:
            raise Fail(f"exit code {shell.returncode}: {said}")
        return said

    worker.run()


def run(client, selector, command):
    going = client.run(command, select=selector, deadline=60)
    for result in going:
        print(f"{result.group}: {result.outcome}: {result.text}", flush=True)
    print(going.state.phase, {state: count for state, count in going.state.targets.items() if count})


def broadcast(client, selector, command):
    task = client.submit(command, select=selector, ttl=3600)
    try:
        for result in client.watch(task.id, timeout=30):
            if result.outcome != "NOT_SELECTED":
                print(f"{result.group}: {result.outcome}: {result.text}", flush=True)
    except DeadlineExceeded:
        print(f"some are away: contactctl task {task.id} shows who")


if sys.argv[1:2] == ["agent"] and len(sys.argv) == 4:
    agent(*sys.argv[2:])
elif sys.argv[1:2] in (["run"], ["broadcast"]) and len(sys.argv) == 4:
    with Client() as operator:
        {"run": run, "broadcast": broadcast}[sys.argv[1]](operator, *sys.argv[2:])
else:
    sys.exit(__doc__)
