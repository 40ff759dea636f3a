"""What is known of a tag that moved: whether it may, since when, and by whom. Pure.

Asked, in this order, is what says most:

1. The ledger of its registry, whose entries are proven. A tag that was ever sealed is bound to what it meant then: that
   it means something else now is a broken promise. One that was never sealed may move. The ledger is at fault where it
   can't be true together, or does not hold the entry by which the tag was locked.
2. The same entries where the signed ledger is not shown to us: the registry's own account, unproven.
3. The history that a registry keeps and nobody signs: when it moved.
4. Its name, by the custom of those who publish (`policy.release_tags`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from boltseal.client.history import Proven
from boltseal.client.registry_client import LastEvent
from boltseal.ledger.history import EntryAt, RepositoryHistory
from boltseal.lockfile.compare import age
from boltseal.lockfile.document import LockedImage
from boltseal.lockfile.format import time_text
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.policy.release_tags import looks_like_release


class MoveSource(StrEnum):
    """What says whether a tag may move."""

    LEDGER = "ledger"
    """The ledger of its registry."""
    REGISTRY = "registry"
    """The entries of its registry, which nothing proves to us."""
    NAME = "name"
    """Its own name, since nobody else says it."""


@dataclass(frozen=True, slots=True)
class TagMove:
    """A move of a tag. `sealed`: it should not have been possible; by what `told` says.

    `moved_us`: when it came to mean what it means now; `left_us`: when it left what was locked, if that was earlier.
    `by`: who moved it, and `entry` the index of the ledger's entry that says so. `fault`: what can't be true of the
    ledger, "" if nothing is found.
    """

    sealed: bool
    told: MoveSource = MoveSource.NAME
    moved_us: int | None = None
    left_us: int | None = None
    by: str = ""
    entry: int | None = None
    fault: str = ""

    @property
    def forbidden(self) -> bool:
        """Whether it is no move that a floating tag may make."""
        return self.sealed or bool(self.fault)

    @property
    def kind(self) -> str:
        """What kind of tag moved, as a sentence begins."""
        if not self.sealed:
            return "its floating tag"
        return "a tag that should never move" if self.told is MoveSource.NAME else "its sealed tag"

    def since(self, now_us: int) -> str:
        """When and by whom, behind a comma; "" where neither is known."""
        if self.moved_us is None:
            return ""
        text = f", on {time_text(self.moved_us)} ({age(self.moved_us, now_us)} ago)"
        if self.told is MoveSource.NAME:
            return f"{text}, as its registry says"
        witness = f"entry {self.entry} of its ledger" if self.told is MoveSource.LEDGER else "its registry"
        text += (f", by {self.by}" if self.by else "") + f", as {witness} says"
        return text if self.left_us is None else f"{text}; it left what was locked on {time_text(self.left_us)}"


def move_by_name(tag: Tag, event: LastEvent | None, to: Digest | None) -> TagMove:
    """Where there is no ledger. `event`: the registry's last word on the tag, which may be older than the move."""
    known = event is not None and event.digest == to
    return TagMove(looks_like_release(tag), moved_us=event.time_us if known and event is not None else None)


def move_by_ledger(found: Proven, tag: Tag, was: Digest, to: Digest | None, image: LockedImage | None) -> TagMove:
    """By the entries that changed the tag, the oldest first. `was`: what it should mean; `image`: how it is locked."""
    said = found.history.changes_of(tag)
    bound = next((one.entry.digest for one in said if one.entry.extra.get("mode") == "sealed" and not one.gone), "")
    changes = list(_changes(said))
    left = next((one for one in _behind(changes, str(was))), None)
    last = changes[-1][0] if changes else None
    shown = found.followed.head is not None
    faults = found.problems if shown else found.problems[:-1]  # the last one says just this
    return TagMove(
        sealed=bool(bound) and bound != str(to),
        told=MoveSource.LEDGER if shown else MoveSource.REGISTRY,
        moved_us=None if last is None else last.entry.time_us,
        left_us=None if left is None or left is last else left.entry.time_us,
        by="" if last is None else last.entry.actor,
        entry=None if last is None else last.index,
        fault=next(iter((*faults, *_not_as_locked(found.history, tag, was, image, bound=bool(bound)))), ""),
    )


def _changes(said: Sequence[EntryAt]) -> Iterator[tuple[EntryAt, str]]:
    """The entries after which the tag means something else than before, with what it means then, "" for nothing."""
    meant = ""
    for one in said:
        means = "" if one.gone else one.entry.digest
        if means != meant:
            yield one, means
        meant = means


def _behind(changes: Sequence[tuple[EntryAt, str]], was: str) -> Iterator[EntryAt]:
    """Where the tag left what it should mean, the last time first."""
    for (_, meant), (one, _) in reversed(list(pairwise(changes))):
        if meant == was:
            yield one


def _not_as_locked(
    history: RepositoryHistory, tag: Tag, was: Digest, image: LockedImage | None, *, bound: bool
) -> Iterator[str]:
    if image is not None and image.entry is not None and image.digest == was:
        locked = next((one for one in history.of(tag) if one.index == image.entry), None)
        if locked is None:
            yield f"the ledger does not show entry {image.entry}, by which {tag} was locked"
        elif locked.gone or locked.entry.digest != str(was):
            yield f"entry {image.entry}, by which {tag} was locked to {was.short}, says something else"
    if bound and all(one.entry.digest != str(was) for one in history.changes_of(tag)):
        yield f"the tag is sealed, and by the ledger it never meant {was.short}"
