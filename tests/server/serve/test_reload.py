"""`boltseal serve` as a process: SIGHUP reloads the configuration without losing a connection."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import threading
from pathlib import Path

import httpx2
import pytest

from tests.cli import program
from tests.fakes.upstream import FakeUpstream
from tests.images import Blob, Document, artifact, image
from tests.polling import is_signed, wait_until
from tests.ports import free_port
from tests.server.serve.process import (
    client_of,
    manifest,
    put,
    read_greeting,
    reloaded,
    replaced,
    started,
    workers_of,
)
from tests.servers import boltseal

pytestmark = pytest.mark.slow


def test_sighup_applies_new_rules(tmp_path: Path) -> None:
    """SIGHUP applies new rules in every worker, without a restart or a lost connection."""
    with (
        boltseal(tmp_path / "data", config='[[rule]]\ntag = "a*"\nmode = "floating"\n', workers=2) as server,
        client_of(server) as client,
    ):
        bodies = [manifest(client, "shop/app", words) for words in ("one", "two")]
        before = [put(client, "shop/app:b1", body).status_code for body in bodies]
        server.folder.with_name("data.toml").write_text('[[rule]]\ntag = "b*"\nmode = "floating"\n', encoding="utf-8")
        os.kill(server.pid, signal.SIGHUP)
        reloaded(server, 2)
        after = [put(client, "shop/app:b2", body).status_code for body in bodies]
        bound = put(client, "shop/app:b1", bodies[1]).status_code

    assert before == [201, 409]
    assert after == [201, 201]
    assert bound == 409  # changing the rules never unseals


def test_sighup_applies_limits(tmp_path: Path) -> None:
    """After SIGHUP, a smaller quota applies to the next push."""
    quota = '[[auth.quota]]\nusers = ["anonymous"]\nmax_bytes = "1 MiB"\n'
    with boltseal(tmp_path / "data", config=quota) as server, client_of(server) as client:
        first = Blob(b"a" * 1000)
        before = client.post("/v2/shop/app/blobs/uploads/", params={"digest": first.digest}, content=first.data)
        server.folder.with_name("data.toml").write_text(quota.replace("1 MiB", "1500"), encoding="utf-8")
        os.kill(server.pid, signal.SIGHUP)
        reloaded(server)
        other = Blob(b"b" * 1000)
        after = client.post("/v2/shop/app/blobs/uploads/", params={"digest": other.digest}, content=other.data)

    assert (before.status_code, after.status_code) == (201, 403)


def test_sighup_applies_limits_of_the_mirror(tmp_path: Path) -> None:
    """After SIGHUP, a smaller `max_referrers_per_image` applies to the next referrer that the mirror fetches."""
    subject = image("subject")
    referrers = [artifact(f"note {number}", subject=subject) for number in range(4)]
    with FakeUpstream().listening_in_thread() as upstream:
        for document in (subject, *referrers):
            upstream.publish("team/app", None, document)
        config = (
            "[server]\nmax_referrers_per_image = 3\n"
            f'[[upstream]]\nname = "up.example"\nurl = "http://{upstream.authority}"\n'
        )
        with boltseal(tmp_path / "data", config=config) as server, client_of(server) as client:

            def pulled(document: Document) -> int:
                return client.get(f"/v2/up.example/team/app/manifests/{document.digest}").status_code

            before = [pulled(document) for document in (subject, *referrers[:2])]
            server.folder.with_name("data.toml").write_text(config.replace("image = 3", "image = 2"), encoding="utf-8")
            os.kill(server.pid, signal.SIGHUP)
            reloaded(server)
            after = [pulled(document) for document in (subject, *referrers)]

    assert before == [200, 200, 200]
    assert after == [200, 200, 200, 403, 403]  # what is stored stays


def test_a_bad_configuration_keeps_the_rules_and_is_reported(tmp_path: Path) -> None:
    """After SIGHUP with an invalid configuration the previous rules apply, and /readyz has a warning."""
    with (
        boltseal(tmp_path / "data", config='[[rule]]\ntag = "a*"\nmode = "floating"\n') as server,
        client_of(server) as client,
    ):
        server.folder.with_name("data.toml").write_text('[[rule]]\nmode = "frozen"\n', encoding="utf-8")
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: "warnings" in client.get("/readyz").json(), "/readyz has a warning", 10.0)
        bodies = [manifest(client, "shop/app", words) for words in ("one", "two")]
        floats = [put(client, "shop/app:a1", body).status_code for body in bodies]

    assert floats == [201, 201]
    assert "rule 1: mode is" in server.log_tail()


def test_a_replaced_worker_gets_the_rules_in_force(tmp_path: Path) -> None:
    """A worker that replaces another gets the reloaded rules, not those of the start."""
    with boltseal(tmp_path / "data", config='[[rule]]\ntag = "a*"\nmode = "floating"\n') as server:
        server.folder.with_name("data.toml").write_text('[[rule]]\ntag = "b*"\nmode = "floating"\n', encoding="utf-8")
        os.kill(server.pid, signal.SIGHUP)
        reloaded(server)
        first = workers_of(server.pid)
        os.kill(first[0], signal.SIGKILL)
        replaced(server, first)

        def moved() -> bool:
            with contextlib.suppress(httpx2.TransportError), client_of(server) as client:
                return [put(client, "shop/app:b1", manifest(client, "shop/app", w)).status_code for w in "12"] == [
                    201,
                    201,
                ]
            return False

        wait_until(moved, "the new worker has the new rules", 10.0)


def certificate(folder: Path, name: str) -> None:
    """Write a new tls.crt and tls.key, self-signed for 127.0.0.1."""
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")),
        ],
        check=True,
        capture_output=True,
    )


def test_a_renewed_certificate_is_served_after_sighup(tmp_path: Path) -> None:
    """After SIGHUP, new connections get the renewed certificate; workers are kept if the files are unchanged or
    invalid."""
    certificate(tmp_path, "first")
    address = f"127.0.0.1:{free_port()}"
    place = ("127.0.0.1", int(address.rpartition(":")[2]))
    arguments: list[str | Path] = ["--data", tmp_path / "data", "--listen", address, "--tls-cert", tmp_path / "tls.crt"]
    with started(*arguments, "--tls-key", tmp_path / "tls.key") as process:
        read_greeting(process)
        log = Drain(process)
        first, workers = ssl.get_server_certificate(place), workers_of(process.pid)
        os.kill(process.pid, signal.SIGHUP)
        wait_until(lambda: "configuration reloaded" in log.text, "the configuration is reloaded", 10.0)
        unchanged = workers_of(process.pid)
        (tmp_path / "tls.key").write_text("not a key", encoding="ascii")
        os.kill(process.pid, signal.SIGHUP)
        wait_until(lambda: "cannot reload the certificate" in log.text, "the invalid key is reported", 10.0)
        kept = ssl.get_server_certificate(place)
        certificate(tmp_path, "second")
        os.kill(process.pid, signal.SIGHUP)
        wait_until(
            lambda: workers_of(process.pid) != workers and len(workers_of(process.pid)) == 1,
            "the worker is replaced by one with the new certificate",
            20.0,
        )
        second = ssl.get_server_certificate(place)

    assert unchanged == workers
    assert kept == first
    assert second == (tmp_path / "tls.crt").read_text(encoding="ascii")
    assert second != first


def test_an_invalid_certificate_prevents_the_start(tmp_path: Path) -> None:
    """An invalid certificate prevents the start, with one line and exit code 2."""
    certificate(tmp_path, "first")
    (tmp_path / "tls.key").write_text("not a key", encoding="ascii")
    run = program.run(
        "serve", "--data", tmp_path / "data", "--tls-cert", tmp_path / "tls.crt", "--tls-key", tmp_path / "tls.key"
    )

    assert run.code == 2
    assert "can't be served with" in run.err


class Drain:
    """Reads the stderr of a process continuously, so that the process never blocks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.text = ""
        self._process = process
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(ValueError):
            for line in self._process.stderr or ():
                self.text += line


