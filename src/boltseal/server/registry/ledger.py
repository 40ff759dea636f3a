"""Reads of a log: its checkpoint, tree, entries and receipts, and the history of tags.

Entries that are not signed yet are not shown, so that a client can verify what it gets. The history of one tag is the
exception: it includes them, because the registry already resolves the tag by them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import msgspec

from boltseal.errors import ErrorCode, NotFound
from boltseal.ledger.entry import Entry, EntryKind, parse
from boltseal.ledger.tiles import TILE_LEVELS, WIDTH, BundleId, TileId, encode_bundle
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.server.registry.integrator import receipt_of
from boltseal.server.storage.metadata import ledger_store, ledger_tree
from boltseal.server.storage.metadata.protocol import LEDGER, Log, Metadata, Snapshot

CREATED: Final = "created"
DELETED: Final = "deleted"
_EVENTS: Final[Mapping[str, str]] = {
    EntryKind.TAG_CREATED: CREATED,
    EntryKind.TAG_MOVED: CREATED,
    EntryKind.TAG_RESTORED: CREATED,
    EntryKind.TAG_DELETED: DELETED,
    EntryKind.TAG_PURGED: DELETED,
    EntryKind.TAG_EXPIRED: DELETED,
}
"""The entries that change a tag's digest. The other kinds change its protection."""
_OBSERVED_EVENTS: Final[Mapping[str, str]] = {EntryKind.OBSERVED: CREATED, EntryKind.ACCEPTED: CREATED}
"""The observations that change the digest that the mirror serves for a tag. One without a digest is a deletion."""


class NotInLedger(NotFound):
    """The signed ledger has no such entry or tile (yet)."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


@dataclass(frozen=True, slots=True)
class TagEvent:
    """An entry that changed a tag's digest, and its index. `event`: `CREATED` or `DELETED`."""

    entry: Entry
    event: str
    index: int


@dataclass(frozen=True, slots=True)
class EventPage:
    """One page of events, the newest first. `more`: older ones follow."""

    events: tuple[TagEvent, ...]
    more: bool


class IndexedLine(NamedTuple):
    """An encoded entry and its index."""

    entry_index: int
    line: bytes


@dataclass(frozen=True, slots=True)
class EntryPage:
    """One page of entries, the oldest first. `more`: newer ones follow. `size`: of the signed ledger."""

    size: int
    entries: tuple[IndexedLine, ...]
    more: bool


