"""What a witness checks before it cosigns a checkpoint of another ledger (C2SP tlog-witness, `add-checkpoint`).

The body of a request:

    old <size>     the size of the checkpoint that the witness cosigned last, as the ledger knows it
    <base64>       the consistency proof from that size, one hash a line; at most 63
                   an empty line
    <checkpoint>   the signed checkpoint

`parse_submission`, `open_submission` and `check_extends` are called in this order. What the witness cosigned last must be stored,
and replaced, by the caller in one atomic step around the last one: `server.registry.witness_service` does.

A ledger is known by its origin, the first line of its checkpoints. It may have several keys, of which one signature suffices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from boltseal.errors import Denied, Invalid, NotFound, Precondition, quote
from boltseal.ledger.checkpoint import MAX_SIZE, Checkpoint, parse_checkpoint_unverified
from boltseal.ledger.merkle import EMPTY_ROOT, HASH_BYTES, ProofInvalid, verify_consistency
from boltseal.ledger.note import (
    ED25519,
    KeyInvalid,
    NoteInvalid,
    Signature,
    VerifierKey,
    open_note,
    parse_note_unverified,
)
from boltseal.oci.base64_text import decode_base64

MAX_SUBMISSION_BYTES: Final = 128 * 1024
"""The largest request: a proof of 3 KiB, and a checkpoint with about thirty of the longest signatures that are in use."""
MAX_PROOF_LINES: Final = 63
_is_old = re.compile(r"old (0|[1-9][0-9]{0,18})", re.ASCII).fullmatch

KnownLogs: TypeAlias = Mapping[str, tuple[VerifierKey, ...]]
"""The keys of each ledger whose checkpoints the witness cosigns, by the ledger's origin."""


class SubmissionInvalid(Invalid):
    """The body of the request is malformed, or its old size is larger than its checkpoint."""


class LogUnknown(NotFound):
    """The witness does not cosign for this ledger."""


class SignatureRefused(Denied):
    """No known key of the ledger signed the checkpoint, or a signature by one is invalid."""


class SizeDiffers(Precondition):
    """The request begins at another size than that of the checkpoint that was cosigned last. `size`: of that one, in entries."""

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


class NotConsistent(Invalid):
    """The checkpoint is not proven to extend the one that was cosigned last."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A request as it was read. Nothing in it is verified. `old_size`: in entries."""

    old_size: int
    proof: tuple[bytes, ...]
    note: bytes


@dataclass(frozen=True, slots=True)
class OpenedSubmission:
    """A request whose checkpoint a known ledger signed. `text`: of the note. `signatures`: the verified ones of the ledger."""

    checkpoint: Checkpoint
    text: str
    signatures: tuple[Signature, ...]
    old_size: int
    proof: tuple[bytes, ...]


def parse_known_log(text: str) -> tuple[str, VerifierKey]:
    """Parse `KEY` or `KEY ORIGIN`; return origin and key. Without an origin it is the name of the key. Raises: KeyInvalid."""
    key_text, _, origin = text.partition(" ")
    key = VerifierKey.parse(key_text)
    if key.type != ED25519:
        raise KeyInvalid(
            f"{quote(key.name)} is the key of a witness (type {key.type}), and not of a ledger (type {ED25519})"
        )
    if not origin.isprintable() or origin != origin.strip():
        raise KeyInvalid(f"{quote(origin)} is not an origin; expected one line of printable characters")
    return origin or key.name, key


def known_logs(texts: Sequence[str]) -> KnownLogs:
    """Return the keys by origin of texts that `parse_known_log` accepts. Raises: KeyInvalid."""
    logs: dict[str, tuple[VerifierKey, ...]] = {}
    for origin, key in map(parse_known_log, texts):
        logs[origin] = (*logs.get(origin, ()), key)
    return logs


def parse_submission(body: bytes) -> Submission:
    """Parse the body of a request. Raises: SubmissionInvalid."""
    head, blank, note = body.partition(b"\n\n")
    if not blank:
        raise SubmissionInvalid(
            "the body has no empty line; expected `old SIZE`, proof lines, an empty line, a checkpoint"
        )
    first, *lines = head.decode("ascii", "replace").split("\n")
    old = _is_old(first)
    if old is None or int(old[1]) > MAX_SIZE:
        raise SubmissionInvalid(f"the first line is {quote(first)}; expected `old SIZE`")
    if len(lines) > MAX_PROOF_LINES:
        raise SubmissionInvalid(f"the proof has {len(lines)} lines; expected at most {MAX_PROOF_LINES}")
    return Submission(int(old[1]), tuple(_hash(line) for line in lines), note)


def open_submission(submission: Submission, logs: KnownLogs) -> OpenedSubmission:
    """Verify whose checkpoint it is. Raises at the first step that fails.

    1. The checkpoint is a signed note. NoteInvalid
    2. Its origin is that of a known ledger. LogUnknown
    3. A known key of that ledger signed it, and no signature by one is invalid. SignatureRefused
    4. The text of the note is a checkpoint. CheckpointInvalid; NotConsistent: one of no entries has the wrong root
    5. The old size is not larger than the checkpoint's. SubmissionInvalid
    """
    note = parse_note_unverified(submission.note)
    origin, *rest = note.text.split("\n")
    keys = logs.get(origin)
    if keys is None:
        raise LogUnknown(f"this witness does not cosign for the ledger {quote(origin)}")
    try:
        opened = open_note(submission.note, keys)
    except NoteInvalid as error:
        raise SignatureRefused(f"the checkpoint of {quote(origin)}: {error.message}") from error
    if rest[0] == "0" and len(root := decode_base64(rest[1]) or b"") == HASH_BYTES and root != EMPTY_ROOT:
        raise NotConsistent("a checkpoint of no entries has the wrong root")
    checkpoint = parse_checkpoint_unverified(note.text)
    if submission.old_size > checkpoint.size:
        raise SubmissionInvalid(
            f"the old size is {submission.old_size}; expected at most {checkpoint.size}, the size of the checkpoint"
        )
    signatures = {(one.signature.name, one.signature.key_id): one.signature for one in opened.verified}
    return OpenedSubmission(checkpoint, note.text, tuple(signatures.values()), submission.old_size, submission.proof)


def check_extends(submission: OpenedSubmission, seen: Checkpoint | None) -> None:
    """Check that a checkpoint extends the one that was cosigned last (`seen`; None: none was). Raises at the first step that fails.

    1. The old size is that of `seen`. SizeDiffers
    2. The proof connects the root of `seen` with the root of the checkpoint; it is empty where nothing has to be proven: from
       no entries, or to the same size, whose roots must be equal. NotConsistent
    """
    size = 0 if seen is None else seen.size
    if submission.old_size != size:
        raise SizeDiffers(f"the checkpoint that was cosigned last has {size} entries, not {submission.old_size}", size)
    new = submission.checkpoint
    try:
        verify_consistency(size, EMPTY_ROOT if seen is None else seen.root, new.size, new.root, submission.proof)
    except ProofInvalid as error:
        raise NotConsistent(
            f"the checkpoint is not proven to extend the one that was cosigned last: {error.message}"
        ) from error


def _hash(line: str) -> bytes:
    decoded = decode_base64(line)
    if decoded is None or len(decoded) != HASH_BYTES:
        raise SubmissionInvalid(f"the proof line {quote(line)} is not {HASH_BYTES} bytes in base64")
    return decoded
