"""The tag writer: which changes of a tag it accepts, and what it records."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from boltseal.errors import NotFound, Precondition, SealedDelete, SealedPut
from boltseal.ledger.entry import EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import ManifestInvalid
from boltseal.oci.reference import Tag
from boltseal.server.auth.actor import Actor
from boltseal.server.registry.models import UNCONDITIONAL, Conditions, Published
from boltseal.server.registry.sequencer import ClockBehind
from boltseal.server.registry.tag_refusals import ReferencesMissing
from tests.bare_registry import DAY_US, OCI, SHOP, START_US

if TYPE_CHECKING:
    from tests.bare_registry import BareRegistry, Opener

CI = Actor("ci")
ADMIN = Actor("root", admin=True)


async def test_the_first_push_seals_and_is_recorded(shop: BareRegistry) -> None:
    """A version tag is sealed by its first push, which the ledger records."""
    body = await shop.image("one")
    published = await shop.push(body, "1.4.2", actor=CI)
    answer = await shop.registry.pulls.manifest(SHOP, Tag("1.4.2"))
    entry = (await shop.entries())[-1]

    assert published == Published(Digest.of(body), (Tag("1.4.2"),), None, 2, created=True)
    assert (answer.raw, answer.media_type, answer.sealed) == (body, OCI, True)
    assert (entry.kind, entry.tag, entry.digest, entry.size) == (
        EntryKind.TAG_CREATED,
        "1.4.2",
        str(Digest.of(body)),
        len(body),
    )
    assert (entry.previous, entry.was, entry.actor) == (-1, "", "ci")
    assert entry.extra == {"mode": "sealed", "keep": "forever"}


async def test_the_same_push_again_is_accepted_and_writes_nothing(shop: BareRegistry) -> None:
    """Repeating a push returns the index of the existing entry and writes nothing."""
    body = await shop.image("one")
    first = await shop.push(body, "1.4.2")
    before = await shop.entries()
    second = await shop.push(body, "1.4.2")

    assert second.ledger_index == first.ledger_index
    assert not second.created
    assert await shop.entries() == before


async def test_another_digest_is_refused_and_leaves_no_row(shop: BareRegistry) -> None:
    """A refused push adds neither a manifest nor an entry."""
    one, two = await shop.image("one"), await shop.image("two")
    await shop.push(one, "1.4.2", actor=CI)
    before = await shop.entries()
    with pytest.raises(SealedPut) as refused:
        await shop.push(two, "1.4.2")

    assert str(refused.value) == (
        f"tag 1.4.2 of shop/app is sealed at {Digest.of(one).short} since 2026-11-24 by ci; "
        f"this push is {Digest.of(two).short}; publish under a new tag (free: 1.4.3)"
    )
    assert await shop.entries() == before
    with pytest.raises(NotFound):
        await shop.registry.pulls.manifest(SHOP, Digest.of(two))


async def test_of_many_first_pushes_exactly_one_wins(shop: BareRegistry) -> None:
    """Of concurrent first pushes of different manifests to one tag, one succeeds and the others are refused."""
    bodies = [await shop.image(str(n)) for n in range(12)]
    results = await asyncio.gather(*(shop.push(body, "2.0.0") for body in bodies), return_exceptions=True)
    winners = [result for result in results if isinstance(result, Published)]
    answer = await shop.registry.pulls.manifest(SHOP, Tag("2.0.0"))

    assert len(winners) == 1
    assert sum(isinstance(result, SealedPut) for result in results) == 11
    assert answer.digest == winners[0].digest


async def test_a_floating_tag_moves_and_the_old_digest_stays(shop: BareRegistry) -> None:
    """When a mutable tag moves, its former digest stays pullable, and the entry names it."""
    one, two = await shop.image("one"), await shop.image("two")
    await shop.push(one, "latest")
    moved = await shop.push(two, "latest")
    entry = (await shop.entries())[-1]
    old = await shop.registry.pulls.manifest(SHOP, Digest.of(one))

    assert old.raw == one
    assert (entry.kind, entry.was, entry.previous) == (
        EntryKind.TAG_MOVED,
        str(Digest.of(one)),
        moved.ledger_index - 1 if moved.ledger_index else -1,
    )
    assert (await shop.registry.pulls.manifest(SHOP, Tag("latest"))).raw == two


async def test_changing_the_rules_never_unseals(open_shop: Opener) -> None:
    """A sealed tag stays sealed under new rules that make such tags mutable."""
    shop = open_shop()
    one, two = await shop.image("one"), await shop.image("two")
    await shop.push(one, "1.4.2")
    later = open_shop({"tag": "**", "mode": "floating"})
    with pytest.raises(SealedPut):
        await later.push(two, "1.4.2")

    assert [entry.kind for entry in await later.entries()][-1] == EntryKind.RULES_CHANGED


async def test_a_floating_tag_is_sealed_when_a_rule_now_seals_it(open_shop: Opener) -> None:
    """A mutable tag that a rule now seals is sealed by its next push, at the pushed digest."""
    shop = open_shop({"tag": "rc*", "mode": "floating"})
    one, two, three = [await shop.image(salt) for salt in ("one", "two", "three")]
    await shop.push(one, "rc1")
    await shop.push(one, "rc2")
    later = open_shop()
    await later.push(two, "rc1")
    await later.push(one, "rc2")
    kinds = [(entry.kind, entry.tag) for entry in (await later.entries())[-2:]]

    assert kinds == [(EntryKind.TAG_MOVED, "rc1"), (EntryKind.TAG_SEALED, "rc2")]
    for tag in ("rc1", "rc2"):
        with pytest.raises(SealedPut):
            await later.push(three, tag)


async def test_unseal_lifts_only_the_protection_against_deletion(shop: BareRegistry) -> None:
    """An unsealed tag still can't move; after a delete it can return only with the same manifest."""
    one, two = await shop.image("one"), await shop.image("two")
    await shop.push(one, "1.4.2")
    with pytest.raises(SealedDelete):
        await shop.registry.deletes.tag(SHOP, Tag("1.4.2"), UNCONDITIONAL, CI)
    await shop.registry.seals.unseal(SHOP, Tag("1.4.2"), ADMIN, "a mistake")
    with pytest.raises(SealedPut, match="sealed at"):
        await shop.push(two, "1.4.2")
    await shop.registry.deletes.tag(SHOP, Tag("1.4.2"), UNCONDITIONAL, CI)
    with pytest.raises(NotFound):
        await shop.registry.pulls.manifest(SHOP, Tag("1.4.2"))
    with pytest.raises(SealedPut, match=f"can return only with {Digest.of(one)}"):
        await shop.push(two, "1.4.2")
    await shop.push(one, "1.4.2")
    kinds = [entry.kind for entry in await shop.entries()][2:]

    assert kinds == [EntryKind.TAG_CREATED, EntryKind.TAG_UNSEALED, EntryKind.TAG_DELETED, EntryKind.TAG_CREATED]
    assert (await shop.registry.pulls.manifest(SHOP, Tag("1.4.2"))).raw == one


