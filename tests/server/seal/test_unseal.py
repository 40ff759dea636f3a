"""`tag unseal` lifts only the protection against deletion; `tag seal` seals a mutable tag. Both are recorded."""

from __future__ import annotations

import pytest

from boltseal.errors import Invalid, NotFound
from boltseal.oci.reference import Repository, Tag
from tests.images import error_of, holds_blob, image, meaning, push, put, signature, signature_tag
from tests.server.seal.admin import ADMIN, APP, RELEASE, seals_of
from tests.serving import Serving

FIRST, SECOND = image("first"), image("second")
TAG = "/v2/shop/app/manifests/1.4.2"


async def unseal(registry: Serving) -> None:
    with seals_of(registry.data) as seals:
        await seals.unseal(APP, RELEASE, ADMIN, "it was a mistake")


async def test_an_unsealed_tag_still_can_not_move(registry: Serving) -> None:
    """After `tag unseal`, other content is refused and the same content accepted, as before."""
    first = await push(registry.client, "shop/app", "1.4.2", FIRST)
    await unseal(registry)

    refused = await push(registry.client, "shop/app", "1.4.2", SECOND)
    again = await put(registry.client, "shop/app", "1.4.2", FIRST)

    assert refused.status_code == 409
    assert "sealed at" in error_of(refused)[1]
    assert again.status_code == 201
    assert int(again.headers["Boltseal-Ledger-Index"]) == int(first.headers["Boltseal-Ledger-Index"]) + 1


async def test_an_unsealed_tag_can_be_deleted(registry: Serving) -> None:
    """After `tag unseal`, a running server allows deletion of the tag, its manifest and its blobs."""
    client = registry.client
    await push(client, "shop/app", "1.4.2", FIRST)
    await client.get(TAG)
    before = await client.delete(TAG)
    await unseal(registry)

    answers = [
        await client.delete(TAG),
        await client.delete(f"/v2/shop/app/manifests/{FIRST.digest}"),
        await client.delete(f"/v2/shop/app/blobs/{FIRST.config.digest}"),
    ]

    assert before.status_code == 405
    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert await meaning(client, "shop/app", "1.4.2") is None
    assert not await holds_blob(client, "shop/app", FIRST.config.digest)


async def test_deleting_an_unsealed_tag_leaves_a_tombstone(registry: Serving) -> None:
    """After the deletion of an unsealed tag, it can return only with the same digest, and is then sealed again."""
    client = registry.client
    await push(client, "shop/app", "1.4.2", FIRST)
    await unseal(registry)
    await client.delete(TAG)
    refused = await push(client, "shop/app", "1.4.2", SECOND)
    returned = await push(client, "shop/app", "1.4.2", FIRST)
    kept = await client.delete(TAG)

    assert refused.status_code == 409
    assert FIRST.digest in error_of(refused)[1]
    assert returned.status_code == 201
    assert kept.status_code == 405


async def test_unsealing_twice_is_recorded_once(registry: Serving) -> None:
    """A second `tag unseal` changes and records nothing."""
    first = await push(registry.client, "shop/app", "1.4.2", FIRST)
    await unseal(registry)
    await unseal(registry)
    last = await put(registry.client, "shop/app", "1.4.3", FIRST)

    assert int(last.headers["Boltseal-Ledger-Index"]) == int(first.headers["Boltseal-Ledger-Index"]) + 2


async def test_unsealing_one_tag_leaves_the_others(registry: Serving) -> None:
    """A manifest is still kept if another sealed tag resolves to it."""
    await push(registry.client, "shop/app", "1.4.2", FIRST)
    await put(registry.client, "shop/app", "1.4", FIRST)
    await unseal(registry)
    tag = await registry.client.delete(TAG)
    manifest = await registry.client.delete(f"/v2/shop/app/manifests/{FIRST.digest}")

    assert tag.status_code == 202
    assert manifest.status_code == 405


async def test_unsealing_an_image_frees_its_signatures(registry: Serving) -> None:
    """After `tag unseal` the image's signatures can be deleted."""
    client = registry.client
    await push(client, "shop/app", "1.4.2", FIRST)
    await push(client, "shop/app", signature_tag(FIRST), signature(FIRST, "alice"))
    before = await client.delete(f"/v2/shop/app/manifests/{signature_tag(FIRST)}")
    await unseal(registry)
    after = await client.delete(f"/v2/shop/app/manifests/{signature_tag(FIRST)}")

    assert before.status_code == 405
    assert after.status_code == 202


async def test_a_mutable_tag_can_not_be_unsealed(registry: Serving) -> None:
    """`tag unseal` of a tag that was never sealed is an error."""
    await push(registry.client, "shop/app", "latest", FIRST)

    with seals_of(registry.data) as seals, pytest.raises(Invalid, match="never sealed"):
        await seals.unseal(APP, Tag("latest"), ADMIN, "why not")


@pytest.mark.parametrize("repository", ["shop/app", "nowhere"])
async def test_an_unknown_tag_can_not_be_unsealed(registry: Serving, repository: str) -> None:
    """`tag unseal` of an unknown tag has its own error."""
    await push(registry.client, "shop/app", "1.4.2", FIRST)

    with seals_of(registry.data) as seals, pytest.raises(NotFound):
        await seals.unseal(Repository(repository), Tag("9.9.9"), ADMIN, "why not")


async def test_a_floating_tag_is_sealed_by_the_command(registry: Serving) -> None:
    """`tag seal` seals a mutable tag at its digest: a running server refuses at once to move or delete it."""
    client = registry.client
    first = await push(client, "shop/app", "latest", FIRST)
    await push(client, "shop/app", SECOND.digest, SECOND)
    with seals_of(registry.data) as seals:
        await seals.seal(APP, Tag("latest"), ADMIN, "the release")
    moved = await put(client, "shop/app", "latest", SECOND)
    deleted = await client.delete("/v2/shop/app/manifests/latest")
    again = await put(client, "shop/app", "latest", FIRST)

    assert moved.status_code == 409
    assert "by root" in error_of(moved)[1]
    assert deleted.status_code == 405
    assert int(again.headers["Boltseal-Ledger-Index"]) == int(first.headers["Boltseal-Ledger-Index"]) + 1


async def test_sealing_by_the_command_needs_complete_content(registry: Serving) -> None:
    """`tag seal` refuses a mutable tag whose image lacks a blob."""
    await put(registry.client, "shop/app", "latest", FIRST)

    with seals_of(registry.data) as seals, pytest.raises(Invalid, match="lacks"):
        await seals.seal(APP, Tag("latest"), ADMIN, "the release")


async def test_an_unsealed_tag_is_sealed_again(registry: Serving) -> None:
    """`tag seal` restores the protection of an unsealed tag."""
    await push(registry.client, "shop/app", "1.4.2", FIRST)
    await unseal(registry)
    with seals_of(registry.data) as seals:
        await seals.seal(APP, RELEASE, ADMIN, "not a mistake after all")
    answer = await registry.client.delete(TAG)

    assert answer.status_code == 405
