"""What the tests share: the real server, a network that can fail, and ways to wait."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from typing import Any, Callable, Optional

from contact_worker import Client, ContactError, Worker

#: How long an event may take before a test gives up. Generous: two cores run all tests at once.
DEADLINE = 60.0
SERVER = os.environ.get("PACKAGE_SERVER", "contact-server")
CONTACTCTL = os.environ.get("PACKAGE_CTL", "contactctl")
#: Of workers in tests: they come back soon.
SOON = {"first_backoff": 0.1, "most_backoff": 0.5}


def free_port() -> int:
    """A port at which nobody listens, below those that the kernel gives to connections: else one of these may have it by then."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def eventually(what: str, find: Callable[[], Any]) -> Any:
    """Waits until `find` returns something, and returns that."""
    deadline = time.monotonic() + DEADLINE
    while True:
        found = find()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"it took too long: {what}")
        time.sleep(0.02)


class Server:
    """The real server, on ports and in a folder of its own."""

    def __init__(self, *arguments: str, listen: str = "127.0.0.1:0") -> None:
        self._arguments = arguments
        self._folder = tempfile.mkdtemp(prefix="contact-python-")
        self.data = os.path.join(self._folder, "data")
        self._start(listen, "127.0.0.1:0", "127.0.0.1:0")

    def _start(self, *addresses: str) -> None:
        flags = [it for pair in zip(("--listen", "--control", "--http"), addresses) for it in pair]
        command = [SERVER, *flags, "--data", self.data, *self._arguments]
        self._log = open(os.path.join(self._folder, "log"), "a+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.match(r"listening on (\S+), control on (\S+), http on (\S+)", line)
        if found is None:
            raise AssertionError(f"the server did not start: {line!r}\n{self.log()}")
        self.listen, self.control, self.http = found.groups()

    def log(self) -> str:
        """What it said so far."""
        return pathlib.Path(self._folder, "log").read_text(encoding="utf-8")

    def kill(self) -> None:
        """SIGKILL: no time to put anything in order."""
        self.process.kill()
        self._gone()

    def stop(self) -> None:
        """SIGTERM, and it stops in order."""
        self.process.terminate()
        self._gone()

    def restart(self) -> None:
        """Starts it again, at the same addresses and on the same folder.

        Somebody who tries to connect to a port that nobody has may be given it for the other end, for a moment.
        """

        def start():
            try:
                self._start(self.listen, self.control, self.http)
            except AssertionError as error:
                if "in use" not in str(error):
                    raise
                self._gone()
                return False
            return True

        eventually("its ports are free", start)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _gone(self) -> None:
        self.process.wait(DEADLINE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


class Case(unittest.TestCase):
    """A test with a server of its own: `self.server`, and `self.client` for operators."""

    arguments: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.server = Server(*self.arguments)
        self.addCleanup(self.server.close)
        self.client = Client(self.server.control)
        self.addCleanup(self.client.close)

    def worker(self, handler: Callable[..., Any], address: Optional[str] = None, **options: Any) -> Worker:
        """A worker of the group `g`, from the first task on, that comes back soon; started, and stopped after the test."""
        worker = Worker(address or self.server.listen, **{"group": "g", "start_at": "first", **SOON, **options})
        worker.task(handler)
        worker.start()
        self.addCleanup(quietly, lambda: worker.stop(0))
        return worker

    def results(self, count: int) -> list[Any]:
        """Waits until there are so many results, and returns all."""
        return eventually(f"{count} results", lambda: found if len(found := list(self.client.results())) >= count else None)

    def outcomes(self, count: int) -> list[tuple[int, str, str]]:
        """The same, as (task, outcome, text)."""
        return [(it.task_id, it.outcome, it.text) for it in self.results(count)]


def quietly(what: Callable[[], Any]) -> None:
    """For the end of a test, which may have ended it already."""
    with contextlib.suppress(Exception):
        what()


def quietly_list(find: Callable[[], list[Any]]) -> list[Any]:
    """What is asked of a server that may be away."""
    try:
        return find()
    except ContactError:
        return []


class Gate:
    """A handler that begins, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.open = threading.Event()

    def __call__(self, task: Any) -> str:
        self.begun.append(task)
        assert self.open.wait(DEADLINE)
        return str(task.text.upper())

    def wait_begun(self, count: int = 1) -> None:
        """Waits until so many tasks were begun."""
        eventually(f"{count} tasks are begun", lambda: len(self.begun) >= count)


class Proxy:
    """Carries connections to a server, until it is told otherwise."""

    def __init__(self, server: str) -> None:
        host, port = server.rsplit(":", 1)
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        #: What comes is read, and goes nowhere.
        self.mute = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._server)
                except OSError:
                    client.close()
                    continue
                self._sockets += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.mute:
                    target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Ends all connections; new ones are carried."""
        sockets, self._sockets = self._sockets, []
        for end in sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()


class Program:
    """A Python program of its own, whose lines are read as they come."""

    def __init__(self, source: str, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", source, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
        self.process.stdout.close()

    def wait_for(self, text: str) -> str:
        """Waits for a line with this in it."""
        return str(eventually(f"{text!r} in {self.lines}", lambda: next((it for it in self.lines if text in it), None)))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Waits for its end; returns its exit code."""
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code

    def close(self) -> None:
        self.process.kill()
        self.ended()
