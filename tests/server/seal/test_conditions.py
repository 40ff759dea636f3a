"""Conditions are checked before the seal, inside the transaction: a 412 wins over a 201 and over a 409."""

from __future__ import annotations

import httpx2

from tests.images import digest_of, error_of, image, meaning, push, push_parts, put

FIRST, SECOND = image("first"), image("second")


async def test_a_412_wins_over_a_201_for_the_same_digest(client: httpx2.AsyncClient) -> None:
    """`If-None-Match: *` on a sealed tag is 412, even when the push would change nothing."""
    await push(client, "shop/app", "1.4.2", FIRST)

    answer = await put(client, "shop/app", "1.4.2", FIRST, headers={"If-None-Match": "*"})

    assert answer.status_code == 412


async def test_a_412_wins_over_a_409(client: httpx2.AsyncClient) -> None:
    """`If-None-Match: *` on a sealed tag is 412 for other content as well."""
    await push(client, "shop/app", "1.4.2", FIRST)

    answer = await put(client, "shop/app", "1.4.2", SECOND, headers={"If-None-Match": "*"})

    assert answer.status_code == 412
    assert await meaning(client, "shop/app", "1.4.2") == FIRST.digest


async def test_if_match_does_not_bypass_a_seal(client: httpx2.AsyncClient) -> None:
    """A precondition that holds does not let a sealed tag move."""
    await push(client, "shop/app", "1.4.2", FIRST)

    answer = await push(client, "shop/app", "1.4.2", SECOND, headers={"If-Match": f'"{FIRST.digest}"'})

    assert answer.status_code == 409
    assert await meaning(client, "shop/app", "1.4.2") == FIRST.digest


async def test_if_match_with_the_same_digest_is_idempotent(client: httpx2.AsyncClient) -> None:
    """`If-Match` with what the sealed tag resolves to, and the same content, is 201."""
    await push(client, "shop/app", "1.4.2", FIRST)

    answer = await put(client, "shop/app", "1.4.2", FIRST, headers={"If-Match": f'"{FIRST.digest}"'})

    assert answer.status_code == 201


async def test_all_tags_or_none_when_one_is_sealed(client: httpx2.AsyncClient) -> None:
    """With `?tag=` one tag that is sealed at other content refuses all: no tag, no manifest, no entry."""
    before = await push(client, "shop/app", "1.4.2", FIRST)
    await push_parts(client, "shop/app", SECOND)

    refused = await put(client, "shop/app", SECOND.digest, SECOND, tags=["latest", "1.4.3", "1.4.2", "1.4.4"])
    after = await put(client, "shop/app", "1.5.0", SECOND)

    assert refused.status_code == 409
    assert "1.4.2" in error_of(refused)[1]
    assert "OCI-Tag" not in refused.headers
    for tag in ("latest", "1.4.3", "1.4.4"):
        assert await meaning(client, "shop/app", tag) is None
    assert int(after.headers["Boltseal-Ledger-Index"]) == int(before.headers["Boltseal-Ledger-Index"]) + 1


async def test_all_tags_when_the_sealed_ones_have_the_same_digest(client: httpx2.AsyncClient) -> None:
    """Tags that are sealed at the pushed digest do not block the others."""
    await push(client, "shop/app", "1.4.2", FIRST)

    answer = await put(client, "shop/app", FIRST.digest, FIRST, tags=["1.4.2", "1.4", "latest"])

    assert answer.status_code == 201
    for tag in ("1.4.2", "1.4", "latest"):
        assert await meaning(client, "shop/app", tag) == FIRST.digest


async def test_a_condition_holds_for_each_tag(client: httpx2.AsyncClient) -> None:
    """`If-None-Match: *` with `?tag=`: one tag that is there refuses all."""
    await push(client, "shop/app", "latest", FIRST)
    await push_parts(client, "shop/app", SECOND)

    refused = await put(
        client, "shop/app", SECOND.digest, SECOND, tags=["1.5.0", "latest"], headers={"If-None-Match": "*"}
    )
    accepted = await put(
        client, "shop/app", SECOND.digest, SECOND, tags=["1.5.0", "1.5"], headers={"If-None-Match": "*"}
    )

    assert refused.status_code == 412
    assert accepted.status_code == 201
    assert await meaning(client, "shop/app", "1.5.0") == SECOND.digest


async def test_if_match_applies_to_each_tag(client: httpx2.AsyncClient) -> None:
    """`If-Match` with `?tag=`: each tag must resolve to it, or none moves."""
    await push(client, "shop/app", "latest", FIRST)
    await push(client, "shop/app", "edge", SECOND)
    third = image("third")
    await push_parts(client, "shop/app", third)

    refused = await put(
        client,
        "shop/app",
        third.digest,
        third,
        tags=["latest", "edge"],
        headers={"If-Match": f'"{FIRST.digest}"'},
    )

    assert refused.status_code == 412
    assert await meaning(client, "shop/app", "latest") == FIRST.digest
    assert await meaning(client, "shop/app", "edge") == SECOND.digest


async def test_if_match_by_the_other_algorithm(client: httpx2.AsyncClient) -> None:
    """A tag that was given by a sha512 digest matches the ETag that its pull shows."""
    await push_parts(client, "shop/app", FIRST)
    await put(client, "shop/app", digest_of(FIRST.raw, "sha512"), FIRST, tags=["latest"])
    etag = (await client.head("/v2/shop/app/manifests/latest")).headers["ETag"]

    answer = await push(client, "shop/app", "latest", SECOND, headers={"If-Match": etag})

    assert answer.status_code == 201


async def test_a_delete_of_a_sealed_tag_with_a_wrong_condition_is_412(client: httpx2.AsyncClient) -> None:
    """The condition is judged before the seal on DELETE too."""
    await push(client, "shop/app", "1.4.2", FIRST)

    answer = await client.delete("/v2/shop/app/manifests/1.4.2", headers={"If-Match": f'"{SECOND.digest}"'})

    assert answer.status_code == 412
