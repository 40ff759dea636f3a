"""Verification compares files with the lock and with registries; each kind of difference has a status."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from starlette.responses import Response

from boltseal.lockfile.compare import Weight
from boltseal.lockfile.document import Lock
from boltseal.project.image_references import ImageReference
from boltseal.project.lock import relock
from boltseal.project.tag_moves import TagMove
from boltseal.project.verify import VerifyResult, VerifyStatus, verify
from tests.fakes.hub import FakeHub
from tests.images import OCI_INDEX, Document, image
from tests.lockfile.locks import DAY_US, NOW_US
from tests.project.image_ref_samples import REGISTRY, image_ref, publish, resolving, two_platforms

pytestmark = pytest.mark.usefixtures("one_attempt")

RELEASE = f"{REGISTRY}/shop/app:1.4.2"
FLOATING = f"{REGISTRY}/shop/app:latest"
HOUR_US = DAY_US // 24


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


async def verdict(
    hub: FakeHub | None, image: ImageReference, lock: Lock | None, *, strict: bool = False
) -> VerifyResult:
    """Return the result twelve days later, or offline without a hub."""
    later_us = NOW_US + 12 * DAY_US
    if hub is None:
        (found,) = await verify([image], lock, None, now_us=later_us, strict=strict)
        return found
    async with resolving(hub) as resolver:
        (found,) = await verify([image], lock, resolver, now_us=later_us, strict=strict)
    return found


def moved(found: VerifyResult) -> TagMove:
    """Return the record of the move."""
    assert found.move is not None
    return found.move


def status_and_weight(found: VerifyResult) -> tuple[VerifyStatus, Weight]:
    return found.status, found.weight


async def test_a_pin_whose_tag_has_not_moved_is_up_to_date(hub: FakeHub) -> None:
    """A pinned and locked reference whose tag has not moved is up to date, by one HEAD."""
    pinned = image_ref(f"{RELEASE}@{put(hub, 'app').digest}")
    lock = await locked(hub, [pinned])
    hub.counted.clear()

    assert status_and_weight(await verdict(hub, pinned, lock, strict=True)) == (VerifyStatus.HOLDS, Weight.HOLDS)
    assert hub.counted == {"token": 1, "HEAD manifest": 1}


async def test_a_pin_whose_floating_tag_moved_is_up_to_date_with_a_note(hub: FakeHub) -> None:
    """A pin whose mutable tag moved is up to date with a note."""
    older = put(hub, "older", FLOATING)
    pinned = image_ref(f"{FLOATING}@{older.digest}")
    lock = await locked(hub, [pinned])
    newer = put(hub, "newer", FLOATING)
    found = await verdict(hub, pinned, lock)

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.NOTE)
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


async def test_a_registrys_history_gives_the_time_of_a_move(hub: FakeHub) -> None:
    """The registry's newest history event, if it is this move, gives its time."""
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


async def test_a_registrys_history_gives_the_time_of_a_deletion(hub: FakeHub) -> None:
    """A newest history event without a manifest gives the time of the deletion."""
    older = put(hub, "older", FLOATING)
    pinned = image_ref(f"{FLOATING}@{older.digest}")
    lock = await locked(hub, [pinned])
    del hub.manifests["shop/app"]["latest"]
    hub.histories["shop/app:latest"] = history(older.digest, "deleted")

    assert "was deleted; it resolved to" in (found := await verdict(hub, pinned, lock)).reason
    assert moved(found).moved_us is not None


@pytest.mark.parametrize(
    "status_and_weight",
    [
        b"",
        b"[]",
        b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}',
        history(f"sha256:{'0' * 64}", time="yesterday"),
        history(f"sha256:{'0' * 64}", time="2026-12-01T06:00:00"),
        history(f"sha256:{'0' * 64}", time="9" * 100),
    ],
)
async def test_an_unreadable_history_is_ignored(hub: FakeHub, status_and_weight: bytes) -> None:
    """Without a readable history, the move is reported as later than the lock."""
    pinned = image_ref(f"{FLOATING}@{put(hub, 'older', FLOATING).digest}")
    lock = await locked(hub, [pinned])
    put(hub, "newer", FLOATING)
    hub.histories["shop/app:latest"] = status_and_weight

    assert moved(await verdict(hub, pinned, lock)).moved_us is None


