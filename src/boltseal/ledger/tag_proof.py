"""What a signed ledger proves about one tag, from the few entries that a registry shows of it. Pure.

A registry shows the last entry that changed the tag and, if the tag was ever sealed, the entry that sealed it first. A
log of observations has no seals: it shows the last entry that recorded a digest. The steps, in this order:

1. At most two entries are shown, the older first, and the checked checkpoint covers them.
2. Each is an entry about this very tag, of a kind that changes it.
3. Each is in the tree of the checkpoint, by its inclusion proof.
4. A sealed tag has one digest: the last entry, the answer and the tombstone name that of the entry that sealed it.
5. The registry's answer for the tag is the digest of the last entry, or nothing if that entry removed the tag.

A failure of steps 1 to 3 proves nothing (TagProofInvalid). A failure of steps 4 and 5 is a contradiction between the
registry and its own ledger (LedgerBroken). That of step 5 (OTHER_DIGEST) may pass: the newest entry may not be signed yet.

The proof of a sealed tag stays true: no later entry can change its digest. That of another tag says what the ledger
recorded at the entry's time; the registry may omit a newer entry. `Freshness` says whether that was ruled out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from boltseal.errors import Invalid
from boltseal.ledger.audit import REMOVALS
from boltseal.ledger.checkpoint import Checkpoint
from boltseal.ledger.entry import CHANGES, MODE_SEALED, OF_OBSERVATIONS, Entry, EntryKind, parse
from boltseal.ledger.follow import Fault, LedgerBroken
from boltseal.ledger.merkle import leaf_hash, verify_inclusion

MAX_SHOWN: Final = 2
KINDS: Final = CHANGES
"""The kinds of ledger entries that prove something about a tag."""
KINDS_OBSERVED: Final = OF_OBSERVATIONS - {EntryKind.HELD}
"""The kinds of observations that prove something about a tag."""
_IN_LINE: Final = f'"mode":"{MODE_SEALED}"'.encode()


class TagProofInvalid(Invalid):
    """The shown entries prove nothing about the tag."""


class ProvenState(StrEnum):
    """What was proven. SEALED: by the entry that sealed the tag. OBSERVED: a mirror recorded it of an upstream.

    DELETED: the last entry removed the tag. ABSENT: no entry about the tag was shown, and it resolves to nothing.
    """

    SEALED = "sealed"
    MUTABLE = "mutable"
    DELETED = "deleted"
    ABSENT = "absent"
    OBSERVED = "observed"


class Freshness(StrEnum):
    """Whether a newer entry about the tag is ruled out: every later entry up to the checkpoint was read, or there is none."""

    PROVEN = "proven"
    NOT_PROVEN = "not proven"


@dataclass(frozen=True, slots=True)
class ShownEntry:
    """An entry as a registry shows it: index, bytes, inclusion proof. Nothing of it is verified."""

    index: int
    line: bytes
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TagAnswer:
    """A registry's own answer for a tag. `digest`: "" if it does not exist. `tombstone`: the only digest that may return."""

    digest: str
    tombstone: str = ""


@dataclass(frozen=True, slots=True)
class ProvenTag:
    """What was proven about a tag. `entry`, `time_us`: of the entry that proves it, -1 and 0 without one.

    `freshness`: None for a sealed tag, which needs none. `size`: the entries under the checkpoint.
    """

    state: ProvenState
    digest: str
    entry: int
    time_us: int
    size: int
    freshness: Freshness | None


def prove_tag(
    repository: str,
    tag: str,
    answer: TagAnswer,
    shown: Sequence[ShownEntry],
    head: Checkpoint,
    *,
    observed: bool = False,
) -> ProvenTag:
    """Return what the shown entries prove about a tag. Raises: TagProofInvalid, LedgerBroken."""
    # 1
    indices = [one.index for one in shown]
    if len(shown) > MAX_SHOWN or indices != sorted(set(indices)) or not all(0 <= at < head.size for at in indices):
        raise TagProofInvalid(
            f"entries {indices} are shown for it; expected at most {MAX_SHOWN} in rising order below {head.size}"
        )
    kinds = KINDS_OBSERVED if observed else KINDS
    entries = [_opened(repository, tag, one, head, kinds) for one in shown]  # 2, 3
    _check_seal(tag, indices, entries, answer)  # 4
    return _compared(tag, answer, indices, entries, head)  # 5


