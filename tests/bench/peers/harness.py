"""Puts the same work through a server, whichever it is, and says what each end took of the processors.

A peer is an object with the members of `Peer`. Its servers listen on 127.0.0.1 and keep their files in a folder of their own. Each
submitter and each worker is a process, so that no interpreter's lock is what is measured.
"""

import contextlib
import multiprocessing
import os
import pathlib
import pwd
import queue
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

# Bytes of a task, tasks in a batch, batches of the submitter that are under way. As in contactctl bench work.
SIZE, BATCH, UNDER_WAY = 100, 1000, 8
WORKERS = 8
# The submitter waits while more tasks than this are not settled: what is measured is a short queue.
LONGEST_QUEUE = 100_000
# Callers stand in so many processes.
PROCESSES = 8
TEXT = b"." * SIZE
# How long a server may take to start, and how long after its time a measurement may go on.
START, PATIENCE = 60, 60
FORK = multiprocessing.get_context("fork")


class Absent(Exception):
    """There is no such server here; says what to install."""


class Failed(Exception):
    """It did not do what it was to do; says what happened."""


class Peer:
    """What each peer says of itself. The settings are what it does with the disk, best known first."""

    name = ""
    settings = ()
    # What a task is there: how it is submitted, delivered and settled.
    how = ""
    # How many servers have each task: the programs that are started last.
    replicas = 1

    def durable(self, setting):
        """Whether nothing is lost with it."""
        return setting == self.settings[-1]

    def version(self):
        """Its version. Raises Absent."""
        raise NotImplementedError

    def start(self, folder, setting):
        """Starts the server by `spawn`, and last, if there are other programs, too."""
        raise NotImplementedError

    def ready(self):
        """Connects and makes the queue. Raises OSError as long as nobody is there."""
        raise NotImplementedError

    def spawn(self, *command, **options):
        """Starts a program that is ended with the measurement, whatever becomes of that; it does not hear of Ctrl-C by itself."""
        self.processes.append(subprocess.Popen(command, start_new_session=True, **options))
        return self.processes[-1]

    def submit(self, more):
        """Submits batches while `more()`. Yields how many tasks were accepted, each time some were; ends when all are."""
        raise NotImplementedError

    def work(self, number):
        """Takes tasks and settles them, as worker `number`. Yields how many were settled; 0 at least every second."""
        raise NotImplementedError

    def caller(self):
        """Connects by the usual package. Returns a function that submits one task, and returns when it is accepted."""
        raise NotImplementedError


def program(name, package, *folders):
    """Where a program is. Raises Absent with the package that has it."""
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=path)
    if not found:
        raise Absent(f"no {name} here: {package}")
    return found


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout.strip()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def as_user(name):
    """For servers that will not run as root: what to give to Popen."""
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}


def connect(port):
    """A plain connection, for protocols that are written here."""
    one = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


