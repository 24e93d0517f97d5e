"""The messages of control.proto; control_pb2.pyi, which is generated, says what they are to type checkers."""

from . import export

export("control.proto", __name__)
