"""The receipt of a tag: returned only if it proves the tag's digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.client.errors import RemoteMismatch, RemoteNotFound
from boltseal.client.ledger_trust import LedgerWatch, NotTrusted, give_key
from boltseal.client.receipts import FetchedAttestation, HistoryBroken, fetch_attestation, fetch_receipt
from boltseal.client.state import ClientState
from boltseal.ledger.entry import RECORDS, EntryKind
from boltseal.ledger.proof import VerifiedReceipt, open_receipt
from boltseal.oci.reference import Repository, Tag
from tests.fakes.attestations import Attester
from tests.fakes.ledger import A, B, FakeLedger, signing_key

HOST = "reg.example:5000"
KEY = signing_key().verifier


@pytest.fixture
def ledger() -> FakeLedger:
    ledger = FakeLedger()
    ledger.push("1.4.1", "1.4.2", "1.4.3")
    return ledger


async def fetch(ledger: FakeLedger, state: ClientState) -> tuple[bytes, VerifiedReceipt]:
    transport = ledger.transport()
    watch = LedgerWatch(state, transport, lambda: 1)
    try:
        raw, opened, _ = await fetch_receipt(transport, HOST, Repository("shop/app"), Tag("1.4.2"), watch.follow)
    finally:
        await transport.aclose()
    return raw, opened


@pytest.fixture
def state(tmp_path: Path) -> ClientState:
    return ClientState(tmp_path / "state")


@pytest.mark.parametrize("given", [False, True])
async def test_a_receipt_proves_what_the_tag_resolves_to(ledger: FakeLedger, state: ClientState, given: bool) -> None:
    """A receipt proves a tag's digest to any holder of the key, even if the client that fetched it had none."""
    if given:
        give_key(state, HOST, KEY, 1)
    raw, opened = await fetch(ledger, state)

    assert (opened.index, opened.entry.digest) == (2, A)
    assert open_receipt(raw, KEY).entry == opened.entry


async def test_a_receipt_needs_the_entries_of_its_tag_only(ledger: FakeLedger, state: ClientState) -> None:
    """The entries of the repository's other tags, which may be many, are not read."""
    await fetch(ledger, state)

    assert (ledger.counted["history"], ledger.counted["history of a tag"]) == (0, 1)


async def test_a_receipt_of_another_entry_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """A valid receipt for another entry than the requested one is refused."""
    ledger.swapped = 1
    with pytest.raises(RemoteMismatch, match="another entry"):
        await fetch(ledger, state)


async def test_an_invalid_receipt_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """A receipt signed by another key than the trusted one is refused."""
    give_key(state, HOST, KEY, 1)
    ledger.receipts_by = signing_key("z")
    with pytest.raises(RemoteMismatch, match="is invalid"):
        await fetch(ledger, state)


async def test_a_tag_that_differs_from_its_history_has_no_receipt(ledger: FakeLedger, state: ClientState) -> None:
    """A tag whose row was changed in the database has no receipt."""
    ledger.tags["shop/app", "1.4.2"] = B
    with pytest.raises(HistoryBroken, match="the tag resolves to"):
        await fetch(ledger, state)


async def test_a_deleted_tag_has_no_receipt(ledger: FakeLedger, state: ClientState) -> None:
    """A deleted tag resolves to nothing, so it has no receipt."""
    ledger.add(EntryKind.TAG_DELETED, A)
    with pytest.raises(RemoteNotFound, match="has no receipt"):
        await fetch(ledger, state)


@pytest.mark.parametrize("kind", sorted(RECORDS))
async def test_a_record_does_not_prove_what_a_tag_resolves_to(state: ClientState, kind: EntryKind) -> None:
    """Anyone who may push can record a build of a former image, so a record proves no tag."""
    ledger = FakeLedger()
    ledger.push("1.4.2", mode="floating")
    ledger.push("1.4.2", digest=B, mode="floating")
    ledger.add(kind, A)
    _, opened = await fetch(ledger, state)

    assert (opened.index, opened.entry.kind, opened.entry.digest) == (2, EntryKind.TAG_MOVED, B)


async def test_a_record_does_not_revive_a_deleted_tag(ledger: FakeLedger, state: ClientState) -> None:
    """A record for a former image of a deleted tag does not make the tag resolve again."""
    ledger.add(EntryKind.TAG_DELETED, A)
    ledger.add(EntryKind.RELEASED, A)
    with pytest.raises(RemoteNotFound, match="has no receipt"):
        await fetch(ledger, state)


async def test_a_registry_without_a_ledger_has_no_receipts(ledger: FakeLedger, state: ClientState) -> None:
    """A history without a ledger proves nothing, so that there is no receipt."""
    ledger.status = 404
    with pytest.raises(HistoryBroken, match="shows no ledger"):
        await fetch(ledger, state)


async def fetch_statement(ledger: FakeLedger, state: ClientState) -> FetchedAttestation:
    transport = ledger.transport()
    watch = LedgerWatch(state, transport, lambda: 1)
    try:
        return await fetch_attestation(transport, HOST, Repository("shop/app"), Tag("1.4.2"), watch.follow)
    finally:
        await transport.aclose()


async def test_a_statement_is_passed_on_if_the_trusted_key_proves_it(ledger: FakeLedger, state: ClientState) -> None:
    """The statement is about the entry by which the tag resolves now, and is returned byte for byte."""
    give_key(state, HOST, KEY, 1)
    attester = Attester()
    ledger.statement = attester.attest(ledger, 2, attester.announce(ledger))
    fetched = await fetch_statement(ledger, state)

    assert (fetched.raw, fetched.key) == (ledger.statement, KEY)
    assert (fetched.verified.receipt.index, fetched.verified.receipt.entry.digest) == (2, A)


async def test_a_statement_needs_a_trusted_key(ledger: FakeLedger, state: ClientState) -> None:
    """Without a key that the user was given, a statement could be by any ledger."""
    attester = Attester()
    ledger.statement = attester.attest(ledger, 2, attester.announce(ledger))
    with pytest.raises(NotTrusted, match="boltseal ledger trust"):
        await fetch_statement(ledger, state)


async def test_a_statement_about_another_entry_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """A registry that returns the valid statement of another tag is found out."""
    give_key(state, HOST, KEY, 1)
    attester = Attester()
    ledger.statement = attester.attest(ledger, 1, attester.announce(ledger))
    with pytest.raises(RemoteMismatch, match="is about another entry"):
        await fetch_statement(ledger, state)


async def test_an_invalid_statement_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """A statement that the ledger's key does not prove is not passed on."""
    give_key(state, HOST, KEY, 1)
    ledger.statement = Attester().attest(ledger, 2, Attester().announce(ledger))
    with pytest.raises(RemoteMismatch, match="the statement about entry 2 is invalid"):
        await fetch_statement(ledger, state)
