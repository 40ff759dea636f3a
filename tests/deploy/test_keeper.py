"""Keeping images and removing expired ones; in doubt an image is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from boltseal.engines.api import NoSuchImage
from boltseal.engines.inventory import ImageStoreKind
from boltseal.host.keeper import RAN_US, ExpiryResult, KeepPolicy, KeptState, NoFreeKeepTag
from boltseal.host.kept_images import KeptImage
from boltseal.host.pull import PullRequest, PullResult
from boltseal.lockfile.document import LOCK_NAME, Lock, LockedImage
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.project.lock_file import LockFile, write_lock
from tests.deploy.hosting import APP, DAY_US, NOW_US, Hosting, hosting
from tests.fakes.engine import Wrong

WANTED = PullRequest.of(APP)
WORDS = ("one", "two", "three", "four")
NEWEST = KeepPolicy(keep=1)
NONE = KeepPolicy(keep=0)
ALL = KeepPolicy()


def keep_name(digest: Digest) -> Reference:
    return Reference(APP.registry, APP.repository, Tag(f"boltseal-keep-{digest.hex[:12]}"))


async def pulled(shop: Hosting, *words: str, policy: KeepPolicy = ALL, **more: Any) -> tuple[list[Digest], PullResult]:
    """Publish and pull these images one after the other, a day apart; the last one with a policy."""
    found = [shop.publish(each) for each in words]
    for digest in found[:-1]:
        await shop.puller().pull(PullRequest(APP, digest))
        shop.clock.advance(days=1)
    return found, await shop.puller(policy=policy, **more).pull(PullRequest(APP, found[-1]))


async def test_without_a_policy_nothing_expires(shop: Hosting) -> None:
    """Without a policy no kept image expires, however many there are."""
    digests, brought = await pulled(shop, *WORDS)

    assert brought.let_go == ()
    assert [each.kept.digest for each in await shop.keeper.list_kept()] == digests[2::-1]


async def test_keep_n_removes_the_oldest(shop: Hosting) -> None:
    """With --keep N the newest N images of a tag stay, and the others lose all their tags."""
    digests, brought = await pulled(shop, *WORDS, policy=NEWEST)

    assert {each.kept.digest for each in brought.let_go} == set(digests[:2])
    assert not [each.why for each in brought.let_go if each.why]
    assert set(shop.fake.images) == {str(shop.id_of(each)) for each in digests[2:]}
    assert [each.kept.digest for each in await shop.keeper.list_kept()] == [digests[2]]


async def test_keep_for_removes_older_images(shop: Hosting) -> None:
    """With --keep-for, images expire by the time when they were kept."""
    digests, brought = await pulled(shop, *WORDS, policy=KeepPolicy(for_us=2 * DAY_US))

    assert [each.kept.digest for each in brought.let_go] == [digests[0]]


async def test_an_image_must_exceed_both_limits(shop: Hosting) -> None:
    """With both limits an image expires only if it exceeds number and age."""
    _, brought = await pulled(shop, *WORDS, policy=KeepPolicy(keep=3, for_us=DAY_US))

    assert brought.let_go == ()


async def test_a_later_call_does_not_shorten_a_promise(shop: Hosting) -> None:
    """A later pull with a shorter policy does not shorten an image's recorded time."""
    old = shop.publish("one")
    await shop.puller().pull(WANTED)
    shop.publish("two")
    await shop.puller(policy=KeepPolicy(for_us=30 * DAY_US)).pull(WANTED)
    shop.publish("three")
    brought = await shop.puller(policy=KeepPolicy(keep=0)).pull(WANTED)
    promised = {each.digest for each in shop.host.kept.kept(shop.host.key)}
    shop.clock.advance(days=31)
    later = await let_go(shop, KeepPolicy(keep=0))

    assert old in promised
    assert old not in {each.kept.digest for each in brought.let_go}
    assert old in {each.kept.digest for each in later}


