"""Queries on manifests and blobs. They apply no rules. `links` follows the links between manifests, `unreferenced` has what no
repository refers to any more, `name_lists` lists repositories and tags.

Every query names a repository: a row of another repository is not visible (repository isolation, guarantee 13). Digests go
in and out as text, as they are stored; `registry` parses them. A function that adds or removes a row of a user also
corrects the user's running total (`usage`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from sqlalchemy import (
    and_,
    bindparam,
    delete,
    exists,
    false,
    func,
    insert,
    literal,
    select,
    union,
)

from boltseal.server.storage.batches import IN_AT_ONCE, batches
from boltseal.server.storage.metadata import blob_reviews, bucket_rows, hidden_blobs, unreferenced, usage
from boltseal.server.storage.metadata.links import CONTAINS, REFERS_TO, DigestSet
from boltseal.server.storage.metadata.protocol import BlobFound, ManifestFound, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.schema import blob, content, link, manifest, repository, tag


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """A manifest of a repository, without its bytes. `annotations` is JSON text or None."""

    digest: str
    canonical: str
    media_type: str
    size: int
    subject: str | None
    artifact_type: str | None
    annotations: str | None
    pushed_us: int
    pushed_by: str


class DigestInRepository(NamedTuple):
    """A repository that has a manifest or blob with a digest."""

    repository_id: int
    repository: str
    digest: str


class BlobHolder(NamedTuple):
    """A repository that has a blob, and the blob's size in bytes."""

    repository: str
    size: int


_REPOSITORY_ID = select(repository.c.id).where(repository.c.name == bindparam("name"))
_LOCK_REPOSITORY = _REPOSITORY_ID.with_for_update()
_MANIFEST_COLUMNS = [c for c in manifest.c if c.name != "repository_id"]
_MANIFEST = select(*_MANIFEST_COLUMNS).where(
    manifest.c.repository_id == bindparam("at_repository"), manifest.c.digest == bindparam("at_digest")
)
_MANIFEST_SIZE = "SELECT size FROM manifest WHERE repository_id = ? AND digest = ?"
_HOLDS_BLOB = select(blob.c.size, blob.c.hidden_us.is_not(None)).where(
    blob.c.repository_id == bindparam("at_repository"), blob.c.digest == bindparam("at_digest")
)
_HIDDEN_OR_NAMES = """
SELECT (SELECT hidden_us IS NOT NULL FROM blob WHERE repository_id = ? AND digest = ?),
    EXISTS (SELECT 1 FROM link WHERE repository_id = ? AND child = ?)
"""
_ADD_CONTENT = insert(content).from_select(
    ["canonical", "raw"],
    select(
        bindparam("new_canonical", type_=content.c.canonical.type), bindparam("new_raw", type_=content.c.raw.type)
    ).where(~exists().where(content.c.canonical == bindparam("new_canonical"))),
)


def lock_repository(tx: UnitOfWork, name: str) -> int | None:
    """Return the id of a repository, and lock its row to the end of the transaction; None when nothing was ever pushed to it.

    What one repository holds changes in one transaction at a time: a push that checks references excludes a delete.
    """
    found: int | None = tx.sql.connection.execute(_LOCK_REPOSITORY, {"name": name}).scalar_one_or_none()
    return found


def ensure_repository(tx: UnitOfWork, name: str, by: str | None) -> int:
    """Return the id of a repository. Creates it, and counts it for the user `by`, when there is none."""
    found = lock_repository(tx, name)
    if found is not None:
        return found
    made: int = tx.sql.connection.execute(
        insert(repository).values(name=name, created_us=tx.now_us, created_by=by).returning(repository.c.id)
    ).scalar_one()
    usage.add(tx, by, 0, repositories=1)
    return made


def repository_exists(snapshot: Snapshot, name: str) -> bool:
    """Return whether anything was ever pushed to a repository."""
    return snapshot.sql.connection.execute(_REPOSITORY_ID, {"name": name}).first() is not None


