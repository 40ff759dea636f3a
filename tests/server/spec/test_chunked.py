"""Uploading in chunks: `Content-Range` on PATCH and on the closing PUT, in order or refused (spec, "Pushing a blob in
chunks")."""

from __future__ import annotations

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.images import Blob, digest_of, error_of, holds_blob, in_pieces, start_upload, with_digest

BLOB = Blob(bytes(number % 251 for number in range(3000)))


async def chunk(
    client: httpx2.AsyncClient, location: str, start: int, end: int, *, method: str = "PATCH"
) -> httpx2.Response:
    """Send the bytes start..end-1 of BLOB with their Content-Range."""
    return await client.request(
        method, location, content=BLOB.data[start:end], headers={"Content-Range": f"{start}-{end - 1}"}
    )


async def test_chunks_in_order_make_the_blob(client: httpx2.AsyncClient) -> None:
    """Chunks in order each get 202 with `Range: 0-<last>`, and the closing PUT gets 201."""
    location = await start_upload(client, "shop/app")
    answers = []
    for start in (0, 1000, 2000):
        answers.append(await chunk(client, location, start, start + 1000))
        location = answers[-1].headers["Location"]

    closed = await client.put(with_digest(location, BLOB.digest))

    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert [answer.headers["Range"] for answer in answers] == ["0-999", "0-1999", "0-2999"]
    assert closed.status_code == 201
    assert (await client.get(f"/v2/shop/app/blobs/{BLOB.digest}")).content == BLOB.data


async def test_the_last_chunk_may_come_with_the_closing_put(client: httpx2.AsyncClient) -> None:
    """The closing PUT may have the last chunk with its Content-Range."""
    location = await start_upload(client, "shop/app")
    await chunk(client, location, 0, 2000)

    closed = await chunk(client, with_digest(location, BLOB.digest), 2000, 3000, method="PUT")

    assert closed.status_code == 201
    assert (await client.get(f"/v2/shop/app/blobs/{BLOB.digest}")).content == BLOB.data


@pytest.mark.parametrize(("start", "end"), [(1000, 2000), (600, 1600), (0, 500), (499, 999), (501, 1001)], ids=str)
async def test_a_chunk_out_of_order_is_416_and_changes_nothing(
    client: httpx2.AsyncClient, start: int, end: int
) -> None:
    """A chunk that does not start at the session's end is 416, and the session is unchanged."""
    location = await start_upload(client, "shop/app")
    await chunk(client, location, 0, 500)

    refused = await chunk(client, location, start, end)
    state = await client.get(location)
    await chunk(client, location, 500, 3000)
    closed = await client.put(with_digest(location, BLOB.digest))

    assert refused.status_code == 416
    assert error_of(refused)[0] == "BLOB_UPLOAD_INVALID"
    assert state.headers["Range"] == "0-499"
    assert closed.status_code == 201


async def test_a_first_chunk_that_skips_ahead_is_416(client: httpx2.AsyncClient) -> None:
    """A first chunk that does not start at 0 is 416."""
    location = await start_upload(client, "shop/app")

    refused = await chunk(client, location, 1000, 2000)
    accepted = await chunk(client, location, 0, 1000)

    assert refused.status_code == 416
    assert accepted.status_code == 202


@pytest.mark.parametrize("start", [0, 1000, 2500])
async def test_a_last_chunk_out_of_order_is_416_and_the_session_stays_open(
    client: httpx2.AsyncClient, start: int
) -> None:
    """A misplaced chunk in the closing PUT is 416, nothing is stored, and the right chunk may follow."""
    location = await start_upload(client, "shop/app")
    await chunk(client, location, 0, 2000)

    refused = await chunk(client, with_digest(location, BLOB.digest), start, 3000, method="PUT")
    absent = not await holds_blob(client, "shop/app", BLOB.digest)
    state = await client.get(location)
    closed = await chunk(client, with_digest(location, BLOB.digest), 2000, 3000, method="PUT")

    assert refused.status_code == 416
    assert absent
    assert state.headers["Range"] == "0-1999"
    assert closed.status_code == 201


