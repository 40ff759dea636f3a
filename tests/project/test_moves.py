"""A tag that moved at a registry with a ledger: whether it may, since when and by whom, is what the ledger says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina

from boltseal.client import history
from boltseal.client.ledger_trust import LedgerWatch
from boltseal.client.state import ClientState
from boltseal.ledger.entry import RECORDS, EntryKind
from boltseal.lockfile.compare import Weight
from boltseal.lockfile.document import Lock, LockedImage
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project import resolve
from boltseal.project.image_references import ImageReference
from boltseal.project.resolve import Resolver
from boltseal.project.tag_moves import MoveSource
from boltseal.project.verify import VerifyResult, VerifyStatus, verify
from tests.fakes.ledger import START_US, A, B, C, FakeLedger
from tests.lockfile.locks import DAY_US
from tests.project.image_ref_samples import image_ref

HOST = "reg.example:5000"
NOW_US = START_US + 5 * DAY_US


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(history, "PAUSE_S", 0.0)
    with stamina.set_testing(True, attempts=1):
        yield


@pytest.fixture
def ledger() -> FakeLedger:
    return FakeLedger()


def shop(tag: str, digest: str = "") -> ImageReference:
    return image_ref(f"{HOST}/shop/app:{tag}" + (f"@{digest}" if digest else ""))


def locked(tag: str, digest: str = A, entry: int | None = None) -> Lock:
    image = LockedImage(Reference.parse(f"{HOST}/shop/app:{tag}"), Digest.parse(digest), START_US, entry=entry)
    return Lock((image,))


async def verdict(ledger: FakeLedger, folder: Path, one: ImageReference, lock: Lock | None) -> VerifyResult:
    ledger.tags |= {("shop/app", digest): digest for digest in (A, B, C)}
    transport = ledger.transport()
    watch = LedgerWatch(ClientState(folder / "state"), transport, lambda: NOW_US // 1_000_000)
    try:
        resolver = Resolver(transport, lambda _: True, watch=watch.follow)
        (found,) = await verify([one], lock, resolver, now_us=NOW_US)
    finally:
        await transport.aclose()
    return found


def told(found: VerifyResult) -> tuple[VerifyStatus, Weight]:
    return found.status, found.weight


async def test_a_tag_that_floats_there_may_move_whatever_it_is_called(ledger: FakeLedger, tmp_path: Path) -> None:
    """`1.4.2` looks like a release; its registry says that it floats, when it moved, and by whom."""
    ledger.push("1.4.2", mode="floating")
    ledger.push("1.4.2", digest=B, mode="floating")
    found = await verdict(ledger, tmp_path, shop("1.4.2", A), locked("1.4.2", entry=1))

    assert told(found) == (VerifyStatus.MOVED, Weight.NOTE)
    assert found.move is not None
    assert (found.move.sealed, found.move.source, found.move.by, found.move.entry) == (
        False,
        MoveSource.LEDGER,
        "ci",
        2,
    )
    assert found.move.moved_us == START_US + 2_000_000
    assert found.reason == (
        "its floating tag moved from sha256:aaaaaaaaaaaa to sha256:bbbbbbbbbbbb, on 2026-11-24T06:00:02Z (4 days ago), "
        "by ci, according to entry 2 of its ledger; the pin is still valid"
    )


@pytest.mark.parametrize("kind", sorted(RECORDS))
async def test_what_was_said_of_an_image_is_no_move(ledger: FakeLedger, tmp_path: Path, kind: EntryKind) -> None:
    """Whoever pushes may say of the old image that it was released, and by whatever words: the tag neither moved nor is sealed by it."""
    ledger.push("1.4.2", mode="floating")
    ledger.push("1.4.2", digest=B, mode="floating")
    before = await verdict(ledger, tmp_path / "before", shop("1.4.2", A), locked("1.4.2", entry=1))
    ledger.add(kind, A, actor="mallory", extra={"mode": "sealed"})
    ledger.add(kind, B, actor="mallory")
    after = await verdict(ledger, tmp_path / "after", shop("1.4.2", A), locked("1.4.2", entry=1))

    assert after.move is not None
    assert (told(after), after.move, after.reason) == (told(before), before.move, before.reason)
    assert after.move.entry == 2


@pytest.mark.parametrize(("kind", "entries"), [(EntryKind.RELEASED, [1]), (EntryKind.TAG_DELETED, [])])
async def test_a_lock_names_the_entry_that_made_the_tag_mean_this(
    ledger: FakeLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: EntryKind, entries: list[int]
) -> None:
    """Neither one that says something of the image, nor one that took the tag away."""
    monkeypatch.setattr(resolve, "LEDGER_PAUSE_S", 0.0)
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


async def test_a_lock_may_name_an_entry_that_only_says_something_of_the_image(
    ledger: FakeLedger, tmp_path: Path
) -> None:
    """Older versions wrote such ones."""
    ledger.push("latest", mode="floating")
    entry = ledger.add(EntryKind.RELEASED, A, tag="latest")
    ledger.push("latest", digest=B, mode="floating")
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest", entry=entry))

    assert told(found) == (VerifyStatus.MOVED, Weight.NOTE)


async def test_a_tag_that_is_sealed_there_may_not_move_whatever_it_is_called(
    ledger: FakeLedger, tmp_path: Path
) -> None:
    """`prod` looks like a word that moves on; its registry had sealed it, and serves another image under it."""
    ledger.push("prod")
    ledger.tags["shop/app", "prod"] = B
    found = await verdict(ledger, tmp_path, shop("prod", A), locked("prod"))

    assert told(found) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert found.move is not None
    assert (found.move.sealed, found.move.source) == (True, MoveSource.LEDGER)
    assert found.reason.startswith("its sealed tag moved from sha256:aaaaaaaaaaaa to sha256:bbbbbbbbbbbb")
    assert "its registry is not trustworthy: the tag means sha256:bbbb" in found.reason


async def test_a_sealed_tag_that_moved_by_the_ledgers_own_words_does_not_hold(
    ledger: FakeLedger, tmp_path: Path
) -> None:
    """An entry says so, in the tree and well linked; no boltseal would have written it."""
    ledger.push("prod")
    ledger.push("prod", digest=B)
    found = await verdict(ledger, tmp_path, shop("prod", A), locked("prod"))

    assert told(found) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert "the name is bound to sha256:aaaa" in found.reason


async def test_a_tag_that_moved_before_it_was_sealed_may_have_moved(ledger: FakeLedger, tmp_path: Path) -> None:
    """It floated when it was locked; where it was sealed, it still is."""
    ledger.push("rc", mode="floating")
    ledger.push("rc", digest=B)
    found = await verdict(ledger, tmp_path, shop("rc", A), locked("rc", entry=1))

    assert told(found) == (VerifyStatus.MOVED, Weight.NOTE)


async def test_who_moved_several_times_is_told_with_when_it_left_what_was_locked(
    ledger: FakeLedger, tmp_path: Path
) -> None:
    """From then on something else was deployed by the tag; the last move is another day's."""
    ledger.push("latest", mode="floating")
    ledger.push("latest", digest=B, mode="floating")
    ledger.push("latest", digest=C, mode="floating")
    found = await verdict(ledger, tmp_path, shop("latest"), locked("latest", entry=1))

    assert told(found) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert found.move is not None
    assert (found.move.left_us, found.move.moved_us) == (START_US + 2_000_000, START_US + 3_000_000)
    assert "it left the locked digest on 2026-11-24T06:00:02Z; a deployment would not" in found.reason


