"""`boltseal serve` as a process: start, refusals to start, first output, shutdown."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from tests.cli import program
from tests.polling import wait_until
from tests.ports import free_port
from tests.server.serve.process import (
    ENDS_WITHIN_S,
    alive,
    client_of,
    digest,
    ends_within,
    manifest,
    put,
    read_greeting,
    replaced,
    started,
    upload_is_busy,
    workers_of,
)
from tests.servers import Server, boltseal

pytestmark = pytest.mark.slow


# --- starts and refused starts ---


def refused(*arguments: str | Path, environment: dict[str, str] | None = None) -> str:
    """Return the single line with which a server refuses to start; the exit code is 2 or 3."""
    run = program.run("serve", *arguments, environment=environment)
    assert run.code in (2, 3)
    assert run.out == ""
    assert run.err.count("\n") == 1, run.err
    return run.err


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]", "192.0.2.1"])  # noqa: S104 - the refused address
def test_an_address_that_others_can_reach_is_refused(tmp_path: Path, address: str) -> None:
    """Without users and TLS, an address that other machines can reach is refused, and no file is created."""
    line = refused("--data", tmp_path / "data", "--listen", f"{address}:{free_port()}")

    assert "--allow-anonymous" in line
    assert "--behind-proxy" in line
    assert not (tmp_path / "data").exists()


def test_an_open_address_is_served_with_explicit_flags(tmp_path: Path) -> None:
    """A reachable address is served if --allow-anonymous and --behind-proxy are given, as flags or as variables."""
    port = free_port()
    words = {"BOLTSEAL_SERVER__ALLOW_ANONYMOUS": "true", "BOLTSEAL_SERVER__BEHIND_PROXY": "true"}
    with started("--data", tmp_path / "data", "--listen", f"0.0.0.0:{port}", environment=words) as process:
        greeting = read_greeting(process)

    assert f"http://0.0.0.0:{port}" in greeting[0]
    assert f"docker push localhost:{port}/shop/app:1.4.2" in greeting[2]


def test_a_server_with_users_prints_how_to_log_in(tmp_path: Path) -> None:
    """If users exist, the first output shows how to add one to this data folder, and `docker login` before `docker push`."""
    port, data, config = free_port(), tmp_path / "the data", tmp_path / "boltseal.toml"
    config.write_text("[server]\n")
    added = program.call("admin", "user", "add", "ci", "--data", data, typed="correct horse")
    with started("--config", config, "--data", data, "--listen", f"127.0.0.1:{port}") as process:
        greeting = "".join(read_greeting(process))

    assert added.code == 0
    assert greeting.index(f"docker login localhost:{port}") < greeting.index("docker push")
    assert "curl -u USER -sI" in greeting
    assert f"admin user add NAME --config {config} --data '{data}'\n" in greeting
    assert f"admin rules test shop/app 1.4.2 --config {config}\n" in greeting


def test_a_user_at_the_start_who_is_removed_leaves_a_login_required(tmp_path: Path) -> None:
    """Behind a proxy a server that started with a user does not open, also if no worker has served a request before."""
    program.call("admin", "user", "add", "ana", "--data", tmp_path / "data", typed="pw")
    address = f"127.0.0.1:{free_port()}"
    with started("--data", tmp_path / "data", "--listen", address, "--behind-proxy", "--workers", "2") as process:
        read_greeting(process)
        program.call("admin", "user", "remove", "ana", "--data", tmp_path / "data")
        answered = httpx2.get(f"http://{address}/v2/", trust_env=False).status_code

    assert answered == 401


def test_a_port_in_use_is_refused(server: Server, tmp_path: Path) -> None:
    """A port in use is refused, because two servers would each get half of the requests."""
    line = refused("--data", tmp_path / "other", "--listen", server.address)

    assert f"cannot listen on {server.address}: address already in use" in line


def test_a_second_server_on_the_same_data_is_refused(server: Server) -> None:
    """A second server on the same data folder is refused until the first, with its workers, has ended."""
    line = refused("--data", server.folder, "--listen", f"127.0.0.1:{free_port()}")

    assert f"another boltseal server uses the data folder {server.folder}: end it first" in line


def test_a_server_that_was_killed_leaves_its_data_free(tmp_path: Path) -> None:
    """The workers of a killed server end with it, so that its data folder is free."""
    with started("--data", tmp_path / "data", "--listen", f"127.0.0.1:{free_port()}") as process:
        read_greeting(process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with boltseal(tmp_path / "data", workers=2) as again:
            answered = httpx2.get(f"{again.url}/v2/", trust_env=False).status_code

    assert answered == 200


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    """For an address of another machine, the message has the kernel's reason and what to do."""
    line = refused("--data", tmp_path / "data", "--listen", "192.0.2.1:5000", "--allow-anonymous", "--behind-proxy")

    assert "cannot listen on 192.0.2.1:5000: cannot assign requested address" in line


