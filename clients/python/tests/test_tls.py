"""Certificates and tokens."""

from __future__ import annotations

import os
import pathlib
import subprocess
import tempfile
import unittest

from contact_worker import Client, PermissionDenied, Refused, Unauthenticated, Worker

from rig import CONTACTCTL, DEADLINE, SOON, Case, Server, eventually, free_port


class Certificates(unittest.TestCase):
    """A server that others reach: it has an authority of its own, and clients show certificates."""

    def setUp(self):
        port = free_port()
        self.server = Server("--public", f"localhost:{port}", listen=f"localhost:{port}")
        self.addCleanup(self.server.close)
        self.files = pathlib.Path(tempfile.mkdtemp())
        self.client = Client(self.server.control)
        self.addCleanup(self.client.close)

    def issue(self, name, *arguments):
        command = [CONTACTCTL, "cert", "issue", name, *arguments, "--server", self.server.control]
        subprocess.run(command, check=True, cwd=self.files, env={**os.environ, "CONTACT_DATA": self.server.data}, stdout=subprocess.DEVNULL)
        return {"ca": self.files / "ca.pem", "cert": self.files / f"{name}.pem", "key": self.files / f"{name}.key"}

    def test_a_worker_with_a_certificate_works_under_its_name(self):
        self.client.submit("x", to="g")
        worker = Worker(self.server.listen, group="g", **self.issue("w1", "--group", "g"), **SOON)
        worker.task(lambda task: task.text.upper())
        with worker:
            details = self.client.wait(1, timeout=DEADLINE)
            self.assertEqual((details.result.text, details.result.outcome), ("X", "DONE"))

    def test_one_that_names_a_group_that_is_not_its_own_ends_with_the_reason(self):
        worker = Worker(self.server.listen, group="others", **self.issue("w1", "--group", "g"), **SOON)
        worker.task(lambda task: None)
        with self.assertRaises(Refused) as caught:
            worker.run()
        self.assertEqual((caught.exception.reason, caught.exception.code), ("GROUP_NOT_ALLOWED", "PERMISSION_DENIED"))

    def test_a_server_that_is_not_of_the_authority_is_not_spoken_with(self):
        files = self.issue("w1", "--group", "g")
        other = Certificates("issue")
        other.setUp()
        self.addCleanup(other.doCleanups)
        files["ca"] = other.issue("w2")["ca"]
        worker = Worker(self.server.listen, group="g", **files, **SOON)
        worker.task(lambda task: None)
        with self.assertLogs("contact_worker", "WARNING") as logs, worker:
            eventually("it says so", lambda: any("not of the authority that ca names" in line for line in logs.output))

    def test_a_worker_without_tls_or_without_a_certificate_is_told_what_to_give(self):
        ca = self.issue("w1")["ca"]
        for options, hint in [({}, "if the server speaks TLS, give ca"), ({"ca": ca}, "the server wants a certificate")]:
            worker = Worker(self.server.listen, group="g", **options, **SOON)
            worker.task(lambda task: None)
            with self.subTest(hint), self.assertLogs("contact_worker", "WARNING") as logs, worker:
                eventually("it says so", lambda logs=logs, hint=hint: any(hint in line for line in logs.output))

    def test_a_file_that_is_not_there_is_said_at_once(self):
        worker = Worker(self.server.listen, group="g", ca="/no/such/file")
        worker.task(lambda task: None)
        with self.assertRaisesRegex(FileNotFoundError, "/no/such/file"):
            worker.start()


class Tokens(Case):
    arguments = ("--auth", "required")

    def setUp(self):
        super().setUp()
        self.operator = Client(self.server.control, token_file=os.path.join(self.server.data, "operator.token"))
        self.addCleanup(self.operator.close)

    def token(self, name, *arguments):
        command = [CONTACTCTL, "token", "create", name, *arguments, "--server", self.server.control]
        env = {**os.environ, "CONTACT_DATA": self.server.data}
        return subprocess.run(command, check=True, env=env, capture_output=True, text=True).stdout.strip()

    def test_who_shows_a_token_is_let_in_and_who_shows_none_is_told(self):
        token = self.token("w1", "--role", "agent", "--group", "g")
        self.worker(lambda task: task.text.upper(), token=token)
        self.operator.submit("x", to="g")
        self.assertEqual(self.operator.wait(1, timeout=DEADLINE).result.text, "X")
        with self.assertRaises(Unauthenticated) as caught:
            self.client.submit("x")
        self.assertEqual(caught.exception.reason, "CREDENTIAL_MISSING")
        worker = Worker(self.server.listen, group="g", token="ct1_" + "0" * 64, **SOON)
        worker.task(lambda task: None)
        with self.assertRaises(Refused) as caught:
            worker.run()
        self.assertEqual(caught.exception.reason, "TOKEN_UNKNOWN")

    def test_a_token_opens_what_it_is_for(self):
        with Client(self.server.control, token=self.token("ci", "--role", "submit", "--to", "g")) as client:
            self.assertEqual(client.submit("x", to="g").id, 1)
            for call, reason in [(lambda: client.submit("x", to="h"), "TARGET_NOT_ALLOWED"), (client.groups, "ROLE_NOT_ALLOWED")]:
                with self.assertRaises(PermissionDenied) as caught:
                    call()
                self.assertEqual(caught.exception.reason, reason)

    def test_a_new_token_in_its_file_needs_no_restart(self):
        file = pathlib.Path(tempfile.mkdtemp()) / "token"
        file.write_text(self.token("w1", "--role", "agent", "--group", "g") + "\n")
        worker = self.worker(lambda task: task.text, token_file=file)
        self.assertTrue(worker.wait_connected(DEADLINE))
        file.write_text(self.token("w2", "--role", "agent", "--group", "g") + "\n")
        self.server.stop()
        self.server.restart()
        self.operator.submit("x", to="g")
        self.assertEqual(self.operator.wait(1, timeout=DEADLINE).result.text, "x")


if __name__ == "__main__":
    unittest.main()
