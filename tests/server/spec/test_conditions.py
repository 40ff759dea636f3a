"""Conditional requests: `If-None-Match` on pulls; `If-None-Match: *` and `If-Match` on writes (RFC 9110 section 13)."""

from __future__ import annotations

import httpx2
import pytest

from tests.images import error_of, image, meaning, push, push_parts, put

FIRST, SECOND = image("first"), image("second")
TAG = "/v2/shop/app/manifests/latest"


async def ready(client: httpx2.AsyncClient) -> None:
    """Push FIRST as `latest`, and the blobs of SECOND."""
    await push(client, "shop/app", "latest", FIRST)
    await push_parts(client, "shop/app", SECOND)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("reference", ["latest", FIRST.digest], ids=["tag", "digest"])
async def test_an_etag_is_the_digest_in_quotes(client: httpx2.AsyncClient, method: str, reference: str) -> None:
    """The ETag of a manifest is its digest, quoted."""
    await ready(client)

    answer = await client.request(method, f"/v2/shop/app/manifests/{reference}")

    assert answer.headers["ETag"] == f'"{FIRST.digest}"'


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "value",
    ['"{}"', "{}", 'W/"{}"', '"other", "{}"', '"other","{}" , "more"', "*"],
    ids=["quoted", "bare", "weak", "list", "packed-list", "any"],
)
async def test_an_unchanged_manifest_is_304(client: httpx2.AsyncClient, method: str, value: str) -> None:
    """If-None-Match with the tag's digest, in any form that clients send, is 304 without a body."""
    await ready(client)

    answer = await client.request(method, TAG, headers={"If-None-Match": value.replace("{}", FIRST.digest)})

    assert answer.status_code == 304
    assert answer.content == b""
    assert answer.headers["ETag"] == f'"{FIRST.digest}"'
    assert answer.headers["Docker-Content-Digest"] == FIRST.digest


async def test_a_changed_manifest_is_200(client: httpx2.AsyncClient) -> None:
    """If-None-Match with another digest is an ordinary pull."""
    await ready(client)

    answer = await client.get(TAG, headers={"If-None-Match": f'"{SECOND.digest}"'})

    assert answer.status_code == 200
    assert answer.content == FIRST.raw


async def test_a_moved_tag_is_200_again(client: httpx2.AsyncClient) -> None:
    """After the tag moved, If-None-Match with the former digest gets 200."""
    await ready(client)
    await put(client, "shop/app", "latest", SECOND)

    answer = await client.get(TAG, headers={"If-None-Match": f'"{FIRST.digest}"'})

    assert answer.status_code == 200
    assert answer.content == SECOND.raw


async def test_blobs_have_etags_too(client: httpx2.AsyncClient) -> None:
    """If-None-Match with a blob's digest is 304."""
    await ready(client)
    url = f"/v2/shop/app/blobs/{FIRST.config.digest}"

    answer = await client.get(url, headers={"If-None-Match": f'"{FIRST.config.digest}"'})

    assert answer.status_code == 304


async def test_a_missing_manifest_is_404_whatever_the_condition(client: httpx2.AsyncClient) -> None:
    """A missing manifest is 404, whatever condition the request has."""
    answer = await client.get("/v2/shop/app/manifests/1.0.0", headers={"If-None-Match": "*"})

    assert answer.status_code == 404


async def test_if_none_match_any_publishes_a_free_tag(client: httpx2.AsyncClient) -> None:
    """`If-None-Match: *` publishes a tag that does not exist."""
    await push_parts(client, "shop/app", FIRST)

    answer = await put(client, "shop/app", "latest", FIRST, headers={"If-None-Match": "*"})

    assert answer.status_code == 201


@pytest.mark.parametrize("document", [FIRST, SECOND], ids=["same", "other"])
async def test_if_none_match_any_on_an_existing_tag_is_412(client: httpx2.AsyncClient, document: object) -> None:
    """`If-None-Match: *` on an existing tag is 412, also for the same digest, and changes nothing."""
    await ready(client)
    pushed = FIRST if document is FIRST else SECOND

    answer = await put(client, "shop/app", "latest", pushed, headers={"If-None-Match": "*"})

    assert answer.status_code == 412
    assert error_of(answer)[0] == "DENIED"
    assert "latest" in error_of(answer)[1]
    assert await meaning(client, "shop/app", "latest") == FIRST.digest


async def test_a_deleted_tag_is_free(floating_client: httpx2.AsyncClient) -> None:
    """`If-None-Match: *` publishes a deleted mutable tag again."""
    await ready(floating_client)
    await floating_client.delete(TAG)

    answer = await put(floating_client, "shop/app", "latest", SECOND, headers={"If-None-Match": "*"})

    assert answer.status_code == 201


