"""What brings a doubted ledger back: the entries it lacks, from wherever they are, or the admission that they are lost.

Steps of `bring_back`, all in one transaction:

1. The source's lines behind ours are the ones that were signed: their tree has the root of the mark, or of a newer
   head that this ledger's key signed.
2. They keep the rules of a ledger (`ledger.audit`), together with all that is here.
3. They are written as they are, and each name they speak of is set to their last word on it.

`accept_loss` begins a new origin with a new key. The tree goes on over all entries that are here; the first new one
names the last head of the old origin, so that whoever held that can see what became of it, and what is missing.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from boltseal.errors import Invalid
from boltseal.ledger.audit import Audit, ObservationAudit
from boltseal.ledger.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint_unverified, sign_checkpoint
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.merkle import EMPTY_ROOT, leaf_hash
from boltseal.ledger.note import SigningKey, parse_note_unverified
from boltseal.ledger.tiles import edge, grow
from boltseal.oci.reference import Repository, Tag
from boltseal.server.registry import observations, sequencer
from boltseal.server.registry.integrator import SEED_BYTES, LedgerInDoubt, LedgerKeyMissing
from boltseal.server.registry.models import RepositoryRow
from boltseal.server.storage.metadata import ledger_store, ledger_tree, queries
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, Log, Snapshot, UnitOfWork

if TYPE_CHECKING:
    from boltseal.server.registry.tag_writer import TagWriter
    from boltseal.server.storage.ledger_key import LedgerKeys
    from boltseal.server.storage.metadata.protocol import Metadata, Snapshot

Lines = Callable[[int, int], Iterable[bytes]]
"""The entries [start, end) of some copy of a ledger, each as it stands there. Nothing in them is known to be true."""

MISSING_AT_MOST: Final = 1_000_000
_numbered = re.compile(r"(?P<origin>.*)/(?P<number>[1-9][0-9]{0,8})").fullmatch


class RecoveryRefused(Invalid):
    """What was offered is not what is missing, or nothing is."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """`brought`: how many entries came back. `origin` and `key`: what the ledger is called and signed by from now on."""

    origin: str
    key: str
    brought: int


def next_origin(origin: str) -> str:
    """The name of the ledger that goes on after this one was lost: registry.example.com, then registry.example.com/2."""
    match = _numbered(origin)
    return f"{origin}/2" if match is None else f"{match['origin']}/{int(match['number']) + 1}"


def entries_here(database: Metadata, log: Log = LEDGER) -> int:
    """How many entries this store has."""
    seen = database.read_and_wait(lambda held: _seen(held, log))
    return 0 if seen is None else seen[1]


def bring_back(
    database: Metadata, keys: LedgerKeys, door: TagWriter, lines: Lines, head: bytes | None, log: Log = LEDGER
) -> Recovered:
    """Write the entries that are missing. `head`: the source's signed head, if it has one. RecoveryRefused, LedgerInDoubt."""
    with keys.locked():
        key, mark = keys.key(), keys.mark()
        if key is None or mark is None:
            raise LedgerKeyMissing("the folder of keys lacks the ledger's key or its mark; put it back first")
        signed, note = open_checkpoint(mark, key.verifier).checkpoint, mark
        if head is not None:
            offered = open_checkpoint(head, key.verifier).checkpoint
            if offered.size > signed.size:
                signed, note = offered, head

        def job(tx: UnitOfWork) -> int:
            return _bring_back(tx, door, lines, signed, log)

        with _undoubted(database, log):
            brought = database.write_and_wait(job)
        if note != mark:
            keys.put_mark(note)
        return Recovered(key.name, str(key.verifier), brought)


def accept_loss(database: Metadata, keys: LedgerKeys, actor: str, reason: str, log: Log = LEDGER) -> Recovered:
    """Go on with what is here, under a new origin and key, and record what was lost. RecoveryRefused."""
    with keys.locked():
        mark = keys.mark()
        seen = database.read_and_wait(lambda held: _seen(held, log))
        if seen is None:
            raise RecoveryRefused("this ledger was never started; nothing can be lost")
        origin, size, stored = seen
        last = _last_head(mark, None if stored is None else stored.note)
        key = SigningKey(next_origin(origin), secrets.token_bytes(SEED_BYTES))
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

        with _undoubted(database, log):
            database.write_and_wait(job)
        keys.put_mark(sign_checkpoint(Checkpoint(key.name, 0, EMPTY_ROOT), key))
        keys.put_key(key)
        return Recovered(key.name, str(key.verifier), 0)


@contextmanager
def _undoubted(database: Metadata, log: Log) -> Iterator[None]:
    """Lets one transaction record in a log that is doubted; it is doubted again if that fails."""
    doubt = database.doubts.pop(log.name, None)
    try:
        yield
    except BaseException:
        if doubt is not None:
            database.doubts[log.name] = doubt
        raise


def _last_head(*notes: bytes | None) -> Checkpoint | None:
    """The first of these that can be read at all; nobody vouches for it any more."""
    for note in notes:
        with suppress(Invalid):
            if note:
                return parse_checkpoint_unverified(parse_note_unverified(note).text)
    return None


def _seen(held: Snapshot, log: Log = LEDGER) -> tuple[str, int, ledger_tree.SignedHead | None] | None:
    entries = ledger_store.head(held, log)
    return None if entries is None else (entries.origin, entries.size, ledger_tree.head(held, log=log))


def _bring_back(tx: UnitOfWork, door: TagWriter, lines: Lines, signed: Checkpoint, log: Log) -> int:
    head = ledger_store.lock_head(tx, log)
    stored = ledger_tree.head(tx, log=log)
    if head is None or head.origin != signed.origin:
        raise RecoveryRefused(f"this data is not of the ledger {signed.origin}")
    missing = signed.size - head.size
    if not 0 < missing <= MISSING_AT_MOST:
        raise RecoveryRefused(
            f"{head.size} entries are here, and {signed.size} were signed: nothing can be brought back"
        )
    # 1
    new = list(lines(head.size, signed.size))
    size = 0 if stored is None else stored.size
    leaves = [leaf_hash(line) for _, line in ledger_store.lines(tx, size, log=log)] + [leaf_hash(one) for one in new]
    grown = grow(size, ledger_tree.tiles(tx, edge(size), log), leaves)
    if (grown.size, grown.root) != (signed.size, signed.root):
        raise RecoveryRefused("the entries that were offered are not the ones that were signed")
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
        ledger_store.append(
            tx,
            index,
            time_us=entry.time_us,
            kind=entry.kind,
            repository=entry.repository,
            tag=entry.tag,
            line=line,
            log=log,
        )
        if entry.tag and log is OBSERVATIONS:
            observations.stand(tx, Repository(entry.repository), Tag(entry.tag), index, entry)
        elif entry.tag:
            touched[entry.repository, entry.tag] = entry.extra.get("canonical", "")
    for (repository, tag), canonical in touched.items():
        place = RepositoryRow(Repository(repository), queries.ensure_repository(tx, repository, None))
        door.recall(tx, place, Tag(tag), audit.names[repository, tag], canonical)
    tx.invalidates_caches = True
    return missing
