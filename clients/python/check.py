"""Checks the package's sources and examples/ with ruff, its format and its lints, and the package with mypy. Called by .ci/run."""

import pathlib
import subprocess
import sys

import prepare

HERE = pathlib.Path(__file__).resolve().parent
# As for their readers, the package is to them one of others.
EXAMPLES = ["--config", HERE / "pyproject.toml", HERE.parent.parent / "examples"]


def main():
    folder = prepare.pyenv.target_dir() / "python-client"
    python = prepare.ensure(folder)
    mypy = [python / "mypy", "--config-file", HERE / "pyproject.toml", "--cache-dir", folder / "mypy"]
    for command in (
        [python / "ruff", "check", "--no-cache", HERE],
        [python / "ruff", "format", "--no-cache", "--check", HERE],
        [python / "ruff", "check", "--no-cache", *EXAMPLES],
        [python / "ruff", "format", "--no-cache", "--check", *EXAMPLES],
        # Of the installed package: what is generated is there, too.
        [*mypy, "-p", "contact_worker"],
        [*mypy, HERE / "tests" / "typed.py"],
    ):
        if subprocess.run(command, cwd=folder, check=False).returncode != 0:
            sys.exit(f"{' '.join(map(str, command))} found something")


main()
