#!/usr/bin/env python3
"""Where the time of a measurement goes: CPU, waiting for a core, and switches of each thread, server and load generator.

    tests/bench/threads.py [--bin FOLDER] [--settle S] BENCH [ARG ...]

Runs `contactctl bench --spawn BENCH ARG...` and looks at /proc (Linux) until it ends. With --settle only what happens more than
so many seconds after the server's start counts, e.g. to leave out filling a queue. Threads of one name are added up. What is not on
a core is asleep: waiting for work, or for the disk.

Functions, with a build that has symbols:
    CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_DEBUG=line-tables-only cargo build --release
    perf record -e cpu-clock -F 1999 -p SERVER -- sleep 5; perf report --sort comm,symbol
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
EVERY = 0.05


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release", help="where the programs are")
    parser.add_argument("--settle", type=float, default=0.0, metavar="S")
    parser.add_argument("bench", nargs=argparse.REMAINDER, metavar="BENCH ...")
    args = parser.parse_args()

    command = [args.bin / "contactctl", "bench", "--json", "--spawn", *args.bench]
    bench = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    first, last, began = {}, {}, None
    while bench.poll() is None:
        server = children(bench.pid)
        if server and began is None:
            began = time.monotonic()
        if began and time.monotonic() - began >= args.settle:
            for side, pid in [("server", p) for p in server] + [("load", bench.pid)]:
                for thread, seen in look(pid):
                    first.setdefault((side, *thread), (time.monotonic(), seen))
                    last[(side, *thread)] = (time.monotonic(), seen)
        time.sleep(EVERY)
    if bench.returncode:
        sys.exit(bench.returncode)
    figures = json.loads(bench.stdout.read().splitlines()[-1])
    tasks = figures.get("settled") or figures.get("tasks") or 1
    wall = max(at for at, _ in last.values()) - min(at for at, _ in first.values())

    sums = collections.defaultdict(lambda: [0, 0, 0, 0])
    for key, (_, seen) in last.items():
        side, _, _, name = key
        total = sums[side, name]
        total[0] += 1
        for n, (now, before) in enumerate(zip(seen, first[key][1])):
            total[n + 1] += now - before
    print(json.dumps(figures))
    print(f"{wall:.1f} s, {tasks:,} tasks\n")
    print("| | thread | CPU, s | of a core | µs a task | waited for a core, s | switches a second |\n|---|---|---|---|---|---|---|")
    for (side, name), (count, cpu, queued, switches) in sorted(sums.items(), key=lambda item: -item[1][1]):
        many = f" ({count})" if count > 1 else ""
        cpu, queued = cpu / 1e9, queued / 1e9
        print(f"| {side} | `{name}`{many} | {cpu:.2f} | {cpu / wall:.0%} | {cpu / tasks * 1e6:.2f} | {queued:.2f} | {switches / wall:,.0f} |")


def children(pid):
    with quiet():
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def look(pid):
    """Of each thread: nanoseconds on a core, nanoseconds waiting for one, switches."""
    found = []
    with quiet():
        for task in os.scandir(f"/proc/{pid}/task"):
            with quiet():
                folder = pathlib.Path(task.path)
                ran, waited, _ = map(int, (folder / "schedstat").read_text().split())
                status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
                switches = int(status["voluntary_ctxt_switches"]) + int(status["nonvoluntary_ctxt_switches"])
                name = status["Name"].strip().rstrip("0123456789").rstrip("-")
                found.append(((pid, task.name, name), (ran, waited, switches)))
    return found


class quiet:
    """Processes and threads may end at any time."""

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        return kind is not None and issubclass(kind, OSError)


main()
