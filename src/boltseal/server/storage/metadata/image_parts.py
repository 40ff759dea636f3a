"""Queries on many parts of an image at once, in few statements: an index may have twenty thousand platforms.

Each does for a set of digests what `queries` and `links` do for one, within a repository. They apply no rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from sqlalchemy import ColumnElement, Select, delete, exists, insert, select

from boltseal.server.storage.batches import IN_AT_ONCE, batches
from boltseal.server.storage.metadata import blob_reviews, bucket_rows, usage
from boltseal.server.storage.metadata.links import CONTAINS, REFERS_TO
from boltseal.server.storage.metadata.protocol import UnitOfWork
from boltseal.server.storage.metadata.schema import blob, content, link, manifest, released, tag


def children(tx: UnitOfWork, repository_id: int, parents: Collection[str]) -> set[str]:
    """Return what these manifests contain."""
    query = select(link.c.child).where(link.c.repository_id == repository_id, link.c.kind.in_(CONTAINS))
    return _found(tx, query, link.c.parent, parents)


def contained(tx: UnitOfWork, repository_id: int, digests: Collection[str]) -> set[str]:
    """Return those that a manifest contains."""
    return {
        digest
        for digest in digests
        if tx.sql.plain(
            "SELECT 1 FROM link WHERE repository_id = ? AND child = ? AND kind IN (?, ?, ?, ?) LIMIT 1",
            (repository_id, digest, *CONTAINS),
        ).fetchone()
    }


def manifests(tx: UnitOfWork, repository_id: int, digests: Collection[str]) -> set[str]:
    """Return those that are manifests of the repository."""
    query = select(manifest.c.digest).where(manifest.c.repository_id == repository_id)
    return _found(tx, query, manifest.c.digest, digests)


def blobs(tx: UnitOfWork, repository_id: int, digests: Collection[str]) -> set[str]:
    """Return those that are blobs of the repository."""
    query = select(blob.c.digest).where(blob.c.repository_id == repository_id)
    return _found(tx, query, blob.c.digest, digests)


def tagged(tx: UnitOfWork, repository_id: int, digests: Collection[str]) -> set[str]:
    """Return those that a tag resolves to."""
    query = select(tag.c.digest).distinct().where(tag.c.repository_id == repository_id)
    return _found(tx, query, tag.c.digest, digests)


def referring(tx: UnitOfWork, repository_id: int, digests: Collection[str]) -> set[str]:
    """Return those manifests that have a subject, or sign something."""
    query = select(link.c.parent).distinct()
    query = query.where(link.c.repository_id == repository_id, link.c.kind.in_(REFERS_TO))
    return _found(tx, query, link.c.parent, digests)


def remove_manifests(tx: UnitOfWork, repository_id: int, digests: Collection[str]) -> None:
    """Remove manifests and their links, and the bytes to which no repository refers any more."""
    for some in batches(digests, IN_AT_ONCE):
        here = (manifest.c.repository_id == repository_id, manifest.c.digest.in_(some))
        rows = tx.sql.connection.execute(
            select(manifest.c.canonical, manifest.c.pushed_by.label("by"), manifest.c.size).where(*here)
        ).all()
        blob_reviews.add_parts(tx, repository_id, some)
        tx.sql.connection.execute(delete(link).where(link.c.repository_id == repository_id, link.c.parent.in_(some)))
        tx.sql.connection.execute(delete(manifest).where(*here))
        for digest in some:
            bucket_rows.remove_manifest(tx, repository_id, digest)
        _subtract(tx, ((row.by, row.size) for row in rows))
        unreferenced = ~exists().where(manifest.c.canonical == content.c.canonical)
        gone = content.c.canonical.in_([row.canonical for row in rows])
        tx.sql.connection.execute(delete(content).where(gone, unreferenced))


def remove_blobs(tx: UnitOfWork, repository_id: int, digests: Collection[str]) -> None:
    """Remove blobs from the repository, and record the time for those that no repository has any more."""
    for some in batches(digests, IN_AT_ONCE):
        here = (blob.c.repository_id == repository_id, blob.c.digest.in_(some))
        columns = (blob.c.added_by.label("by"), blob.c.size, blob.c.hidden_us)
        rows = tx.sql.connection.execute(select(*columns).where(*here)).all()
        tx.sql.connection.execute(delete(blob).where(*here))
        bucket_rows.note_changed(tx, repository_id, some)
        _subtract(tx, ((row.by, row.size) for row in rows if row.hidden_us is None))
        left = _found(tx, select(blob.c.digest).distinct(), blob.c.digest, some)
        gone = [digest for digest in some if digest not in left]
        tx.sql.connection.execute(delete(released).where(released.c.digest.in_(some)))
        if gone:
            rows_of_gone = [{"digest": digest, "released_us": tx.now_us} for digest in gone]
            tx.sql.connection.execute(insert(released), rows_of_gone)
            blob_reviews.add_released(tx, gone)


def _found(
    tx: UnitOfWork, query: Select[str] | Select[str | None], column: ColumnElement[str], among: Collection[str]
) -> set[str]:
    def rows() -> Iterator[str | None]:
        for some in batches(among, IN_AT_ONCE):
            yield from tx.sql.connection.execute(query.where(column.in_(some))).scalars()

    return {digest for digest in rows() if digest is not None}


def _subtract(tx: UnitOfWork, rows: Iterable[tuple[str | None, int]]) -> None:
    """Subtract removed rows, as (user, bytes), from the totals of the users who added them."""
    sizes = Counter[str]()
    for user, size in rows:
        if user is not None:
            sizes[user] += size
    for user, size in sizes.items():
        usage.add(tx, user, -size)
