"""Virtual environments under target/, made with nothing but a bare python3.

Debian's python3 has neither pip nor ensurepip unless python3-pip or python3-venv is installed, so where
`python3 -m venv` cannot bring pip along, pip's own wheel is fetched from the package index and run as it is.
"""

import fcntl
import hashlib
import html.parser
import json
import os
import pathlib
import re
import subprocess
import sys
import urllib.parse
import urllib.request

INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/"


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
    done = folder / "done.json"
    wanted = json.dumps({"packages": sorted(packages), "python": sys.version_info[:2]})
    # Beside the folder, because making it anew empties it.
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (done.exists() and done.read_text() == wanted and _works(folder)):
            # No flag of the user's, such as PIP_USER=1, is meant for this environment.
            _run(_venv_with_pip(folder) + ["install", "--quiet", "--no-user", *packages])
            done.write_text(wanted)
    return folder / "bin"


def _works(folder):
    """False where the Python that the environment was made with has been removed."""
    return (folder / "bin" / "python").exists()


def _venv_with_pip(folder):
    """Makes an empty environment; returns the command of a pip that installs into it."""
    python = str(folder / "bin" / "python")
    venv = [sys.executable, "-m", "venv", "--clear"]
    if subprocess.run([*venv, folder], capture_output=True).returncode == 0:
        return [python, "-I", "-m", "pip"]
    _run([*venv, "--without-pip", folder])
    return [python, "-I", str(_fetch_pip(folder) / "pip")]


class _Links(html.parser.HTMLParser):
    """The attributes of all links of a page. Every index answers in HTML; JSON is an option."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "a":
            self.found.append(dict(attributes))


def _fetch_pip(folder):
    """Fetches the newest wheel of pip that this Python can run, and checks it against the hash the index gives."""
    page_url = urllib.parse.urljoin(INDEX, "pip/")
    wheels = []
    for link in _Links(_get(page_url).decode()).found:
        name = re.search(r"/(pip-([\d.]+)-py3-none-any\.whl)#sha256=([0-9a-f]{64})$", link.get("href", ""))
        needs = re.search(r">=\s*3\.(\d+)", link.get("data-requires-python", ""))
        if name and "data-yanked" not in link and (not needs or int(needs[1]) <= sys.version_info[1]):
            version = [int(part) for part in name[2].split(".")]
            wheels.append((version, name[1], name[3], urllib.parse.urljoin(page_url, link["href"])))
    if not wheels:
        raise Unavailable(f"{page_url} lists no pip for Python 3.{sys.version_info[1]}")
    _, name, sha256, url = max(wheels)
    wheel = _get(url)
    if hashlib.sha256(wheel).hexdigest() != sha256:
        raise Unavailable(f"{url} does not have the hash that {page_url} names for it; try again")
    path = folder / name
    path.write_bytes(wheel)
    return path


def _get(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read()
    except OSError as error:
        raise Unavailable(f"{url}: {error}; is the package index reachable?") from error


def _run(command):
    # Standard output belongs to the caller: cmake's is read by cargo, the tests' by the tests.
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        raise Unavailable(f"{' '.join(map(str, command))} failed, for the reason above")
