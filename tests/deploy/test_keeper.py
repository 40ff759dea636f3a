"""Keeping, and letting go: every doubt keeps."""

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
from boltseal.project.lock_file import write_lock
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
    """Publish and pull these one after the other, a day between; the last with a policy."""
    found = [shop.publish(each) for each in words]
    for digest in found[:-1]:
        await shop.puller().bring(PullRequest(APP, digest))
        shop.clock.advance(days=1)
    return found, await shop.puller(policy=policy, **more).bring(PullRequest(APP, found[-1]))


async def test_without_a_policy_nothing_ever_goes(shop: Hosting) -> None:
    """Disks are cheaper than the image that one needs."""
    digests, brought = await pulled(shop, *WORDS)

    assert brought.let_go == ()
    assert [each.kept.digest for each in await shop.keeper.listed()] == digests[2::-1]


async def test_keep_n_lets_go_of_the_oldest(shop: Hosting) -> None:
    """The newest N of the name stay; the others go with all their names."""
    digests, brought = await pulled(shop, *WORDS, policy=NEWEST)

    assert {each.kept.digest for each in brought.let_go} == set(digests[:2])
    assert not [each.why for each in brought.let_go if each.why]
    assert set(shop.fake.images) == {str(shop.id_of(each)) for each in digests[2:]}
    assert [each.kept.digest for each in await shop.keeper.listed()] == [digests[2]]


async def test_keep_for_lets_go_of_what_is_older(shop: Hosting) -> None:
    """By when it was kept."""
    digests, brought = await pulled(shop, *WORDS, policy=KeepPolicy(for_us=2 * DAY_US))

    assert [each.kept.digest for each in brought.let_go] == [digests[0]]


async def test_only_what_both_let_go(shop: Hosting) -> None:
    """The newest three, and whatever is younger than a day beside them."""
    _, brought = await pulled(shop, *WORDS, policy=KeepPolicy(keep=3, for_us=DAY_US))

    assert brought.let_go == ()


async def test_a_promise_is_not_shortened_by_a_later_call(shop: Hosting) -> None:
    """Kept for thirty days is kept for thirty days."""
    old = shop.publish("one")
    await shop.puller().bring(WANTED)
    shop.publish("two")
    await shop.puller(policy=KeepPolicy(for_us=30 * DAY_US)).bring(WANTED)
    shop.publish("three")
    brought = await shop.puller(policy=KeepPolicy(keep=0)).bring(WANTED)
    promised = {each.digest for each in shop.host.kept.kept(shop.host.key)}
    shop.clock.advance(days=31)
    later = await let_go(shop, KeepPolicy(keep=0))

    assert old in promised
    assert old not in {each.kept.digest for each in brought.let_go}
    assert old in {each.kept.digest for each in later}


async def let_go(shop: Hosting, policy: KeepPolicy, **more: Any) -> list[ExpiryResult]:
    async with shop.host.alone():
        return await shop.keeper.expire([APP], policy, **more)


async def why(shop: Hosting, old: Digest, policy: KeepPolicy = NONE, **more: Any) -> str:
    """Why it is kept; it must be there then."""
    (found,) = [each for each in await let_go(shop, policy, **more) if each.kept.digest == old]
    assert bool(found.why) == (str(shop.id_of(old)) in shop.fake.images)
    return found.why


async def test_what_runs_is_kept(shop: Hosting) -> None:
    """Also what stands still: its container could be started again."""
    (old, _), _ = await pulled(shop, "one", "two")
    container = shop.run("web", shop.id_of(old))
    shop.fake.containers[container]["State"]["Running"] = False

    assert await why(shop, old) == "a container uses it"


async def test_a_container_that_is_made_meanwhile(shop: Hosting) -> None:
    """The engine has the last word: it is asked to remove, never forced."""
    (old, _), _ = await pulled(shop, "one", "two")
    kept = shop.host.kept.kept(shop.host.key)[0]
    shop.run("web", shop.id_of(old))

    assert "being used" in await shop.keeper._remove(kept)
    assert str(shop.id_of(old)) in shop.fake.images
    assert shop.host.kept.kept(shop.host.key) == (kept,)


