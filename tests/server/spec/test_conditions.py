"""Conditional requests: `If-None-Match` on pulls; `If-None-Match: *` and `If-Match` on pushes and deletions (RFC 9110 section 13)."""

from __future__ import annotations

import httpx2
import pytest

from tests.images import error_of, image, meaning, push, push_parts, put

FIRST, SECOND = image("first"), image("second")
TAG = "/v2/shop/app/manifests/latest"


async def ready(client: httpx2.AsyncClient) -> None:
    """`latest` resolves to FIRST, and the blobs of SECOND are pushed."""
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
async def test_what_the_client_has_is_304(client: httpx2.AsyncClient, method: str, value: str) -> None:
    """If-None-Match with the tag's digest, in any form that clients send, is 304 without a body."""
    await ready(client)

    answer = await client.request(method, TAG, headers={"If-None-Match": value.replace("{}", FIRST.digest)})

    assert answer.status_code == 304
    assert answer.content == b""
    assert answer.headers["ETag"] == f'"{FIRST.digest}"'
    assert answer.headers["Docker-Content-Digest"] == FIRST.digest


async def test_what_the_client_has_not_is_200(client: httpx2.AsyncClient) -> None:
    """If-None-Match with anything else is an ordinary pull."""
    await ready(client)

    answer = await client.get(TAG, headers={"If-None-Match": f'"{SECOND.digest}"'})

    assert answer.status_code == 200
    assert answer.content == FIRST.raw


async def test_a_moved_tag_is_200_again(client: httpx2.AsyncClient) -> None:
    """A 304 becomes a 200 once the tag has moved."""
    await ready(client)
    await put(client, "shop/app", "latest", SECOND)

    answer = await client.get(TAG, headers={"If-None-Match": f'"{FIRST.digest}"'})

    assert answer.status_code == 200
    assert answer.content == SECOND.raw


async def test_blobs_have_etags_too(client: httpx2.AsyncClient) -> None:
    """If-None-Match on a blob is 304 as well."""
    await ready(client)
    url = f"/v2/shop/app/blobs/{FIRST.config.digest}"

    answer = await client.get(url, headers={"If-None-Match": f'"{FIRST.config.digest}"'})

    assert answer.status_code == 304


async def test_a_missing_manifest_is_404_whatever_the_condition(client: httpx2.AsyncClient) -> None:
    """A condition does not make a missing thing exist."""
    answer = await client.get("/v2/shop/app/manifests/1.0.0", headers={"If-None-Match": "*"})

    assert answer.status_code == 404


async def test_publish_only_if_free(client: httpx2.AsyncClient) -> None:
    """`If-None-Match: *` publishes a tag that is not there."""
    await push_parts(client, "shop/app", FIRST)

    answer = await put(client, "shop/app", "latest", FIRST, headers={"If-None-Match": "*"})

    assert answer.status_code == 201


@pytest.mark.parametrize("document", [FIRST, SECOND], ids=["same", "other"])
async def test_publish_only_if_free_is_412_when_it_is_not(client: httpx2.AsyncClient, document: object) -> None:
    """`If-None-Match: *` on a tag that is there is 412, also for the same digest, and changes nothing."""
    await ready(client)
    pushed = FIRST if document is FIRST else SECOND

    answer = await put(client, "shop/app", "latest", pushed, headers={"If-None-Match": "*"})

    assert answer.status_code == 412
    assert error_of(answer)[0] == "DENIED"
    assert "latest" in error_of(answer)[1]
    assert await meaning(client, "shop/app", "latest") == FIRST.digest


async def test_a_deleted_tag_is_free(floating_client: httpx2.AsyncClient) -> None:
    """`If-None-Match: *` publishes a floating tag again that was deleted."""
    await ready(floating_client)
    await floating_client.delete(TAG)

    answer = await put(floating_client, "shop/app", "latest", SECOND, headers={"If-None-Match": "*"})

    assert answer.status_code == 201


