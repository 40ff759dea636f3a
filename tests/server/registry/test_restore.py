"""Restore of a mutable tag to a former digest, by digest, entry or time, and every refusal."""

from __future__ import annotations

import json

import pytest

from boltseal.ledger.entry import EntryKind, parse
from boltseal.oci.digest import Digest
from boltseal.oci.digest_prefix import DigestAmbiguous, DigestPrefix
from boltseal.oci.reference import Repository, Tag
from boltseal.server.auth.actor import Actor
from boltseal.server.registry.models import UNCONDITIONAL
from boltseal.server.registry.restores import (
    ByIndex,
    ByTime,
    EntryOfOtherTag,
    NeverResolved,
    NoLongerStored,
    RestoredTag,
    RestoreTarget,
)
from boltseal.server.registry.tag_refusals import NotExtended, TagSealed
from boltseal.server.storage.metadata import ledger_store
from tests.bare_registry import SHOP, BareRegistry

ADMIN = Actor("root (command line)", admin=True)
LATEST = Tag("latest")


@pytest.fixture
async def moved(shop: BareRegistry) -> list[Digest]:
    """A tag `latest`, pushed as one image and a second later as another."""
    digests = []
    for salt in ("one", "two"):
        shop.clock.now_us += 1_000_000
        digests.append((await shop.push(await shop.image(salt), "latest")).digest)
    shop.clock.now_us += 1_000_000
    return digests


async def restore(shop: BareRegistry, to: RestoreTarget, tag: Tag = LATEST, where: Repository = SHOP) -> RestoredTag:
    return await shop.registry.restores.restore(where, tag, to, ADMIN, "it crashes")


async def meaning(shop: BareRegistry, tag: Tag = LATEST) -> Digest:
    return (await shop.registry.pulls.manifest(SHOP, tag)).digest


async def test_a_tag_is_restored_to_a_digest_with_a_reason(shop: BareRegistry, moved: list[Digest]) -> None:
    """A restore is a ledger entry with actor and reason, and the replaced image stays."""
    done = await restore(shop, moved[0])
    line = shop.database.read_and_wait(lambda held: list(ledger_store.lines(held, done.entry_index)))[0][1]
    entry = parse(line)

    assert await meaning(shop) == moved[0]
    assert done == RestoredTag(moved[0], moved[1], done.entry_index, changed=True)
    assert (entry.kind, entry.actor, entry.reason) == (EntryKind.TAG_RESTORED, ADMIN.name, "it crashes")
    assert entry.was == str(moved[1])
    assert (await shop.registry.pulls.manifest(SHOP, moved[1])).digest == moved[1]


@pytest.mark.parametrize("digits", [7, 12, 64])
async def test_a_prefix_of_the_digest_selects_it(shop: BareRegistry, moved: list[Digest], digits: int) -> None:
    """A prefix of a former digest, with or without the algorithm, selects it."""
    await restore(shop, DigestPrefix("", moved[0].hex[:digits]))
    assert await meaning(shop) == moved[0]
    await restore(shop, DigestPrefix("sha256", moved[1].hex[:digits]))

    assert await meaning(shop) == moved[1]


async def test_an_ambiguous_prefix_is_refused_with_the_candidates(shop: BareRegistry, moved: list[Digest]) -> None:
    """A prefix of several former digests is refused with the candidates, and the tag is unchanged."""
    with pytest.raises(DigestAmbiguous, match=f"one of {moved[0]}, {moved[1]}"):
        await restore(shop, DigestPrefix("", ""))

    assert await meaning(shop) == moved[1]


async def test_a_prefix_of_no_former_digest_is_refused(shop: BareRegistry, moved: list[Digest]) -> None:
    """A prefix of no former digest, also one of another tag's image, is refused."""
    with pytest.raises(NeverResolved, match="never resolved to"):
        await restore(shop, DigestPrefix("", "0" * 20))


async def test_a_tag_is_restored_by_the_index_of_an_entry(shop: BareRegistry, moved: list[Digest]) -> None:
    """A restore accepts the index of a ledger entry, as `boltseal history` lists it."""
    lines = shop.database.read_and_wait(lambda held: list(ledger_store.lines(held)))
    first = next(index for index, line in lines if parse(line).tag == "latest")
    await restore(shop, ByIndex(first))

    assert await meaning(shop) == moved[0]


async def test_seven_digits_may_be_an_index(shop: BareRegistry, moved: list[Digest]) -> None:
    """Seven digits are accepted as an entry's index, because a ledger may have millions."""
    lines = shop.database.read_and_wait(lambda held: list(ledger_store.lines(held)))
    first = next(index for index, line in lines if parse(line).tag == "latest")
    await restore(shop, DigestPrefix("", f"{first:07d}"))

    assert await meaning(shop) == moved[0]