def is_sealing(entry: Entry) -> bool:
    """Return whether the tag is sealed after an entry that did not remove it."""
    return entry.kind not in REMOVALS and entry.extra.get("mode") == MODE_SEALED


def seals(line: bytes) -> bool:
    """Return whether an encoded entry may be one that `is_sealing`, without decoding it.

    No text in an entry can contain these bytes, since quotes in texts are escaped.
    """
    return _IN_LINE in line


def mentions(line: bytes, repository: str, tag: str) -> bool:
    """Return whether an encoded entry is about a tag, or can't be decoded."""
    try:
        entry = parse(line)
    except Invalid:
        return True
    return (entry.repository, entry.tag) == (repository, tag)


def _opened(repository: str, tag: str, shown: ShownEntry, head: Checkpoint, kinds: frozenset[EntryKind]) -> Entry:
    try:
        entry = parse(shown.line)
        verify_inclusion(leaf_hash(shown.line), shown.index, head.size, shown.proof, head.root)
    except Invalid as error:
        raise TagProofInvalid(f"entry {shown.index} is not in the signed ledger as shown: {error.message}") from error
    if (entry.repository, entry.tag) != (repository, tag) or entry.kind not in kinds:
        raise TagProofInvalid(
            f"entry {shown.index} is {entry.kind} of {entry.repository}:{entry.tag}, not a change of {repository}:{tag}"
        )
    return entry


def _check_seal(tag: str, indices: Sequence[int], entries: Sequence[Entry], answer: TagAnswer) -> None:
    if not entries:
        return
    first, last = entries[0], entries[-1]
    if not is_sealing(first):
        if len(entries) > 1:
            raise TagProofInvalid(f"entry {indices[0]} did not seal {tag}; expected the last entry about it alone")
        return
    if answer.digest not in ("", first.digest):
        raise LedgerBroken(
            Fault.SECOND_DIGEST,
            f"{tag} resolves to {answer.digest}, and was sealed at {first.digest} by entry {indices[0]}",
        )
    if last.digest != first.digest:
        raise LedgerBroken(
            Fault.SECOND_DIGEST,
            f"{tag} was sealed at {first.digest} by entry {indices[0]}, and entry {indices[-1]} says {last.digest}",
        )
    if last.kind in REMOVALS and not answer.digest and answer.tombstone != first.digest:
        raise LedgerBroken(
            Fault.SECOND_DIGEST,
            f"{tag} was sealed at {first.digest} by entry {indices[0]} and deleted, and the registry keeps "
            f"{answer.tombstone or 'no digest'} for it",
        )


def _compared(
    tag: str, answer: TagAnswer, indices: Sequence[int], entries: Sequence[Entry], head: Checkpoint
) -> ProvenTag:
    if not entries:
        if answer.digest or answer.tombstone:
            raise LedgerBroken(
                Fault.OTHER_DIGEST,
                f"{tag} resolves to {answer.digest or 'a tombstone'}, and the ledger has no entry for it",
            )
        return ProvenTag(ProvenState.ABSENT, "", -1, 0, head.size, Freshness.NOT_PROVEN)
    last, index = entries[-1], indices[-1]
    recorded = "" if last.kind in REMOVALS else last.digest
    if recorded != answer.digest:
        raise LedgerBroken(
            Fault.OTHER_DIGEST,
            f"{tag} resolves to {answer.digest or 'nothing'}, and its last entry {index} says {recorded or 'nothing'}",
        )
    fresh = Freshness.PROVEN if index == head.size - 1 else Freshness.NOT_PROVEN
    if last.kind in REMOVALS:
        return ProvenTag(ProvenState.DELETED, "", index, last.time_us, head.size, fresh)
    if is_sealing(entries[0]):
        return ProvenTag(ProvenState.SEALED, recorded, indices[0], entries[0].time_us, head.size, None)
    state = ProvenState.OBSERVED if last.kind in OF_OBSERVATIONS else ProvenState.MUTABLE
    return ProvenTag(state, recorded, index, last.time_us, head.size, fresh)
