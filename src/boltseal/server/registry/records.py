"""Takes statements about stored images: it was built, its rebuild was requested, it was released.

A record is a ledger entry in the same order as all others. It changes no tag and no protection. The actor needs the push
right on the repository. The repository must have the image; a tag that the record names must resolve to it, or have
resolved to it before. The rest (`extra`) is the claim of the actor alone, except the keys by which the registry names a pipeline.

A record is no link of its tag's chain: its `previous` is the last entry that changed the tag, and no later change points
to a record (docs/adr/0016).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

from boltseal.errors import ErrorCode, Invalid, quote
from boltseal.ledger.entry import CHANGES, MAX_TIME_US, RECORDS, EntryKind, parse
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.pipeline_claims import LEDGER_PREFIX
from boltseal.server.auth.actor import Actor
from boltseal.server.registry import sequencer
from boltseal.server.registry.pulls import ManifestUnknown
from boltseal.server.registry.restores import NeverResolved
from boltseal.server.storage.metadata import ledger_store, queries
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork

MAX_KEYS: Final = 40
MAX_EXTRA_BYTES: Final = 8 * 1024
MAX_REASON_BYTES: Final = 500


class RecordInvalid(Invalid):
    """The record has an unknown kind or exceeds a limit."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """A statement about a manifest.

    `tag`: the tag that it is about, None for the manifest itself. `extra`: further keys of the ledger entry.

    Raises:
        RecordInvalid: the kind is not one of a record, or a limit is exceeded.
    """

    kind: EntryKind
    digest: Digest
    tag: Tag | None = None
    reason: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in RECORDS:
            raise RecordInvalid(f"kind is {quote(self.kind)}; expected {', '.join(sorted(RECORDS))}")
        if len(self.extra) > MAX_KEYS:
            raise RecordInvalid(f"extra has {len(self.extra)} keys; expected at most {MAX_KEYS}")
        forged = next((key for key in self.extra if key.startswith(LEDGER_PREFIX)), None)
        if forged is not None:
            raise RecordInvalid(
                f"extra has the key {quote(forged)}; expected none of {LEDGER_PREFIX}*, which the registry writes"
            )
        if len(self.reason.encode("utf-8", "surrogatepass")) > MAX_REASON_BYTES:
            raise RecordInvalid(f"reason is longer than {MAX_REASON_BYTES} bytes")
        size = sum(len(f"{key}{text}".encode("utf-8", "surrogatepass")) for key, text in self.extra.items())
        if size > MAX_EXTRA_BYTES:
            raise RecordInvalid(f"extra has {size} bytes; expected at most {MAX_EXTRA_BYTES}")


class Records:
    """Writes records into the ledger."""

    def __init__(self, database: Metadata) -> None:
        self._database = database

    async def record(self, repository: Repository, record: LedgerRecord, actor: Actor) -> int:
        """Write a record and return the index of its entry.

        Raises:
            ManifestUnknown: the repository does not have the manifest.
            NeverResolved: the tag never resolved to it.
            EntryInvalid, LedgerFrozen, ClockBehind: as `sequencer.append`.
        """
        if record.tag is not None:
            await self._database.read(lambda snapshot: _check_resolved(snapshot, repository, record))
        return await self._database.write(lambda tx: _append(tx, repository, record, actor), repository=repository)


def _append(tx: UnitOfWork, repository: Repository, record: LedgerRecord, actor: Actor) -> int:
    number = queries.lock_repository(tx, repository)
    manifest = None if number is None else queries.find_manifest(tx, number, str(record.digest))
    if number is None or manifest is None:
        raise ManifestUnknown(f"{repository} has no {record.digest}: push it first")
    previous = -1
    if record.tag is not None:
        previous = ledger_store.last_index(tx, repository, record.tag, CHANGES)
    return sequencer.append(
        tx,
        record.kind,
        repository=repository,
        tag=record.tag,
        digest=str(record.digest),
        media_type=manifest.media_type,
        size_bytes=manifest.size,
        previous=previous,
        actor=actor.recorded,
        reason=record.reason,
        extra={**record.extra, **actor.ledger_extra},
    )


def _check_resolved(snapshot: Snapshot, repository: Repository, record: LedgerRecord) -> None:
    """Check that the tag of a record resolves to its digest, or has done so: a tag may have any number of entries.

    Not in the transaction, which all other writes wait for: what an entry says never changes.

    Raises:
        ManifestUnknown: the repository does not have the manifest.
        NeverResolved: the tag never resolved to it.
    """
    if not queries.manifests_of(snapshot, repository, [str(record.digest)]):
        raise ManifestUnknown(f"{repository} has no {record.digest}: push it first")
    newest = ledger_store.newest_entries(
        snapshot, repository, record.tag or "", CHANGES, before_us=MAX_TIME_US + 1, since_us=-1
    )
    if all(parse(line).digest != str(record.digest) for _, line in newest):
        raise NeverResolved(
            f"tag {record.tag} of {repository} never resolved to {record.digest}; see `boltseal history`"
        )
