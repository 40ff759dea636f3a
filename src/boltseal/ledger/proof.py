"""Receipts: offline proofs that an entry is in the ledger (C2SP tlog-proof, files `.tlog-proof`).

    c2sp.org/tlog-proof@v1
    extra <base64>           the entry's bytes
    index <n>                which entry it is
    <base64>                 the inclusion proof, one hash a line, from the leaf's sibling up
                             an empty line
    <checkpoint>             the signed checkpoint that the proof ends at, with the cosignatures of witnesses

The format does not protect `extra`; here the leaf hash does, because the leaf is the hash of exactly these bytes.
The key must come from elsewhere: a key from beside the receipt proves nothing.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.errors import Invalid, quote
from boltseal.ledger.checkpoint import MAX_SIZE, SignedCheckpoint, open_checkpoint
from boltseal.ledger.entry import Entry, parse
from boltseal.ledger.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from boltseal.ledger.note import VerifierKey
from boltseal.oci.base64_text import decode_base64

HEADER: Final = "c2sp.org/tlog-proof@v1"
MAX_RECEIPT_BYTES: Final = 1_200_000
"""An entry of 64 KiB in base64, a proof, and the longest note that is read."""

_is_index = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII).fullmatch


class ReceiptInvalid(Invalid):
    """The text is no receipt, or one whose parts contradict each other."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt as it was read or will be written. Nothing in it is verified."""

    index: int
    proof: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """An entry that is in the ledger, at this index, under this checkpoint."""

    entry: Entry
    index: int
    signed: SignedCheckpoint


def format_receipt(receipt: Receipt) -> bytes:
    """Format a receipt as bytes."""
    lines = [HEADER]
    if receipt.extra is not None:
        lines.append(f"extra {b64encode(receipt.extra).decode()}")
    lines.append(f"index {receipt.index}")
    lines += [b64encode(one).decode() for one in receipt.proof]
    return "".join(f"{line}\n" for line in [*lines, ""]).encode() + receipt.checkpoint


def parse_receipt_unverified(raw: bytes) -> Receipt:
    """Parse a receipt without any verification. Raises: ReceiptInvalid when it is not a receipt."""
    if len(raw) > MAX_RECEIPT_BYTES:
        raise ReceiptInvalid(f"a receipt of {len(raw)} bytes; at most {MAX_RECEIPT_BYTES} are read")
    head, blank, checkpoint = raw.partition(b"\n\n")
    lines = head.decode("ascii", errors="replace").split("\n")
    if not blank or lines.pop(0) != HEADER:
        raise ReceiptInvalid(f"not a receipt: it does not begin with {HEADER}, or has no checkpoint")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = _decode(lines.pop(0).removeprefix("extra "), "extra")
    index = _is_index(lines.pop(0)) if lines else None
    if index is None or int(index[1]) >= MAX_SIZE:
        raise ReceiptInvalid("not a receipt: it does not say the entry's index")
    proof = tuple(_decode(line, "a hash of the proof") for line in lines)
    if any(len(one) != HASH_BYTES for one in proof):
        raise ReceiptInvalid(f"not a receipt: a hash of its proof is not {HASH_BYTES} bytes long")
    return Receipt(int(index[1]), proof, checkpoint, extra)


def open_receipt(raw: bytes, key: VerifierKey, witnesses: Sequence[VerifierKey] = ()) -> VerifiedReceipt:
    """Read a receipt and verify it. Raises: an Invalid error at the first step that fails.

    1. It is a receipt, and carries an entry.
    2. Its checkpoint is signed by `key`, and by whichever of `witnesses` are in it.
    3. The entry is canonical, and of the ledger that the checkpoint is of.
    4. The inclusion proof connects the entry's bytes, at its index, with the checkpoint's root.
    """
    receipt = parse_receipt_unverified(raw)
    if receipt.extra is None:
        raise ReceiptInvalid("the receipt carries no entry, so it proves nothing about a tag")
    signed = open_checkpoint(receipt.checkpoint, key, witnesses)
    checkpoint = signed.checkpoint
    entry = parse(receipt.extra)
    if entry.registry != checkpoint.origin:
        raise ReceiptInvalid(
            f"the entry is of the ledger {quote(entry.registry)}, the checkpoint of {checkpoint.origin}"
        )
    verify_inclusion(leaf_hash(receipt.extra), receipt.index, checkpoint.size, receipt.proof, checkpoint.root)
    return VerifiedReceipt(entry, receipt.index, signed)


def _decode(text: str, what: str) -> bytes:
    data = decode_base64(text)
    if data is None:
        raise ReceiptInvalid(f"not a receipt: {what} is {quote(text, 40)}, which is not base64")
    return data
