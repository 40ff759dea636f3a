"""Layer chains of manifests (`oci.layer_chain`), as JSON. A row is never removed: a deleted image is still a base. No rules.

A pending row has no document: the manifest's config is missing, or the row is of the migration that added the table.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, and_, exists, func, select, text, tuple_

from boltseal.oci.manifest import LinkKind
from boltseal.server.storage.batches import IN_AT_ONCE, batches
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata.schema import (
    PENDING_CHAIN,
    blob,
    content,
    layer_chain,
    link,
    manifest,
    repository,
)


class PendingChain(NamedTuple):
    """A manifest whose chain is pending, and can be found out now: its config is stored, or it has none."""

    repository_id: int
    repository: str
    digest: str
    media_type: str
    raw: bytes


class FoundChain(NamedTuple):
    """The document of a manifest whose chain was pending."""

    repository_id: int
    digest: str
    document: str


_PUT: Final = """
INSERT INTO layer_chain (repository_id, digest, document) VALUES (?, ?, ?)
ON CONFLICT (repository_id, digest) DO UPDATE SET document = coalesce(layer_chain.document, excluded.document)
"""


def put(tx: UnitOfWork, repository_id: int, digest: str, document: str | None) -> None:
    """Store the document of a manifest, unless one is stored. None: it is pending."""
    tx.sql.plain(_PUT, (repository_id, digest, document))


def put_found(tx: UnitOfWork, found: Collection[FoundChain]) -> None:
    """Store the documents of manifests whose chains were pending."""
    for each in found:
        put(tx, *each)


def documents(snapshot: Snapshot, repository_name: str, digests: Collection[str]) -> dict[str, str]:
    """Return the documents of manifests that this repository has or had, by digest; pending ones are left out."""
    found: dict[str, str] = {}
    query = select(layer_chain.c.digest, layer_chain.c.document).join(
        repository, repository.c.id == layer_chain.c.repository_id
    )
    query = query.where(repository.c.name == repository_name, layer_chain.c.document.is_not(None))
    for some in batches(digests, IN_AT_ONCE):
        rows = snapshot.sql.connection.execute(query.where(layer_chain.c.digest.in_(some)))
        found |= {digest: str(document) for digest, document in rows}
    return found


def pending(snapshot: Snapshot, after: tuple[int, str], limit: int) -> list[PendingChain]:
    """Return at most `limit` pending chains that can be found out, after (repository id, digest), in this order."""
    place = tuple_(layer_chain.c.repository_id, layer_chain.c.digest)
    return _pending(snapshot, place > after, limit)


def pending_of(snapshot: Snapshot, repository_name: str, digests: Collection[str], limit: int) -> list[PendingChain]:
    """Return at most `limit` pending chains of these manifests of a repository that can be found out."""
    named = and_(repository.c.name == repository_name, layer_chain.c.digest.in_(digests))
    return _pending(snapshot, named, limit)


def _pending(snapshot: Snapshot, condition: ColumnElement[bool], limit: int) -> list[PendingChain]:
    missing_config = exists().where(
        link.c.repository_id == layer_chain.c.repository_id,
        link.c.parent == layer_chain.c.digest,
        link.c.kind == str(LinkKind.CONFIG),
        ~exists().where(blob.c.repository_id == link.c.repository_id, blob.c.digest == link.c.child),
    )
    stored = and_(manifest.c.repository_id == layer_chain.c.repository_id, manifest.c.digest == layer_chain.c.digest)
    query = (
        select(
            layer_chain.c.repository_id, repository.c.name, layer_chain.c.digest, manifest.c.media_type, content.c.raw
        )
        .join(manifest, stored)
        .join(content, content.c.canonical == manifest.c.canonical)
        .join(repository, repository.c.id == layer_chain.c.repository_id)
        .where(text(f"layer_chain.{PENDING_CHAIN}"), ~missing_config)
        .where(condition)
        .order_by(layer_chain.c.repository_id, layer_chain.c.digest)
        .limit(limit)
    )
    return [PendingChain(*row) for row in snapshot.sql.connection.execute(query)]


def count_pending(snapshot: Snapshot) -> int:
    """Return the number of stored manifests whose chains are pending."""
    stored = and_(manifest.c.repository_id == layer_chain.c.repository_id, manifest.c.digest == layer_chain.c.digest)
    query = select(func.count()).select_from(layer_chain.join(manifest, stored))
    counted: int = snapshot.sql.connection.execute(query.where(text(f"layer_chain.{PENDING_CHAIN}"))).scalar_one()
    return counted
