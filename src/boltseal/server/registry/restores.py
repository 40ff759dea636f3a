"""Puts a floating tag back to what it meant before, by digest, by the entry that said so, or by time.

Only what the tag itself meant once can be restored, as its entries say; anything else is a push. The restore is a move
like any other: it goes through the door under the rules now in force, a sealed tag stays what it is, and an entry of
its own says who did it and why. What the tag means until then stays pullable by digest (promise 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from boltseal.errors import ErrorCode, Invalid, NotFound
from boltseal.ledger.entry import CHANGES, EntryKind, format_time, parse
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import parse_manifest
from boltseal.policy.seal import Identity
from boltseal.server.registry.models import PushedManifest, RepositoryRow
from boltseal.server.storage.metadata import ledger_store, queries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boltseal.ledger.entry import Entry
    from boltseal.oci.reference import Repository, Tag
    from boltseal.server.auth.actor import Actor
    from boltseal.server.registry.tag_writer import TagWriter
    from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork

_GIVES: Final = frozenset({EntryKind.TAG_CREATED, EntryKind.TAG_MOVED, EntryKind.TAG_RESTORED})
_PAGE: Final = 500


class NeverResolved(NotFound):
    """The tag never meant that, or nothing at that time."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_UNKNOWN


class NoLongerStored(NotFound):
    """The tag meant it, and it was deleted since."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_UNKNOWN


class EntryOfOtherTag(Invalid):
    """The entry is about something else than this tag's meaning."""


@dataclass(frozen=True, slots=True)
class ByIndex:
    """What the tag meant by the entry of this index."""

    index: int


@dataclass(frozen=True, slots=True)
class ByTime:
    """What the tag meant at this time, in microseconds since the epoch."""

    time_us: int


Aim = Digest | ByIndex | ByTime


@dataclass(frozen=True, slots=True)
class RestoredTag:
    """`was`: what the tag meant until now, None when it was not there. `changed`: whether it means another thing now."""

    digest: Digest
    was: Digest | None
    entry_index: int
    changed: bool


class Restores:
    """The way back. `door`: whose rules hold."""

    def __init__(self, database: Metadata, door: TagWriter) -> None:
        self._database = database
        self._door = door

    async def restore(self, repository: Repository, tag: Tag, aim: Aim, actor: Actor, reason: str) -> RestoredTag:
        """Let the tag mean again what it meant. NeverResolved, NoLongerStored, EntryOfOtherTag, TagSealed, ReferencesMissing."""

        def job(tx: UnitOfWork) -> RestoredTag:
            found = queries.lock_repository(tx, repository)
            if found is None:
                raise NeverResolved(f"nothing was ever pushed to {repository}")
            place = RepositoryRow(repository, found)
            digest = _aimed(tx, place, tag, aim)
            held = queries.manifest_bytes(tx, place.id, str(digest))
            if held is None:
                raise NoLongerStored(
                    f"tag {tag} of {repository} meant {digest}, which is not held any more: push that image again"
                )
            was = self._door.meaning(tx, place, tag)
            manifest = parse_manifest(held[1], held[0])
            pushed = PushedManifest(digest, Identity(Digest.of(held[1]), held[0]), manifest)
            standing = self._door.restore(tx, place, tag, pushed, actor, reason)
            return RestoredTag(digest, was, standing.entry_index, standing.changed)

        return await self._database.write(job)


def _aimed(tx: UnitOfWork, place: RepositoryRow, tag: Tag, aim: Aim) -> Digest:
    match aim:
        case Digest():
            for _, entry in changes_of(tx, place, tag):
                if entry.kind in _GIVES and entry.digest == str(aim):
                    return aim
            raise NeverResolved(f"tag {tag} of {place.repository} never meant {aim}; see `boltseal history`")
        case ByIndex(index):
            lines = list(ledger_store.lines(tx, index, until=index + 1))
            said = parse(lines[0][1]) if lines else None
            if said is None or (said.repository, said.tag) != (place.repository, tag) or said.kind not in _GIVES:
                about = f" of {said.repository}:{said.tag}" if said is not None and said.tag else ""
                what = "is not there" if said is None else f"is a {said.kind}{about}"
                raise EntryOfOtherTag(
                    f"entry {index} {what}; expected one that gave {place.repository}:{tag} a meaning, as `boltseal "
                    "history` lists them"
                )
            return Digest.parse(said.digest)
        case ByTime(time_us):
            return _at(tx, place, tag, time_us)


def _at(tx: UnitOfWork, place: RepositoryRow, tag: Tag, time_us: int) -> Digest:
    last: Entry | None = None
    for _, entry in changes_of(tx, place, tag):
        if entry.time_us > time_us:
            break
        last = entry
    when = format_time(time_us)
    if last is None:
        raise NeverResolved(f"tag {tag} of {place.repository} was not there yet at {when}")
    if last.kind in (EntryKind.TAG_DELETED, EntryKind.TAG_PURGED, EntryKind.TAG_EXPIRED):
        raise NeverResolved(f"tag {tag} of {place.repository} was not there at {when}: it had been deleted")
    return Digest.parse(last.digest)


def changes_of(tx: UnitOfWork, place: RepositoryRow, tag: Tag) -> Iterator[tuple[int, Entry]]:
    """Every entry that changed a tag, with its index, the oldest first; what was merely said of it is left out."""
    after = -1
    while True:
        rows = ledger_store.entries_of(
            tx, place.repository, tag, after=after, limit=_PAGE, until=2**63 - 1, kinds=CHANGES
        )
        yield from ((index, parse(line)) for index, line in rows)
        if len(rows) < _PAGE:
            return
        after = rows[-1][0]
