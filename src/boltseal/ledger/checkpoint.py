"""Checkpoints: a ledger's signed size and root hash (C2SP tlog-checkpoint).

    <origin>            the ledger's name; also the name of the key that signs it
    <size>              number of entries, in decimal
    <root>              root hash of the tree over the entries, in base64
    [extension lines]   boltseal writes none; those of other logs are kept and ignored

A ledger commits to its checkpoints: it signs one root for each size, and the tree of each later checkpoint begins with the
tree of this one. A consistency proof (`merkle`) shows whether two checkpoints agree.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.errors import Invalid, quote
from boltseal.ledger.merkle import EMPTY_ROOT, HASH_BYTES
from boltseal.ledger.note import SigningKey, VerifierKey, format_note, open_note, parse_note_unverified
from boltseal.oci.base64_text import decode_base64

MAX_SIZE: Final = 2**63 - 1
_is_size = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII).fullmatch


class CheckpointInvalid(Invalid):
    """The text is no checkpoint, or not one of the expected ledger."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A ledger's size in entries, and the root hash (32 bytes) of the tree over them."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the text of the note. Raises: CheckpointInvalid when a value is not a single line."""
        lines = [self.origin, str(self.size), b64encode(self.root).decode(), *self.extensions]
        text = "".join(f"{line}\n" for line in lines)
        if parse_checkpoint_unverified(text) != self:
            raise CheckpointInvalid("a checkpoint's values must be single lines that are not empty")
        return text


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A witness's statement that a checkpoint was consistent with all that it had seen, at `time_s` (seconds since the epoch)."""

    witness: str
    time_s: int


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint with a verified signature of its ledger, the bytes as read, and the verified cosignatures."""

    checkpoint: Checkpoint
    raw: bytes
    cosignatures: tuple[Cosignature, ...] = ()


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> bytes:
    """Sign a checkpoint and return the note. The key's name must be the origin. Raises: CheckpointInvalid."""
    if key.name != checkpoint.origin:
        raise CheckpointInvalid(f"the key of {quote(key.name)} can't sign for the ledger {quote(checkpoint.origin)}")
    text = checkpoint.text()
    return format_note(text, [key.sign(text)])


def checkpoint_of_note_unverified(raw: bytes) -> Checkpoint:
    """Parse the checkpoint in a signed note, without any check of signatures. Raises: NoteInvalid, CheckpointInvalid."""
    return parse_checkpoint_unverified(parse_note_unverified(raw).text)


def parse_checkpoint_unverified(text: str) -> Checkpoint:
    """Parse a note's text as a checkpoint, without any check of signatures. Raises: CheckpointInvalid."""
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
    """Read a checkpoint and verify it. Raises: NoteInvalid or CheckpointInvalid at the first step that fails.

    1. It is a note, and every signature by `key` or by one of `witnesses` in it is valid.
    2. `key` signed it.
    3. The note's text is a checkpoint.
    4. The checkpoint's origin is the name of `key`.
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
        verified.signature.name: Cosignature(verified.signature.name, verified.time_s)
        for verified in opened.verified
        if verified.time_s is not None
    }
    return SignedCheckpoint(checkpoint, raw, tuple(seen.values()))
