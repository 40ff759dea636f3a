"""Move a registry from a data folder (SQLite and files) into PostgreSQL and an object store, and go back before the first write.

Steps of `move_data`. Each can be interrupted and is done again, or found done, by the next run:

1. Check source, settings and target; reserve the database and the prefix of the bucket for this move.
2. Copy the blobs while the server goes on. Every byte is hashed as it is read.
3. Close the source to writes (`move_fence`). Pulls go on; pushes get 503 from here on.
4. Sign what is not signed yet, copy the blobs that were added meanwhile, and copy the keys.
5. Publish the tiles and the checkpoint of each log, then set the marks.
6. Copy all rows, compare them and the owner of the bucket, and open the target to servers, in one transaction. This is the
   moment of the move.
7. Note in the source that it was moved, and write the objects of the manifests.

The source is closed before the target opens. To go back, the target is closed before the source opens. So at no moment, and
wherever a process is killed, do both accept writes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from boltseal.errors import Full, Invalid, Unavailable
from boltseal.files.atomic_files import Disk, write_file
from boltseal.ledger.checkpoint import open_checkpoint
from boltseal.ledger.note import VerifierKey
from boltseal.oci.digest import Digest
from boltseal.server.registry.integrator import Integrator
from boltseal.server.registry.published_tree import PublishedTree
from boltseal.server.settings import Settings
from boltseal.server.storage.blobs.blob_copies import CopiedBlobs, NamedBlob, copy_blobs, file_problems
from boltseal.server.storage.blobs.blob_stores import open_bucket, open_tiles
from boltseal.server.storage.bucket_owner import check_conditions, new_id, take_over
from boltseal.server.storage.bucket_reservation import foreign_object, reserve
from boltseal.server.storage.coordination.factory import check_locks
from boltseal.server.storage.coordination.file_leases import FileLeases
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.ledger_mark import PRIVATE
from boltseal.server.storage.mark_factory import check_mark, open_keys
from boltseal.server.storage.metadata import ledger_store, ledger_tree, move_source, move_target
from boltseal.server.storage.metadata.move_fence import (
    COPYING,
    MOVED,
    MOVING,
    Fence,
    put_fence,
    read_fence,
    remove_fence,
)
from boltseal.server.storage.metadata.move_target import MoveTarget
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, Log, Metadata, Snapshot
from boltseal.server.storage.metadata_factory import prepare_metadata
from boltseal.server.storage.object_client import ObjectClient, SmallObject
from boltseal.server.storage.object_manifests import ObjectManifests
from boltseal.server.storage_settings import BucketUrl, DatabaseUrl
from boltseal.server.store_factory import now_us, open_metadata

Progress = Callable[[str, int, int], None]
LEASE: Final = "move"


class MoveRefused(Invalid):
    """The move can't begin or go on as asked."""


class BlobsUnusable(Unavailable):
    """Blobs of the source are missing or damaged, so the move did not end. `findings`: a line for each."""

    def __init__(self, findings: list[str], *, closed: bool) -> None:
        state = "the source stays read-only: undo the move (--undo)" if closed else "the source still takes pushes"
        super().__init__(
            f"blobs of the source are missing or damaged ({len(findings)}): {findings[0]}; {state}, push them again, and repeat the move"
        )
        self.findings = findings


@dataclass(slots=True)
class MoveResult:
    """What a move did or would do. `rows`: by table. `notes`: what the operator should know."""

    move: str
    rows: dict[str, int]
    blobs: CopiedBlobs
    status: str
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Move:
    """The two sides of a move."""

    source: Path
    settings: Settings
    database: DatabaseUrl
    bucket: BucketUrl

    @property
    def source_keys(self) -> Path:
        return self.source.with_name(f"{self.source.name}.keys")

    def fence(self, move: str, state: str) -> Fence:
        return Fence(move, str(self.database), str(self.bucket), state)

    def blobs(self) -> list[NamedBlob]:
        return [NamedBlob(Digest.parse(digest), size) for digest, size in move_source.blobs(self.source)]


@dataclass(frozen=True, slots=True)
class _OwnBucket:
    """The reserved prefix of the target. `registry`: the ID in `owner`, its owner object."""

    client: ObjectClient
    registry: str
    owner: SmallObject


