#!/usr/bin/env python3
"""Measures a server of the article's shape and Contact in turn, with the same load generator: contactctl bench article.

    tests/bench/compare.py [--runs N] [--bin FOLDER] [--json]

FOLDER is where contactctl and contact-server are: target/release, or target/debug if there is no such build.
The medians of N runs (5) are compared. The Python server has no disk under it: its tasks and acknowledgements are gone when
it ends. Contact's are on disk.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# An interpreted server takes its time; so does each run.
PYTHON_TASKS, CONTACT_TASKS = 2_000, 50_000
CLIENTS = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--bin", type=pathlib.Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    release, debug = ROOT / "target/release", ROOT / "target/debug"
    folder = args.bin or (release if (release / "contactctl").exists() else debug)

    python = prepare()
    runs = {"python": [], "contact": []}
    for run in range(args.runs):
        print(f"run {run + 1} of {args.runs}", file=sys.stderr)
        with PythonServer(python) as address:
            options = ["--contact", address, "--own-tasks", "--tasks", str(PYTHON_TASKS)]
            runs["python"].append(measure(folder, options))
        runs["contact"].append(measure(folder, ["--spawn", "--tasks", str(CONTACT_TASKS)]))

    medians = {name: statistics.median(one["tasks_per_s"] for one in of) for name, of in runs.items()}
    ratio = medians["contact"] / medians["python"]
    if args.json:
        print(json.dumps({**medians, "ratio": round(ratio, 2), "runs": runs}))
        return
    print(f"{CLIENTS} clients, one task of 100 bytes in a message, delivered and acknowledged, tasks/s, medians of {args.runs}:")
    print(f"{medians['python']:>9,.0f}  a Python server of the article's shape, in memory")
    print(f"{medians['contact']:>9,.0f}  Contact, on disk ({folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder})")
    print(f"{ratio:>9.1f}  times as many")


def measure(folder, options):
    command = [folder / "contactctl", "bench", "article", "--json", "--clients", str(CLIENTS), *options]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def prepare():
    """The Python and the stubs that the interop tests use."""
    made = ROOT / "target/interop"
    subprocess.run([sys.executable, ROOT / "tests/interop/prepare.py", made], check=True)
    return made


class PythonServer:
    def __init__(self, made):
        stubs = made / "ret"
        path = os.pathsep.join(map(str, [stubs, stubs / "contact"]))
        command = [made / "python/bin/python", HERE / "article_server.py"]
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        line = self.process.stdout.readline()
        return f"127.0.0.1:{int(line.removeprefix('port '))}"

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    main()
