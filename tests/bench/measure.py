#!/usr/bin/env python3
"""Measures everything that the table of docs/performance.md has, and prints that table.

    tests/bench/measure.py [--bin FOLDER] [--runs N] [--dir DIR] [--keep FILE] [--kept N] [--short] [--json] [--table] [ROW ...]

FOLDER is where a release build of contactctl and contact-server is: target/release unless said otherwise. Each of N rounds (5)
runs every ROW once, so that a slow minute of the machine is not one row's alone; a round takes about ten minutes. Each
measurement starts a server of its own in a folder under DIR, which is to be on the disk that matters. With --short each
is so small that a round takes two minutes, and says no more than that all of them run; its figures are kept in a file of their own.

What was measured is kept in FILE (target/measured.json) after each run: after an interruption, or to measure anew, name the
rows that are still wanted; the table has all that FILE knows. What else a measurement can be told is in `contactctl bench ROW
--help`. Peers are measured beside Contact by tests/bench/peers/run.py. The rows:

{rows}
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import compare

ROOT = compare.ROOT
LINES = 1_000_000
# Clients of the row `many`, and open files that the server needs besides, with those that it keeps for operators.
MANY, OTHER_FILES = 50_000, 500


class Machine:
    """Where the programs and the folders are."""

    def __init__(self, args):
        self.bin, self.dir, self.short, self.kept = args.bin, args.dir, args.short, args.kept
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


def spawned(name, options="", short=""):
    """A measurement of contactctl bench, with these options or those that make it small."""
    return lambda machine: machine.bench("--spawn", name, *(short if machine.short else options).split())


def file(machine):
    lines_wanted = LINES // 100 if machine.short else LINES
    with machine.server() as (control, folder):
        path = pathlib.Path(folder) / "lines"
        line = "." * 84
        with path.open("w") as lines:
            lines.writelines(f"{number:016}{line}\n" for number in range(lines_wanted))
        began = time.monotonic()
        command = [machine.bin / "contactctl", "--server", control, "submit", "--json", "--file", path]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        took = time.monotonic() - began
    accepted = json.loads(output.splitlines()[-1])["accepted"]
    if accepted != lines_wanted:
        raise SystemExit(f"{accepted} of {lines_wanted} lines were accepted")
    return {"seconds": round(took, 3)}


def python(machine):
    machine.python = machine.python or compare.prepare()
    tasks = compare.PYTHON_TASKS // (10 if machine.short else 1)
    with compare.PythonServer(machine.python) as address:
        return machine.bench("article", "--contact", address, "--own-tasks", "--tasks", str(tasks))


def callers(machine):
    command = [sys.executable, ROOT / "tests/bench/peers/run.py", "--what", "callers", "--only", "contact", "--json", "--runs", "1"]
    command += ["--bin", machine.bin, *(["--dir", machine.dir] if machine.dir else []), *(["--seconds", "1"] if machine.short else [])]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output)["rows"][0]["runs"][0]


def many(machine):
    """As many as this machine lets one process have: each is an open file at either end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY + OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, wanted))
            hard = wanted
    if hard == resource.RLIM_INFINITY:
        hard = wanted
    clients = 200 if machine.short else min(MANY, hard - OTHER_FILES)
    if clients < MANY and not machine.short:
        print(f"many: {clients} clients, since a process may have no more open files than {hard}: ulimit -Hn", file=sys.stderr)
    short = ["--rest", "1s", "--duration", "1s"] if machine.short else []
    return machine.bench("--spawn", "idle", "--clients", str(clients), "--addresses", "3", *short)


def retention(machine):
    kept = 10_000 if machine.short else machine.kept
    return machine.bench("--spawn", "retention", "--tasks", str(kept), *(["--around", "3s"] if machine.short else []))


