"""`boltseal serve` as a process: how it starts, refuses to start, answers, reloads and ends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli import program
from tests.servers import Server, boltseal, free_port

pytestmark = pytest.mark.slow

OCI = "application/vnd.oci.image.manifest.v1+json"
MIB = 1024 * 1024
ENDS_WITHIN_S = 5.0


def digest(data: bytes) -> str:
    """`sha256:hex`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def push_blob(client: httpx2.Client, repository: str, data: bytes) -> dict[str, Any]:
    """Pushes a blob; its descriptor."""
    start = client.post(f"/v2/{repository}/blobs/uploads/")
    assert start.status_code == 202
    url = httpx2.URL(start.headers["location"]).copy_merge_params({"digest": digest(data)})
    done = client.put(url, content=data)
    assert done.status_code == 201, done.text
    return {"mediaType": "application/octet-stream", "digest": digest(data), "size": len(data)}


def manifest(client: httpx2.Client, repository: str, words: str) -> bytes:
    """An image whose parts are pushed already."""
    config = push_blob(client, repository, json.dumps({"words": words}).encode())
    layer = push_blob(client, repository, words.encode())
    return json.dumps({"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [layer]}).encode()


def put(client: httpx2.Client, name: str, body: bytes) -> httpx2.Response:
    """Publishes a manifest under `repository:tag`."""
    repository, _, tag = name.partition(":")
    return client.put(f"/v2/{repository}/manifests/{tag}", content=body, headers={"content-type": OCI})


def client_of(server: Server) -> httpx2.Client:
    """A client that talks to this server and to nobody else."""
    return httpx2.Client(base_url=server.url, trust_env=False, timeout=30.0)


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def workers_of(pid: int) -> list[int]:
    """The processes that a server started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def wait_for(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits until something is so, and fails when it is not in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ends_within(server: Server, seconds: float, sent: signal.Signals = signal.SIGTERM) -> None:
    """Sends a signal and waits for server and workers to be gone."""
    workers = workers_of(server.pid)
    os.kill(server.pid, sent)
    wait_for(lambda: not alive(server.pid) and not any(map(alive, workers)), seconds)


# --- answers ---


def test_what_was_pushed_is_pulled(server: Server) -> None:
    """Manifest and blobs come back byte for byte over a real connection."""
    with client_of(server) as client:
        body = manifest(client, "shop/app", "one")
        pushed = put(client, "shop/app:1.4.2", body)
        pulled = client.get("/v2/shop/app/manifests/1.4.2")
        layer = client.get(f"/v2/shop/app/blobs/{digest(b'one')}")

    assert pushed.status_code == 201
    assert pulled.content == body
    assert pulled.headers["docker-content-digest"] == digest(body)
    assert layer.content == b"one"


def test_a_head_says_the_length_of_what_it_does_not_send(server: Server) -> None:
    """Clients take the size of a blob and of a manifest from HEAD."""
    with client_of(server) as client:
        body = manifest(client, "shop/app", "one")
        put(client, "shop/app:1.4.2", body)
        lengths = [
            client.head(path).headers["content-length"]
            for path in ("/v2/shop/app/manifests/1.4.2", f"/v2/shop/app/blobs/{digest(b'one')}")
        ]

    assert lengths == [str(len(body)), "3"]


def test_a_second_image_under_a_tag_is_refused_once_in_the_log(server: Server) -> None:
    """What the product exists for, and what its operator reads."""
    with client_of(server) as client:
        put(client, "shop/app:1.4.2", manifest(client, "shop/app", "one"))
        second = manifest(client, "shop/app", "two")
        refused = put(client, "shop/app:1.4.2", second)
        message = refused.json()["errors"][0]["message"]
    logged = [json.loads(line) for line in server.log.read_text(encoding="utf-8").splitlines() if '"refused"' in line]

    assert refused.status_code == 409
    assert len(logged) == 1
    assert {key: logged[0][key] for key in ("asked", "repository", "tag", "digest", "actor", "reason")} == {
        "asked": "push",
        "repository": "shop/app",
        "tag": "1.4.2",
        "digest": digest(second),
        "actor": "anonymous",
        "reason": message,
    }
    assert "no rule matches" in logged[0]["rule"]


def test_a_large_blob_goes_both_ways(server: Server) -> None:
    """More than any buffer, whole and in part."""
    data = os.urandom(9 * MIB + 17)
    with client_of(server) as client:
        push_blob(client, "shop/app", data)
        whole = client.get(f"/v2/shop/app/blobs/{digest(data)}")
        part = client.get(f"/v2/shop/app/blobs/{digest(data)}", headers={"range": f"bytes={MIB}-{5 * MIB}"})

    assert whole.content == data
    assert (part.status_code, part.content) == (206, data[MIB : 5 * MIB + 1])


def test_health_and_readiness_are_told(server: Server) -> None:
    """What a proxy or an orchestrator asks."""
    with client_of(server) as client:
        assert client.get("/healthz").text == "ok\n"
        assert client.get("/readyz").json() == {"ready": True}


def test_a_path_that_only_looks_like_the_api_is_unknown(server: Server) -> None:
    """The API is /v2/ and nothing that is written like it."""
    with client_of(server) as client:
        assert client.get("/v2x/shop/app").status_code == 404
        assert client.get("/").status_code == 404


def test_a_client_that_dies_in_its_body_leaves_no_blob(server: Server) -> None:
    """Half a body, announced as a whole one, is never taken for whole; the session goes on."""
    data = os.urandom(3 * MIB)
    with client_of(server) as client:
        location = client.post("/v2/shop/app/blobs/uploads/").headers["location"]
        with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as dying:
            head = f"PUT {location}?digest={digest(data)} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
            dying.sendall(head.encode() + data[:MIB])
            time.sleep(0.3)
        absent = client.head(f"/v2/shop/app/blobs/{digest(data)}")
        wait_for(lambda: client.put(f"{location}?digest={digest(data)}", content=b"").status_code != 503)
        held = int(client.get(location).headers["range"].partition("-")[2]) + 1
        done = client.put(f"{location}?digest={digest(data)}", content=data[held:])

    assert absent.status_code == 404
    assert held <= MIB
    assert done.status_code == 201


# --- starts, or does not ---


def refused(*arguments: str | Path, environment: dict[str, str] | None = None) -> str:
    """The one line with which a server does not start, and exit code 2 or 3."""
    run = program.run("serve", *arguments, environment=environment)
    assert run.code in (2, 3)
    assert run.out == ""
    assert run.err.count("\n") == 1, run.err
    return run.err


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]", "192.0.2.1"])  # noqa: S104 - that is what is refused
def test_an_address_that_others_can_reach_is_refused(tmp_path: Path, address: str) -> None:
    """Safe by default, and nothing is made."""
    line = refused("--data", tmp_path / "data", "--listen", f"{address}:{free_port()}")

    assert "add --allow-anonymous --behind-proxy" in line
    assert not (tmp_path / "data").exists()


def test_an_open_address_is_served_when_told_so_in_words(tmp_path: Path) -> None:
    """Both words, by flag or by environment."""
    port = free_port()
    words = {"BOLTSEAL_SERVER__ALLOW_ANONYMOUS": "true", "BOLTSEAL_SERVER__BEHIND_PROXY": "true"}
    with started("--data", tmp_path / "data", "--listen", f"0.0.0.0:{port}", environment=words) as process:
        greeting = read_greeting(process)

    assert f"http://0.0.0.0:{port}" in greeting[0]
    assert f"docker push localhost:{port}/shop/app:1.4.2" in greeting[1]


def test_a_port_in_use_is_refused(server: Server, tmp_path: Path) -> None:
    """Two servers would each get half of the requests without knowing."""
    line = refused("--data", tmp_path / "other", "--listen", server.address)

    assert f"can't listen on {server.address}: address already in use" in line


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    """The kernel's words, and what to do."""
    line = refused("--data", tmp_path / "data", "--listen", "192.0.2.1:5000", "--allow-anonymous", "--behind-proxy")

    assert "can't listen on 192.0.2.1:5000: cannot assign requested address" in line


def test_a_data_folder_of_a_newer_boltseal_is_refused(tmp_path: Path) -> None:
    """Reading it with old eyes could lose what is new in it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "format").write_text("99\n", encoding="ascii")
    line = refused("--data", tmp_path / "data", "--listen", f"127.0.0.1:{free_port()}")

    assert "has data format 99" in line


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    """A mistyped --data must not be strewn with files."""
    (tmp_path / "letter.txt").write_text("hello", encoding="ascii")
    line = refused("--data", tmp_path, "--listen", f"127.0.0.1:{free_port()}")

    assert "is not empty and not a boltseal data folder" in line
    assert [path.name for path in tmp_path.iterdir() if path.name != "format.lock"] == ["letter.txt"]


def test_a_data_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """One line, whatever the kernel calls it."""
    (tmp_path / "data").write_text("", encoding="ascii")
    line = refused("--data", tmp_path / "data", "--listen", f"127.0.0.1:{free_port()}")

    assert "can't be made" in line


def test_a_bad_setting_is_refused(tmp_path: Path) -> None:
    """Before anything is made."""
    line = refused("--data", tmp_path / "data", environment={"BOLTSEAL_SERVER__LISTN": "127.0.0.1:5000"})

    assert "the nearest known one is BOLTSEAL_SERVER__LISTEN" in line
    assert not (tmp_path / "data").exists()


@contextlib.contextmanager
def started(*arguments: str | Path, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A server in a group of its own, as a terminal would start it, ended with the test."""
    with subprocess.Popen(
        [sys.executable, "-m", "boltseal", "serve", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=program.clean_environment(environment),
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=ENDS_WITHIN_S)


def read_greeting(process: subprocess.Popen[str]) -> list[str]:
    """The lines that a person reads at the start."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("  stop"):
            break
    return lines


def test_the_greeting_says_what_to_do_next(tmp_path: Path) -> None:
    """Where it listens, where the data is, how to push, pull, see and stop; by then it answers. stdout stays empty."""
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
    assert "without TLS" in greeting
    assert out == ""


# --- ends ---


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_at_once(tmp_path: Path, sent: signal.Signals) -> None:
    """Also with connections that are kept open."""
    with boltseal(tmp_path / "data", workers=2) as server, client_of(server) as client:
        client.get("/v2/")

        ends_within(server, 2.0, sent)


def test_ctrl_c_in_a_terminal_is_an_ordinary_end(tmp_path: Path) -> None:
    """The signal reaches the whole group; the server still ends by its own order, with exit code 0."""
    with started("--data", tmp_path / "data", "--listen", f"127.0.0.1:{free_port()}") as process:
        read_greeting(process)
        os.killpg(process.pid, signal.SIGINT)
        code = process.wait(ENDS_WITHIN_S)
        talk = process.stderr.read() if process.stderr else ""

    assert code == 0
    assert talk == ""


def test_a_stalled_upload_does_not_keep_the_server(tmp_path: Path) -> None:
    """The end is bounded, whatever a client does or does not do; what was acknowledged is still there."""
    with boltseal(tmp_path / "data") as server, client_of(server) as client:
        location = client.post("/v2/shop/app/blobs/uploads/").headers["location"]
        client.patch(location, content=b"acknowledged")
        with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as stalled:
            stalled.sendall(f"PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\nxy".encode())
            time.sleep(0.2)

            ends_within(server, ENDS_WITHIN_S)
    with boltseal(tmp_path / "data") as server, client_of(server) as client:
        status = client.get(location)

    assert status.status_code == 204
    assert int(status.headers["range"].partition("-")[2]) + 1 >= len(b"acknowledged")


def test_a_request_under_way_is_finished(tmp_path: Path) -> None:
    """SIGTERM in the middle of an upload that goes on: its answer still comes."""
    data = b"x" * 1000
    with boltseal(tmp_path / "data") as server, client_of(server) as client:
        location = client.post("/v2/shop/app/blobs/uploads/").headers["location"]
        with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as slow:
            head = f"PUT {location}?digest={digest(data)} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
            slow.sendall(head.encode() + data[:10])
            time.sleep(0.2)
            os.kill(server.pid, signal.SIGTERM)
            time.sleep(0.5)
            slow.sendall(data[10:])
            slow.settimeout(3.0)
            answer = slow.recv(1000)

    assert answer.startswith(b"HTTP/1.1 201 ")


def test_a_restart_keeps_what_was_published(tmp_path: Path) -> None:
    """Tag, bytes and seal; also after SIGKILL, which leaves no time to put anything in order."""
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
    assert program.run("fsck", "--data", tmp_path / "data").code == 0


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    """An orphan would go on serving, and hold the port."""
    with boltseal(tmp_path / "data", workers=2) as server:
        workers = workers_of(server.pid)
        os.kill(server.pid, signal.SIGKILL)

        wait_for(lambda: not any(map(alive, workers)), 2.0)
        assert len(workers) == 2


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    """Nobody has to restart the server because the kernel killed a process of it."""
    with boltseal(tmp_path / "data") as server, client_of(server) as client:
        first = workers_of(server.pid)
        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: any(map(alive, set(workers_of(server.pid)) - set(first))))

        def answers() -> bool:
            with contextlib.suppress(httpx2.TransportError):
                return client.get("/readyz").status_code == 200
            return False

        wait_for(answers)
        assert alive(server.pid)


# --- several workers ---


@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_of_racing_first_pushes_one_wins(tmp_path: Path, workers: int) -> None:
    """Exactly one 201 for a tag, whichever processes the pushes reach, and everybody pulls that one."""
    racers = 8
    with boltseal(tmp_path / "data", workers=workers) as server:
        with client_of(server) as client:
            bodies = [manifest(client, "shop/app", f"racer {n}") for n in range(racers)]
        for tag in ("1.0.0", "1.0.1", "1.0.2"):
            async with contextlib.AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(
                        httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=30)
                    )
                    for _ in range(racers)
                ]
                answers = await asyncio.gather(
                    *(
                        each.put(f"/v2/shop/app/manifests/{tag}", content=body, headers={"content-type": OCI})
                        for each, body in zip(clients, bodies, strict=True)
                    )
                )
                pulled = {(await each.get(f"/v2/shop/app/manifests/{tag}")).content for each in clients}
            codes = [answer.status_code for answer in answers]

            assert sorted(codes) == [201] + [409] * (racers - 1)
            assert pulled == {bodies[codes.index(201)]}


# --- reload ---


def test_sighup_takes_over_new_rules(tmp_path: Path) -> None:
    """Without a restart, without losing a connection, and in every worker."""
    with (
        boltseal(tmp_path / "data", config='[[rule]]\ntag = "a*"\nmode = "floating"\n', workers=2) as server,
        client_of(server) as client,
    ):
        bodies = [manifest(client, "shop/app", words) for words in ("one", "two")]
        before = [put(client, "shop/app:b1", body).status_code for body in bodies]
        server.folder.with_name("data.toml").write_text('[[rule]]\ntag = "b*"\nmode = "floating"\n', encoding="utf-8")
        os.kill(server.pid, signal.SIGHUP)
        wait_for(lambda: server.log_tail().count("rules read again") == 2)
        after = [put(client, "shop/app:b2", body).status_code for body in bodies]
        bound = put(client, "shop/app:b1", bodies[1]).status_code

    assert before == [201, 409]
    assert after == [201, 201]
    assert bound == 409  # changing the rules never unseals


def test_a_bad_configuration_keeps_the_rules_and_is_told(tmp_path: Path) -> None:
    """The server goes on as it was; whoever asks for its readiness learns that the file is not in force."""
    with (
        boltseal(tmp_path / "data", config='[[rule]]\ntag = "a*"\nmode = "floating"\n') as server,
        client_of(server) as client,
    ):
        server.folder.with_name("data.toml").write_text('[[rule]]\nmode = "frozen"\n', encoding="utf-8")
        os.kill(server.pid, signal.SIGHUP)
        wait_for(lambda: "warning" in client.get("/readyz").json())
        bodies = [manifest(client, "shop/app", words) for words in ("one", "two")]
        floats = [put(client, "shop/app:a1", body).status_code for body in bodies]

    assert floats == [201, 201]
    assert "rule 1: mode is" in server.log_tail()


def test_a_replaced_worker_gets_the_rules_in_force(tmp_path: Path) -> None:
    """Not those that the server was started with."""
    with boltseal(tmp_path / "data", config='[[rule]]\ntag = "a*"\nmode = "floating"\n') as server:
        server.folder.with_name("data.toml").write_text('[[rule]]\ntag = "b*"\nmode = "floating"\n', encoding="utf-8")
        os.kill(server.pid, signal.SIGHUP)
        wait_for(lambda: "rules read again" in server.log_tail())
        first = workers_of(server.pid)
        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: any(map(alive, set(workers_of(server.pid)) - set(first))))

        def moved() -> bool:
            with contextlib.suppress(httpx2.TransportError), client_of(server) as client:
                return [put(client, "shop/app:b1", manifest(client, "shop/app", w)).status_code for w in "12"] == [
                    201,
                    201,
                ]
            return False

        wait_for(moved)