def plan_move(source: Path, settings: Settings) -> MoveResult:
    """Check what can be checked without a change, and count. Raises: MoveRefused, TargetInUse, Unavailable and others."""
    sides = _sides(source, settings)
    move, fence = _begun(sides)
    state = MoveTarget(sides.database, move).check()
    _check_keys(sides, closed=_is_closed(fence))
    if state is None:
        _check_bucket(sides)
    blobs = sides.blobs()
    found = CopiedBlobs(len(blobs), sum(blob.size for blob in blobs))
    found.copied, found.copied_size = found.blobs, found.size
    findings = file_problems(source, blobs)
    if findings:
        raise BlobsUnusable(findings, closed=_is_closed(fence))
    status = "moved" if state == move_target.COMPLETE else "would be moved"
    return MoveResult(move, move_source.counts(source), found, status, _notes(sides))


def move_data(source: Path, settings: Settings, progress: Progress) -> MoveResult:
    """Move a registry, or go on with a move that was interrupted.

    Raises:
        MoveRefused, SourceUnusable, TargetInUse, BucketTaken, BucketUnfit: source, target or settings do not fit.
        BlobsUnusable: bytes in the source are missing or damaged.
        LedgerInDoubt: the source is not what its ledger signed.
        MoveDiffers: the copy is not equal to the source. Unavailable, Full: repeat the command.
    """
    sides = _sides(source, settings)
    with _alone(source), _with_state(source):
        move, fence = _begun(sides)
        target = MoveTarget(sides.database, move)
        state = target.check()
        if state == move_target.COMPLETE:
            blobs = sides.blobs()
            return _finished(sides, move, CopiedBlobs(len(blobs), sum(blob.size for blob in blobs)))
        if state is None and _is_closed(fence):
            raise MoveRefused(
                f"{sides.database} has nothing of the move of {source}, which was closed for it: it may be another database of that "
                "name, and the moved registry may go on elsewhere; name the database of the move"
            )
        _check_keys(sides, closed=_is_closed(fence))
        check_mark(settings.storage)
        check_locks(settings.storage)
        if state is None:
            _check_bucket(sides)
        client = open_bucket(settings)
        check_conditions(client, str(sides.bucket))
        if fence is None:
            put_fence(source, sides.fence(move, COPYING))
        claim = target.claim(new_id())
        owner = reserve(client, claim.registry, str(sides.bucket), former=claim.former)
        bucket = _OwnBucket(client, claim.registry, owner)
        copied = _copy(sides, target, bucket, move, progress, closed=_is_closed(fence))
        return _finished(sides, move, copied)


def undo_move(source: Path, settings: Settings) -> str:
    """Close the target, and let the source take writes again. Return the ID of the move. Idempotent.

    Raises: WrittenAfterMove: the target took a write. TargetInUse: it is not the target any more. MoveRefused, Unavailable.
    """
    sides = _sides(source, settings)
    with _alone(source):
        move, fence = _begun(sides)
        if fence is None:
            raise MoveRefused(f"{source} is not being moved and was not moved; there is nothing to undo")
        MoveTarget(sides.database, move).undo(claimed=_is_closed(fence))
        remove_fence(source)
    return move


def _copy(
    sides: _Move, target: MoveTarget, bucket: _OwnBucket, move: str, progress: Progress, *, closed: bool
) -> CopiedBlobs:
    """Steps 2 to 6."""
    done = set[NamedBlob]()
    database = move_source.open_source(sides.source, now_us)
    try:
        signers = [Integrator(database, _keys(sides, log), log) for log in (LEDGER, OBSERVATIONS)]
        for each in signers:
            each.check()
        copied = CopiedBlobs()
        if not closed:
            blobs = sides.blobs()
            copied = copy_blobs(sides.source, blobs, bucket.client, target, progress)
            _refuse_unusable(sides, copied, closed=False)
            unusable = {each.digest for each in copied.unusable}
            done.update(blob for blob in blobs if blob.digest not in unusable)
            move_source.close_to_writes(sides.source, sides.fence(move, MOVING))
        for each in signers:
            each.integrate()
        rest = [blob for blob in sides.blobs() if blob not in done]
        later = copy_blobs(sides.source, rest, bucket.client, target, progress)
        _refuse_unusable(sides, later, closed=True)
        _copy_keys(sides)
        notes = {log: note for log in (LEDGER, OBSERVATIONS) if (note := _publish(sides, database, log)) is not None}
    finally:
        database.close()
    for log, note in notes.items():
        _set_mark(sides, log, note)
    with move_source.rows(sides.source) as rows:

        def check(snapshot: Snapshot) -> None:
            _check_trees(sides, notes, snapshot)
            take_over(bucket.client, bucket.registry, str(sides.bucket), bucket.owner)

        target.complete(rows, check, progress)
    return CopiedBlobs(
        copied.blobs + later.blobs,
        copied.size + later.size,
        copied.copied + later.copied,
        copied.copied_size + later.copied_size,
    )


