"""`boltseal serve` as a process: requests over real connections, with one worker or several."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from boltseal.server.auth.logins import hash_password
from boltseal.server.storage.users import UserFile
from tests.polling import wait_until
from tests.server.serve.process import (
    MIB,
    OCI,
    client_of,
    digest,
    manifest,
    push_blob,
    put,
    upload_is_busy,
)
from tests.servers import Server, boltseal

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one worker process, for tests that push to repositories of their own."""
    with boltseal(tmp_path_factory.mktemp("answers") / "data") as running:
        yield running


def test_what_was_pushed_is_pulled(server: Server) -> None:
    """Manifest and blobs come back byte for byte over a real connection."""
    with client_of(server) as client:
        body = manifest(client, "shop/pulled", "one")
        pushed = put(client, "shop/pulled:1.4.2", body)
        pulled = client.get("/v2/shop/pulled/manifests/1.4.2")
        layer = client.get(f"/v2/shop/pulled/blobs/{digest(b'one')}")

    assert pushed.status_code == 201
    assert pulled.content == body
    assert pulled.headers["docker-content-digest"] == digest(body)
    assert layer.content == b"one"


def test_head_has_the_content_length(server: Server) -> None:
    """HEAD of a blob or manifest has its Content-Length, which clients use."""
    with client_of(server) as client:
        body = manifest(client, "shop/sized", "one")
        put(client, "shop/sized:1.4.2", body)
        lengths = [
            client.head(path).headers["content-length"]
            for path in ("/v2/shop/sized/manifests/1.4.2", f"/v2/shop/sized/blobs/{digest(b'one')}")
        ]

    assert lengths == [str(len(body)), "3"]


def test_a_second_image_under_a_tag_is_refused_once_in_the_log(server: Server) -> None:
    """A second image under a sealed tag is refused, with one log line for the operator."""
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


def test_a_refused_user_is_named_in_the_access_log(tmp_path: Path) -> None:
    """The line of a request that is refused for a missing right has the user's name, not `anonymous`."""
    UserFile(tmp_path / "data.keys" / "htpasswd").put("prod", hash_password("correct horse"))
    grant = '[[auth.grant]]\nusers = ["prod"]\nactions = ["pull"]\n'
    with boltseal(tmp_path / "data", config=grant) as server, client_of(server) as client:
        refused = client.delete("/v2/shop/app/manifests/1.4.2", auth=("prod", "correct horse"))

        def lines() -> list[dict[str, object]]:
            text = server.log.read_text(encoding="utf-8")
            return [json.loads(line) for line in text.splitlines() if '"DELETE"' in line]

        wait_until(lines, "the line of the request")

    assert refused.status_code == 403
    assert [(line["status"], line["actor"]) for line in lines()] == [(403, "prod")]


def test_a_large_blob_is_pushed_and_pulled(server: Server) -> None:
    """A blob larger than any buffer is pushed, pulled, and read as a range."""
    data = os.urandom(9 * MIB + 17)
    with client_of(server) as client:
        push_blob(client, "shop/large", data)
        whole = client.get(f"/v2/shop/large/blobs/{digest(data)}")
        part = client.get(f"/v2/shop/large/blobs/{digest(data)}", headers={"range": f"bytes={MIB}-{5 * MIB}"})

    assert whole.content == data
    assert (part.status_code, part.content) == (206, data[MIB : 5 * MIB + 1])


def test_health_and_readiness_are_served(server: Server) -> None:
    """The endpoints for liveness and readiness answer proxies and orchestrators."""
    with client_of(server) as client:
        assert client.get("/healthz").text == "ok\n"
        assert client.get("/readyz").json() == {"ready": True}


def test_a_path_that_only_resembles_the_api_is_unknown(server: Server) -> None:
    """Only /v2 and paths under /v2/ belong to the API."""
    with client_of(server) as client:
        assert client.get("/v2x/shop/app").status_code == 404
        assert client.get("/").status_code == 404


def test_a_client_that_dies_in_its_body_leaves_no_blob(server: Server) -> None:
    """A body of a client that disconnected is never stored as complete, and its session can continue."""
    data = os.urandom(3 * MIB)
    with client_of(server) as client:
        location = client.post("/v2/shop/dying/blobs/uploads/").headers["location"]
        with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as dying:
            head = f"PUT {location}?digest={digest(data)} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
            dying.sendall(head.encode() + data[:MIB])
            wait_until(lambda: upload_is_busy(server, location), "the upload is under way")
        absent = client.head(f"/v2/shop/dying/blobs/{digest(data)}")
        wait_until(lambda: not upload_is_busy(server, location), "the server has noticed the end of the connection")
        client.put(f"{location}?digest={digest(data)}", content=b"")
        held = int(client.get(location).headers["range"].partition("-")[2]) + 1
        done = client.put(f"{location}?digest={digest(data)}", content=data[held:])

    assert absent.status_code == 404
    assert held <= MIB
    assert done.status_code == 201


# --- several workers ---


@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_of_racing_first_pushes_one_wins(tmp_path: Path, workers: int) -> None:
    """Of concurrent first pushes to any workers one gets 201, and all pulls return it."""
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
