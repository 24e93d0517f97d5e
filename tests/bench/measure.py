#!/usr/bin/env python3
"""Measures everything that the table of docs/performance.md has, and prints that table.

    tests/bench/measure.py [--bin FOLDER] [--runs N] [--dir DIR] [--keep FILE] [--json] [--table] [ROW ...]

FOLDER is where a release build of contactctl and contact-server is: target/release unless said otherwise. Each of N rounds (5)
runs every ROW once, so that a slow minute of the machine is not one row's alone; all of it takes about a quarter of an hour.
Each measurement starts a server of its own in a folder under DIR, which is to be on the disk that matters.

What was measured is kept in FILE (target/measured.json) after each run: after an interruption, or to measure anew, name the
rows that are still wanted; the table has all that FILE knows. Rows: {rows}.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import compare

ROOT = compare.ROOT
LINES = 1_000_000
# What `work` reached on the machine of the table, where it was not measured before.
USUAL = 450_000


class Machine:
    """Where the programs and the folders are."""

    def __init__(self, args):
        self.bin, self.dir = args.bin, args.dir
        self.python = None

    def bench(self, *args):
        where = ["--dir", self.dir] if self.dir else []
        command = [self.bin / "contactctl", "bench", "--json", *where, *args]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return json.loads(output.splitlines()[-1])

    @contextlib.contextmanager
    def server(self):
        """A server of its own; gives the address for operators and its folder."""
        with tempfile.TemporaryDirectory(dir=self.dir, prefix="contact-bench-") as folder:
            command = [self.bin / "contact-server", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--http", "off"]
            command += ["--data", folder + "/data"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "RUST_LOG": "warn"})
            try:
                yield process.stdout.readline().rstrip().rpartition(", control on ")[2], folder
            finally:
                process.kill()
                process.wait()


def spawned(*args):
    return lambda machine, kept: machine.bench("--spawn", *args)


def file(machine, kept):
    with machine.server() as (control, folder):
        path = pathlib.Path(folder) / "lines"
        line = "." * 84
        with path.open("w") as lines:
            lines.writelines(f"{number:016}{line}\n" for number in range(LINES))
        began = time.monotonic()
        command = [machine.bin / "contactctl", "--server", control, "submit", "--json", "--file", path]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        took = time.monotonic() - began
    accepted = json.loads(output.splitlines()[-1])["accepted"]
    if accepted != LINES:
        raise SystemExit(f"{accepted} of {LINES} lines were accepted")
    return {"seconds": round(took, 3)}


def python(machine, kept):
    machine.python = machine.python or compare.prepare()
    with compare.PythonServer(machine.python) as address:
        return machine.bench("article", "--contact", address, "--own-tasks", "--tasks", str(compare.PYTHON_TASKS))


def half(machine, kept):
    """At half of what `work` does in the same file."""
    reached = [run["tasks_per_s"] for run in kept.get("work", [])] or [USUAL]
    rate = round(statistics.median(reached) / 2, -4)
    return machine.bench("--spawn", "latency", "--rate", str(int(rate)))


ROWS = {
    "work": spawned("work"),
    "submit": spawned("submit"),
    "file": file,
    "article": spawned("article"),
    "python": python,
    "latency": spawned("latency"),
    "half": half,
    "fanout": spawned("fanout"),
    "idle": spawned("idle"),
    "backlog": spawned("backlog"),
}

# The table: the row and its figure, what it says, the aim.
TABLE = [
    ("work", "tasks_per_s", "`work`: 8 workers, batches; submitted, delivered, settled", "{} tasks/s", ">= 250,000"),
    ("submit", "tasks_per_s", "`submit`: one client", "{} tasks/s", ">= 400,000"),
    ("file", "seconds", "`contactctl submit --file` of a million lines", "{} s", "<= 3"),
    ("article", "tasks_per_s", "`article`: 10 clients, one task a message, delivered and acknowledged", "{} tasks/s", ">= 50,000"),
    ("python", "tasks_per_s", "the same of a Python server of the article's shape, in memory", "{} tasks/s", ""),
    ("python", "times", "how many times as many Contact does", "{}", ">= 8"),
    ("latency", "p50_ms", "`latency` at 2,000 tasks/s, submit to worker, p50", "{} ms", "<= 1"),
    ("latency", "p99_ms", "the same, p99", "{} ms", "<= 5"),
    ("half", "p50_ms", "`latency` at half of what `work` does, p50", "{} ms", ""),
    ("half", "p99_ms", "the same, p99", "{} ms", "<= 25"),
    ("half", "rate", "the same: that rate", "{} tasks/s", ""),
    ("fanout", "all_ms", "`fanout`: one task to 10,000 clients, until all have it", "{} ms", "<= 500"),
    ("idle", "kb_per_client", "`idle`: 10,000 clients, memory for each", "{} kB", "<= 35"),
    ("idle", "threads", "the same: threads of the server in all", "{}", "<= 12"),
    ("backlog", "ready_ms", "`backlog` of 10 million: ready after a kill", "{} ms", "<= 2,000"),
    ("backlog", "rss_mb", "the same: memory", "{} MB", "<= 250"),
    ("backlog", "tasks_per_s", "the same: worked off at", "{} tasks/s", ""),
    ("backlog", "drain_ratio", "the same: beside the rate of a short queue", "{}", ">= 0.9"),
    ("limits", "fsyncs_per_s", "the machine: fsyncs of 4 kB appended to a file", "{} a second", ""),
    ("limits", "bare_messages_per_s", "the machine: a bare gRPC stream, one task a message", "{} tasks/s", ""),
    ("limits", "bare_batched_per_s", "the machine: a bare gRPC stream, 256 tasks a message", "{} tasks/s", ""),
]


def main():
    doc = __doc__.format(rows=", ".join(ROWS))
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="what to measure; all, unless named")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release", help="where the programs are")
    parser.add_argument("--runs", type=int, default=5, help="rounds (5)")
    parser.add_argument("--dir", type=pathlib.Path, help="where the servers keep their data (the system's temporary folder)")
    parser.add_argument("--keep", type=pathlib.Path, default=ROOT / "target/measured.json", help="where the figures are kept")
    parser.add_argument("--json", action="store_true", help="print the figures, not the table")
    parser.add_argument("--table", action="store_true", help="measure nothing: print what is kept")
    args = parser.parse_args()
    if unknown := [row for row in args.rows if row not in ROWS]:
        parser.error(f"no such row: {', '.join(unknown)}")
    if not args.table and not (args.bin / "contactctl").exists():
        parser.error(f"there is no contactctl in {args.bin}: cargo build --release, or name the folder of a build with --bin")

    kept = json.loads(args.keep.read_text()) if args.keep.exists() else {}
    if not args.table:
        measure(args, kept)
    figures = summary(kept)
    if args.json:
        print(json.dumps(figures))
        return
    print("| measurement | median | min to max | aim |\n|---|---|---|---|")
    for row, key, says, unit, aim in TABLE:
        if figure := figures.get(f"{row}.{key}"):
            show = lambda value: unit.format(number(value))
            spread = f"{number(figure['min'])} to {number(figure['max'])}"
            print(f"| {says} | {show(figure['median'])} | {spread} | {aim} |")


def measure(args, kept):
    machine = Machine(args)
    rows = [row for row in ROWS if row in args.rows or not args.rows]
    for row in rows:
        kept.pop(row, None)
    began = time.monotonic()
    for run in range(args.runs):
        for row in rows:
            after = datetime.timedelta(seconds=int(time.monotonic() - began))
            print(f"{after}  run {run + 1} of {args.runs}: {row}", file=sys.stderr, flush=True)
            kept.setdefault(row, []).append(ROWS[row](machine, kept))
            args.keep.parent.mkdir(parents=True, exist_ok=True)
            args.keep.write_text(json.dumps(kept))


def summary(kept):
    """For each figure of the table its median, its least, its most, and of how many runs."""
    values = {}
    for row, runs in kept.items():
        for run in runs:
            for key, value in run.items():
                place = "limits" if key in ("fsyncs_per_s", "bare_messages_per_s", "bare_batched_per_s") else row
                values.setdefault(f"{place}.{key}", []).append(value)
    # Run by run: the two stood side by side.
    both = zip(values.get("article.tasks_per_s", []), values.get("python.tasks_per_s", []))
    values["python.times"] = [round(ours / theirs, 1) for ours, theirs in both]
    spread = lambda of: {"median": statistics.median(of), "min": min(of), "max": max(of), "runs": len(of)}
    wanted = [f"{row}.{key}" for row, key, *_ in TABLE]
    return {name: spread(values[name]) for name in wanted if values.get(name)}


def number(value):
    """Three digits are enough, and more would be noise."""
    if value < 1000:
        return f"{value:.3g}"
    step = 10 ** (len(str(int(value))) - 3)
    return f"{round(value / step) * step:,}"


if __name__ == "__main__":
    main()
