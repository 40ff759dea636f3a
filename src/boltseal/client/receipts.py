"""The receipt of what a tag means now, fetched and held against the ledger that was followed."""

from __future__ import annotations

from boltseal.client.errors import RemoteMismatch, RemoteNotFound
from boltseal.client.history import Follow, read_history
from boltseal.client.ledger_client import LedgerClient
from boltseal.client.ledger_trust import LedgerCheck, LedgerUnchecked
from boltseal.client.transport import Transport
from boltseal.errors import Invalid, Precondition
from boltseal.ledger.checkpoint import SignedCheckpoint
from boltseal.ledger.entry import parse
from boltseal.ledger.follow import first_checkpoint
from boltseal.ledger.merkle import leaf_hash, verify_inclusion
from boltseal.ledger.proof import VerifiedReceipt, open_receipt, parse_receipt_unverified
from boltseal.oci.reference import Repository, Tag


class HistoryBroken(Precondition):
    """What the ledger says of a tag does not hold together, so no receipt of it is worth anything."""


async def fetch_receipt(
    transport: Transport, registry: str, repository: Repository, tag: Tag, follow: Follow
) -> tuple[bytes, VerifiedReceipt, LedgerCheck]:
    """The receipt of the entry by which a tag means what it means. RemoteNotFound, HistoryBroken, RemoteMismatch, ...

    1. The tag's history holds together, is in the ledger, and ends with what the tag means.
    2. The receipt of the last entry that changed it proves that entry, under the trusted key where one was given.
    """
    # 1
    found = await read_history(transport, registry, repository, tag, follow)
    if found.problems:
        raise HistoryBroken(f"{registry}/{repository}:{tag}: {found.problems[0]}")
    said = found.history.changes_of(tag)
    if not said or said[-1].gone:
        raise RemoteNotFound(
            f"by the ledger of {registry} {repository}:{tag} means no image, so there is nothing to give a receipt of"
        )
    head = found.followed.head
    if head is None:
        raise LedgerUnchecked(f"{registry} shows no ledger, so there is no receipt")
    # 2
    wanted = said[-1]
    raw = await LedgerClient(transport, registry).receipt(wanted.index, repository)
    try:
        key = head.trusted.key
        opened = _open_unsigned(raw) if key is None else open_receipt(raw, key)
    except Invalid as error:
        raise RemoteMismatch(
            f"{registry}: the receipt of entry {wanted.index} does not hold: {error.message}"
        ) from error
    if (opened.index, opened.entry) != (wanted.index, wanted.entry):
        raise RemoteMismatch(f"{registry}: the receipt of entry {wanted.index} is of another entry")
    return raw, opened, found.followed


def _open_unsigned(raw: bytes) -> VerifiedReceipt:
    """As `open_receipt`, but for the signature: no key was given that it could be checked by."""
    receipt = parse_receipt_unverified(raw)
    extra = receipt.extra or b""
    checkpoint = first_checkpoint(receipt.checkpoint).checkpoint
    entry = parse(extra)
    verify_inclusion(leaf_hash(extra), receipt.index, checkpoint.size, receipt.proof, checkpoint.root)
    return VerifiedReceipt(entry, receipt.index, SignedCheckpoint(checkpoint, receipt.checkpoint))