async def let_go(shop: Hosting, policy: KeepPolicy, **more: Any) -> list[ExpiryResult]:
    async with shop.host.tagging_lock():
        return await shop.keeper.expire([APP], policy, **more)


async def why(shop: Hosting, old: Digest, policy: KeepPolicy = NONE, **more: Any) -> str:
    """Return the reason why an image, which must exist, is kept."""
    (found,) = [each for each in await let_go(shop, policy, **more) if each.kept.digest == old]
    assert bool(found.why) == (str(shop.id_of(old)) in shop.fake.images)
    return found.why


async def test_images_in_use_are_kept(shop: Hosting) -> None:
    """Images of containers are kept, also of stopped ones, which could be started again."""
    (old, _), _ = await pulled(shop, "one", "two")
    container = shop.run("web", shop.id_of(old))
    shop.fake.containers[container]["State"]["Running"] = False

    assert await why(shop, old) == "a container uses it"


async def test_a_container_created_during_removal_keeps_its_image(shop: Hosting) -> None:
    """If a container is created during the removal, the engine refuses, and removal is never forced."""
    (old, _), _ = await pulled(shop, "one", "two")
    kept = shop.host.kept.kept(shop.host.key)[0]
    shop.run("web", shop.id_of(old))

    assert "being used" in await shop.keeper._remove(kept)
    assert str(shop.id_of(old)) in shop.fake.images
    assert shop.host.kept.kept(shop.host.key) == (kept,)


async def test_the_image_of_the_tag_is_kept_and_not_counted(shop: Hosting) -> None:
    """The tag's present image, for example after a restore, is kept and not counted."""
    digests, _ = await pulled(shop, "one", "two", "three")
    await shop.host.engine.tag(shop.id_of(digests[0]), APP)

    assert await let_go(shop, KeepPolicy(keep=1)) == []
    assert {each.kept.digest for each in await let_go(shop, NONE)} == {digests[1]}
    assert shop.meaning() == shop.id_of(digests[0])


async def test_images_in_a_lock_are_kept(shop: Hosting, tmp_path: Path) -> None:
    """Images in a given lock, or in a known lock that still exists, are kept."""
    (old, _), _ = await pulled(shop, "one", "two")
    shop.host.kept.know_lock(tmp_path / LOCK_NAME)
    write_lock(LockFile(tmp_path), Lock((LockedImage(APP, old, NOW_US),)))

    assert await why(shop, old) == "it is in a boltseal.lock"
    (tmp_path / LOCK_NAME).write_text("broken")
    assert "could not read a lock" in await why(shop, old)
    (tmp_path / LOCK_NAME).unlink()
    assert await why(shop, old, locked=[old]) == "it is in a boltseal.lock"


async def test_images_held_by_a_release_are_kept(shop: Hosting) -> None:
    """Images that a release holds are kept until the release drops them or the time is over."""
    old, _ = shop.publish("one"), await shop.puller().pull(WANTED)
    kept = await shop.keeper.hold(shop.id_of(old), APP, old, "release shop/1")
    await shop.keeper.hold(shop.id_of(old), APP, old, "release shop/2", shop.clock() + DAY_US)
    shop.publish("two")
    await shop.puller().pull(WANTED)

    assert kept.digest == old
    assert [each.held for each in await shop.keeper.list_kept()] == [("release shop/1", "release shop/2")]
    assert await why(shop, old) == "held: release shop/1, release shop/2"
    shop.keeper.let_go("release shop/1")
    assert await why(shop, old) == "held: release shop/2"
    shop.clock.advance(days=1)
    assert await why(shop, old) == ""