async def test_a_seal_covers_everything_under_it(shop: BareRegistry) -> None:
    """Index, child, config and layer of a sealed tag can't be deleted by digest."""
    child = await shop.image("child")
    await shop.push(child, Digest.of(child))
    index = (
        '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":['
        f'{{"mediaType":"{OCI}","digest":"{Digest.of(child)}","size":{len(child)}}}]}}'
    ).encode()
    await shop.push(index, "3.0.0", media_type="application/vnd.oci.image.index.v1+json")
    deletes = shop.registry.deletes
    for digest in (Digest.of(index), Digest.of(child)):
        with pytest.raises(SealedDelete, match=r"(is|is part of) what tag 3\.0\.0 seals"):
            await deletes.manifest(SHOP, digest, UNCONDITIONAL, CI)
    for data in (b'{"salt":"child"}', b"layer child"):
        with pytest.raises(SealedDelete, match=r"is part of what tag 3\.0\.0 seals"):
            await deletes.blob(SHOP, Digest.of(data), CI)

    assert (await shop.registry.pulls.manifest(SHOP, Digest.of(child))).raw == child


async def test_sealed_tags_need_complete_content_and_mutable_ones_do_not(shop: BareRegistry) -> None:
    """A sealed tag needs its complete content; mutable tags and pushes by digest may be sparse."""
    body = await shop.image("one")
    holed = body.replace(str(Digest.of(b"layer one")).encode(), b"sha256:" + b"0" * 64)
    with pytest.raises(ReferencesMissing, match="lacks sha256:0000"):
        await shop.push(holed, "1.0.0")
    await shop.push(holed, "latest")
    await shop.push(holed, Digest.of(holed))
    with pytest.raises(ReferencesMissing):
        await shop.registry.seals.seal(SHOP, Tag("latest"), ADMIN, "")

    assert (await shop.registry.pulls.manifest(SHOP, Tag("latest"))).raw == holed


