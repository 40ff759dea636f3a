"""`boltseal admission` as a process: HTTPS, statuses, a renewed certificate is loaded, and what it refuses to start with."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from boltseal.deploy.kube.admission_review import MAX_REVIEW_BYTES
from boltseal.ledger.note import SigningKey
from tests.authority import Authority, authority
from tests.boltseal_process import BoltsealProcess
from tests.cli import program
from tests.deploy.kube.reviews import UID, object_of, review
from tests.polling import wait_until
from tests.ports import free_port

KEY = SigningKey("registry.example.com", bytes(32)).verifier
POD = object_of("Pod", {"containers": [{"name": "app", "image": "docker.io/library/nginx:1"}]})


def trusted(folder: Path, text: str = f"registry.example.com {KEY}\n") -> Path:
    file = folder / "trusted"
    file.write_text(text)
    return file


@contextmanager
def webhook(folder: Path, *words: str) -> Iterator[tuple[httpx2.Client, Authority]]:
    """Run the webhook in a process of its own, until the block is left."""
    made, address, log = authority(folder), f"127.0.0.1:{free_port()}", folder / "log"
    files = ("--trusted", trusted(folder), "--tls-cert", made.cert, "--tls-key", made.key)
    environment = program.clean_environment({"BOLTSEAL_STATE": str(folder / "state"), "HOME": str(folder)})
    with log.open("wb") as out:
        process = BoltsealProcess(
            ["admission", *files, "--listen", address, *words], stdout=out, stderr=out, env=environment
        )
    try:
        context = ssl.create_default_context(cafile=made.ca)
        with httpx2.Client(base_url=f"https://{address}", verify=context, trust_env=False, timeout=20) as client:

            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    return client.get("/healthz").status_code == 200
                except httpx2.HTTPError:
                    return False

            wait_until(answers, "the webhook answers")
            yield client, made
        process.terminate()
        assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_it_answers_reviews_over_https(tmp_path: Path) -> None:
    """The two paths answer with an AdmissionReview, other requests with a status, and nothing ends the process."""
    with webhook(tmp_path, "--unchecked", "docker.io/library/**") as (client, _):
        admitted = [client.post(f"{path}?timeout=5s", content=review(POD)).json() for path in ("/mutate", "/validate")]
        other = object_of("Pod", {"containers": [{"name": "app", "image": "ghcr.io/a/b:1"}]})
        refused = client.post("/mutate", content=review(other)).json()
        statuses = [
            client.post("/mutate", content=b"{").status_code,
            client.post("/mutate", content=b"[" * 100_000).status_code,
            client.post("/mutate", content=b" " * (MAX_REVIEW_BYTES + 1)).status_code,
            client.get("/mutate").status_code,
            client.post("/other", content=review(POD)).status_code,
            client.post("/healthz").status_code,
            client.get("/healthz").status_code,
        ]
        again = client.post("/mutate?timeout=x&timeout=9999s", content=review(POD)).json()
    log = (tmp_path / "log").read_text()

    assert [each["response"]["allowed"] for each in (*admitted, refused, again)] == [True, True, False, True]
    assert "no ledger key is trusted for ghcr.io" in refused["response"]["status"]["message"]
    assert statuses == [400, 400, 413, 405, 404, 404, 200]
    assert "ghcr.io/a/b:1" in log
    assert "Traceback" not in log


def test_an_object_of_any_size_and_shape_is_refused_and_not_an_error(tmp_path: Path) -> None:
    """With failurePolicy Ignore the API server admits an object after an error, so a user must not be able to cause one."""
    large = object_of("Pod", {"containers": []}, annotations={"a": "<" * (MAX_REVIEW_BYTES * 2)})
    odd = object_of("Pod", {"containers": {"0": {"image": "r.test/a:1"}}})
    with webhook(tmp_path) as (client, _):
        answers = [
            client.post(path, content=review(each)) for each in (large, odd) for path in ("/mutate", "/validate")
        ]
    log = (tmp_path / "log").read_text()

    assert [each.status_code for each in answers] == [200] * 4
    assert [each.json()["response"]["allowed"] for each in answers] == [False] * 4
    assert [each.json()["response"]["uid"] for each in answers] == [UID] * 4
    assert f"its review has more than {MAX_REVIEW_BYTES} bytes" in log
    assert "containers is not a list" in log


def test_a_plain_connection_gets_no_answer(tmp_path: Path) -> None:
    """Without TLS nothing is answered."""
    with webhook(tmp_path) as (client, _), pytest.raises(httpx2.HTTPError):
        httpx2.get(str(client.base_url).replace("https", "http") + "/healthz", trust_env=False)


@pytest.mark.slow
def test_a_renewed_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    """When the certificate's files are replaced, as cert-manager does it, new connections get the new one."""
    with webhook(tmp_path) as (client, made):
        host, port = client.base_url.host, client.base_url.port
        assert port is not None
        before = ssl.get_server_certificate((host, port))
        (tmp_path / "new").mkdir()
        new = authority(tmp_path / "new")
        made.key.write_bytes(new.key.read_bytes())
        made.cert.write_bytes(new.cert.read_bytes())

        def served() -> str:
            try:
                return ssl.get_server_certificate((host, port))
            except OSError:
                return before

        after = wait_until(lambda: (now := served()) != before and now, "the new certificate is served")

    assert after == ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(new.cert.read_text()))


def test_the_keys_are_in_the_state_before_the_first_review(tmp_path: Path) -> None:
    """The trusted keys replace what the state knew before, so that the file alone says what is trusted."""
    state = tmp_path / "state"
    other = SigningKey("registry.example.com", bytes(range(32))).verifier
    environment = program.clean_environment({"BOLTSEAL_STATE": str(state)})
    words = ["ledger", "trust", "registry.example.com", str(other)]
    before = BoltsealProcess(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    before.communicate()
    with webhook(tmp_path):
        pass
    words = ["ledger", "trust", "registry.example.com", "--json"]
    after = BoltsealProcess(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    out, _ = after.communicate()

    assert before.returncode == 0
    assert str(KEY) in json.dumps(json.loads(out))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--listen", "nowhere"), "--listen nowhere: expected an IP address and a port"),
        (("--witness", "key"), "not a key"),
        (("--unchecked", "nginx"), "names no registry"),
        (("--remember", "2h"), "too long"),
        (("--trusted", "missing"), "missing"),
        (("--tls-key", "missing"), "missing: no such file"),
    ],
)
def test_what_it_refuses_to_start_with(tmp_path: Path, words: tuple[str, str], reason: str) -> None:
    """A wrong option is one line and exit code 2, before the port is taken."""
    made = authority(tmp_path)
    files = ["--trusted", str(trusted(tmp_path)), "--tls-cert", str(made.cert), "--tls-key", str(made.key)]
    run = program.run("admission", *files, "--listen", f"127.0.0.1:{free_port()}", *words)

    assert (run.code, run.out) == (2, "")
    assert reason in " ".join(run.err.split())