async def test_a_hold_restores_a_lost_keep_tag(shop: Hosting) -> None:
    """A hold restores a missing keep tag, and raises NoSuchImage if the engine lacks the image."""
    old, _ = shop.publish("one"), await shop.puller().pull(WANTED)
    kept = await shop.keeper.hold(shop.id_of(old), APP, None, "release shop/1")
    await shop.host.engine.untag(kept.keep_name)
    await shop.keeper.hold(shop.id_of(old), APP, None, "release shop/1")

    assert shop.meaning(keep_name(old)) == shop.id_of(old)
    with pytest.raises(NoSuchImage):
        await shop.keeper.hold(Digest.of(b"none"), APP, None, "release shop/1")


async def test_the_only_copy_of_a_recently_run_image_is_kept(shop: Hosting) -> None:
    """A recently run image is removed only if a registry confirms now that it has it."""
    (old, _), _ = await pulled(shop, "one", "two")
    container = shop.run("web", shop.id_of(old))
    await shop.host.images_in_use()
    del shop.fake.containers[container]
    asked: list[Reference] = []

    async def elsewhere(place: Reference) -> bool:
        asked.append(place)
        return False

    assert "it ran here in the last 30 days" in await why(shop, old)
    assert "no registry is known to have it" in await why(shop, old, find_copy=elsewhere)
    assert asked == [Reference(APP.registry, APP.repository, digest=old)]
    shop.clock.advance(seconds=RAN_US // 1_000_000)
    assert await why(shop, old) == ""


async def test_an_image_in_a_registry_is_not_the_only_copy(shop: Hosting) -> None:
    """An image that a registry confirms by HEAD at removal may be removed."""
    (old, _), _ = await pulled(shop, "one", "two")
    container = shop.run("web", shop.id_of(old))
    await shop.host.images_in_use()
    del shop.fake.containers[container]
    shop.publish("three")
    shop.hub.counted.clear()
    brought = await shop.puller(policy=NEWEST).pull(WANTED)

    assert [(each.kept.digest, each.why) for each in brought.let_go] == [(old, "")]
    assert shop.hub.counted["HEAD manifest"] == 2


async def test_an_error_during_expiry_is_reported_and_undoes_nothing(shop: Hosting) -> None:
    """An error during expiry is reported, and the pull still counts."""
    (old, _), _ = await pulled(shop, "one", "two")
    new = shop.publish("three")
    shop.fake.wrong[f"images/{shop.id_of(old)}/json"] = Wrong(200, b"nonsense")
    brought = await shop.puller(policy=NEWEST).pull(WANTED)

    assert "can't be parsed" in brought.trouble
    assert shop.meaning() == shop.id_of(new)


async def test_a_shared_keep_tag_is_removed_with_its_last_name(shop: Hosting) -> None:
    """A keep tag that two tags share is removed with the second of them."""
    other = Reference(APP.registry, APP.repository, Tag("1.4"))
    old = shop.publish("one")
    for name in (APP, other):
        await shop.puller().pull(PullRequest(name, old))
    new = shop.publish("two")
    for name in (APP, other):
        await shop.puller().pull(PullRequest(name, new))
    assert await let_go(shop, KeepPolicy(keep=0))
    there = shop.meaning(keep_name(old))
    async with shop.host.tagging_lock():
        await shop.keeper.expire([other], KeepPolicy(keep=0))

    assert there == shop.id_of(old)
    assert shop.meaning(keep_name(old)) is None


async def test_colliding_short_keep_tags_use_the_long_form(classic: Hosting) -> None:
    """If another image has the short keep tag, the long form is used, and no image loses a tag."""
    old, _ = classic.publish("one"), await classic.puller().pull(WANTED)
    other = Digest.parse(classic.fake.image("other", str(keep_name(old))))
    classic.publish("two")
    brought = await classic.puller().pull(WANTED)

    assert brought.kept is not None
    assert brought.kept.tag == f"boltseal-keep-{old.hex}"
    assert classic.meaning(keep_name(old)) == other


async def test_further_images_of_an_index_use_their_id(classic: Hosting) -> None:
    """Images of one index for other platforms get keep tags by their ID; if none is free, that is an error."""
    old, _ = classic.publish("one"), await classic.puller().pull(WANTED)
    id_ = classic.id_of(old)
    of_digest = [f"{APP.name}:boltseal-keep-{old.hex[:digits]}" for digits in (12, 64)]
    of_id = [f"{APP.name}:boltseal-keep-{id_.hex[:digits]}" for digits in (12, 64)]
    others = [classic.fake.image(f"for another machine {name}", name) for name in of_digest]
    third = await classic.keeper.keep(APP, await classic.host.engine.image(APP))
    await classic.host.engine.untag(third.keep_name)
    others += [classic.fake.image(f"somebody's {name}", name) for name in of_id]
    with pytest.raises(NoFreeKeepTag, match="remove one of them"):
        await classic.keeper.keep(APP, await classic.host.engine.image(APP))

    assert str(third.keep_name) == of_id[0]
    assert [classic.fake.images[each]["RepoTags"] for each in others] == [[name] for name in (*of_digest, *of_id)]
    assert classic.meaning() == id_


async def test_kept_images_are_listed_with_their_state(shop: Hosting) -> None:
    """`keep ls` lists images newest first with number, state and last run."""
    (first, second, _), _ = await pulled(shop, "one", "two", "three")
    shop.run("web", shop.id_of(second))
    await shop.host.images_in_use()
    del shop.fake.images[str(shop.id_of(first))]
    listed = await shop.keeper.list_kept()

    assert [(each.number, each.kept.digest, each.standing) for each in listed] == [
        (1, second, KeptState.KEPT),
        (2, first, KeptState.GONE),
    ]
    assert [each.ran_us for each in listed] == [shop.clock(), None]


async def test_images_of_another_engine_are_not_listed(shop: Hosting) -> None:
    """Images that were kept on another engine's address are not listed."""
    await pulled(shop, "one", "two")

    assert shop.host.kept.kept("unix:///other.sock") == ()
    assert isinstance(shop.host.kept.kept(shop.host.key)[0], KeptImage)


async def test_a_pull_without_change_still_expires_images(shop: Hosting) -> None:
    """A smaller --keep expires images at the next pull, even if that changes nothing."""
    digests, _ = await pulled(shop, *WORDS)
    shop.hub.counted.clear()
    brought = await shop.puller(policy=NEWEST).pull(PullRequest(APP, digests[-1]))
    again = await shop.puller(policy=NEWEST).pull(PullRequest(APP, digests[-1]))

    assert {each.kept.digest for each in brought.let_go} == set(digests[:2])
    assert again.let_go == ()
    assert not shop.hub.counted


async def test_the_running_image_of_a_moved_tag_is_kept(shop: Hosting) -> None:
    """If `docker pull` moved the tag earlier, the running image is kept as well."""
    old, _ = shop.publish("one"), await shop.puller().pull(WANTED)
    shop.run("web", shop.id_of(old))
    other = Digest.parse(shop.fake.image("by docker pull"))
    await shop.host.engine.tag(other, APP)
    new = shop.publish("three")
    brought = await shop.puller().pull(WANTED)

    assert [each.image for each in brought.running] == [shop.id_of(old)]
    assert brought.kept is not None
    assert brought.kept.image == other
    assert (shop.meaning(), shop.meaning(keep_name(old))) == (shop.id_of(new), shop.id_of(old))
    assert shop.host.kept.ran(shop.host.key) == {shop.id_of(old): shop.clock()}


async def test_podman_images_of_another_repository_stay(tmp_path: Path) -> None:
    """Podman images keep the names of other repositories, which have their own digests."""
    async with hosting(tmp_path, ImageStoreKind.PODMAN) as shop:
        (old, _), _ = await pulled(shop, "one", "two")
        shop.fake.images[str(shop.id_of(old))]["RepoDigests"].append(f"hub.test/other/app@{old}")
        (gone,) = await let_go(shop, NONE)

    assert gone.why == ""
    assert str(shop.id_of(old)) in shop.fake.images
