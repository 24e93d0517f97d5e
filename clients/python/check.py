"""Checks the package's sources: ruff, its format and its lints, and mypy with all of it. Called by .ci/run."""

import pathlib
import subprocess
import sys

import prepare

HERE = pathlib.Path(__file__).resolve().parent


def main():
    folder = prepare.pyenv.target_dir() / "python-client"
    python = prepare.ensure(folder)
    mypy = [python / "mypy", "--config-file", HERE / "pyproject.toml", "--cache-dir", folder / "mypy"]
    for command in (
        [python / "ruff", "check", "--no-cache", HERE],
        [python / "ruff", "format", "--no-cache", "--check", HERE],
        # Of the installed package: what is generated is there, too.
        [*mypy, "-p", "contact_worker"],
        [*mypy, HERE / "tests" / "typed.py"],
    ):
        if subprocess.run(command, cwd=folder, check=False).returncode != 0:
            sys.exit(f"{' '.join(map(str, command))} found something")


main()
