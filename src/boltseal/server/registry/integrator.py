"""Adds the entries of a log to its Merkle tree and signs its head. One process of a host at a time.

An entry is valid when its transaction is committed. Signing follows; it may be late, but never wrong. The steps of
`integrate`:

1. Take the signing lock, or go on without it if another process holds it for some seconds. Read key, high-water mark and
   database, the database in one snapshot.
2. Compare: the database must have everything that was ever signed, unchanged. `LedgerInDoubt` names the difference.
3. Add the leaves of the new entries, up to the mark if it is ahead. Then the root must be the mark's, and the mark's note
   is the head: a process signed it and died before step 5.
   Where there is a bucket, state the new head in its owner object (`BucketOwner.state`): a conditional write, which fails if the bucket
   is not this registry's any more. A comparison before the write is not sufficient: a server that is paused after it could write tiles
   into another registry's bucket, which stop the ledger there, or sign a second history. A process that signed last knows which mark
   to expect, and reads it during this write; if the mark is another one, begin again with step 1.
   Where the tree is published as objects (`published_tree`), write the new tiles and bundles.
4. Sign, and raise the mark by compare-and-swap. It is durable from here on, so no other tree of this size is ever signed. A
   process on another host that was faster moved the mark; then begin again with step 1.
5. Write tiles and checkpoint in one transaction. From here on they are published; then write the object of the checkpoint.

The ledger and the log of observations each have an integrator and keys of their own. `key_rotation` replaces a key.

If a step fails or the process dies, the next call continues, in this or another process.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import structlog

from boltseal.errors import Invalid, Unavailable
from boltseal.ledger.checkpoint import Checkpoint, checkpoint_of_note_unverified, open_checkpoint, sign_checkpoint
from boltseal.ledger.merkle import EMPTY_ROOT, leaf_hash
from boltseal.ledger.note import SigningKey, VerifierKey
from boltseal.ledger.tiles import Grown, TileInvalid, edge, grow
from boltseal.server.registry.key_rotation import KeyRotation, is_former
from boltseal.server.registry.ledger_in_doubt import LedgerInDoubt, LedgerKeyMissing
from boltseal.server.registry.published_tree import PublishedAhead, PublishedTree
from boltseal.server.storage.bucket_owner import (
    COMPARED_FOR_S,
    BucketOwner,
    BucketTaken,
    OwnerUnreachable,
    StatedOtherwise,
)
from boltseal.server.storage.ledger_doubts import LedgerDoubts
from boltseal.server.storage.ledger_key import LedgerKeys, new_signing_key
from boltseal.server.storage.ledger_mark import MarkMoved
from boltseal.server.storage.metadata import ledger_store, ledger_tree
from boltseal.server.storage.metadata.protocol import LEDGER, Log, Metadata, Snapshot
from boltseal.server.storage.object_tiles import ObjectTiles, TileDiffers

BATCH: Final = 16_384
"""Maximum number of entries that one checkpoint adds; a million at once would have to fit in memory."""
MOVES: Final = 5
"""How often to begin again because a process on another host signed meanwhile."""
CHECKS: Final = 5
"""How often `check` compares before a doubt counts: other processes sign and rotate keys beside it."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The log as the database has it, in one snapshot. `size`: its entries. `head`: its checkpoint, None before the first.

    `doubt`: why it takes no entries, None if it does.
    """

    origin: str
    size: int
    head: ledger_tree.SignedHead | None
    doubt: str | None

    def raise_doubt(self) -> None:
        """Raise the doubt, if there is one. Raises: LedgerInDoubt."""
        if self.doubt is not None:
            raise LedgerInDoubt(self.doubt)

    @property
    def signed(self) -> int:
        return 0 if self.head is None else self.head.size


class Integrator:
    """Signs one log of a store. Safe to use from several threads and processes at once."""

    def __init__(
        self,
        database: Metadata,
        keys: LedgerKeys,
        log: Log = LEDGER,
        objects: ObjectTiles | None = None,
        owner: BucketOwner | None = None,
    ) -> None:
        """`objects`: to which the tree is published as well; None: the API reads it from the database.

        `owner`: the owner object of their bucket; None: there is no bucket.
        """
        self.log = log
        self._owner = owner
        self._database = database
        self._keys = keys
        self._doubts = LedgerDoubts(database, keys.folder, log)
        self._published = None if objects is None else PublishedTree(database, objects, log)
        self._rotation = KeyRotation(database, keys, log, self._publish)
        self._compared: tuple[bytes | None, ledger_tree.SignedHead | None] = (None, None)
        """The mark and checkpoint that were compared last; the same pair needs no second comparison."""

    def begin(self) -> None:
        """Create the mark, then the key, of a ledger that was never signed. LedgerKeyUnreadable: as `LedgerKeys.key`."""
        if self._keys.key() is not None:
            return  # without the lock, so that a folder that cannot be written (a full disk) does not prevent pulls
        with self._keys.locked():
            seen = self._read()
            mark = self._keys.mark()
            if self._keys.key() is not None or seen is None or seen.head is not None:
                return
            if mark is not None and checkpoint_of_note_unverified(mark).size:
                return  # it was signed, but key and stored tree are missing: `check` reports that
            key = new_signing_key(seen.origin)
            self._keys.put_mark(sign_checkpoint(Checkpoint(seen.origin, 0, EMPTY_ROOT), key), before=mark)
            self._keys.put_key(key)

    def check(self) -> None:
        """Compare the database with key, mark and bucket, and change nothing. A doubt counts if it is found several times in a row.

        Raises:
            LedgerInDoubt: they do not match.
            LedgerKeyUnreadable: key or mark cannot be read.
        """
        with suppress(OwnerUnreachable):  # pulls go on without the bucket; each signature compares again
            self.check_owner(COMPARED_FOR_S)
        for tries_left in range(CHECKS - 1, -1, -1):
            try:
                self._check()
            except LedgerInDoubt:
                if not tries_left:
                    raise
            else:
                return

    def _check(self) -> None:
        """Compare once, without the lock: another process may sign or rotate the key between the reads.

        Key and mark are read first, so that a checkpoint that is signed meanwhile is behind the data.
        """
        key, mark = self._keys.key(), self._keys.mark()
        key, seen = self._rotation.key_by(mark, key), self._read()
        if seen is None:
            return  # a ledger that was never started has signed nothing
        if key is None and mark is None and seen.head is None:
            return
        self._compare(seen, key, mark)
        seen.raise_doubt()

    def check_owner(self, within_s: float = 0.0) -> None:
        """Check that the bucket is still this registry's, unless that was found within this time.

        Raises:
            LedgerInDoubt: another registry has it, which continues the ledger.
            Unavailable: that can't be known now.
        """
        if self._owner is not None:
            try:
                self._owner.confirm(within_s)
            except BucketTaken as error:
                raise LedgerInDoubt(error.message) from error

    def check_connection(self, snapshot: Snapshot) -> None:
        """Check that a database to which a connection was opened just now has everything that was signed.

        Raises:
            LedgerInDoubt: it does not: it is an old copy, or one that lost commits.
            LedgerKeyUnreadable: the mark cannot be read.
        """
        mark = self._keys.mark()
        signed = 0 if mark is None else checkpoint_of_note_unverified(mark).size
        size = ledger_store.size(snapshot, self.log)
        if size < signed:
            raise LedgerInDoubt(
                f"{signed} entries of the ledger were signed, but this database has {size}: it is an old copy"
            )

    def doubt(self, about: str, reason: str) -> None:
        """Let the log take no entries, in every process of the store and after a restart. Raises: Unavailable."""
        if self._doubts.reason() is None:
            self._doubts.put(about, reason)

    def verifier(self) -> VerifierKey | None:
        """Return the public key that signs now, None before the log has one. Reads a file."""
        key = self._keys.key()
        return None if key is None else key.verifier

    def integrate(self) -> Checkpoint | None:
        """Add and sign every committed entry. Return the head, None where there is no key yet.

        Raises:
            LedgerInDoubt: the database does not match what was signed.
        """
        with self._keys.signing():
            return self._integrate()

    def rotate(self, actor: str, reason: str) -> SigningKey:
        """Replace the signing key and return the new one. Raises: as `KeyRotation.rotate`."""
        return self._rotation.rotate(actor, reason, self._integrate)

    def _stored_size(self) -> int | None:
        seen = self._read()
        return None if seen is None else seen.signed

    def _integrate(self) -> Checkpoint | None:
        for tries in range(MOVES):
            try:
                return self._integrate_all(mark_first=tries > 0)
            except MarkMoved:  # by a process on another host, which the lock does not exclude: read everything again
                continue
        raise Unavailable("other processes signed the ledger again and again meanwhile; try again")

    def _integrate_all(self, *, mark_first: bool) -> Checkpoint | None:
        """Do all steps for every entry. `mark_first`: read the mark before the statement, even if it could be read during it."""
        head = None
        while True:  # one batch a round; entries that arrive meanwhile wait for the next call
            key, seen = self._keys.key(), self._read()
            mark = None if mark_first else self._mark_to_expect(seen)
            beside = mark is not None
            if not beside:
                # The mark first: what another host adds and signs meanwhile is in the data then, and not missing from it.
                mark = self._keys.mark()
                key, seen = self._rotation.key_in_force(key, mark, self._stored_size), self._read()
            if seen is None or (key is None and mark is None and seen.head is None):
                return head
            try:
                marked = self._compare(seen, key, mark)
            except LedgerInDoubt as error:
                if beside:
                    raise MarkMoved("the mark or the key of the ledger is another one than before") from error
                raise
            if key is None:
                raise AssertionError("`_compare` accepts no ledger without a key")
            if marked.size > seen.signed:  # restored entries: signed before, whatever else is in doubt
                head = self._step(seen, key, marked, mark or b"", beside=beside)
                continue
            seen.raise_doubt()
            if seen.head is not None and seen.size == seen.signed == marked.size:
                self.check_owner(COMPARED_FOR_S if self._is_published(seen.origin, seen.head.note) else 0.0)
                self._publish(seen.origin, seen.head.note, key)
                return marked
            head = self._step(seen, key, marked, mark or b"", beside=beside)
            if head.size == seen.size:
                return head

    def _mark_to_expect(self, seen: _Seen | None) -> bytes | None:
        """Return the mark to expect if no other process has signed; None: read the mark first.

        The mark is read while the statement is written, because a receipt waits for both. No tile is written before the mark is
        compared. A statement that is not signed then is harmless: its entries are in the database.
        """
        mark, stored = self._compared
        if self._owner is None or seen is None or mark is None or stored != seen.head or seen.size == seen.signed:
            return None
        return mark if checkpoint_of_note_unverified(mark).size == seen.signed else None

    def _step(self, seen: _Seen, key: SigningKey, marked: Checkpoint, mark: bytes, *, beside: bool) -> Checkpoint:
        to = marked.size if marked.size > seen.signed else min(seen.size, seen.signed + BATCH)
        grown = self._database.read_and_wait(lambda snapshot: _grown(snapshot, seen.signed, to, self.log))
        head = Checkpoint(seen.origin, grown.size, grown.root)
        if to == marked.size:
            if marked.root != head.root:
                raise LedgerInDoubt(f"the first {to} entries of the ledger are not the ones that were signed")
            self.check_owner()  # the note was stated when it was signed; a server that lost the bucket does not publish it
            note = mark
        else:
            self._state(seen, head, mark, beside=beside)
            self._add_to_published(seen.origin, grown, key, mark)
            note = sign_checkpoint(head, key)
            self._keys.put_mark(note, before=mark)
        stored = ledger_tree.SignedHead(head.size, note)
        self._database.write_and_wait(lambda tx: ledger_tree.add_tiles(tx, seen.signed, grown.tiles, stored, self.log))
        self._compared = (note, stored)
        self._publish(seen.origin, note, key)
        return head

    def _state(self, seen: _Seen, head: Checkpoint, mark: bytes, *, beside: bool) -> None:
        """State the head in the owner object of the bucket. `beside`: read the mark during this, and compare it with the expected one.

        Raises: LedgerInDoubt, MarkMoved, Unavailable.
        """
        if not beside:
            self._state_alone(seen, head, mark)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="boltseal-mark") as pool:
            now = pool.submit(self._keys.mark)
            self._state_alone(seen, head, mark)
            if now.result() != mark:
                raise MarkMoved("another process has replaced the mark of the ledger meanwhile")

    def _state_alone(self, seen: _Seen, head: Checkpoint, mark: bytes) -> None:
        if self._owner is None:
            return

        def root_of(size: int) -> bytes:
            return self._database.read_and_wait(lambda held: _root(held, size, seen.signed, self.log))

        try:
            self._owner.state(self.log.name, head, root_of)
        except BucketTaken as error:
            raise LedgerInDoubt(error.message) from error
        except StatedOtherwise as error:
            if self._keys.mark() != mark or head.size < error.stated.size <= self._entries():
                raise MarkMoved("another process states and signs more entries meanwhile") from error
            raise LedgerInDoubt(
                f"{error.message}: this data is an old copy, or was restored without the last entries; see `boltseal ledger recover`"
            ) from error

    def _entries(self) -> int:
        return self._database.read_and_wait(lambda held: ledger_store.size(held, self.log))

    def _add_to_published(self, origin: str, grown: Grown, key: SigningKey, mark: bytes) -> None:
        if self._published is None:
            return
        try:
            with _published_errors():
                self._published.add(origin, grown.size, grown.tiles, key.verifier)
        except PublishedAhead as error:
            if self._keys.mark() != mark:
                raise MarkMoved("another process has signed and published meanwhile") from error
            raise LedgerInDoubt(error.message) from error

    def _is_published(self, origin: str, note: bytes) -> bool:
        return self._published is None or self._published.has(origin, note)

    def _publish(self, origin: str, note: bytes, key: SigningKey) -> None:
        if self._published is None or not note:
            return
        try:
            with _published_errors():
                self._published.publish(origin, note, key.verifier, lambda: self._keys.mark() == note)
        except PublishedAhead as error:
            if self._keys.mark() == note:  # otherwise another process has signed since, and publishes
                raise LedgerInDoubt(error.message) from error

    def _compare(self, seen: _Seen, key: SigningKey | None, mark: bytes | None) -> Checkpoint:
        """Step 2. Return the verified mark.

        Raises:
            LedgerInDoubt: the database does not match it.
        """
        if key is None:
            raise LedgerKeyMissing(
                "the ledger's key is missing: put the folder of keys back beside the data, or begin a new one with "
                "`boltseal ledger recover --accept-loss`"
            )
        if mark is None:
            raise LedgerInDoubt(
                "the ledger's key is there, but its high-water mark is missing (DATA.keys/ledger.mark, or the object or file of "
                "[storage.mark] url): put it back; without a copy: `boltseal ledger recover --accept-loss`"
            )
        if key.name != seen.origin:
            raise LedgerInDoubt(f"the key belongs to the ledger {key.name}, the data to {seen.origin}")
        if is_former(key.verifier, mark):
            raise LedgerKeyMissing(
                "the ledger's key was replaced with `boltseal ledger rotate`, and this host has the former one: copy the folder of keys again"
            )
        try:
            marked = open_checkpoint(mark, key.verifier).checkpoint
        except Invalid as error:
            raise LedgerInDoubt(f"the ledger's high-water mark is invalid: {error.message}") from error
        ahead = max(marked.size, seen.signed)
        if ahead > seen.size:
            raise LedgerInDoubt(
                f"{ahead} entries of the ledger were signed, but the data has {seen.size}: it is an old copy, or entries "
                "were removed; `boltseal ledger recover` brings them back"
            )
        if marked.size < seen.signed and self._keys.mark() == mark:  # else another process has signed since it was read
            _log.warning(
                "the high-water mark is older than the stored checkpoint", mark=marked.size, stored=seen.signed
            )
        if seen.head is not None and self._compared != (mark, seen.head):
            self._database.read_and_wait(lambda snapshot: _compare_tree(snapshot, seen.head, marked, key, self.log))
        self._compared = (mark, seen.head)
        return marked

    def _read(self) -> _Seen | None:
        def look_up(snapshot: Snapshot) -> _Seen | None:
            entries = ledger_store.head(snapshot, self.log)
            if entries is None:
                return None
            head, doubt = ledger_tree.head(snapshot, log=self.log), self._doubts.reason_in(snapshot)
            return _Seen(entries.origin, entries.size, head, doubt)

        return self._database.read_and_wait(look_up)


@contextmanager
def _published_errors() -> Iterator[None]:
    """Turn another history of the published objects into a doubt."""
    try:
        yield
    except TileDiffers as error:
        raise LedgerInDoubt(
            f"{error.message}: entries that were about to be signed are missing or were replaced; "
            "see `boltseal ledger recover`"
        ) from error


def _grown(snapshot: Snapshot, size: int, to: int, log: Log) -> Grown:
    lines = [line for _, line in ledger_store.lines(snapshot, size, until=to, log=log)]
    if len(lines) != to - size or not all(isinstance(line, bytes) for line in lines):
        raise LedgerInDoubt(f"not all of the ledger's entries {size} to {to - 1} are stored as they were written")
    try:
        return grow(size, ledger_tree.tiles(snapshot, edge(size), log), [leaf_hash(line) for line in lines])
    except TileInvalid as error:
        raise LedgerInDoubt(f"the ledger's stored tree is invalid: {error.message}") from error


def _root(snapshot: Snapshot, size: int, signed: int, log: Log) -> bytes:
    """Return the root of the first `size` entries, of which `signed` are in the stored tree. Raises: LedgerInDoubt."""
    if size > signed:
        return _grown(snapshot, signed, size, log).root
    try:
        return ledger_tree.root(snapshot, size, signed, log)
    except TileInvalid as error:
        raise LedgerInDoubt(f"the ledger's stored tree is invalid: {error.message}") from error


def _compare_tree(
    snapshot: Snapshot, head: ledger_tree.SignedHead | None, marked: Checkpoint, key: SigningKey, log: Log
) -> None:
    """Compare the stored tree and checkpoint with the mark.

    Raises:
        LedgerInDoubt: they do not match.
    """
    if head is None:
        return
    try:
        stored = checkpoint_of_note_unverified(head.note)
        if head.size > marked.size:  # the mark is older, so the checkpoint's own signature counts
            stored = open_checkpoint(head.note, key.verifier).checkpoint
        common = min(head.size, marked.size)
        roots = {at: ledger_tree.root(snapshot, at, head.size, log) for at in {common, head.size}}
    except (Invalid, TileInvalid) as error:
        raise LedgerInDoubt(f"the ledger's stored checkpoint is invalid: {error.message}") from error
    if stored.size != head.size or stored.root != roots[head.size]:
        raise LedgerInDoubt("the ledger's stored checkpoint does not match its stored tree")
    if common == marked.size and roots[common] != marked.root:
        raise LedgerInDoubt(f"the ledger's tree of {common} entries is not the one that was signed")
