"""Steps of `admin fsck` that read what was pushed: manifests, links, blobs, and unreferenced data.

Every function collects its findings and raises only if the database can't be read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Final

from sqlalchemy import RowMapping, and_, bindparam, func, select

from boltseal.errors import BoltsealError, Invalid, operators_message
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.oci.reference import Repository
from boltseal.server.storage.blobs.protocol import BlobAbsent, BlobMaintenance, DifferenceKind, StoreUnanswered
from boltseal.server.storage.findings import FindingCollector
from boltseal.server.storage.fsck_position import FsckPosition
from boltseal.server.storage.metadata import unreferenced
from boltseal.server.storage.metadata.protocol import Snapshot
from boltseal.server.storage.metadata.schema import blob, content, link, manifest, repository

_LINKS: Final = select(link.c.child, link.c.kind).where(
    link.c.repository_id == bindparam("at_repository"),
    link.c.parent == bindparam("at_parent"),
    link.c.kind != "signature-tag",
)
_NAMED: Final = select(blob.c.digest).where(blob.c.digest == bindparam("at_digest")).limit(1)
BLOBS_AT_ONCE: Final = 500
MAX_UNANSWERED: Final = 3
"""After so many blobs in a row that a store did not answer for, the others are not tried: each would be retried for a while."""
SHOW_EVERY_BYTES: Final = 64 * 1024 * 1024

AT_ONCE: Final = 8
"""How many manifests are expected in memory; one may have 4 MiB."""


def manifests(snapshot: Snapshot, findings: FindingCollector) -> None:
    """Check every manifest row against its bytes, and that nothing is left of removed manifests."""
    total = snapshot.sql.connection.execute(select(func.count()).select_from(manifest)).scalar_one()
    query = (
        select(repository.c.name.label("repository"), manifest, content.c.raw)
        .join(repository, repository.c.id == manifest.c.repository_id)
        .join(content, content.c.canonical == manifest.c.canonical, isouter=True)
        .execution_options(yield_per=AT_ONCE)
    )
    for number, row in enumerate(snapshot.sql.connection.execute(query).mappings(), start=1):
        findings.count("manifests")
        for problem in _manifest_problems(snapshot, row):
            findings.differs(f"{row['repository']}@{row['digest']}", problem)
        findings.passed("manifests", number, total)
    _check_unreferenced(snapshot, findings)
    for name in snapshot.sql.connection.execute(select(repository.c.name)).scalars():
        try:
            Repository(name)
        except Invalid as error:
            findings.differs(f"repository {name!r}", error.message)


def _manifest_problems(snapshot: Snapshot, row: RowMapping) -> Iterator[str]:
    raw = row["raw"]
    if not isinstance(raw, bytes):  # NULL, or text that was written by hand
        yield "the manifest's bytes are missing"
        return
    try:
        digest = Digest.parse(row["digest"])
    except Invalid as error:
        yield f"the row's digest can't be read: {error}"
        return
    if Digest.of(raw, digest.algorithm) != digest:
        yield f"the bytes have digest {Digest.of(raw, digest.algorithm)}"
        return
    if str(Digest.of(raw)) != row["canonical"]:
        yield f"the bytes have sha256 {Digest.of(raw)}, the row says {row['canonical']}"
    if len(raw) != row["size"]:
        yield f"the bytes are {len(raw)}, the row says {row['size']}"
    try:
        parsed = parse_manifest(raw, row["media_type"])
    except Invalid as error:
        yield f"the bytes can't be read as {row['media_type']}: {error}"
        return
    yield from _referrer_problems(row, parsed)
    links = snapshot.sql.connection.execute(_LINKS, {"at_repository": row["repository_id"], "at_parent": row["digest"]})
    written = {(child, kind) for child, kind in links.all()}
    recorded = {(str(reference.descriptor.digest), str(reference.kind)) for reference in parsed.references()}
    if written != recorded:
        yield f"the links differ from the bytes in {', '.join(sorted({child for child, _ in written ^ recorded})[:3])}"


def _referrer_problems(row: RowMapping, parsed: Manifest) -> Iterator[str]:
    """Check the columns from which referrers are answered without reading the bytes again."""
    subject = None if parsed.subject is None else str(parsed.subject.digest)
    if row["subject"] != subject:
        yield f"the row's subject is {row['subject'] or 'nothing'}, the bytes say {subject or 'nothing'}"
    if row["artifact_type"] != parsed.artifact_type:
        yield f"the row's artifact type is {row['artifact_type']!r}, the bytes say {parsed.artifact_type!r}"
    try:
        annotations = json.loads(row["annotations"] or "{}")
    except ValueError:
        annotations = None
    if annotations != parsed.annotations:
        yield "the row's annotations are not those of the bytes"


def _check_unreferenced(snapshot: Snapshot, findings: FindingCollector) -> None:
    unnamed = select(content.c.canonical).where(~select(1).where(manifest.c.canonical == content.c.canonical).exists())
    for canonical in snapshot.sql.connection.execute(unnamed).scalars():
        findings.differs(canonical, "manifest bytes that no repository refers to")
    parent = and_(manifest.c.repository_id == link.c.repository_id, manifest.c.digest == link.c.parent)
    dangling = (
        select(repository.c.name, link.c.parent, link.c.child)
        .join(repository, repository.c.id == link.c.repository_id)
        .where(~select(1).where(parent).exists())
    )
    for name, gone, child in snapshot.sql.connection.execute(dangling).all():
        findings.differs(f"{name}@{gone}", f"a link to {child} is left of this manifest, which was removed")


def blob_rows(snapshot: Snapshot, findings: FindingCollector) -> None:
    """Check that repositories agree on the size of each blob."""
    sizes = select(blob.c.digest, func.min(blob.c.size), func.max(blob.c.size)).group_by(blob.c.digest)
    query = sizes.having(func.min(blob.c.size) != func.max(blob.c.size)).order_by(blob.c.digest)
    for digest, smallest, largest in snapshot.sql.connection.execute(query).all():
        findings.differs(digest, f"one repository says the blob has {smallest} bytes, another says {largest}")


def blobs(
    snapshot: Snapshot,
    store: BlobMaintenance,
    findings: FindingCollector,
    position: FsckPosition,
    *,
    hashed: bool = False,
) -> bool:
    """Check every blob that must be stored, reading all of its bytes; twice before a problem is reported.

    `hashed`: its bytes were hashed already, so they are not read. Return False if the store does not answer: the rest of it was
    not checked, which is a finding.
    """
    after = position.start_of("blobs")
    if after is None:
        return True
    by_digest = select(blob.c.digest, func.min(blob.c.size).label("size")).group_by(blob.c.digest)
    total = snapshot.sql.connection.execute(select(func.sum(by_digest.subquery().c.size))).scalar_one() or 0
    done = saved = findings.counted.get("blob_bytes", 0)
    page = by_digest.order_by(blob.c.digest).limit(BLOBS_AT_ONCE)
    unanswered = 0
    while rows := snapshot.sql.connection.execute(page.where(blob.c.digest > after)).all():
        for text, size in rows:
            findings.count("blobs")
            findings.count("blob_bytes", size)
            if not (hashed and _has_size(store, text, size)):
                answered = _blob(snapshot, store, text, size, findings, _BlobProgress(findings, done, total))
                unanswered = 0 if answered else unanswered + 1
            if unanswered >= MAX_UNANSWERED:
                findings.unknown(
                    "store",
                    "could not check the other blobs: the store does not answer; run this again when it does, with --position to go on "
                    "from here",
                )
                return False
            done, after = done + size, text
            findings.passed("blobs", done, total, every=1)
            if not unanswered and (done - saved >= position.saved_every_bytes or text == rows[-1][0]):
                position.reached("blobs", text, findings)
                saved = done
    return True


def _has_size(store: BlobMaintenance, text: str, size: int) -> bool:
    try:
        found = store.look(Digest.parse(text))
    except BoltsealError:  # reported by the check of the bytes
        return False
    return found is not None and found.size == size


class _BlobProgress:
    """Reports progress within a big blob."""

    def __init__(self, findings: FindingCollector, done: int, total: int) -> None:
        self._findings, self._done, self._total = findings, done, total

    def read(self, count: int) -> None:
        if count % SHOW_EVERY_BYTES == 0:
            self._findings.passed("blobs", self._done + count, self._total, every=1)


def _blob(
    snapshot: Snapshot,
    store: BlobMaintenance,
    text: str,
    size: int,
    findings: FindingCollector,
    progress: _BlobProgress,
) -> bool:
    """Check one blob. Return False if the store as a whole does not answer."""
    try:
        digest = Digest.parse(text)
    except Invalid as error:
        findings.differs(text, f"the row's digest can't be read: {error}")
        return True
    for _ in range(2):
        try:
            problem = _blob_problem(store, digest, size, progress)
        except BoltsealError as error:
            findings.unknown(text, f"could not read the blob: {operators_message(error)}")
            return not isinstance(error, StoreUnanswered)
        if problem is None or not is_referenced(snapshot, text):
            return True
    findings.differs(text, str(problem))
    return True


def _blob_problem(store: BlobMaintenance, digest: Digest, size: int, progress: _BlobProgress) -> str | None:
    if store.look(digest) is None:
        return "the blob's bytes are missing"
    hasher = digest.hasher()
    read = 0
    try:
        for piece in store.scan(digest):
            hasher.update(piece)
            read += len(piece)
            progress.read(read)
    except BlobAbsent:
        return "the blob's bytes are missing"
    if read != size:
        return f"the blob has {read} bytes, the row says {size}"
    if hasher.hexdigest() != digest.hex:
        return f"the blob's bytes have digest {digest.algorithm}:{hasher.hexdigest()}"
    return None


def is_referenced(snapshot: Snapshot, digest: str) -> bool:
    """Return whether a row refers to the blob now."""
    return snapshot.sql.connection.execute(_NAMED, {"at_digest": digest}).first() is not None


def names(snapshot: Snapshot, store: BlobMaintenance, findings: FindingCollector, position: FsckPosition) -> None:
    """Count what no row refers to, and report what is foreign, missing or of another size than its row says."""
    try:
        _count_unreferenced(snapshot, store, findings, position)
        after = position.start_of("names")
        for page in () if after is None else store.compare(after, contents=True):
            findings.count("names", page.names)
            for each in page.differences:
                if each.kind is DifferenceKind.UNREFERENCED:
                    findings.count("unnamed_objects")
                else:
                    findings.differs(each.name, each.problem)
            if page.names:
                findings.passed("names", findings.counted["names"], 0, every=1)
            position.reached("names", page.position, findings)
    except BoltsealError as error:
        findings.unknown("store", f"could not look through the store: {operators_message(error)}")


def _count_unreferenced(
    snapshot: Snapshot, store: BlobMaintenance, findings: FindingCollector, position: FsckPosition
) -> None:
    after = position.start_of("stored")
    if after is None:
        return
    walk = store.walk(after)
    while stored := list(islice(walk, BLOBS_AT_ONCE)):
        needed = unreferenced.referenced(snapshot, [str(each.digest) for each in stored])
        for each in stored:
            if str(each.digest) not in needed:
                findings.count("unnamed_blobs")
                findings.count("unnamed_bytes", each.size)
        position.reached("stored", str(stored[-1].digest), findings)
