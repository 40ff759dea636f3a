"""A project's references are locked, and a locked digest changes only on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from starlette.responses import Response

from boltseal.lockfile.document import Lock, LockedImage, Use, WrittenPin
from boltseal.lockfile.format import format_lock
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.image_references import ImageReference
from boltseal.project.lock import LockUpdate, relock
from tests.fakes.hub import FakeHub
from tests.images import Document, image, index
from tests.lockfile.locks import DAY_US, NOW_US
from tests.project.image_ref_samples import REGISTRY, image_ref, publish, resolving, two_platforms

pytestmark = pytest.mark.usefixtures("one_attempt")

EMPTY = Lock()
APP = f"{REGISTRY}/shop/app:1.4.2"


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


async def locking(
    hub: FakeHub,
    image_refs: Sequence[ImageReference],
    old: Lock = EMPTY,
    *,
    update: Callable[[Reference], bool] = lambda _: False,
    now_us: int = NOW_US,
    outside: Callable[[str], bool] = lambda _: False,
) -> LockUpdate:
    async with resolving(hub) as resolver:
        return await relock(image_refs, old, resolver, update=update, now_us=now_us, outside=outside)


async def locked(hub: FakeHub, image_refs: Sequence[ImageReference]) -> Lock:
    done = await locking(hub, image_refs)

    assert done.unresolved == ()
    return done.lock


def put(hub: FakeHub, words: str, name: str = "shop/app:1.4.2") -> Document:
    document = two_platforms(words)
    publish(hub, name, document)
    return document


async def test_a_new_reference_is_locked_with_all_details(hub: FakeHub) -> None:
    """A new reference is locked with digest, media type, platforms, image IDs, spellings and positions."""
    document = put(hub, "app")
    (found,) = (await locked(hub, [image_ref(APP), image_ref(APP, path="Dockerfile", where="FROM")])).images

    assert (str(found.digest), found.media_type, found.first_seen_us) == (document.digest, document.media_type, NOW_US)
    assert [str(each.manifest) for each in found.platforms] == [child.digest for child in document.children]
    assert found.written == (APP,)
    assert found.used == (Use("Dockerfile", "FROM"), Use("compose.yaml", "services.web.image"))


async def test_locking_again_changes_no_byte_and_fetches_nothing(hub: FakeHub) -> None:
    """Locking again costs one HEAD each and changes no byte, on any day."""
    put(hub, "app")
    before = await locked(hub, [image_ref(APP)])
    hub.counted.clear()
    again = await locking(hub, [image_ref(APP)], before, now_us=NOW_US + DAY_US)

    assert format_lock(again.lock) == format_lock(before)
    assert hub.counted == {"token": 1, "HEAD manifest": 1}


async def test_a_moved_tag_is_reported_and_not_updated(hub: FakeHub) -> None:
    """A moved tag is reported with the new digest and the changed platforms, and not updated."""
    first = image("first amd64"), image("arm64")
    publish(hub, "shop/app:1.4.2", index(*first))
    before = await locked(hub, [image_ref(APP)])
    newer = index(image("second amd64"), first[1])
    publish(hub, "shop/app:1.4.2", newer)
    done = await locking(hub, [image_ref(APP)], before, now_us=NOW_US + DAY_US)

    assert done.lock == before
    assert (str(done.moved[0].to), done.moved[0].updated) == (newer.digest, False)
    assert str(done.moved[0].platforms) == "changed: linux/amd64; same: linux/arm64"


async def test_an_update_accepts_the_tags_current_digest(hub: FakeHub) -> None:
    """`--update` locks the tag's current digest with the current time."""
    put(hub, "first")
    before = await locked(hub, [image_ref(APP)])
    newer = put(hub, "second")
    done = await locking(hub, [image_ref(APP)], before, update=lambda _: True, now_us=NOW_US + DAY_US)

    assert (str(done.lock.images[0].digest), done.lock.images[0].first_seen_us) == (newer.digest, NOW_US + DAY_US)
    assert done.moved[0].updated


