"""Verification compares files with the lock and with registries; each kind of difference has a status."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pytest
import stamina
from starlette.responses import Response

from boltseal.lockfile.compare import Weight
from boltseal.lockfile.document import Lock
from boltseal.project.image_references import ImageReference
from boltseal.project.lock import relock
from boltseal.project.tag_moves import TagMove
from boltseal.project.verify import VerifyResult, VerifyStatus, verify
from tests.fakes.hub import FakeHub
from tests.images import OCI_INDEX, Document
from tests.lockfile.locks import DAY_US, NOW_US
from tests.project.image_ref_samples import REGISTRY, image_ref, publish, resolving, two_platforms

RELEASE = f"{REGISTRY}/shop/app:1.4.2"
FLOATING = f"{REGISTRY}/shop/app:latest"
HOUR_US = DAY_US // 24


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    with stamina.set_testing(True, attempts=1):
        yield


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


def put(hub: FakeHub, words: str, name: str = RELEASE) -> Document:
    document = two_platforms(words)
    publish(hub, name.removeprefix(f"{REGISTRY}/"), document)
    return document


async def locked(hub: FakeHub, image_refs: Sequence[ImageReference], *, count_pulls: bool = False) -> Lock:
    async with resolving(hub, count_pulls=count_pulls) as resolver:
        done = await relock(image_refs, Lock(), resolver, update=lambda _: False, now_us=NOW_US)

    assert done.unresolved == ()
    return done.lock


async def verdict(hub: FakeHub | None, one: ImageReference, lock: Lock | None, *, strict: bool = False) -> VerifyResult:
    """Return the result twelve days later; without a hub, offline."""
    later_us = NOW_US + 12 * DAY_US
    if hub is None:
        (found,) = await verify([one], lock, None, now_us=later_us, strict=strict)
        return found
    async with resolving(hub) as resolver:
        (found,) = await verify([one], lock, resolver, now_us=later_us, strict=strict)
    return found


def moved(found: VerifyResult) -> TagMove:
    """Return the record of the move."""
    assert found.move is not None
    return found.move


def told(found: VerifyResult) -> tuple[VerifyStatus, Weight]:
    return found.status, found.weight


async def test_a_pin_whose_tag_has_not_moved_holds(hub: FakeHub) -> None:
    """Pinned, locked, unmoved; by one HEAD."""
    pinned = image_ref(f"{RELEASE}@{put(hub, 'app').digest}")
    lock = await locked(hub, [pinned])
    hub.counted.clear()

    assert told(await verdict(hub, pinned, lock, strict=True)) == (VerifyStatus.HOLDS, Weight.HOLDS)
    assert hub.counted == {"token": 1, "HEAD manifest": 1}


async def test_a_pin_whose_floating_tag_moved_holds_with_a_note(hub: FakeHub) -> None:
    """The locked image is deployed; the newer one is worth a note."""
    older = put(hub, "older", FLOATING)
    pinned = image_ref(f"{FLOATING}@{older.digest}")
    lock = await locked(hub, [pinned])
    newer = put(hub, "newer", FLOATING)
    found = await verdict(hub, pinned, lock)

    assert told(found) == (VerifyStatus.MOVED, Weight.NOTE)
    assert (str(found.expected), str(found.actual), moved(found).sealed) == (older.digest, newer.digest, False)
    assert found.reason == (
        f"its floating tag moved from {older.digest} to {newer.digest}, "
        "after 2026-11-24T18:00:00Z (12 days ago); changed: linux/amd64, linux/arm64; the pin is still valid"
    )


def history(digest: str, event: str = "created", time: str = "2026-12-01T06:00:00.000001Z") -> bytes:
    annotations = {
        f"org.opencontainers.distribution.tag.{name}": value for name, value in (("timestamp", time), ("event", event))
    }
    entry = {"mediaType": OCI_INDEX, "digest": digest, "size": 2, "annotations": annotations}
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()


async def test_a_registry_that_keeps_a_history_says_when_a_tag_moved(hub: FakeHub) -> None:
    """The newest event counts if it is this move; it is requested only for moved tags."""
    older = put(hub, "older", FLOATING)
    pinned = image_ref(f"{FLOATING}@{older.digest}")
    lock = await locked(hub, [pinned])
    hub.histories["shop/app:latest"] = history(older.digest)
    assert (await verdict(hub, pinned, lock)).status is VerifyStatus.HOLDS
    assert "history" not in hub.counted
    newer = put(hub, "newer", FLOATING)
    other = await verdict(hub, pinned, lock)
    hub.histories["shop/app:latest"] = history(newer.digest)
    found = await verdict(hub, pinned, lock)

    assert moved(other).moved_us is None
    assert "after 2026-11-24T18:00:00Z" in other.reason
    assert moved(found).moved_us == NOW_US + 6 * DAY_US + 12 * HOUR_US + 1
    assert "on 2026-12-01T06:00:00Z (5 days ago), according to its registry; changed: linux/amd64" in found.reason


async def test_a_registry_that_keeps_a_history_says_when_a_tag_was_deleted(hub: FakeHub) -> None:
    """The newest event has no manifest."""
    older = put(hub, "older", FLOATING)
    pinned = image_ref(f"{FLOATING}@{older.digest}")
    lock = await locked(hub, [pinned])
    del hub.manifests["shop/app"]["latest"]
    hub.histories["shop/app:latest"] = history(older.digest, "deleted")

    assert "was deleted; it resolved to" in (found := await verdict(hub, pinned, lock)).reason
    assert moved(found).moved_us is not None


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"[]",
        b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}',
        history(f"sha256:{'0' * 64}", time="yesterday"),
        history(f"sha256:{'0' * 64}", time="2026-12-01T06:00:00"),
        history(f"sha256:{'0' * 64}", time="9" * 100),
    ],
)
async def test_an_unreadable_history_is_ignored(hub: FakeHub, told: bytes) -> None:
    """Then the move came after the lock was written, which is known without it."""
    pinned = image_ref(f"{FLOATING}@{put(hub, 'older', FLOATING).digest}")
    lock = await locked(hub, [pinned])
    put(hub, "newer", FLOATING)
    hub.histories["shop/app:latest"] = told

    assert moved(await verdict(hub, pinned, lock)).moved_us is None


async def test_with_strict_a_note_is_a_difference(hub: FakeHub) -> None:
    """For users who want to know of every newer image."""
    pinned = image_ref(f"{FLOATING}@{put(hub, 'older', FLOATING).digest}")
    lock = await locked(hub, [pinned])
    put(hub, "newer", FLOATING)

    assert told(await verdict(hub, pinned, lock, strict=True)) == (VerifyStatus.MOVED, Weight.DIFFERS)


async def test_a_moved_release_differs_even_if_pinned(hub: FakeHub) -> None:
    """A tag was overwritten that should never change."""
    pinned = image_ref(f"{RELEASE}@{put(hub, 'older').digest}")
    lock = await locked(hub, [pinned])
    put(hub, "newer")
    found = await verdict(hub, pinned, lock)

    assert (told(found), moved(found).sealed) == ((VerifyStatus.MOVED, Weight.DIFFERS), True)
    assert found.reason.startswith("a tag that should never move moved from ")


async def test_an_unpinned_moved_tag_differs(hub: FakeHub) -> None:
    """Floating or not: a deployment would not use the locked image."""
    put(hub, "older", FLOATING)
    lock = await locked(hub, [image_ref(FLOATING)])
    put(hub, "newer", FLOATING)

    assert told(await verdict(hub, image_ref(FLOATING), lock)) == (VerifyStatus.MOVED, Weight.DIFFERS)


async def test_a_locked_unpinned_reference_holds_with_a_note(hub: FakeHub) -> None:
    """As long as its tag resolves to the locked digest; it is not pinned."""
    put(hub, "app")
    lock = await locked(hub, [image_ref(RELEASE)])

    assert told(await verdict(hub, image_ref(RELEASE), lock)) == (VerifyStatus.NOT_PINNED, Weight.NOTE)
    assert told(await verdict(None, image_ref(RELEASE), lock)) == (VerifyStatus.NOT_PINNED, Weight.NOTE)


async def test_without_pin_and_lock_there_is_no_expected_digest(hub: FakeHub) -> None:
    """It is not pinned, which is a difference."""
    put(hub, "app")

    assert told(await verdict(hub, image_ref(RELEASE), None)) == (VerifyStatus.NOT_PINNED, Weight.DIFFERS)


async def test_without_a_lock_a_pin_is_compared_with_its_tag(hub: FakeHub) -> None:
    """A project that only pins can be verified too."""
    older = put(hub, "older")
    pinned = image_ref(f"{RELEASE}@{older.digest}")

    assert told(await verdict(hub, pinned, None)) == (VerifyStatus.HOLDS, Weight.HOLDS)
    put(hub, "newer")
    assert told(await verdict(hub, pinned, None)) == (VerifyStatus.MOVED, Weight.DIFFERS)


async def test_an_unlocked_reference_differs(hub: FakeHub) -> None:
    """It was added and not locked."""
    put(hub, "app")

    assert told(await verdict(hub, image_ref(RELEASE), Lock())) == (VerifyStatus.NOT_LOCKED, Weight.DIFFERS)
    assert told(await verdict(None, image_ref(RELEASE, build=True), Lock())) == (
        VerifyStatus.NOT_LOCKED,
        Weight.DIFFERS,
    )


async def test_a_pin_that_is_not_the_locked_digest_disagrees(hub: FakeHub) -> None:
    """Only one of the two was changed; reported offline too."""
    older = put(hub, "older")
    put(hub, "newer")
    lock = await locked(hub, [image_ref(RELEASE)])
    pinned = image_ref(f"{RELEASE}@{older.digest}")
    found = await verdict(hub, pinned, lock)

    assert told(found) == told(await verdict(None, pinned, lock)) == (VerifyStatus.DISAGREES, Weight.DIFFERS)
    assert (str(found.actual), found.expected) == (older.digest, lock.images[0].digest)


async def test_a_pin_to_one_platform_is_wrong(hub: FakeHub) -> None:
    """It runs on no other platform; the lock shows that offline, too."""
    document = put(hub, "app")
    lock = await locked(hub, [image_ref(RELEASE)])
    pinned = image_ref(f"{RELEASE}@{document.children[1].digest}")
    found = await verdict(None, pinned, lock)

    assert told(found) == told(await verdict(hub, pinned, lock)) == (VerifyStatus.WRONG_PLATFORM, Weight.DIFFERS)
    assert "only the image for linux/arm64" in found.reason


async def test_a_pin_to_one_platform_is_found_without_reading_an_index(hub: FakeHub) -> None:
    """On Docker Hub platforms are not read, but a HEAD returns the media type of a digest."""
    document = two_platforms("node")
    publish(hub, "library/node:16.13.0", document)
    lock = await locked(hub, [image_ref("node:16.13.0")])
    pinned = image_ref(f"node:16.13.0@{document.children[0].digest}")

    assert told(await verdict(hub, pinned, lock)) == (VerifyStatus.WRONG_PLATFORM, Weight.DIFFERS)
    assert told(await verdict(hub, pinned, None)) == (VerifyStatus.WRONG_PLATFORM, Weight.DIFFERS)
    assert "GET manifest" not in hub.counted


async def test_a_pin_that_is_gone_can_not_be_deployed(hub: FakeHub) -> None:
    """The registry has lost the pinned image."""
    document = put(hub, "app")
    pinned = image_ref(f"{RELEASE}@{document.digest}")
    lock = await locked(hub, [pinned])
    hub.manifests["shop/app"].clear()

    assert told(await verdict(hub, pinned, lock)) == (VerifyStatus.GONE, Weight.DIFFERS)


async def test_a_deleted_unpinned_tag_is_gone(hub: FakeHub) -> None:
    """By digest only, the digest is gone."""
    document = put(hub, "app")
    by_digest = image_ref(f"{REGISTRY}/shop/app@{document.digest}")
    lock = await locked(hub, [image_ref(RELEASE), by_digest])
    hub.manifests["shop/app"].clear()

    assert told(await verdict(hub, image_ref(RELEASE), lock)) == (VerifyStatus.GONE, Weight.DIFFERS)
    assert told(await verdict(hub, by_digest, lock)) == (VerifyStatus.GONE, Weight.DIFFERS)


async def test_a_pin_holds_though_its_floating_tag_was_deleted(hub: FakeHub) -> None:
    """With a note; a pin to a deleted release differs."""
    pins = {name: image_ref(f"{name}@{put(hub, 'app', name).digest}") for name in (FLOATING, RELEASE)}
    lock = await locked(hub, list(pins.values()))
    for tag in ("latest", "1.4.2"):
        del hub.manifests["shop/app"][tag]
    floating, release = [await verdict(hub, pin, lock) for pin in pins.values()]

    assert told(floating) == (VerifyStatus.MOVED, Weight.NOTE)
    assert told(release) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert "was deleted; it resolved to" in floating.reason


async def test_a_reference_by_digest_alone_holds(hub: FakeHub) -> None:
    """It can't resolve to anything else."""
    one = image_ref(f"{REGISTRY}/shop/app@{put(hub, 'app').digest}")
    lock = await locked(hub, [one])

    assert told(await verdict(hub, one, lock)) == (VerifyStatus.HOLDS, Weight.HOLDS)