def _finished(sides: _Move, move: str, copied: CopiedBlobs) -> MoveResult:
    """Step 7, and the target's data folder."""
    put_fence(sides.source, sides.fence(move, MOVED))
    prepare_metadata(sides.settings.server.data, sides.settings.storage)
    with open_metadata(sides.settings) as database:
        ObjectManifests(database, open_bucket(sides.settings)).write_missing()
    return MoveResult(move, move_source.counts(sides.source), copied, "moved", _notes(sides))


def _sides(source: Path, settings: Settings) -> _Move:
    storage = settings.storage
    if storage.database is None or storage.blobs is None:
        missing = "database" if storage.database is None else "blobs"
        raise MoveRefused(
            f"[storage] {missing} is not set: a registry is moved into PostgreSQL and an object store together; name the settings "
            "of the new server with --config"
        )
    data = settings.server.data
    if source.resolve() == data.resolve():
        raise MoveRefused(
            f"[server] data is {data}, the folder to be moved; give the new server another folder with --data or in its settings"
        )
    move_source.check_source(source)
    return _Move(source, settings, storage.database, storage.blobs)


@contextmanager
def _alone(source: Path) -> Iterator[None]:
    leases = FileLeases(source)
    try:
        if leases.acquire(LEASE) is None:
            raise MoveRefused(f"another command moves {source} now; wait for it, or end it first")
        yield
    finally:
        leases.close()


@contextmanager
def _with_state(source: Path) -> Iterator[None]:
    """Add to the message of a failure whether the source takes pushes, and what to do."""
    try:
        yield
    except (Full, Unavailable) as error:
        if not isinstance(error, BlobsUnusable):
            fence = read_fence(source)
            state = "stays read-only" if _is_closed(fence) else "still takes pushes"
            undo = "" if fence is None else ", or undo the move (--undo)"
            error.message = f"{error.message}; the source {state}: repeat the command to go on{undo}"
        raise


def _begun(sides: _Move) -> tuple[str, Fence | None]:
    """Return the ID of the move that was begun, or of a new one. Raises: MoveRefused: it has another target."""
    fence = read_fence(sides.source)
    if fence is None:
        return uuid.uuid4().hex, None
    if (fence.database, fence.blobs) != (str(sides.database), str(sides.bucket)):
        raise MoveRefused(
            f"{sides.source} is being moved, or was moved, to {fence.database} and {fence.blobs}, and the settings name "
            f"{sides.database} and {sides.bucket}; use the settings of that move, also to undo it"
        )
    return fence.move, fence


def _is_closed(fence: Fence | None) -> bool:
    """Return whether the source takes no writes. Its target was claimed before, and may have become complete."""
    return fence is not None and fence.state != COPYING


def _check_bucket(sides: _Move) -> None:
    found = foreign_object(open_bucket(sides.settings))
    if found is not None:
        raise MoveRefused(
            f"{sides.bucket} is not empty (it contains {found!r}); name a bucket or prefix that only the new server uses"
        )


def _check_keys(sides: _Move, *, closed: bool) -> None:
    """Refuse a folder of keys of another registry, and a mark of another ledger."""
    for path, content in _key_files(sides):
        target = sides.settings.keys / path.name
        if target.exists() and target.read_bytes() != content:
            raise MoveRefused(
                f"{target} belongs to another registry (it differs from {path}); choose another folder with --data"
            )
    for log in (LEDGER, OBSERVATIONS):
        _check_mark(sides, log, _new_keys(sides, log).mark(), closed=closed)


def _key_files(sides: _Move) -> list[tuple[Path, bytes]]:
    names = sorted(sides.source_keys.iterdir()) if sides.source_keys.is_dir() else []
    return [(path, path.read_bytes()) for path in names if path.is_file() and path.suffix not in (".lock", ".mark")]


def _copy_keys(sides: _Move) -> None:
    folder = sides.settings.keys
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, content in _key_files(sides):
        write_file(Disk(), folder / path.name, content, PRIVATE)


