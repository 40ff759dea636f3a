"""Brings entries into a log's tree and signs its head. One at a time of all processes of a store.

Entries are true when their transaction is; signing comes after, and may be late, but never wrong. Steps of `integrate`:

1. Take the lock of whoever signs; read key, mark, and what the database says, in one snapshot.
2. Compare: the database must hold everything that was ever signed, unchanged (`LedgerInDoubt` says what is not so).
3. Add the leaves of what is new, up to the mark if it is ahead: then the root must be the mark's, and its note is the
   head, signed already by somebody who died before step 5.
4. Sign, and raise the mark: durable from here on, so that no other tree of this size is ever signed.
5. Write tiles and head in one transaction; from here on they are shown.

The ledger and the log of observations each have their own, with keys of their own.

What dies or fails between two steps is gone on with by the next call, here or in another process.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from boltseal.errors import Invalid, Unavailable
from boltseal.ledger.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint_unverified, sign_checkpoint
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.merkle import EMPTY_ROOT, inclusion_path, leaf_hash, prove
from boltseal.ledger.note import SigningKey, format_note, parse_note_unverified
from boltseal.ledger.proof import Receipt, format_receipt
from boltseal.ledger.tiles import Grown, TileInvalid, Tiles, edge, grow, needed
from boltseal.server.registry import sequencer
from boltseal.server.storage.metadata import ledger_store, ledger_tree
from boltseal.server.storage.metadata.protocol import LEDGER, Log, Snapshot

if TYPE_CHECKING:
    from boltseal.server.storage.ledger_key import LedgerKeys
    from boltseal.server.storage.metadata.protocol import Metadata, Snapshot

BATCH: Final = 16_384
"""How many entries at most one head brings in; a million at once would be held in memory."""

SEED_BYTES: Final = 32


class LedgerInDoubt(Unavailable):
    """The database is not, or may not be, what this ledger signed; nothing may be added to it."""


class LedgerKeyMissing(LedgerInDoubt):
    """There is no key, and there was one."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the database says, in one snapshot. `size`: entries; `head`: what was signed of them, None: nothing yet."""

    origin: str
    size: int
    head: ledger_tree.SignedHead | None

    @property
    def signed(self) -> int:
        return 0 if self.head is None else self.head.size


class Integrator:
    """Signs one store's ledger, or another of its logs. Any process, any thread, several at once."""

    def __init__(self, database: Metadata, keys: LedgerKeys, log: Log = LEDGER) -> None:
        self.log = log
        self._database = database
        self._keys = keys
        self._held: tuple[bytes | None, ledger_tree.SignedHead | None] = (None, None)
        """Mark and head that were compared last: the same ones need no second look."""

    def begin(self) -> None:
        """Make the key of a ledger that was never signed, its mark first. LedgerKeyUnreadable."""
        if self._keys.key() is not None:
            return  # without the lock: a folder that can't be written, as on a full disk, keeps no server from its pulls
        with self._keys.locked():
            seen = self._look()
            mark = self._keys.mark()
            if self._keys.key() is not None or seen is None or seen.head is not None:
                return
            if mark is not None and _unverified(mark).size:
                return  # signed once, and the key and the database's tree are gone: `check` says so
            key = SigningKey(seen.origin, secrets.token_bytes(SEED_BYTES))
            self._keys.put_mark(sign_checkpoint(Checkpoint(seen.origin, 0, EMPTY_ROOT), key))
            self._keys.put_key(key)

    def check(self) -> None:
        """Hold the database against key and mark, and change nothing. LedgerInDoubt, LedgerKeyUnreadable."""
        seen = self._look()
        if seen is None:
            return  # a ledger that was not started has signed nothing
        key, mark = self._keys.key(), self._keys.mark()
        if key is None and mark is None and seen.head is None:
            return
        self._compare(seen, key, mark)

    def integrate(self) -> Checkpoint | None:
        """Bring in everything that is committed; the head over it, None where there is no key yet. LedgerInDoubt, ..."""
        with self._keys.locked():
            return self._integrate()

    def rotate(self, actor: str, reason: str) -> SigningKey:
        """Let a new key sign from now on. The entry that names it is the last thing the old key signs. LedgerInDoubt, ...

        A rotation that dies leaves an entry about a key that will never sign, and the old key in force.
        """
        with self._keys.locked():
            self._integrate()
            old = self._keys.key()
            if old is None:
                raise LedgerKeyMissing("the ledger has no key yet; start `boltseal serve` once")
            new = SigningKey(old.name, secrets.token_bytes(SEED_BYTES))
            extra = {"key": str(new.verifier)}
            index = self._database.write_and_wait(
                lambda tx: sequencer.append(
                    tx, EntryKind.KEY_ROTATED, actor=actor, reason=reason, extra=extra, log=self.log
                )
            )
            head = self._integrate()
            signed = self._keys.mark()
            if head is None or signed is None:
                raise LedgerKeyMissing("the ledger's key is gone")
            receipt = self._database.read_and_wait(lambda held: receipt_of(held, index, head.size, signed, self.log))
            self._database.write_and_wait(lambda tx: ledger_tree.add_rotation(tx, index, receipt, self.log))
            both = format_note(head.text(), [*parse_note_unverified(signed).signatures, new.sign(head.text())])
            self._keys.put_mark(both)
            self._keys.put_key(new)
            self._database.write_and_wait(
                lambda tx: ledger_tree.put_head(
                    tx, ledger_tree.LATEST, ledger_tree.SignedHead(head.size, both), self.log
                )
            )
            return new

    def _integrate(self) -> Checkpoint | None:
        head = None
        while True:  # each turn a batch; what comes meanwhile waits for the next call
            seen = self._look()
            key, mark = self._keys.key(), self._keys.mark()
            if seen is None or (key is None and mark is None and seen.head is None):
                return head
            marked = self._compare(seen, key, mark)
            if key is None:
                raise AssertionError("`_compare` lets no ledger pass without a key")
            if seen.head is not None and seen.size == seen.signed == marked.size:
                return marked
            head = self._step(seen, key, marked, mark or b"")
            if head.size == seen.size:
                return head

    def _step(self, seen: _Seen, key: SigningKey, marked: Checkpoint, mark: bytes) -> Checkpoint:
        to = marked.size if marked.size > seen.signed else min(seen.size, seen.signed + BATCH)
        grown = self._database.read_and_wait(lambda held: _grown(held, seen.signed, to, self.log))
        head = Checkpoint(seen.origin, grown.size, grown.root)
        if to == marked.size:
            if marked.root != head.root:
                raise LedgerInDoubt(f"the first {to} entries of the ledger are not the ones that were signed")
            note = mark
        else:
            note = sign_checkpoint(head, key)
            self._keys.put_mark(note)
        stored = ledger_tree.SignedHead(head.size, note)
        self._database.write_and_wait(lambda tx: ledger_tree.add_tiles(tx, seen.signed, grown.tiles, stored, self.log))
        self._held = (note, stored)
        return head

    def _compare(self, seen: _Seen, key: SigningKey | None, mark: bytes | None) -> Checkpoint:
        """Step 2; the mark as it holds. LedgerInDoubt."""
        if key is None:
            raise LedgerKeyMissing(
                "the ledger's key is missing: put the folder of keys back beside the data, or let "
                "`boltseal ledger recover --accept-loss` begin a new one"
            )
        if mark is None:
            raise LedgerInDoubt("the folder of keys has the ledger's key, but not its high-water mark: put it back")
        if key.name != seen.origin:
            raise LedgerInDoubt(f"the key is of the ledger {key.name}, the data is of {seen.origin}")
        try:
            marked = open_checkpoint(mark, key.verifier).checkpoint
        except Invalid as error:
            raise LedgerInDoubt(f"the ledger's high-water mark does not hold: {error.message}") from error
        ahead = max(marked.size, seen.signed)
        if ahead > seen.size:
            raise LedgerInDoubt(
                f"{ahead} entries of the ledger were signed, but the data holds {seen.size}: it is an old copy, or "
                "entries were taken away; `boltseal ledger recover` brings them back"
            )
        if seen.head is not None and self._held != (mark, seen.head):
            self._database.read_and_wait(lambda held: _compare_tree(held, seen.head, marked, key, self.log))
        self._held = (mark, seen.head)
        return marked

    def _look(self) -> _Seen | None:
        def look(held: Snapshot) -> _Seen | None:
            entries = ledger_store.head(held, self.log)
            return (
                None if entries is None else _Seen(entries.origin, entries.size, ledger_tree.head(held, log=self.log))
            )

        return self._database.read_and_wait(look)


