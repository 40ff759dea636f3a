"""An image's platforms are compared with those in use: the file's `platform`, and the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from boltseal.lockfile.compare import Weight
from boltseal.lockfile.document import Lock, LockedPlatform
from boltseal.project.image_references import ImageReference
from boltseal.project.lock import relock
from boltseal.project.platforms import PlatformInvalid, can_run, check_platform, missing_platforms
from boltseal.project.verify import VerifyResult, VerifyStatus, verify
from tests.fakes.hub import FakeHub
from tests.images import image, index
from tests.lockfile.locks import NOW_US, digest
from tests.project.image_ref_samples import REGISTRY, image_ref, publish, resolving, two_platforms

pytestmark = pytest.mark.usefixtures("one_attempt")

RELEASE, FLOATING = f"{REGISTRY}/shop/app:1.4.2", f"{REGISTRY}/shop/app:latest"


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


def used_on(image_reference: ImageReference, *platforms: str) -> ImageReference:
    """Return the reference with a platform, as from Compose's `platform` or `FROM --platform`."""
    return replace(image_reference, platforms=platforms)


async def locked(hub: FakeHub, *image_refs: ImageReference) -> Lock:
    async with resolving(hub) as resolver:
        return (await relock(image_refs, Lock(), resolver, update=lambda _: False, now_us=NOW_US)).lock


async def verdict(
    hub: FakeHub | None, image_reference: ImageReference, lock: Lock, platforms: Sequence[str] = ()
) -> VerifyResult:
    if hub is None:
        return (await verify([image_reference], lock, None, now_us=NOW_US, platforms=platforms))[0]
    async with resolving(hub) as resolver:
        return (await verify([image_reference], lock, resolver, now_us=NOW_US, platforms=platforms))[0]


def status_and_weight(found: VerifyResult) -> tuple[VerifyStatus, Weight]:
    return found.status, found.weight


