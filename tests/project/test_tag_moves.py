"""Moves of tags at a registry with a ledger, which decides whether a move was allowed, its time and its actor."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.client.errors import RemoteMismatch
from boltseal.client.history import read_tags
from boltseal.client.ledger_trust import LedgerWatch
from boltseal.client.state import ClientState
from boltseal.ledger.entry import RECORDS, EntryKind
from boltseal.lockfile.compare import Weight
from boltseal.lockfile.document import Lock, LockedImage
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository, Tag
from boltseal.project.image_references import ImageReference
from boltseal.project.resolve import Resolver
from boltseal.project.tag_moves import MoveSource
from boltseal.project.verify import VerifyResult, VerifyStatus, verify
from tests.fakes.ledger import START_US, A, B, C, FakeLedger
from tests.lockfile.locks import DAY_US
from tests.project.image_ref_samples import image_ref

pytestmark = pytest.mark.usefixtures("one_attempt")

HOST = "reg.example:5000"
NOW_US = START_US + 5 * DAY_US


@pytest.fixture
def ledger() -> FakeLedger:
    return FakeLedger()


def shop(tag: str, digest: str = "") -> ImageReference:
    return image_ref(f"{HOST}/shop/app:{tag}" + (f"@{digest}" if digest else ""))


def locked(tag: str, digest: str = A, entry: int | None = None) -> Lock:
    image = LockedImage(Reference.parse(f"{HOST}/shop/app:{tag}"), Digest.parse(digest), START_US, entry=entry)
    return Lock((image,))


async def verdict(ledger: FakeLedger, folder: Path, image_reference: ImageReference, lock: Lock | None) -> VerifyResult:
    ledger.tags |= {("shop/app", digest): digest for digest in (A, B, C)}
    transport = ledger.transport()
    watch = LedgerWatch(ClientState(folder / "state"), transport, lambda: NOW_US // 1_000_000)
    try:
        resolver = Resolver(transport, lambda _: True, watch=watch.follow)
        (found,) = await verify([image_reference], lock, resolver, now_us=NOW_US)
    finally:
        await transport.aclose()
    return found


def status_and_weight(found: VerifyResult) -> tuple[VerifyStatus, Weight]:
    return found.status, found.weight


async def test_a_floating_tag_may_move_whatever_its_name(ledger: FakeLedger, tmp_path: Path) -> None:
    """`1.4.2` looks like a release, but the ledger records that it is mutable, with time and actor of its move."""
    ledger.push("1.4.2", mode="floating")
    ledger.push("1.4.2", digest=B, mode="floating")
    found = await verdict(ledger, tmp_path, shop("1.4.2", A), locked("1.4.2", entry=1))

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.NOTE)
    assert found.move is not None
    assert (found.move.sealed, found.move.source, found.move.by, found.move.entry) == (
        False,
        MoveSource.LEDGER,
        "ci",
        2,
    )
    assert found.move.moved_us == START_US + 2_000_000
    assert found.reason == (
        f"its floating tag moved from {A} to {B}, on 2026-11-24T06:00:02Z (4 days ago), "
        "by ci, according to entry 2 of its ledger; the pin is still valid"
    )


@pytest.mark.parametrize("kind", sorted(RECORDS))
async def test_an_entry_about_an_image_is_not_a_move(ledger: FakeLedger, tmp_path: Path, kind: EntryKind) -> None:
    """A ledger record about the old image neither moves nor seals the tag."""
    ledger.push("1.4.2", mode="floating")
    ledger.push("1.4.2", digest=B, mode="floating")
    before = await verdict(ledger, tmp_path / "before", shop("1.4.2", A), locked("1.4.2", entry=1))
    ledger.add(kind, A, actor="mallory", extra={"mode": "sealed"})
    ledger.add(kind, B, actor="mallory")
    after = await verdict(ledger, tmp_path / "after", shop("1.4.2", A), locked("1.4.2", entry=1))

    assert after.move is not None
    assert (status_and_weight(after), after.move, after.reason) == (
        status_and_weight(before),
        before.move,
        before.reason,
    )
    assert after.move.entry == 2


@pytest.mark.parametrize(("kind", "entries"), [(EntryKind.RELEASED, [1]), (EntryKind.TAG_DELETED, [])])
async def test_a_lock_names_the_entry_that_set_the_tag(
    ledger: FakeLedger, tmp_path: Path, kind: EntryKind, entries: list[int]
) -> None:
    """A lock has the ledger entry that set the tag, not a record about the image or a deletion."""

    ledger.push("latest", mode="floating")
    ledger.add(kind, A, tag="latest")
    reference = Reference.parse(f"{HOST}/shop/app:latest")
    transport = ledger.transport()
    try:
        watch = LedgerWatch(ClientState(tmp_path / "state"), transport, lambda: NOW_US // 1_000_000)
        resolver = Resolver(transport, lambda _: True, watch=watch.follow)
        await resolver.resolve([reference])
        found = await resolver.ledger_entries({reference: Digest.parse(A)})
    finally:
        await transport.aclose()

    assert list(found.values()) == entries


async def test_a_lock_may_name_an_entry_about_the_image(ledger: FakeLedger, tmp_path: Path) -> None:
    """Locks of older versions may name a ledger record about the image."""
    ledger.push("latest", mode="floating")
    entry = ledger.add(EntryKind.RELEASED, A, tag="latest")
    ledger.push("latest", digest=B, mode="floating")
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest", entry=entry))

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.NOTE)


async def test_a_sealed_tag_may_not_move_whatever_its_name(ledger: FakeLedger, tmp_path: Path) -> None:
    """`prod` looks like a mutable tag, but the ledger sealed it, so another image differs."""
    ledger.push("prod")
    ledger.tags["shop/app", "prod"] = B
    found = await verdict(ledger, tmp_path, shop("prod", A), locked("prod"))

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert found.move is not None
    assert (found.move.sealed, found.move.source) == (True, MoveSource.LEDGER)
    assert found.reason.startswith(f"its sealed tag moved from {A} to {B}, ")
    assert "its registry is not trustworthy: the tag resolves to sha256:bbbb" in found.reason


async def test_a_sealed_tag_that_moved_according_to_the_ledger_differs(ledger: FakeLedger, tmp_path: Path) -> None:
    """A ledger that moves a sealed tag is reported, because no correct registry writes such an entry."""
    ledger.push("prod")
    ledger.push("prod", digest=B)
    found = await verdict(ledger, tmp_path, shop("prod", A), locked("prod"))

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert "the tag is sealed at sha256:aaaa" in found.reason


async def test_a_tag_that_moved_before_it_was_sealed_may_have_moved(ledger: FakeLedger, tmp_path: Path) -> None:
    """A tag that was locked while mutable, moved and then sealed is reported as an allowed move."""
    ledger.push("rc", mode="floating")
    ledger.push("rc", digest=B)
    found = await verdict(ledger, tmp_path, shop("rc", A), locked("rc", entry=1))

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.NOTE)


async def test_several_moves_are_reported_with_the_time_the_locked_digest_was_left(
    ledger: FakeLedger, tmp_path: Path
) -> None:
    """Of several moves, the time reported is that at which the tag left the locked digest."""
    ledger.push("latest", mode="floating")
    ledger.push("latest", digest=B, mode="floating")
    ledger.push("latest", digest=C, mode="floating")
    found = await verdict(ledger, tmp_path, shop("latest"), locked("latest", entry=1))

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert found.move is not None
    assert (found.move.left_us, found.move.moved_us) == (START_US + 2_000_000, START_US + 3_000_000)
    assert "it left the locked digest on 2026-11-24T06:00:02Z; a deployment would not" in found.reason


async def test_a_tag_that_moved_back_has_not_moved(ledger: FakeLedger, tmp_path: Path) -> None:
    """A tag that moved away and back has not moved, and its history is not requested."""
    for digest in (A, B, A):
        ledger.push("latest", digest=digest, mode="floating")
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest", entry=1))

    assert status_and_weight(found) == (VerifyStatus.HOLDS, Weight.HOLDS)
    assert ledger.counted["history"] == 0


async def test_of_several_departures_the_last_one_counts(ledger: FakeLedger, tmp_path: Path) -> None:
    """If the tag left the locked digest several times, the last time is reported."""
    for digest in (A, B, A, C, B):
        ledger.push("latest", digest=digest, mode="floating")
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest", entry=1))

    assert found.move is not None
    assert found.move.left_us == START_US + 4_000_000


@pytest.mark.parametrize("entry", [7, 2])
async def test_a_ledger_without_the_entry_of_the_lock_differs(ledger: FakeLedger, tmp_path: Path, entry: int) -> None:
    """If the ledger lacks the lock's entry, the registry shows another history and verification fails."""
    ledger.push("latest", mode="floating")
    ledger.push("latest", digest=B, mode="floating")
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest", entry=entry))

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert f"entry {entry}, from which latest was locked" in found.reason