async def test_with_strict_a_note_is_a_difference(hub: FakeHub) -> None:
    """With --strict a note is a difference."""
    pinned = image_ref(f"{FLOATING}@{put(hub, 'older', FLOATING).digest}")
    lock = await locked(hub, [pinned])
    put(hub, "newer", FLOATING)

    assert status_and_weight(await verdict(hub, pinned, lock, strict=True)) == (VerifyStatus.MOVED, Weight.DIFFERS)


async def test_a_moved_release_differs_even_if_pinned(hub: FakeHub) -> None:
    """A moved tag of a release differs, even if the reference is pinned."""
    pinned = image_ref(f"{RELEASE}@{put(hub, 'older').digest}")
    lock = await locked(hub, [pinned])
    put(hub, "newer")
    found = await verdict(hub, pinned, lock)

    assert (status_and_weight(found), moved(found).sealed) == ((VerifyStatus.MOVED, Weight.DIFFERS), True)
    assert found.reason.startswith("a tag that should never move moved from ")


@pytest.mark.parametrize(("tag", "weight"), [("3.12.4-slim", Weight.NOTE), ("3.12-20240513", Weight.DIFFERS)])
async def test_a_pinned_official_image_may_be_rebuilt(hub: FakeHub, tag: str, weight: Weight) -> None:
    """A pinned release of Docker's official images is noted when it is rebuilt; a tag with a date should never move."""
    older, newer = (image(words) for words in ("older", "newer"))
    publish(hub, f"library/python:{tag}", older)
    pinned = image_ref(f"python:{tag}@{older.digest}")
    lock = await locked(hub, [pinned])
    publish(hub, f"library/python:{tag}", newer)
    found = await verdict(hub, pinned, lock)
    unpinned = await verdict(hub, image_ref(f"python:{tag}"), lock)

    assert (found.status, found.weight, unpinned.weight) == (VerifyStatus.MOVED, weight, Weight.DIFFERS)
    assert ("its tag, which is rebuilt by custom, moved from" in found.reason) == (weight is Weight.NOTE)


async def test_an_unpinned_moved_tag_differs(hub: FakeHub) -> None:
    """An unpinned reference differs if its tag moved, since a deployment would use another image."""
    put(hub, "older", FLOATING)
    lock = await locked(hub, [image_ref(FLOATING)])
    put(hub, "newer", FLOATING)

    assert status_and_weight(await verdict(hub, image_ref(FLOATING), lock)) == (VerifyStatus.MOVED, Weight.DIFFERS)


async def test_a_locked_unpinned_reference_is_up_to_date_with_a_note(hub: FakeHub) -> None:
    """A locked but unpinned reference is up to date with a note while its tag resolves to the locked digest."""
    put(hub, "app")
    lock = await locked(hub, [image_ref(RELEASE)])

    assert status_and_weight(await verdict(hub, image_ref(RELEASE), lock)) == (VerifyStatus.NOT_PINNED, Weight.NOTE)
    assert status_and_weight(await verdict(None, image_ref(RELEASE), lock)) == (VerifyStatus.NOT_PINNED, Weight.NOTE)


async def test_without_pin_and_lock_there_is_no_expected_digest(hub: FakeHub) -> None:
    """A reference that is neither pinned nor locked is reported as unpinned, which is a difference."""
    put(hub, "app")

    assert status_and_weight(await verdict(hub, image_ref(RELEASE), None)) == (VerifyStatus.NOT_PINNED, Weight.DIFFERS)


async def test_without_a_lock_a_pin_is_compared_with_its_tag(hub: FakeHub) -> None:
    """Without a lock, a pinned digest is compared with its tag."""
    older = put(hub, "older")
    pinned = image_ref(f"{RELEASE}@{older.digest}")

    assert status_and_weight(await verdict(hub, pinned, None)) == (VerifyStatus.HOLDS, Weight.HOLDS)
    put(hub, "newer")
    assert status_and_weight(await verdict(hub, pinned, None)) == (VerifyStatus.MOVED, Weight.DIFFERS)


