"""What any gRPC service does, seen by Python's own libraries for it. Prints a line of JSON for each thing learnt.

    conventions.py check ADDRESS SERVICE...     the health of services
    conventions.py watch ADDRESS SERVICE        the same, at each change, and how that ended
    conventions.py reflect ADDRESS              services, with their methods
    conventions.py work LISTEN CONTROL TEXT     submits a task, and takes it, with nothing but what reflection tells
    conventions.py errors LISTEN CONTROL        statuses with their details
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

PATIENCE = 60


def say(it):
    print(json.dumps(it, ensure_ascii=False), flush=True)


def status(error):
    """A failed call: its code and text, and what the details are, by their type."""
    said = {"code": error.code().name, "message": error.details()}
    rich = rpc_status.from_call(error)
    for detail in rich.details if rich else ():
        kind = detail.TypeName().removeprefix("google.rpc.")
        message = getattr(error_details_pb2, kind)()
        assert detail.Unpack(message)
        said[kind] = MessageToDict(message, preserving_proto_field_name=True)
    return said


def named(state):
    return health_pb2.HealthCheckResponse.ServingStatus.Name(state)


def check(address, *services):
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in services:
            try:
                say(named(health.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE).status))
            except grpc.RpcError as error:
                say(status(error))


def watch(address, service):
    with grpc.insecure_channel(address) as channel:
        try:
            for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service)):
                say(named(answer.status))
        except grpc.RpcError as error:
            say(status(error))


class Reflected:
    """A port that is known by reflection alone."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def service(self, name):
        return self.pool.FindServiceByName(name)

    def call(self, service, method, request, **options):
        """The answer, or the answers, to a request given as a dictionary."""
        method = self.service(service).methods_by_name[method]
        kind = ["stream" if streams else "unary" for streams in (method.client_streaming, method.server_streaming)]
        call = getattr(self.channel, "_".join(kind))(
            f"/{service}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        make = message_factory.GetMessageClass(method.input_type)
        request = iter([make(**request)]) if method.client_streaming else make(**request)
        return call(request, timeout=PATIENCE, **options)


def reflect(address):
    port = Reflected(address)
    for name in port.database.get_services():
        say({name: [method.name for method in port.service(name).methods]})


def work(listen, control, text):
    control, listen = Reflected(control), Reflected(listen)
    accepted = control.call("contact.control.v1.Control", "Submit", {"tasks": [{"task": text}]})
    tasks = listen.call("Contact", "getTask", {}, metadata=[("contact-client", "reflected"), ("contact-from", "first")])
    task = next(tasks)
    listen.call("Contact", "tellResult", {"id": task.id, "attempt": task.attempt, "ret": "by reflection"})
    ledger = control.call("contact.control.v1.Control", "DescribeTask", {"id": accepted.first_id})
    say({"given": task.task, "ledger": MessageToDict(ledger, preserving_proto_field_name=True)})
    tasks.cancel()


def errors(listen, control):
    control, listen = Reflected(control), Reflected(listen)
    name = "contact.control.v1.Control"
    for service, method, request, options in [
        (name, "Submit", {"tasks": [{"task": "good"}, {"task": "x" * (1024 * 1024 + 1)}]}, {}),
        (name, "Submit", {"tasks": [{"task": "a"}, {"task": "b"}, {"task": "c", "key": "\n"}]}, {}),
        (name, "Submit", {"tasks": [{"task": "a", "priority": 77}]}, {}),
        (name, "DescribeTask", {"id": 4711}, {}),
        (name, "PauseGroup", {"group": "nobody"}, {}),
        (name, "PauseGroup", {}, {}),
        ("Contact", "getTask", {}, {"metadata": [("contact-window", "9" * 6000 + "x")]}),
        ("Contact", "getTask", {}, {"metadata": [("contact-client", "x" * 257)]}),
        ("Contact", "tellResult", {"id": 4711}, {}),
        ("Contact", "tellResult", {"ret": "x" * (1024 * 1024 + 1)}, {}),
        ("Contact", "sendStatus", {"msg": "x" * (1024 * 1024 + 1)}, {}),
    ]:
        try:
            answer = (listen if service == "Contact" else control).call(service, method, request, **options)
            say({"no error": str(next(answer) if method in ("getTask", "sendStatus") else answer)})
        except grpc.RpcError as error:
            say(status(error))


def main():
    command, *arguments = sys.argv[1:]
    {"check": check, "watch": watch, "reflect": reflect, "work": work, "errors": errors}[command](*arguments)


main()