def _keys(sides: _Move, log: Log) -> LedgerKeys:
    keys = LedgerKeys(sides.source_keys)
    return keys if log is LEDGER else keys.of(log.name)


def _verifier(sides: _Move, log: Log) -> VerifierKey:
    key = _keys(sides, log).key()
    if key is None:
        raise move_target.MoveDiffers(
            f"the key of the {log.name} is missing: put it back into {sides.source_keys}, and repeat the command"
        )
    return key.verifier


def _new_keys(sides: _Move, log: Log) -> LedgerKeys:
    keys = open_keys(sides.settings.keys, sides.settings.storage)
    return keys if log is LEDGER else keys.of(log.name)


def _publish(sides: _Move, database: Metadata, log: Log) -> bytes | None:
    """Publish the tree of a log, and return the note of its checkpoint; None if the log was never begun."""
    head, stored = database.read_and_wait(
        lambda snapshot: (ledger_tree.head(snapshot, log=log), ledger_store.head(snapshot, log))
    )
    objects = open_tiles(sides.settings, log)
    if head is None or stored is None or objects is None:
        return None
    PublishedTree(database, objects, log).publish(stored.origin, head.note, _verifier(sides, log))
    return head.note


def _set_mark(sides: _Move, log: Log, note: bytes) -> None:
    """Set the mark of the new server, which may have the mark of an earlier try. Raises: MoveRefused, LedgerKeyUnreadable."""
    keys = _new_keys(sides, log)
    found = keys.mark()
    if found != note:
        _check_mark(sides, log, found, closed=True)
        keys.put_mark(note, before=found)


def _check_mark(sides: _Move, log: Log, mark: bytes | None, *, closed: bool) -> None:
    """Refuse a mark of the target that the source does not match: of another ledger, or newer than the source.

    Before the source is closed its newest entries may not be signed yet, so a mark that covers them is compared afterwards.
    """
    if mark is None:
        return
    key = _keys(sides, log).key()
    try:
        marked = None if key is None else open_checkpoint(mark, key.verifier).checkpoint
    except Invalid:
        marked = None
    if marked is None:
        raise MoveRefused("the mark of [storage.mark] belongs to another ledger; name another object in its url")
    with move_source.reading(sides.source) as snapshot:
        size, head = ledger_store.size(snapshot, log), ledger_tree.head(snapshot, log=log)
        signed = 0 if head is None else head.size
        root = ledger_tree.root(snapshot, marked.size, signed, log) if marked.size <= signed else marked.root
    if marked.size <= size and root == marked.root:
        return
    state = "it stays read-only: undo the move (--undo)" if closed else "nothing was changed"
    raise MoveRefused(
        f"the mark of [storage.mark] covers {marked.size} entries of the {log.name}, and the source ({size} entries) does not have them: "
        f"the source is an old copy; {state}, and move the newest copy"
    )


def _check_trees(sides: _Move, notes: dict[Log, bytes], snapshot: Snapshot) -> None:
    """Compare the copied trees with the marks. Raises: MoveDiffers."""
    for log, note in notes.items():
        signed = open_checkpoint(note, _verifier(sides, log)).checkpoint
        size = ledger_store.size(snapshot, log)
        if size != signed.size or ledger_tree.root(snapshot, size, size, log) != signed.root:
            raise move_target.MoveDiffers(
                f"the tree of the {log.name} in PostgreSQL is not the one that was signed; nothing was moved: run `boltseal admin "
                f"fsck --data {sides.source}`"
            )


def _refuse_unusable(sides: _Move, copied: CopiedBlobs, *, closed: bool) -> None:
    """Raise BlobsUnusable for blobs that the source needs still: garbage collection may have deleted some since they were listed."""
    if not copied.unusable:
        return
    needed = {blob.digest for blob in sides.blobs()}
    findings = [each.message for each in copied.unusable if each.digest in needed]
    if findings:
        raise BlobsUnusable(findings, closed=closed)


def _notes(sides: _Move) -> list[str]:
    with move_source.reading(sides.source) as snapshot:
        head = ledger_store.head(snapshot)
    if head is None or head.rules == sides.settings.rules.canonical():
        return []
    return [
        "the rules in the settings are not those of the source: the first start of the new server records them, which is its "
        "first write, so that the move can't be undone any more"
    ]
