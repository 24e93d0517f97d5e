"""The messages of the wire, in a descriptor pool of their own.

So they meet no other `contact.proto` of the process, and need no runtime of protobuf that is as new as a generator was.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any, Callable

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_pool = descriptor_pool.DescriptorPool()
#: The methods of each service.
_methods: dict[str, list[descriptor_pb2.MethodDescriptorProto]] = {}


def _load() -> None:
    path = pathlib.Path(__file__).with_name("protos.bin")
    for file in descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file:
        _pool.AddSerializedFile(file.SerializeToString())
        for service in file.service:
            _methods[f"{file.package}.{service.name}".lstrip(".")] = list(service.method)


_load()


def message(name: str) -> Any:
    """The class of a message, by its full name."""
    descriptor = _pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    # protobuf 4.21
    return message_factory.MessageFactory(_pool).GetPrototype(descriptor)  # type: ignore[attr-defined]


def enum(name: str) -> dict[int, str]:
    """The names of an enum's values, by number."""
    return {value.number: value.name for value in _pool.FindEnumTypeByName(name).values}


def export(proto: str, module: str) -> None:
    """Puts the messages and the values of the enums of a file into a module, as generated code has them."""
    file = _pool.FindFileByName(proto)
    names = vars(sys.modules[module])
    for name, descriptor in file.message_types_by_name.items():
        names[name] = message(descriptor.full_name)
    for values in file.enum_types_by_name.values():
        names.update({value.name: value.number for value in values.values})


class Stub:
    """The calls of a service, by the names of its methods."""

    def __init__(self, channel: Any, service: str) -> None:
        # Of the pool, protobuf 4.21 does not know which of them are streams.
        for method in _methods[service]:
            requests = "stream" if method.client_streaming else "unary"
            answers = "stream" if method.server_streaming else "unary"
            make = getattr(channel, f"{requests}_{answers}")
            request, answer = message(method.input_type.lstrip(".")), message(method.output_type.lstrip("."))
            call = make(
                f"/{service}/{method.name}",
                request_serializer=request.SerializeToString,
                response_deserializer=answer.FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(f"the service has no method {name}")


__all__ = ["Stub", "enum", "export", "message"]
