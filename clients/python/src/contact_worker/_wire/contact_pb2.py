"""The messages of contact.proto; contact_pb2.pyi, which is generated, says what they are to type checkers."""

from . import export

export("contact.proto", __name__)