def find_manifest(snapshot: Snapshot, repository_id: int, digest: str) -> ManifestRow | None:
    """Return a manifest of this repository, or None."""
    row = snapshot.sql.connection.execute(
        _MANIFEST, {"at_repository": repository_id, "at_digest": digest}
    ).one_or_none()
    return None if row is None else ManifestRow(**row._mapping)


def manifest_size(tx: UnitOfWork, repository_id: int, digest: str) -> int:
    """Return the size in bytes of a manifest of this repository, 0 when there is none. Every entry needs it: plain text."""
    row = tx.sql.plain(_MANIFEST_SIZE, (repository_id, digest)).fetchone()
    return 0 if row is None else int(row[0])


def digest_with_prefix(tx: UnitOfWork, repository_id: int, beginning: str) -> str | None:
    """Return the digest of a manifest of this repository that begins with a text, or None."""
    query = select(manifest.c.digest).where(
        manifest.c.repository_id == repository_id,
        manifest.c.digest >= beginning,
        manifest.c.digest < beginning + "g",  # sorts after every hex digit
    )
    return tx.sql.connection.execute(query.limit(1)).scalar_one_or_none()


def media_types_of(tx: UnitOfWork, repository_id: int, canonical: str) -> set[str]:
    """Return the media types under which this repository has these bytes, by any digest."""
    return set(
        tx.sql.connection.execute(
            select(manifest.c.media_type).where(
                manifest.c.repository_id == repository_id, manifest.c.canonical == canonical
            )
        ).scalars()
    )


def manifest_bytes(tx: UnitOfWork, repository_id: int, digest: str) -> ManifestFound | None:
    """Return a manifest of this repository, or None."""
    query = select(manifest.c.media_type, content.c.raw).join(content, content.c.canonical == manifest.c.canonical)
    query = query.where(manifest.c.repository_id == repository_id, manifest.c.digest == digest)
    row = tx.sql.connection.execute(query).first()
    return None if row is None else ManifestFound(row[0], row[1])


def add_manifest(
    tx: UnitOfWork, repository_id: int, row: ManifestRow, raw: bytes, links: Iterable[tuple[str, str]]
) -> None:
    """Add a manifest with its bytes and its links, given as (child digest, kind)."""
    tx.sql.connection.execute(_ADD_CONTENT, {"new_canonical": row.canonical, "new_raw": raw})
    values = {name: getattr(row, name) for name in ManifestRow.__slots__}
    tx.sql.connection.execute(insert(manifest), {"repository_id": repository_id, **values})
    usage.add(tx, row.pushed_by, row.size)
    pairs = [
        {"repository_id": repository_id, "parent": row.digest, "child": child, "kind": kind}
        for child, kind in sorted(set(links))
    ]
    if pairs:
        tx.sql.connection.execute(insert(link), pairs)


def add_alias(tx: UnitOfWork, repository_id: int, digest: str, other: str) -> None:
    """Add the manifest `digest` also under `other`, another digest of the same bytes, with its links."""
    row = find_manifest(tx, repository_id, digest)
    if row is None:
        return
    links = select(link.c.child, link.c.kind).where(link.c.repository_id == repository_id, link.c.parent == digest)
    pairs = [(child, kind) for child, kind in tx.sql.connection.execute(links).all()]
    if find_manifest(tx, repository_id, other) is not None:
        for child, kind in pairs:
            if kind in REFERS_TO:
                add_link(tx, repository_id, other, child, kind)
        return
    stored = manifest_bytes(tx, repository_id, digest)
    add_manifest(tx, repository_id, replace(row, digest=other), stored.raw if stored else b"", pairs)


def add_link(tx: UnitOfWork, repository_id: int, parent: str, child: str, kind: str) -> None:
    """Add a link if there is none yet."""
    key = {"repository_id": repository_id, "parent": parent, "child": child, "kind": kind}
    there = tx.sql.connection.execute(select(literal(1)).where(*(link.c[name] == value for name, value in key.items())))
    if there.first() is None:
        tx.sql.connection.execute(insert(link), key)


