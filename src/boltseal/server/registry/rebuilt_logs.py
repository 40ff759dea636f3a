"""Restores a log from its objects: entries that a signed note covers, and the tree over them. The second step of `rebuild`.

Only bundles are used. A tile in the bucket that is not over these entries is reported: clients that read it get no valid proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Final

from boltseal.errors import Invalid
from boltseal.ledger.checkpoint import Checkpoint, open_checkpoint
from boltseal.ledger.entry import EntryInvalid, EntryKind, parse
from boltseal.ledger.merkle import leaf_hash
from boltseal.ledger.note import SigningKey
from boltseal.ledger.tiles import WIDTH, BundleId, TileId, TileInvalid, edge, grow, parse_bundle
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.server.registry import observations
from boltseal.server.storage.batches import batches
from boltseal.server.storage.findings import FindingCollector
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata import ledger_store, ledger_tree
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, Log, Metadata, UnitOfWork
from boltseal.server.storage.object_tiles import ObjectTiles

BUNDLES_AT_ONCE: Final = 16


class RebuildRefused(Invalid):
    """The database can't be rebuilt: it is not empty, or the bucket does not prove the ledger."""


@dataclass(frozen=True, slots=True)
class SignedLog:
    """A verified checkpoint of a log, its note, and the hash of each of its bundles."""

    head: Checkpoint
    note: bytes
    bundles: tuple[bytes, ...] = field(repr=False)


