"""Compares the rows of tags with the ledger. The rows are what the registry answers by; the signed entries are the record.

Two checks:

- `check_tag`, in the transaction of every change of a tag: its row says what its own last entry says, and that entry is in
  the signed tree. So a row that was nulled, removed, repointed, unsealed, or whose entry was rewritten or removed is found
  before another image gets the tag.
- `StoreCheck`, when the server starts and once a day while it runs: every row, every entry, and the tree over them. It also
  finds a row that was removed together with its entries, which leaves nothing for `check_tag` to see.

A difference freezes the ledger: nothing is written until `boltseal ledger recover --restore-tags` or a restored backup. The
reason is kept with the keys (`LedgerKeys.put_doubt`), so a restart does not forget it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from typing import Final

import msgspec
import structlog

from boltseal.errors import Invalid
from boltseal.ledger.audit import REMOVALS
from boltseal.ledger.checkpoint import Checkpoint, checkpoint_of_note_unverified
from boltseal.ledger.entry import CHANGES, MODE_SEALED, MODE_SETTLING, SETTLES, EntryKind, IndexedLine, parse_time
from boltseal.ledger.merkle import EMPTY_ROOT, HASH_BYTES, inclusion_path, leaf_hash, prove, verify_inclusion
from boltseal.ledger.tiles import WIDTH, TileId, Tiles, grow, needed
from boltseal.oci.digest import SHA256, Digest
from boltseal.server.registry.ledger_in_doubt import LedgerInDoubt
from boltseal.server.storage.metadata import ledger_store, ledger_tree, tag_entries
from boltseal.server.storage.metadata.protocol import TAGS, Metadata, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.tag_entries import EntryColumns, TagOfRow
from boltseal.server.storage.metadata.tag_row import TagRow, matches_keep

BATCH: Final = 16 * WIDTH
ROWS: Final = 2000
MAX_TILES: Final = 4096
"""How many tiles a `TagCheck` remembers as verified."""
TAGS_DIFFER: Final = (
    "the tags differ from the ledger: the data was changed by something other than this registry; nothing is written until "
    "`boltseal ledger recover --restore-tags` or a restored backup makes them match; the log and `boltseal admin fsck` name the difference"
)
"""The doubt. Clients without any right see it, so it names no tag."""

_log = structlog.get_logger(__name__)


class _Recorded(msgspec.Struct):
    """What an entry says that a row has to agree with. The tree proves the line, so its form is not checked again."""

    kind: EntryKind
    time: str
    repository: str
    tag: str
    digest: str
    type: str
    previous: int
    extra: dict[str, str]

    @property
    def removed(self) -> bool:
        return self.kind in REMOVALS

    @property
    def sealed(self) -> bool:
        return not self.removed and self.extra.get("mode") == MODE_SEALED

    @property
    def settles_us(self) -> int | None:
        """When the tag is sealed, if it is settling. Raises: EntryInvalid: the entry does not say when."""
        settling = not self.removed and self.extra.get("mode") == MODE_SETTLING
        return parse_time(self.extra.get(SETTLES, "")) if settling else None

    @property
    def canonical(self) -> str:
        """The sha256 of the manifest; "" where an old entry has another digest and does not say it."""
        return self.digest if self.digest.startswith(f"{SHA256}:") else self.extra.get("canonical", "")


_decoder: Final = msgspec.json.Decoder(_Recorded)


def _read(line: bytes) -> _Recorded:
    try:
        return _decoder.decode(line)
    except (ValueError, TypeError) as error:  # TypeError: it is no bytes
        raise Invalid(f"it is not an entry: {error}") from error


class TagCheck:
    """Checks tags that are about to change. Remembers tiles that it verified: a full tile never changes."""

    def __init__(self) -> None:
        self._verified: dict[TileId, bytes] = {}

    def check(self, tx: UnitOfWork, repository: str, tag: str, row: TagRow | None) -> None:
        """Check the row of a tag. Raises: LedgerInDoubt, and then nothing else is written either."""
        last = tag_entries.last_change(tx, repository, tag)
        if row is None and last is None:
            return
        problem = self._problem(tx, last, None if row is None else _of_row(row))
        if problem is None:
            return
        _log.error("a tag differs from the ledger: writes are refused", repository=repository, tag=tag, reason=problem)
        tx.doubts[TAGS] = TAGS_DIFFER
        raise LedgerInDoubt(f"{repository}:{tag}: {problem}; {TAGS_DIFFER}")

    def _problem(self, snapshot: Snapshot, last: IndexedLine | None, row: TagOfRow | None) -> str | None:
        if last is None:
            return "it has a row, and the ledger has no entry about it"
        if row is None:
            return f"it has no row, and entry {last.entry_index} of the ledger is about it"
        if row.entry_index != last.entry_index:
            return f"its row is of entry {row.entry_index}, and the last one about it is {last.entry_index}"
        try:
            self._check_signed(snapshot, last)
            entry = _read(last.line)
            return row_problem(row, entry, self.before(snapshot, entry))
        except Invalid as error:
            return f"entry {last.entry_index} is not the one that was signed ({error.message})"

    def before(self, snapshot: Snapshot, entry: _Recorded) -> _Recorded | None:
        """Return the last entry before a removal, which says whether the tag was sealed; any other entry itself.

        Raises: an Invalid error.
        """
        at = entry
        while at.removed and at.previous >= 0:
            line = next(ledger_store.lines(snapshot, at.previous, batch=1, until=at.previous + 1), None)
            if line is None:
                raise Invalid(f"entry {at.previous} is missing")
            self._check_signed(snapshot, line)
            at = _read(line.line)
        return None if at.removed else at

    def _check_signed(self, snapshot: Snapshot, at: IndexedLine) -> None:
        """Check that an entry is in the stored tree, if it is signed already. Raises: an Invalid error.

        The integrator compares the stored tree with the signed mark whenever it changes.
        """
        head = ledger_tree.head(snapshot)
        if head is None or at.entry_index >= head.size:
            return
        index, offset = divmod(at.entry_index, WIDTH)
        place = TileId(0, index, min(WIDTH, head.size - index * WIDTH))
        tile = ledger_tree.tiles(snapshot, [place]).get(place, b"")
        leaf = leaf_hash(at.line) if isinstance(at.line, bytes) else b""
        if tile[offset * HASH_BYTES : (offset + 1) * HASH_BYTES] != leaf:
            raise Invalid("it has another hash")
        seen = sha256(tile).digest()
        if self._verified.get(place) == seen:
            return
        signed = checkpoint_of_note_unverified(head.note)
        path = inclusion_path(at.entry_index, head.size)
        tiles = Tiles(head.size, ledger_tree.tiles(snapshot, needed(path, head.size)))
        verify_inclusion(leaf, at.entry_index, head.size, prove(path, tiles.node), signed.root)
        if len(self._verified) >= MAX_TILES:
            self._verified.clear()
        self._verified[place] = seen


def _of_row(row: TagRow) -> TagOfRow:
    return TagOfRow(
        0,
        "",
        "",
        _text(row.digest),
        _text(row.canonical),
        row.media_type,
        row.entry_index,
        _text(row.sealed_digest),
        _text(row.sealed_canonical),
        row.sealed_media_type,
        row.keep,
        row.keep_until_us,
        None,
    )


def _text(digest: Digest | None) -> str | None:
    return None if digest is None else str(digest)


def row_problem(row: TagOfRow, last: _Recorded, before: _Recorded | None) -> str | None:
    """Return how a row differs from the last entry of its tag; None if it does not.

    `before`: of a removed tag its last entry that was no removal, of any other tag the last entry itself.
    """
    seal = before if before is not None and before.sealed else None
    expected = [
        ("resolves to", row.digest, "" if last.removed else last.digest),
        ("has the media type", row.media_type, "" if last.removed else last.type),
        ("is sealed at", row.sealed_digest, seal.digest if seal else ""),
        ("is sealed with the media type", row.sealed_media_type, seal.type if seal else ""),
    ]
    if not last.removed and last.canonical:
        expected.append(("has the sha256", row.canonical, last.canonical))
    if seal is not None and seal.canonical:
        expected.append(("is sealed at the sha256", row.sealed_canonical, seal.canonical))
    settles_us = last.settles_us
    kept = last if settles_us is not None else seal
    expected.append(("is kept", row.keep, kept.extra.get("keep", "") if kept else ""))
    for what, found, recorded in expected:
        if (found or "") != recorded:
            return f"by its row it {what} {found or 'nothing'}, and by its entry {recorded or 'nothing'}"
    if seal is None:
        return None if row.keep_until_us == settles_us else "its row and its entry differ on when it is sealed"
    if not matches_keep(row.keep_until_us, seal.extra.get("keep", ""), parse_time(seal.time)):
        return f"it is not kept as long as {row.keep} says"
    return None


class StoreCheck:
    """Compares all rows and entries of a store with its tree. `pause`: called between steps."""

    def __init__(self, database: Metadata, pause: Callable[[], None] = lambda: None) -> None:
        self._database = database
        self._pause = pause
        self._removed = TagCheck()

    def problem(self) -> str | None:
        """Return the first difference, None without one."""
        checks = (self._entries, self._rows, self._missing)
        try:
            return next((found for check in checks if (found := check()) is not None), None)
        except Invalid as error:
            return f"the ledger's stored checkpoint can't be read: {error.message}"

    def _entries(self) -> str | None:
        """Check that no entry is missing or changed, by the tree over them, and that each is found by what it says."""
        head, signed = self._database.read_and_wait(_sizes)
        edge: Mapping[TileId, bytes] = {}
        root, size, at = EMPTY_ROOT, 0, 0
        while batch := self._database.read_and_wait(partial(_batch, at)):
            for number, one in enumerate(batch, start=at):
                if one.entry_index != number:
                    return f"entry {number} of the ledger is missing"
                if not _is_found_by(one):
                    return f"entry {one.entry_index} of the ledger is stored under another name than its own"
            at += len(batch)
            leaves = [leaf_hash(one.line) for one in batch if one.entry_index < signed.size]
            if leaves:
                grown = grow(size, edge, leaves)
                root, size, edge = grown.root, grown.size, grown.edge
            self._pause()
        if at < head:
            return f"the ledger has {head} entries, and only {at} of them are stored"
        if (size, root) != (signed.size, signed.root):
            return f"the first {signed.size} entries of the ledger are not the ones that were signed"
        return None

    def _rows(self) -> str | None:
        """Check that each row says what the entry that it names says."""
        after = (-1, "")
        while True:
            rows, problem = self._database.read_and_wait(partial(_checked_rows, after, self._removed))
            if problem is not None or not rows:
                return problem
            after = (rows[-1].repository_id, rows[-1].name)
            self._pause()

    def _missing(self) -> str | None:
        """Check that each tag with an entry has a row of its last one."""
        found = self._database.read_and_wait(tag_entries.without_row)
        if found is None:
            return None
        return f"{found[0]}:{found[1]}: it has no row of the last entry about it"


def _checked_rows(after: tuple[int, str], check: TagCheck, snapshot: Snapshot) -> tuple[list[TagOfRow], str | None]:
    """Return the next rows, and the first difference in them."""
    rows = tag_entries.rows_after(snapshot, after, ROWS)
    problems = ((row, problem_of(snapshot, row, check)) for row in rows)
    found = next(((row, problem) for row, problem in problems if problem is not None), None)
    return rows, None if found is None else f"{found[0].repository}:{found[0].name}: {found[1]}"


def all_rows(snapshot: Snapshot) -> Iterator[TagOfRow]:
    """Yield the rows of all tags, each with the entry that it names."""
    after = (-1, "")
    while rows := tag_entries.rows_after(snapshot, after, ROWS):
        yield from rows
        after = (rows[-1].repository_id, rows[-1].name)


def problem_of(snapshot: Snapshot, row: TagOfRow, check: TagCheck) -> str | None:
    """Return how a row differs from the entry that it names; None if it does not.

    `check`: the same for all rows, so that it verifies each tile of the tree once.
    """
    if row.line is None:
        return f"its row is of entry {row.entry_index}, which is missing"
    try:
        entry = _read(row.line)
        if (entry.repository, entry.tag) != (row.repository, row.name) or entry.kind not in CHANGES:
            return f"its row is of entry {row.entry_index}, which is not about it"
        return row_problem(row, entry, check.before(snapshot, entry) if entry.removed else entry)
    except Invalid as error:
        return f"entry {row.entry_index} can't be read: {error.message}"


def _sizes(snapshot: Snapshot) -> tuple[int, Checkpoint]:
    """Return the number of entries by the head row, and the stored checkpoint, which the integrator compares with the mark."""
    head, signed = ledger_store.head(snapshot), ledger_tree.head(snapshot)
    if head is None or signed is None or not signed.size:
        return 0 if head is None else head.size, Checkpoint("", 0, EMPTY_ROOT)
    return head.size, checkpoint_of_note_unverified(signed.note)


def _batch(start: int, snapshot: Snapshot) -> list[EntryColumns]:
    return tag_entries.entries_from(snapshot, start, BATCH)


def _is_found_by(entry: EntryColumns) -> bool:
    """Return whether the columns of an entry are what its line says."""
    try:
        recorded = _read(entry.line)
    except Invalid:
        return False
    return (recorded.kind, recorded.repository, recorded.tag) == (entry.kind, entry.repository, entry.tag)