def remove_manifest(tx: UnitOfWork, repository_id: int, digest: str) -> None:
    """Remove a manifest and its links, and its bytes if no repository refers to them any more."""
    row = find_manifest(tx, repository_id, digest)
    if row is None:
        return
    here = and_(manifest.c.repository_id == repository_id, manifest.c.digest == digest)
    blob_reviews.add_parts(tx, repository_id, [digest])
    tx.sql.connection.execute(delete(link).where(link.c.repository_id == repository_id, link.c.parent == digest))
    tx.sql.connection.execute(delete(manifest).where(here))
    bucket_rows.remove_manifest(tx, repository_id, digest)
    usage.add(tx, row.pushed_by, -row.size)
    tx.sql.connection.execute(
        delete(content).where(
            content.c.canonical == row.canonical, ~exists().where(manifest.c.canonical == row.canonical)
        )
    )


def find_blob(tx: UnitOfWork, repository_id: int, digest: str) -> BlobFound | None:
    """Return a blob of this repository, hidden or not, or None."""
    row = tx.sql.connection.execute(_HOLDS_BLOB, {"at_repository": repository_id, "at_digest": digest}).one_or_none()
    return None if row is None else BlobFound(row[0], row[1])


def add_blob(tx: UnitOfWork, repository_id: int, digest: str, size: int, by: str) -> bool:
    """Add a blob to this repository. Returns False if the repository has it already; a hidden one becomes visible again."""
    hidden, is_named = tx.sql.plain(_HIDDEN_OR_NAMES, (repository_id, digest) * 2).fetchone()
    if hidden is not None:
        if hidden:
            hidden_blobs.keep(tx, repository_id, [digest])
        return False
    row = {"repository_id": repository_id, "digest": digest, "size": size, "added_us": tx.now_us, "added_by": by}
    tx.sql.connection.execute(insert(blob), row)
    usage.add(tx, by, size)
    if is_named:
        bucket_rows.note_changed(tx, repository_id, [digest])
    return True


def remove_blob(tx: UnitOfWork, repository_id: int, digest: str) -> None:
    """Remove a blob from this repository; if no repository has it any more, record the time (`unreferenced.released_since`)."""
    here = and_(blob.c.repository_id == repository_id, blob.c.digest == digest)
    row = tx.sql.connection.execute(select(blob.c.added_by, blob.c.size, blob.c.hidden_us).where(here)).one_or_none()
    if row is not None:
        tx.sql.connection.execute(delete(blob).where(here))
        if row.hidden_us is None:
            usage.add(tx, row.added_by, -row.size)
        bucket_rows.note_changed(tx, repository_id, [digest])
    if not unreferenced.is_blob_referenced(tx, digest):
        unreferenced.note_released(tx, digest, tx.now_us)
        blob_reviews.add_released(tx, [digest])


def rows_of_any_repository(snapshot: Snapshot, digests: Collection[str]) -> list[DigestInRepository]:
    """Return the rows of all repositories with the bytes of one of these digests, sorted.

    Manifests under another digest of the same bytes are found by the sha256 one. Not for a write, since all may have them.
    """
    found: set[DigestInRepository] = set()
    others = [digest for digest in digests if not digest.startswith("sha256:")]
    by_index = (manifest.c.canonical, digests), (blob.c.digest, digests)
    by_key = (manifest.c.digest, others)  # looks into every repository, since almost none has such a digest
    for column, wanted in (*by_index, by_key):
        table = column.table
        query = select(repository.c.id, repository.c.name, table.c.digest).join(
            table, table.c.repository_id == repository.c.id
        )
        for some in batches(wanted, IN_AT_ONCE):
            rows = snapshot.sql.connection.execute(query.where(column.in_(some)))
            found.update(DigestInRepository(*row) for row in rows)
    return sorted(found)


