"""Uploading blobs whole or as a stream: end-4a, end-4b, end-6 and end-13. Chunks are in test_chunked.py."""

from __future__ import annotations

import re

import httpx2
import pytest

from tests.asgi import send
from tests.images import Blob, digest_of, error_of, holds_blob, in_pieces, push_blob, start_upload, with_digest
from tests.serving import Serving

pytestmark = pytest.mark.usefixtures("whole_store")

BLOB = Blob(b"what a layer is made of " * 50)
UPLOADS = "/v2/shop/app/blobs/uploads/"
UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}")


async def test_opening_a_session_is_202_with_a_location(client: httpx2.AsyncClient) -> None:
    """end-4a: POST with an empty body answers 202 and a Location that belongs to this repository."""
    answer = await client.post(UPLOADS, headers={"Content-Length": "0"})

    assert answer.status_code == 202
    assert answer.headers["Location"].startswith(UPLOADS)


async def test_the_location_has_a_unique_id(client: httpx2.AsyncClient) -> None:
    """The Location of a session has a unique UUID."""
    first = await start_upload(client, "shop/app")
    second = await start_upload(client, "shop/app")

    assert UUID.search(first)
    assert UUID.search(second)
    assert first != second


@pytest.mark.parametrize("content", [BLOB.data, b"", b"{}"], ids=["some", "empty", "empty-json"])
async def test_a_blob_is_sent_in_the_closing_put(client: httpx2.AsyncClient, content: bytes) -> None:
    """A blob, also an empty one, may be sent in the closing PUT: 201."""
    location = await start_upload(client, "shop/app")

    answer = await client.put(with_digest(location, digest_of(content)), content=content)
    got = await client.get(answer.headers["Location"])

    assert answer.status_code == 201
    assert got.status_code == 200
    assert got.content == content


@pytest.mark.parametrize("content", [BLOB.data, b""], ids=["some", "empty"])
async def test_a_blob_is_sent_in_a_single_post(client: httpx2.AsyncClient, content: bytes) -> None:
    """end-4b: POST with digest and blob answers 201 with the Location to pull it."""
    answer = await client.post(UPLOADS, params={"digest": digest_of(content)}, content=content)
    got = await client.get(answer.headers["Location"])

    assert answer.status_code == 201
    assert got.content == content


async def test_a_blob_is_streamed_in_one_patch(client: httpx2.AsyncClient) -> None:
    """PATCH without Content-Range is a stream of any length, after which the closing PUT needs no body."""
    location = await start_upload(client, "shop/app")

    patched = await client.patch(location, content=in_pieces(BLOB.data))
    closed = await client.put(with_digest(patched.headers["Location"], BLOB.digest))

    assert patched.status_code == 202
    assert closed.status_code == 201
    assert (await client.get(f"/v2/shop/app/blobs/{BLOB.digest}")).content == BLOB.data


async def test_a_patch_returns_the_received_range(client: httpx2.AsyncClient) -> None:
    """A PATCH answers 202 with Location and `Range: 0-<last byte>`, the end included."""
    location = await start_upload(client, "shop/app")

    patched = await client.patch(location, content=b"0123456789")

    assert patched.status_code == 202
    assert patched.headers["Location"].startswith(UPLOADS)
    assert patched.headers["Range"] == "0-9"


async def test_a_second_stream_continues_where_the_first_ended(client: httpx2.AsyncClient) -> None:
    """A second stream is appended to the first."""
    location = await start_upload(client, "shop/app")
    first = await client.patch(location, content=BLOB.data[:100])
    second = await client.patch(first.headers["Location"], content=in_pieces(BLOB.data[100:]))

    closed = await client.put(with_digest(second.headers["Location"], BLOB.digest))

    assert second.headers["Range"] == f"0-{len(BLOB.data) - 1}"
    assert closed.status_code == 201


async def test_the_closing_put_may_have_the_rest(client: httpx2.AsyncClient) -> None:
    """The closing PUT may have the rest of the blob."""
    location = await start_upload(client, "shop/app")
    patched = await client.patch(location, content=BLOB.data[:100])

    closed = await client.put(with_digest(patched.headers["Location"], BLOB.digest), content=BLOB.data[100:])

    assert closed.status_code == 201
    assert (await client.get(f"/v2/shop/app/blobs/{BLOB.digest}")).content == BLOB.data


