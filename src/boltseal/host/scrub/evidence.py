"""Reads what an image must be from a ledger's receipt or a project's lock."""

from __future__ import annotations

from typing import Final

from boltseal.errors import Invalid
from boltseal.host.scrub.trust import Expectation, Level
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.note import VerifierKey
from boltseal.ledger.proof import open_receipt
from boltseal.ledger.receipt_attestation import is_attestation, open_attestation
from boltseal.lockfile.document import Lock
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag

_TAG_ENTRIES: Final = frozenset(
    {EntryKind.TAG_CREATED, EntryKind.TAG_MOVED, EntryKind.TAG_SEALED, EntryKind.TAG_UNSEALED, EntryKind.TAG_RESTORED}
)


class ReceiptWithoutTag(Invalid):
    """A receipt whose entry does not resolve a tag."""


def expectation_of_receipt(raw: bytes, key: VerifierKey) -> Expectation:
    """Return the digest that a receipt proves for a tag. `raw`: a tlog-proof, or a statement (`ledger.receipt_attestation`).

    Raises: Invalid: if the receipt is not valid; ReceiptWithoutTag: if its entry does not resolve a tag.
    """
    verified = open_attestation(raw, key).receipt if is_attestation(raw) else open_receipt(raw, key)
    entry = verified.entry
    if entry.kind not in _TAG_ENTRIES or not entry.digest:
        raise ReceiptWithoutTag(f"the receipt's entry does not resolve a tag (got {entry.kind}, expected a tag entry)")
    by = (
        f"entry {verified.index} of the ledger {entry.registry}, "
        f"under its checkpoint of {verified.signed.checkpoint.size} entries"
    )
    return Expectation(
        Digest.parse(entry.digest), Level.L2, by, of_manifest=True, repository=Repository(entry.repository), tag=Tag(entry.tag)
    )  # fmt: skip


def expectations_of_lock(lock: Lock) -> list[Expectation]:
    """Return what the tags of a project's lock resolve to: index, manifests and image IDs."""
    found = []
    for image in lock.images:
        if image.digest is None or image.reference.tag is None or image.own_pin:  # a pin says nothing about the tag
            continue
        found.append(
            Expectation(
                image.digest, Level.L1, f"the lock of {image.reference}", of_manifest=True,
                repository=image.reference.repository, tag=image.reference.tag, registry=image.reference.registry,
                also=tuple(each.manifest for each in image.platforms),
                ids=image.image_ids,
            )
        )  # fmt: skip
    return found
