"""Contact itself. It is given work by contactctl bench, which is written in Rust; its callers are Python like those of the others."""

import json
import os
import pathlib
import subprocess
import sys

import grpc

from harness import BATCH, SIZE, WORKERS, Absent, Peer, output
from peer_nats import nats_server

ROOT = pathlib.Path(__file__).resolve().parents[3]
# Seconds of CPU: of the server that is connected to, and of the rest of a cluster.
SERVERS = ("server_cpu_s", "other_cpu_s", "nats_cpu_s")


class Contact(Peer):
    name = "Contact"
    settings = ("always: fsync before each answer",)
    # A server that is one of several, over three of NATS: what `contactctl bench --at` is told.
    clusters = {"a cluster: at the server that leads": "leader", "a cluster: at the other server": "follower"}
    how = "batches of 1,000 both ways"

    def __init__(self, folder, stubs, replicas):
        self.bin, self.replicas = folder, replicas
        if replicas > 1:
            self.settings = (*self.settings, *self.clusters)
        sys.path.insert(0, str(stubs))

    def durable(self, setting):
        return True

    def version(self):
        if not (self.bin / "contactctl").exists():
            raise Absent(f"no contactctl in {self.bin}: cargo build --release, or name the folder of a build with --bin")
        return output(self.bin / "contactctl", "--version").split()[1]

    def start(self, folder, setting):
        command = [self.bin / "contact-server", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--http", "off"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CONTACT_")}
        environment["RUST_LOG"] = "warn"
        command += ["--data", folder / "data"]
        process = self.spawn(*command, stdout=subprocess.PIPE, text=True, env=environment)
        self.control = process.stdout.readline().rstrip().rpartition(", control on ")[2]

    def ready(self):
        if not self.control:
            raise ConnectionError("it says why above")

    def bench(self, setting, seconds, where):
        """What the others do by `submit` and `work`."""
        at = self.clusters.get(setting)
        servers = ["--spawn-cluster", "--at", at, "--nats-server", nats_server()] if at else ["--spawn"]
        command = [self.bin / "contactctl", "bench", *servers, "--json", *(["--dir", where] if where else []), "work"]
        command += ["--size", str(SIZE), "--clients", str(WORKERS), "--batch", str(BATCH)]
        command += ["--tasks", "1000000000", "--duration", f"{seconds}s"]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        seconds = figures["seconds"]
        return {
            "tasks_per_s": figures["tasks_per_s"],
            "tasks": figures["settled"],
            "server_cores": round(sum(figures.get(name, 0) for name in SERVERS) / seconds, 2),
            "client_cores": round(figures["load_cpu_s"] / seconds, 2),
            **{limit: figures[limit] for limit in ("fsyncs_per_s", "bare_messages_per_s", "bare_batched_per_s")},
        }

    def caller(self):
        import control_pb2 as pb
        import control_pb2_grpc

        # Otherwise all channels of a process share a connection.
        channel = grpc.insecure_channel(self.control, options=[("grpc.use_local_subchannel_pool", 1)])
        grpc.channel_ready_future(channel).result(timeout=20)
        submit = control_pb2_grpc.ControlStub(channel).Submit
        request = pb.SubmitRequest(tasks=[pb.NewTask(task="." * SIZE, to="callers")])

        def call():
            if submit(request).count != 1:
                raise RuntimeError("the task was not accepted")

        return call