async def test_a_registry_that_does_not_answer_is_could_not_check(hub: FakeHub) -> None:
    """For pinned and for unpinned references."""
    pinned = image_ref(f"{RELEASE}@{put(hub, 'app').digest}")
    lock = await locked(hub, [pinned])
    for one in (pinned, image_ref(RELEASE)):
        hub.failures = [Response(status_code=500)] * 9
        found = await verdict(hub, one, lock)

        assert told(found) == (VerifyStatus.UNKNOWN, Weight.UNKNOWN)
        assert "failed on" in found.reason


async def test_an_unreadable_tag_is_could_not_check_even_if_the_pin_exists(hub: FakeHub) -> None:
    """Whether the tag moved is unknown, so the result is not success."""
    pinned = image_ref(f"{RELEASE}@{put(hub, 'app').digest}")
    lock = await locked(hub, [pinned])
    hub.failures = [Response(status_code=500)]

    assert told(await verdict(hub, pinned, lock)) == (VerifyStatus.UNKNOWN, Weight.UNKNOWN)


async def test_an_unresolved_reference_could_not_be_checked(hub: FakeHub) -> None:
    """For example, a variable without a value."""
    found = await verdict(hub, image_ref("${NOBODY}"), Lock())

    assert told(found) == (VerifyStatus.UNKNOWN, Weight.UNKNOWN)
    assert found.reason