def test_a_data_folder_of_a_newer_boltseal_is_refused(tmp_path: Path) -> None:
    """A data folder of a newer boltseal is refused, because an older one could lose its data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "format").write_text("99\n", encoding="ascii")
    line = refused("--data", tmp_path / "data", "--listen", f"127.0.0.1:{free_port()}")

    assert "has data format 99" in line


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    """A folder with other files is refused, so that a mistyped --data does not fill it."""
    (tmp_path / "letter.txt").write_text("hello", encoding="ascii")
    line = refused("--data", tmp_path, "--listen", f"127.0.0.1:{free_port()}")

    assert "is not empty and not a boltseal data folder" in line
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_data_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A file in place of the data folder is refused in one line."""
    (tmp_path / "data").write_text("", encoding="ascii")
    line = refused("--data", tmp_path / "data", "--listen", f"127.0.0.1:{free_port()}")

    assert "can't be created" in line


def test_an_invalid_setting_is_refused(tmp_path: Path) -> None:
    """An invalid setting is refused before a file is created."""
    line = refused("--data", tmp_path / "data", environment={"BOLTSEAL_SERVER__LISTN": "127.0.0.1:5000"})

    assert "the nearest known one is BOLTSEAL_SERVER__LISTEN" in line
    assert not (tmp_path / "data").exists()


def test_the_first_output_has_the_next_steps(tmp_path: Path) -> None:
    """When the server is ready, stderr shows address, data folder, and how to push, pull, inspect and stop; stdout is
    empty."""
    address = f"127.0.0.1:{free_port()}"
    with started("--data", tmp_path / "data", "--listen", address) as process:
        greeting = "".join(read_greeting(process))
        answered = httpx2.get(f"http://{address}/v2/", trust_env=False).status_code
    out = process.stdout.read() if process.stdout and not process.stdout.closed else ""
    name = f"localhost:{address.rpartition(':')[2]}/shop/app:1.4.2"

    assert answered == 200
    assert f"listens on http://{address}, its data is in {tmp_path / 'data'}" in greeting
    assert f"docker push {name}" in greeting
    assert f"docker pull {name}" in greeting
    assert "docker login" not in greeting
    assert "--tls-verify=false" in greeting
    assert "admin rules test shop/app 1.4.2" in greeting
    assert [line for line in greeting.splitlines()[1:] if len(line) > 80 and str(tmp_path) not in line] == []
    assert out == ""


# --- shutdown ---


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_at_once(tmp_path: Path, sent: signal.Signals) -> None:
    """Idle keep-alive connections do not delay the shutdown."""
    with boltseal(tmp_path / "data", workers=2) as server, client_of(server) as client:
        client.get("/v2/")

        ends_within(server, 2.0, sent)


def test_ctrl_c_in_a_terminal_is_an_ordinary_shutdown(tmp_path: Path) -> None:
    """Ctrl-C, which reaches the whole process group, ends the server in order with exit code 0."""
    with started("--data", tmp_path / "data", "--listen", f"127.0.0.1:{free_port()}") as process:
        read_greeting(process)
        os.killpg(process.pid, signal.SIGINT)
        code = process.wait(ENDS_WITHIN_S)
        talk = process.stderr.read() if process.stderr else ""

    assert code == 0
    assert talk == ""


def test_a_stalled_upload_does_not_prevent_the_shutdown(tmp_path: Path) -> None:
    """A stalled upload delays the shutdown for a limited time, and its acknowledged bytes are kept."""
    bounded = {"BOLTSEAL_SERVER__SHUTDOWN_TIMEOUT_S": "1"}
    with boltseal(tmp_path / "data", settings=bounded) as server, client_of(server) as client:
        location = client.post("/v2/shop/app/blobs/uploads/").headers["location"]
        client.patch(location, content=b"acknowledged")
        with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as stalled:
            stalled.sendall(f"PATCH {location} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\nxy".encode())
            wait_until(lambda: upload_is_busy(server, location), "the upload is under way")

            ends_within(server, ENDS_WITHIN_S)
    with boltseal(tmp_path / "data") as server, client_of(server) as client:
        status = client.get(location)

    assert status.status_code == 204
    assert int(status.headers["range"].partition("-")[2]) + 1 >= len(b"acknowledged")


