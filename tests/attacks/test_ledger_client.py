"""Forgeries of a registry in its own ledger, each detected by a client that saw more, a receipt, or a monitor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from boltseal.client.errors import RemoteMismatch
from boltseal.client.history import ProvenHistory, read_history
from boltseal.client.ledger_monitor.monitor import Monitor, MonitorReport
from boltseal.client.ledger_monitor.progress_file import MonitorMemory
from boltseal.client.ledger_trust import LedgerCheck, LedgerUnchecked, LedgerWatch, TrustStatus, give_key
from boltseal.client.receipts import fetch_receipt
from boltseal.client.state import ClientState
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.follow import Fault, LedgerBroken
from boltseal.ledger.proof import ReceiptInvalid, format_receipt, open_receipt, parse_receipt_unverified
from boltseal.ledger.tiles import encode_bundle
from boltseal.oci.reference import Repository, Tag
from tests.fakes.ledger import A, B, FakeLedger, signing_key

pytestmark = pytest.mark.usefixtures("two_attempts")

HOST = "reg.example:5000"
KEY = signing_key().verifier
SHOP, TAG = Repository("shop/app"), Tag("1.4.2")


@pytest.fixture
def state(tmp_path: Path) -> ClientState:
    """The state of a client that pinned the ledger's key."""
    state = ClientState(tmp_path / "state")
    give_key(state, HOST, KEY, 1)
    return state


@pytest.fixture
async def ledger(state: ClientState) -> FakeLedger:
    """A ledger of three tags, of which the client has stored a checkpoint."""
    ledger = FakeLedger()
    ledger.push("1.4.1", "1.4.2", "1.4.3")
    await follow(ledger, state)
    return ledger


async def follow(ledger: FakeLedger, state: ClientState) -> LedgerCheck:
    transport = ledger.transport()
    try:
        return await LedgerWatch(state, transport, lambda: 1).follow(HOST)
    finally:
        await transport.aclose()


async def history(ledger: FakeLedger, state: ClientState) -> ProvenHistory:
    transport = ledger.transport()
    watch = LedgerWatch(state, transport, lambda: 1)
    try:
        return await read_history(transport, HOST, SHOP, TAG, watch.follow)
    finally:
        await transport.aclose()


async def monitored(ledger: FakeLedger, state: ClientState) -> MonitorReport:
    transport = ledger.transport()
    watch = LedgerWatch(state, transport, lambda: 1)
    try:
        return await Monitor(MonitorMemory(state.folder, HOST), watch, transport, HOST, every_tag=True).look()
    finally:
        await transport.aclose()


async def fault(ledger: FakeLedger, state: ClientState) -> Fault:
    with pytest.raises(LedgerBroken) as broken:
        await follow(ledger, state)
    return broken.value.fault


async def test_a_truncated_log_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """The client refuses a shorter log, in which a sealed tag would be free again."""
    ledger.shown = 3

    assert await fault(ledger, state) is Fault.SHRUNK


async def test_a_log_that_was_truncated_and_grew_again_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """The client refuses a log that was truncated and then grew to as many entries as it saw, or more."""
    del ledger.entries[3]
    ledger.push("1.4.3", digest=B)
    forked = await fault(ledger, state)
    ledger.push("1.4.4")

    assert (forked, await fault(ledger, state)) == (Fault.FORKED, Fault.REWRITTEN)


async def test_a_rewritten_entry_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """The client refuses a rewritten entry, even under the right key with every hash computed anew."""
    ledger.entries[2] = ledger.entries[2].replace(A.encode(), B.encode())
    ledger.push("1.4.4")

    assert await fault(ledger, state) is Fault.REWRITTEN


async def test_a_rewritten_entry_with_the_old_hashes_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """The client refuses a rewritten entry with the old hashes, because they do not lead to the new root."""
    honest = ledger.copy()
    honest.push("1.4.4")
    ledger.entries[2] = ledger.entries[2].replace(A.encode(), B.encode())
    ledger.push("1.4.4")
    honest.checkpoint = ledger.note()

    assert await fault(honest, state) is Fault.REWRITTEN


async def test_a_fork_is_shown_to_one_client(ledger: FakeLedger, state: ClientState, tmp_path: Path) -> None:
    """A client detects a fork as soon as it sees a checkpoint that other clients saw."""
    victim, fork = ClientState(tmp_path / "victim"), ledger.copy()
    give_key(victim, HOST, KEY, 1)
    await follow(ledger, victim)
    fork.push("evil", digest=B)
    ledger.push("1.4.4")
    alone = await follow(fork, victim)
    others = await follow(ledger, state)

    assert (alone.status, others.status) == (TrustStatus.GROWN, TrustStatus.GROWN)
    assert await fault(ledger, victim) is Fault.FORKED
    assert await fault(fork, state) is Fault.FORKED


async def test_the_checkpoint_of_another_log_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """A complete and well signed checkpoint of another log is refused."""
    other = FakeLedger(key=signing_key("k", "other.example"))
    other.push(*(f"1.4.{number}" for number in range(9)))

    assert await fault(other, state) is Fault.OTHER_LEDGER


async def test_a_checkpoint_of_an_unannounced_key_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """A checkpoint signed by a key that the old key has not named is refused."""
    ledger.key = signing_key("z")

    assert await fault(ledger, state) is Fault.UNKNOWN_KEY


async def test_a_rotation_without_the_old_keys_signature_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """A rotation entry that only the new key signed is refused: the old key's signature below it is missing."""
    thief = signing_key("z")
    index = ledger.add(EntryKind.KEY_ROTATED, tag="", repository="", extra={"key": str(thief.verifier)})
    ledger.key = thief
    ledger.receipts = [ledger.receipt(index)]

    assert await fault(ledger, state) is Fault.UNKNOWN_KEY


