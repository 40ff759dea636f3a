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
    changed_mark,
    is_changed_mark,
    judge,
    known_kinds,
    shown_name,
    without_keep_tags,
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
    """Return a container on an amd64 machine, created a day after the lock was written."""
    digests = {digest(number): kind for number in numbers}
    return RunningImage(name, digests, platform="linux/amd64", machine="linux/amd64", created_us=NOW_US + DAY_US)


def verdict_of(container: RunningImage, *images: LockedImage) -> RunningVerdict:
    return judge(container, LockedImages.of(lock_of(*(images or (LOCKED,)))))


def test_a_container_of_a_pin_is_compared_with_the_entry_of_that_pin() -> None:
    """If files pin one tag differently, each container is compared with the entry of its own pin, the others with the tag's."""
    own = locked(f"{NAME}@{digest(2)}", 2)
    pinned, tagged = (running(2, name=name) for name in (replace(NAME, digest=digest(2)), NAME))
    by_digest = running(2, name=Reference.parse(f"localhost:5000/shop/app@{digest(2)}"))

    assert verdict_of(pinned, LOCKED, own).locked == own
    assert verdict_of(by_digest, LOCKED, own) == RunningVerdict(
        ContainerStatus.HOLDS, Weight.HOLDS, f"it is what {own.reference.familiar()} is locked to", own
    )
    assert verdict_of(tagged, LOCKED, own).weight is Weight.DIFFERS


@pytest.mark.parametrize("number", [1, 10, 110])
def test_any_digest_of_the_locked_image_matches(number: int) -> None:
    """A container with any digest of the locked image matches, since each store and runtime reports another one."""
    verdict = verdict_of(running(OLD, number))

    assert verdict == RunningVerdict(ContainerStatus.HOLDS, Weight.HOLDS, "", LOCKED)


def test_the_containers_image_is_compared_and_not_its_tags_current_image() -> None:
    """A container with the former image differs or matches by that image, whatever image the host's tag now has."""
    verdict = verdict_of(replace(running(OLD), local_digests=frozenset({digest(1)})))

    assert (verdict.status, verdict.weight) == (ContainerStatus.NOT_RECREATED, Weight.DIFFERS)
    assert "the container runs a former image of localhost:5000/shop/app:1.4.2; recreate it" in verdict.reason


def test_a_container_recreated_without_a_pull_differs() -> None:
    """A container newer than the lock with the old image was recreated without a pull."""
    verdict = verdict_of(replace(running(OLD), local_digests=frozenset({digest(OLD)})))

    assert (verdict.status, verdict.weight) == (ContainerStatus.RECREATED_WITHOUT_PULL, Weight.DIFFERS)
    assert "from an image that was already on its host" in verdict.reason
    assert verdict.locked == LOCKED


@pytest.mark.parametrize("created", [NOW_US - DAY_US, None])
def test_a_tag_that_moved_after_the_pull_is_the_reason(created: int | None) -> None:
    """If the tag moved after the pull, the host is unchanged; the creation time may be unknown."""
    verdict = verdict_of(replace(running(OLD), created_us=created))

    assert verdict.status is ContainerStatus.MOVED_AFTER_PULL
    assert f"is locked to {digest(1)} since 2026-11-24T18:00:00Z" in verdict.reason


def test_a_tag_that_moved_after_the_lock_is_the_reason() -> None:
    """If the host has the tag's current image and the lock does not, the tag moved after the lock was written."""
    verdict = verdict_of(replace(running(OLD), current_digest=digest(OLD)))

    assert verdict.status is ContainerStatus.MOVED_AFTER_LOCK
    assert "its host has pulled the new image" in verdict.reason


def test_offline_the_tagging_time_shows_a_pull_after_the_lock() -> None:
    """Offline, an image with one tag, set after the lock was written, was pulled after it."""
    container = replace(running(OLD), names=(NAME,), tagged_us=NOW_US + 1)

    assert verdict_of(container).status is ContainerStatus.MOVED_AFTER_LOCK
    assert verdict_of(replace(container, tagged_us=NOW_US)).status is ContainerStatus.RECREATED_WITHOUT_PULL


def test_a_second_tag_makes_the_tagging_time_useless() -> None:
    """For an image with a second tag, the time of tagging does not show when it was pulled."""
    other = Reference.parse("localhost:5000/shop/app:kept")
    container = replace(running(OLD), names=(NAME, other), tagged_us=NOW_US + 1)

    assert verdict_of(container).status is ContainerStatus.RECREATED_WITHOUT_PULL


def test_another_image_under_the_locked_name_differs() -> None:
    """If the registry's tag did not move, another image was tagged with the locked name on the host."""
    verdict = verdict_of(replace(running(OLD), names=(NAME,), tagged_us=NOW_US + 1, current_digest=digest(1)))

    assert (verdict.status, verdict.weight) == (ContainerStatus.UNKNOWN, Weight.DIFFERS)
    assert "another image was tagged so on this host" in verdict.reason