async def test_what_its_name_means_is_kept_and_not_counted(shop: Hosting) -> None:
    """It was brought back, say."""
    digests, _ = await pulled(shop, "one", "two", "three")
    await shop.host.engine.tag(shop.id_of(digests[0]), APP)

    assert await let_go(shop, KeepPolicy(keep=1)) == []
    assert {each.kept.digest for each in await let_go(shop, NONE)} == {digests[1]}
    assert shop.meaning() == shop.id_of(digests[0])


async def test_what_a_lock_names_is_kept(shop: Hosting, tmp_path: Path) -> None:
    """One that is given, or one that was given once and is still there."""
    (old, _), _ = await pulled(shop, "one", "two")
    shop.host.kept.know_lock(tmp_path / LOCK_NAME)
    write_lock(tmp_path, Lock((LockedImage(APP, old, NOW_US),)))

    assert await why(shop, old) == "it is in a boltseal.lock"
    (tmp_path / LOCK_NAME).write_text("broken")
    assert "could not read a lock" in await why(shop, old)
    (tmp_path / LOCK_NAME).unlink()
    assert await why(shop, old, locked=[old]) == "it is in a boltseal.lock"


async def test_what_a_release_holds_is_kept(shop: Hosting) -> None:
    """Until it lets go, or its time is over."""
    old, _ = shop.publish("one"), await shop.puller().bring(WANTED)
    kept = await shop.keeper.hold(shop.id_of(old), APP, old, "release shop/1")
    await shop.keeper.hold(shop.id_of(old), APP, old, "release shop/2", shop.clock() + DAY_US)
    shop.publish("two")
    await shop.puller().bring(WANTED)

    assert kept.digest == old
    assert [each.held for each in await shop.keeper.listed()] == [("release shop/1", "release shop/2")]
    assert await why(shop, old) == "held: release shop/1, release shop/2"
    shop.keeper.let_go("release shop/1")
    assert await why(shop, old) == "held: release shop/2"
    shop.clock.advance(days=1)
    assert await why(shop, old) == ""


async def test_a_hold_puts_a_lost_keep_tag_on_again(shop: Hosting) -> None:
    """And is a miss for an image that is not here."""
    old, _ = shop.publish("one"), await shop.puller().bring(WANTED)
    kept = await shop.keeper.hold(shop.id_of(old), APP, None, "release shop/1")
    await shop.host.engine.untag(kept.keep_name)
    await shop.keeper.hold(shop.id_of(old), APP, None, "release shop/1")

    assert shop.meaning(keep_name(old)) == shop.id_of(old)
    with pytest.raises(NoSuchImage):
        await shop.keeper.hold(Digest.of(b"none"), APP, None, "release shop/1")


async def test_the_only_copy_of_what_ran_here_lately_is_kept(shop: Hosting) -> None:
    """A registry that says now that it has it makes it one of two; doubt does not."""
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


async def test_what_a_registry_has_is_not_the_only_copy(shop: Hosting) -> None:
    """Asked by HEAD, at the moment of removing."""
    (old, _), _ = await pulled(shop, "one", "two")
    container = shop.run("web", shop.id_of(old))
    await shop.host.images_in_use()
    del shop.fake.containers[container]
    shop.publish("three")
    shop.hub.counted.clear()
    brought = await shop.puller(policy=NEWEST).bring(WANTED)

    assert [(each.kept.digest, each.why) for each in brought.let_go] == [(old, "")]
    assert shop.hub.counted["HEAD manifest"] == 2


async def test_trouble_while_letting_go_is_told_and_undoes_nothing(shop: Hosting) -> None:
    """The image is here and has its name."""
    (old, _), _ = await pulled(shop, "one", "two")
    new = shop.publish("three")
    shop.fake.wrong[f"images/{shop.id_of(old)}/json"] = Wrong(200, b"nonsense")
    brought = await shop.puller(policy=NEWEST).bring(WANTED)

    assert "can't be read" in brought.trouble
    assert shop.meaning() == shop.id_of(new)