@contextlib.contextmanager
def running(peer, setting, where):
    """The programs of its servers, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(dir=where, prefix="bench-peer-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        peer.processes = []
        try:
            peer.start(pathlib.Path(folder), setting)
            wait(peer)
            yield peer.processes[-peer.replicas :]
        finally:
            for process in reversed(peer.processes):
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                # And what it leaves behind.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait(peer):
    """Waits until the server is ready."""
    deadline = time.monotonic() + START
    while True:
        try:
            return peer.ready()
        except OSError as why:
            for process in peer.processes:
                if process.poll() is not None:
                    raise Failed(f"{process.args[0]} ended with {process.returncode}") from why
            if time.monotonic() > deadline:
                raise Failed(f"{peer.name} did not start: {why}") from why
            time.sleep(0.05)


def cpu(processes):
    """Seconds that processes and all they started were on a processor."""
    ticks, parents, took = os.sysconf("SC_CLK_TCK"), {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = pathlib.Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                # utime, stime, and the same of children that have ended.
                parents[int(entry)], took[int(entry)] = int(fields[1]), sum(map(int, fields[11:15])) / ticks
    family, more = {process.pid for process in processes}, True
    while more:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        family |= more
    return sum(took.get(pid, 0) for pid in family)


def own_cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Load:
    """Processes that begin together, and what each of them comes to."""

    def __init__(self, size):
        self.barrier = FORK.Barrier(size + 1)
        self.results = FORK.Queue()
        self.size, self.processes = size, []

    def add(self, work, *args):
        self.processes.append(FORK.Process(target=self.run, args=(work, *args), daemon=True))

    def run(self, work, *args):
        # Ctrl-C is for the one that waits for them.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        before = 0

        def ready():
            nonlocal before
            self.barrier.wait()
            # `begin` is called between the two.
            self.barrier.wait()
            before = own_cpu()

        try:
            value = work(ready, *args)
            self.results.put((value, own_cpu() - before, None))
        except Exception:  # Of whatever package: it is told, and ends the measurement.
            self.barrier.abort()
            self.results.put((None, 0, traceback.format_exc()))

    def go(self, seconds, begin):
        """Starts them; `begin` is called when all are ready. Returns what they came to, and their seconds of CPU since."""
        for process in self.processes:
            process.start()
        try:
            with contextlib.suppress(threading.BrokenBarrierError):
                self.barrier.wait(START)
                begin()
                self.barrier.wait(START)
            deadline, came, took = time.monotonic() + seconds + PATIENCE, [], 0
            while len(came) < self.size:
                try:
                    value, used, why = self.results.get(timeout=max(0, deadline - time.monotonic()))
                except queue.Empty:
                    raise Failed(f"not done {PATIENCE} s after its time") from None
                if why and "BrokenBarrierError" not in why:
                    print(why, file=sys.stderr)
                    raise Failed(why.strip().splitlines()[-1])
                if why is None:
                    came.append(value)
                    took += used
            return came, took
        finally:
            for process in self.processes:
                process.kill()
                process.join()


def work(peer, server, seconds):
    """Tasks submitted, delivered and settled: one submitter with batches, workers, each a process with a connection."""
    submitted, settled, closed = FORK.Value("q", 0), FORK.Value("q", 0), FORK.Value("b", 0)

    def count(value, more):
        with value.get_lock():
            value.value += more

    def submitter(ready):
        batches = peer.submit(lambda: more())
        ready()
        until = time.monotonic() + seconds

        def more():
            while submitted.value - settled.value > LONGEST_QUEUE and time.monotonic() < until:
                time.sleep(0.001)
            return time.monotonic() < until

        for accepted in batches:
            count(submitted, accepted)
        closed.value = 1
        return None

    def worker(ready, number):
        batches = peer.work(number)
        next(batches)  # Connected.
        ready()
        last = 0
        for done in batches:
            if done:
                last = time.monotonic()
                count(settled, done)
            if closed.value and settled.value >= submitted.value:
                return last

    load = Load(WORKERS + 1)
    load.add(submitter)
    for number in range(WORKERS):
        load.add(worker, number)
    before = []
    came, clients = load.go(seconds, lambda: before.extend([cpu(server), time.monotonic()]))
    used, began = before
    took = max(last for last in came if last) - began
    if settled.value != submitted.value:
        raise Failed(f"{submitted.value} tasks were submitted, and {settled.value} settled")
    return {
        "tasks_per_s": round(settled.value / took),
        "tasks": settled.value,
        "server_cores": round((cpu(server) - used) / took, 2),
        "client_cores": round(clients / took, 2),
    }


def callers(peer, server, seconds, count):
    """Programs that submit one task, and wait for the answer, again and again; each with a connection of its own."""

    def few(ready, size):
        calls = [peer.caller() for _ in range(size)]
        ready()
        until, latencies = time.monotonic() + seconds, [[] for _ in calls]

        def one(call, took):
            began = time.monotonic()
            while began < until:
                call()
                now = time.monotonic()
                took.append(now - began)
                began = now

        threads = [threading.Thread(target=one, args=pair) for pair in zip(calls, latencies)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [one for took in latencies for one in took]

    sizes = [count // PROCESSES + (number < count % PROCESSES) for number in range(min(count, PROCESSES))]
    load = Load(len(sizes))
    for size in sizes:
        load.add(few, size)
    before = []
    came, clients = load.go(seconds, lambda: before.append(cpu(server)))
    latencies = sorted(one for took in came for one in took)
    if not latencies:
        raise Failed("no call was answered")
    quantile = lambda q: round(latencies[min(int(len(latencies) * q), len(latencies) - 1)] * 1000, 2)
    return {
        "tasks_per_s": round(len(latencies) / seconds),
        "tasks": len(latencies),
        "p50_ms": quantile(0.5),
        "p99_ms": quantile(0.99),
        "server_cores": round((cpu(server) - before[0]) / seconds, 2),
        "client_cores": round(clients / seconds, 2),
    }