async def test_an_update_of_a_pinned_name_without_a_tag_keeps_its_entry(hub: FakeHub) -> None:
    """A name without a tag that `boltseal pin` pinned keeps the entry of `latest`; another tool's digest gets its own entry."""
    name = f"{REGISTRY}/shop/app"
    old = put(hub, "old", "shop/app:latest")
    before = await locked(hub, [image_ref(name)])
    new = put(hub, "new", "shop/app:latest")
    pinned = image_ref(f"{name}@{new.digest}")
    record = WrittenPin(pinned.path, pinned.where, 1, Digest.parse(new.digest))
    ours = await locking(hub, [pinned], replace(before, pins=(record,)), update=lambda _: True)
    theirs = await locking(hub, [pinned], before, update=lambda _: True)

    assert [str(each.reference) for each in before.images] == [f"{name}:latest"]
    assert [(str(each.reference), str(each.digest)) for each in ours.lock.images] == [(f"{name}:latest", new.digest)]
    assert ours.lock.pins == (record,)
    assert [str(each.reference) for each in theirs.lock.images] == [f"{name}@{new.digest}"]
    assert old.digest != new.digest


async def test_an_update_to_an_already_locked_digest_reads_no_platforms(hub: FakeHub) -> None:
    """If another reference has the new digest already locked, its platforms are copied and not read."""
    other = f"{REGISTRY}/shop/app:latest"
    put(hub, "old", "shop/app:latest")
    put(hub, "new")
    lock = await locked(hub, [image_ref(APP), image_ref(other)])
    put(hub, "new", "shop/app:latest")
    done = await locking(hub, [image_ref(APP), image_ref(other)], lock, update=lambda _: True)
    found = {str(image.reference): image.platforms for image in done.lock.images}

    assert found[APP] == found[other] != ()


async def test_an_update_of_one_leaves_the_others(hub: FakeHub) -> None:
    """Updating a named reference leaves all others."""
    other = f"{REGISTRY}/shop/other:1"
    put(hub, "first")
    put(hub, "first other", "shop/other:1")
    before = await locked(hub, [image_ref(APP), image_ref(other)])
    put(hub, "second")
    put(hub, "second other", "shop/other:1")
    done = await locking(
        hub, [image_ref(APP), image_ref(other)], before, update=lambda ref: ref.repository == "shop/app"
    )

    assert [each.updated for each in done.moved] == [True, False]
    assert done.lock.images[1] == before.images[1]


async def test_two_spellings_of_one_image_are_one(hub: FakeHub) -> None:
    """Two spellings of one image, as Docker completes them, cost one request and are one entry."""
    publish(hub, "library/node:latest", image("node"))
    found = await locked(hub, [image_ref("node"), image_ref("docker.io/library/node:latest", line=4)])

    assert [image.written for image in found.images] == [("docker.io/library/node:latest", "node")]
    assert hub.counted["HEAD manifest"] == 1


async def test_an_unused_reference_is_removed_from_the_lock(hub: FakeHub) -> None:
    """A reference that the project no longer uses is removed from the lock."""
    put(hub, "app")
    before = await locked(hub, [image_ref(APP)])

    assert (await locking(hub, [], before)).lock == Lock()


async def test_references_of_files_that_were_not_scanned_stay(hub: FakeHub) -> None:
    """`boltseal lock FILE` keeps the entries of other files."""
    put(hub, "app")
    put(hub, "other", "shop/other:1")
    other = image_ref(f"{REGISTRY}/shop/other:1", path="b.yaml")
    before = await locked(hub, [image_ref(APP, path="a.yaml"), image_ref(APP, path="b.yaml"), other])
    done = await locking(hub, [image_ref(APP, path="a.yaml")], before, outside=lambda path: path == "b.yaml")

    assert done.lock == before


async def test_unresolvable_references_are_listed_with_their_reasons(hub: FakeHub) -> None:
    """A missing tag, a refusal or an unset variable is listed with its reason, and the others are locked."""
    put(hub, "app")
    done = await locking(hub, [image_ref(APP), image_ref(f"{REGISTRY}/shop/none:1"), image_ref("${NOBODY}", line=9)])

    assert [(each.name, each.places) for each in done.unresolved] == [
        ("${NOBODY}", ("compose.yaml:9",)),
        (f"{REGISTRY}/shop/none:1", ("compose.yaml: services.web.image",)),
    ]
    assert "has no manifest 1 of shop/none" in done.unresolved[1].reason
    assert [str(image.reference) for image in done.lock.images] == [APP]


async def test_an_index_that_can_not_be_read_is_unresolved(hub: FakeHub) -> None:
    """If an index can't be read, its reference is unresolved, since its entry would lack platforms."""
    put(hub, "app")
    hub.wrong_bytes = True
    done = await locking(hub, [image_ref(APP)])

    assert "not used" in done.unresolved[0].reason
    assert done.lock == Lock()


