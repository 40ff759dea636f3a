"""An admin accepts a held change of an upstream's tag, by command or over HTTP, which is recorded and reported."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import bcrypt
import httpx2
import pytest

from boltseal.server.settings import Settings
from tests.cli import program
from tests.fakes.upstream import FakeUpstream
from tests.images import Document, image
from tests.server.mirror.mirrors import NAME, mirroring, table_of
from tests.server.mirror.observed import observed, story
from tests.serving import serving_as

TAG = f"{NAME}/team/app:1.4.2"
RULE = [{"tag": "*", "on_move": "hold"}]


def configured(data: Path, upstream: FakeUpstream) -> Path:
    """Return a configuration file for the command line, with the same upstream."""
    file = data.with_name("boltseal.toml")
    file.write_text(
        f'[server]\ndata = "{data}"\n[[upstream]]\nname = "{NAME}"\nurl = "http://{upstream.authority}"\n'
        '[[upstream.rule]]\non_move = "hold"\n'
    )
    return file


async def verb(*arguments: str | Path) -> program.Run:
    return await asyncio.to_thread(program.run, *arguments)


async def pull(client: httpx2.AsyncClient) -> httpx2.Response:
    return await client.get(f"/v2/{NAME}/team/app/manifests/1.4.2")


async def held(client: httpx2.AsyncClient, upstream: FakeUpstream) -> tuple[Document, Document]:
    """Return a held tag, with its old and its new digest."""
    first = upstream.publish("team/app", "1.4.2", image("one"))
    await pull(client)
    second = upstream.publish("team/app", "1.4.2", image("two"))
    await pull(client)
    return first, second


@pytest.mark.slow
async def test_accept_takes_effect_in_a_running_server(data: Path, upstream: FakeUpstream, whole_store: None) -> None:
    """`tag accept` lists the held change, refuses another digest, and records actor and reason; the server then serves
    it."""
    async with mirroring(data, upstream, rule=RULE) as mirror:
        config = configured(data, upstream)
        first, second = await held(mirror.client, upstream)
        listed = await verb("tag", "accept", "--config", config)
        other = await verb("tag", "accept", f"{TAG}@{first.digest}", "--config", config)
        asked = f"localhost:5000/{TAG}@{second.digest[7:19]}"  # the beginning is enough to choose it
        done = await verb("tag", "accept", asked, "--reason", "read the notes", "--config", config, "--json")
        after = await pull(mirror.client)
        again = await verb("tag", "accept", TAG, "--config", config)
        strange = await verb("tag", "accept", "quay.io/team/app:1.4.2", "--config", config)

    assert listed.code == 1
    assert TAG in listed.out
    assert (other.code, "is to " + second.digest in other.err) == (1, True)
    assert done.code == 0
    assert done.json["schema"] == "boltseal.tag-accept/1"
    assert done.json["results"][0]["digest"] == second.digest
    assert done.json["results"][0]["was"] == first.digest
    assert after.content == second.raw
    assert "warning" not in after.headers
    assert (again.code, "is held back" in again.err) == (1, True)
    assert (strange.code, "of no registry that is mirrored here" in strange.err) == (2, True)
    assert story(data)[-1] == ("accepted", second.digest, first.digest)
    assert observed(data)[-1].reason == "read the notes"
    assert observed(data)[-1].actor.endswith("(command line)")


def with_users(data: Path, upstream: FakeUpstream) -> Settings:
    keys = data.with_name(f"{data.name}.keys")
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    (keys / "htpasswd").write_text(f"boss:{hashed}\ndev:{hashed}\n")
    grants = [
        {"users": ["boss"], "repository": "**", "actions": ["pull", "push", "delete", "admin"]},
        {"users": ["dev"], "repository": "**", "actions": ["pull", "push"]},
    ]
    tables: dict[str, Any] = {
        "server": {"data": data},
        "upstream": [table_of(upstream, rule=RULE)],
        "auth": {"grant": grants, "anonymous_pull": True},
    }
    return Settings.model_validate(tables)


async def test_only_admins_accept_over_http(data: Path, upstream: FakeUpstream, whole_store: None) -> None:
    """Accepting over HTTP: 401 without a login, 403 without the right, 412 for another digest, 404 if nothing is held."""
    async with serving_as(with_users(data, upstream)) as mirror:
        first, second = await held(mirror.client, upstream)
        body = {"repository": f"{NAME}/team/app", "tag": "1.4.2", "digest": second.digest, "reason": "read"}

        async def post(user: str | None, **more: Any) -> httpx2.Response:
            if user is None:
                return await mirror.client.post("/api/v1/accept", json=body | more)
            return await mirror.client.post("/api/v1/accept", json=body | more, auth=(user, "secret"))

        anonymous, dev = await post(None), await post("dev")
        wrong = await post("boss", digest=first.digest)
        strange = await post("boss", more="keys")
        text = await mirror.client.post("/api/v1/accept", content=b"{}", auth=("boss", "secret"))
        got = await mirror.client.get("/api/v1/accept", auth=("boss", "secret"))
        done = await post("boss")
        again = await post("boss")
        after = await pull(mirror.client)
        elsewhere = await mirror.client.post("/api/v1/approve", json=body, auth=("boss", "secret"))

    assert [answer.status_code for answer in (anonymous, dev, wrong, strange, text, got)] == [
        401,
        403,
        412,
        400,
        400,
        405,
    ]
    assert anonymous.headers["www-authenticate"].startswith("Basic ")
    assert (done.status_code, done.json()["digest"], done.json()["was"]) == (200, second.digest, first.digest)
    assert (again.status_code, elsewhere.status_code) == (404, 404)
    assert after.content == second.raw
    assert (observed(data)[-1].actor, observed(data)[-1].reason) == ("boss", "read")


async def test_a_registry_without_users_has_no_admin_over_http(
    data: Path, upstream: FakeUpstream, whole_store: None
) -> None:
    """Without users there is no admin over HTTP, so that an operator uses the command."""
    async with mirroring(data, upstream, rule=RULE) as mirror:
        await held(mirror.client, upstream)
        answer = await mirror.client.post(
            "/api/v1/accept", json={"repository": f"{NAME}/team/app", "tag": "1.4.2", "reason": ""}
        )

    assert answer.status_code == 401