@pytest.mark.parametrize("value", ['"{}"', '"other", "{}"', "*"], ids=["one", "list", "any"])
async def test_move_only_from_what_i_saw(client: httpx2.AsyncClient, value: str) -> None:
    """`If-Match` with the tag's digest (or `*`) lets it move: compare and swap."""
    await ready(client)

    answer = await put(client, "shop/app", "latest", SECOND, headers={"If-Match": value.replace("{}", FIRST.digest)})

    assert answer.status_code == 201
    assert await meaning(client, "shop/app", "latest") == SECOND.digest


async def test_move_only_from_what_i_saw_is_412_when_it_moved(client: httpx2.AsyncClient) -> None:
    """`If-Match` with anything else is 412, and the tag stays."""
    await ready(client)

    answer = await put(client, "shop/app", "latest", SECOND, headers={"If-Match": f'"{SECOND.digest}"'})

    assert answer.status_code == 412
    assert FIRST.digest[:19] in error_of(answer)[1]
    assert await meaning(client, "shop/app", "latest") == FIRST.digest


@pytest.mark.parametrize("value", [f'"{FIRST.digest}"', "*"], ids=["digest", "any"])
async def test_if_match_on_a_tag_that_is_not_there_is_412(client: httpx2.AsyncClient, value: str) -> None:
    """Nothing matches what does not exist."""
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
async def test_a_condition_that_can_not_hold_or_be_read_never_publishes(
    client: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    """An unclear condition is not fulfilled: 412 or 400, never ignored."""
    await ready(client)

    answer = await put(client, "shop/app", "latest", SECOND, headers=headers)

    assert answer.status_code in {400, 412}
    assert await meaning(client, "shop/app", "latest") == FIRST.digest


async def test_both_conditions_must_hold(client: httpx2.AsyncClient) -> None:
    """`If-Match: *` and `If-None-Match: *` together can never hold."""
    await ready(client)

    answer = await put(client, "shop/app", "latest", SECOND, headers={"If-Match": "*", "If-None-Match": "*"})

    assert answer.status_code in {400, 412}


@pytest.mark.parametrize("reference", ["latest", FIRST.digest], ids=["tag", "digest"])
async def test_delete_only_what_i_saw(floating_client: httpx2.AsyncClient, reference: str) -> None:
    """`If-Match` on DELETE: 412 when it does not hold, and nothing is deleted; 202 when it does."""
    await ready(floating_client)
    url = f"/v2/shop/app/manifests/{reference}"

    refused = await floating_client.delete(url, headers={"If-Match": f'"{SECOND.digest}"'})
    kept = await meaning(floating_client, "shop/app", reference)
    deleted = await floating_client.delete(url, headers={"If-Match": f'"{FIRST.digest}"'})

    assert refused.status_code == 412
    assert kept == FIRST.digest
    assert deleted.status_code == 202


async def test_delete_with_if_none_match_any_never_deletes(floating_client: httpx2.AsyncClient) -> None:
    """`If-None-Match: *` on DELETE can't hold for what is there."""
    await ready(floating_client)

    answer = await floating_client.delete(TAG, headers={"If-None-Match": "*"})

    assert answer.status_code == 412
    assert await meaning(floating_client, "shop/app", "latest") == FIRST.digest


async def test_push_by_digest_only_if_it_is_new(client: httpx2.AsyncClient) -> None:
    """The name of a push by digest is the digest: `If-None-Match: *` is 412 once the manifest is there."""
    await push_parts(client, "shop/app", FIRST)
    first = await put(client, "shop/app", FIRST.digest, FIRST, headers={"If-None-Match": "*"})
    second = await put(client, "shop/app", FIRST.digest, FIRST, headers={"If-None-Match": "*"})

    assert first.status_code == 201
    assert second.status_code == 412


async def test_a_refused_condition_needs_no_blobs(client: httpx2.AsyncClient) -> None:
    """A 412 takes precedence over missing blobs: the condition is about the name."""
    await push(client, "shop/app", "latest", FIRST)

    answer = await put(client, "shop/app", "latest", SECOND, headers={"If-None-Match": "*"})

    assert answer.status_code == 412