async def test_a_manifest_with_another_size_than_the_stored_blob_is_refused(shop: BareRegistry) -> None:
    """A manifest with a wrong size for a stored blob is refused, because no client could pull the image."""
    body = await shop.image("one")
    wrong = body.replace(b'"size": 9', b'"size": 8')
    for reference in ("1.0.0", "latest", Digest.of(wrong)):
        with pytest.raises(ManifestInvalid, match="has 8 bytes, but the content in shop/app has 9"):
            await shop.push(wrong, reference)
    await shop.push(body, "1.0.0")

    assert (await shop.registry.pulls.manifest(SHOP, Tag("1.0.0"))).raw == body


async def test_conditions_take_precedence_over_the_seal(shop: BareRegistry) -> None:
    """A failed precondition is 412 even for the same digest, and all tags of a push are published or none."""
    one, two = await shop.image("one"), await shop.image("two")
    await shop.push(one, "1.0.0")
    absent, same = Conditions(if_none_match_any=True), Conditions(if_match=frozenset({str(Digest.of(one))}))
    with pytest.raises(Precondition):
        await shop.push(one, "1.0.0", conditions=absent)
    with pytest.raises(Precondition):
        await shop.push(one, "1.0.1", "1.0.0", conditions=absent)
    with pytest.raises(NotFound):
        await shop.registry.pulls.manifest(SHOP, Tag("1.0.1"))
    await shop.push(one, "latest")
    await shop.push(two, "latest", conditions=same)
    with pytest.raises(Precondition):
        await shop.push(one, "latest", conditions=same)

    assert (await shop.registry.pulls.manifest(SHOP, Tag("latest"))).raw == two


async def test_a_digest_keeps_its_first_media_type(shop: BareRegistry) -> None:
    """Bytes that are stored can't be pushed under another media type (CVE-2021-41190)."""
    body = (await shop.image("one")).replace(f'"mediaType": "{OCI}", '.encode(), b"")
    await shop.push(body, Digest.of(body))
    with pytest.raises(ManifestInvalid):
        await shop.push(body, "1.0.0", media_type="application/vnd.docker.distribution.manifest.v2+json")

    assert (await shop.registry.pulls.manifest(SHOP, Digest.of(body))).media_type == OCI


