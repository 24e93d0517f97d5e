"""Makes what the package needs of the protos: their descriptors, and stubs for type checkers."""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTOS = ["contact.proto", "control.proto", "google/rpc/status.proto", "google/rpc/error_details.proto"]
TYPED = PROTOS[:2]
WIRE = "contact_worker/_wire"


class ProtoHook(BuildHookInterface[Any]):
    """In an sdist the protos are beside this file; in a checkout they are those of the server."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = pathlib.Path(self.root)
        protos = next((at for at in (root / "proto", root.parent.parent / "proto") if at.is_dir()), None)
        if protos is None:
            raise FileNotFoundError("the protos are neither in proto/ nor in ../../proto: build in a checkout, or from an sdist")
        if self.target_name == "sdist":
            build_data["force_include"].update({str(protos / name): f"proto/{name}" for name in PROTOS})
            build_data["force_include"][str(protos.parent / "LICENSE")] = "LICENSE"
        elif version == "editable":
            # Where the sources are used as they lie there.
            generate(protos, root / "src" / WIRE)
        else:
            self.made = tempfile.TemporaryDirectory()
            for path in generate(protos, pathlib.Path(self.made.name)):
                build_data["force_include"][str(path)] = f"{WIRE}/{path.name}"


def generate(protos: pathlib.Path, folder: pathlib.Path) -> list[pathlib.Path]:
    """Leaves protos.bin, with what the protos import, and a .pyi for each of TYPED; returns their paths."""
    import grpc_tools
    from grpc_tools import protoc

    standard = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    common = ["protoc", f"-I{protos}", f"-I{standard}"]
    descriptors = [*common, "--include_imports", f"--descriptor_set_out={folder / 'protos.bin'}", *PROTOS]
    stubs = [*common, f"--pyi_out={folder}", *TYPED]
    for command in (descriptors, stubs):
        if protoc.main(command) != 0:
            raise RuntimeError(f"{' '.join(command)} failed")
    return [folder / "protos.bin", *(folder / name.replace(".proto", "_pb2.pyi") for name in TYPED)]
