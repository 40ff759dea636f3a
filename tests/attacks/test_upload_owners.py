"""Upload sessions belong to the user who began them: another user with the same rights does not reach them.

`ci` and `boss` may both push to `shop/**`.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from boltseal.server.commands.users import remove_user
from boltseal.server.storage.metadata import upload_table
from boltseal.server.store_factory import open_store
from tests.images import Blob, error_of, with_digest
from tests.logins import PASSWORDS, as_user, bearer, token, with_users
from tests.serving import Serving, serving, serving_as, settings_of

BLOB = Blob(b"the bytes of ci")
METHODS = ["GET", "PATCH", "PUT", "DELETE"]
SCOPE = "repository:shop/app:pull,push"


@pytest.fixture
async def shop(data: Path) -> AsyncIterator[Serving]:
    async with serving_as(with_users(data)) as running:
        yield running


async def headers_of(shop: Serving, user: str, way: str) -> dict[str, str]:
    """Return the headers of a request by a user: a password, or a token to push to shop/app."""
    return as_user(user) if way == "password" else bearer(await token(shop, user, SCOPE))


async def begin(shop: Serving, headers: dict[str, str]) -> str:
    """Begin a session with its first ten bytes and return its address."""
    started = await shop.client.post("/v2/shop/app/blobs/uploads/", headers=headers)
    appended = await shop.client.patch(started.headers["location"], content=BLOB.data[:10], headers=headers)
    assert appended.status_code == 202, appended.text
    location: str = appended.headers["location"]
    return location


async def reach(shop: Serving, method: str, location: str, headers: dict[str, str]) -> httpx2.Response:
    """Send one request of an upload session: its state, another chunk, its end, or its cancellation."""
    url = with_digest(location, BLOB.digest) if method == "PUT" else location
    content = BLOB.data[10:] if method in ("PATCH", "PUT") else None
    return await shop.client.request(method, url, content=content, headers=headers)


@pytest.mark.parametrize("way", ["password", "token"])
@pytest.mark.parametrize("method", METHODS)
async def test_another_user_with_the_right_to_push_does_not_reach_a_session(
    shop: Serving, method: str, way: str
) -> None:
    """The response is that of an unknown session, and the session is as its user left it."""
    mine, other = await headers_of(shop, "ci", way), await headers_of(shop, "boss", way)
    location = await begin(shop, mine)

    refused = await reach(shop, method, location, other)
    state = await shop.client.get(location, headers=mine)
    finished = await reach(shop, "PUT", location, mine)

    assert (refused.status_code, error_of(refused)[0]) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert "range" not in refused.headers
    assert (state.status_code, state.headers["range"]) == (204, "0-9")
    assert finished.status_code == 201


async def test_the_refusal_of_another_users_session_is_that_of_an_unknown_one(shop: Serving) -> None:
    """The response of another user's session differs from that of a session that never was in nothing but its ID."""
    location = await begin(shop, as_user("ci"))
    session = location.rpartition("/")[2]
    unknown = uuid.uuid4().hex
    theirs = await shop.client.get(location, headers=as_user("boss"))
    none = await shop.client.get(location.replace(session, unknown), headers=as_user("boss"))

    assert theirs.text.replace(session, unknown) == none.text
    assert theirs.status_code == none.status_code


async def test_a_session_may_be_continued_by_its_user_with_another_credential(shop: Serving) -> None:
    """A session belongs to a user, not to a credential: a token continues what a password began."""
    location = await begin(shop, as_user("ci"))
    finished = await reach(shop, "PUT", location, await headers_of(shop, "ci", "token"))

    assert finished.status_code == 201


@pytest.mark.parametrize("method", METHODS)
async def test_a_session_belongs_to_its_user_after_a_restart(data: Path, method: str) -> None:
    """The owner of a session is stored with it."""
    settings = with_users(data)
    async with serving_as(settings) as before:
        location = await begin(before, as_user("ci"))
    async with serving_as(settings) as after:
        refused = await reach(after, method, location, as_user("boss"))
        finished = await reach(after, "PUT", location, as_user("ci"))

    assert refused.status_code == 404
    assert finished.status_code == 201


@pytest.mark.parametrize("method", METHODS)
async def test_a_user_does_not_reach_the_session_of_an_anonymous_client(data: Path, method: str) -> None:
    """A session that began before the registry had users has no user, and ends with it."""
    async with serving(data) as without_users:
        location = await begin(without_users, {})
    async with serving_as(with_users(data)) as shop:
        refused = await reach(shop, method, location, as_user("ci"))

    assert refused.status_code == 404


@pytest.mark.files_only("the session is a file; in an object store it is the row")
async def test_a_session_without_a_row_is_finished_by_its_id_and_only_with_the_right_to_push(data: Path) -> None:
    """A session that is older than the rows, or whose row is lost, has no known owner; its ID can't be guessed."""
    settings = with_users(data)
    async with serving_as(settings) as shop:
        location = await begin(shop, as_user("ci"))
        with open_store(settings) as store:
            await store.database.write(lambda tx: upload_table.remove(tx, location.rpartition("/")[2]))
        without_right = await reach(shop, "PUT", location, as_user("other"))
        finished = await reach(shop, "PUT", location, as_user("ci"))

    assert (without_right.status_code, finished.status_code) == (403, 201)


async def test_an_anonymous_client_does_not_reach_the_session_of_a_user(data: Path) -> None:
    """An anonymous client that may push, after every user was removed, can't use an upload session of a user."""
    settings = with_users(data)
    async with serving_as(settings) as shop:
        location = await begin(shop, as_user("ci"))
    for name in PASSWORDS:
        remove_user(settings, name)
    async with serving_as(settings_of(data)) as open_to_all:
        refused = [await reach(open_to_all, method, location, {}) for method in METHODS]
        allowed = await open_to_all.client.post("/v2/shop/app/blobs/uploads/")

    assert {answer.status_code for answer in refused} == {404}
    assert allowed.status_code == 202


async def test_an_anonymous_session_is_continued_from_another_address(registry: Serving) -> None:
    """Without users the ID is the secret of a session: a client behind another address of its network goes on."""
    location = await begin(registry, {})
    transport = httpx2.ASGITransport(app=registry.app, client=("192.0.2.7", 5))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:5000") as elsewhere:
        finished = await elsewhere.put(with_digest(location, BLOB.digest), content=BLOB.data[10:])

    assert finished.status_code == 201