async def test_an_unlocked_reference_differs(hub: FakeHub) -> None:
    """A reference that was added and not locked differs."""
    put(hub, "app")

    assert status_and_weight(await verdict(hub, image_ref(RELEASE), Lock())) == (
        VerifyStatus.NOT_LOCKED,
        Weight.DIFFERS,
    )
    assert status_and_weight(await verdict(None, image_ref(RELEASE, build=True), Lock())) == (
        VerifyStatus.NOT_LOCKED,
        Weight.DIFFERS,
    )


async def test_a_pin_that_is_not_the_locked_digest_disagrees(hub: FakeHub) -> None:
    """A pin to another digest than the locked one differs, also offline."""
    older = put(hub, "older")
    put(hub, "newer")
    lock = await locked(hub, [image_ref(RELEASE)])
    pinned = image_ref(f"{RELEASE}@{older.digest}")
    found = await verdict(hub, pinned, lock)

    assert (
        status_and_weight(found)
        == status_and_weight(await verdict(None, pinned, lock))
        == (VerifyStatus.DISAGREES, Weight.DIFFERS)
    )
    assert (str(found.actual), found.expected) == (older.digest, lock.images[0].digest)


async def test_a_pin_to_one_platform_is_wrong(hub: FakeHub) -> None:
    """A pin to one platform, which runs on no other, differs; the lock shows that offline."""
    document = put(hub, "app")
    lock = await locked(hub, [image_ref(RELEASE)])
    pinned = image_ref(f"{RELEASE}@{document.children[1].digest}")
    found = await verdict(None, pinned, lock)

    assert (
        status_and_weight(found)
        == status_and_weight(await verdict(hub, pinned, lock))
        == (VerifyStatus.WRONG_PLATFORM, Weight.DIFFERS)
    )
    assert "only the image for linux/arm64" in found.reason


async def test_a_pin_to_one_platform_is_found_without_reading_an_index(hub: FakeHub) -> None:
    """On Docker Hub, the media type in a HEAD answer reveals a pin to one platform."""
    document = two_platforms("node")
    publish(hub, "library/node:16.13.0", document)
    lock = await locked(hub, [image_ref("node:16.13.0")])
    pinned = image_ref(f"node:16.13.0@{document.children[0].digest}")

    assert status_and_weight(await verdict(hub, pinned, lock)) == (VerifyStatus.WRONG_PLATFORM, Weight.DIFFERS)
    assert status_and_weight(await verdict(hub, pinned, None)) == (VerifyStatus.WRONG_PLATFORM, Weight.DIFFERS)
    assert "GET manifest" not in hub.counted


async def test_a_pin_that_is_gone_can_not_be_deployed(hub: FakeHub) -> None:
    """A pin whose image the registry has lost is reported as gone."""
    document = put(hub, "app")
    pinned = image_ref(f"{RELEASE}@{document.digest}")
    lock = await locked(hub, [pinned])
    hub.manifests["shop/app"].clear()

    assert status_and_weight(await verdict(hub, pinned, lock)) == (VerifyStatus.GONE, Weight.DIFFERS)


async def test_a_deleted_unpinned_tag_is_gone(hub: FakeHub) -> None:
    """An unpinned deleted tag is gone, and so is a missing digest."""
    document = put(hub, "app")
    by_digest = image_ref(f"{REGISTRY}/shop/app@{document.digest}")
    lock = await locked(hub, [image_ref(RELEASE), by_digest])
    hub.manifests["shop/app"].clear()

    assert status_and_weight(await verdict(hub, image_ref(RELEASE), lock)) == (VerifyStatus.GONE, Weight.DIFFERS)
    assert status_and_weight(await verdict(hub, by_digest, lock)) == (VerifyStatus.GONE, Weight.DIFFERS)