class RebuiltLogs:
    """Restores the logs of one registry. `reads`: threads that read objects. `findings`: what could not be restored."""

    def __init__(
        self, database: Metadata, tiles: Mapping[Log, ObjectTiles], reads: Executor, findings: FindingCollector
    ) -> None:
        self._database = database
        self._tiles = tiles
        self._reads = reads
        self._findings = findings

    def restore(self, log: Log, signed: SignedLog, *, without_last: bool = False) -> None:
        """Restore the entries and the tree of a log, page by page.

        `without_last`: the last page is left to `add_last`. Until then the log has a head with fewer entries than were signed, which
        every process that opens the database notices.
        """
        size = self._database.write_and_wait(partial(_begun, log=log, origin=signed.head.origin))
        self._findings.passed(log.name, size, signed.head.size, every=1)
        while size < signed.head.size:
            to = min(signed.head.size, (size // WIDTH + BUNDLES_AT_ONCE) * WIDTH)
            if without_last and to == signed.head.size:
                return
            lines = self._lines(log, signed, size, to)
            self._database.write_and_wait(
                partial(_add_entries, start=size, lines=lines, signed=signed, log=log), limited=False
            )
            size = to
            self._findings.passed(log.name, size, signed.head.size, every=1)

    def add_last(self, tx: UnitOfWork, log: Log, signed: SignedLog) -> None:
        """Add the entries that `restore` left, and the checkpoint that covers them."""
        size = ledger_store.size(tx, log)
        if size < signed.head.size:
            _add_entries(tx, size, self._lines(log, signed, size, signed.head.size), signed, log)

    def _lines(self, log: Log, signed: SignedLog, size: int, to: int) -> list[bytes]:
        """Return the entries [size, to), compared with the first reading. Raises: RebuildRefused."""
        numbers = range(size // WIDTH, -(-to // WIDTH))
        lines = [line for each in numbers for line in self._bundle(log, signed.head, each, signed.bundles[each])]
        return lines[size % WIDTH :]

    def signed(self, log: Log, keys: LedgerKeys) -> SignedLog | None:
        """Return the newest checkpoint that the key signed and whose entries the bucket has, None if nothing was signed.

        Raises: RebuildRefused.
        """
        key = keys.key()
        if key is None:
            if log is LEDGER:
                raise RebuildRefused("the ledger's key is missing: put the folder of keys back beside the data first")
            return None
        heads = self._heads(
            log, key, {"published checkpoint": self._tiles[log].checkpoint(key.name), "mark": keys.mark()}
        )
        problems = list[str]()
        for head in sorted(heads, key=lambda each: each.size, reverse=True):
            try:
                return SignedLog(head, heads[head], self._hashed(log, head))
            except RebuildRefused as error:
                problems.append(error.message)
                self._findings.differs(
                    log.name, f"the {head.size} entries that were signed can't be restored: {error.message}"
                )
        if problems:
            raise RebuildRefused(problems[0])
        return None

    def _heads(self, log: Log, key: SigningKey, notes: Mapping[str, bytes | None]) -> dict[Checkpoint, bytes]:
        """Return the checkpoints that the key signed, except those of no entry, and report what is missing or not valid."""
        heads = dict[Checkpoint, bytes]()
        for what, note in notes.items():
            try:
                head = None if note is None else open_checkpoint(note, key.verifier).checkpoint
            except Invalid as error:
                self._findings.differs(log.name, f"its {what} is not used: {error.message}")
                continue
            if note is not None and head is not None and head.size:
                heads.setdefault(head, note)
        for what, note in notes.items():
            if heads and note is None:
                self._findings.differs(log.name, f"its {what} is missing")
        return heads

    def _hashed(self, log: Log, head: Checkpoint) -> tuple[bytes, ...]:
        """Read all bundles once. Returns their hashes. Raises: RebuildRefused: the tree is not the one that was signed."""
        grown, hashes = grow(0, {}, []), list[bytes]()
        for numbers in batches(range(-(-head.size // WIDTH)), BUNDLES_AT_ONCE):
            for lines in self._reads.map(partial(self._compared, log, head), numbers):
                hashes.append(_hash(lines))
                grown = grow(grown.size, grown.edge, [leaf_hash(line) for line in lines])
            self._findings.passed(f"{log.name} (compared)", grown.size, head.size, every=1)
        if grown.root != head.root:
            raise RebuildRefused(
                f"the entries in the bucket are not those that were signed: the tree of {head.size} entries has the root "
                f"{grown.root.hex()}, expected {head.root.hex()}; restore the bucket's older versions of ledger/"
            )
        return tuple(hashes)

    def _compared(self, log: Log, head: Checkpoint, number: int) -> tuple[bytes, ...]:
        """Return what `_bundle` does, and report a tile that is not over these entries."""
        lines = self._bundle(log, head, number)
        tile = TileId(0, number, len(lines))
        if self._tiles[log].get(head.origin, tile.path()) != b"".join(leaf_hash(line) for line in lines):
            self._findings.differs(
                log.name,
                f"{tile.path()} in the bucket is missing or is not over the entries: restore an older version of the object",
            )
        return lines

    def _bundle(self, log: Log, head: Checkpoint, number: int, expected: bytes | None = None) -> tuple[bytes, ...]:
        """Return the entries of one bundle. `expected`: the hash of its first reading. Raises: RebuildRefused."""
        bundle = BundleId(number, min(WIDTH, head.size - number * WIDTH))
        raw = self._tiles[log].get(head.origin, bundle.path())
        if raw is None:
            raise RebuildRefused(
                f"the bucket lacks {bundle.path()} of the {log.name} with {head.size} signed entries; restore an older version of "
                "the object"
            )
        try:
            lines = parse_bundle(raw, bundle.width)
        except TileInvalid as error:
            raise RebuildRefused(
                f"{bundle.path()} of the {log.name} is damaged: {error.message}; restore an older version of the object"
            ) from error
        if expected is not None and _hash(lines) != expected:
            raise RebuildRefused(
                f"{bundle.path()} of the {log.name} was changed while it was read; run the command again"
            )
        return lines


def _begun(tx: UnitOfWork, log: Log, origin: str) -> int:
    """Return how many entries a log has, which begins here if it has none."""
    return (ledger_store.lock_head(tx, log) or ledger_store.start(tx, origin, log)).size


def _hash(lines: Iterable[bytes]) -> bytes:
    return sha256(b"".join(leaf_hash(line) for line in lines)).digest()


def _add_entries(tx: UnitOfWork, start: int, lines: list[bytes], signed: SignedLog, log: Log) -> None:
    """Add verified entries and their tiles. The last ones get the checkpoint that covers them."""
    head = ledger_store.lock_head(tx, log) or ledger_store.start(tx, signed.head.origin, log)
    if head.size != start:
        raise RebuildRefused("another process restores the ledger too: let it end")
    for index, line in enumerate(lines, start):
        try:
            entry = parse(line)
        except EntryInvalid as error:
            raise RebuildRefused(
                f"entry {index} of the {log.name} was signed and is invalid: {error.message}"
            ) from error
        ledger_store.append_entry(tx, index, entry, line, log)
        if log is OBSERVATIONS and entry.tag:
            observations.reset(tx, Repository(entry.repository), Tag(entry.tag), index, entry)
    grown = grow(start, ledger_tree.tiles(tx, edge(start), log), [leaf_hash(line) for line in lines])
    note = signed.note if grown.size == signed.head.size else b""
    ledger_tree.add_tiles(tx, start, grown.tiles, ledger_tree.SignedHead(grown.size, note), log)


def recorded_rules(tx: UnitOfWork) -> str | None:
    """Return the sha256 of the rules that the ledger recorded last, None if none."""
    index = ledger_store.last_index(tx, "", "", {EntryKind.RULES_CHANGED})
    if index < 0:
        return None
    return parse(next(iter(ledger_store.lines(tx, index, batch=1))).line).extra.get("rules_sha256")


def set_rules(tx: UnitOfWork, rules: str) -> bool:
    """Record the configured rules as those of the ledger, if they are. False: the next start adds an entry about them."""
    if recorded_rules(tx) != Digest.of(rules.encode()).hex:
        return False
    ledger_store.set_rules(tx, rules)
    return True
