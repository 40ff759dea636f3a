"""A container is compared with the lock by its image; the reason names the cause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from boltseal.lockfile.compare import Weight
from boltseal.lockfile.container_check import (
    ContainerStatus,
    DigestKind,
    LockedImages,
    Origin,
    RunningImage,
    RunningVerdict,
    judge,
    known_kinds,
)
from boltseal.lockfile.document import SECOND_US, LockedImage
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.lockfile.locks import DAY_US, NOW_US, digest, lock_of, locked

NAME = Reference.parse("localhost:5000/shop/app:1.4.2")
LOCKED = locked(str(NAME), 1, ("linux/amd64", 10), ("linux/arm64/v8", 11))
"""Index 1; amd64: manifest 10, image ID 110; arm64: 11 and 111."""
OLD = 7


def running(*numbers: int, kind: DigestKind = DigestKind.UNSPECIFIED, name: Reference | None = NAME) -> RunningImage:
    """A container on an amd64 machine, created a day after the lock was written."""
    digests = {digest(number): kind for number in numbers}
    return RunningImage(name, digests, platform="linux/amd64", machine="linux/amd64", created_us=NOW_US + DAY_US)


def verdict_of(it: RunningImage, *images: LockedImage) -> RunningVerdict:
    return judge(it, LockedImages.of(lock_of(*(images or (LOCKED,)))))


@pytest.mark.parametrize("number", [1, 10, 110])
def test_any_digest_of_the_locked_image_holds(number: int) -> None:
    """Each store and each runtime knows another of the digests."""
    verdict = verdict_of(running(OLD, number))

    assert verdict == RunningVerdict(ContainerStatus.HOLDS, Weight.HOLDS, "", LOCKED)


def test_the_containers_image_is_compared_and_not_its_tags_current_image() -> None:
    """The host has the newer image under the tag, but the container runs the former one."""
    verdict = verdict_of(replace(running(OLD), local_digests=frozenset({digest(1)})))

    assert (verdict.status, verdict.weight) == (ContainerStatus.NOT_RECREATED, Weight.DIFFERS)
    assert "the container runs a former image of localhost:5000/shop/app:1.4.2; recreate it" in verdict.reason


def test_recreated_without_a_pull() -> None:
    """The container was created after the new image was locked, from the old one on the host."""
    verdict = verdict_of(replace(running(OLD), local_digests=frozenset({digest(OLD)})))

    assert (verdict.status, verdict.weight) == (ContainerStatus.RECREATED_WITHOUT_PULL, Weight.DIFFERS)
    assert "from an image that was already on its host" in verdict.reason
    assert verdict.locked == LOCKED


@pytest.mark.parametrize("created", [NOW_US - DAY_US, None])
def test_the_tag_moved_after_the_pull(created: int | None) -> None:
    """Nothing has happened on the host since; the creation time may be unknown."""
    verdict = verdict_of(replace(running(OLD), created_us=created))

    assert verdict.status is ContainerStatus.MOVED_AFTER_PULL
    assert f"is locked to {digest(1)} since 2026-11-24T18:00:00Z" in verdict.reason


def test_the_tag_moved_after_the_lock() -> None:
    """The host has pulled the tag's current image."""
    verdict = verdict_of(replace(running(OLD), current_digest=digest(OLD)))

    assert verdict.status is ContainerStatus.MOVED_AFTER_LOCK
    assert "its host has pulled the new image" in verdict.reason


def test_offline_the_tagging_time_shows_a_pull_after_the_lock() -> None:
    """The image has only this tag, since after the lock was written."""
    it = replace(running(OLD), names=(NAME,), tagged_us=NOW_US + 1)

    assert verdict_of(it).status is ContainerStatus.MOVED_AFTER_LOCK
    assert verdict_of(replace(it, tagged_us=NOW_US)).status is ContainerStatus.RECREATED_WITHOUT_PULL


def test_a_second_tag_makes_the_tagging_time_useless() -> None:
    """An image with a second tag may have been tagged later than it was pulled."""
    other = Reference.parse("localhost:5000/shop/app:kept")
    it = replace(running(OLD), names=(NAME, other), tagged_us=NOW_US + 1)

    assert verdict_of(it).status is ContainerStatus.RECREATED_WITHOUT_PULL