async def test_a_service_that_is_built_here_is_a_local_build_where_the_registry_has_none(hub: FakeHub) -> None:
    """A service with a build whose image the registry lacks is a local build, and the rest is locked."""
    done = await locking(hub, [image_ref(APP, build=True)])

    assert (done.lock.images[0].local_build, done.unresolved, done.notes) == (True, (), ())


async def test_a_service_that_is_built_here_is_locked_where_the_registry_has_it(hub: FakeHub) -> None:
    """A service with a build whose image was pushed is locked to that."""
    document = put(hub, "app")

    assert str((await locked(hub, [image_ref(APP, build=True)])).images[0].digest) == document.digest


async def test_a_registry_that_requires_a_login_for_a_local_build_is_noted(hub: FakeHub) -> None:
    """Docker Hub requires a login for missing repositories, so a refused local build is noted."""
    hub.closed = "library/app"
    done = await locking(hub, [image_ref("app", build=True)])

    assert done.lock.images[0].local_build
    assert "app:latest is treated as a local build" in done.notes[0]


async def test_an_image_id_is_not_locked_and_asks_no_registry(hub: FakeHub) -> None:
    """The ID of an image is on one machine: it is not in the lock, and does not prevent the others from being locked."""
    put(hub, "app")
    done = await locking(hub, [image_ref(APP), image_ref(f"sha256:{'a' * 64}", line=4)])

    assert [str(image.reference) for image in done.lock.images] == [APP]
    assert done.unresolved == ()
    assert hub.counted["HEAD manifest"] == 1


async def test_a_failing_registry_is_no_local_build(hub: FakeHub) -> None:
    """An error of the registry does not make a service a local build."""
    hub.failures = [Response(status_code=500)] * 9
    done = await locking(hub, [image_ref(APP, build=True)])

    assert done.lock == Lock()
    assert len(done.unresolved) == 1


async def test_a_local_build_stays_one_until_an_update(hub: FakeHub) -> None:
    """A local build stays one although its tag was pushed, which is reported, until `--update`."""
    before = await locked(hub, [image_ref(APP, build=True)])
    document = put(hub, "app")
    done = await locking(hub, [image_ref(APP, build=True)], before)
    updated = await locking(hub, [image_ref(APP, build=True)], before, update=lambda _: True)

    assert done.lock == before
    assert str(done.moved[0].to) == document.digest
    assert str(updated.lock.images[0].digest) == document.digest


async def test_a_local_build_that_is_still_one_stays_as_it_is(hub: FakeHub) -> None:
    """A local build that remains one keeps its first-seen time."""
    before = await locked(hub, [image_ref(APP, build=True)])

    assert (await locking(hub, [image_ref(APP, build=True)], before, now_us=NOW_US + DAY_US)).lock == before


async def test_a_local_service_whose_tag_was_deleted_is_reported(hub: FakeHub) -> None:
    """A locked service whose tag was deleted is reported, and becomes a local build only by `--update`."""
    put(hub, "app")
    before = await locked(hub, [image_ref(APP, build=True)])
    del hub.manifests["shop/app"]["1.4.2"]
    done = await locking(hub, [image_ref(APP, build=True)], before)
    updated = await locking(hub, [image_ref(APP, build=True)], before, update=lambda _: True)

    assert (done.lock, done.moved[0].to) == (before, None)
    assert updated.lock.images[0].local_build


async def test_a_locked_service_is_never_assumed_to_be_deleted(hub: FakeHub) -> None:
    """For a locked service, a refused request does not mean that the tag was deleted."""
    put(hub, "app")
    before = await locked(hub, [image_ref(APP, build=True)])
    hub.closed = "shop/app"

    assert len((await locking(hub, [image_ref(APP, build=True)], before)).unresolved) == 1


async def test_a_pinned_reference_is_locked_as_it_is_pinned(hub: FakeHub) -> None:
    """A pinned reference is locked to its pin, which the project deploys, and the tag's move is reported."""
    older = put(hub, "older")
    newer = put(hub, "newer")
    done = await locking(hub, [image_ref(f"{APP}@{older.digest}")])

    assert str(done.lock.images[0].digest) == older.digest
    assert len(done.lock.images[0].platforms) == 2
    assert f"the tag resolves to {newer.digest}, which `boltseal lock --update" in done.notes[0]


