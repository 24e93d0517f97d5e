#!/usr/bin/env python3
"""What a long link costs: results and tasks through a relay that holds all it gets back, each way.

    tests/bench/long_link.py [--bin FOLDER] [--delay MS] [--one NAME]

Starts a server with TLS, and a client that has joined it through the relay, for each measurement anew. Prints how long it took from
the first task's submission to the last result on disk. With --delay 0 the bytes go through the relay all the same.
"""

import argparse
import asyncio
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Name, tasks, bytes of the text of each, bytes of its result.
MEASURED = [
    ("400 results of 64 kB", 400, 10, 64_000),
    ("64 results of 1 MiB", 64, 10, 1_048_000),
    ("16 tasks of 1 MiB", 16, 1_048_000, 10),
    ("500 tasks and results of 100 bytes", 500, 100, 100),
]


async def relay(port, delay):
    """Listens, and passes on to the port. Where it listens."""

    async def one_way(reader, writer):
        due = asyncio.Queue()

        async def late():
            while (item := await due.get()) is not None:
                at, data = item
                await asyncio.sleep(max(0, at - time.monotonic()))
                writer.write(data)
            writer.close()

        writing = asyncio.create_task(late())
        try:
            while data := await reader.read(1 << 18):
                due.put_nowait((time.monotonic() + delay, data))
        except (ConnectionError, asyncio.CancelledError):
            pass
        due.put_nowait(None)
        await writing

    async def both(reader, writer):
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        await asyncio.gather(one_way(reader, server_writer), one_way(server_reader, writer), return_exceptions=True)

    listening = await asyncio.start_server(both, "127.0.0.1", 0, limit=1 << 20)
    return listening, listening.sockets[0].getsockname()[1]


def free_port():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


async def measure(programs, delay, name, count, text, result):
    with tempfile.TemporaryDirectory() as folder:
        folder, port, control = pathlib.Path(folder), free_port(), free_port()
        address = f"127.0.0.1:{port}"
        server = [programs / "contact-server", "--data", folder / "data", "--public", address, "--listen", address]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        server = subprocess.Popen([*server, "--control", f"127.0.0.1:{control}", "--http", "127.0.0.1:0"], **quiet)
        listening, near = await relay(port, delay)

        async def ctl(*args, given=None):
            command = [programs / "contactctl", "--server", f"127.0.0.1:{control}", *args]
            doing = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            out, _ = await doing.communicate(given)
            if doing.returncode:
                sys.exit(f"contactctl {args[0]} failed")
            return out.decode()

        client = None
        try:
            for _ in range(300):
                try:
                    (await asyncio.open_connection("127.0.0.1", control))[1].close()
                    break
                except ConnectionError:
                    await asyncio.sleep(0.1)
            invited = json.loads(await ctl("--json", "invite", "--group", "workers"))["invitation"]
            invited = invited.replace(f":{port}.", f":{near}.", 1)
            (folder / "result").write_text("x" * result)
            work = f"exec cat {folder}/result"
            client = [programs / "contact-client", "--join", invited, "--state", folder / "state", "--concurrency", "2", "--window", "64", "--max-output", "1048576"]
            client = subprocess.Popen([*client, "--exec", work], cwd=folder, **quiet)
            while not json.loads(await ctl("--json", "clients") or "null"):
                await asyncio.sleep(0.1)
            tasks = ("x" * text + "\n") * count
            began = time.monotonic()
            await ctl("submit", "--to", "workers", "--file", "-", given=tasks.encode())
            while True:
                groups = [json.loads(line) for line in (await ctl("--json", "groups")).splitlines()]
                if groups and all(g["lag"] + g["in_flight"] == 0 for g in groups):
                    break
                await asyncio.sleep(0.02)
            took = time.monotonic() - began
            told = [json.loads(line) for line in (await ctl("--json", "results", "--all", "--state", "done")).splitlines()]
            whole = sum(len(one["ret"]) == result for one in told)
            if whole != count:
                sys.exit(f"{name}: {whole} results are whole, of {len(told)}")
            megabytes = count * (text + result) / 1e6
            print(f"{name:40} {took:6.1f} s {megabytes / took:7.1f} MB/s", flush=True)
        finally:
            for program in (client, server):
                if program:
                    program.kill()
                    program.wait()
            listening.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release", help="where the programs are")
    parser.add_argument("--delay", type=float, default=50, metavar="MS", help="each way")
    parser.add_argument("--one", metavar="NAME", help="only what is called so, or begins so")
    args = parser.parse_args()
    print(f"{args.delay} ms each way")
    for name, *figures in MEASURED:
        if name.startswith(args.one or ""):
            asyncio.run(measure(args.bin, args.delay / 1000, name, *figures))


if __name__ == "__main__":
    main()