def test_a_request_in_progress_is_finished(tmp_path: Path) -> None:
    """An upload in progress at SIGTERM gets its answer."""
    data = b"x" * 1000
    with boltseal(tmp_path / "data") as server, client_of(server) as client:
        location = client.post("/v2/shop/app/blobs/uploads/").headers["location"]
        with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as slow:
            head = f"PUT {location}?digest={digest(data)} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
            slow.sendall(head.encode() + data[:10])
            wait_until(lambda: upload_is_busy(server, location), "the upload is under way")
            os.kill(server.pid, signal.SIGTERM)
            time.sleep(0.5)  # the body ends while the server shuts down, which no answer reports
            slow.sendall(data[10:])
            slow.settimeout(60.0)
            answer = slow.recv(1000)

    assert answer.startswith(b"HTTP/1.1 201 ")


def test_an_end_under_load_leaves_no_traceback(tmp_path: Path) -> None:
    """Clients that read, write and list while the server ends get answers or closed connections; its log has no defect."""
    with boltseal(tmp_path / "data") as server, client_of(server) as client:
        assert put(client, "shop/app:1.0.0", manifest(client, "shop/app", "1")).status_code == 201
        ended, asked = threading.Event(), Counter[int]()

        def ask(number: int) -> None:
            with client_of(server) as own, suppress(httpx2.HTTPError):
                while not ended.is_set():
                    own.get("/v2/shop/app/tags/list?n=10")
                    own.get("/v2/shop/app/manifests/1.0.0")
                    own.post("/v2/shop/app/blobs/uploads/", params={"digest": digest(b"x")}, content=b"x")
                    asked[number] += 1

        clients = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for each in clients:
            each.start()
        wait_until(lambda: len(asked) == len(clients), "every client is served")
        ends_within(server, ENDS_WITHIN_S, signal.SIGTERM)
        ended.set()
        for each in clients:
            each.join()
        log = server.log.read_text()

    assert "Traceback" not in log
    assert "internal error" not in log


def test_a_restart_keeps_published_images(tmp_path: Path) -> None:
    """Tag, bytes and seal survive a restart, also after SIGKILL."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        words = sent.name
        with boltseal(tmp_path / "data") as server, client_of(server) as client:
            body = manifest(client, "shop/app", words)
            assert put(client, f"shop/app:{words}", body).status_code == 201
            ends_within(server, ENDS_WITHIN_S, sent)
        with boltseal(tmp_path / "data") as server, client_of(server) as client:
            pulled = client.get(f"/v2/shop/app/manifests/{words}")
            other = put(client, f"shop/app:{words}", manifest(client, "shop/app", f"not {words}"))

        assert pulled.content == body
        assert other.status_code == 409
    assert program.run("admin", "fsck", "--data", tmp_path / "data").code == 0


def test_a_settling_tag_survives_a_kill_and_is_sealed_once(tmp_path: Path) -> None:
    """The deadline passes also while no server runs; one of several workers seals the tag, with one ledger entry."""
    with boltseal(tmp_path / "data", config='[[rule]]\nsettle = "1s"\n') as server, client_of(server) as client:
        answer = put(client, "shop/app:1.0.0", manifest(client, "shop/app", "one"))
        ends_within(server, ENDS_WITHIN_S, signal.SIGKILL)
    with boltseal(tmp_path / "data", workers=3) as server, client_of(server) as client:
        url = "/v2/shop/app/manifests/1.0.0"
        wait_until(lambda: "max-age" in client.get(url).headers["cache-control"], "the tag is sealed")
        other = put(client, "shop/app:1.0.0", manifest(client, "shop/app", "other"))
        entries = "/v2/shop/app/_boltseal/history/1.0.0"
        lines = wait_until(lambda: (found := client.get(entries).json()["entries"])[1:] and found, "it is signed")

    assert "boltseal-settles" in answer.headers
    assert other.status_code == 409
    assert [json.loads(each["line"])["kind"] for each in lines] == ["tag.created", "tag.sealed"]
    assert program.run("admin", "fsck", "--data", tmp_path / "data").code == 0


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """If the main process dies its workers end, so that none keeps the port."""
    with boltseal(tmp_path / "data", workers=2) as server:
        workers = workers_of(server.pid)
        os.kill(server.pid, signal.SIGKILL)

        wait_until(lambda: not any(map(alive, workers)), "no worker runs", 2.0)
        assert len(workers) == 2


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    """A worker that was killed is replaced."""
    with boltseal(tmp_path / "data") as server, client_of(server) as client:
        first = workers_of(server.pid)
        os.kill(first[0], signal.SIGKILL)
        replaced(server, first)

        def answers() -> bool:
            with contextlib.suppress(httpx2.TransportError):
                return client.get("/readyz").status_code == 200
            return False

        wait_until(answers, "the server is ready", 10.0)
        assert alive(server.pid)