def test_another_image_under_the_locked_name() -> None:
    """The registry's tag did not move, so another image was tagged so on the host."""
    verdict = verdict_of(replace(running(OLD), names=(NAME,), tagged_us=NOW_US + 1, current_digest=digest(1)))

    assert (verdict.status, verdict.weight) == (ContainerStatus.UNKNOWN, Weight.DIFFERS)
    assert "another image was tagged so on this host" in verdict.reason


def test_an_image_for_another_machine_differs() -> None:
    """The platform comes from the locked manifest, or from the host's information on the image."""
    by_lock = verdict_of(replace(running(11), platform=""))
    by_host = verdict_of(replace(running(1), platform="linux/arm64"))
    not_locked = verdict_of(replace(running(OLD), platform="linux/arm64"))

    assert {each.status for each in (by_lock, by_host, not_locked)} == {ContainerStatus.OTHER_PLATFORM}
    assert by_lock.reason.startswith("it is the image for linux/arm64/v8, but its host is linux/amd64")


def test_an_image_without_a_locked_platform_for_this_machine_holds() -> None:
    """An image for one machine only runs as such everywhere; a lock without platforms proves nothing."""
    alone = locked(str(NAME), 1, ("linux/amd64", 10))
    on_arm = replace(running(1), machine="linux/arm64")

    assert verdict_of(on_arm, alone).status is ContainerStatus.HOLDS
    assert verdict_of(on_arm, locked(str(NAME), 1)).status is ContainerStatus.OTHER_PLATFORM


@pytest.mark.parametrize(
    ("platform", "machine"),
    [
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm/v7", "linux/arm"),
        ("windows/amd64:10.0.1", "windows/amd64"),
        ("", "x/y"),
    ],
)
def test_equivalent_platforms(platform: str, machine: str) -> None:
    """Variants and versions are optional."""
    it = replace(running(1), platform=platform, machine=machine)

    assert verdict_of(it, locked(str(NAME), 1, (machine, 10))).status is ContainerStatus.HOLDS


def test_a_local_build_where_the_lock_has_an_image() -> None:
    """A local build is reported as one, and not as current."""
    verdict = verdict_of(replace(running(OLD), origin=Origin.LOCAL))

    assert (verdict.status, verdict.weight) == (ContainerStatus.LOCAL_BUILD, Weight.DIFFERS)
    assert "is in no known registry" in verdict.reason


def test_a_locked_local_build() -> None:
    """It holds, unless the image was pulled."""
    built = locked(str(NAME), None)

    assert verdict_of(replace(running(OLD), origin=Origin.LOCAL), built).weight is Weight.HOLDS
    assert verdict_of(running(OLD), built).status is ContainerStatus.LOCAL_BUILD
    assert verdict_of(replace(running(OLD), origin=Origin.PULLED), built).weight is Weight.DIFFERS


def test_a_host_that_lost_the_images_record() -> None:
    """It holds with a note if the ID suffices, else it differs."""
    gone = replace(running(OLD, kind=DigestKind.CONFIG), recorded=False)
    same = replace(running(110, kind=DigestKind.CONFIG), recorded=False)

    assert (verdict_of(gone).status, verdict_of(gone).weight) == (ContainerStatus.RECORD_GONE, Weight.DIFFERS)
    assert verdict_of(same).weight is Weight.HOLDS
    assert "lost the record" in verdict_of(same).reason


def test_an_image_id_against_a_lock_without_image_ids() -> None:
    """Could not check: even equal images would have no digest in common."""
    bare = locked(str(NAME), 1)
    it = running(110, kind=DigestKind.CONFIG)
    there, gone = verdict_of(it, bare), verdict_of(replace(it, recorded=False), bare)

    assert (there.status, there.weight) == (ContainerStatus.UNKNOWN, Weight.UNKNOWN)
    assert (gone.status, gone.weight) == (ContainerStatus.RECORD_GONE, Weight.UNKNOWN)