async def test_a_move_and_back_is_no_move(ledger: FakeLedger, tmp_path: Path) -> None:
    """It means what was locked; nobody is asked for its history."""
    for digest in (A, B, A):
        ledger.push("latest", digest=digest, mode="floating")
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest", entry=1))

    assert told(found) == (VerifyStatus.HOLDS, Weight.HOLDS)
    assert ledger.counted["history"] == 0


async def test_a_tag_that_left_twice_left_when_it_left_last(ledger: FakeLedger, tmp_path: Path) -> None:
    """In between it meant what was locked again."""
    for digest in (A, B, A, C, B):
        ledger.push("latest", digest=digest, mode="floating")
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest", entry=1))

    assert found.move is not None
    assert found.move.left_us == START_US + 4_000_000


@pytest.mark.parametrize("entry", [7, 2])
async def test_a_ledger_without_the_entry_of_the_lock_does_not_hold(
    ledger: FakeLedger, tmp_path: Path, entry: int
) -> None:
    """The lock says by which entry the tag meant what was locked; a registry that shows another past is no witness."""
    ledger.push("latest", mode="floating")
    ledger.push("latest", digest=B, mode="floating")
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest", entry=entry))

    assert told(found) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert f"entry {entry}, from which latest was locked" in found.reason


async def test_a_pin_that_a_sealed_tag_never_meant_does_not_hold(ledger: FakeLedger, tmp_path: Path) -> None:
    """The digest is another tag's, and the tag before it is there to deceive; without a lock, too."""
    ledger.push("1.4.2", digest=B)
    ledger.push("1.4.1")
    found = await verdict(ledger, tmp_path, shop("1.4.2", A), None)

    assert told(found) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert "according to the ledger it never resolved to sha256:aaaaaaaaaaaa" in found.reason


