"""How a container stands with the lock: by what it stands on, and with the reason that fits."""

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


def judged(it: RunningImage, *images: LockedImage) -> RunningVerdict:
    return judge(it, LockedImages.of(lock_of(*(images or (LOCKED,)))))


@pytest.mark.parametrize("number", [1, 10, 110])
def test_any_of_its_digests_holds(number: int) -> None:
    """Each store and each runtime knows another one."""
    verdict = judged(running(OLD, number))

    assert verdict == RunningVerdict(ContainerStatus.HOLDS, Weight.HOLDS, "", LOCKED)


def test_the_images_own_digest_counts_and_not_what_its_tag_means() -> None:
    """The newer image is on the host, and its name; the container stands on the one before."""
    verdict = judged(replace(running(OLD), local_digests=frozenset({digest(1)})))

    assert (verdict.standing, verdict.weight) == (ContainerStatus.NOT_RECREATED, Weight.DIFFERS)
    assert "the container runs a former image of localhost:5000/shop/app:1.4.2; recreate it" in verdict.reason


def test_recreated_without_a_pull() -> None:
    """Created after the new image was locked, of the old one that was there."""
    verdict = judged(replace(running(OLD), local_digests=frozenset({digest(OLD)})))

    assert (verdict.standing, verdict.weight) == (ContainerStatus.RECREATED_WITHOUT_PULL, Weight.DIFFERS)
    assert "from an image that was already on its host" in verdict.reason
    assert verdict.locked == LOCKED


@pytest.mark.parametrize("created", [NOW_US - DAY_US, None])
def test_the_tag_moved_after_the_pull(created: int | None) -> None:
    """Nothing has happened on the host since; also where it does not say when the container was made."""
    verdict = judged(replace(running(OLD), created_us=created))

    assert verdict.standing is ContainerStatus.MOVED_AFTER_PULL
    assert "is locked to sha256:000000000000 since 2026-11-24T18:00:00Z" in verdict.reason


def test_the_tag_moved_after_the_lock() -> None:
    """The host has pulled what the tag means now."""
    verdict = judged(replace(running(OLD), current_digest=digest(OLD)))

    assert verdict.standing is ContainerStatus.MOVED_AFTER_LOCK
    assert "its host has pulled the new image" in verdict.reason


def test_offline_the_time_of_the_name_tells_what_was_pulled_after_the_lock() -> None:
    """It has that name alone, since after the lock was written."""
    it = replace(running(OLD), names=(NAME,), tagged_us=NOW_US + 1)

    assert judged(it).standing is ContainerStatus.MOVED_AFTER_LOCK
    assert judged(replace(it, tagged_us=NOW_US)).standing is ContainerStatus.RECREATED_WITHOUT_PULL


def test_a_name_more_says_nothing_about_the_first() -> None:
    """An image that is kept under another name has got a name later than it was pulled."""
    other = Reference.parse("localhost:5000/shop/app:kept")
    it = replace(running(OLD), names=(NAME, other), tagged_us=NOW_US + 1)

    assert judged(it).standing is ContainerStatus.RECREATED_WITHOUT_PULL


def test_another_image_under_the_locked_name() -> None:
    """The registry's tag did not move, so somebody on the host gave the name to something else."""
    verdict = judged(replace(running(OLD), names=(NAME,), tagged_us=NOW_US + 1, current_digest=digest(1)))

    assert (verdict.standing, verdict.weight) == (ContainerStatus.UNKNOWN, Weight.DIFFERS)
    assert "another image was tagged so on this host" in verdict.reason


def test_another_machines_image() -> None:
    """By the lock's word for the manifest that runs, or by the host's word for the image."""
    by_lock = judged(replace(running(11), platform=""))
    by_host = judged(replace(running(1), platform="linux/arm64"))
    not_locked = judged(replace(running(OLD), platform="linux/arm64"))

    assert {each.standing for each in (by_lock, by_host, not_locked)} == {ContainerStatus.OTHER_PLATFORM}
    assert by_lock.reason.startswith("it is the image for linux/arm64/v8, but its host is linux/amd64")


def test_a_platform_that_the_lock_has_not_is_no_mistake() -> None:
    """An image that is made for one machine alone can only run as that, wherever it runs; a lock without platforms says nothing."""
    alone = locked(str(NAME), 1, ("linux/amd64", 10))
    on_arm = replace(running(1), machine="linux/arm64")

    assert judged(on_arm, alone).standing is ContainerStatus.HOLDS
    assert judged(on_arm, locked(str(NAME), 1)).standing is ContainerStatus.OTHER_PLATFORM


@pytest.mark.parametrize(
    ("platform", "machine"),
    [
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm/v7", "linux/arm"),
        ("windows/amd64:10.0.1", "windows/amd64"),
        ("", "x/y"),
    ],
)
def test_what_is_the_same_machine(platform: str, machine: str) -> None:
    """Variants and versions are written by some and not by others."""
    it = replace(running(1), platform=platform, machine=machine)

    assert judged(it, locked(str(NAME), 1, (machine, 10))).standing is ContainerStatus.HOLDS


def test_a_local_build_where_the_lock_has_an_image() -> None:
    """Is named so, and is not taken for current."""
    verdict = judged(replace(running(OLD), origin=Origin.LOCAL))

    assert (verdict.standing, verdict.weight) == (ContainerStatus.LOCAL_BUILD, Weight.DIFFERS)
    assert "is in no known registry" in verdict.reason


