"""How a server is reached: a channel, with TLS or without, and the token that says who calls."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import ssl
from typing import Any, Optional, Union

import grpc

from .errors import Forked

Path = Union[str, "os.PathLike[str]"]
#: The longest message that is taken.
MAX_MESSAGE = 64 << 20
#: Pings after so much silence, and a connection that does not answer for so long is given up.
OPTIONS: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", -1),
    # Else all channels to one address share a connection, and the waits of C-core between tries.
    ("grpc.use_local_subchannel_pool", 1),
]

# The process that used gRPC first: it does not survive a fork.
_process: Optional[int] = None


def worker_address(said: Optional[str]) -> str:
    """Where the server listens for workers."""
    return said or os.environ.get("CONTACT_SERVER") or "127.0.0.1:50051"


def control_address(said: Optional[str]) -> str:
    """Where it listens for operators."""
    return said or os.environ.get("CONTACT_CONTROL") or "127.0.0.1:50052"


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a server is, and how it is spoken with. Files are read for each connection, so that new ones need no restart."""

    #: `host:port`, or `unix:` and a path.
    address: str
    #: The file of the authority of the server, in PEM; "system" for those that this machine trusts. Without it: no TLS.
    ca: Optional[Path] = None
    #: The file of a certificate that says who calls, and that of its key.
    cert: Optional[Path] = None
    key: Optional[Path] = None
    #: A token that says who calls, or the file that it is in.
    token: Optional[str] = None
    token_file: Optional[Path] = None

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        is_port = port.isdigit() and 0 < int(port) < 65536
        if not (host and is_port and "://" not in self.address) and not self.address.startswith("unix:"):
            raise ValueError(f"{self.address!r} is no address; write it as host:port, [IPv6 address]:port, or unix:path")
        if (self.cert is None) != (self.key is None):
            raise ValueError("a certificate needs its key: give cert and key, or neither")
        if self.cert is not None and self.ca is None:
            raise ValueError('cert and key are for TLS: give ca, the file of the authority of the server, or ca="system"')
        if self.token is not None and self.token_file is not None:
            raise ValueError("give token or token_file, not both")

    def check_process(self) -> None:
        """Refuses a process that was forked from one that used gRPC."""
        global _process  # noqa: PLW0603 - gRPC is one for the whole process, too
        if _process is None:
            _process = os.getpid()
        elif _process != os.getpid():
            raise Forked(
                f"process {os.getpid()} was forked from {_process}, which had connected before: gRPC does not work in both. "
                'Connect after the fork, or start processes with multiprocessing.get_context("spawn")'
            )

    def credentials(self) -> Optional[grpc.ChannelCredentials]:
        """Those of TLS; None: it is not spoken."""
        self.check_process()
        if self.ca is None:
            return None
        root = _system_roots() if self.ca == "system" else pathlib.Path(self.ca).read_bytes()
        if self.cert is None or self.key is None:
            return grpc.ssl_channel_credentials(root)
        return grpc.ssl_channel_credentials(root, pathlib.Path(self.key).read_bytes(), pathlib.Path(self.cert).read_bytes())

    def open(self) -> grpc.Channel:
        """A channel of its own."""
        credentials = self.credentials()
        if credentials is None:
            return grpc.insecure_channel(self.address, options=OPTIONS)
        return grpc.secure_channel(self.address, credentials, options=OPTIONS)

    def metadata(self) -> list[tuple[str, str]]:
        """What each call carries to say who calls."""
        token = self.token
        if self.token_file is not None:
            token = pathlib.Path(self.token_file).read_text(encoding="ascii").strip()
        return [("authorization", f"Bearer {token}")] if token else []

    def __repr__(self) -> str:
        return f"Target({self.address!r})"


def _system_roots() -> Any:
    found = ssl.create_default_context().get_ca_certs(binary_form=True)
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in found).encode("ascii")