async def test_the_state_of_a_session_is_returned(client: httpx2.AsyncClient) -> None:
    """end-13: GET of a session's Location is 204 with Location and Range, and no body."""
    location = await start_upload(client, "shop/app")
    await client.patch(location, content=b"0123456789")

    answer = await client.get(location)

    assert answer.status_code == 204
    assert answer.headers["Location"].startswith(UPLOADS)
    assert answer.headers["Range"] == "0-9"
    assert answer.content == b""


async def test_the_state_of_a_fresh_session_is_returned(client: httpx2.AsyncClient) -> None:
    """A session without bytes has a Range that clients can parse."""
    location = await start_upload(client, "shop/app")

    answer = await client.get(location)

    assert answer.status_code == 204
    assert answer.headers["Range"] in {"0-0", "0--1"}


async def test_bytes_with_another_digest_are_400_and_not_stored(client: httpx2.AsyncClient) -> None:
    """A PUT whose bytes lack the given digest is 400 DIGEST_INVALID, and no blob is stored."""
    location = await start_upload(client, "shop/app")
    other = digest_of(b"something else")

    answer = await client.put(with_digest(location, other), content=BLOB.data)

    assert answer.status_code == 400
    assert error_of(answer)[0] == "DIGEST_INVALID"
    assert not await holds_blob(client, "shop/app", other)
    assert not await holds_blob(client, "shop/app", BLOB.digest)


async def test_a_wrong_digest_on_a_single_post_is_not_stored(client: httpx2.AsyncClient) -> None:
    """A single POST with a wrong digest is refused or becomes a session, and no blob is stored."""
    other = digest_of(b"something else")

    answer = await client.post(UPLOADS, params={"digest": other}, content=BLOB.data)

    assert answer.status_code == 400
    assert error_of(answer)[0] == "DIGEST_INVALID"
    assert not await holds_blob(client, "shop/app", other)


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256:",
        "sha256:abc",
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "sha384:" + "0" * 96,
        "notadigest",
        "sha256-" + "0" * 64,
    ],
)
@pytest.mark.parametrize("how", ["put", "post"])
async def test_a_malformed_digest_is_400(client: httpx2.AsyncClient, how: str, digest: str) -> None:
    """A malformed digest, or one of an unsupported algorithm, is 400 DIGEST_INVALID."""
    if how == "put":
        location = await start_upload(client, "shop/app")
        answer = await client.put(with_digest(location, digest), content=BLOB.data)
    else:
        answer = await client.post(UPLOADS, params={"digest": digest}, content=BLOB.data)

    assert answer.status_code == 400
    assert error_of(answer)[0] == "DIGEST_INVALID"


async def test_a_closing_put_without_a_digest_is_400(client: httpx2.AsyncClient) -> None:
    """A closing PUT without the digest is 400."""
    location = await start_upload(client, "shop/app")

    answer = await client.put(location, content=BLOB.data)

    assert answer.status_code == 400
    assert error_of(answer)[0] == "DIGEST_INVALID"


@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
async def test_an_unknown_session_is_404(client: httpx2.AsyncClient, method: str) -> None:
    """An unknown session is 404 BLOB_UPLOAD_UNKNOWN."""
    location = f"{UPLOADS}{'0' * 8}-0000-4000-8000-{'0' * 12}"
    url = with_digest(location, BLOB.digest) if method == "PUT" else location

    answer = await client.request(method, url, content=b"" if method in {"GET", "DELETE"} else BLOB.data)

    assert answer.status_code == 404
    assert error_of(answer)[0] == "BLOB_UPLOAD_UNKNOWN"


@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
async def test_a_session_ends_with_its_blob(client: httpx2.AsyncClient, method: str) -> None:
    """After the closing PUT the session is unknown."""
    location = await start_upload(client, "shop/app")
    await client.put(with_digest(location, BLOB.digest), content=BLOB.data)
    url = with_digest(location, BLOB.digest) if method == "PUT" else location

    answer = await client.request(method, url, content=b"" if method in {"GET", "DELETE"} else BLOB.data)

    assert answer.status_code == 404
    assert error_of(answer)[0] == "BLOB_UPLOAD_UNKNOWN"


async def test_a_blob_may_be_pushed_again(client: httpx2.AsyncClient) -> None:
    """A stored blob is accepted again: 201."""
    await push_blob(client, "shop/app", BLOB)

    again = await push_blob(client, "shop/app", BLOB)

    assert again.status_code == 201
    assert (await client.get(f"/v2/shop/app/blobs/{BLOB.digest}")).content == BLOB.data


