"""Recovers a ledger: restores missing entries from a copy, accepts that they are lost, or lets its time step back.

The steps of `bring_back`, all in one transaction:

1. Check that the copy's lines after ours are the ones that were signed: with them the tree has the root of the mark, or
   of a newer checkpoint that this ledger's key signed.
2. Check that they follow the rules of a ledger (`ledger.audit`), together with all stored entries.
3. Write them unchanged, and set each tag that they are about to the state in its last entry.

`restore_tags` sets the rows of tags that differ from the ledger to the state in their last entries, after all entries were
checked: their rules, and the signed root. Nothing is added to the ledger, which says the same before and after.

`accept_loss` begins a new origin with a new key. The tree continues over all stored entries. The first new entry names the
last checkpoint of the old origin, so a client that has it can see what happened and how many entries are missing.

`step_back` continues a log whose last entry is from the future, with the same origin and key and without loss: the entry that it
adds has the time of the corrected clock, and names the time of the entry before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from boltseal.errors import Invalid
from boltseal.ledger.audit import Audit, AuditedTag, ObservationAudit
from boltseal.ledger.checkpoint import Checkpoint, checkpoint_of_note_unverified, open_checkpoint, sign_checkpoint
from boltseal.ledger.clock import is_behind
from boltseal.ledger.entry import CHANGES, EntryKind, format_time
from boltseal.ledger.merkle import EMPTY_ROOT, leaf_hash
from boltseal.ledger.note import SigningKey
from boltseal.ledger.tiles import edge, grow
from boltseal.oci.reference import Repository, Tag
from boltseal.server.registry import observations, sequencer
from boltseal.server.registry.integrator import BATCH
from boltseal.server.registry.ledger_in_doubt import LedgerInDoubt, LedgerKeyMissing
from boltseal.server.registry.models import RepositoryRow
from boltseal.server.registry.tag_check import TagCheck, all_rows, problem_of
from boltseal.server.registry.tag_writer import TagWriter
from boltseal.server.storage.ledger_doubts import WITNESSES, LedgerDoubts
from boltseal.server.storage.ledger_key import LedgerKeys, new_signing_key
from boltseal.server.storage.metadata import ledger_store, ledger_tree, queries
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, TAGS, Log, Metadata, Snapshot, UnitOfWork
from boltseal.server.storage.witness_statements import WitnessStatements

Lines = Callable[[int, int], Iterable[bytes]]
"""Returns the entries [start, end) of a copy of a ledger, encoded and not verified."""

MAX_MISSING: Final = 1_000_000
_numbered = re.compile(r"(?P<origin>.*)/(?P<number>[1-9][0-9]{0,8})").fullmatch


class RecoveryRefused(Invalid):
    """The offered entries are not the missing ones, or no entries are missing."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """The result of a recovery. `origin`, `key`: of the ledger from now on. `brought`: how many entries were restored.

    `tags`: the tags that were restored instead, as `shop/app:1.4.2`, sorted. `opens`: with the folder of keys the users
    are lost too, so that the next start serves every client of this machine without a login.
    """

    origin: str
    key: str
    brought: int
    tags: tuple[str, ...] = ()
    opens: bool = False


def next_origin(origin: str) -> str:
    """Return the origin that follows a lost one: registry.example.com/2 after registry.example.com."""
    match = _numbered(origin)
    return f"{origin}/2" if match is None else f"{match['origin']}/{int(match['number']) + 1}"


def bring_back(
    database: Metadata, keys: LedgerKeys, tag_writer: TagWriter, lines: Lines, head: bytes | None, log: Log = LEDGER
) -> Recovered:
    """Restore the missing entries. `head`: the copy's checkpoint, if it has one.

    Raises:
        RecoveryRefused: the copy does not have the missing entries, or none are missing.
        LedgerInDoubt: an entry breaks the rules of the ledger.
        LedgerKeyMissing: key or mark are missing.
    """
    with keys.locked():
        key, mark = _key_and_mark(keys)
        signed, note = open_checkpoint(mark, key.verifier).checkpoint, mark
        if head is not None:
            offered = open_checkpoint(head, key.verifier).checkpoint
            if offered.size > signed.size:
                signed, note = offered, head

        def job(tx: UnitOfWork) -> int:
            return _bring_back(tx, tag_writer, lines, signed, log)

        with _unfrozen(database, log):
            brought = database.write_and_wait(job, limited=False)
        if note != mark:
            keys.put_mark(note, before=mark)
        return Recovered(key.name, str(key.verifier), brought)


def accept_loss(database: Metadata, keys: LedgerKeys, actor: str, reason: str, log: Log = LEDGER) -> Recovered:
    """Continue with the stored entries under a new origin and key, and record the loss.

    Raises:
        RecoveryRefused: the ledger was never started.
    """
    with keys.locked():
        mark = keys.mark()
        seen = database.read_and_wait(lambda snapshot: _read(snapshot, log))
        if seen is None:
            raise RecoveryRefused("this ledger was never started, so it has lost nothing")
        origin, size, stored = seen
        last = _last_head(mark, None if stored is None else stored.note)
        key = new_signing_key(next_origin(origin))
        extra = {"previous_origin": origin, "key": str(key.verifier)}
        if last is not None:
            extra["last_size"], extra["last_root"] = str(last.size), last.root.hex()
            extra["lost_entries"] = str(max(0, last.size - size))

        def job(tx: UnitOfWork) -> None:
            ledger_store.set_origin(tx, key.name, log)
            ledger_tree.remove_tree(tx, log)
            if log is OBSERVATIONS:
                observations.recall(tx, size)
            sequencer.append(tx, EntryKind.RECOVERED, actor=actor, reason=reason, extra=extra, log=log)

        with _unfrozen(database, log):
            database.write_and_wait(job, limited=False)
        keys.put_mark(sign_checkpoint(Checkpoint(key.name, 0, EMPTY_ROOT), key), before=mark)
        keys.put_key(key)
        LedgerDoubts(database, keys.folder, log).clear(WITNESSES)  # the new ledger has not been shown to any
        if log is LEDGER:
            WitnessStatements(database, keys.folder).forget_all()
        return Recovered(key.name, str(key.verifier), 0)


def restore_tags(database: Metadata, keys: LedgerKeys, tag_writer: TagWriter) -> tuple[str, ...]:
    """Set the rows of tags to what the ledger says, and withdraw the doubt. Return the tags that differed, sorted.

    Raises:
        LedgerInDoubt: an entry is missing, changed, or breaks the ledger's rules; then a backup must be restored.
        LedgerKeyMissing: key or mark are missing.
    """
    with keys.locked():
        key, mark = _key_and_mark(keys)
        signed = open_checkpoint(mark, key.verifier).checkpoint
        with _unfrozen(database, LEDGER):
            restored = database.write_and_wait(lambda tx: restore_recorded(tx, tag_writer, signed), limited=False)
        LedgerDoubts(database, keys.folder).clear(TAGS)
        return restored


def restore_recorded(tx: UnitOfWork, tag_writer: TagWriter, signed: Checkpoint) -> tuple[str, ...]:
    """Set the rows of tags to what all stored entries say, which must be the signed ones. Return the tags that differed, sorted.

    Raises: LedgerInDoubt: an entry is missing, changed, or breaks the ledger's rules.
    """
    recorded, canonical = _checked_entries(tx, signed)
    rows = {(row.repository, row.name): row for row in all_rows(tx)}
    unrecorded = [name for name in rows if name not in recorded]
    for name in unrecorded:
        row = rows[name]
        tag_writer.remove_unrecorded(tx, RepositoryRow(Repository(row.repository), row.repository_id), Tag(row.name))
    check = TagCheck()
    differing = [
        name
        for name, state in recorded.items()
        if (found := rows.get(name)) is None
        or found.entry_index != state.index
        or problem_of(tx, found, check) is not None
    ]
    for name in differing:
        repository = RepositoryRow(Repository(name[0]), queries.ensure_repository(tx, name[0], None))
        tag_writer.recall(tx, repository, Tag(name[1]), recorded[name], canonical[name])
    tx.invalidates_caches = True
    return tuple(f"{repository}:{tag}" for repository, tag in sorted([*unrecorded, *differing]))


def _checked_entries(
    snapshot: Snapshot, signed: Checkpoint
) -> tuple[dict[tuple[str, str], AuditedTag], dict[tuple[str, str], str]]:
    """Return the state of each tag by all entries, and the sha256 that its last entry names beside another digest.

    Raises: LedgerInDoubt: the entries break the ledger's rules, or are not the signed ones.
    """
    audit, grown = Audit(origin=""), grow(0, {}, [])
    canonical: dict[tuple[str, str], str] = {}
    leaves: list[bytes] = []
    for index, line in ledger_store.lines(snapshot):
        problems = audit.take(index, line)
        if problems or audit.last is None:
            raise LedgerInDoubt(f"entry {index} breaks the ledger's rules: {problems[0]}; restore a backup")
        if audit.last.tag and audit.last.kind in CHANGES:
            canonical[audit.last.repository, audit.last.tag] = audit.last.extra.get("canonical", "")
        if index < signed.size:
            leaves.append(leaf_hash(line))
        if len(leaves) == BATCH:
            grown, leaves = grow(grown.size, grown.edge, leaves), []
    grown = grow(grown.size, grown.edge, leaves)
    if (grown.size, grown.root) != (signed.size, signed.root):
        raise LedgerInDoubt("the stored entries are not the ones that were signed; restore a backup")
    return audit.names, canonical


def step_back(database: Metadata, actor: str, reason: str, log: Log = LEDGER) -> bool:
    """Let the times of a log continue at the clock's, which is behind its last entry. Return whether that was needed.

    Raises:
        LedgerFrozen: the log may not match its checkpoint.
    """

    def job(tx: UnitOfWork) -> bool:
        head = ledger_store.lock_head(tx, log)
        if head is None or not is_behind(head.last_time_us, tx.now_us):
            return False
        extra = {"time_before": format_time(head.last_time_us)}
        sequencer.append(tx, EntryKind.RECOVERED, actor=actor, reason=reason, extra=extra, log=log)
        return True

    return database.write_and_wait(job)


def _key_and_mark(keys: LedgerKeys) -> tuple[SigningKey, bytes]:
    """Return the signing key and the high-water mark. Raises: LedgerKeyMissing."""
    key, mark = keys.key(), keys.mark()
    if key is None or mark is None:
        raise LedgerKeyMissing("the ledger's key or its high-water mark is missing; put the folder of keys back first")
    return key, mark


@contextmanager
def _unfrozen(database: Metadata, log: Log) -> Iterator[None]:
    """Unfreeze a log for the block. If the block fails, the log is frozen again."""
    doubt = database.doubts.pop(log.name, None)
    try:
        yield
    except BaseException:
        if doubt is not None:
            database.doubts[log.name] = doubt
        raise


def _last_head(*notes: bytes | None) -> Checkpoint | None:
    """Return the first of these heads that can be parsed. It is not verified: its key may be lost."""
    for note in notes:
        with suppress(Invalid):
            if note:
                return checkpoint_of_note_unverified(note)
    return None


def _read(snapshot: Snapshot, log: Log = LEDGER) -> tuple[str, int, ledger_tree.SignedHead | None] | None:
    entries = ledger_store.head(snapshot, log)
    return None if entries is None else (entries.origin, entries.size, ledger_tree.head(snapshot, log=log))


def _bring_back(tx: UnitOfWork, tag_writer: TagWriter, lines: Lines, signed: Checkpoint, log: Log) -> int:
    head = ledger_store.lock_head(tx, log)
    stored = ledger_tree.head(tx, log=log)
    if head is None or head.origin != signed.origin:
        raise RecoveryRefused(f"the data does not belong to the ledger {signed.origin}")
    missing = signed.size - head.size
    if not 0 < missing <= MAX_MISSING:
        raise RecoveryRefused(
            f"{head.size} entries are stored and {signed.size} were signed: there is nothing to restore"
        )
    # 1
    new = list(lines(head.size, signed.size))
    size = 0 if stored is None else stored.size
    leaves = [leaf_hash(line) for _, line in ledger_store.lines(tx, size, log=log)] + [leaf_hash(line) for line in new]
    grown = grow(size, ledger_tree.tiles(tx, edge(size), log), leaves)
    if (grown.size, grown.root) != (signed.size, signed.root):
        raise RecoveryRefused("the offered entries are not the ones that were signed")
    # 2
    audit = ObservationAudit(origin="") if log is OBSERVATIONS else Audit(origin="")
    for index, line in ledger_store.lines(tx, log=log):
        audit.take(index, line)
    touched = dict[tuple[str, str], str]()
    for index, line in enumerate(new, start=head.size):
        problems = audit.take(index, line)
        entry = audit.last
        if problems or entry is None:
            raise LedgerInDoubt(f"entry {index} breaks the ledger's rules: {problems[0]}")
        # 3
        ledger_store.append_entry(tx, index, entry, line, log)
        if entry.tag and log is OBSERVATIONS:
            observations.reset(tx, Repository(entry.repository), Tag(entry.tag), index, entry)
        elif entry.tag:
            touched[entry.repository, entry.tag] = entry.extra.get("canonical", "")
    for (repository, tag), canonical in touched.items():
        row = RepositoryRow(Repository(repository), queries.ensure_repository(tx, repository, None))
        tag_writer.recall(tx, row, Tag(tag), audit.names[repository, tag], canonical)
    tx.invalidates_caches = True
    return missing
