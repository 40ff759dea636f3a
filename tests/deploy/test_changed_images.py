"""A release never starts an image that is kept as evidence, because its files were changed on the disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from boltseal.client.state import ClientState
from boltseal.deploy.release_images import ImageChanged, ReleaseImages
from boltseal.deploy.releases import Release, ReleasedService, ReleaseKind
from boltseal.host.changed_images import EVIDENCE, ChangedImages
from boltseal.host.engine_images import EngineHost
from boltseal.host.keeper import Keeper, KeepPolicy
from boltseal.host.kept_images import KeptImages, Proof, PullRecord
from boltseal.host.pull import PulledImageChanged, PullOutcome, PullRequest
from boltseal.lockfile.container_check import is_keep_tag
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from tests.deploy.hosting import APP, Hosting, hosting


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Hosting]:
    """A host with an in-memory engine."""
    async with hosting(tmp_path) as made:
        yield made


async def changed(host: Hosting) -> tuple[ReleasedService, Digest]:
    """Pull an image, deploy it, and find it changed on the disk; return its service and digest."""
    digest = host.publish("one")
    await host.puller().pull(PullRequest(APP))
    image = host.id_of(digest)
    await host.keeper.hold(image, APP, digest, "release shop/1")
    await host.keeper.hold_as_evidence(image, APP, digest)
    return ReleasedService(name="web", image=str(APP), digest=str(digest), image_id=str(image)), digest


async def replaced(host: Hosting, digest: Digest) -> Digest:
    """Load a copy of an image, as `pull --replace` does; return its ID."""
    copy = Digest.parse(host.fake.image("copy"))
    host.host.kept.record_pull(host.host.key, PullRecord(copy, digest, APP.name, "", Proof.COPY, host.clock()))
    await host.host.engine.tag(copy, APP)
    return copy


async def test_an_older_release_starts_the_copy_of_a_changed_image(host: Hosting) -> None:
    """After `pull --replace`, a rollback starts the copy and not the changed files, also when the name is on another image."""
    service, digest = await changed(host)
    copy = await replaced(host, digest)
    images = ReleaseImages(host.host, host.puller())
    by_name = await images.restore(service, "release shop/2")
    other = host.fake.image("other")
    await host.host.engine.tag(Digest.parse(other), APP)
    by_keep_tag = await images.restore(service, "release shop/3")

    assert (by_name.image.id, by_keep_tag.image.id) == (copy, copy)


async def test_an_older_release_whose_image_was_changed_is_refused_without_a_copy(host: Hosting) -> None:
    """Without a copy nothing is started, and the message has the command that loads the image again."""
    service, digest = await changed(host)

    with pytest.raises(ImageChanged, match=rf"pull --replace .*@{digest}"):
        await ReleaseImages(host.host, host.puller()).restore(service, "release shop/2")


async def test_a_deploy_of_a_changed_image_is_refused_without_a_copy(host: Hosting) -> None:
    """A deploy by the digest of the lock does not start the changed files either."""
    _, digest = await changed(host)

    with pytest.raises(ImageChanged, match="nothing was started or stopped"):
        await ReleaseImages(host.host, host.puller()).locked(APP, digest, (), "release shop/2")


async def test_a_copy_that_was_changed_as_well_is_not_started(host: Hosting) -> None:
    """A copy that is kept as evidence itself does not replace an image."""
    service, digest = await changed(host)
    copy = await replaced(host, digest)
    await host.keeper.hold_as_evidence(copy, APP, digest)

    with pytest.raises(ImageChanged):
        await ReleaseImages(host.host, host.puller()).restore(service, "release shop/2")


async def recorded(host: Hosting) -> tuple[ReleaseImages, Release]:
    """Pull an image and return a release that has recorded it, as a deploy does."""
    digest = host.publish("one")
    images = ReleaseImages(host.host, host.puller())
    made = await images.locked(APP, digest, (), "release shop/1")
    service = ReleasedService(
        name="web", image=str(APP), digest=str(digest), image_id=str(made.image.id), started_as=made.started_as
    )
    return images, Release(
        project="shop", number=1, kind=ReleaseKind.DEPLOY, directory="/", started_us=0, who="ann", services=(service,)
    )


async def test_a_recorded_image_is_started_as_recorded(host: Hosting) -> None:
    """While the recorded name resolves to the recorded image, the release is started as it was written."""
    images, release = await recorded(host)

    assert await images.startable(release, ["web"]) == release


async def test_a_recorded_image_that_was_changed_is_started_from_its_copy(host: Hosting) -> None:
    """A release that is resumed or put back starts the copy of an image that was changed since; others are left alone."""
    images, release = await recorded(host)
    await host.keeper.hold_as_evidence(Digest.parse(release.services[0].image_id), APP, None)
    copy = await replaced(host, Digest.parse(release.services[0].digest))
    ready = await images.startable(release, ["web"])

    assert ready.services[0].image_id == str(copy)
    assert await images.startable(release, ["db"]) == release


async def test_another_image_under_the_recorded_name_is_not_started(host: Hosting) -> None:
    """If the name that a release starts by was put on another image meanwhile, the recorded image gets another name."""
    images, release = await recorded(host)
    service = release.services[0]
    other = host.fake.image("other")
    await host.host.engine.tag(Digest.parse(other), Reference.parse("shop/web:1"))
    moved = msgspec.structs.replace(service, started_as="shop/web:1")
    ready = await images.startable(release.with_services([moved]), ["web"])

    assert (ready.services[0].image_id, ready.services[0].started_as) == (service.image_id, service.started_as)


async def test_a_recorded_image_that_was_changed_is_refused_without_a_copy(host: Hosting) -> None:
    """Without a copy the changed image of a recorded release is not started."""
    images, release = await recorded(host)
    await host.keeper.hold_as_evidence(Digest.parse(release.services[0].image_id), APP, None)

    with pytest.raises(ImageChanged, match="pull --replace"):
        await images.startable(release, ["web"])


# ---- administrators with other state folders


async def another(host: Hosting, folder: Path) -> EngineHost:
    """Return the same engine as an administrator with an own state folder sees it."""
    return EngineHost(host.host.engine, host.host.store, KeptImages(ClientState(folder)), host.clock)


async def test_evidence_is_seen_by_administrators_without_a_record(host: Hosting, tmp_path: Path) -> None:
    """The mark of a changed image is on the engine, so an administrator without any record is refused as well."""
    _, digest = await changed(host)
    other = await another(host, tmp_path / "other")
    puller = replace(host.puller(), host=other)

    with pytest.raises(PulledImageChanged, match=rf"pull --replace .*@{digest}"):
        await puller.pull(PullRequest(APP, digest))
    with pytest.raises(PulledImageChanged, match="TAG"):
        await puller.pull(PullRequest(Reference(APP.registry, APP.repository), digest))
    with pytest.raises(ImageChanged):
        await ReleaseImages(other, puller).locked(APP, digest, (), "release shop/2")
    assert [each.held for each in await Keeper(other).list_kept()] == [(EVIDENCE,)]


async def test_an_earlier_record_is_shared(host: Hosting, tmp_path: Path) -> None:
    """An image that an earlier version recorded as evidence in one state folder is marked by the next pull with that folder."""
    _, digest = await recorded_by_an_earlier_version(host)
    other = await another(host, tmp_path / "other")
    before = await ChangedImages(other).ids()
    found = await ChangedImages(host.host).ids()

    assert not before
    assert found == {host.id_of(digest)}
    assert await ChangedImages(other).ids() == found


async def test_an_image_that_was_removed_and_pulled_anew_is_no_evidence(host: Hosting) -> None:
    """A person ends evidence by removing the image: the same digest, pulled anew, is unpacked anew and gets its name."""
    _, digest = await recorded_by_an_earlier_version(host)
    for name in (await host.host.engine.image(host.id_of(digest))).names:
        await host.host.engine.untag(name, allow_last=True)
    pulled = await host.puller().pull(PullRequest(APP, digest))

    assert (pulled.image, pulled.outcome) == (host.id_of(digest), PullOutcome.PULLED)
    assert EVIDENCE not in {held for each in await host.keeper.list_kept() for held in each.held}


async def test_an_image_whose_files_match_again_is_no_evidence(host: Hosting) -> None:
    """The mark is removed from an image whose files were verified again, and its keep tag stays."""
    _, digest = await changed(host)
    image = await host.host.engine.image(host.id_of(digest))
    await ChangedImages(host.host).unmark(image)
    left = await host.host.engine.image(image.id)

    assert await ChangedImages(host.host).ids() == frozenset()
    assert [is_keep_tag(each) for each in left.names].count(True) == 1


@pytest.mark.parametrize("form", ["boltseal-keep-{digest}-changed", "boltseal-keep-{digest}", "boltseal-keep-{image}"])
async def test_a_registrys_tag_is_no_mark(host: Hosting, form: str) -> None:
    """An image that was pulled with a tag of the form of keep tags and marks gets its name and is deployed: the tag marks nothing."""
    digest = host.publish("one")
    tag = form.format(digest=digest.hex[:12], image=host.id_of(digest).hex)
    await host.puller().pull(PullRequest(APP))
    await host.host.engine.tag(host.id_of(digest), Reference(APP.registry, APP.repository, Tag(tag)))
    pulled = await host.puller().pull(PullRequest(APP, digest))
    ready = await ReleaseImages(host.host, host.puller()).locked(APP, digest, (), "release shop/2")

    assert await ChangedImages(host.host).ids() == frozenset()
    assert (pulled.image, ready.image.id) == (host.id_of(digest), host.id_of(digest))
    assert EVIDENCE not in {held for each in await host.keeper.list_kept() for held in each.held}


async def test_marked_images_do_not_expire(host: Hosting, tmp_path: Path) -> None:
    """No policy of another administrator, who has no record of the evidence, removes a marked image."""
    _, digest = await changed(host)
    other = await another(host, tmp_path / "other")
    image = await host.host.engine.image(host.id_of(digest))
    async with other.tagging_lock():
        await Keeper(other).keep(APP, image)
    second = host.publish("two")
    await replace(host.puller(), host=other).pull(PullRequest(APP, second))
    host.clock.advance(days=1)
    async with other.tagging_lock():
        (result,) = await Keeper(other).expire([APP], KeepPolicy(keep=0))

    assert EVIDENCE in result.why


async def recorded_by_an_earlier_version(host: Hosting) -> tuple[ReleasedService, Digest]:
    """Return an image that only a state folder records as evidence."""
    digest = host.publish("one")
    await host.puller().pull(PullRequest(APP))
    image = host.id_of(digest)
    await host.keeper.hold(image, APP, digest, EVIDENCE)
    return ReleasedService(name="web", image=str(APP), digest=str(digest), image_id=str(image)), digest
