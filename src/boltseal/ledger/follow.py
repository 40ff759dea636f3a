"""Compare a ledger's present checkpoint with what a client has seen before. Pure; `client.ledger_trust` does the I/O.

The steps, in this order; the first that fails raises LedgerBroken with what to do:

1. What is shown now is a signed checkpoint of the same ledger (`read_checkpoint`).
2. It is signed by the trusted key, or by one that follows from it: each replaced key has signed the entry that names its
   successor (`follow_rotations`). Where the user never gave a key, only the key's ID can be required to stay the same;
   that is reported as "first use".
3. It has at least as many entries as the one seen before, and the same root for the same number (`compare_checkpoints`).
4. With more entries it extends the one seen before, by a consistency proof, and contains the entries that rotated keys
   (`check_extension`).

Checkpoints are stored as they were read, so that two contradicting ones are evidence by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from boltseal.errors import Invalid, Mismatch, quote
from boltseal.ledger.checkpoint import Checkpoint, CheckpointInvalid, open_checkpoint, parse_checkpoint_unverified
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.merkle import ProofInvalid, leaf_hash, verify_consistency, verify_inclusion
from boltseal.ledger.note import Note, VerifierKey, parse_note_unverified
from boltseal.ledger.proof import open_receipt, parse_receipt_unverified

MAX_ROTATIONS: Final = 100

_KEPT: Final = "both are kept as evidence; do not deploy from it, and ask its keeper"
_ANEW: Final = (
    "if they say that it began anew, `boltseal ledger trust HOST KEY --replace` with the key that they give you"
)


class Fault(StrEnum):
    """The kind of contradiction that was found in a ledger."""

    NO_CHECKPOINT = "no-checkpoint"
    OTHER_LEDGER = "other-ledger"
    UNKNOWN_KEY = "unknown-key"
    SHRUNK = "shrunk"
    FORKED = "forked"
    REWRITTEN = "rewritten"
    SECOND_DIGEST = "second-digest"
    OTHER_DIGEST = "other-digest"


class LedgerBroken(Mismatch):
    """A ledger contradicts what was seen before. No answer of its registry is used."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Trusted:
    """The ledger that is expected: its origin, the ID of its key, and the key; None where it was only ever seen."""

    origin: str
    key_id: bytes
    key: VerifierKey | None = None

    @classmethod
    def by(cls, key: VerifierKey) -> Trusted:
        """Return the trust in a key that the user gave: the key is named after its ledger."""
        return cls(key.name, key.key_id, key)


@dataclass(frozen=True, slots=True)
class TrustedCheckpoint:
    """A checkpoint as it was read, and the key that it is trusted by."""

    trusted: Trusted
    checkpoint: Checkpoint
    raw: bytes


@dataclass(frozen=True, slots=True)
class Rotated:
    """An entry that replaced a key: its index, and its leaf hash."""

    index: int
    leaf: bytes


def first_checkpoint(raw: bytes) -> TrustedCheckpoint:
    """Read the first checkpoint of a ledger, on first use: no key is trusted yet. Raises an Invalid error."""
    note, checkpoint = _read(raw)
    signature = next((one for one in note.signatures if one.name == checkpoint.origin), None)
    if signature is None:
        raise CheckpointInvalid(f"the checkpoint of {quote(checkpoint.origin)} is not signed in its own name")
    return TrustedCheckpoint(Trusted(checkpoint.origin, signature.key_id), checkpoint, raw)


def read_checkpoint(raw: bytes, trusted: Trusted) -> TrustedCheckpoint | None:
    """Do steps 1 and 2; None where the expected key did not sign, so that the rotations have to be read."""
    try:
        note, checkpoint = _read(raw)
    except Invalid as error:
        raise LedgerBroken(Fault.NO_CHECKPOINT, f"what it shows is not a checkpoint: {error.message}") from error
    if checkpoint.origin != trusted.origin:
        raise LedgerBroken(
            Fault.OTHER_LEDGER,
            f"it shows the ledger {quote(checkpoint.origin)}, not {quote(trusted.origin)}, which was seen before; if "
            "its operator confirms that it was started anew, take the new key with `boltseal ledger trust --replace`",
        )
    ids = {one.key_id for one in note.signatures if one.name == trusted.origin}
    if trusted.key_id not in ids:
        return None
    if trusted.key is not None:
        try:
            open_checkpoint(raw, trusted.key)
        except Invalid as error:
            raise LedgerBroken(
                Fault.UNKNOWN_KEY, f"its checkpoint is not signed by the trusted key: {error.message}; {_KEPT}"
            ) from error
    return TrustedCheckpoint(trusted, checkpoint, raw)


