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
    """After `tag unseal` other content is refused as before, and the same is accepted as before."""
    first = await push(registry.client, "shop/app", "1.4.2", FIRST)
    await unseal(registry)

    refused = await push(registry.client, "shop/app", "1.4.2", SECOND)
    again = await put(registry.client, "shop/app", "1.4.2", FIRST)

    assert refused.status_code == 409
    assert "sealed at" in error_of(refused)[1]
    assert again.status_code == 201
    assert int(again.headers["Boltseal-Ledger-Index"]) == int(first.headers["Boltseal-Ledger-Index"]) + 1


async def test_an_unsealed_tag_can_be_deleted(registry: Serving) -> None:
    """After `tag unseal` a running server lets the tag, its manifest and its blobs be deleted."""
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


async def test_deleting_what_was_unsealed_leaves_a_tombstone(registry: Serving) -> None:
    """The name can come back only with the same digest; then it holds and is kept again."""
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
    """The second `tag unseal` changes nothing, so it writes nothing."""
    first = await push(registry.client, "shop/app", "1.4.2", FIRST)
    await unseal(registry)
    await unseal(registry)
    last = await put(registry.client, "shop/app", "1.4.3", FIRST)

    assert int(last.headers["Boltseal-Ledger-Index"]) == int(first.headers["Boltseal-Ledger-Index"]) + 2


async def test_unsealing_one_tag_leaves_the_others(registry: Serving) -> None:
    """A manifest that another sealed tag means is still kept."""
    await push(registry.client, "shop/app", "1.4.2", FIRST)
    await put(registry.client, "shop/app", "1.4", FIRST)
    await unseal(registry)
    tag = await registry.client.delete(TAG)
    manifest = await registry.client.delete(f"/v2/shop/app/manifests/{FIRST.digest}")

    assert tag.status_code == 202
    assert manifest.status_code == 405


async def test_unsealing_an_image_frees_its_signatures(registry: Serving) -> None:
    """Signatures are kept while their image is: unsealed, it lets them go."""
    client = registry.client
    await push(client, "shop/app", "1.4.2", FIRST)
    await push(client, "shop/app", signature_tag(FIRST), signature(FIRST, "alice"))
    before = await client.delete(f"/v2/shop/app/manifests/{signature_tag(FIRST)}")
    await unseal(registry)
    after = await client.delete(f"/v2/shop/app/manifests/{signature_tag(FIRST)}")

    assert before.status_code == 405
    assert after.status_code == 202


async def test_what_floats_can_not_be_unsealed(registry: Serving) -> None:
    """There is no seal to lift on a tag that was never sealed."""
    await push(registry.client, "shop/app", "latest", FIRST)

    with seals_of(registry.data) as seals, pytest.raises(Invalid, match="never sealed"):
        await seals.unseal(APP, Tag("latest"), ADMIN, "why not")


@pytest.mark.parametrize("repository", ["shop/app", "nowhere"])
async def test_an_unknown_tag_can_not_be_unsealed(registry: Serving, repository: str) -> None:
    """An unknown tag has an error of its own."""
    await push(registry.client, "shop/app", "1.4.2", FIRST)

    with seals_of(registry.data) as seals, pytest.raises(NotFound):
        await seals.unseal(Repository(repository), Tag("9.9.9"), ADMIN, "why not")


async def test_sealing_a_floating_tag_by_hand(registry: Serving) -> None:
    """`tag seal` binds a floating tag to what it means: a running server refuses to move or delete it at once."""
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


async def test_sealing_by_hand_needs_everything(registry: Serving) -> None:
    """A floating tag that lacks a blob can't be sealed by hand either."""
    await put(registry.client, "shop/app", "latest", FIRST)

    with seals_of(registry.data) as seals, pytest.raises(Invalid, match="lacks"):
        await seals.seal(APP, Tag("latest"), ADMIN, "the release")


async def test_sealing_again_what_was_unsealed(registry: Serving) -> None:
    """`tag seal` puts the protection back."""
    await push(registry.client, "shop/app", "1.4.2", FIRST)
    await unseal(registry)
    with seals_of(registry.data) as seals:
        await seals.seal(APP, RELEASE, ADMIN, "not a mistake after all")
    answer = await registry.client.delete(TAG)

    assert answer.status_code == 405
