"""What the ledger tells: its signed head, its tree, its entries, receipts, and the history of names. Reads only.

What is not signed yet is not told, so that whoever asks can check it; but for what a tag means, which the registry
itself answers by at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from boltseal.errors import ErrorCode, NotFound
from boltseal.ledger.entry import EntryKind, parse
from boltseal.ledger.tiles import TILE_LEVELS, WIDTH, BundleId, TileId, encode_bundle
from boltseal.server.registry.integrator import receipt_of
from boltseal.server.storage.metadata import ledger_store, ledger_tree
from boltseal.server.storage.metadata.protocol import LEDGER, Log

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from boltseal.ledger.entry import Entry
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Repository, Tag
    from boltseal.server.storage.metadata.protocol import Metadata, Snapshot

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
"""Which entries let a tag mean another manifest, or none; the rest speaks of its protection."""
_SEEN: Final[Mapping[str, str]] = {EntryKind.OBSERVED: CREATED, EntryKind.ACCEPTED: CREATED}
"""The same of what upstreams' tags were served as; an observation of nothing is a deletion."""


class NotInLedger(NotFound):
    """Nothing of that index, or at that place, is in the signed ledger (yet)."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


@dataclass(frozen=True, slots=True)
class TagEvent:
    """A tag was given to a manifest, or taken from it. `time_us`: unique in the whole ledger."""

    entry: Entry
    event: str


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events, the newest first. `more`: older ones follow."""

    events: tuple[TagEvent, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Entries as they stand, by index, the oldest first. `more`: newer ones follow. `size`: of the signed ledger."""

    size: int
    entries: tuple[tuple[int, bytes], ...]
    more: bool


class Ledger:
    """One of a store's logs, as others may see it."""

    def __init__(self, database: Metadata, log: Log = LEDGER) -> None:
        self._database = database
        self._log = log

    async def checkpoint(self) -> bytes:
        """The newest signed head, as a note. NotInLedger."""
        return (await self._database.read(self._head)).note

    async def tile(self, at: TileId | BundleId) -> bytes:
        """A tile of hashes, or a bundle of entries, of any size that was ever signed. NotInLedger."""
        return await self._database.read(lambda held: self._tile(held, at))

    async def rotations(self) -> list[bytes]:
        """For each key that was rotated out, the receipt of the entry that names the next one."""
        return await self._database.read(lambda held: ledger_tree.rotations(held, self._log))

    async def entry(self, index: int) -> Entry:
        """One entry. NotInLedger."""
        return parse(await self._database.read(lambda held: self._line(held, index)))

    async def receipt(self, index: int) -> bytes:
        """The proof that an entry is in the ledger, with the entry itself; under a head that a witness saw, if one did."""

        def query(held: Snapshot) -> bytes:
            head = self._head(held)
            witnessed = ledger_tree.head(held, ledger_tree.WITNESSED, self._log)
            if witnessed is not None and index < witnessed.size:
                head = witnessed
            self._line(held, index)
            return receipt_of(held, index, head.size, head.note, self._log)

        return await self._database.read(query)

    async def tag_events(
        self, repository: Repository, tag: Tag, *, n: int, before_us: int, since_us: int, digest: Digest | None
    ) -> EventPage:
        """What a tag meant and when, whoever asks between which times (both exclusive). Empty of what was never there."""

        events = _EVENTS if self._log is LEDGER else _SEEN

        def query(held: Snapshot) -> EventPage:
            found: list[TagEvent] = []
            lines = ledger_store.newest_entries(
                held, repository, tag, list(events), before_us=before_us, since_us=since_us, log=self._log
            )
            for line in lines:
                entry, event = parse(line), ""
                if not entry.digest:  # told as what it was, like a deletion
                    entry, event = self._before(held, entry), DELETED
                if digest is not None and entry.digest != str(digest):
                    continue
                if len(found) == n:
                    return EventPage(tuple(found), more=True)
                found.append(TagEvent(entry, event or events[entry.kind]))
            return EventPage(tuple(found), more=False)

        return EventPage((), more=False) if n == 0 else await self._database.read(query)

    async def history(
        self, repository: Repository, tag: Tag | None, *, after: int, n: int, kinds: Collection[EntryKind] | None = None
    ) -> EntryPage:
        """The entries of a repository, or of one of its names, behind an index. Empty of what was never there.

        `kinds`: of these kinds only.
        """

        def query(held: Snapshot) -> EntryPage:
            size = self._head(held).size
            rows = ledger_store.entries_of(
                held, repository, tag, after=after, limit=n + 1, until=size, kinds=kinds, log=self._log
            )
            return EntryPage(size, tuple(rows[:n]), more=len(rows) > n)

        return await self._database.read(query)

    def _before(self, held: Snapshot, gone: Entry) -> Entry:
        """An entry that a tag means nothing any more, with what it meant in it."""
        at = gone.previous
        while at >= 0:
            before = parse(next(iter(ledger_store.lines(held, at, batch=1, log=self._log)))[1])
            if before.digest == gone.was:
                return msgspec.structs.replace(gone, digest=before.digest, type=before.type, size=before.size)
            at = before.previous
        return gone

    def _head(self, held: Snapshot) -> ledger_tree.SignedHead:
        head = ledger_tree.head(held, log=self._log)
        if head is None:
            raise NotInLedger("this ledger is not signed yet")
        return head

    def _line(self, held: Snapshot, index: int) -> bytes:
        size = self._head(held).size
        if not 0 <= index < size:
            raise NotInLedger(f"the signed ledger has entries 0 to {size - 1}, and not {index}; ask again in a moment")
        return next(iter(ledger_store.lines(held, index, batch=1, log=self._log)))[1]

    def _tile(self, held: Snapshot, at: TileId | BundleId) -> bytes:
        size = self._head(held).size
        held_at_level = size if isinstance(at, BundleId) else size >> (TILE_LEVELS * at.level)
        if at.index * WIDTH + at.width > held_at_level:
            raise NotInLedger(f"the signed ledger of {size} entries has no {at.path()}")
        if isinstance(at, TileId):
            return ledger_tree.tiles(held, [at], self._log)[at]
        start = at.index * WIDTH
        return encode_bundle(
            [line for _, line in ledger_store.lines(held, start, until=start + at.width, log=self._log)]
        )
