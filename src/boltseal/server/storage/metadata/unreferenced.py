"""Queries on blobs and manifest bytes that no repository refers to, for the deletion of their bytes. They apply no rules."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from sqlalchemy import bindparam, delete, exists, func, insert, literal, select

from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata.schema import blob, content, manifest, purged_blob, released


class StoredContent(NamedTuple):
    """The bytes of a manifest: their sha256 and size, and whether a repository refers to them."""

    canonical: str
    size: int
    is_referenced: bool


def is_blob_referenced(snapshot: Snapshot, digest: str) -> bool:
    """Return whether a row of any repository refers to these bytes."""
    return (
        snapshot.sql.connection.execute(select(literal(1)).where(blob.c.digest == digest).limit(1)).first() is not None
    )


def released_since(snapshot: Snapshot, digest: str) -> int | None:
    """Return when the last row that referred to these bytes was removed; None if there never was one, or there is one now.

    Microseconds since the epoch.
    """
    found: int | None = snapshot.sql.connection.execute(
        select(released.c.released_us).where(released.c.digest == digest)
    ).scalar_one_or_none()
    return found


def referenced(snapshot: Snapshot, digests: Collection[str]) -> set[str]:
    """Return those blobs to which a row of any repository refers. At most `batches.IN_AT_ONCE` blobs."""
    query = select(blob.c.digest).distinct().where(blob.c.digest.in_(digests))
    return set(snapshot.sql.connection.execute(query).scalars())


def note_released(tx: UnitOfWork, digest: str, at_us: int) -> None:
    """Record the time that `released_since` returns."""
    tx.sql.connection.execute(delete(released).where(released.c.digest == digest))
    tx.sql.connection.execute(insert(released).values(digest=digest, released_us=at_us))


def release_again(tx: UnitOfWork, digest: str) -> bool:
    """Change the time that `released_since` returns, if no row refers to these bytes; return whether none does.

    After the COMMIT no row is added for bytes that were stored before it (`server.registry.uploads` compares the times), so
    they can be deleted.
    """
    if is_blob_referenced(tx, digest):
        return False
    at_us = max(tx.now_us, (released_since(tx, digest) or 0) + 1)
    note_released(tx, digest, at_us)
    return True


def forget_released(tx: UnitOfWork, digest: str, *, before_us: int) -> None:
    """Remove the time that `released_since` returns, if it is before `before_us`: a later one may be of a running purge."""
    tx.sql.connection.execute(delete(released).where(released.c.digest == digest, released.c.released_us < before_us))


def note_purged(tx: UnitOfWork, digests: Collection[str]) -> None:
    """Record that the bytes of these blobs must be deleted, whatever ends this process before it has done so."""
    forget_purged(tx, digests)
    if digests:
        rows = [{"digest": digest, "purged_us": tx.now_us} for digest in digests]
        tx.sql.connection.execute(insert(purged_blob), rows)


def purged(snapshot: Snapshot) -> list[str]:
    """Return the blobs that `note_purged` recorded and `forget_purged` did not remove, in order."""
    return list(snapshot.sql.connection.execute(select(purged_blob.c.digest).order_by(purged_blob.c.digest)).scalars())


def forget_purged(tx: UnitOfWork, digests: Iterable[str]) -> None:
    """Remove the record of blobs whose bytes are deleted, or are referenced again."""
    for digest in digests:
        tx.sql.connection.execute(delete(purged_blob).where(purged_blob.c.digest == digest))


_UNREFERENCED_CONTENT: Final = ~exists().where(manifest.c.canonical == content.c.canonical)


def contents_after(snapshot: Snapshot, after: str, limit: int) -> list[StoredContent]:
    """Return some manifest bytes in the order of their sha256, those after `after`, and whether a repository refers to them."""
    query = select(content.c.canonical, func.length(content.c.raw), ~_UNREFERENCED_CONTENT).where(
        content.c.canonical > after
    )
    rows = snapshot.sql.connection.execute(query.order_by(content.c.canonical).limit(limit))
    return [StoredContent(*row) for row in rows]


def remove_unreferenced_contents(tx: UnitOfWork, some: Iterable[StoredContent]) -> list[StoredContent]:
    """Remove those manifest bytes that no repository refers to still, and return them."""
    remove = delete(content).where(content.c.canonical == bindparam("gone"), _UNREFERENCED_CONTENT)
    return [each for each in some if tx.sql.connection.execute(remove, {"gone": each.canonical}).rowcount]