async def test_a_tag_is_restored_by_time(shop: BareRegistry, moved: list[Digest]) -> None:
    """A restore accepts a time: the digest of that moment is restored, also one just before a move."""
    await restore(shop, ByTime(shop.clock.now_us - 1_000_001))

    assert await meaning(shop) == moved[0]


async def test_a_restore_to_the_current_digest_changes_nothing(shop: BareRegistry, moved: list[Digest]) -> None:
    """A restore to the current digest writes no entry."""
    done = await restore(shop, moved[1])

    assert not done.changed


async def test_a_deleted_tag_is_restored(shop: BareRegistry, moved: list[Digest]) -> None:
    """A deleted mutable tag is restored like one that moved."""
    await shop.registry.deletes.tag(SHOP, LATEST, UNCONDITIONAL, ADMIN)
    done = await restore(shop, moved[0])

    assert await meaning(shop) == moved[0]
    assert done.was is None


async def test_a_sealed_tag_is_refused(shop: BareRegistry) -> None:
    """Guarantee 1: a sealed tag can't be restored to another digest."""
    await shop.push(await shop.image("sealed soon"), "latest")
    await shop.push(await shop.image("sealed"), "latest")
    old = (await shop.push(await shop.image("sealed soon"), Digest.of(await shop.image("sealed soon")))).digest
    await shop.registry.seals.seal(SHOP, LATEST, ADMIN, "shown to the auditor")

    with pytest.raises(TagSealed, match=f"never resolves to another digest: it can't be restored to {old.short}$"):
        await restore(shop, old)


async def test_an_append_only_tag_is_refused_as_a_restore(shop: BareRegistry) -> None:
    """An append-only tag can't be restored, since its former manifest lacks later additions; the message is a
    restore's."""
    one, tag = json.loads(await shop.image("one")), Tag(f"sha256-{'a' * 64}.sig")
    two = one | {"layers": [*one["layers"], await shop.blob(b"added")]}
    first = await shop.push(json.dumps(one).encode(), tag)
    await shop.push(json.dumps(two).encode(), tag)

    with pytest.raises(NotExtended, match=f"and {first.digest.short} lacks layers or entries.*it can't be restored$"):
        await restore(shop, first.digest, tag)


async def test_a_digest_of_another_tag_is_refused(shop: BareRegistry, moved: list[Digest]) -> None:
    """A digest that only another tag had is refused."""
    other = (await shop.push(await shop.image("other"), "1.0.0")).digest

    with pytest.raises(NeverResolved, match="never resolved to"):
        await restore(shop, other)


async def test_a_deleted_manifest_is_refused(shop: BareRegistry, moved: list[Digest]) -> None:
    """If the former manifest was deleted, the restore is refused with the advice to push it again."""
    await shop.registry.deletes.manifest(SHOP, moved[0], UNCONDITIONAL, ADMIN)

    with pytest.raises(NoLongerStored, match="push that image again"):
        await restore(shop, moved[0])


@pytest.mark.parametrize("index", [0, 10_000])
async def test_an_entry_of_something_else_is_refused(shop: BareRegistry, moved: list[Digest], index: int) -> None:
    """The index of an entry that does not set this tag is refused, without saying what it is or whether it exists."""
    with pytest.raises(EntryOfOtherTag) as refused:
        await restore(shop, ByIndex(index))

    assert refused.value.message.startswith(
        f"entry {index} does not set the digest of {SHOP}:{LATEST}; expected one that does"
    )


async def test_an_entry_of_another_tag_of_the_repository_is_named(shop: BareRegistry, moved: list[Digest]) -> None:
    """An entry of the same repository is named, since who restores a tag sees the others."""
    await shop.push(await shop.image("other"), "other")

    with pytest.raises(EntryOfOtherTag, match=r"entry 4 is a tag\.created of other and does not set"):
        await restore(shop, ByIndex(4))


async def test_a_time_before_the_tag_is_refused(shop: BareRegistry, moved: list[Digest]) -> None:
    """A time before the tag's first push is refused, and named in the message."""
    with pytest.raises(NeverResolved, match="did not exist yet at 2"):
        await restore(shop, ByTime(shop.clock.now_us - 60_000_000))


async def test_a_time_at_which_the_tag_was_deleted_is_refused(shop: BareRegistry, moved: list[Digest]) -> None:
    """A time at which the tag was deleted is refused, without guessing an earlier digest."""
    await shop.registry.deletes.tag(SHOP, LATEST, UNCONDITIONAL, ADMIN)
    shop.clock.now_us += 1_000_000

    with pytest.raises(NeverResolved, match="had been deleted"):
        await restore(shop, ByTime(shop.clock.now_us))


async def test_an_unknown_repository_is_refused(shop: BareRegistry) -> None:
    """An unknown repository gives the error of a tag that never existed."""
    with pytest.raises(NeverResolved):
        await restore(shop, ByTime(shop.clock.now_us), where=Repository("no/such"))