@pytest.mark.parametrize(
    ("asked", "has", "expected"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/x86_64", "linux/amd64", True),
        ("amd64", "linux/amd64", True),
        ("linux", "linux/s390x", True),
        ("windows", "linux/amd64", False),
        ("linux/amd64", "linux/arm64", False),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/aarch64", "linux/arm64", True),
        ("linux/arm", "linux/arm/v7", True),
        ("linux/arm/v7", "linux/arm/v6", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/arm/6", "linux/arm/v6", True),
        ("linux/armhf", "linux/arm/v7", True),
        ("linux/amd64/v2", "linux/amd64", True),
        ("linux/amd64/v2", "linux/amd64/v3", False),
        ("windows/amd64", "windows/amd64:10.0.20348", True),
        ("macos/arm64", "darwin/arm64", True),
    ],
)
def test_platforms_are_normalised_as_in_docker(asked: str, has: str, expected: bool) -> None:
    """A machine's several platform names, and older variants it runs, are treated as in Docker."""
    assert can_run(asked, has) is expected


@pytest.mark.parametrize("text", ["", "/", "linux/", "linux/amd64/v1/x", "linux amd64", "linux/\x1b", "l" * 200])
def test_an_invalid_platform_is_refused(text: str) -> None:
    """An invalid platform is refused with the expected form."""
    with pytest.raises(PlatformInvalid, match="expected one such as linux/amd64"):
        check_platform(text)


def test_an_image_whose_platforms_are_not_all_known_is_not_judged() -> None:
    """An image with unknown platforms is not reported as lacking one."""
    known, unsaid = LockedPlatform("linux/amd64", digest(1)), LockedPlatform("", digest(2))

    assert missing_platforms(["linux/arm64"], []) is None
    assert missing_platforms(["linux/arm64"], [known, unsaid]) is None
    assert missing_platforms(["linux/arm64", "linux/amd64"], [known]) == ("linux/arm64",)


async def test_a_pin_to_another_platform_than_the_file_asks_for_is_wrong(hub: FakeHub) -> None:
    """A pin to another platform than the file's `platform` differs, also offline, and both are shown."""
    document = two_platforms("app")
    publish(hub, "shop/app:1.4.2", document)
    lock = await locked(hub, image_ref(RELEASE))
    pinned = used_on(image_ref(f"{RELEASE}@{document.children[0].digest}"), "linux/arm64")
    found = [await verdict(asked, pinned, lock) for asked in (hub, None)]

    assert [status_and_weight(image_reference) for image_reference in found] == [
        (VerifyStatus.WRONG_PLATFORM, Weight.DIFFERS)
    ] * 2
    assert all(
        "only the image for linux/amd64 (it asks for linux/arm64)" in image_reference.reason
        for image_reference in found
    )


async def test_a_pin_to_the_one_platform_that_the_file_asks_for_is_noted(hub: FakeHub) -> None:
    """A pin to the one platform that the file requires matches with a note."""
    document = two_platforms("app")
    publish(hub, "shop/app:1.4.2", document)
    lock = await locked(hub, image_ref(RELEASE))
    pinned = used_on(image_ref(f"{RELEASE}@{document.children[1].digest}"), "linux/arm64/v8")

    assert status_and_weight(await verdict(hub, pinned, lock)) == (VerifyStatus.HOLDS, Weight.NOTE)
    assert status_and_weight(await verdict(None, pinned, lock)) == (VerifyStatus.HOLDS, Weight.NOTE)
    del hub.manifests["shop/app"][document.children[1].digest]
    assert status_and_weight(await verdict(hub, pinned, lock)) == (VerifyStatus.GONE, Weight.DIFFERS)


async def test_an_image_without_the_files_platform_is_wrong(hub: FakeHub) -> None:
    """An image, or an index, without the file's platform differs, although it is locked and pinned correctly."""
    publish(hub, "shop/app:1.4.2", two_platforms("app"))
    publish(hub, "shop/app:latest", image("plain"))
    names = (RELEASE, FLOATING)
    lock = await locked(hub, *map(image_ref, names))
    found = [await verdict(hub, used_on(image_ref(name), "linux/s390x"), lock) for name in names]

    assert [status_and_weight(image_reference) for image_reference in found] == [
        (VerifyStatus.WRONG_PLATFORM, Weight.DIFFERS)
    ] * 2
    assert "used on linux/s390x, but has no image for that; it has linux/amd64" in found[0].reason


async def test_every_image_must_have_the_callers_platforms(hub: FakeHub) -> None:
    """Each image must have the caller's platforms, even if the files name none."""
    document = two_platforms("app")
    publish(hub, "shop/app:1.4.2", document)
    lock = await locked(hub, image_ref(RELEASE))
    pinned = image_ref(f"{RELEASE}@{document.digest}")
    both = await verdict(hub, pinned, lock, ["linux/amd64", "linux/arm64"])
    third = await verdict(None, pinned, lock, ["linux/amd64", "linux/riscv64"])

    assert status_and_weight(both) == (VerifyStatus.HOLDS, Weight.HOLDS)
    assert status_and_weight(third) == (VerifyStatus.WRONG_PLATFORM, Weight.DIFFERS)
    assert "used on linux/riscv64" in third.reason


async def test_unknown_platforms_could_not_be_checked(hub: FakeHub) -> None:
    """On Docker Hub, the caller's platforms could not be checked; a file's own platform alone is not checked."""
    document = two_platforms("app")
    publish(hub, "library/node:16.13.0", document)
    lock = await locked(hub, image_ref("node:16.13.0"))
    pinned = image_ref(f"node:16.13.0@{document.digest}")
    asked = await verdict(hub, pinned, lock, ["linux/arm64"])

    assert status_and_weight(asked) == (VerifyStatus.UNKNOWN, Weight.UNKNOWN)
    assert "boltseal lock --count-pulls" in asked.reason
    assert status_and_weight(await verdict(hub, used_on(pinned, "linux/arm64"), lock)) == (
        VerifyStatus.HOLDS,
        Weight.HOLDS,
    )
    assert "GET manifest" not in hub.counted


async def test_a_move_is_reported_by_platform(hub: FakeHub) -> None:
    """A moved index is reported with the platforms whose images changed."""
    amd64, arm64 = image("amd64"), image("arm64")
    publish(hub, "shop/app:latest", index(amd64, arm64))
    lock = await locked(hub, image_ref(FLOATING))
    newer = index(amd64, image("a newer arm64"))
    publish(hub, "shop/app:latest", newer)
    found = await verdict(hub, used_on(image_ref(FLOATING), "linux/amd64"), lock)
    elsewhere = await verdict(hub, image_ref(FLOATING), lock, ["linux/arm64"])

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert found.change is not None
    assert (found.change.changed, found.change.same) == (("linux/arm64",), ("linux/amd64",))
    assert "; changed: linux/arm64; same: linux/amd64; unchanged on linux/amd64" in found.reason
    assert "unchanged on" not in elsewhere.reason


async def test_an_unreadable_new_index_is_not_a_failure(hub: FakeHub) -> None:
    """If the new index can't be read, the move is reported without its platforms."""
    publish(hub, "shop/app:latest", two_platforms("older"))
    lock = await locked(hub, image_ref(FLOATING))
    publish(hub, "shop/app:latest", two_platforms("newer"))
    hub.wrong_bytes = True
    found = await verdict(hub, image_ref(FLOATING), lock)

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert found.change is None