def test_sighup_applies_new_rules_after_an_accepted_loss(tmp_path: Path) -> None:
    """A server whose ledger was continued beside it takes pushes in every worker, and reloads its configuration."""
    data, old = tmp_path / "data", tmp_path / "old"
    with boltseal(data) as server, client_of(server) as client:
        body = manifest(client, "shop/app", "one")
        put(client, "shop/app:1.0.0", body)
        wait_until(lambda: is_signed(client.get("/ledger/checkpoint"), 3), "the push is signed")
    shutil.copytree(data, old)
    with boltseal(data) as server, client_of(server) as client:
        put(client, "shop/app:1.0.1", body)
        wait_until(lambda: is_signed(client.get("/ledger/checkpoint"), 4), "the push is signed")
    shutil.rmtree(data)
    old.rename(data)
    with boltseal(data, config="", workers=2, path="/healthz") as server, client_of(server) as client:
        before = put(client, "shop/app:1.0.2", body).status_code
        done = program.call("ledger", "recover", "--accept-loss", "--reason", "test", "--data", data)

        def taken() -> bool:
            return {put(client, f"shop/app:2.0.{number}", body).status_code for number in range(6)} == {201}

        wait_until(taken, "every worker takes pushes")
        server.folder.with_name("data.toml").write_text('[[rule]]\ntag = "b*"\nmode = "floating"\n', encoding="utf-8")
        os.kill(server.pid, signal.SIGHUP)
        reloaded(server, 2)
        moved = [put(client, "shop/app:b1", manifest(client, "shop/app", str(n))).status_code for n in range(6)]
        ready = client.get("/readyz").status_code

    assert before == 503
    assert done.code == 0
    assert (moved, ready) == ([201] * 6, 200)
