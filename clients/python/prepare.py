"""Makes what tests and checks of the package need: a Python that has it, as a wheel, and the tools.

    prepare.py FOLDER

leaves FOLDER/python/bin/python with the package, and FOLDER/dist with its wheel and its sdist. Ends with 69 if no such Python can be had,
for want of a package index.
"""

import fcntl
import hashlib
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / ".cargo"))
import pyenv

UNAVAILABLE = 69
DEPENDENCIES = ["grpcio", "protobuf"]
BUILD = ["hatchling", "grpcio-tools"]
# The tools in one version each: a new one has new opinions.
CHECKS = ["mypy==2.4.1", "ruff==0.17.6", "types-grpcio", "types-protobuf"]
TRACES = ["opentelemetry-api", "opentelemetry-sdk"]
# What ../../examples use.
EXAMPLES = ["fastapi", "pillow", "uvicorn"]


def ensure(folder):
    """Returns the `bin` folder of the Python, making it, and the package, if they are not there as they are to be."""
    folder = pathlib.Path(folder)
    python = pyenv.ensure(folder / "python", [*DEPENDENCIES, *BUILD, *CHECKS, *TRACES, *EXAMPLES])
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made_from = folder / "made-from"
        wanted = sources() + (folder / "python" / "done.json").read_text()
        if not (made_from.exists() and made_from.read_text() == wanted):
            install(python, folder / "dist")
            made_from.write_text(wanted)
    return python


def sources():
    """A hash of all that the package is made from."""
    files = [HERE / name for name in ("pyproject.toml", "hatch_build.py", "README.md")]
    files += [*(HERE / "src").rglob("*.py"), *(ROOT / "proto").rglob("*.proto")]
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return found.hexdigest()


def install(python, dist):
    """As a user would: a wheel that is built from the sdist. What it is built with is there already."""
    shutil.rmtree(dist, ignore_errors=True)
    run([python / "python", "-m", "hatchling", "build", "-t", "sdist", "-d", dist], cwd=HERE)
    pip = [python / "python", "-I", "-m", "pip", "--disable-pip-version-check"]
    quiet = ["--quiet", "--no-deps", "--no-index"]
    run([*pip, "wheel", *quiet, "--no-build-isolation", "-w", dist, *dist.glob("*.tar.gz")])
    run([*pip, "install", *quiet, "--force-reinstall", *dist.glob("*.whl")])


def run(command, **options):
    subprocess.run(command, check=True, stdout=sys.stderr, **options)


if __name__ == "__main__":
    try:
        ensure(sys.argv[1])
    except pyenv.Unavailable as why:
        print(why, file=sys.stderr)
        sys.exit(UNAVAILABLE)