def has_blobs(snapshot: Snapshot) -> bool:
    """Return whether any repository has a blob."""
    return snapshot.sql.connection.execute(select(blob.c.digest).limit(1)).first() is not None


def repositories_with_blob(snapshot: Snapshot, digest: str, source: str | None) -> Iterator[BlobHolder]:
    """Yield the repositories in which clients see a blob. `source`: only this one; None: any, maybe all, so not in a write."""
    query = select(repository.c.name, blob.c.size).join(blob, blob.c.repository_id == repository.c.id)
    query = query.where(blob.c.digest == digest, blob.c.hidden_us.is_(None))
    if source is not None:
        query = query.where(repository.c.name == source)
    return (BlobHolder(*row) for row in snapshot.sql.connection.execute(query))


class NumberedRepository(NamedTuple):
    """A repository's number in the database, and its name."""

    number: int
    name: str


def some_with_blob(snapshot: Snapshot, digest: str, after_id: int, limit: int) -> list[NumberedRepository]:
    """Return at most `limit` of the repositories in which clients see a blob, by number, from `after_id` + 1 on."""
    query = select(blob.c.repository_id, repository.c.name).join(repository, blob.c.repository_id == repository.c.id)
    query = query.where(blob.c.digest == digest, blob.c.repository_id > after_id, blob.c.hidden_us.is_(None))
    rows = snapshot.sql.connection.execute(query.order_by(blob.c.repository_id).limit(limit))
    return [NumberedRepository(*row) for row in rows]


def has_aliases(snapshot: Snapshot, repository_id: int) -> bool:
    """Return whether this repository has a manifest under another digest than the sha256 of its bytes. Almost none has."""
    query = select(literal(1)).where(manifest.c.repository_id == repository_id)
    # A range of the key. ";" sorts directly after ":".
    return (
        snapshot.sql.connection.execute(query.where(manifest.c.digest.between("sha512:", "sha512;")).limit(1)).first()
        is not None
    )


def aliases_within(tx: UnitOfWork, repository_id: int, which: DigestSet) -> set[str]:
    """Return the other digests of the manifests of this repository that have a digest of the set."""
    other = and_(manifest.c.repository_id == repository_id, manifest.c.digest != manifest.c.canonical)
    here, there = manifest.c.digest.in_(which.query), manifest.c.canonical.in_(which.query)
    found = tx.sql.connection.execute(
        union(select(manifest.c.canonical).where(other, here), select(manifest.c.digest).where(other, there))
    )
    return set(found.scalars())


def digests_of_bytes(snapshot: Snapshot, repository_id: int, canonical: str) -> list[str]:
    """Return every digest under which this repository has the bytes with this sha256, sorted."""
    query = select(manifest.c.digest).where(
        manifest.c.canonical == canonical, manifest.c.repository_id == repository_id
    )
    return list(snapshot.sql.connection.execute(query.order_by(manifest.c.digest)).scalars())


def referrers(
    snapshot: Snapshot,
    name: str,
    subject: str,
    artifact_type: str | None = None,
    *,
    after: str = "",
    limit: int | None = None,
    max_bytes: int,
) -> dict[str, int]:
    """Return the sizes of at most `limit` manifests after `after` whose subject is this digest, by digest, in order.

    `artifact_type`: only of this type. `max_bytes`: reads one more row after so many bytes of manifests, and no further.
    """
    query = select(manifest.c.digest, manifest.c.size).join(repository, repository.c.id == manifest.c.repository_id)
    query = query.where(repository.c.name == name, manifest.c.subject == subject, manifest.c.digest > after)
    if artifact_type is not None:
        query = query.where(manifest.c.artifact_type == artifact_type)
    query = query.order_by(manifest.c.digest).limit(limit)
    found: dict[str, int] = {}
    total_bytes = 0
    with snapshot.sql.connection.execute(query) as rows:
        for digest, size in rows:
            found[digest] = size
            if total_bytes >= max_bytes:
                break
            total_bytes += size
    return found