async def test_a_local_build_holds_without_a_request(hub: FakeHub) -> None:
    """It is built where it runs."""
    built = image_ref(RELEASE, build=True)
    lock = await locked(hub, [built])
    hub.counted.clear()

    assert told(await verdict(hub, built, lock, strict=True)) == (VerifyStatus.LOCAL_BUILD, Weight.HOLDS)
    assert told(await verdict(hub, built, None)) == (VerifyStatus.LOCAL_BUILD, Weight.HOLDS)
    assert hub.counted == {}


async def test_a_local_build_without_a_build_disagrees(hub: FakeHub) -> None:
    """The lock marks it as local, but the file requires a pull."""
    lock = await locked(hub, [image_ref(RELEASE, build=True)])

    assert told(await verdict(hub, image_ref(RELEASE), lock)) == (VerifyStatus.DISAGREES, Weight.DIFFERS)


async def test_a_built_service_that_is_in_the_registry_is_compared(hub: FakeHub) -> None:
    """It was locked to a digest, so it must resolve to that."""
    built = image_ref(RELEASE, build=True)
    put(hub, "older")
    lock = await locked(hub, [built])
    put(hub, "newer")

    assert told(await verdict(hub, built, lock)) == (VerifyStatus.MOVED, Weight.DIFFERS)


async def test_offline_a_pin_that_the_lock_has_holds(hub: FakeHub) -> None:
    """Files and lock agree, without any request."""
    pinned = image_ref(f"{RELEASE}@{put(hub, 'app').digest}")
    lock = await locked(hub, [pinned])

    assert told(await verdict(None, pinned, lock, strict=True)) == (VerifyStatus.HOLDS, Weight.HOLDS)