async def test_a_pin_to_the_tags_current_digest_costs_no_second_request(hub: FakeHub) -> None:
    """A pin to the tag's current digest costs one HEAD."""
    document = put(hub, "app")
    found = await locked(hub, [image_ref(f"{APP}@{document.digest}")])

    assert str(found.images[0].digest) == document.digest
    assert hub.counted["HEAD manifest"] == 1


async def test_a_pin_to_one_platform_is_noted_and_the_index_is_locked(hub: FakeHub) -> None:
    """For a pin to one platform, the index is locked and a note is added."""
    document = put(hub, "app")
    done = await locking(hub, [image_ref(f"{APP}@{document.children[1].digest}")])

    assert str(done.lock.images[0].digest) == document.digest
    assert "one platform of it" in done.notes[0]


async def test_a_missing_pin_is_reported_and_never_replaced(hub: FakeHub) -> None:
    """If the registry does not have the pinned digest, the reference is unresolved, and the others are locked."""
    put(hub, "app")
    put(hub, "other", "shop/other:1")
    gone = Digest.of(b"gone")
    done = await locking(hub, [image_ref(f"{APP}@{gone}"), image_ref(f"{REGISTRY}/shop/other:1")])

    assert [str(image.reference) for image in done.lock.images] == [f"{REGISTRY}/shop/other:1"]
    assert [each.name for each in done.unresolved] == [APP]
    assert f"it is pinned to {gone}: " in done.unresolved[0].reason
    assert "has no manifest sha256:" in done.unresolved[0].reason


async def test_a_pin_that_could_not_be_checked_is_never_replaced(hub: FakeHub) -> None:
    """If a registry refuses to answer for the pinned digest, nothing is locked in its place."""
    older = put(hub, "older")
    put(hub, "newer")
    hub.denied.add(older.digest)
    done = await locking(hub, [image_ref(f"{APP}@{older.digest}")])

    assert done.lock == Lock()
    assert f"it is pinned to {older.digest}: " in done.unresolved[0].reason


async def test_a_locked_pin_that_was_deleted_is_reported(hub: FakeHub) -> None:
    """If a file pins the locked digest and the registry deleted it after the tag moved, that is reported; the entry stays."""
    older = put(hub, "older")
    found = [image_ref(f"{APP}@{older.digest}")]
    before = await locked(hub, found)
    put(hub, "newer")
    del hub.manifests["shop/app"][older.digest]
    done = await locking(hub, found, before)

    assert done.lock == before
    assert f"it is pinned to {older.digest}: " in done.unresolved[0].reason


@pytest.mark.parametrize("known", [False, True])
async def test_a_pin_whose_tag_was_deleted_stays_locked(hub: FakeHub, known: bool) -> None:
    """A pinned reference whose tag was deleted is locked to its pin, new or known, because the pin is what is deployed."""
    document = put(hub, "app")
    found = [image_ref(f"{APP}@{document.digest}")]
    before = await locked(hub, found) if known else EMPTY
    del hub.manifests["shop/app"]["1.4.2"]
    done = await locking(hub, found, before)

    assert [str(image.digest) for image in done.lock.images] == [document.digest]
    assert done.unresolved == ()
    assert [each.to for each in done.moved] == ([None] if known else [])
    assert [note.rpartition("; ")[2] for note in done.notes] == ([] if known else ["the tag does not exist"])


async def test_files_that_pin_one_tag_differently_keep_both(hub: FakeHub) -> None:
    """Of two pins of one tag, the tag's digest is its entry, and the other has an entry of its own; again changes nothing."""
    older, newer = put(hub, "older"), put(hub, "newer")
    found = [image_ref(f"{APP}@{older.digest}"), image_ref(f"{APP}@{newer.digest}", path="other.yaml")]
    done = await locking(hub, found)
    again = await locking(hub, found, done.lock)

    assert [(str(image.reference), str(image.digest)) for image in done.lock.images] == [
        (APP, newer.digest),
        (f"{APP}@{older.digest}", older.digest),
    ]
    assert [[use.file for use in image.used] for image in done.lock.images] == [["other.yaml"], ["compose.yaml"]]
    assert "files pin it to 2 digests, and each is locked" in done.notes[0]
    assert (again.lock, again.notes, again.moved) == (done.lock, (), ())