def sizes_of(snapshot: Snapshot, name: str, wanted: Iterable[str], artifact_type: str | None = None) -> dict[str, int]:
    """Return the sizes of those manifests that this repository has, by digest. `artifact_type`: only of this type."""
    query = select(manifest.c.digest, manifest.c.size).join(repository, repository.c.id == manifest.c.repository_id)
    query = query.where(repository.c.name == name)
    if artifact_type is not None:
        query = query.where(manifest.c.artifact_type == artifact_type)
    found: dict[str, int] = {}
    for some in batches(wanted, IN_AT_ONCE):
        rows = snapshot.sql.connection.execute(query.where(manifest.c.digest.in_(some)))
        found |= {row.digest: row.size for row in rows}
    return found


def count_referrers(tx: UnitOfWork, repository_id: int, subject: str, most: int) -> int:
    """Return how many manifests of a repository have this subject; counts up to `most`."""
    some = select(literal(1)).where(manifest.c.repository_id == repository_id, manifest.c.subject == subject)
    counted: int = tx.sql.connection.execute(select(func.count()).select_from(some.limit(most).subquery())).scalar_one()
    return counted


def tagged_manifest(snapshot: Snapshot, name: str, tag_name: str) -> ManifestFound | None:
    """Return the manifest that a tag resolves to, or None."""
    query = (
        select(manifest.c.media_type, content.c.raw)
        .join(repository, repository.c.id == manifest.c.repository_id)
        .join(tag, and_(tag.c.repository_id == repository.c.id, tag.c.digest == manifest.c.digest))
        .join(content, content.c.canonical == manifest.c.canonical)
        .where(repository.c.name == name, tag.c.name == tag_name)
    )
    row = snapshot.sql.connection.execute(query).first()
    return None if row is None else ManifestFound(row[0], row[1])


def parent_manifest(snapshot: Snapshot, name: str, child: str) -> ManifestFound | None:
    """Return one manifest of the repository that contains this blob or manifest, or None."""
    query = (
        select(manifest.c.media_type, content.c.raw)
        .join(repository, repository.c.id == manifest.c.repository_id)
        .join(link, and_(link.c.repository_id == repository.c.id, link.c.parent == manifest.c.digest))
        .join(content, content.c.canonical == manifest.c.canonical)
        .where(repository.c.name == name, link.c.child == child, link.c.kind.in_(CONTAINS))
    )
    row = snapshot.sql.connection.execute(query.limit(1)).first()
    return None if row is None else ManifestFound(row[0], row[1])


def parts_of(tx: UnitOfWork, repository_id: int, wanted: Iterable[str]) -> dict[str, BlobFound]:
    """Return those manifests and blobs that this repository has, by digest. A manifest is never hidden."""
    found: dict[str, BlobFound] = {}
    for some in batches(wanted, IN_AT_ONCE):
        for held, hidden in ((manifest, false()), (blob, blob.c.hidden_us.is_not(None))):
            query = select(held.c.digest, held.c.size, hidden).where(held.c.repository_id == repository_id)
            rows = tx.sql.connection.execute(query.where(held.c.digest.in_(some))).all()
            found |= {digest: BlobFound(size, bool(is_hidden)) for digest, size, is_hidden in rows}
    return found


def manifests_of(snapshot: Snapshot, name: str, wanted: Iterable[str]) -> dict[str, ManifestRow]:
    """Return the manifests that this repository has of the given digests, by digest."""
    query = select(*_MANIFEST_COLUMNS).join(repository, repository.c.id == manifest.c.repository_id)
    query = query.where(repository.c.name == name)
    found: dict[str, ManifestRow] = {}
    for some in batches(wanted, IN_AT_ONCE):
        rows = snapshot.sql.connection.execute(query.where(manifest.c.digest.in_(some)))
        found |= {row.digest: ManifestRow(**row._mapping) for row in rows}
    return found