@pytest.mark.parametrize(
    "value",
    [
        "bytes=0-999",
        "bytes 0-999/3000",
        "bytes 0-999",
        "0-999/3000",
        "-999",
        "0-",
        "0",
        "a-b",
        "999-0",
        "0--999",
        "+0-999",
        "0x0-999",
        "0-999,1000-1999",
        "\u0660-999",
        "0-99999999999999999999999999",
    ],
)
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_malformed_content_range_is_refused(client: httpx2.AsyncClient, method: str, value: str) -> None:
    """A Content-Range other than two numbers with a dash, the first not larger, is refused and changes nothing."""
    location = await start_upload(client, "shop/app")
    url = with_digest(location, digest_of(BLOB.data[:1000])) if method == "PUT" else location

    refused = await client.request(method, url, content=BLOB.data[:1000], headers={b"Content-Range": value.encode()})
    state = await client.get(location)

    assert refused.status_code in {400, 416}
    assert error_of(refused)[0] in {"BLOB_UPLOAD_INVALID", "SIZE_INVALID"}
    assert state.headers["Range"] in {"0-0", "0--1"}


@pytest.mark.parametrize("end", [998, 1000, 5000])
async def test_a_length_that_differs_from_the_range_is_416(client: httpx2.AsyncClient, end: int) -> None:
    """A Content-Length that differs from the Content-Range is 416."""
    location = await start_upload(client, "shop/app")

    refused = await client.patch(location, content=BLOB.data[:1000], headers={"Content-Range": f"0-{end}"})
    state = await client.get(location)

    assert refused.status_code == 416
    assert state.headers["Range"] in {"0-0", "0--1"}


@pytest.mark.parametrize("end", [998, 1000])
async def test_a_body_of_unknown_length_must_match_its_range(client: httpx2.AsyncClient, end: int) -> None:
    """A chunk without Content-Length that is longer or shorter than its range is refused without a trace."""
    location = await start_upload(client, "shop/app")

    refused = await client.patch(
        location, content=in_pieces(BLOB.data[:1000], 300), headers={"Content-Range": f"0-{end}"}
    )
    state = await client.get(location)
    await client.patch(location, content=BLOB.data)
    closed = await client.put(with_digest(location, BLOB.digest))

    assert refused.status_code == 416
    assert state.headers["Range"] in {"0-0", "0--1"}
    assert closed.status_code == 201


async def test_a_refused_chunk_has_the_position_to_continue(client: httpx2.AsyncClient) -> None:
    """A 416 has Location and Range, so that the client can continue without another request."""
    location = await start_upload(client, "shop/app")
    await chunk(client, location, 0, 500)

    refused = await chunk(client, location, 1000, 2000)

    assert refused.headers["Location"].startswith("/v2/shop/app/blobs/uploads/")
    assert refused.headers["Range"] == "0-499"


@settings(max_examples=settings().max_examples * 4 // 10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(attempts=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 150), st.booleans()), max_size=12))
async def test_any_sequence_of_chunks(client: httpx2.AsyncClient, attempts: list[tuple[int, int, bool]]) -> None:
    """For chunks in any order the blob is the accepted chunks, and refused ones change nothing."""
    location = await start_upload(client, "shop/app")
    held = 0
    for start, length, in_order in attempts:
        start = held if in_order else start
        end = min(start + length, len(BLOB.data))
        answer = await chunk(client, location, start, end)
        if start == held:
            held = end

            assert answer.status_code == 202
            assert answer.headers["Range"] == f"0-{held - 1}"
        else:
            assert answer.status_code == 416
    closed = await client.put(with_digest(location, digest_of(BLOB.data[:held])))
    got = await client.get(f"/v2/shop/app/blobs/{digest_of(BLOB.data[:held])}")

    assert closed.status_code == 201
    assert got.content == BLOB.data[:held]