async def test_pins_beside_an_unpinned_reference_keep_their_digests(hub: FakeHub) -> None:
    """Two pins that the tag left, and a reference without a pin: three entries, and no file's digest changes."""
    first, second, third = (put(hub, words) for words in ("first", "second", "third"))
    found = [image_ref(f"{APP}@{each.digest}", line=line) for line, each in enumerate((first, second))]
    done = await locking(hub, [*found, image_ref(APP, path="other.yaml")])

    assert {str(image.reference): str(image.digest) for image in done.lock.images} == {
        APP: third.digest,
        f"{APP}@{first.digest}": first.digest,
        f"{APP}@{second.digest}": second.digest,
    }


async def test_an_update_gives_files_with_different_pins_the_tags_digest(hub: FakeHub) -> None:
    """`--update` takes what the tag resolves to for every file, also for those with an entry of their own."""
    first, second = put(hub, "first"), put(hub, "second")
    found = [image_ref(f"{APP}@{each.digest}", path=f"{each.digest[7:12]}.yaml") for each in (first, second)]
    before = await locked(hub, found)
    third = put(hub, "third")
    done = await locking(hub, found, before, update=lambda _: True)

    assert [(str(image.reference), str(image.digest)) for image in done.lock.images] == [(APP, third.digest)]
    assert len(done.lock.images[0].used) == 2


async def test_an_update_without_an_entry_of_the_tag_locks_the_tags_digest(hub: FakeHub) -> None:
    """If a lock has only entries of pins for a tag, an update replaces them by the tag's entry."""
    first, second = put(hub, "first"), put(hub, "second")
    third = put(hub, "third")
    found = [image_ref(f"{APP}@{each.digest}", path=f"{each.digest[7:12]}.yaml") for each in (first, second)]
    before = await locked(hub, found)
    done = await locking(hub, found, before, update=lambda _: True)

    assert [image.own_pin for image in before.images] == [True, True]
    assert [(str(image.reference), str(image.digest)) for image in done.lock.images] == [(APP, third.digest)]


@pytest.mark.parametrize("status", [404, 500])
async def test_a_known_reference_that_can_not_be_resolved_keeps_its_entry(hub: FakeHub, status: int) -> None:
    """An outage or a deleted tag never removes an entry: it is reported, and the entry stays."""
    put(hub, "app")
    before = await locked(hub, [image_ref(APP)])
    hub.manifests.clear()
    hub.failures = [] if status == 404 else [Response(status_code=500)] * 9
    done = await locking(hub, [image_ref(APP)], before)

    assert done.lock == before
    assert "its entry stays as it is" in done.unresolved[0].reason


async def test_a_place_that_can_not_be_resolved_keeps_its_entry(hub: FakeHub) -> None:
    """If a variable is not set this time, what the lock has for that place stays."""
    put(hub, "app")
    before = await locked(hub, [image_ref(APP)])
    done = await locking(hub, [image_ref("${NOBODY}")], before)

    assert done.lock == before
    assert len(done.unresolved) == 1


async def test_a_known_image_whose_platforms_can_not_be_read_keeps_its_entry(hub: FakeHub) -> None:
    """If the index of a moved tag can't be read, its reference is unresolved, and the entry stays."""
    put(hub, "older")
    before = await locked(hub, [image_ref(APP)])
    put(hub, "newer")
    hub.wrong_bytes = True
    done = await locking(hub, [image_ref(APP)], before, update=lambda _: True)

    assert done.lock == before
    assert len(done.unresolved) == 1


async def test_a_reference_by_digest_alone_is_locked_to_itself(hub: FakeHub) -> None:
    """A reference by digest only is locked to that digest."""
    document = put(hub, "app")
    found = await locked(hub, [image_ref(f"{REGISTRY}/shop/app@{document.digest}")])

    assert (str(found.images[0].digest), found.images[0].reference.tag) == (document.digest, None)


async def test_the_ledger_key_and_entry_are_kept(hub: FakeHub) -> None:
    """The lock keeps the registry's ledger key, and the image's entry while its digest is unchanged."""
    put(hub, "app")
    (found,) = (await locked(hub, [image_ref(APP)])).images
    with_entry = LockedImage(
        found.reference,
        found.digest,
        found.first_seen_us,
        found.media_type,
        found.platforms,
        found.written,
        found.used,
        17,
    )
    keys = {REGISTRY: f"{REGISTRY}+1a2b3c4d+AQIDBA=="}
    again = await locking(hub, [image_ref(APP)], Lock((with_entry,), keys))

    assert (again.lock.images[0].entry, again.lock.keys) == (17, keys)