async def test_a_pin_is_up_to_date_though_its_floating_tag_was_deleted(hub: FakeHub) -> None:
    """A pin is up to date with a note if its mutable tag was deleted, and differs if it was a release."""
    pins = {name: image_ref(f"{name}@{put(hub, 'app', name).digest}") for name in (FLOATING, RELEASE)}
    lock = await locked(hub, list(pins.values()))
    for tag in ("latest", "1.4.2"):
        del hub.manifests["shop/app"][tag]
    floating, release = [await verdict(hub, pin, lock) for pin in pins.values()]

    assert status_and_weight(floating) == (VerifyStatus.MOVED, Weight.NOTE)
    assert status_and_weight(release) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert "was deleted; it resolved to" in floating.reason


async def test_a_reference_by_digest_alone_is_up_to_date(hub: FakeHub) -> None:
    """A reference by digest only is up to date, because it can't resolve to anything else."""
    image = image_ref(f"{REGISTRY}/shop/app@{put(hub, 'app').digest}")
    lock = await locked(hub, [image])

    assert status_and_weight(await verdict(hub, image, lock)) == (VerifyStatus.HOLDS, Weight.HOLDS)


async def test_a_registry_that_does_not_answer_is_could_not_check(hub: FakeHub) -> None:
    """If the registry does not answer, pinned and unpinned references could not be checked."""
    pinned = image_ref(f"{RELEASE}@{put(hub, 'app').digest}")
    lock = await locked(hub, [pinned])
    for each in (pinned, image_ref(RELEASE)):
        hub.failures = [Response(status_code=500)] * 9
        found = await verdict(hub, each, lock)

        assert status_and_weight(found) == (VerifyStatus.UNKNOWN, Weight.UNKNOWN)
        assert "failed on" in found.reason


async def test_an_unreadable_tag_is_could_not_check_even_if_the_pin_exists(hub: FakeHub) -> None:
    """If a tag can't be read, it may have moved, so that the result is not success although the pin exists."""
    pinned = image_ref(f"{RELEASE}@{put(hub, 'app').digest}")
    lock = await locked(hub, [pinned])
    hub.failures = [Response(status_code=500)]

    assert status_and_weight(await verdict(hub, pinned, lock)) == (VerifyStatus.UNKNOWN, Weight.UNKNOWN)


async def test_an_unresolved_reference_could_not_be_checked(hub: FakeHub) -> None:
    """A reference with an unset variable could not be checked."""
    found = await verdict(hub, image_ref("${NOBODY}"), Lock())

    assert status_and_weight(found) == (VerifyStatus.UNKNOWN, Weight.UNKNOWN)
    assert found.reason


async def test_a_local_build_is_up_to_date_without_a_request(hub: FakeHub) -> None:
    """A local build needs no request."""
    built = image_ref(RELEASE, build=True)
    lock = await locked(hub, [built])
    hub.counted.clear()

    assert status_and_weight(await verdict(hub, built, lock, strict=True)) == (VerifyStatus.LOCAL_BUILD, Weight.HOLDS)
    assert status_and_weight(await verdict(hub, built, None)) == (VerifyStatus.LOCAL_BUILD, Weight.HOLDS)
    assert hub.counted == {}


async def test_a_local_build_without_a_build_disagrees(hub: FakeHub) -> None:
    """A local build of the lock differs if the file has no build, so that a deployment would pull it."""
    lock = await locked(hub, [image_ref(RELEASE, build=True)])

    assert status_and_weight(await verdict(hub, image_ref(RELEASE), lock)) == (VerifyStatus.DISAGREES, Weight.DIFFERS)


async def test_a_built_service_that_is_in_the_registry_is_compared(hub: FakeHub) -> None:
    """A service with a build that is locked to a digest must resolve to it."""
    built = image_ref(RELEASE, build=True)
    put(hub, "older")
    lock = await locked(hub, [built])
    put(hub, "newer")

    assert status_and_weight(await verdict(hub, built, lock)) == (VerifyStatus.MOVED, Weight.DIFFERS)


async def test_offline_a_pin_that_the_lock_has_is_up_to_date(hub: FakeHub) -> None:
    """Offline, a pin that equals the lock is up to date."""
    pinned = image_ref(f"{RELEASE}@{put(hub, 'app').digest}")
    lock = await locked(hub, [pinned])

    assert status_and_weight(await verdict(None, pinned, lock, strict=True)) == (VerifyStatus.HOLDS, Weight.HOLDS)