def test_a_container_that_is_not_locked() -> None:
    """It is noted; but another tag of a locked repository differs, whatever created it."""
    strange = Reference.parse("localhost:5000/shop/app:9")
    other = verdict_of(running(OLD, name=Reference.parse("redis:7")))
    tag = verdict_of(running(OLD, name=strange))
    by_id = verdict_of(replace(running(OLD, name=None), names=(strange,)))

    assert (other.status, other.weight, other.locked) == (ContainerStatus.NOT_LOCKED, Weight.NOTE, None)
    assert [(each.status, each.weight) for each in (tag, by_id)] == [(ContainerStatus.UNKNOWN, Weight.DIFFERS)] * 2
    assert "has localhost:5000/shop/app as 1.4.2, but neither this tag nor this image" in tag.reason


def test_a_container_that_was_started_by_a_digest_or_an_id() -> None:
    """The image is locked under a tag."""
    by_digest = verdict_of(running(1, name=Reference.parse(f"localhost:5000/shop/app@{digest(1)}")))
    by_id = verdict_of(running(110, name=None))

    assert [each.weight for each in (by_digest, by_id)] == [Weight.HOLDS] * 2
    assert by_id.reason == "it is what localhost:5000/shop/app:1.4.2 is locked to"


@pytest.mark.parametrize(
    "name", [f"localhost:5000/shop/app@{digest(OLD)}", "localhost:5000/shop/app:boltseal-keep-00000007"]
)
def test_a_digest_or_keep_tag_is_compared_with_the_only_locked_tag(name: str) -> None:
    """As `boltseal deploy` starts it; with two locked tags it is unknown which one is expected."""
    it = running(OLD, name=Reference.parse(name))
    two = locked("localhost:5000/shop/app:1.5.0", 2)
    by_digest = locked(f"localhost:5000/shop/app@{digest(3)}", 3)

    assert verdict_of(it).status is ContainerStatus.RECREATED_WITHOUT_PULL
    assert verdict_of(it, LOCKED, two).status is ContainerStatus.UNKNOWN
    assert verdict_of(it, by_digest).status is ContainerStatus.UNKNOWN
    assert verdict_of(it, locked("redis:7", 1)).status is ContainerStatus.NOT_LOCKED


def test_a_name_without_a_tag_is_latest() -> None:
    """As in Docker."""
    latest = locked("localhost:5000/shop/app:latest", 1)

    assert verdict_of(running(1, name=Reference.parse("localhost:5000/shop/app")), latest).weight is Weight.HOLDS


def test_a_reference_locked_by_digest() -> None:
    """The digest alone is compared."""
    pinned = locked(f"localhost:5000/shop/app@{digest(1)}", 1)

    assert f"as {digest(1)}, but neither" in verdict_of(running(OLD), pinned).reason


def test_the_kind_of_a_digest() -> None:
    """The host's kind has priority, then the lock's."""
    host = {digest(number): DigestKind.UNSPECIFIED for number in (1, 10, 110, OLD)} | {digest(8): DigestKind.CONFIG}

    assert list(known_kinds(host, LOCKED).values()) == ["index", "manifest", "config", "digest", "config"]
    assert known_kinds(host, None) == host
    assert known_kinds({digest(1): DigestKind.UNSPECIFIED}, replace(LOCKED, media_type="")) == {
        digest(1): DigestKind.UNSPECIFIED
    }
    assert known_kinds({Digest.of(b""): DigestKind.UNSPECIFIED}, locked("app:1", None)) == {
        Digest.of(b""): DigestKind.UNSPECIFIED
    }


def test_a_lock_whose_platforms_have_no_image_ids() -> None:
    """A registry whose manifests count as pulls: the manifests are known, the configs are not."""
    half = replace(LOCKED, platforms=tuple(each._replace(image=None) for each in LOCKED.platforms))

    assert verdict_of(running(110, kind=DigestKind.CONFIG), half).weight is Weight.UNKNOWN
    assert known_kinds({digest(10): DigestKind.UNSPECIFIED}, half) == {digest(10): DigestKind.MANIFEST}
    assert verdict_of(replace(running(1), platform="linux/amd64"), half).weight is Weight.HOLDS


def test_the_second_of_the_lock_counts_as_after_it() -> None:
    """The lock's times are whole seconds."""
    assert verdict_of(replace(running(OLD), created_us=NOW_US)).status is ContainerStatus.RECREATED_WITHOUT_PULL
    assert verdict_of(replace(running(OLD), created_us=NOW_US - SECOND_US)).status is ContainerStatus.MOVED_AFTER_PULL