async def test_a_pin_to_a_digest_that_a_sealed_tag_never_had_differs(ledger: FakeLedger, tmp_path: Path) -> None:
    """A pin to a digest that the sealed tag never resolved to differs, also without a lock."""
    ledger.push("1.4.2", digest=B)
    ledger.push("1.4.1")
    found = await verdict(ledger, tmp_path, shop("1.4.2", A), None)

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert found.reason == (
        f"it is pinned to {A}, but the tag is sealed at {B}, and according to the ledger it never resolved to {A}; if the "
        f"tag was changed and the digest was not, run `boltseal lock --update {HOST}/shop/app:1.4.2` and `boltseal pin "
        "--write`; otherwise its registry is not trustworthy"
    )


async def test_a_changed_tag_before_the_old_digest_differs_and_says_what_to_do(
    ledger: FakeLedger, tmp_path: Path
) -> None:
    """After `1.4.1@A` became `1.4.2@A` by hand and was locked so, the registry is not accused of a move that never was."""
    ledger.push("1.4.1")
    ledger.push("1.4.2", digest=B)
    found = await verdict(ledger, tmp_path, shop("1.4.2", A), locked("1.4.2"))

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert "moved" not in found.reason
    assert "boltseal lock --update" in found.reason


@pytest.mark.parametrize("pinned", [True, False])
async def test_with_an_unreadable_ledger_it_is_unknown_whether_a_tag_may_move(
    ledger: FakeLedger, tmp_path: Path, pinned: bool
) -> None:
    """With an unreadable ledger a moved pinned tag is "could not check", and an unpinned one differs."""
    ledger.push("latest", mode="floating")
    ledger.push("latest", digest=B, mode="floating")
    ledger.history_status = 500
    found = await verdict(ledger, tmp_path, shop("latest", A if pinned else ""), locked("latest"))

    assert status_and_weight(found) == (
        (VerifyStatus.UNKNOWN, Weight.UNKNOWN) if pinned else (VerifyStatus.MOVED, Weight.DIFFERS)
    )
    assert "whether that is allowed is unknown, because the ledger can't be read" in found.reason