class Ledger:
    """Reads one log of a store."""

    def __init__(self, database: Metadata, log: Log = LEDGER) -> None:
        self._database = database
        self._log = log

    async def checkpoint(self) -> bytes:
        """Return the newest checkpoint, as a note.

        Raises:
            NotInLedger: the log is not signed yet.
        """
        return (await self._database.read(self._head)).note

    async def tile(self, at: TileId | BundleId) -> bytes:
        """Return a tile of hashes or a bundle of entries, of any size that was ever signed.

        Raises:
            NotInLedger: the signed log has no such tile.
        """
        return await self._database.read(lambda snapshot: self._tile(snapshot, at))

    async def rotations(self) -> list[bytes]:
        """Return, for each key that was replaced, the receipt of the entry that names the next key."""
        return await self._database.read(lambda snapshot: ledger_tree.rotations(snapshot, self._log))

    async def entry(self, index: int) -> Entry:
        """Return one entry.

        Raises:
            NotInLedger: the signed log has no such entry.
        """
        return parse(await self._database.read(lambda snapshot: self._line(snapshot, index)))

    async def receipt(self, index: int) -> bytes:
        """Return the receipt of an entry: the entry with its inclusion proof, under a witnessed checkpoint if there is one.

        Raises:
            NotInLedger: the signed log has no such entry.
        """

        def query(snapshot: Snapshot) -> bytes:
            head = self._head(snapshot)
            witnessed = ledger_tree.head(snapshot, ledger_tree.WITNESSED, self._log)
            if witnessed is not None and index < witnessed.size:
                head = witnessed
            self._line(snapshot, index)
            return receipt_of(snapshot, index, head.size, head.note, self._log)

        return await self._database.read(query)

    async def tag_events(
        self,
        repository: Repository,
        tag: Tag,
        *,
        n: int,
        before_us: int,
        since_us: int,
        digest: Digest | None,
        before: int | None = None,
    ) -> EventPage:
        """Return the changes of a tag's digest between two times, both exclusive. Empty for an unknown tag.

        `n`: page size. `digest`: only changes to or from this digest. `before`: only entries before this index.
        """
        events = _EVENTS if self._log is LEDGER else _OBSERVED_EVENTS

        def query(snapshot: Snapshot) -> EventPage:
            found: list[TagEvent] = []
            lines = ledger_store.newest_entries(
                snapshot,
                repository,
                tag,
                list(events),
                before_us=before_us,
                since_us=since_us,
                before=before,
                log=self._log,
            )
            for index, line in lines:
                entry, event = parse(line), ""
                if not entry.digest:  # shown with the digest before it, like a deletion
                    entry, event = self._before(snapshot, entry), DELETED
                if digest is not None and entry.digest != str(digest):
                    continue
                if len(found) == n:
                    return EventPage(tuple(found), more=True)
                found.append(TagEvent(entry, event or events[entry.kind], index))
            return EventPage(tuple(found), more=False)

        return EventPage((), more=False) if n == 0 else await self._database.read(query)

    async def history(
        self, repository: Repository, tag: Tag | None, *, after: int, n: int, kinds: Collection[EntryKind] | None = None
    ) -> EntryPage:
        """Return the signed entries of a repository, or of one of its tags, after an index. Empty for an unknown name.

        `n`: page size. `kinds`: only these kinds.
        """

        def query(snapshot: Snapshot) -> EntryPage:
            size = self._head(snapshot).size
            rows = ledger_store.entries_of(
                snapshot, repository, tag, after=after, limit=n + 1, until=size, kinds=kinds, log=self._log
            )
            return EntryPage(size, tuple(IndexedLine(*row) for row in rows[:n]), more=len(rows) > n)

        return await self._database.read(query)

    def _before(self, snapshot: Snapshot, gone: Entry) -> Entry:
        """Return the entry about a tag that is gone, with the digest, type and size that it had before."""
        at = gone.previous
        while at >= 0:
            before = parse(next(iter(ledger_store.lines(snapshot, at, batch=1, log=self._log)))[1])
            if before.digest == gone.was:
                return msgspec.structs.replace(gone, digest=before.digest, type=before.type, size=before.size)
            at = before.previous
        return gone

    def _head(self, snapshot: Snapshot) -> ledger_tree.SignedHead:
        head = ledger_tree.head(snapshot, log=self._log)
        if head is None:
            raise NotInLedger("this ledger is not signed yet; try again in a moment")
        return head

    def _line(self, snapshot: Snapshot, index: int) -> bytes:
        size = self._head(snapshot).size
        if not 0 <= index < size:
            raise NotInLedger(f"the signed ledger has entries 0 to {size - 1}, not {index}; try again in a moment")
        return next(iter(ledger_store.lines(snapshot, index, batch=1, log=self._log)))[1]

    def _tile(self, snapshot: Snapshot, at: TileId | BundleId) -> bytes:
        size = self._head(snapshot).size
        size_at_level = size if isinstance(at, BundleId) else size >> (TILE_LEVELS * at.level)
        if at.index * WIDTH + at.width > size_at_level:
            raise NotInLedger(f"the signed ledger of {size} entries has no {at.path()}")
        if isinstance(at, TileId):
            return ledger_tree.tiles(snapshot, [at], self._log)[at]
        start = at.index * WIDTH
        return encode_bundle(
            [line for _, line in ledger_store.lines(snapshot, start, until=start + at.width, log=self._log)]
        )