async def test_a_rotation_by_a_stolen_old_key_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """A rotation signed with a stolen old key is refused, because it is in another ledger than the one shown."""
    honest, aside = ledger.copy(), ledger.copy()
    aside.rotate("z")
    honest.push("1.4.4", "1.4.5")
    honest.key, honest.receipts = signing_key("z"), aside.receipts

    assert await fault(honest, state) is Fault.REWRITTEN


async def test_a_rotated_key_is_followed(ledger: FakeLedger, state: ClientState) -> None:
    """A rotated key is trusted if the last entry under the old key names it."""
    ledger.rotate("m")
    ledger.push("1.4.4")
    found = await follow(ledger, state)
    ledger.rotate("n")
    again = await follow(ledger, state)

    assert (found.status, again.status) == (TrustStatus.ROTATED, TrustStatus.ROTATED)
    assert again.head is not None
    assert again.head.trusted.key == signing_key("n").verifier


async def test_a_ledger_that_vanishes_is_reported(ledger: FakeLedger, state: ClientState) -> None:
    """A registry that stops showing its ledger is reported to a client that has seen it."""
    ledger.status = 404
    with pytest.raises(LedgerUnchecked):
        await follow(ledger, state)


def test_a_proof_for_the_wrong_index_is_refused() -> None:
    """A receipt whose proof is for another index is refused."""
    ledger = FakeLedger()
    ledger.push("1.4.1", "1.4.2", "1.4.3")
    good = parse_receipt_unverified(ledger.receipt(2))
    for bent in (replace(good, index=1), replace(good, extra=ledger.entries[1])):
        with pytest.raises(Exception, match="does not lead from entry"):
            open_receipt(format_receipt(bent), KEY)

    assert open_receipt(format_receipt(good), KEY).index == 2


def test_a_receipt_without_its_entry_proves_nothing() -> None:
    """A receipt without its entry is refused, because the proven content is missing."""
    ledger = FakeLedger()
    with pytest.raises(ReceiptInvalid):
        open_receipt(format_receipt(replace(parse_receipt_unverified(ledger.receipt(0)), extra=None)), KEY)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{}\n", "not an entry"),
        (b" ", "not an entry"),
        (b"x" * 65_535, "not an entry"),
    ],
)
async def test_a_bundle_with_an_entry_that_is_not_canonical_is_reported(
    ledger: FakeLedger, state: ClientState, line: bytes, message: str
) -> None:
    """A signed entry that is not in canonical form is reported by a monitor."""
    ledger.entries.append(line)
    report = await monitored(ledger, state)

    assert report.problems[0].startswith(f"entry 4: {message}")


async def test_a_bundle_with_another_spelling_of_an_entry_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """An entry in another JSON spelling is refused, so that two readers never read different content."""
    ledger.entries[3] = ledger.entries[3].replace(b'{"v":1,', b'{"v": 1,')
    fresh = ClientState(state.folder / "fresh")
    give_key(fresh, HOST, KEY, 1)
    report = await monitored(ledger, fresh)

    assert "another spelling" in report.problems[0]


async def test_a_bundle_without_end(ledger: FakeLedger, state: ClientState) -> None:
    """A bundle longer than its entries can be is not read to its end."""
    honest = ledger.copy()
    ledger.bundle = encode_bundle(honest.entries) + bytes(70_000 * len(honest.entries))
    with pytest.raises(RemoteMismatch, match="more than"):
        await monitored(ledger, state)


async def test_a_bundle_with_a_wrong_number_of_entries_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """A bundle with fewer or more entries than expected, or a truncated one, is refused."""
    whole = encode_bundle(ledger.entries)
    for bundle in (encode_bundle(ledger.entries[:-1]), whole + b"\0\0", whole[:-1]):
        ledger.bundle = bundle
        with pytest.raises(RemoteMismatch):
            await monitored(ledger, state)


async def test_an_oversized_or_missing_entry_of_a_history_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """An oversized or missing entry in a tag's history is refused."""
    ledger.entries[2] = b'{"repository":"shop/app"' + b" " * 70_000
    found = await history(ledger, ClientState(state.folder / "fresh"))

    assert "an entry of 70024 bytes; at most 65535 are allowed" in found.problems[0]


@pytest.mark.slow
async def test_a_sealed_tag_moved_in_the_database_is_reported(ledger: FakeLedger, state: ClientState) -> None:
    """History, receipt and monitor report a sealed tag that was moved in the database but not in the ledger."""
    transport = ledger.transport()
    watch = LedgerWatch(state, transport, lambda: 1)
    kept, _, _ = await fetch_receipt(transport, HOST, SHOP, TAG, watch.follow)
    await transport.aclose()
    ledger.tags["shop/app", TAG] = B
    result, report = await history(ledger, state), await monitored(ledger, state)

    assert open_receipt(kept, KEY).entry.digest == A
    assert result.problems == (f"the tag resolves to {B}, and its last entry 2 says {A}",)
    (problem,) = report.problems
    assert problem.startswith(
        f"{HOST}/shop/app:1.4.2: the tag resolves to {B}, but its last entry 2 has another digest; "
    )


async def test_a_sealed_tag_moved_with_a_signed_entry_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """A signed entry that moves a sealed tag is refused, whatever key signed it."""
    ledger.push("1.4.2", digest=B)
    result, report = await history(ledger, state), await monitored(ledger, state)
    bound = f"entry 4: the tag is sealed at {A}, and this entry lets it resolve to {B}"

    assert result.problems == (bound,)
    assert report.problems == [bound]