DELAYED = "--tasks 10000 --beside 20000"
ROWS = {
    "work": spawned("work", short="--tasks 100000"),
    "submit": spawned("submit", short="--tasks 100000"),
    "unary": spawned("submit", "--unary --clients 64 --tasks 300000", short="--unary --clients 64 --tasks 20000"),
    "callers": callers,
    "file": file,
    "article": spawned("article", short="--tasks 2000"),
    "python": python,
    "latency": spawned("latency", short="--duration 1s"),
    "heavy": spawned("latency", "--rate 170000", short="--rate 20000 --duration 1s"),
    "fanout": spawned("fanout", short="--clients 200"),
    "broadcast": spawned("broadcast", short="--clients 200 --rounds 5"),
    "idle": spawned("idle", short="--clients 200 --rest 1s --duration 1s"),
    "many": many,
    "backlog": spawned("backlog", short="--tasks 100000"),
    "delayed": spawned("delayed", short=DELAYED),
    "delayed_1000": spawned("delayed", "--groups 1000", short=f"{DELAYED} --groups 50"),
    "open": spawned("delayed", "--groups 10000", short=f"{DELAYED} --groups 200"),
    "groups": spawned("groups", short="--groups 200 --tasks 1000"),
    "retention": retention,
}

# The table: the row and its figure, what it says, the aim.
TABLE = [
    ("work", "tasks_per_s", "`work`: 8 workers, batches; submitted, delivered, settled", "{} tasks/s", ">= 550,000"),
    ("submit", "tasks_per_s", "`submit`: one client", "{} tasks/s", ">= 1,000,000"),
    ("unary", "tasks_per_s", "`unary`: 64 callers of `Submit`, one task a call", "{} tasks/s", ""),
    ("unary", "p99_ms", "the same: p99 of a call", "{} ms", ""),
    ("callers", "tasks_per_s", "`callers`: the same with callers in Python", "{} tasks/s", ""),
    ("callers", "p99_ms", "the same: p99 of a call", "{} ms", ""),
    ("callers", "client_cores", "the same: cores that the callers took", "{}", ""),
    ("file", "seconds", "`file`: `contactctl submit --file` of a million lines", "{} s", "<= 3"),
    ("article", "tasks_per_s", "`article`: 10 clients, one task a message, delivered and acknowledged", "{} tasks/s", ">= 200,000"),
    ("python", "tasks_per_s", "`python`: the same of a Python server of the article's shape, in memory", "{} tasks/s", ""),
    ("python", "times", "how many times as many Contact does", "{}", ">= 8"),
    ("latency", "p50_ms", "`latency` at 2,000 tasks/s, submit to worker, p50", "{} ms", "<= 0.4"),
    ("latency", "p99_ms", "the same, p99", "{} ms", "<= 1"),
    ("heavy", "p50_ms", "`heavy`: the same at 170,000 tasks/s, p50", "{} ms", ""),
    ("heavy", "p99_ms", "the same, p99", "{} ms", "<= 8"),
    ("fanout", "all_ms", "`fanout`: one task to 10,000 clients, until all have it", "{} ms", "<= 250"),
    ("broadcast", "settled_ms", "`broadcast`: one task to 10,000 named clients, until all of it is settled, on disk", "{} ms", "<= 1,000"),
    ("broadcast", "in_a_row_ratio", "the same: 20 more in a row, beside the rate of that one", "{}", ">= 0.9"),
    ("idle", "kb_per_client", "`idle`: 10,000 clients with heartbeats, memory for each", "{} kB", "<= 35"),
    ("idle", "cpu_percent", "the same: CPU of the server, of one core", "{} %", "< 1"),
    ("idle", "threads", "the same: threads of the server in all", "{}", "<= 12"),
    ("many", "clients", "`many`: clients, as many as a process may have files, at most 50,000", "{}", ">= 50,000"),
    ("many", "connected_s", "the same: connected within", "{} s", "<= 120"),
    ("many", "kb_per_client", "the same: memory for each", "{} kB", "<= 35"),
    ("many", "cpu_percent", "the same: CPU of the server, of one core", "{} %", ""),
    ("many", "p99_ms", "the same: `latency` at 2,000 tasks/s beside them, p99", "{} ms", "<= 10"),
    ("backlog", "ready_ms", "`backlog` of 10 million: ready after a kill", "{} ms", "<= 2,000"),
    ("backlog", "rss_mb", "the same: memory", "{} MB", "<= 250"),
    ("backlog", "tasks_per_s", "the same: worked off at", "{} tasks/s", ""),
    ("backlog", "drain_ratio", "the same: beside the rate of a short queue", "{}", ">= 0.9"),
    ("delayed", "delayed_mb", "`delayed`: a million for one group, memory", "{} MB", "<= 100"),
    ("delayed", "beside_ratio", "the same: rate of `work` beside them, of that before", "{}", ">= 0.9"),
    ("delayed", "ready_ms", "the same: ready after a kill", "{} ms", "<= 2,000"),
    ("delayed_1000", "delayed_mb", "`delayed_1000`: a thousand for each of 1,000 groups, memory", "{} MB", "<= 100"),
    ("delayed_1000", "beside_ratio", "the same: rate of `work` beside them, of that before", "{}", ">= 0.9"),
    ("delayed_1000", "ready_ms", "the same: ready after a kill", "{} ms", "<= 2,000"),
    ("open", "ready_ms", "`open`: 10,000 groups with a million open tasks, ready after a kill", "{} ms", "<= 2,000"),
    ("groups", "list_ms", "`groups`: 10,000 that are away and owe a million tasks each, listed in", "{} ms", "<= 50"),
    ("groups", "ready_ms", "the same: ready after a kill", "{} ms", "<= 2,000"),
    ("retention", "round_p99_ms", "`retention`: p99 of a submission while the server looks for what is old", "{} ms", ""),
    ("retention", "others_p99_ms", "the same in the other seconds", "{} ms", ""),
    ("retention", "ratio", "the first, beside the second", "{}", "<= 1.5"),
    ("retention", "kept", "the same: settled tasks that are kept", "{}", ""),
    ("limits", "fsyncs_per_s", "the machine: fsyncs of 4 kB appended to a file", "{} a second", ""),
    ("limits", "bare_messages_per_s", "the machine: a bare gRPC stream, one task a message", "{} tasks/s", ""),
    ("limits", "bare_batched_per_s", "the machine: a bare gRPC stream, 256 tasks a message", "{} tasks/s", ""),
]