async def test_a_keep_tag_that_two_names_share(shop: Hosting) -> None:
    """It goes with the last of them."""
    other = Reference(APP.registry, APP.repository, Tag("1.4"))
    old = shop.publish("one")
    for name in (APP, other):
        await shop.puller().bring(PullRequest(name, old))
    new = shop.publish("two")
    for name in (APP, other):
        await shop.puller().bring(PullRequest(name, new))
    assert await let_go(shop, KeepPolicy(keep=0))
    there = shop.meaning(keep_name(old))
    async with shop.host.alone():
        await shop.keeper.expire([other], KeepPolicy(keep=0))

    assert there == shop.id_of(old)
    assert shop.meaning(keep_name(old)) is None


async def test_twelve_digits_that_collide(classic: Hosting) -> None:
    """Another image has the short keep tag: the long one is taken, and nobody loses a name."""
    old, _ = classic.publish("one"), await classic.puller().bring(WANTED)
    other = Digest.parse(classic.fake.image("other", str(keep_name(old))))
    classic.publish("two")
    brought = await classic.puller().bring(WANTED)

    assert brought.kept is not None
    assert brought.kept.tag == f"boltseal-keep-{old.hex}"
    assert classic.meaning(keep_name(old)) == other


async def test_a_third_image_of_one_index_takes_no_tag_away(classic: Hosting) -> None:
    """Images for other machines have the same digest of their registry: the ID tells them apart; no tag at all is told."""
    old, _ = classic.publish("one"), await classic.puller().bring(WANTED)
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


async def test_what_is_listed(shop: Hosting) -> None:
    """Newest first, with number, standing, and when it ran."""
    (first, second, _), _ = await pulled(shop, "one", "two", "three")
    shop.run("web", shop.id_of(second))
    await shop.host.images_in_use()
    del shop.fake.images[str(shop.id_of(first))]
    listed = await shop.keeper.listed()

    assert [(each.number, each.kept.digest, each.standing) for each in listed] == [
        (1, second, KeptState.KEPT),
        (2, first, KeptState.GONE),
    ]
    assert [each.ran_us for each in listed] == [shop.clock(), None]


async def test_what_another_host_keeps_is_not_ours(shop: Hosting) -> None:
    """Rows stand under the engine's address."""
    await pulled(shop, "one", "two")

    assert shop.host.kept.kept("unix:///other.sock") == ()
    assert isinstance(shop.host.kept.kept(shop.host.key)[0], KeptImage)


async def test_what_is_here_already_still_lets_go(shop: Hosting) -> None:
    """A smaller --keep holds from the next pull on, whatever it brings; where nothing is to go, nobody is asked."""
    digests, _ = await pulled(shop, *WORDS)
    shop.hub.counted.clear()
    brought = await shop.puller(policy=NEWEST).bring(PullRequest(APP, digests[-1]))
    again = await shop.puller(policy=NEWEST).bring(PullRequest(APP, digests[-1]))

    assert {each.kept.digest for each in brought.let_go} == set(digests[:2])
    assert again.let_go == ()
    assert not shop.hub.counted


async def test_what_runs_under_a_name_that_somebody_has_moved(shop: Hosting) -> None:
    """`docker pull` took the name away before us: what works is the image that runs, and it is kept too."""
    old, _ = shop.publish("one"), await shop.puller().bring(WANTED)
    shop.run("web", shop.id_of(old))
    other = Digest.parse(shop.fake.image("by docker pull"))
    await shop.host.engine.tag(other, APP)
    new = shop.publish("three")
    brought = await shop.puller().bring(WANTED)

    assert [each.image for each in brought.running] == [shop.id_of(old)]
    assert brought.kept is not None
    assert brought.kept.image == other
    assert (shop.meaning(), shop.meaning(keep_name(old))) == (shop.id_of(new), shop.id_of(old))
    assert shop.host.kept.ran(shop.host.key) == {shop.id_of(old): shop.clock()}


async def test_podman_leaves_what_another_repository_knows(tmp_path: Path) -> None:
    """Its digests are names too."""
    async with hosting(tmp_path, ImageStoreKind.PODMAN) as shop:
        (old, _), _ = await pulled(shop, "one", "two")
        shop.fake.images[str(shop.id_of(old))]["RepoDigests"].append(f"hub.test/other/app@{old}")
        (gone,) = await let_go(shop, NONE)

    assert gone.why == ""
    assert str(shop.id_of(old)) in shop.fake.images
