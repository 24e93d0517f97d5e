"""Virtual environments under target/, made by Python's own venv and pip."""

import fcntl
import json
import os
import pathlib
import subprocess
import sys


class Unavailable(Exception):
    """The environment could not be made; says why."""


def target_dir():
    """Cargo's target folder: found above OUT_DIR, or named by the environment, or ./target."""
    for folder in pathlib.Path(os.environ.get("OUT_DIR", "/")).parents:
        if (folder / "CACHEDIR.TAG").exists():
            return folder
    root = pathlib.Path(__file__).resolve().parent.parent
    return root / os.environ.get("CARGO_TARGET_DIR", "target")


def ensure(folder, packages):
    """Returns the `bin` folder of a virtual environment that has `packages`, making it on first use.

    It is made anew when the packages or Python's version have changed, or when it was left half-made. Safe to call from
    several processes at once.
    """
    folder = pathlib.Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    python = folder / "bin" / "python"
    done = folder / "done.json"
    wanted = json.dumps({"packages": sorted(packages), "python": sys.version_info[:2]})
    # Beside the folder, because making it anew empties it.
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # There is no python where the one that the environment was made with has been removed.
        if not (done.exists() and done.read_text() == wanted and python.exists()):
            # Debian's python3 has the module venv without the pip that it installs: that is in python3-venv.
            _run([sys.executable, "-m", "venv", "--clear", folder], "is python3-venv installed (apt install python3-venv)?")
            # No flag of the user's, such as PIP_USER=1, is meant for this environment.
            pip = [python, "-I", "-m", "pip", "install", "--quiet", "--no-user", "--disable-pip-version-check"]
            _run([*pip, *packages], "is the package index reachable?")
            done.write_text(wanted)
    return folder / "bin"


def _run(command, hint):
    # Standard output belongs to the caller: cmake's is read by cargo, the tests' by the tests.
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        raise Unavailable(f"{' '.join(map(str, command))} failed; {hint}")