async def test_the_content_type_of_an_upload_does_not_matter(client: httpx2.AsyncClient) -> None:
    """An upload's Content-Type, or its absence, does not matter."""
    location = await start_upload(client, "shop/app")
    patched = await client.patch(location, content=BLOB.data, headers={"Content-Type": "application/x-tar"})

    closed = await client.put(with_digest(patched.headers["Location"], BLOB.digest))

    assert closed.status_code == 201


async def test_an_upload_can_be_resumed_after_its_client_was_killed(registry: Serving) -> None:
    """After a broken connection, the session states what it has, and the rest completes the blob."""
    client = registry.client
    location = await start_upload(client, "shop/app")
    await send(registry.app, "PATCH", location, body=[BLOB.data[:300], BLOB.data[300:500]], dies=True)
    state = await client.get(location)
    kept = _held(state.headers["Range"])

    patched = await client.patch(location, content=BLOB.data[kept:])
    closed = await client.put(with_digest(location, BLOB.digest))

    assert state.status_code == 204
    assert kept in {0, 300, 500}
    assert patched.headers["Range"] == f"0-{len(BLOB.data) - 1}"
    assert closed.status_code == 201


async def test_a_client_that_dies_in_its_closing_put_publishes_nothing(registry: Serving) -> None:
    """A truncated closing PUT stores no blob, even if its bytes so far match the digest."""
    location = await start_upload(registry.client, "shop/app")

    answer = await send(
        registry.app,
        "PUT",
        with_digest(location, BLOB.digest),
        headers=[("Content-Length", str(len(BLOB.data) + 10))],
        body=[BLOB.data],
        dies=True,
    )

    assert answer.status != 201
    assert not await holds_blob(registry.client, "shop/app", BLOB.digest)


async def test_a_client_that_dies_in_a_chunked_single_post_publishes_nothing(registry: Serving) -> None:
    """A truncated chunked POST, which has no Content-Length, stores no blob."""
    answer = await send(
        registry.app,
        "POST",
        f"{UPLOADS}?digest={BLOB.digest}",
        headers=[("Transfer-Encoding", "chunked")],
        body=[BLOB.data],
        dies=True,
    )

    assert answer.status != 201
    assert not await holds_blob(registry.client, "shop/app", BLOB.digest)


async def test_the_right_digest_may_follow_a_wrong_one(client: httpx2.AsyncClient) -> None:
    """After a PUT with a wrong digest, the session keeps its bytes and accepts the right digest."""
    location = await start_upload(client, "shop/app")
    await client.patch(location, content=BLOB.data)
    wrong = await client.put(with_digest(location, digest_of(b"something else")))

    right = await client.put(with_digest(location, BLOB.digest))

    assert wrong.status_code == 400
    assert right.status_code == 201
    assert (await client.get(f"/v2/shop/app/blobs/{BLOB.digest}")).content == BLOB.data


async def test_a_wrong_digest_does_not_change_the_session(client: httpx2.AsyncClient) -> None:
    """After a PUT with a body and a wrong digest, the session states its bytes, and the rest completes it."""
    location = await start_upload(client, "shop/app")
    await client.patch(location, content=BLOB.data[:100])
    wrong = await client.put(with_digest(location, digest_of(b"something else")), content=BLOB.data[100:])
    kept = _held((await client.get(location)).headers["Range"])

    right = await client.put(with_digest(location, BLOB.digest), content=BLOB.data[kept:])

    assert wrong.status_code == 400
    assert right.status_code == 201
    assert (await client.get(f"/v2/shop/app/blobs/{BLOB.digest}")).content == BLOB.data


async def test_sessions_are_separate(client: httpx2.AsyncClient) -> None:
    """Two open sessions each have only their own bytes."""
    one, two = Blob(b"one" * 100), Blob(b"two" * 100)
    first = await start_upload(client, "shop/app")
    second = await start_upload(client, "shop/app")
    await client.patch(first, content=one.data[:150])
    await client.patch(second, content=two.data[:50])
    await client.patch(first, content=one.data[150:])
    await client.patch(second, content=two.data[50:])

    first_closed = await client.put(with_digest(first, one.digest))
    second_closed = await client.put(with_digest(second, two.digest))

    assert first_closed.status_code == 201
    assert second_closed.status_code == 201


def _held(value: str) -> int:
    """Return the number of bytes in a Range header; a fresh session's may be `0-0` or `0--1`."""
    last = int(value.removeprefix("0-"))
    return last + 1 if last > 0 else 0