def receipt_of(snapshot: Snapshot, index: int, size: int, note: bytes, log: Log = LEDGER) -> bytes:
    """The receipt of an entry under a head of `size` entries, whose note is given. TileInvalid when tiles are missing."""
    path = inclusion_path(index, size)
    node = Tiles(size, ledger_tree.tiles(snapshot, needed(path, size), log)).node
    line = next(iter(ledger_store.lines(snapshot, index, batch=1, log=log)))[1]
    return format_receipt(Receipt(index, prove(path, node), note, line))


def _grown(snapshot: Snapshot, size: int, to: int, log: Log) -> Grown:
    lines = [line for _, line in ledger_store.lines(snapshot, size, until=to, log=log)]
    if len(lines) != to - size or not all(isinstance(line, bytes) for line in lines):
        raise LedgerInDoubt(f"the ledger's entries {size} to {to - 1} are not all there as they were written")
    try:
        return grow(size, ledger_tree.tiles(snapshot, edge(size), log), [leaf_hash(line) for line in lines])
    except TileInvalid as error:
        raise LedgerInDoubt(f"the ledger's stored tree does not hold: {error.message}") from error


def _compare_tree(
    snapshot: Snapshot, head: ledger_tree.SignedHead | None, marked: Checkpoint, key: SigningKey, log: Log
) -> None:
    """The stored tree and head against the mark. LedgerInDoubt."""
    if head is None:
        return
    try:
        stored = parse_checkpoint_unverified(parse_note_unverified(head.note).text)
        if head.size > marked.size:  # the mark is older, so the head must speak for itself
            stored = open_checkpoint(head.note, key.verifier).checkpoint
        common = min(head.size, marked.size)
        roots = {at: ledger_tree.root(snapshot, at, head.size, log) for at in {common, head.size}}
    except (Invalid, TileInvalid) as error:
        raise LedgerInDoubt(f"the ledger's stored head does not hold: {error.message}") from error
    if stored.size != head.size or stored.root != roots[head.size]:
        raise LedgerInDoubt("the ledger's stored head is not over its stored tree")
    if common == marked.size and roots[common] != marked.root:
        raise LedgerInDoubt(f"the ledger's tree of {common} entries is not the one that was signed")


def _unverified(mark: bytes) -> Checkpoint:
    return parse_checkpoint_unverified(parse_note_unverified(mark).text)
