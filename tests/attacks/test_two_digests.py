"""Attacks with two digests of the same bytes, and with referrers of a sealed image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from boltseal.errors import NotFound, SealedDelete
from boltseal.ledger.entry import EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.server.auth.actor import Actor
from boltseal.server.registry.models import UNCONDITIONAL
from tests.bare_registry import INDEX, OCI, SHOP

if TYPE_CHECKING:
    from tests.bare_registry import BareRegistry

ROOT, ALICE, MALLORY = Actor("root", admin=True), Actor("alice"), Actor("mallory")


def named(raw: bytes, algorithm: str = "sha256", media_type: str = OCI) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(raw, algorithm)), "size": len(raw)}


def index_of(*children: bytes) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(map(named, children))}).encode()


async def holds(shop: BareRegistry, digest: Digest) -> bool:
    try:
        await shop.registry.pulls.manifest(SHOP, digest)
    except NotFound:
        return False
    return True


@pytest.mark.parametrize(("sealed", "signed"), [("sha512", "sha256"), ("sha256", "sha512")])
async def test_a_signature_by_the_other_digest_is_covered(shop: BareRegistry, sealed: str, signed: str) -> None:
    """When a tag was set by one digest and its signature names the other, another user cannot delete the signature."""
    app = await shop.image("app")
    for algorithm in ("sha256", "sha512"):
        await shop.push(app, Digest.of(app, algorithm))
    await shop.push(app, Digest.of(app, sealed), "1.0.0")
    signature = await shop.image("signature", subject=named(app, signed))
    await shop.push(signature, Digest.of(signature), actor=ALICE)

    with pytest.raises(SealedDelete):
        await shop.registry.deletes.manifest(SHOP, Digest.of(signature), UNCONDITIONAL, MALLORY)


async def test_a_signature_tag_of_an_image_stored_by_sha512_alone_is_covered(shop: BareRegistry) -> None:
    """cosign names its signature tag by sha256; that tag is protected even if the image is stored by sha512 only."""
    app, signature = await shop.image("app"), await shop.image("signature")
    await shop.push(app, Digest.of(app, "sha512"), "1.0.0")
    tag = Tag(f"sha256-{Digest.of(app).hex}.sig")
    layer = Digest.parse(json.loads(signature)["layers"][0]["digest"])
    await shop.push(signature, tag, actor=ALICE)

    with pytest.raises(SealedDelete):
        await shop.registry.deletes.tag(SHOP, tag, UNCONDITIONAL, MALLORY)
    with pytest.raises(SealedDelete):
        await shop.registry.deletes.manifest(SHOP, Digest.of(signature), UNCONDITIONAL, MALLORY)
    with pytest.raises(SealedDelete):
        await shop.registry.deletes.blob(SHOP, layer, MALLORY)


async def test_a_signature_of_a_part_by_its_other_digest_is_covered(shop: BareRegistry) -> None:
    """A signature that names a child of a sealed index by its sha512 is protected."""
    child = await shop.image("child")
    for algorithm in ("sha256", "sha512"):
        await shop.push(child, Digest.of(child, algorithm))
    await shop.push(index_of(child), "1.0.0", media_type=INDEX)
    signature = await shop.image("signature", subject=named(child, "sha512"))
    await shop.push(signature, Digest.of(signature), actor=ALICE)

    with pytest.raises(SealedDelete):
        await shop.registry.deletes.manifest(SHOP, Digest.of(signature), UNCONDITIONAL, MALLORY)


async def test_another_digest_covers_nothing_else(shop: BareRegistry) -> None:
    """Content that no seal reaches, by either digest, can still be deleted."""
    app = await shop.image("app")
    await shop.push(app, Digest.of(app, "sha512"), "latest")
    signature = await shop.image("signature", subject=named(app))
    await shop.push(signature, Digest.of(signature), actor=ALICE)
    await shop.registry.deletes.manifest(SHOP, Digest.of(signature), UNCONDITIONAL, MALLORY)

    assert not await holds(shop, Digest.of(signature))


@pytest.mark.parametrize("tags", [(), ("2.0.0",)], ids=["by digest", "with a tag"])
async def test_a_manifest_is_purged_under_its_other_digest_too(shop: BareRegistry, tags: tuple[str, ...]) -> None:
    """Pushing a manifest also by its sha512 does not keep it or its layers from being purged."""
    secret = await shop.image("a password")
    layer = Digest.parse(json.loads(secret)["layers"][0]["digest"])
    await shop.push(secret, "1.0.0")
    await shop.push(secret, Digest.of(secret, "sha512"), *tags)
    purged = await shop.registry.seals.purge(SHOP, Tag("1.0.0"), ROOT, "it holds a password")
    recorded = [entry.tag for entry in await shop.entries() if entry.kind is EntryKind.TAG_PURGED]

    assert not await holds(shop, Digest.of(secret))
    assert not await holds(shop, Digest.of(secret, "sha512"))
    assert shop.blobs.maintenance.look(layer) is None
    assert purged.kept == ()
    assert recorded == ["1.0.0", *tags]


async def test_a_purge_by_another_digest_breaks_no_sealed_index(shop: BareRegistry) -> None:
    """A purge by sha512 is refused if a sealed index contains the image by its sha256."""
    child = await shop.image("child")
    for algorithm in ("sha256", "sha512"):
        await shop.push(child, Digest.of(child, algorithm))
    await shop.push(index_of(child), "1.0.0", media_type=INDEX)

    with pytest.raises(SealedDelete):
        await shop.registry.seals.purge(SHOP, Digest.of(child, "sha512"), ROOT, "why not")
    assert await holds(shop, Digest.of(child, "sha512"))


async def test_a_purge_does_not_delete_the_signature_of_a_sealed_image(shop: BareRegistry) -> None:
    """Purging an index that lists a signature leaves the signature, which belongs to another image."""
    app = await shop.image("app")
    await shop.push(app, "1.0.0")
    signature = await shop.image("signature", subject=named(app))
    await shop.push(signature, Digest.of(signature), actor=ALICE)
    await shop.push(index_of(signature), "bait", media_type=INDEX, actor=MALLORY)
    purged = await shop.registry.seals.purge(SHOP, Tag("bait"), ROOT, "it holds a password")

    assert await holds(shop, Digest.of(signature))
    assert purged.kept[0] == (Digest.of(signature), "it signs or describes the image sealed by tag 1.0.0")
    assert purged.blobs == ()
