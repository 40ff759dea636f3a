"""Judge the move of a tag: whether it is allowed, when it happened, and who did it. Pure.

The sources, the most reliable first:

1. The registry's ledger, with proven entries. A tag that was ever sealed must keep that digest: resolving to another
   one breaks the seal. A tag that was never sealed may move. The ledger is at fault if it contradicts itself or lacks
   the entry from which the tag was locked.
2. The same entries, if the signed ledger is not available: the registry's claim, unproven.
3. The unsigned history that a registry keeps: when the tag moved.
4. The custom of the repository's publisher: `[[tags]]`, and by default the tag's name (`policy.tag_expectations`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from boltseal.client.history import ProvenHistory
from boltseal.client.last_event import LastEvent
from boltseal.ledger.history import EntryAt, RepositoryHistory
from boltseal.ledger.tag_proof import is_sealing
from boltseal.lockfile.compare import age
from boltseal.lockfile.document import LockedImage
from boltseal.lockfile.format import time_text
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.policy.tag_expectations import Expect


class MoveSource(StrEnum):
    """What decides whether a tag may move."""

    LEDGER = "ledger"
    """The registry's signed ledger."""
    REGISTRY = "registry"
    """The registry's entries without proof."""
    NAME = "name"
    """The tag's name, as there is no other source."""


@dataclass(frozen=True, slots=True)
class TagMove:
    """A move of a tag. `sealed`: the move breaks a seal, according to `source`.

    `expect`: how such a tag moves by custom; IMMUTABLE only if `source` is the name. `moved_us`: when the tag got its current
    digest. `left_us`: when it left the locked one, if that was earlier. `by`: the actor. `entry`: the index of the ledger
    entry. `fault`: a contradiction in the ledger, "" for none. `never_had`: the tag is sealed, and according to a ledger
    without a fault it never resolved to the expected digest.
    """

    sealed: bool
    source: MoveSource = MoveSource.NAME
    expect: Expect = Expect.MOVING
    moved_us: int | None = None
    left_us: int | None = None
    by: str = ""
    entry: int | None = None
    fault: str = ""
    never_had: bool = False

    @property
    def forbidden(self) -> bool:
        """Whether a floating tag may not move like this."""
        return self.sealed or bool(self.fault) or self.never_had

    @property
    def kind(self) -> str:
        """The kind of the tag, as the beginning of a sentence."""
        if not self.sealed:
            return "its tag, which is rebuilt by custom," if self.expect is Expect.REBUILT else "its floating tag"
        return "a tag that should never move" if self.source is MoveSource.NAME else "its sealed tag"

    def since(self, now_us: int) -> str:
        """Return the time and user of the move, after a comma; "" if unknown."""
        if self.moved_us is None:
            return ""
        text = f", on {time_text(self.moved_us)} ({age(self.moved_us, now_us)} ago)"
        if self.source is MoveSource.NAME:
            return f"{text}, according to its registry"
        record = f"entry {self.entry} of its ledger" if self.source is MoveSource.LEDGER else "its registry"
        text += (f", by {self.by}" if self.by else "") + f", according to {record}"
        return text if self.left_us is None else f"{text}; it left the locked digest on {time_text(self.left_us)}"


def move_by_name(expect: Expect, event: LastEvent | None, to: Digest | None) -> TagMove:
    """Judge a move without a ledger. `event`: the registry's last record of the tag, perhaps older than the move.

    `expect`: how such a tag moves by custom.
    """
    known = event is not None and event.digest == to
    return TagMove(
        expect is Expect.IMMUTABLE, expect=expect, moved_us=event.time_us if known and event is not None else None
    )


def move_by_ledger(
    found: ProvenHistory, tag: Tag, was: Digest, to: Digest | None, image: LockedImage | None
) -> TagMove:
    """Judge a move by the ledger. `was`: the expected digest. `image`: its lock entry."""
    entries = found.history.changes_of(tag)
    sealed_digest = next((entry.entry.digest for entry in entries if is_sealing(entry.entry)), "")
    changes = list(_changes(entries))
    departure = next((entry for entry in _departures(changes, str(was))), None)
    last = changes[-1][0] if changes else None
    shown = found.followed.head is not None
    faults = found.problems if shown else found.problems[:-1]  # the last problem is the missing ledger itself
    fault = next(iter((*faults, *_faults(found.history, tag, was, image))), "")
    return TagMove(
        sealed=bool(sealed_digest) and sealed_digest != str(to),
        source=MoveSource.LEDGER if shown else MoveSource.REGISTRY,
        moved_us=None if last is None else last.entry.time_us,
        left_us=None if departure is None or departure is last else departure.entry.time_us,
        by="" if last is None else last.entry.actor,
        entry=None if last is None else last.index,
        fault=fault,
        never_had=bool(sealed_digest) and not fault and all(entry.entry.digest != str(was) for entry in entries),
    )


def _changes(entries: Sequence[EntryAt]) -> Iterator[tuple[EntryAt, str]]:
    """Yield the entries that changed the tag's digest, with the new digest, "" for none."""
    previous = ""
    for entry in entries:
        current = "" if entry.gone else entry.entry.digest
        if current != previous:
            yield entry, current
        previous = current


def _departures(changes: Sequence[tuple[EntryAt, str]], was: str) -> Iterator[EntryAt]:
    """Yield the entries by which the tag left the expected digest, the latest first."""
    for (_, digest), (entry, _) in reversed(list(pairwise(changes))):
        if digest == was:
            yield entry


def _faults(history: RepositoryHistory, tag: Tag, was: Digest, image: LockedImage | None) -> Iterator[str]:
    if image is not None and image.entry is not None and image.digest == was:
        locked = next((entry for entry in history.of(tag) if entry.index == image.entry), None)
        if locked is None:
            yield f"the ledger has no entry {image.entry}, from which {tag} was locked"
        elif locked.gone or locked.entry.digest != str(was):
            yield f"entry {image.entry}, from which {tag} was locked to {was}, has other content"
