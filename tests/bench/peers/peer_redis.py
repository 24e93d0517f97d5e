"""Redis: a stream, and a group of consumers that acknowledge."""

import subprocess

import redis

from harness import BATCH, TEXT, UNDER_WAY, Peer, free_port, output, program

SAVE = ["--save", "3600 1 300 100 60 10000"]


class Redis(Peer):
    name = "Redis"
    settings = ("default: snapshots", "appendfsync always")
    how = "`XADD`, pipelined; `XREADGROUP COUNT 1000`; `XACK`"

    def version(self):
        return output(program("redis-server", "apt install redis-server"), "--version").split("v=")[1].split()[0]

    def start(self, folder, setting):
        self.port = free_port()
        durable = setting == self.settings[1]
        options = ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
        command = [program("redis-server", ""), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", folder, *SAVE]
        self.spawn(*command, *options, stdout=subprocess.DEVNULL)

    def ready(self):
        try:
            with redis.Redis(port=self.port) as client:
                client.xgroup_create("tasks", "workers", mkstream=True)
        except redis.ConnectionError as why:
            raise OSError(why) from why

    def connection(self):
        # The package's own connection, without its commands: requests are encoded once, as in contactctl bench.
        connection = redis.Connection(port=self.port, protocol=2)
        connection.connect()
        return connection

    def submit(self, more):
        connection = self.connection()
        batch = connection.pack_commands([("XADD", "tasks", "*", "t", TEXT)] * BATCH)
        under_way = 0
        while True:
            while under_way < UNDER_WAY and more():
                connection.send_packed_command(batch)
                under_way += 1
            if not under_way:
                return
            for _ in range(BATCH):
                connection.read_response()
            under_way -= 1
            yield BATCH

    def work(self, number):
        connection = self.connection()
        take = ("XREADGROUP", "GROUP", "workers", str(number), "COUNT", BATCH, "BLOCK", 100, "STREAMS", "tasks", ">")
        yield 0
        connection.send_command(*take)
        while True:
            streams = connection.read_response()
            if not streams:
                connection.send_command(*take)
                yield 0
                continue
            ids = [task[0] for task in streams[0][1]]
            connection.send_packed_command(connection.pack_commands([("XACK", "tasks", "workers", *ids), take]))
            yield connection.read_response()

    def caller(self):
        client = redis.Redis(port=self.port, single_connection_client=True)
        return lambda: client.xadd("tasks", {"t": TEXT})
