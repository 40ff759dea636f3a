"""Checkpoints: the signed head of a ledger (C2SP tlog-checkpoint).

    <origin>            which ledger; also the name of the key that signs it
    <size>              how many entries, in decimal
    <root>              the root of the tree over them, in base64
    [extension lines]   ours has none; those of others are kept and mean nothing here

A checkpoint is a promise: who signs a size and a root never signs another root for that size, and each later one
begins with this. Whether two checkpoints keep it is shown by a consistency proof (`merkle`).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.errors import Invalid, quote
from boltseal.ledger.merkle import EMPTY_ROOT, HASH_BYTES
from boltseal.ledger.note import SigningKey, VerifierKey, decode_base64, format_note, open_note

MAX_SIZE: Final = 2**63 - 1
_is_size = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII).fullmatch


class CheckpointInvalid(Invalid):
    """Not a checkpoint, or not one of the ledger it should be of."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a ledger says of itself: `size` entries whose tree has this `root` (32 bytes)."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The note's text; CheckpointInvalid when the values can't be in one."""
        lines = [self.origin, str(self.size), b64encode(self.root).decode(), *self.extensions]
        text = "".join(f"{line}\n" for line in lines)
        if parse_checkpoint_unverified(text) != self:
            raise CheckpointInvalid("a checkpoint's values must be single lines that are not empty")
        return text


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A witness saw this checkpoint, consistent with all it saw before, at `time_s` (seconds since the epoch)."""

    witness: str
    time_s: int


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint that its ledger's key vouches for, as it was read, and the known witnesses who saw it."""

    checkpoint: Checkpoint
    raw: bytes
    cosignatures: tuple[Cosignature, ...] = ()


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> bytes:
    """The signed note of a checkpoint. The key's name must be the origin."""
    if key.name != checkpoint.origin:
        raise CheckpointInvalid(f"the key of {quote(key.name)} can't sign for the ledger {quote(checkpoint.origin)}")
    text = checkpoint.text()
    return format_note(text, [key.sign(text)])


def parse_checkpoint_unverified(text: str) -> Checkpoint:
    """Read a note's text as a checkpoint; CheckpointInvalid when it is none."""
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() != "" or not all(lines):
        raise CheckpointInvalid("not a checkpoint; expected lines of origin, size and root")
    origin, size, root, *extensions = lines
    decoded = decode_base64(root)
    if decoded is None or len(decoded) != HASH_BYTES:
        raise CheckpointInvalid(f"root is {quote(root)}; expected {HASH_BYTES} bytes in base64")
    if not _is_size(size) or int(size) > MAX_SIZE:
        raise CheckpointInvalid(f"size is {quote(size)}; expected a number of entries")
    if size == "0" and decoded != EMPTY_ROOT:
        raise CheckpointInvalid("a checkpoint of no entries has the wrong root")
    return Checkpoint(origin, int(size), decoded, tuple(extensions))


def open_checkpoint(raw: bytes, key: VerifierKey, witnesses: Sequence[VerifierKey] = ()) -> SignedCheckpoint:
    """Read a checkpoint and check it, in this order; NoteInvalid or CheckpointInvalid at the first step that fails.

    1. It is a note, and no signature by `key` or by one of `witnesses` in it is wrong.
    2. `key` signed it.
    3. Its text is a checkpoint.
    4. It is of the ledger that `key` is named after.
    """
    opened = open_note(raw, [key, *witnesses])
    if opened.by(key) is None:
        raise CheckpointInvalid(f"the checkpoint is not signed by the ledger's key {key}")
    checkpoint = parse_checkpoint_unverified(opened.text)
    if checkpoint.origin != key.name:
        raise CheckpointInvalid(
            f"the checkpoint is of the ledger {quote(checkpoint.origin)}, the key of {quote(key.name)}"
        )
    seen = {
        one.signature.name: Cosignature(one.signature.name, one.time_s)
        for one in opened.verified
        if one.time_s is not None
    }
    return SignedCheckpoint(checkpoint, raw, tuple(seen.values()))
