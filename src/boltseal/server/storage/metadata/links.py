"""Queries over the links between manifests of a repository: what is below a manifest, what contains it, what it lacks.

Digests go in and out as text. A `DigestSet` is computed by the database within another query.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import (
    BindParameter,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    column,
    exists,
    literal,
    or_,
    select,
    values,
)

from boltseal.server.storage.metadata.protocol import Snapshot
from boltseal.server.storage.metadata.schema import blob, link, manifest, tag
from boltseal.server.storage.metadata.schema_columns import TEXT, by_bytes

# Links to parts of a manifest, and links to what a manifest is about (guarantee 6). The bytes of a foreign layer need not
# be stored; if they are, a seal covers them.
CONTAINS: Final = ("child", "config", "layer", "foreign-layer")
REFERS_TO: Final = ("subject", "signature-tag")


@dataclass(frozen=True, slots=True)
class DigestSet:
    """Digests that the database computes where they are needed; for the functions of this package."""

    query: Select[str]

    def without(self, digests: Collection[str]) -> DigestSet:
        """Return the set without these digests."""
        (digest,) = self.query.selected_columns
        return DigestSet(self.query.where(digest.not_in(digests))) if digests else self


def closure(repository_id: int, digest: str) -> DigestSet:
    """Return the digest and everything below it, over all levels: what a seal on it covers downwards."""
    return DigestSet(_below(repository_id, literal(digest, TEXT)))


def _below(repository_id: int | BindParameter[int], top: BindParameter[str]) -> Select[str]:
    seen = select(by_bytes(top).label("digest")).cte("below", recursive=True)
    step = select(link.c.child).join(seen, link.c.parent == seen.c.digest)
    step = step.where(link.c.repository_id == repository_id, link.c.kind.in_(CONTAINS))
    return select(seen.union(step).c.digest)


def covering(repository_id: int, digest: str, *, through_subjects: bool) -> DigestSet:
    """Return the digest and every digest whose seal covers it: manifests that contain it and, if wanted, its subjects."""
    return _above(
        repository_id, select(by_bytes(literal(digest, TEXT)).label("digest")), through_subjects=through_subjects
    )


def covering_any(repository_id: int, digests: Collection[str]) -> DigestSet:
    """Return what `covering` does for these digests together, through subjects. At most `batches.IN_AT_ONCE` of them."""
    given = values(column("digest", TEXT), name="given").data([(digest,) for digest in digests]).cte("given")
    return _above(repository_id, select(by_bytes(given.c.digest).label("digest")), through_subjects=True)


def _above(repository_id: int, first: Select[str], *, through_subjects: bool) -> DigestSet:
    seen = first.cte("above", recursive=True)
    contained = and_(link.c.child == seen.c.digest, link.c.kind.in_(CONTAINS))
    speaks_of = and_(link.c.parent == seen.c.digest, link.c.kind.in_(REFERS_TO))
    step = select(case((contained, link.c.parent), else_=link.c.child)).where(link.c.repository_id == repository_id)
    step = step.where(or_(contained, speaks_of) if through_subjects else contained)
    return DigestSet(select(seen.union(step.select_from(link, seen)).c.digest))


def digests(snapshot: Snapshot, which: DigestSet) -> set[str]:
    """Return the digests of a set."""
    return set(snapshot.sql.connection.execute(which.query).scalars())


class Parent(NamedTuple):
    """A manifest that contains another manifest or a blob. `tag`: the first one, by name, that resolves to it."""

    digest: str
    tag: str | None


def parent(snapshot: Snapshot, repository_id: int, digest: str) -> Parent | None:
    """Return the first manifest that contains this manifest or blob, or None. A shared layer has any number of them."""
    named = select(tag.c.name).where(tag.c.repository_id == repository_id, tag.c.digest == link.c.parent)
    first = named.order_by(tag.c.name).limit(1).scalar_subquery()
    query = select(link.c.parent, first).where(link.c.repository_id == repository_id, link.c.child == digest)
    query = query.where(link.c.kind.in_(CONTAINS)).order_by(link.c.parent).limit(1)
    row = snapshot.sql.connection.execute(query).first()
    return None if row is None else Parent(*row)


def _missing() -> Select[str]:
    here = bindparam("at_repository", type_=Integer)
    held_manifest = exists().where(manifest.c.repository_id == here, manifest.c.digest == link.c.child)
    held_blob = exists().where(blob.c.repository_id == here, blob.c.digest == link.c.child)
    absent = or_(and_(link.c.kind == "child", ~held_manifest), and_(link.c.kind.in_(("config", "layer")), ~held_blob))
    under = _below(here, bindparam("at_digest", type_=TEXT))
    return select(link.c.child).where(link.c.repository_id == here, link.c.parent.in_(under), absent)


_MISSING = _missing()  # built once: every push of a sealed tag runs it


def missing_parts(snapshot: Snapshot, repository_id: int, digest: str) -> list[str]:
    """Return what a manifest needs, over all levels, and this repository does not have, sorted."""
    found = snapshot.sql.connection.execute(_MISSING, {"at_repository": repository_id, "at_digest": digest})
    return sorted(set(found.scalars()))
