"""Receipts of a ledger with a known key."""

from __future__ import annotations

from boltseal.ledger.checkpoint import Checkpoint, sign_checkpoint
from boltseal.ledger.entry import Entry, EntryKind, encode
from boltseal.ledger.merkle import leaf_hash
from boltseal.ledger.note import SigningKey
from boltseal.ledger.proof import Receipt, format_receipt
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import OCI_MANIFEST

KEY = SigningKey("reg.example/ledger", bytes(range(32)))


def receipt(digest: Digest, kind: EntryKind = EntryKind.TAG_CREATED) -> bytes:
    entry = encode(
        Entry(
            kind=kind, time_us=1_795_508_941_000_042, registry=KEY.name, repository="shop/app", tag="1.4.2",
            digest=str(digest), type=OCI_MANIFEST, size=100, salt="0" * 32,
        )
    )  # fmt: skip
    signed = sign_checkpoint(Checkpoint(KEY.name, 1, leaf_hash(entry)), KEY)
    return format_receipt(Receipt(0, (), signed, entry))