@pytest.mark.parametrize("value", ['"{}"', '"other", "{}"', "*"], ids=["one", "list", "any"])
async def test_if_match_with_the_current_digest_moves_the_tag(client: httpx2.AsyncClient, value: str) -> None:
    """`If-Match` with the tag's digest, or `*`, lets it move (compare and swap)."""
    await ready(client)

    answer = await put(client, "shop/app", "latest", SECOND, headers={"If-Match": value.replace("{}", FIRST.digest)})

    assert answer.status_code == 201
    assert await meaning(client, "shop/app", "latest") == SECOND.digest


async def test_if_match_with_another_digest_is_412(client: httpx2.AsyncClient) -> None:
    """`If-Match` with another digest is 412, and the tag does not move."""
    await ready(client)

    answer = await put(client, "shop/app", "latest", SECOND, headers={"If-Match": f'"{SECOND.digest}"'})

    assert answer.status_code == 412
    assert FIRST.digest[:19] in error_of(answer)[1]
    assert await meaning(client, "shop/app", "latest") == FIRST.digest


@pytest.mark.parametrize("value", [f'"{FIRST.digest}"', "*"], ids=["digest", "any"])
async def test_if_match_on_a_missing_tag_is_412(client: httpx2.AsyncClient, value: str) -> None:
    """`If-Match` on a missing tag is 412."""
    await push_parts(client, "shop/app", FIRST)

    answer = await put(client, "shop/app", "latest", FIRST, headers={"If-Match": value})

    assert answer.status_code == 412
    assert await meaning(client, "shop/app", "latest") is None


@pytest.mark.parametrize(
    "headers",
    [
        {"If-Match": ""},
        {"If-Match": '"unterminated'},
        {"If-Match": f'W/"{FIRST.digest}"'},
        {"If-Match": '""'},
        {"If-Match": "*, *"},
        {"If-Match": f'*, "{FIRST.digest}"x'},
        {"If-None-Match": ""},
        {"If-None-Match": '"unterminated'},
        {"If-None-Match": f'"{FIRST.digest}"'},
        {"If-None-Match": "**"},
    ],
    ids=str,
)
async def test_an_unclear_condition_never_publishes(client: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    """A condition that can't be fulfilled or parsed is 412 or 400, and never ignored."""
    await ready(client)

    answer = await put(client, "shop/app", "latest", SECOND, headers=headers)

    assert answer.status_code in {400, 412}
    assert await meaning(client, "shop/app", "latest") == FIRST.digest


async def test_contradicting_conditions_never_publish(client: httpx2.AsyncClient) -> None:
    """`If-Match: *` with `If-None-Match: *` can never be fulfilled."""
    await ready(client)

    answer = await put(client, "shop/app", "latest", SECOND, headers={"If-Match": "*", "If-None-Match": "*"})

    assert answer.status_code in {400, 412}


@pytest.mark.parametrize("reference", ["latest", FIRST.digest], ids=["tag", "digest"])
async def test_if_match_on_delete_is_checked(floating_client: httpx2.AsyncClient, reference: str) -> None:
    """DELETE with `If-Match` is 412 for another digest and deletes nothing, and 202 for the current one."""
    await ready(floating_client)
    url = f"/v2/shop/app/manifests/{reference}"

    refused = await floating_client.delete(url, headers={"If-Match": f'"{SECOND.digest}"'})
    kept = await meaning(floating_client, "shop/app", reference)
    deleted = await floating_client.delete(url, headers={"If-Match": f'"{FIRST.digest}"'})

    assert refused.status_code == 412
    assert kept == FIRST.digest
    assert deleted.status_code == 202


async def test_delete_with_if_none_match_any_never_deletes(floating_client: httpx2.AsyncClient) -> None:
    """DELETE with `If-None-Match: *` never deletes an existing tag."""
    await ready(floating_client)

    answer = await floating_client.delete(TAG, headers={"If-None-Match": "*"})

    assert answer.status_code == 412
    assert await meaning(floating_client, "shop/app", "latest") == FIRST.digest


async def test_if_none_match_any_on_a_push_by_digest(client: httpx2.AsyncClient) -> None:
    """For a push by digest, `If-None-Match: *` is 412 if the manifest exists."""
    await push_parts(client, "shop/app", FIRST)
    first = await put(client, "shop/app", FIRST.digest, FIRST, headers={"If-None-Match": "*"})
    second = await put(client, "shop/app", FIRST.digest, FIRST, headers={"If-None-Match": "*"})

    assert first.status_code == 201
    assert second.status_code == 412


async def test_a_412_takes_precedence_over_missing_blobs(client: httpx2.AsyncClient) -> None:
    """A 412 takes precedence over missing blobs."""
    await push(client, "shop/app", "latest", FIRST)

    answer = await put(client, "shop/app", "latest", SECOND, headers={"If-None-Match": "*"})

    assert answer.status_code == 412
