"""Makes what Python programs need: a Python with grpcio and what comes with it, and stubs.

    prepare.py FOLDER

leaves FOLDER/python/bin/python and FOLDER/{ret,result,whole}/contact/contact_pb2{,_grpc}.py: the stubs of the article's proto in
both spellings, and of the whole one in proto/. Ends with 69 if there is no Python with grpcio to be had, for want of a package
index.
"""

import fcntl
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE.parent.parent / ".cargo"))
import pyenv

UNAVAILABLE = 69
PACKAGES = ["grpcio", "grpcio-tools", "grpcio-health-checking", "grpcio-reflection", "grpcio-status"]


def stubs(python, proto, package):
    """Generates as the article says, unless it has been done since the proto or the generator changed."""
    made_from = package / "made-from"
    wanted = proto.read_text(encoding="utf-8") + (python.parent.parent / "done.json").read_text()
    if made_from.exists() and made_from.read_text(encoding="utf-8") == wanted:
        return
    package.mkdir(parents=True, exist_ok=True)
    (package / "contact.proto").write_text(proto.read_text(encoding="utf-8"), encoding="utf-8")
    (package / "__init__.py").touch()
    command = "-m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. contact.proto".split()
    subprocess.run([python, *command], cwd=package, check=True)
    made_from.write_text(wanted, encoding="utf-8")


def main():
    folder = pathlib.Path(sys.argv[1])
    try:
        python = pyenv.ensure(folder / "python", PACKAGES) / "python"
    except pyenv.Unavailable as why:
        print(why, file=sys.stderr)
        sys.exit(UNAVAILABLE)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for spelling in ("ret", "result"):
            stubs(python, HERE / "proto" / spelling / "contact.proto", folder / spelling / "contact")
        stubs(python, HERE.parent.parent / "proto" / "contact.proto", folder / "whole" / "contact")


main()