@pytest.mark.parametrize("pinned", [True, False])
async def test_a_ledger_that_can_not_be_read_leaves_it_open_whether_a_tag_may_move(
    ledger: FakeLedger, tmp_path: Path, pinned: bool
) -> None:
    """Of a pin that is "could not check"; what is not pinned does not hold, whoever may move it."""
    ledger.push("latest", mode="floating")
    ledger.push("latest", digest=B, mode="floating")
    ledger.history_status = 500
    found = await verdict(ledger, tmp_path, shop("latest", A if pinned else ""), locked("latest"))

    assert told(found) == ((VerifyStatus.UNKNOWN, Weight.UNKNOWN) if pinned else (VerifyStatus.MOVED, Weight.DIFFERS))
    assert "whether that is allowed is unknown, because the ledger can't be read" in found.reason


async def test_a_ledger_that_fails_between_history_and_proof_is_told(ledger: FakeLedger, tmp_path: Path) -> None:
    """What was read is not proven, and so is not used."""
    ledger.push("latest", mode="floating")
    ledger.push("latest", digest=B, mode="floating")
    ledger.statuses = {"checkpoint": [200, 500]}
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest"))

    assert told(found) == (VerifyStatus.UNKNOWN, Weight.UNKNOWN)


async def test_a_registry_whose_ledger_tells_no_histories_is_judged_by_the_tags_name(
    ledger: FakeLedger, tmp_path: Path
) -> None:
    """And by its own account, which nobody signed."""
    ledger.push("latest", mode="floating")
    ledger.push("latest", digest=B, mode="floating")
    ledger.own_history = False
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest"))

    assert told(found) == (VerifyStatus.MOVED, Weight.NOTE)
    assert found.move is not None
    assert (found.move.source, found.move.by) == (MoveSource.NAME, "")
    assert "according to its registry" in found.reason


@pytest.mark.parametrize(("tag", "mode"), [("1.4.2", "floating"), ("prod", "sealed")])
async def test_a_registry_that_shows_its_ledger_to_nobody_is_believed_as_far_as_its_word_goes(
    ledger: FakeLedger, tmp_path: Path, tag: str, mode: str
) -> None:
    """Whoever may pull may read the entries; that they are in the tree is for those who may see it. No fault, and no proof."""
    ledger.push(tag, mode=mode)
    ledger.push(tag, digest=B, mode=mode)
    ledger.status = 403
    found = await verdict(ledger, tmp_path, shop(tag, A), locked(tag, entry=1))

    assert told(found) == (VerifyStatus.MOVED, Weight.NOTE if mode == "floating" else Weight.DIFFERS)
    assert found.move is not None
    assert (found.move.source, found.move.by) == (MoveSource.REGISTRY, "ci")
    assert "by ci, according to its registry" in found.reason


@pytest.mark.parametrize("status", [400, 401, 403, 405, 500])
async def test_a_registry_that_refuses_paths_it_does_not_know_has_no_ledger(
    ledger: FakeLedger, tmp_path: Path, status: int
) -> None:
    """Nobody ever saw one there, so nothing is open: the tag's name decides."""
    ledger.push("latest", mode="floating")
    ledger.push("latest", digest=B, mode="floating")
    ledger.status = ledger.history_status = status
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest"))

    assert told(found) == (VerifyStatus.MOVED, Weight.NOTE)
    assert found.move is not None
    assert found.move.source is MoveSource.NAME


async def test_a_history_without_end_is_not_read_to_its_end(
    ledger: FakeLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry could feed us until the memory is full; then nothing of it is used."""
    monkeypatch.setattr(history, "MAX_HISTORY_BYTES", 1000)
    for digest in (A, B, C, B):
        ledger.push("latest", digest=digest, mode="floating")
    found = await verdict(ledger, tmp_path, shop("latest", A), locked("latest"))

    assert told(found) == (VerifyStatus.UNKNOWN, Weight.UNKNOWN)
    assert "lists more than 1000 bytes of history of latest: not read" in found.reason


async def test_a_tag_that_was_deleted_is_told_with_who_did_it(ledger: FakeLedger, tmp_path: Path) -> None:
    """Nothing holds it, so it is gone; pinned, a floating one is a note and a sealed one does not hold."""
    for tag, mode in (("latest", "floating"), ("1.4.2", "sealed")):
        ledger.push(tag, mode=mode)
        ledger.add(EntryKind.TAG_DELETED, A, tag=tag, actor="an admin", extra={})
    gone = await verdict(ledger, tmp_path, shop("latest"), locked("latest"))
    floating = await verdict(ledger, tmp_path, shop("latest", A), locked("latest"))
    sealed = await verdict(ledger, tmp_path, shop("1.4.2", A), locked("1.4.2"))

    assert told(gone) == (VerifyStatus.GONE, Weight.DIFFERS)
    assert told(floating) == (VerifyStatus.MOVED, Weight.NOTE)
    assert told(sealed) == (VerifyStatus.MOVED, Weight.DIFFERS)
    assert all("by an admin, according to entry" in found.reason for found in (gone, floating, sealed))