def main():
    first = {row: says for row, _, says, *_ in reversed(TABLE)}
    doc = __doc__.format(rows="\n".join(f"    {row:13} {first[row].removeprefix(f'`{row}`').lstrip(': ')}" for row in ROWS))
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="what to measure; all, unless named")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release", help="where the programs are")
    parser.add_argument("--runs", type=int, help="rounds (5)")
    parser.add_argument("--dir", type=pathlib.Path, help="where the servers keep their data (the system's temporary folder)")
    parser.add_argument("--keep", type=pathlib.Path, help="where the figures are kept (target/measured.json)")
    parser.add_argument("--kept", type=int, default=1_000_000, metavar="N", help="settled tasks of `retention` (1,000,000)")
    parser.add_argument("--short", action="store_true", help="small sizes, one round: whether everything runs")
    parser.add_argument("--json", action="store_true", help="print the figures, not the table")
    parser.add_argument("--table", action="store_true", help="measure nothing: print what is kept")
    args = parser.parse_args()
    args.runs = args.runs or (1 if args.short else 5)
    args.keep = args.keep or ROOT / ("target/measured-short.json" if args.short else "target/measured.json")
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
    print(f"| {'small sizes' if args.short else 'measurement'} | median | min to max | aim |\n|---|---|---|---|")
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
            kept.setdefault(row, []).append(ROWS[row](machine))
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
