"""Check a whole store. Read-only, beside a running server or without one; repairs nothing.

Steps:

1. The database: its own check of pages, indexes and references.
2. The ledger: every entry is canonical and in its place, none is missing, times rise, each refers to the previous entry of
   its tag; no sealed tag has two digests; the columns beside a line are what the line says; the tree is over these lines,
   and its root is the one that was signed (`fsck_tree`). Then the log of observations, likewise.
3. The tags: each row is what the ledger's last entry of the tag says.
4. The manifests: the bytes are stored and have that digest, size, canonical digest and media type; links and what referrers
   show are what the bytes say; nothing is left of removed manifests.
5. Everything that sealed tags need is stored, and signature tags are linked to what they sign.
6. The running totals of users are the sums of the rows.
7. What the running server keeps for itself: waiting events, upload sessions, failed logins, users,
   unfinished purges (`fsck_state`).
8. The blobs: every row has a file of that size whose bytes have that digest.
9. The bucket, if there is one, is this registry's (`bucket_owner`). All names in the store: no file or object is foreign, and
   in an object store every object that a row names is there and has its size. What a lost database is rebuilt from has the
   content that the rows say. Unreferenced blobs and objects are counted. They are no fault: refused pushes leave them, and
   `boltseal admin gc` deletes them, or with `--full` what no row names.

Steps 1 to 7 read one snapshot of the database. Steps 8 and 9 go through blobs and names in pages, in order, and can be continued
(`fsck_position`). Blobs are read after the snapshot, and a blob that is not as it must be is read again
before it is reported: the server may have deleted or replaced it meanwhile. What can't be examined is a finding of its own,
and the rest is examined anyway.

An attacker who can write the data folder and the keys and rewrites everything consistently is not detected here. That needs
a checkpoint that another party kept. Steps 4, 8 and 9 are in `fsck_content`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

from sqlalchemy import RowMapping, func, select

from boltseal.errors import Unavailable, operators_message
from boltseal.ledger.audit import Audit, AuditedTag, ObservationAudit
from boltseal.ledger.entry import Entry
from boltseal.oci.digest import Digest
from boltseal.policy.rule_decision import signature_subject
from boltseal.policy.rules import RuleInvalid
from boltseal.server.storage import fsck_content, fsck_state
from boltseal.server.storage.blobs.protocol import BlobMaintenance
from boltseal.server.storage.bucket_owner import BucketOwner
from boltseal.server.storage.findings import Examined, Finding, FindingCollector, FindingStatus, Progress
from boltseal.server.storage.fsck_position import FsckPosition
from boltseal.server.storage.fsck_tree import TreeCheck
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata import foreign_tags, ledger_store, links, usage
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, Log, Snapshot
from boltseal.server.storage.metadata.schema import TABLES, link, manifest, repository, tag
from boltseal.server.storage.metadata.sql import DatabaseDamaged
from boltseal.server.storage.metadata.sqlite_types import hide_wrong_types, wrong_types
from boltseal.server.storage.metadata.tag_row import matches_keep

BUCKET: Final = "bucket"
"""What a finding about the whole bucket is of."""

__all__ = ["BUCKET", "Examined", "Finding", "FindingStatus", "Progress", "examine"]


def examine(
    database: AbstractContextManager[Snapshot],
    blobs: BlobMaintenance,
    progress: Progress = lambda *_: None,
    keys: LedgerKeys | None = None,
    *,
    hashed: bool = False,
    position: FsckPosition | None = None,
    owner: BucketOwner | None = None,
) -> Examined:
    """Check a whole store and return what was found.

    `owner`: the owner object of the bucket, None if there is no bucket, or if it is not given to this registry yet.
    `position`: where to continue with the blobs and names of the store. `hashed`: the blobs were hashed a moment ago, so only their
    presence and size are checked.
    `database`: yields a snapshot of it, read-only. `keys`: key and mark of the ledger; without them what was signed is compared,
    but not who signed it.

    Raises: Unavailable: the database can't be opened at all.
    """
    findings = FindingCollector(progress)
    with database as snapshot:
        _wrong_types(snapshot, findings)  # before a transaction, whose end would bring the rows back
        with snapshot.sql.one_snapshot():
            _rows(snapshot, findings, keys)
        position = position or FsckPosition()
        stored = FindingCollector(progress)
        complete = True
        try:
            with snapshot.sql.errors_named():
                head = ledger_store.head(snapshot)
                position.begin("" if head is None else head.origin)
                stored.add(position.counts, position.findings)
                complete = fsck_content.blobs(snapshot, blobs, stored, position, hashed=hashed)
                if complete:
                    fsck_content.names(snapshot, blobs, stored, position)
        except DatabaseDamaged as error:
            stored.differs("database", error.message)
        findings.add(stored.counted, stored.findings)
        _owner(owner, findings)
    if complete:
        position.end()
    return findings.close()


def _wrong_types(snapshot: Snapshot, findings: FindingCollector) -> None:
    """Report the rows with a value of a wrong type, and leave them out of all other steps, which could not read them."""
    try:
        with snapshot.sql.errors_named():
            wrong = list(wrong_types(snapshot.sql))
            if wrong:
                hide_wrong_types(snapshot.sql)
    except DatabaseDamaged:  # the first step reports it
        return
    for problem in wrong:
        findings.differs("database", f"{problem}, so this row was left out of all other checks: restore a backup")


def _rows(snapshot: Snapshot, findings: FindingCollector, keys: LedgerKeys | None) -> None:
    """Run steps 1 to 7. A step that a damaged database ends does not end the others."""
    steps: list[Callable[[], None]] = [
        lambda: _database(snapshot, findings),
        lambda: _names(snapshot, findings, keys),
        lambda: fsck_content.manifests(snapshot, findings),
        lambda: _sealed(snapshot, findings),
        lambda: _usage(snapshot, findings),
        lambda: fsck_state.state(snapshot, findings),
        lambda: fsck_content.blob_rows(snapshot, findings),
    ]
    for step in steps:
        try:
            with snapshot.sql.errors_named():
                step()
        except DatabaseDamaged as error:
            findings.differs("database", error.message)


def _database(snapshot: Snapshot, findings: FindingCollector) -> None:
    for problem in snapshot.sql.damage():
        findings.differs("database", problem)


def _owner(owner: BucketOwner | None, findings: FindingCollector) -> None:
    """Report a bucket that is not this registry's: all its objects look foreign, or this database is not the one that named them."""
    if owner is None:
        return
    try:
        reason = owner.differs()
    except Unavailable as error:
        findings.unknown(BUCKET, operators_message(error))
    else:
        if reason is not None:
            findings.differs(BUCKET, reason)


