"""Requests whose body began before a revocation and ends after it: nothing is stored with rights that were taken away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from boltseal.server.commands.users import remove_user
from boltseal.server.settings import Settings
from tests.admin_requests import as_user
from tests.api_tokens import ROBOT, id_of, made, revoke, settings_with_tokens, with_token
from tests.images import Blob, image, push_parts
from tests.serving import Serving, serving_as

REPOSITORY = "shop/app"
UPLOADS = f"/v2/{REPOSITORY}/blobs/uploads/"
IMAGE, BLOB = image("late"), Blob(b"late" * 1000)
MANIFEST = f"/v2/{REPOSITORY}/manifests/1.0.0"
CHECKS = {"tag": MANIFEST, "digest": f"/v2/{REPOSITORY}/manifests/{IMAGE.digest}"}


@pytest.fixture
def settings(data: Path) -> Settings:
    return settings_with_tokens(data)


@pytest.fixture
async def shop(settings: Settings) -> AsyncIterator[Serving]:
    """A registry that has the parts of an image."""
    async with serving_as(settings) as registry:
        registry.client.auth = as_user("boss")
        await push_parts(registry.client, REPOSITORY, IMAGE)
        registry.client.auth = httpx2.Auth()
        yield registry


@dataclass(slots=True)
class SlowBody:
    """A body of which one half is sent, and the other one when `go_on` is set."""

    data: bytes
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def chunks(self) -> AsyncIterator[bytes]:
        half = len(self.data) // 2
        yield self.data[:half]
        self.begun.set()
        await self.go_on.wait()
        yield self.data[half:]


async def answered_after(
    client: httpx2.AsyncClient, request: tuple[str, str, bytes], text: str, change: Callable[[], Awaitable[object]]
) -> int:
    """Send the first half of a body with a token, make a change, send the rest, and return the status of the answer."""
    method, url, data = request
    body = SlowBody(data)
    headers = {"content-length": str(len(data)), "content-type": IMAGE.media_type}
    task = asyncio.create_task(
        client.request(method, url, content=body.chunks(), headers=headers, auth=with_token(text))
    )
    await body.begun.wait()
    await change()
    body.go_on.set()
    return (await task).status_code


async def pushes(client: httpx2.AsyncClient, text: str) -> dict[str, tuple[str, str, bytes]]:
    """Return the requests with a body that store something, of a client with a token."""
    started = await client.post(UPLOADS, auth=with_token(text))
    session = started.headers["location"]
    mark = "&" if "?" in session else "?"
    return {
        "tag": ("PUT", MANIFEST, IMAGE.raw),
        "digest": ("PUT", CHECKS["digest"], IMAGE.raw),
        "blob at once": ("POST", f"{UPLOADS}?digest={BLOB.digest}", BLOB.data),
        "blob of a session": ("PUT", f"{session}{mark}digest={BLOB.digest}", BLOB.data),
        "chunk": ("PATCH", session, BLOB.data),
    }


@pytest.mark.parametrize("what", ["tag", "digest", "blob at once", "blob of a session", "chunk"])
async def test_a_body_that_outlasts_its_token_stores_nothing(shop: Serving, what: str) -> None:
    """A push that began with a token and ends after its revocation was answered is refused, and leaves nothing behind."""
    client = shop.client
    text = await made(client)
    request = (await pushes(client, text))[what]
    status = await answered_after(client, request, text, lambda: revoke(client, id=id_of(text)))

    assert status == 401
    found = [MANIFEST, CHECKS["digest"], f"/v2/{REPOSITORY}/blobs/{BLOB.digest}"]
    assert [(await client.get(url, auth=as_user("boss"))).status_code for url in found] == [404] * 3


async def test_a_body_that_outlasts_its_user_stores_nothing(shop: Serving, settings: Settings) -> None:
    """A push that began before its user was removed, by another process, is refused at its end."""
    text = await made(shop.client)

    async def remove() -> None:
        await asyncio.to_thread(remove_user, settings, ROBOT)

    status = await answered_after(shop.client, ("PUT", MANIFEST, IMAGE.raw), text, remove)

    assert status == 401
    assert (await shop.client.get(MANIFEST, auth=as_user("boss"))).status_code == 404


async def test_a_slow_body_of_a_valid_token_is_stored(shop: Serving) -> None:
    """A push whose token is not revoked is accepted, although another one was meanwhile."""
    text, other = await made(shop.client), await made(shop.client)
    request = ("PUT", MANIFEST, IMAGE.raw)
    status = await answered_after(shop.client, request, text, lambda: revoke(shop.client, id=id_of(other)))

    assert status == 201
