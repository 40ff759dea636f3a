"""Conditions are checked before the seal in the same transaction: 412 takes precedence over 201 and 409."""

from __future__ import annotations

import httpx2

from tests.images import digest_of, error_of, image, meaning, push, push_parts, put

FIRST, SECOND = image("first"), image("second")


async def test_a_412_takes_precedence_over_a_201_for_the_same_digest(client: httpx2.AsyncClient) -> None:
    """`If-None-Match: *` on a sealed tag is 412, even if the push would change nothing."""
    await push(client, "shop/app", "1.4.2", FIRST)

    answer = await put(client, "shop/app", "1.4.2", FIRST, headers={"If-None-Match": "*"})

    assert answer.status_code == 412


async def test_a_412_takes_precedence_over_a_409(client: httpx2.AsyncClient) -> None:
    """`If-None-Match: *` on a sealed tag is 412 for other content too."""
    await push(client, "shop/app", "1.4.2", FIRST)

    answer = await put(client, "shop/app", "1.4.2", SECOND, headers={"If-None-Match": "*"})

    assert answer.status_code == 412
    assert await meaning(client, "shop/app", "1.4.2") == FIRST.digest


async def test_if_match_does_not_bypass_a_seal(client: httpx2.AsyncClient) -> None:
    """A fulfilled `If-Match` does not let a sealed tag move."""
    await push(client, "shop/app", "1.4.2", FIRST)

    answer = await push(client, "shop/app", "1.4.2", SECOND, headers={"If-Match": f'"{FIRST.digest}"'})

    assert answer.status_code == 409
    assert await meaning(client, "shop/app", "1.4.2") == FIRST.digest


async def test_if_match_with_the_same_digest_is_idempotent(client: httpx2.AsyncClient) -> None:
    """`If-Match` with the sealed tag's digest and the same content is 201."""
    await push(client, "shop/app", "1.4.2", FIRST)

    answer = await put(client, "shop/app", "1.4.2", FIRST, headers={"If-Match": f'"{FIRST.digest}"'})

    assert answer.status_code == 201


async def test_all_tags_or_none_when_one_is_sealed(client: httpx2.AsyncClient) -> None:
    """With `?tag=`, one tag sealed at other content refuses the push: no tag, no manifest, no entry."""
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
    """With `?tag=`, tags sealed at the pushed digest do not block the others."""
    await push(client, "shop/app", "1.4.2", FIRST)

    answer = await put(client, "shop/app", FIRST.digest, FIRST, tags=["1.4.2", "1.4", "latest"])

    assert answer.status_code == 201
    for tag in ("1.4.2", "1.4", "latest"):
        assert await meaning(client, "shop/app", tag) == FIRST.digest


async def test_a_condition_applies_to_each_tag(client: httpx2.AsyncClient) -> None:
    """With `?tag=`, `If-None-Match: *` is 412 if one of the tags exists."""
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
    """With `?tag=` and `If-Match`, each tag must resolve to that digest, or none moves."""
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
    """`If-Match` accepts the ETag that a pull shows for a tag that was pushed by sha512."""
    await push_parts(client, "shop/app", FIRST)
    await put(client, "shop/app", digest_of(FIRST.raw, "sha512"), FIRST, tags=["latest"])
    etag = (await client.head("/v2/shop/app/manifests/latest")).headers["ETag"]

    answer = await push(client, "shop/app", "latest", SECOND, headers={"If-Match": etag})

    assert answer.status_code == 201


async def test_a_delete_of_a_sealed_tag_with_a_wrong_condition_is_412(client: httpx2.AsyncClient) -> None:
    """DELETE with a wrong condition is 412 for a sealed tag, before the seal is checked."""
    await push(client, "shop/app", "1.4.2", FIRST)

    answer = await client.delete("/v2/shop/app/manifests/1.4.2", headers={"If-Match": f'"{SECOND.digest}"'})

    assert answer.status_code == 412
