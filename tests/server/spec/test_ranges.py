"""Parts of blobs: `Range` on GET (spec "Pulling blobs", RFC 9110 section 14)."""

from __future__ import annotations

import httpx2
import pytest

from tests.images import Blob, push_blob

BLOB = Blob(bytes(number * 7 % 251 for number in range(2048)))
LENGTH = len(BLOB.data)
URL = f"/v2/shop/app/blobs/{BLOB.digest}"


async def get(client: httpx2.AsyncClient, value: str, **headers: str) -> httpx2.Response:
    await push_blob(client, "shop/app", BLOB)
    return await client.get(URL, headers={"Range": value, **headers})


@pytest.mark.parametrize(
    ("value", "first", "last"),
    [
        ("bytes=500-1499", 500, 1499),
        ("bytes=0-0", 0, 0),
        ("bytes=0-2047", 0, 2047),
        ("bytes=2047-2047", 2047, 2047),
        ("bytes=500-", 500, 2047),
        ("bytes=-500", 1548, 2047),
        ("bytes=-1", 2047, 2047),
        ("bytes=2000-5000", 2000, 2047),
        ("bytes=-5000", 0, 2047),
        ("bytes=0-99999999999999999999999999", 0, 2047),
    ],
)
async def test_a_range_is_answered_with_that_part(
    client: httpx2.AsyncClient, value: str, first: int, last: int
) -> None:
    """A satisfiable range, closed, open or suffix, is 206 with exactly those bytes, up to the blob's end."""
    got = await get(client, value)

    assert got.status_code == 206
    assert got.content == BLOB.data[first : last + 1]
    assert got.headers["Content-Range"] == f"bytes {first}-{last}/{LENGTH}"
    assert got.headers["Content-Length"] == str(last - first + 1)
    assert got.headers["Docker-Content-Digest"] == BLOB.digest


@pytest.mark.parametrize("value", ["bytes=2048-", "bytes=2048-2048", "bytes=5000-10000", "bytes=500-0", "bytes=-0"])
async def test_a_range_outside_the_blob_is_416(client: httpx2.AsyncClient, value: str) -> None:
    """A range that starts at or after the end, or ends before it starts, is 416 with the length."""
    got = await get(client, value)

    assert got.status_code == 416
    assert got.headers["Content-Range"] == f"bytes */{LENGTH}"


@pytest.mark.parametrize("value", ["lines=0-10", "bytes", "bytes=", "bytes=a-b", "bytes=--5", "bytes=1-2-3", "x"])
async def test_a_malformed_range_is_ignored(client: httpx2.AsyncClient, value: str) -> None:
    """A range of an unknown unit or form is ignored: 200 and the whole blob."""
    got = await get(client, value)

    assert got.status_code == 200
    assert got.content == BLOB.data


async def test_several_ranges_get_the_whole_blob(client: httpx2.AsyncClient) -> None:
    """A request for several ranges gets the whole blob, as RFC 9110 permits."""
    got = await get(client, "bytes=0-9,20-29")

    assert got.status_code == 200
    assert got.content == BLOB.data


async def test_head_and_get_accept_ranges(client: httpx2.AsyncClient) -> None:
    """GET and HEAD of a blob have `Accept-Ranges: bytes`."""
    await push_blob(client, "shop/app", BLOB)

    got = await client.get(URL)
    head = await client.head(URL)

    assert got.headers["Accept-Ranges"] == "bytes"
    assert head.headers["Accept-Ranges"] == "bytes"


async def test_a_range_on_head_is_ignored(client: httpx2.AsyncClient) -> None:
    """A range on HEAD is ignored: the answer describes the whole blob."""
    await push_blob(client, "shop/app", BLOB)

    head = await client.head(URL, headers={"Range": "bytes=0-9"})

    assert head.status_code == 200
    assert head.headers["Content-Length"] == str(LENGTH)


async def test_an_empty_blob_has_no_range(client: httpx2.AsyncClient) -> None:
    """Any range of an empty blob is 416."""
    empty = Blob(b"")
    await push_blob(client, "shop/app", empty)

    got = await client.get(f"/v2/shop/app/blobs/{empty.digest}", headers={"Range": "bytes=0-"})

    assert got.status_code == 416


async def test_if_range_with_this_digest_gets_the_part(client: httpx2.AsyncClient) -> None:
    """If-Range with the blob's ETag gets the range."""
    await push_blob(client, "shop/app", BLOB)
    etag = (await client.head(URL)).headers["ETag"]

    got = await client.get(URL, headers={"Range": "bytes=10-19", "If-Range": etag})

    assert got.status_code == 206
    assert got.content == BLOB.data[10:20]


async def test_if_range_with_another_etag_gets_the_whole(client: httpx2.AsyncClient) -> None:
    """If-Range with another ETag gets the whole blob, since the part would not match the client's."""
    await push_blob(client, "shop/app", BLOB)

    got = await client.get(URL, headers={"Range": "bytes=10-19", "If-Range": '"sha256:other"'})

    assert got.status_code == 200
    assert got.content == BLOB.data


async def test_a_range_deep_in_a_large_blob_is_returned(client: httpx2.AsyncClient) -> None:
    """A range across several of the chunks in which files are read is returned completely."""
    large = Blob(bytes(range(256)) * 4096 * 2)
    await push_blob(client, "shop/app", large)

    got = await client.get(f"/v2/shop/app/blobs/{large.digest}", headers={"Range": "bytes=262143-1048577"})

    assert got.status_code == 206
    assert got.content == large.data[262143:1048578]