async def test_an_expired_keep_leaves_the_tag_sealed(open_shop: Opener) -> None:
    """`keep = "30d"` protects the bytes for thirty days, and the tag for ever."""
    shop = open_shop({"tag": "nightly-*", "keep": "30d"})
    one, two = await shop.image("one"), await shop.image("two")
    await shop.push(one, "nightly-1")
    early = (await shop.registry.seals.expire(ADMIN)).expired
    with pytest.raises(SealedDelete, match="for 30 days"):
        await shop.registry.deletes.tag(SHOP, Tag("nightly-1"), UNCONDITIONAL, CI)
    shop.clock.now_us += 31 * DAY_US
    planned = (await shop.registry.seals.expire(ADMIN, dry_run=True)).expired
    expired = (await shop.registry.seals.expire(ADMIN)).expired
    with pytest.raises(SealedPut):
        await shop.push(two, "nightly-1")

    assert early == []
    assert planned == expired == [(SHOP, Tag("nightly-1"))]
    assert (await shop.entries())[-1].kind == EntryKind.TAG_EXPIRED


async def test_a_purge_deletes_unshared_content(shop: BareRegistry) -> None:
    """A purge deletes unshared bytes, lists shared ones, and the tags can return only with the same digest."""
    secret = await shop.image("secret")
    await shop.push(secret, "1.0.0", "1.0")
    shared = await shop.image("secret", annotations={"another": "image"})
    await shop.push(shared, "1.1.0")
    first = await shop.registry.seals.purge(SHOP, Tag("1.0.0"), ADMIN, "a password in a layer")
    layer = Digest.of(b"layer secret")
    still = shop.blobs.maintenance.look(layer)
    second = await shop.registry.seals.purge(SHOP, Tag("1.1.0"), ADMIN, "here too")
    with pytest.raises(SealedPut, match="can return only with"):
        await shop.push(await shop.image("clean"), "1.0.0")

    assert first.tags == (Tag("1.0"), Tag("1.0.0"))
    assert {digest for digest, _ in first.kept} == {layer, Digest.of(b'{"salt":"secret"}')}
    assert still
    assert set(second.blobs) == {layer, Digest.of(b'{"salt":"secret"}')}
    assert shop.blobs.maintenance.look(layer) is None


async def test_a_purge_of_an_untagged_manifest_is_recorded(shop: BareRegistry) -> None:
    """A purge of an untagged manifest is recorded in the ledger."""
    body = await shop.image("untagged")
    await shop.push(body, Digest.of(body))
    await shop.registry.seals.purge(SHOP, Digest.of(body), ADMIN, "leaked")
    entry = (await shop.entries())[-1]

    assert (entry.kind, entry.tag, entry.digest, entry.reason) == (
        EntryKind.TAG_PURGED,
        "",
        str(Digest.of(body)),
        "leaked",
    )


async def test_a_referrer_of_a_sealed_image_may_be_deleted_for_a_day(shop: BareRegistry) -> None:
    """Only the pusher of a referrer of a sealed image may delete it, for 24 hours, which is recorded."""
    image = await shop.image("one")
    await shop.push(image, "1.0.0")
    subject = {"mediaType": OCI, "digest": str(Digest.of(image)), "size": len(image)}
    sboms = [await shop.image(f"sbom{n}", subject=subject, artifactType="application/spdx") for n in range(2)]
    for sbom in sboms:
        await shop.push(sbom, Digest.of(sbom), actor=CI)
    deletes = shop.registry.deletes
    with pytest.raises(SealedDelete):
        await deletes.manifest(SHOP, Digest.of(sboms[0]), UNCONDITIONAL, Actor("somebody"))
    await deletes.manifest(SHOP, Digest.of(sboms[0]), UNCONDITIONAL, CI)
    entry = (await shop.entries())[-1]
    shop.clock.now_us += DAY_US
    with pytest.raises(SealedDelete):
        await deletes.manifest(SHOP, Digest.of(sboms[1]), UNCONDITIONAL, CI)
    listed = await shop.registry.pulls.referrers(SHOP, Digest.of(image), None)

    assert (entry.digest, entry.extra["subject"]) == (str(Digest.of(sboms[0])), str(Digest.of(image)))
    assert [row.digest for row in listed.rows] == [Digest.of(sboms[1])]


