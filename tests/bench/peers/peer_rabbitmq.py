"""RabbitMQ: a queue with publisher confirms, and consumers that acknowledge what came so far at once."""

import glob
import os
import select
import struct
from subprocess import DEVNULL

import pika
from pika import frame, spec

from harness import BATCH, TEXT, UNDER_WAY, Failed, Peer, connect, free_port, program

SCRIPTS = "/usr/lib/rabbitmq/bin"
CHANNEL = 1
HEAD = struct.Struct(">BHL")
DELIVER, ACK, NACK = (struct.pack(">HH", 60, method) for method in (60, 80, 120))


class Connection:
    """AMQP, as far as it is used here. pika writes and reads the frames of the beginning; what is sent and received again and
    again is bytes, since its own way takes longer for a message than the server does."""

    def __init__(self, port):
        self.socket = connect(port)
        self.send = self.socket.sendall
        self.buffer = b""
        self.send(b"AMQP\x00\x00\x09\x01")
        self.answer()
        login = spec.Connection.StartOk(client_properties={}, mechanism="PLAIN", response="\0guest\0guest", locale="en_US")
        tune = self.ask(login, channel=0)
        tune_ok = spec.Connection.TuneOk(channel_max=tune.channel_max, frame_max=tune.frame_max, heartbeat=0)
        self.send(frame.Method(0, tune_ok).marshal())
        self.ask(spec.Connection.Open(virtual_host="/"), channel=0)
        self.ask(spec.Channel.Open())

    def ask(self, method, channel=CHANNEL):
        self.send(frame.Method(channel, method).marshal())
        return self.answer()

    def answer(self):
        while True:
            used, one = frame.decode_frame(self.buffer)
            if one:
                self.buffer = self.buffer[used:]
                if isinstance(one.method, (spec.Connection.Close, spec.Channel.Close)):
                    raise Failed(f"RabbitMQ said {one.method.reply_text}")
                return one.method
            self.receive()

    def receive(self):
        more = self.socket.recv(1 << 18)
        if not more:
            raise Failed("RabbitMQ closed the connection")
        self.buffer += more

    def methods(self):
        """Waits for something, and returns the methods of the whole frames that have come, as bytes."""
        self.receive()
        at, found, buffer = 0, [], self.buffer
        while at + HEAD.size <= len(buffer):
            kind, _, size = HEAD.unpack_from(buffer, at)
            end = at + HEAD.size + size + 1
            if end > len(buffer):
                break
            if kind == spec.FRAME_METHOD:
                found.append(buffer[at + HEAD.size : end - 1])
            at = end
        self.buffer = buffer[at:]
        return found


class RabbitMQ(Peer):
    name = "RabbitMQ"
    settings = ("classic queue, in memory", "quorum queue")
    how = "`basic.publish` with confirms; prefetch of 4,096; `basic.ack` of all that came"

    def version(self):
        program("rabbitmq-server", "apt install rabbitmq-server", SCRIPTS)
        # It says so only when it runs; its folder has it as well.
        return (sorted(glob.glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*")) or ["-?"])[-1].rpartition("-")[2]

    def start(self, folder, setting):
        self.durable = setting == self.settings[1]
        self.port, distribution, names = free_port(), free_port(), free_port()
        # Erlang's name server, of our own: otherwise one stays behind.
        environment = {**os.environ, "ERL_EPMD_PORT": str(names), "ERL_EPMD_ADDRESS": "127.0.0.1", "HOME": str(folder)}
        self.spawn(program("epmd", "apt install erlang-base"), env=environment)
        environment |= {
            "RABBITMQ_NODENAME": f"bench{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_CONFIG_FILE": f"{folder}/none",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/none",
        }
        (folder / "plugins").write_text("[].\n")
        script = program("rabbitmq-server", "", SCRIPTS)
        self.spawn(script, env=environment, stdout=DEVNULL, stderr=DEVNULL)

    def ready(self):
        arguments = {"x-queue-type": "quorum" if self.durable else "classic"}
        connection = Connection(self.port)
        connection.ask(spec.Queue.Declare(queue="tasks", durable=True, arguments=arguments))
        connection.socket.close()

    def submit(self, more):
        connection = Connection(self.port)
        connection.ask(spec.Confirm.Select())
        mode = spec.PERSISTENT_DELIVERY_MODE if self.durable else spec.TRANSIENT_DELIVERY_MODE
        parts = [
            frame.Method(CHANNEL, spec.Basic.Publish(exchange="", routing_key="tasks")),
            frame.Header(CHANNEL, len(TEXT), spec.BasicProperties(delivery_mode=mode)),
            frame.Body(CHANNEL, TEXT),
        ]
        batch = b"".join(part.marshal() for part in parts) * BATCH
        # All up to `low` are confirmed, and those in `above`.
        sent, confirmed, low, above = 0, 0, 0, set()
        while True:
            while sent - confirmed <= (UNDER_WAY - 1) * BATCH and more():
                connection.send(batch)
                sent += BATCH
            if confirmed == sent:
                return
            for method in connection.methods():
                if method[:4] == NACK:
                    raise Failed("RabbitMQ did not take a task")
                if method[:4] == ACK:
                    tag, multiple = struct.unpack_from(">QB", method, 4)
                    if multiple:
                        low = max(low, tag)
                        above = {one for one in above if one > low}
                    else:
                        above.add(tag)
                    while low + 1 in above:
                        low += 1
                        above.remove(low)
            before, confirmed = confirmed, low + len(above)
            yield confirmed - before

    def work(self, number):
        connection = Connection(self.port)
        connection.ask(spec.Basic.Qos(prefetch_count=4096))
        connection.ask(spec.Basic.Consume(queue="tasks"))
        yield 0
        while True:
            tags = []
            # A second, so that it is seen when there is nothing more to do.
            readable, _, _ = select.select([connection.socket], [], [], 1)
            for method in connection.methods() if readable else ():
                if method[:4] == DELIVER:
                    # After the consumer's name, which is as long as its first byte says.
                    tags.append(struct.unpack_from(">Q", method, 5 + method[4])[0])
            if tags:
                connection.send(frame.Method(CHANNEL, spec.Basic.Ack(delivery_tag=tags[-1], multiple=True)).marshal())
            yield len(tags)

    def caller(self):
        where = pika.ConnectionParameters("127.0.0.1", self.port, heartbeat=0)
        channel = pika.BlockingConnection(where).channel()
        channel.confirm_delivery()
        mode = pika.DeliveryMode.Persistent if self.durable else pika.DeliveryMode.Transient
        properties = pika.BasicProperties(delivery_mode=mode)
        return lambda: channel.basic_publish("", "tasks", TEXT, properties)
