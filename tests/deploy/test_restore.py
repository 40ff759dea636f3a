"""Restoring a kept image: exactly that image, and without a registry."""

from __future__ import annotations

from dataclasses import replace

import pytest

from boltseal.engines.inventory import EngineImage, ImageStoreKind
from boltseal.host.keeper import KeepPolicy, KeptState
from boltseal.host.kept_images import Proof
from boltseal.host.pull import PullRequest
from boltseal.host.restore_kept import AmbiguousKeptImage, KeptImageGone, KeptImageMismatch, KeptImageNotFound, restore
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from tests.deploy.hosting import APP, Hosting

WANTED = PullRequest.of(APP)


def keep_name(digest: Digest) -> Reference:
    return Reference(APP.registry, APP.repository, Tag(f"boltseal-keep-{digest.hex[:12]}"))


async def pulled(shop: Hosting, *words: str) -> list[Digest]:
    """Publish and pull these images one after the other under one tag."""
    found = []
    for each in words:
        found.append(shop.publish(each))
        shop.clock.advance(seconds=60)
        await shop.puller().pull(WANTED)
    shop.hub.counted.clear()
    return found


async def test_the_previous_image_is_restored_without_a_registry(shop: Hosting) -> None:
    """The former image is restored with the same ID, offline; the replaced one is kept, so it can be restored too."""
    old, new = await pulled(shop, "one", "two")
    done = await restore(shop.host, APP)

    assert (done.changed, done.digest, done.image) == (True, old, shop.id_of(old))
    assert done.proof is (Proof.IDENTICAL if shop.host.store is ImageStoreKind.CONTAINERD else Proof.MANIFEST)
    assert shop.meaning() == shop.id_of(old)
    assert done.kept is not None
    assert done.kept.digest == new
    assert not shop.hub.counted
    assert (await restore(shop.host, APP)).digest == new


@pytest.mark.parametrize("to", ["2", "digest", "short", "id"])
async def test_an_image_is_selected_by_number_or_digest(shop: Hosting, to: str) -> None:
    """A kept image is selected by its number in the list, newest first, or by its digest."""
    first, _second, _ = await pulled(shop, "one", "two", "three")
    typed = {"digest": str(first), "short": first.hex[:8], "id": str(shop.id_of(first))}.get(to, to)
    done = await restore(shop.host, APP, typed)

    assert done.digest == first


async def test_the_current_image_is_left_alone(shop: Hosting) -> None:
    """Restoring the image that the tag already has changes nothing on the engine."""
    old, _ = await pulled(shop, "one", "two")
    await restore(shop.host, APP)
    shop.fake.asked.clear()
    done = await restore(shop.host, APP, str(old))

    assert not done.changed
    assert not [each for each in shop.fake.asked if not each.startswith("GET")]


async def test_a_selection_that_matches_no_kept_image_is_an_error(shop: Hosting) -> None:
    """A tag without kept images, or a selection that matches none, is an error."""
    with pytest.raises(KeptImageNotFound, match="boltseal keep ls"):
        await restore(shop.host, APP)
    await pulled(shop, "one", "two")
    for to in ("7", str(Digest.of(b"other"))):
        with pytest.raises(KeptImageNotFound, match=f'"{to}" is not kept'):
            await restore(shop.host, APP, to)


async def test_the_present_image_is_no_image_to_restore(shop: Hosting) -> None:
    """If `docker tag` moved the tag to the only kept image, there is no image to restore."""
    old, _ = await pulled(shop, "one", "two")
    await shop.host.engine.tag(shop.id_of(old), APP)

    with pytest.raises(KeptImageNotFound, match="no image but the present one is kept; list kept images"):
        await restore(shop.host, APP)


@pytest.mark.parametrize("to", ["abc", "latest", "sha256:zz", "-1", "abcdef", "sha256:" + "a" * 200])
async def test_an_invalid_selection_is_a_usage_error(shop: Hosting, to: str) -> None:
    """A selection that is neither a number nor a digest prefix is a usage error."""
    await pulled(shop, "one", "two")
    with pytest.raises(AmbiguousKeptImage, match="expected a number"):
        await restore(shop.host, APP, to)


async def test_a_pruned_image_is_reported(shop: Hosting) -> None:
    """If a kept image was pruned, the error has the command that pulls it."""
    old, new = await pulled(shop, "one", "two")
    del shop.fake.images[str(shop.id_of(old))]

    with pytest.raises(KeptImageGone, match=r"was removed from this engine.*boltseal pull hub\.test/shop/app@sha256"):
        await restore(shop.host, APP)
    assert shop.meaning() == shop.id_of(new)