def _names(snapshot: Snapshot, findings: FindingCollector, keys: LedgerKeys | None) -> None:
    audit = _log(snapshot, findings, keys, LEDGER, Audit())
    _tags(snapshot, audit, findings)
    observing = None if keys is None else keys.of(OBSERVATIONS.name)
    _foreign_tags(snapshot, _log(snapshot, findings, observing, OBSERVATIONS, ObservationAudit()), findings)


def _log(snapshot: Snapshot, findings: FindingCollector, keys: LedgerKeys | None, log: Log, audit: Audit) -> Audit:
    head = snapshot.sql.connection.execute(select(TABLES[log].head)).mappings().one_or_none()
    size = head["size"] if head else 0
    tree = TreeCheck(snapshot, keys, findings, log)
    rows = snapshot.sql.connection.execute(
        select(TABLES[log].entry).order_by(TABLES[log].entry.c.idx).execution_options(yield_per=1000)
    )
    for number, row in enumerate(rows.mappings(), start=1):
        findings.count("entries" if log is LEDGER else log.name)
        tree.take(row["line"])
        problems = audit.take(row["idx"], row["line"])
        for problem in [*problems, *_beside(row, audit.last)]:
            findings.differs(f"{'entry' if log is LEDGER else 'observation'} {row['idx']}", problem)
        findings.passed(log.name, number, size)
    tree.finish()
    if audit.size != size:
        findings.differs(
            log.name, f"its last entry is {audit.size - 1}, but its head row says that {size} entries were written"
        )
    if head is not None and audit.origin not in ("", head["origin"]):
        findings.differs(log.name, f"its head row has the origin {head['origin']}, its last entry {audit.origin}")
    if head is not None and audit.last_time_us != head["last_time_us"]:
        findings.differs(log.name, "its head row has another time than its last entry")
    if log is LEDGER and head is not None and audit.rules_sha256 != Digest.of(head["rules"].encode()).hex:
        findings.differs("ledger", "its head row has other rules than the last entry about rules")
    return audit


def _foreign_tags(snapshot: Snapshot, audit: Audit, findings: FindingCollector) -> None:
    """Check that what is served of upstreams' tags is what was recorded of them last."""
    seen = set()
    for name, tag_name, row in foreign_tags.all_tags(snapshot):
        seen.add((name, tag_name))
        recorded = audit.names.get((name, tag_name))
        if recorded is None or recorded.index != row.entry_index:
            last = "nothing" if recorded is None else f"entry {recorded.index}"
            findings.differs(
                f"{name}:{tag_name}",
                f"the row is of observation {row.entry_index}, the log's last entry of the tag is {last}",
            )
        elif recorded.digest and recorded.digest != row.digest:
            findings.differs(
                f"{name}:{tag_name}", f"{row.digest or 'nothing'} is served, the log says {recorded.digest}"
            )
    for unseen in sorted(set(audit.names) - seen):
        findings.differs(":".join(unseen), "the log of observations has this tag, but there is no row")


def _beside(row: RowMapping, recorded: Entry | None) -> Iterator[str]:
    """Check that the columns by which entries are searched for are what the line says."""
    if recorded is None:
        return  # reported by the audit
    columns = {
        "time_us": recorded.time_us,
        "kind": str(recorded.kind),
        "repository": recorded.repository,
        "tag": recorded.tag,
    }
    for column, value in columns.items():
        if row[column] != value:
            yield f"the column {column} is {row[column]!r}, the line says {value!r}"


