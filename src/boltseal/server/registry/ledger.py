"""Reads of a log: its checkpoint, tree, entries and receipts, and the history of tags.

Entries that are not signed yet are not shown, so that a client can verify what it gets. The history of one tag is the
exception: it includes them, because the registry already resolves the tag by them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Final

import msgspec

from boltseal.errors import ErrorCode, NotFound, TooLarge
from boltseal.ledger.entry import CHANGES, Entry, EntryKind, IndexedLine, parse
from boltseal.ledger.merkle import inclusion_path, prove
from boltseal.ledger.tag_proof import KINDS, KINDS_OBSERVED, ShownEntry, seals
from boltseal.ledger.tiles import TILE_LEVELS, WIDTH, BundleId, TileId, Tiles, encode_bundle, needed
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.server.registry.receipts import receipt_of
from boltseal.server.storage.metadata import ledger_store, ledger_tree
from boltseal.server.storage.metadata.protocol import LEDGER, Log, Metadata, Snapshot
from boltseal.server.storage.object_tiles import ObjectTiles

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


MAX_READ: Final = 200_000
"""How many entries one request about tags may make the registry read."""
LOOKED_BACK: Final = 500
"""The number of last entries among which the newest changes of all repositories are looked for."""


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


@dataclass(frozen=True, slots=True)
class EntryPage:
    """One page of entries in order. `more`: others follow. `size`: of the signed ledger."""

    size: int
    entries: tuple[IndexedLine, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class ResolvedPage:
    """Entries by which tags came to resolve to a digest, with their indices. `following`: the index before which others may be."""

    entries: tuple[tuple[int, Entry], ...]
    following: int | None


class Ledger:
    """Reads one log of a store."""

    def __init__(self, database: Metadata, log: Log = LEDGER, objects: ObjectTiles | None = None) -> None:
        """`objects`: from which tiles are read; None: from the database."""
        self._database = database
        self._objects = objects
        self._log = log

    async def checkpoint(self) -> bytes:
        """Return the newest checkpoint, as a note.

        Raises:
            NotInLedger: the log is not signed yet.
        """
        return (await self._database.read(self._head)).note

    async def tile(self, at: TileId | BundleId) -> bytes:
        """Return a tile of hashes or a bundle of entries, of any size that was ever signed.

        One that is not published as an object yet is read from the database.

        Raises:
            NotInLedger: the signed log has no such tile.
            TilesUnavailable: the object store does not answer.
        """
        if self._objects is not None:
            origin = await self._database.read(lambda snapshot: self._origin_with(snapshot, at))
            published = await asyncio.to_thread(self._objects.get, origin, at.path())
            if published is not None:
                return published
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
        return (await self.receipts([index]))[0]

    async def receipts(self, indices: Sequence[int]) -> list[bytes]:
        """Return the receipts of entries under one checkpoint: a witnessed one if that has all of them.

        Raises:
            NotInLedger: the signed log lacks one of the entries.
        """

        def query(snapshot: Snapshot) -> list[bytes]:
            head = self._head(snapshot)
            witnessed = ledger_tree.head(snapshot, ledger_tree.WITNESSED, self._log)
            if witnessed is not None and max(indices) < witnessed.size:
                head = witnessed
            for index in indices:
                self._line(snapshot, index)
            return [receipt_of(snapshot, index, head.size, head.note, self._log) for index in indices]

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

    async def newest(
        self,
        repository: Repository,
        tag: Tag | None,
        *,
        before: int,
        n: int,
        kinds: Collection[EntryKind] | None = None,
    ) -> EntryPage:
        """Return signed entries as `history` does, but those before an index, the newest first."""

        def query(snapshot: Snapshot) -> EntryPage:
            size = self._head(snapshot).size
            rows = ledger_store.entries_of(
                snapshot,
                repository,
                tag,
                after=-1,
                limit=n + 1,
                until=min(before, size),
                kinds=kinds,
                log=self._log,
                newest_first=True,
            )
            return EntryPage(size, tuple(rows[:n]), more=len(rows) > n)

        return await self._database.read(query)

    async def resolved_to(self, repository: Repository, digest: Digest, *, before: int, n: int) -> ResolvedPage:
        """Return the signed entries before an index by which tags of a repository came to resolve to a digest, newest first.

        It looks at `n` entries of the repository: no index has the digests of entries.
        """
        events = _EVENTS if self._log is LEDGER else _OBSERVED_EVENTS
        kinds = [kind for kind, event in events.items() if event == CREATED]
        wanted = str(digest).encode()

        def query(snapshot: Snapshot) -> ResolvedPage:
            head = ledger_tree.head(snapshot, log=self._log)
            if head is None:
                return ResolvedPage((), None)
            rows = ledger_store.entries_of(
                snapshot,
                repository,
                None,
                after=-1,
                limit=n,
                until=min(before, head.size),
                kinds=[EntryKind(kind) for kind in kinds],
                log=self._log,
                newest_first=True,
            )
            parsed = [(index, parse(line)) for index, line in rows if wanted in line]
            found = tuple((index, entry) for index, entry in parsed if entry.digest == str(digest))
            return ResolvedPage(found, rows[-1].entry_index if len(rows) == n else None)

        return await self._database.read(query)

    async def newest_changes(self, may_read: Callable[[str], bool], n: int) -> list[IndexedLine]:
        """Return the newest `n` signed changes of tags that the caller may read, among the last `LOOKED_BACK` entries."""

        def query(snapshot: Snapshot) -> list[IndexedLine]:
            lines = ledger_store.newest_lines(snapshot, self._head(snapshot).size, LOOKED_BACK, sorted(CHANGES))
            return list(islice((row for row in lines if may_read(parse(row.line).repository)), n))

        return await self._database.read(query)

    async def tags(self, names: Collection[tuple[Repository, Tag]], size: int) -> list[tuple[ShownEntry, ...]]:
        """Return, for each tag, the last of the first `size` entries that changed it, after the one that sealed it, if any.

        Each entry has its inclusion proof in the tree over `size` entries (`ledger.tag_proof`).

        Raises:
            NotInLedger: fewer entries are signed.
            TooLarge: the tags have too many entries; request fewer at once.
        """

        def query(snapshot: Snapshot) -> list[tuple[ShownEntry, ...]]:
            signed = self._head(snapshot).size
            if not 0 < size <= signed:
                raise NotInLedger(f"the signed ledger has {signed} entries, not {size}; try again in a moment")
            left = MAX_READ
            found: list[list[IndexedLine]] = []
            for repository, tag in names:
                shown, read = self._shown(snapshot, repository, tag, size, left)
                left -= read
                found.append(shown)
            paths = {one.entry_index: inclusion_path(one.entry_index, size) for shown in found for one in shown}
            wanted = {tile for path in paths.values() for tile in needed(path, size)}
            tiles = Tiles(size, ledger_tree.tiles(snapshot, wanted, self._log))
            return [
                tuple(ShownEntry(index, line, prove(paths[index], tiles.node)) for index, line in shown)
                for shown in found
            ]

        return await self._database.read(query)

    def _shown(
        self, snapshot: Snapshot, repository: Repository, tag: Tag, size: int, left: int
    ) -> tuple[list[IndexedLine], int]:
        """Return the sealing and the last entry of a tag, and how many entries were read."""
        kinds = KINDS if self._log is LEDGER else KINDS_OBSERVED
        last: IndexedLine | None = None
        sealing: IndexedLine | None = None
        read = 0
        rows = ledger_store.changes_of_tag(snapshot, repository, tag, sorted(kinds), until=size, log=self._log)
        for row in rows:
            read += 1
            if read > left:
                raise TooLarge(f"these tags have more than {MAX_READ} entries; request fewer tags at once")
            last = last or row
            if seals(row.line):
                sealing = row
        return [one for one in dict.fromkeys((sealing, last)) if one is not None], read

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

    def _origin_with(self, snapshot: Snapshot, at: TileId | BundleId) -> str:
        """Return the origin of the log, which has the tile."""
        self._check_has(snapshot, at)
        head = ledger_store.head(snapshot, self._log)
        return "" if head is None else head.origin

    def _tile(self, snapshot: Snapshot, at: TileId | BundleId) -> bytes:
        self._check_has(snapshot, at)
        if isinstance(at, TileId):
            return ledger_tree.tiles(snapshot, [at], self._log)[at]
        start = at.index * WIDTH
        return encode_bundle(
            [line for _, line in ledger_store.lines(snapshot, start, until=start + at.width, log=self._log)]
        )

    def _check_has(self, snapshot: Snapshot, at: TileId | BundleId) -> None:
        """Raise NotInLedger unless the signed log has a tile of this width."""
        size = self._head(snapshot).size
        size_at_level = size if isinstance(at, BundleId) else size >> (TILE_LEVELS * at.level)
        if at.index * WIDTH + at.width > size_at_level:
            raise NotInLedger(f"the signed ledger of {size} entries has no {at.path()}")
