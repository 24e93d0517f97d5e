"""Virtual environments under target/, made with nothing but a bare python3.

Debian's python3 has neither pip nor ensurepip unless python3-pip or python3-venv is installed, so where
`python3 -m venv` cannot bring pip along, pip's own wheel is fetched from the package index and run as it is.
"""

import fcntl
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import urllib.request

INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")


def target_dir():
    """Cargo's target folder: named by the environment, or found above OUT_DIR, or ./target."""
    if os.environ.get("CARGO_TARGET_DIR"):
        return pathlib.Path(os.environ["CARGO_TARGET_DIR"]).absolute()
    for folder in pathlib.Path(os.environ.get("OUT_DIR", ".")).absolute().parents:
        if (folder / "CACHEDIR.TAG").exists():
            return folder
    return pathlib.Path(__file__).resolve().parent.parent / "target"


def ensure(folder, packages):
    """Returns the `bin` folder of a virtual environment that has `packages`, making it on first use.

    Safe to call from several processes at once. A half-made environment is finished by the next call.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / ".done"
    wanted = json.dumps(sorted(packages))
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (done.exists() and done.read_text() == wanted):
            pip = _venv_with_pip(folder)
            _run(pip + ["install", "--quiet", "--disable-pip-version-check", *packages])
            done.write_text(wanted)
    return folder / "bin"


def _venv_with_pip(folder):
    python = str(folder / "bin" / "python")
    if subprocess.run([sys.executable, "-m", "venv", folder], capture_output=True).returncode == 0:
        return [python, "-m", "pip"]
    _run([sys.executable, "-m", "venv", "--without-pip", "--clear", folder])
    return [python, str(_pip_wheel(folder) / "pip")]


def _pip_wheel(folder):
    """Fetches pip's newest stable wheel and checks it against the hash the index gives."""
    accept = {"Accept": "application/vnd.pypi.simple.v1+json"}
    with urllib.request.urlopen(urllib.request.Request(f"{INDEX}/pip/", headers=accept), timeout=60) as page:
        files = json.load(page)["files"]
    wheels = [f for f in files if f["filename"].endswith("-py3-none-any.whl") and not f.get("yanked")]
    stable = [f for f in wheels if all(part.isdigit() for part in f["filename"].split("-")[1].split("."))]
    newest = max(stable, key=lambda f: [int(part) for part in f["filename"].split("-")[1].split(".")])
    with urllib.request.urlopen(newest["url"], timeout=60) as answer:
        wheel = answer.read()
    if hashlib.sha256(wheel).hexdigest() != newest["hashes"]["sha256"]:
        sys.exit(f"{newest['url']} does not have the hash that {INDEX} names for it; try again")
    path = folder / newest["filename"]
    path.write_bytes(wheel)
    return path


def _run(command):
    # Standard output belongs to the caller: cmake's is read by cargo, the tests' by the tests.
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed; is the package index reachable?")