def test_an_image_for_another_platform_differs() -> None:
    """An image for another platform differs, by the locked manifest or by the host's data."""
    by_lock = verdict_of(replace(running(11), platform=""))
    by_host = verdict_of(replace(running(1), platform="linux/arm64"))
    not_locked = verdict_of(replace(running(OLD), platform="linux/arm64"))

    assert {each.status for each in (by_lock, by_host, not_locked)} == {ContainerStatus.OTHER_PLATFORM}
    assert by_lock.reason.startswith("it is the image for linux/arm64/v8, but its host is linux/amd64")


def test_an_image_without_a_locked_platform_for_this_machine_matches() -> None:
    """An image for one platform matches on any machine; a lock without platforms proves nothing."""
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
def test_equivalent_platforms_match(platform: str, machine: str) -> None:
    """Platforms match without their optional variant and version."""
    container = replace(running(1), platform=platform, machine=machine)

    assert verdict_of(container, locked(str(NAME), 1, (machine, 10))).status is ContainerStatus.HOLDS


def test_a_local_build_differs_where_the_lock_has_an_image() -> None:
    """A local build differs where the lock has a registry's image."""
    verdict = verdict_of(replace(running(OLD), origin=Origin.LOCAL))

    assert (verdict.status, verdict.weight) == (ContainerStatus.LOCAL_BUILD, Weight.DIFFERS)
    assert "is in no known registry" in verdict.reason


def test_a_locked_local_build_matches() -> None:
    """A locked local build matches, unless the image was pulled."""
    built = locked(str(NAME), None)

    assert verdict_of(replace(running(OLD), origin=Origin.LOCAL), built).weight is Weight.HOLDS
    assert verdict_of(running(OLD), built).status is ContainerStatus.LOCAL_BUILD
    assert verdict_of(replace(running(OLD), origin=Origin.PULLED), built).weight is Weight.DIFFERS


def test_a_host_without_the_images_record_is_compared_by_id() -> None:
    """If the host lost an image's record, its ID may suffice to match with a note, else it differs."""
    gone = replace(running(OLD, kind=DigestKind.CONFIG), recorded=False)
    same = replace(running(110, kind=DigestKind.CONFIG), recorded=False)

    assert (verdict_of(gone).status, verdict_of(gone).weight) == (ContainerStatus.RECORD_GONE, Weight.DIFFERS)
    assert verdict_of(same).weight is Weight.HOLDS
    assert "lost the record" in verdict_of(same).reason


def test_an_image_id_can_not_be_compared_with_a_lock_without_image_ids() -> None:
    """An image ID can't be compared with a lock without image IDs, so the result is "could not check"."""
    bare = locked(str(NAME), 1)
    container = running(110, kind=DigestKind.CONFIG)
    there, gone = verdict_of(container, bare), verdict_of(replace(container, recorded=False), bare)

    assert (there.status, there.weight) == (ContainerStatus.UNKNOWN, Weight.UNKNOWN)
    assert (gone.status, gone.weight) == (ContainerStatus.RECORD_GONE, Weight.UNKNOWN)


def test_a_container_that_is_not_locked_is_noted() -> None:
    """A container of an image outside of the lock is noted, but another tag of a locked repository differs."""
    strange = Reference.parse("localhost:5000/shop/app:9")
    other = verdict_of(running(OLD, name=Reference.parse("redis:7")))
    tag = verdict_of(running(OLD, name=strange))
    by_id = verdict_of(replace(running(OLD, name=None), names=(strange,)))

    assert (other.status, other.weight, other.locked) == (ContainerStatus.NOT_LOCKED, Weight.NOTE, None)
    assert [(each.status, each.weight) for each in (tag, by_id)] == [(ContainerStatus.UNKNOWN, Weight.DIFFERS)] * 2
    assert "has localhost:5000/shop/app as 1.4.2, but neither this tag nor this image" in tag.reason


def test_a_container_started_by_digest_or_id_is_compared() -> None:
    """A container started by digest or ID is compared with the image that the lock has under a tag."""
    by_digest = verdict_of(running(1, name=Reference.parse(f"localhost:5000/shop/app@{digest(1)}")))
    by_id = verdict_of(running(110, name=None))

    assert [each.weight for each in (by_digest, by_id)] == [Weight.HOLDS] * 2
    assert by_id.reason == "it is what localhost:5000/shop/app:1.4.2 is locked to"