class FollowedRotations(NamedTuple):
    """A verified checkpoint, and the rotations from the trusted key to the key that signed it."""

    checkpoint: TrustedCheckpoint
    rotated: tuple[Rotated, ...]


def follow_rotations(raw: bytes, trusted: Trusted, receipts: Sequence[bytes]) -> FollowedRotations:
    """Do step 2 when another key signed: follow key rotations from the trusted key to the key that signed.

    The last entry that a key signed names the next key. `receipts`: of the rotations. Raises: LedgerBroken.
    """
    if trusted.key is None:
        raise LedgerBroken(
            Fault.UNKNOWN_KEY,
            "its checkpoint is signed by another key than the one that was seen at first use, and without a key that "
            f"you were given that can't be followed; {_KEPT}; {_ANEW}",
        )
    waiting: list[tuple[VerifierKey, tuple[Rotated, ...]]] = [(trusted.key, ())]
    tried: set[VerifierKey] = (
        set()
    )  # an unfinished rotation names a key that never signs, so there may be several chains
    while waiting and len(tried) <= MAX_ROTATIONS:
        key, rotated = waiting.pop()
        checkpoint = read_checkpoint(raw, Trusted.by(key))
        if checkpoint is not None:
            return FollowedRotations(checkpoint, rotated)
        tried.add(key)
        steps = [step for one in receipts[:MAX_ROTATIONS] if (step := _next_key(one, key, rotated)) is not None]
        waiting += [(following, (*rotated, step)) for following, step in steps if following not in tried]
    raise LedgerBroken(
        Fault.UNKNOWN_KEY,
        f"its checkpoint is signed by a key that the trusted key {trusted.key_id.hex()} does not lead to; {_KEPT}; {_ANEW}",
    )


def compare_checkpoints(seen: Checkpoint, now: Checkpoint) -> None:
    """Do step 3: check that the ledger did not shrink or fork. Raises: LedgerBroken."""
    if now.size < seen.size:
        raise LedgerBroken(
            Fault.SHRUNK, f"its ledger has {now.size} entries, and had {seen.size}: it was cut back; {_KEPT}"
        )
    if now.size == seen.size and now.root != seen.root:
        raise LedgerBroken(
            Fault.FORKED, f"its ledger of {now.size} entries has another root than was shown before: it forked; {_KEPT}"
        )


def check_extension(
    seen: Checkpoint,
    now: Checkpoint,
    proof: Sequence[bytes],
    rotated: Mapping[Rotated, Sequence[bytes]],
) -> None:
    """Do step 4: check that the present ledger extends the one seen before. Raises: LedgerBroken.

    `proof`: the consistency proof. `rotated`: the inclusion proof of each key rotation in the present tree.
    """
    try:
        verify_consistency(seen.size, seen.root, now.size, now.root, proof)
        for one, included in rotated.items():
            verify_inclusion(one.leaf, one.index, now.size, included, now.root)
    except ProofInvalid as error:
        raise LedgerBroken(
            Fault.REWRITTEN,
            f"its ledger of {now.size} entries does not begin with the {seen.size} that were seen: it was rewritten "
            f"({error.message}); {_KEPT}",
        ) from error


def _read(raw: bytes) -> tuple[Note, Checkpoint]:
    note = parse_note_unverified(raw)
    return note, parse_checkpoint_unverified(note.text)


def _next_key(raw: bytes, key: VerifierKey, before: Sequence[Rotated]) -> tuple[VerifierKey, Rotated] | None:
    """Return the key that a receipt's entry names, if `key` signed it and it follows the rotations in `before`."""
    try:
        opened = open_receipt(raw, key)
        named = VerifierKey.parse(opened.entry.extra.get("key", ""))
    except Invalid:
        return None
    later = all(one.index < opened.index for one in before)
    if opened.entry.kind is not EntryKind.KEY_ROTATED or named.name != key.name or not later:
        return None
    extra = parse_receipt_unverified(raw).extra or b""
    return named, Rotated(opened.index, leaf_hash(extra))
