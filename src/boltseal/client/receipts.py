"""Fetch the receipt of what a tag resolves to now, or a statement with it, and verify it against the followed ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from boltseal.client.errors import RemoteMismatch, RemoteNotFound
from boltseal.client.history import Follow, read_history
from boltseal.client.ledger_client import LedgerClient
from boltseal.client.ledger_trust import LedgerCheck, LedgerUnchecked, NotTrusted
from boltseal.client.transport import Transport
from boltseal.errors import Invalid, Mismatch
from boltseal.ledger.checkpoint import SignedCheckpoint
from boltseal.ledger.entry import MODE_SETTLING, SETTLES, parse
from boltseal.ledger.follow import first_checkpoint
from boltseal.ledger.merkle import leaf_hash, verify_inclusion
from boltseal.ledger.note import VerifierKey
from boltseal.ledger.proof import VerifiedReceipt, open_receipt, parse_receipt_unverified
from boltseal.ledger.receipt_attestation import VerifiedAttestation, open_attestation
from boltseal.oci.reference import Repository, Tag


class HistoryBroken(Mismatch):
    """The history of a tag is inconsistent, so a receipt of it would prove nothing."""


class FetchedReceipt(NamedTuple):
    """A receipt as the registry returned it, its verified content, and the check of the ledger. Unpacks in this order."""

    raw: bytes
    receipt: VerifiedReceipt
    check: LedgerCheck


@dataclass(frozen=True, slots=True)
class FetchedAttestation:
    """A statement as the registry returned it, and its verified content. `key`: of the ledger."""

    raw: bytes
    verified: VerifiedAttestation
    key: VerifierKey


async def fetch_receipt(
    transport: Transport, registry: str, repository: Repository, tag: Tag, follow: Follow
) -> FetchedReceipt:
    """Return the receipt of the entry that made a tag resolve to its digest.

    1. The tag's history is consistent, is in the ledger, and ends with the digest that the tag resolves to.
    2. The receipt of the last entry that changed the tag proves that entry, under the trusted key if one was given.

    Raises: RemoteNotFound, HistoryBroken, RemoteMismatch, LedgerUnchecked.
    """
    # 1
    found = await read_history(transport, registry, repository, tag, follow, others=False)
    if found.problems:
        raise HistoryBroken(f"{registry}/{repository}:{tag}: {found.problems[0]}")
    changes = found.history.changes_of(tag)
    if not changes or changes[-1].gone:
        raise RemoteNotFound(
            f"by the ledger of {registry}, {repository}:{tag} resolves to no image, so it has no receipt"
        )
    head = found.followed.head
    if head is None:
        raise LedgerUnchecked(f"{found.followed.no_head_reason}; without it there is no receipt")
    # 2
    wanted = changes[-1]
    if wanted.entry.extra.get("mode") == MODE_SETTLING:
        raise RemoteNotFound(
            f"{repository}:{tag} is settling, so it has no receipt: it is not sealed before {wanted.entry.extra.get(SETTLES)}"
        )
    raw = await LedgerClient(transport, registry).receipt(wanted.index, repository)
    try:
        key = head.trusted.key
        opened = _open_unsigned(raw) if key is None else open_receipt(raw, key)
    except Invalid as error:
        raise RemoteMismatch(f"{registry}: the receipt of entry {wanted.index} is invalid: {error.message}") from error
    if (opened.index, opened.entry) != (wanted.index, wanted.entry):
        raise RemoteMismatch(f"{registry}: the receipt of entry {wanted.index} is of another entry")
    return FetchedReceipt(raw, opened, found.followed)


async def fetch_attestation(
    transport: Transport,
    registry: str,
    repository: Repository,
    tag: Tag,
    follow: Follow,
    witnesses: Sequence[VerifierKey] = (),
) -> FetchedAttestation:
    """Return a statement about the entry that made a tag resolve to its digest.

    `witnesses`: whose cosignatures are read; whether one is missing is left to the caller.

    1. The receipt of that entry is right (`fetch_receipt`), and the ledger's key was given.
    2. The statement is valid under that key, and is about the same entry.

    Raises: NotTrusted: no key was given for the ledger; RemoteMismatch, RemoteNotFound, and as `fetch_receipt`.
    """
    # 1
    fetched = await fetch_receipt(transport, registry, repository, tag, follow)
    key = None if fetched.check.head is None else fetched.check.head.trusted.key
    if key is None:
        raise NotTrusted(
            f"no key is trusted for the ledger of {registry}, and a statement is passed on only if it was verified: ask the "
            f"registry's operator for the output of `boltseal ledger key`, then run `boltseal ledger trust {registry} KEY`"
        )
    # 2
    index = fetched.receipt.index
    raw = await LedgerClient(transport, registry).attestation(index, repository)
    try:
        verified = open_attestation(raw, key, witnesses)
    except Invalid as error:
        raise RemoteMismatch(f"{registry}: the statement about entry {index} is invalid: {error.message}") from error
    if (verified.receipt.index, verified.receipt.entry) != (index, fetched.receipt.entry):
        raise RemoteMismatch(f"{registry}: the statement about entry {index} is about another entry")
    return FetchedAttestation(raw, verified, key)


def _open_unsigned(raw: bytes) -> VerifiedReceipt:
    """Open a receipt without checking its signature: no key was given for the ledger."""
    receipt = parse_receipt_unverified(raw)
    extra = receipt.extra or b""
    checkpoint = first_checkpoint(receipt.checkpoint).checkpoint
    entry = parse(extra)
    verify_inclusion(leaf_hash(extra), receipt.index, checkpoint.size, receipt.proof, checkpoint.root)
    return VerifiedReceipt(entry, receipt.index, SignedCheckpoint(checkpoint, receipt.checkpoint))
