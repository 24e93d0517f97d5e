"""What the README shows works as it is printed; and the package installs as it says."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import tempfile
import unittest
import venv

from rig import DEADLINE, Case, Program

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"


def blocks():
    """The programs of the README, in order."""
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


class Readme(Case):
    def setUp(self):
        super().setUp()
        self.worker_of_ten_lines, self.client_of_four, self.images, self.asyncio, self.operators, self.tls = blocks()

    def text(self, block):
        """With the addresses of this server."""
        return block.replace("127.0.0.1:50051", self.server.listen).replace("127.0.0.1:50052", self.server.control)

    def program(self, block):
        program = Program(self.text(block))
        self.addCleanup(program.close)
        return program

    def test_the_worker_and_the_client_of_the_first_page(self):
        worker = self.program(self.worker_of_ten_lines)
        client = self.program(self.client_of_four)
        self.assertEqual((client.ended(), client.lines), (0, ["a thumb of a.png"]), worker.lines)
        worker.wait_for("connected to")

    def test_the_worker_that_says_more(self):
        program = self.program(self.images + "\nprint(convert(Task('x', data=b'ab', headers={'content-type': 'image/bmp'})).data)")
        self.assertEqual((program.ended(), program.lines), (0, ["b'ba'"]))
        self.assertEqual([it.text for it in self.client.statuses()], ["ready"])

    def test_the_one_for_asyncio(self):
        program = self.program(self.asyncio)
        self.assertEqual((program.ended(), program.lines), (0, ["A PAGE"]))

    def test_the_calls_of_operators(self):
        # Somebody who is away: the run ends by its deadline.
        gone = self.worker(lambda task: None, group=None, id="images-1")
        gone.wait_connected(DEADLINE)
        gone.stop()
        program = self.program(self.operators)
        self.assertEqual(program.ended(), 0, program.lines)
        self.assertEqual(program.lines[:2], ["10000", "TASK_UNKNOWN"])
        self.assertIn("EXPIRED", program.lines[-1])

    def test_the_settings_of_tls(self):
        program = self.program(self.tls)
        self.assertEqual((program.ended(), program.lines), (0, []))

    def test_each_method_that_it_names_is_there(self):
        (named,) = re.findall(r"^Also (`task`.*)\.$", README.read_text(encoding="utf-8"), re.MULTILINE)
        for name in re.findall("`(.*?)`", named):
            self.assertTrue(callable(getattr(self.client, name)), name)


class Installed(Case):
    """From nothing: an environment of its own, the wheel, and the first ten lines."""

    def test_the_wheel_installs_with_what_it_needs_and_runs_the_first_ten_lines(self):
        (wheel,) = pathlib.Path(os.environ["PACKAGE_DIST"]).glob("*.whl")
        with tempfile.TemporaryDirectory() as folder:
            venv.create(folder, with_pip=True)
            python = pathlib.Path(folder) / "bin" / "python"
            pip = [python, "-I", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-user", wheel]
            subprocess.run(pip, check=True)
            listed = subprocess.run([python, "-I", "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True)
            names = {line.split("==")[0] for line in listed.stdout.split()}
            self.assertEqual(
                names - {"pip", "setuptools", "typing_extensions", "typing-extensions"}, {"contact-worker", "grpcio", "protobuf"}
            )
            source = blocks()[0].replace("127.0.0.1:50051", self.server.listen)
            worker = subprocess.Popen([python, "-c", source], stderr=subprocess.DEVNULL)
            self.addCleanup(worker.wait)
            self.addCleanup(worker.kill)
            accepted = self.client.submit("a.png", to="thumbs")
            self.assertEqual(self.client.wait(accepted.id, timeout=DEADLINE).result.text, "a thumb of a.png")


if __name__ == "__main__":
    unittest.main()
