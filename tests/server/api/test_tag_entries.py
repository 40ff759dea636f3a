"""The entries of many tags in one request: what is shown, which rights it needs, and the limits."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Any

import bcrypt
import httpx2
import pytest

from boltseal.ledger.checkpoint import open_checkpoint
from boltseal.ledger.tag_proof import ProvenState, ShownEntry, TagAnswer, prove_tag
from boltseal.server.settings import Settings
from tests.images import image, push
from tests.logins import as_user
from tests.polling import until_signed
from tests.serving import Serving, ledger_key, serving_as

ONE, TWO = image("one"), image("two")
AUTH = {
    "anonymous_pull": ["open/**"],
    "grant": [
        {"users": ["dev"], "repository": "**", "actions": ["pull", "push"]},
        {"users": ["shop"], "repository": "shop/**", "actions": ["pull"]},
    ],
}


async def ask(client: httpx2.AsyncClient, size: int, *tags: str, **headers: Any) -> httpx2.Response:
    return await client.post("/ledger/tags", json={"size": size, "tags": list(tags)}, **headers)


async def test_the_entries_prove_what_a_tag_resolves_to(registry: Serving) -> None:
    """A moved tag is shown with its last entry, a sealed tag with the sealing entry, an unknown tag with none."""
    client = registry.client
    for tag, document in (("latest", ONE), ("latest", TWO), ("1.0.0", ONE)):
        await push(client, "shop/app", tag, document)
    await until_signed(client, 5)
    head = open_checkpoint((await client.get("/ledger/checkpoint")).content, ledger_key(registry.data)).checkpoint
    answered = (await ask(client, head.size, "shop/app:latest", "shop/app:1.0.0", "shop/app:2.0.0")).json()
    shown = [
        [ShownEntry(one["index"], one["line"].encode(), tuple(map(b64decode, one["proof"]))) for one in tag["entries"]]
        for tag in answered["tags"]
    ]
    proven = [
        prove_tag("shop/app", tag, TagAnswer(digest), entries, head)
        for tag, digest, entries in zip(("latest", "1.0.0", "2.0.0"), (TWO.digest, ONE.digest, ""), shown, strict=True)
    ]

    assert [(one.state, one.entry) for one in proven] == [
        (ProvenState.MUTABLE, 3),
        (ProvenState.SEALED, 4),
        (ProvenState.ABSENT, -1),
    ]


async def test_entries_after_the_given_size_are_not_shown(registry: Serving) -> None:
    """Entries and proofs are those of the client's checkpoint, which may be older than the newest."""
    client = registry.client
    for document in (ONE, TWO):
        await push(client, "shop/app", "latest", document)
    await until_signed(client, 4)
    [tag] = (await ask(client, 3, "shop/app:latest")).json()["tags"]

    assert [one["index"] for one in tag["entries"]] == [2]
    assert (await ask(client, 5, "shop/app:latest")).status_code == 404
    assert (await ask(client, 0, "shop/app:latest")).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[]", 400),
        (b'{"size": 1}', 400),
        (b'{"size": 1, "tags": ["shop/app"]}', 400),
        (b'{"size": 1, "tags": ["shop/../app:1"]}', 400),
        (b'{"size": "1", "tags": []}', 400),
        (b'{"size": 1, "tags": [], "more": 1}', 400),
        (b'{"size": 1, "tags": [' + b'"a:1",' * 1000 + b'"a:1"]}', 400),
        (b'{"size": 1, "tags": ["' + b"a" * 600_000 + b'"]}', 413),
    ],
)
async def test_another_body_is_refused(registry: Serving, body: bytes, status: int) -> None:
    """A list that is too long or has an invalid name is refused."""
    answer = await registry.client.post("/ledger/tags", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == status


async def test_the_request_is_a_post_of_json(registry: Serving) -> None:
    """A request that is no POST of JSON is refused, so that a web page needs a preflight request."""
    assert (await registry.client.get("/ledger/tags")).status_code == 405
    assert (await registry.client.post("/ledger/tags", content=b'{"size": 1, "tags": []}')).status_code == 400


@pytest.fixture
def settings(data: Path) -> Settings:
    keys = data.with_name("data.keys")
    lines = [f"{who}:{bcrypt.hashpw(f'pw-{who}'.encode(), bcrypt.gensalt(4)).decode()}\n" for who in ("dev", "shop")]
    (keys / "htpasswd").write_text("".join(lines))
    return Settings.model_validate({"server": {"data": data}, "auth": AUTH})


async def test_each_repository_needs_the_right_to_pull(settings: Settings) -> None:
    """A tag of another repository is answered the same whether it exists or not; without a login, one is asked for."""
    async with serving_as(settings) as registry:
        client, dev, shop = registry.client, as_user("dev"), as_user("shop")
        client.headers.update(dev)
        for repository in ("shop/app", "secret/app", "open/app"):
            await push(client, repository, "1.0.0", ONE)
        await until_signed(client, 5)
        client.headers.pop("authorization")
        tags = ("shop/app:1.0.0", "secret/app:1.0.0", "secret/none:1.0.0", "open/app:1.0.0")
        of_shop = (await ask(client, 5, *tags, headers=shop)).json()["tags"]
        of_dev = (await ask(client, 5, *tags, headers=dev)).json()["tags"]
        anonymous = await ask(client, 5, *tags)
        of_open = (await ask(client, 5, "open/app:1.0.0")).json()["tags"]

    assert [tag["allowed"] for tag in of_shop] == [True, False, False, True]
    assert [len(tag["entries"]) for tag in of_shop] == [1, 0, 0, 1]
    assert [len(tag["entries"]) for tag in of_dev] == [1, 1, 0, 1]
    assert anonymous.status_code == 401
    assert anonymous.headers["www-authenticate"].startswith("Basic")
    assert [len(tag["entries"]) for tag in of_open] == [1]
