"""Cancelling an upload: end-14."""

from __future__ import annotations

import httpx2
import pytest

from tests.images import Blob, error_of, holds_blob, start_upload, with_digest

BLOB = Blob(b"never to be finished")


async def test_cancelling_is_204(client: httpx2.AsyncClient) -> None:
    """DELETE of a session's Location ends the session with 204 and no body."""
    location = await start_upload(client, "shop/app")
    await client.patch(location, content=BLOB.data)

    answer = await client.delete(location)

    assert answer.status_code == 204
    assert answer.content == b""
    assert not await holds_blob(client, "shop/app", BLOB.digest)


@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
async def test_a_cancelled_session_is_unknown(client: httpx2.AsyncClient, method: str) -> None:
    """A cancelled upload session is 404 BLOB_UPLOAD_UNKNOWN."""
    location = await start_upload(client, "shop/app")
    await client.delete(location)
    url = with_digest(location, BLOB.digest) if method == "PUT" else location

    answer = await client.request(method, url, content=BLOB.data if method in {"PATCH", "PUT"} else b"")

    assert answer.status_code == 404
    assert error_of(answer)[0] == "BLOB_UPLOAD_UNKNOWN"


@pytest.mark.parametrize("upload", ["1", "not-a-uuid", "-", "0" * 300, "..."])
async def test_cancelling_an_unknown_id_is_404_or_400(client: httpx2.AsyncClient, upload: str) -> None:
    """Cancelling an id that was never assigned is 404 or 400."""
    answer = await client.delete(f"/v2/shop/app/blobs/uploads/{upload}")

    assert answer.status_code in {400, 404}
    assert error_of(answer)[0] in {"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"}


async def test_cancelling_one_session_leaves_the_others(client: httpx2.AsyncClient) -> None:
    """Cancelling one session leaves the others open."""
    one = await start_upload(client, "shop/app")
    two = await start_upload(client, "shop/app")
    await client.delete(one)

    closed = await client.put(with_digest(two, BLOB.digest), content=BLOB.data)

    assert closed.status_code == 201