def test_what_the_lock_says_is_built_here() -> None:
    """Holds, unless it was pulled."""
    built = locked(str(NAME), None)

    assert judged(replace(running(OLD), origin=Origin.LOCAL), built).weight is Weight.HOLDS
    assert judged(running(OLD), built).standing is ContainerStatus.LOCAL_BUILD
    assert judged(replace(running(OLD), origin=Origin.PULLED), built).weight is Weight.DIFFERS


def test_a_record_that_is_gone() -> None:
    """Holds with a word where the ID is enough, else differs."""
    gone = replace(running(OLD, kind=DigestKind.CONFIG), recorded=False)
    same = replace(running(110, kind=DigestKind.CONFIG), recorded=False)

    assert (judged(gone).standing, judged(gone).weight) == (ContainerStatus.RECORD_GONE, Weight.DIFFERS)
    assert judged(same).weight is Weight.HOLDS
    assert "lost the record" in judged(same).reason


def test_an_image_id_against_a_lock_without_image_ids() -> None:
    """Could not check: equal images would have nothing in common either."""
    bare = locked(str(NAME), 1)
    it = running(110, kind=DigestKind.CONFIG)
    there, gone = judged(it, bare), judged(replace(it, recorded=False), bare)

    assert (there.standing, there.weight) == (ContainerStatus.UNKNOWN, Weight.UNKNOWN)
    assert (gone.standing, gone.weight) == (ContainerStatus.RECORD_GONE, Weight.UNKNOWN)


def test_a_container_that_the_lock_does_not_name() -> None:
    """Is noted; but another tag of what is locked is not let pass, whoever calls it so."""
    strange = Reference.parse("localhost:5000/shop/app:9")
    other = judged(running(OLD, name=Reference.parse("redis:7")))
    tag = judged(running(OLD, name=strange))
    by_id = judged(replace(running(OLD, name=None), names=(strange,)))

    assert (other.standing, other.weight, other.locked) == (ContainerStatus.NOT_LOCKED, Weight.NOTE, None)
    assert [(each.standing, each.weight) for each in (tag, by_id)] == [(ContainerStatus.UNKNOWN, Weight.DIFFERS)] * 2
    assert "has localhost:5000/shop/app as 1.4.2, but neither this tag nor this image" in tag.reason


def test_a_container_that_was_started_by_a_digest_or_an_id() -> None:
    """It is what the lock has under a tag."""
    by_digest = judged(running(1, name=Reference.parse(f"localhost:5000/shop/app@{digest(1)}")))
    by_id = judged(running(110, name=None))

    assert [each.weight for each in (by_digest, by_id)] == [Weight.HOLDS] * 2
    assert by_id.reason == "it is what localhost:5000/shop/app:1.4.2 is locked to"


@pytest.mark.parametrize(
    "name", [f"localhost:5000/shop/app@{digest(OLD)}", "localhost:5000/shop/app:boltseal-keep-00000007"]
)
def test_what_was_started_by_a_digest_or_a_keep_name_goes_by_the_one_tag_that_is_locked(name: str) -> None:
    """As a release starts it; with two tags locked nobody knows which of them it should be."""
    it = running(OLD, name=Reference.parse(name))
    two = locked("localhost:5000/shop/app:1.5.0", 2)
    by_digest = locked(f"localhost:5000/shop/app@{digest(3)}", 3)

    assert judged(it).standing is ContainerStatus.RECREATED_WITHOUT_PULL
    assert judged(it, LOCKED, two).standing is ContainerStatus.UNKNOWN
    assert judged(it, by_digest).standing is ContainerStatus.UNKNOWN
    assert judged(it, locked("redis:7", 1)).standing is ContainerStatus.NOT_LOCKED


def test_a_name_without_a_tag_is_latest() -> None:
    """As everywhere."""
    latest = locked("localhost:5000/shop/app:latest", 1)

    assert judged(running(1, name=Reference.parse("localhost:5000/shop/app")), latest).weight is Weight.HOLDS


def test_a_lock_that_names_a_digest() -> None:
    """Is told by it."""
    pinned = locked(f"localhost:5000/shop/app@{digest(1)}", 1)

    assert "as sha256:000000000000, but neither" in judged(running(OLD), pinned).reason


def test_of_which_kind_a_digest_is() -> None:
    """The host's word, else the lock's, else nobody's."""
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
    """As of a registry whose manifests count as pulls: the manifests are known, the configs are not."""
    half = replace(LOCKED, platforms=tuple(each._replace(image=None) for each in LOCKED.platforms))

    assert judged(running(110, kind=DigestKind.CONFIG), half).weight is Weight.UNKNOWN
    assert known_kinds({digest(10): DigestKind.UNSPECIFIED}, half) == {digest(10): DigestKind.MANIFEST}
    assert judged(replace(running(1), platform="linux/amd64"), half).weight is Weight.HOLDS


def test_the_second_of_the_lock_counts_as_after_it() -> None:
    """The lock's times are whole seconds."""
    assert judged(replace(running(OLD), created_us=NOW_US)).standing is ContainerStatus.RECREATED_WITHOUT_PULL
    assert judged(replace(running(OLD), created_us=NOW_US - SECOND_US)).standing is ContainerStatus.MOVED_AFTER_PULL