async def test_a_ledger_that_fails_between_history_and_proof_is_not_used(ledger: FakeLedger, tmp_path: Path) -> None:
    """A history whose proof fails is not used."""
    ledger.push("latest", mode="floating")
    ledger.push("latest", digest=B, mode="floating")
    ledger.statuses = {"checkpoint": [200, 500]}
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest"))

    assert status_and_weight(found) == (VerifyStatus.UNKNOWN, Weight.UNKNOWN)


async def test_without_ledger_histories_the_tags_name_decides(ledger: FakeLedger, tmp_path: Path) -> None:
    """Without a ledger, the tag's name and the registry's unsigned history decide."""
    ledger.push("latest", mode="floating")
    ledger.push("latest", digest=B, mode="floating")
    ledger.own_history = False
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest"))

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.NOTE)
    assert found.move is not None
    assert (found.move.source, found.move.by) == (MoveSource.NAME, "")
    assert "according to its registry" in found.reason


@pytest.mark.parametrize(("tag", "mode"), [("1.4.2", "floating"), ("prod", "sealed")])
async def test_entries_without_a_visible_ledger_are_an_unproven_claim(
    ledger: FakeLedger, tmp_path: Path, tag: str, mode: str
) -> None:
    """A user without the right to the ledger sees unproven entries, which are neither failure nor proof."""
    ledger.push(tag, mode=mode)
    ledger.push(tag, digest=B, mode=mode)
    ledger.status = 403
    found = await verdict(ledger, tmp_path, shop(tag, A), locked(tag, entry=1))

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.NOTE if mode == "floating" else Weight.DIFFERS)
    assert found.move is not None
    assert (found.move.source, found.move.by) == (MoveSource.REGISTRY, "ci")
    assert "by ci, according to its registry" in found.reason


@pytest.mark.parametrize("status", [400, 401, 403, 405, 500])
async def test_a_registry_that_refuses_paths_it_does_not_know_has_no_ledger(
    ledger: FakeLedger, tmp_path: Path, status: int
) -> None:
    """A registry that refuses unknown paths has no ledger unless one was seen, so the tag's name decides."""
    ledger.push("latest", mode="floating")
    ledger.push("latest", digest=B, mode="floating")
    ledger.status = ledger.history_status = status
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest"))

    assert status_and_weight(found) == (VerifyStatus.MOVED, Weight.NOTE)
    assert found.move is not None
    assert found.move.source is MoveSource.NAME


async def test_an_endless_history_is_not_read_to_its_end(ledger: FakeLedger, tmp_path: Path) -> None:
    """Nothing of an endless history, which could fill the memory, is used."""
    for digest in (A, B, C, B):
        ledger.push("latest", digest=digest, mode="floating")
    transport, name = ledger.transport(), (Repository("shop/app"), Tag("latest"))
    watch = LedgerWatch(ClientState(tmp_path / "state"), transport, lambda: NOW_US // 1_000_000)
    try:
        found = await read_tags(transport, HOST, {name: B}, watch.follow, max_bytes=1000)
    finally:
        await transport.aclose()

    assert isinstance(found[name], RemoteMismatch)
    assert "lists more than 1000 bytes of history of latest: not read" in str(found[name])


async def test_a_deleted_tag_is_reported_with_the_actor(ledger: FakeLedger, tmp_path: Path) -> None:
    """A deleted tag is reported with its actor: unpinned it is gone; a pinned mutable one is a note, a sealed one
    differs."""
    for tag, mode in (("latest", "floating"), ("1.4.2", "sealed")):
        ledger.push(tag, mode=mode)
        ledger.add(EntryKind.TAG_DELETED, A, tag=tag, actor="an admin", extra={})
    gone = await verdict(ledger, tmp_path, shop("latest"), locked("latest"))
    floating = await verdict(ledger, tmp_path, shop("latest", A), locked("latest"))
    sealed = await verdict(ledger, tmp_path, shop("1.4.2", A), locked("1.4.2"))

    assert status_and_weight(gone) == (VerifyStatus.GONE, Weight.DIFFERS)
    assert status_and_weight(floating) == (VerifyStatus.MOVED, Weight.NOTE)
    assert status_and_weight(sealed) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert all("by an admin, according to entry" in found.reason for found in (gone, floating, sealed))
