"""What people and programs say of an image that is here: it was built so, its rebuild was asked for, it was released.

A record is an entry of the ledger, in the one order with all others, and changes nothing: no tag, no protection. Who says
it may push to the repository; the image has to be in it, and a tag that is named has to mean it, or have meant it once.
What else is said (`extra`) is the teller's word, and nobody else's.

A record is no link of its name's chain: `previous` is the last entry that changed the name, and no later change points
to a record (docs/adr/0016).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

from boltseal.errors import ErrorCode, Invalid, quote
from boltseal.ledger.entry import RECORDS, EntryKind
from boltseal.server.registry import sequencer
from boltseal.server.registry.models import RepositoryRow
from boltseal.server.registry.pulls import ManifestUnknown
from boltseal.server.registry.restores import NeverResolved, changes_of
from boltseal.server.storage.metadata import queries

if TYPE_CHECKING:
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Repository, Tag
    from boltseal.server.auth.actor import Actor
    from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork

MAX_KEYS: Final = 40
MAX_EXTRA_BYTES: Final = 8 * 1024
MAX_REASON_BYTES: Final = 500


class RecordInvalid(Invalid):
    """Something that is no record, or a longer one than is kept for ever."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """What is said of a manifest. RecordInvalid when it is another kind than a record has, or too long.

    `tag`: the name that it is about, None for the manifest under any. `extra`: more, by key, as entries have it.
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
            raise RecordInvalid(f"extra has {len(self.extra)} keys; at most {MAX_KEYS} are kept")
        if len(self.reason.encode("utf-8", "surrogatepass")) > MAX_REASON_BYTES:
            raise RecordInvalid(f"reason is longer than {MAX_REASON_BYTES} bytes")
        size = sum(len(f"{key}{text}".encode("utf-8", "surrogatepass")) for key, text in self.extra.items())
        if size > MAX_EXTRA_BYTES:
            raise RecordInvalid(f"extra has {size} bytes; at most {MAX_EXTRA_BYTES} are kept")


class Records:
    """Takes records in."""

    def __init__(self, database: Metadata) -> None:
        self._database = database

    async def record(self, repository: Repository, said: LedgerRecord, actor: Actor) -> int:
        """Write it down; the index of its entry. ManifestUnknown, NeverResolved, EntryInvalid, LedgerFrozen, ClockBehind."""
        return await self._database.write(lambda tx: _record(tx, repository, said, actor))


def _record(tx: UnitOfWork, repository: Repository, said: LedgerRecord, actor: Actor) -> int:
    found = queries.lock_repository(tx, repository)
    row = None if found is None else queries.find_manifest(tx, found, str(said.digest))
    if found is None or row is None:
        raise ManifestUnknown(f"{repository} holds no {said.digest}: push it first")
    previous = -1 if said.tag is None else _last_change(tx, RepositoryRow(repository, found), said.tag, said.digest)
    return sequencer.append(
        tx,
        said.kind,
        repository=repository,
        tag=said.tag,
        digest=str(said.digest),
        media_type=row.media_type,
        size_bytes=row.size,
        previous=previous,
        actor=actor.name,
        reason=said.reason,
        extra=said.extra,
    )


def _last_change(tx: UnitOfWork, place: RepositoryRow, tag: Tag, digest: Digest) -> int:
    """The index of the last entry that changed a tag, which must have meant the digest at some time. NeverResolved."""
    meant, last = False, -1
    for index, entry in changes_of(tx, place, tag):
        meant, last = meant or entry.digest == str(digest), index
    if not meant:
        raise NeverResolved(f"tag {tag} of {place.repository} never meant {digest}; see `boltseal history`")
    return last