def _tags(snapshot: Snapshot, audit: Audit, findings: FindingCollector) -> None:
    total = snapshot.sql.connection.execute(select(func.count()).select_from(tag)).scalar_one()
    rows = snapshot.sql.connection.execute(
        select(repository.c.name.label("repository"), tag, manifest.c.canonical.label("held_canonical"))
        .join(repository, repository.c.id == tag.c.repository_id)
        .join(
            manifest,
            (manifest.c.repository_id == tag.c.repository_id)
            & (manifest.c.digest == tag.c.digest)
            & (manifest.c.media_type == tag.c.media_type),
            isouter=True,
        )
        .execution_options(yield_per=1000)
    )
    seen = set()
    for number, row in enumerate(rows.mappings(), start=1):
        findings.count("tags")
        seen.add((row["repository"], row["name"]))
        for problem in _tag_problems(row, audit.names.get((row["repository"], row["name"]))):
            findings.differs(f"{row['repository']}:{row['name']}", problem)
        findings.passed("tags", number, total)
    for unseen in sorted(set(audit.names) - seen):
        findings.differs(":".join(unseen), "the ledger has this tag, but there is no row")


def _tag_problems(row: RowMapping, recorded: AuditedTag | None) -> Iterator[str]:
    if recorded is None:
        yield "the tag is there, but the ledger has no entry of it"
        return
    if row["entry_index"] != recorded.index:
        yield f"the row is of entry {row['entry_index']}, the ledger's last entry of the tag is {recorded.index}"
    for column, relation, value in (
        ("digest", "resolves to", recorded.digest),
        ("media_type", "has the media type", recorded.media_type),
        ("sealed_digest", "is sealed at", recorded.bound),
        ("sealed_media_type", "is sealed at the media type", recorded.bound_type),
        ("sealed_by", "was sealed by", recorded.bound_by),
        ("keep", "is kept", recorded.keep),
        ("changed_by", "was changed by", recorded.actor),
    ):
        if (row[column] or "") != value:
            yield f"the tag {relation} {row[column] or 'nothing'}, the ledger says {value or 'nothing'}"
    if row["digest"] and row["held_canonical"] is None:
        yield f"the tag resolves to {row['digest']} ({row['media_type']}), which the repository does not have"
    elif row["digest"] and row["canonical"] != row["held_canonical"]:
        yield f"the tag says its manifest's sha256 is {row['canonical']}, the manifest says {row['held_canonical']}"
    if row["digest"] and row["digest"] == row["sealed_digest"] and row["canonical"] != row["sealed_canonical"]:
        yield f"the tag is sealed at sha256 {row['sealed_canonical']}, but resolves to {row['canonical']}"
    if not _keeps_until(row["keep_until_us"], recorded):
        yield f"the tag is not kept as long as {recorded.keep} says"


def _keeps_until(until_us: int | None, recorded: AuditedTag) -> bool:
    if recorded.settles_us:
        return until_us == recorded.settles_us
    if not recorded.keep:
        return until_us is None
    try:
        return matches_keep(until_us, recorded.keep, recorded.kept_us)
    except RuleInvalid:
        return False


def _sealed(snapshot: Snapshot, findings: FindingCollector) -> None:
    """Check that everything under sealed tags is stored: step 5."""
    live = (
        select(repository.c.name, tag.c.repository_id, tag.c.name, tag.c.digest, tag.c.sealed_digest)
        .join(repository, repository.c.id == tag.c.repository_id)
        .where(tag.c.digest.is_not(None))
        .order_by(tag.c.repository_id, tag.c.digest, tag.c.name)
    )
    looked_at, missing = None, list[str]()
    for name, repository_id, tag_name, digest, sealed in snapshot.sql.connection.execute(live).all():
        if sealed is not None:
            if looked_at != (repository_id, digest):  # a big index may have thousands of tags
                looked_at, missing = (repository_id, digest), links.missing_parts(snapshot, repository_id, digest)
            for absent in missing:
                findings.differs(
                    f"{name}:{tag_name}", f"the sealed tag needs {absent}, which the repository does not have"
                )
        subject = signature_subject(tag_name)
        if subject is not None and not _speaks_of(snapshot, repository_id, digest, str(subject)):
            findings.differs(f"{name}:{tag_name}", f"the tag signs {subject}, but its manifest has no link to it")


def _usage(snapshot: Snapshot, findings: FindingCollector) -> None:
    """Compare the totals of users with their rows: step 6."""
    for user, (total, rows) in usage.wrong_totals(snapshot).items():
        findings.differs(
            f"user {user}",
            f"the total is {total.size_bytes} bytes and {total.repositories} repositories, the rows say "
            f"{rows.size_bytes} and {rows.repositories}; `boltseal admin gc --full` counts again",
        )


def _speaks_of(snapshot: Snapshot, repository_id: int, parent: str, child: str) -> bool:
    here = (link.c.repository_id == repository_id, link.c.parent == parent, link.c.child == child)
    return (
        snapshot.sql.connection.execute(select(link.c.kind).where(*here, link.c.kind == "signature-tag")).first()
        is not None
    )