async def test_a_signature_tag_only_grows(shop: BareRegistry) -> None:
    """cosign's tags are append-only, and can't be deleted while their image is sealed."""
    image = await shop.image("one")
    await shop.push(image, "1.0.0")
    name = f"sha256-{Digest.of(image).hex}.sig"
    one = await shop.image("signature")
    two = one.replace(
        b'"layers": [',
        b'"layers": [' + one[one.index(b'"layers": [') + 11 : one.rindex(b"]")].replace(b"5,", b"6,") + b", ",
    )
    await shop.push(one, name)
    await shop.push(two, name)
    with pytest.raises(SealedPut, match="append-only"):
        await shop.push(await shop.image("other"), name)
    with pytest.raises(SealedDelete, match=r"refers to what tag 1\.0\.0 seals"):
        await shop.registry.deletes.tag(SHOP, Tag(name), UNCONDITIONAL, CI)
    with pytest.raises(SealedDelete):
        await shop.registry.deletes.manifest(SHOP, Digest.of(two), UNCONDITIONAL, CI)
    await shop.registry.seals.unseal(SHOP, Tag("1.0.0"), ADMIN, "goes")
    await shop.registry.deletes.tag(SHOP, Tag(name), UNCONDITIONAL, CI)

    assert (await shop.entries())[-1].tag == name


async def test_times_increase_and_a_clock_far_behind_stops_writing(shop: BareRegistry) -> None:
    """A clock slightly behind has no effect; one more than five minutes behind stops writes."""
    one, two, three = [await shop.image(salt) for salt in ("one", "two", "three")]
    await shop.push(one, "1.0.0")
    shop.clock.now_us = START_US - 60_000_000
    await shop.push(two, "1.0.1")
    shop.clock.now_us = START_US - 301_000_000
    with pytest.raises(ClockBehind):
        await shop.push(three, "1.0.2")
    times = [entry.time_us for entry in await shop.entries()]

    assert times == sorted(set(times))


async def test_deleted_manifests_are_gone_from_every_process_at_once(open_shop: Opener) -> None:
    """A manifest that another process deleted is not served from this one's cache."""
    one, other = open_shop(), open_shop()
    body = await one.image("one")
    await one.push(body, "1.0.0")
    cached = await other.registry.pulls.manifest(SHOP, Tag("1.0.0"))
    again = await other.registry.pulls.manifest(SHOP, Tag("1.0.0"))
    await one.registry.seals.purge(SHOP, Tag("1.0.0"), ADMIN, "gone")
    with pytest.raises(NotFound):
        await other.registry.pulls.manifest(SHOP, Tag("1.0.0"))

    assert cached is again


async def test_the_same_bytes_by_sha512_are_the_same_manifest(shop: BareRegistry) -> None:
    """Pushing equal bytes and media type under sha512 is an idempotent push."""
    body = await shop.image("one")
    first = await shop.push(body, "1.0.0")
    second = await shop.push(body, Digest.of(body, "sha512"), "1.0.0")

    assert second.ledger_index == first.ledger_index
    assert (await shop.registry.pulls.manifest(SHOP, Tag("1.0.0"))).digest == Digest.of(body)


async def test_a_sha512_signature_tag_is_matched_by_the_first_half_of_the_digest(shop: BareRegistry) -> None:
    """A sha512 signature tag has half the digest; it is append-only and kept while that image is sealed."""
    image = await shop.image("one")
    whole = Digest.of(image, "sha512")
    await shop.push(image, whole, "1.0.0")
    name = f"sha512-{whole.hex[:64]}.sig"
    await shop.push(await shop.image("signature"), name)
    with pytest.raises(SealedPut, match="append-only"):
        await shop.push(await shop.image("other"), name)
    with pytest.raises(SealedDelete):
        await shop.registry.deletes.tag(SHOP, Tag(name), UNCONDITIONAL, CI)

    assert (await shop.entries())[-1].extra == {"mode": "append-only"}