@pytest.mark.parametrize(
    "name", [f"localhost:5000/shop/app@{digest(OLD)}", "localhost:5000/shop/app:boltseal-keep-00000007"]
)
def test_a_digest_or_keep_tag_is_compared_with_the_only_locked_tag(name: str) -> None:
    """A digest or keep tag is compared with the repository's only locked tag; with two locked tags the result is
    unknown."""
    container = running(OLD, name=Reference.parse(name))
    two = locked("localhost:5000/shop/app:1.5.0", 2)
    by_digest = locked(f"localhost:5000/shop/app@{digest(3)}", 3)

    assert verdict_of(container).status is ContainerStatus.RECREATED_WITHOUT_PULL
    assert verdict_of(container, LOCKED, two).status is ContainerStatus.UNKNOWN
    assert verdict_of(container, by_digest).status is ContainerStatus.UNKNOWN
    assert verdict_of(container, locked("redis:7", 1)).status is ContainerStatus.NOT_LOCKED


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("localhost:5000/shop/app:1.4.2", ContainerStatus.MOVED_AFTER_PULL),
        (f"localhost:5000/shop/app@{digest(OLD)}", ContainerStatus.UNKNOWN),
        ("localhost:5000/shop/app:boltseal-keep-00000007", ContainerStatus.UNKNOWN),
    ],
)
def test_only_a_container_started_by_its_tag_shows_that_the_tag_moved(name: str, status: ContainerStatus) -> None:
    """A container that `boltseal deploy` started by digest or keep tag is no evidence that the locked tag moved."""
    older = replace(running(OLD, name=Reference.parse(name)), created_us=1)

    assert (verdict_of(older).status, verdict_of(older).weight) == (status, Weight.DIFFERS)


def test_keep_tags_are_never_shown_as_names() -> None:
    """A keep tag is left out of an image's names; a container started by one is shown with repository and digest."""
    keep, name = (Reference.parse(f"localhost:5000/shop/app:{tag}") for tag in ("boltseal-keep-00000007", "1.4.2"))
    pulled = (
        Reference.parse(f"localhost:5000/other@{digest(2)}"),
        Reference.parse(f"localhost:5000/shop/app@{digest(1)}"),
    )

    assert without_keep_tags((keep, name)) == (name,)
    assert shown_name(str(keep), pulled) == f"localhost:5000/shop/app@{digest(1)}"
    assert shown_name(str(keep), ()) == "localhost:5000/shop/app"
    assert shown_name(str(name), pulled) == str(name)
    assert shown_name("sha256:", pulled) == "sha256:"


def test_a_name_without_a_tag_is_latest() -> None:
    """As in Docker, a name without a tag is completed with `latest`."""
    latest = locked("localhost:5000/shop/app:latest", 1)

    assert verdict_of(running(1, name=Reference.parse("localhost:5000/shop/app")), latest).weight is Weight.HOLDS


def test_a_reference_locked_by_digest_is_compared() -> None:
    """A reference locked by digest is compared by the digest only."""
    pinned = locked(f"localhost:5000/shop/app@{digest(1)}", 1)

    assert f"as {digest(1)}, but neither" in verdict_of(running(OLD), pinned).reason


def test_the_kind_of_a_digest_is_determined() -> None:
    """The kind of a digest is taken from the host, or else from the lock."""
    host = {digest(number): DigestKind.UNSPECIFIED for number in (1, 10, 110, OLD)} | {digest(8): DigestKind.CONFIG}

    assert list(known_kinds(host, LOCKED).values()) == ["index", "manifest", "config", "digest", "config"]
    assert known_kinds(host, None) == host
    assert known_kinds({digest(1): DigestKind.UNSPECIFIED}, replace(LOCKED, media_type="")) == {
        digest(1): DigestKind.UNSPECIFIED
    }
    assert known_kinds({Digest.of(b""): DigestKind.UNSPECIFIED}, locked("app:1", None)) == {
        Digest.of(b""): DigestKind.UNSPECIFIED
    }


def test_a_lock_whose_platforms_have_no_image_ids_is_compared() -> None:
    """A lock of a registry whose manifest requests count as pulls has manifests but no image IDs."""
    half = replace(LOCKED, platforms=tuple(each._replace(image=None) for each in LOCKED.platforms))

    assert verdict_of(running(110, kind=DigestKind.CONFIG), half).weight is Weight.UNKNOWN
    assert known_kinds({digest(10): DigestKind.UNSPECIFIED}, half) == {digest(10): DigestKind.MANIFEST}
    assert verdict_of(replace(running(1), platform="linux/amd64"), half).weight is Weight.HOLDS


def test_the_second_of_the_lock_counts_as_after_the_lock() -> None:
    """A container created in the second of the lock counts as newer, since the lock has whole seconds."""
    assert verdict_of(replace(running(OLD), created_us=NOW_US)).status is ContainerStatus.RECREATED_WITHOUT_PULL
    assert verdict_of(replace(running(OLD), created_us=NOW_US - SECOND_US)).status is ContainerStatus.MOVED_AFTER_PULL


def test_a_mark_is_a_name_that_no_registry_has() -> None:
    """Only the name that no registry can have marks an image as changed, whatever form a registry's tags have."""
    mark = changed_mark(digest(OLD))
    forged = [
        Reference.parse(name)
        for name in (
            f"shop/app:{mark.tag}",
            f"shop/app:{mark.tag}-changed",
            f"localhost:5000/changed:{mark.tag}",
            f"boltseal.invalid/app:{mark.tag}",
            "boltseal.invalid/changed:1.4.2",
            f"boltseal.invalid/changed@{digest(OLD)}",
        )
    ]

    assert is_changed_mark(mark)
    assert Reference.parse(str(mark)) == mark
    assert not any(map(is_changed_mark, forged))
    assert without_keep_tags([mark, *forged]) == tuple(forged[4:])