async def test_a_moved_keep_tag_is_ignored(shop: Hosting) -> None:
    """A kept image whose keep tag was moved is restored by its ID, and the other image never is."""
    old, _ = await pulled(shop, "one", "two")
    evil = Digest.parse(shop.fake.image("evil"))
    await shop.host.engine.tag(evil, keep_name(old))
    (listed,) = await shop.keeper.list_kept(APP)
    done = await restore(shop.host, APP)

    assert listed.standing is KeptState.LOOSE
    assert done.image == shop.id_of(old) == shop.meaning()
    del shop.fake.images[str(shop.id_of(old))]
    with pytest.raises(KeptImageMismatch, match="is on another image"):
        await restore(shop.host, APP, str(old))


async def test_without_state_the_keep_tag_is_used(shop: Hosting) -> None:
    """With lost state, the digest in the keep tag is used if the engine's image has it."""
    old, _ = await pulled(shop, "one", "two")
    shop.host.kept.path.unlink()
    done = await restore(shop.host, APP)

    assert (done.image, done.digest) == (shop.id_of(old), old)
    assert done.proof is (Proof.IDENTICAL if shop.host.store is ImageStoreKind.CONTAINERD else Proof.ENGINE)


async def test_without_state_a_moved_keep_tag_is_refused(shop: Hosting) -> None:
    """With lost state a keep tag on another image is refused, or a user who may tag could choose the restored image."""
    old, new = await pulled(shop, "one", "two")
    shop.host.kept.path.unlink()
    evil = Digest.parse(shop.fake.image("evil"))
    await shop.host.engine.tag(evil, keep_name(old))

    with pytest.raises(KeptImageMismatch, match="not known to be the kept one"):
        await restore(shop.host, APP)
    assert shop.meaning() == shop.id_of(new)


async def test_a_wrong_image_from_the_engine_is_refused(classic: Hosting) -> None:
    """An engine that returns another image than the requested ID is refused."""
    old, new = await pulled(classic, "one", "two")
    made = classic.fake.images[str(classic.id_of(old))]
    made["Id"] = str(Digest.of(b"evil"))

    with pytest.raises((KeptImageMismatch, KeptImageGone)):
        await restore(classic.host, APP)
    assert classic.meaning() == classic.id_of(new)


async def test_a_local_build_is_restored(classic: Hosting) -> None:
    """A local build without a registry digest is restored by its ID."""
    built = Digest.parse(classic.fake.image("built here", str(APP)))
    await pulled(classic, "one")
    done = await restore(classic.host, APP)

    assert (done.image, done.digest, done.proof) == (built, None, None)


async def test_an_ambiguous_digest_is_refused(classic: Hosting) -> None:
    """A digest prefix of several kept images is refused."""
    await pulled(classic, "one", "two")
    for end in ("0", "1"):
        image = Digest("sha256", "abcdef7" + end * 57)
        classic.fake.images[str(image)] = {
            "Id": str(image),
            "RepoTags": [],
            "RepoDigests": [],
            "Os": "",
            "Architecture": "",
        }
        await classic.keeper.keep(APP, await classic.host.engine.image(image), KeepPolicy())

    with pytest.raises(AmbiguousKeptImage, match=r"fits 2 kept images.* one of sha256:abcdef7[01]{57}, sha256:abcdef7"):
        await restore(classic.host, APP, "abcdef7")


async def test_a_pruned_image_can_be_pulled_by_its_digest(shop: Hosting) -> None:
    """A pruned kept image can be pulled by its digest with the command in the message."""
    old, _ = await pulled(shop, "one", "two")
    del shop.fake.images[str(shop.id_of(old))]
    await shop.puller().pull(PullRequest(replace(APP, tag=None), old))

    assert (await restore(shop.host, APP)).digest == old


async def test_a_requested_scrub_runs_before_the_tag_moves(shop: Hosting) -> None:
    """If the requested scrub fails, the tag does not move."""
    old, new = await pulled(shop, "one", "two")
    looked: list[Digest] = []

    async def scrub(image: EngineImage) -> None:
        looked.append(image.id)
        async with shop.host.tagging_lock():  # no user waits for the real time
            pass
        raise KeptImageMismatch("the disk differs")

    with pytest.raises(KeptImageMismatch, match="the disk differs"):
        await restore(shop.host, APP, scrub=scrub)
    assert looked == [shop.id_of(old)]
    assert shop.meaning() == shop.id_of(new)
