"""Queries on mirrored repositories, beside their rows in `queries`. They apply no rules."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import CompoundSelect, and_, delete, func, insert, select, union

from boltseal.server.storage.batches import IN_AT_ONCE, batches
from boltseal.server.storage.metadata import host_table, name_lists, queries
from boltseal.server.storage.metadata.host_table import RunningImage
from boltseal.server.storage.metadata.links import CONTAINS, REFERS_TO
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata.schema import blob, foreign_tag, link, manifest, pulled, repository, tag


@dataclass(frozen=True, slots=True)
class MirroredRow:
    """A manifest or blob of a repository. `used_us`: when it was pulled last, else when it was stored. `by`: who stored it."""

    digest: str
    size: int
    used_us: int
    by: str | None


@dataclass(frozen=True, slots=True)
class MirroredContent:
    """All that a repository has.

    `contains`: for each manifest its parts and its referrers. `needed`: digests that a tag of ours resolves to, or that are
    served while a change of the upstream's tag is held back. `running`: what hosts run, by their reports of any age.
    """

    repository_id: int
    name: str
    manifests: tuple[MirroredRow, ...]
    blobs: tuple[MirroredRow, ...]
    contains: Mapping[str, frozenset[str]] = field(default_factory=dict)
    needed: frozenset[str] = frozenset()
    running: Mapping[str, RunningImage] = field(default_factory=dict)


def known_tags(snapshot: Snapshot, name: str, limit: int) -> list[str]:
    """Return at most `limit` tags of a mirrored repository that the upstream has, as far as is known, sorted by bytes."""
    query = select(foreign_tag.c.name).where(
        foreign_tag.c.repository == name, foreign_tag.c.digest.is_not(None), foreign_tag.c.gone_us.is_(None)
    )
    return list(snapshot.sql.connection.execute(query.order_by(foreign_tag.c.name).limit(limit)).scalars())


def repositories_of(snapshot: Snapshot, prefix: str) -> list[str]:
    """Return the repositories below an upstream's prefix such as `docker.io/`, sorted."""
    return sorted(name for name, _ in name_lists.repositories_below(snapshot, prefix))


class LastPull(NamedTuple):
    """When a manifest was pulled last, in microseconds since the epoch."""

    repository: str
    digest: str
    at_us: int


def note_pulled(tx: UnitOfWork, pulls: Iterable[LastPull]) -> None:
    """Record when manifests were pulled last. A manifest that is gone is left out."""
    for last in pulls:
        found = queries.lock_repository(tx, last.repository)
        if found is None or queries.find_manifest(tx, found, last.digest) is None:
            continue
        tx.sql.connection.execute(delete(pulled).where(pulled.c.repository_id == found, pulled.c.digest == last.digest))
        tx.sql.connection.execute(insert(pulled).values(repository_id=found, digest=last.digest, pulled_us=last.at_us))


def content_of(snapshot: Snapshot, name: str) -> MirroredContent | None:
    """Return all that a repository has, None if there is no such repository."""
    number = snapshot.sql.connection.execute(
        select(repository.c.id).where(repository.c.name == name)
    ).scalar_one_or_none()
    if number is None:
        return None
    last = func.coalesce(pulled.c.pulled_us, manifest.c.pushed_us)
    manifests = (
        select(manifest.c.digest, manifest.c.size, last, manifest.c.pushed_by)
        .select_from(
            manifest.outerjoin(
                pulled, (pulled.c.repository_id == manifest.c.repository_id) & (pulled.c.digest == manifest.c.digest)
            )
        )
        .where(manifest.c.repository_id == number)
    )
    blobs = select(blob.c.digest, blob.c.size, blob.c.added_us, blob.c.added_by).where(blob.c.repository_id == number)
    contains: dict[str, set[str]] = {}
    for parent, child, kind in snapshot.sql.connection.execute(
        select(link.c.parent, link.c.child, link.c.kind).where(link.c.repository_id == number)
    ):
        if kind in CONTAINS:
            contains.setdefault(parent, set()).add(child)
        elif kind in REFERS_TO:
            contains.setdefault(child, set()).add(parent)
    of_tags = select(tag.c.digest).where(tag.c.repository_id == number, tag.c.digest.is_not(None))
    of_holds = select(foreign_tag.c.digest).where(
        foreign_tag.c.repository == name, foreign_tag.c.held_digest.is_not(None), foreign_tag.c.digest.is_not(None)
    )
    return MirroredContent(
        number,
        name,
        tuple(MirroredRow(*row) for row in snapshot.sql.connection.execute(manifests)),
        tuple(MirroredRow(*row) for row in snapshot.sql.connection.execute(blobs)),
        {parent: frozenset(children) for parent, children in contains.items()},
        frozenset(snapshot.sql.connection.execute(union(of_tags, of_holds)).scalars()),
        host_table.running_in(snapshot, number),
    )


def needed_now(
    tx: UnitOfWork, repository_id: int, name: str, going: Sequence[MirroredRow], actor: str
) -> frozenset[str]:
    """Return those of the rows that are in use after all, since a snapshot in which none of them was.

    A tag of ours or a held change resolves to it; a host runs it; it was pulled later than the snapshot says; a client pushed it; or a
    manifest that stays contains it or is its subject.
    """
    needed = set[str]()
    used_us = {row.digest: row.used_us for row in going}
    needed.update(host_table.running_images(tx, used_us))
    for some in batches(used_us, IN_AT_ONCE):
        needed.update(filter(None, tx.sql.connection.execute(_resolved_to(repository_id, name, some)).scalars()))
        for table, by in ((manifest, manifest.c.pushed_by), (blob, blob.c.added_by)):
            query = select(table.c.digest).where(table.c.repository_id == repository_id, table.c.digest.in_(some))
            needed.update(tx.sql.connection.execute(query.where(by.is_distinct_from(actor))).scalars())
        pulls = select(pulled.c.digest, pulled.c.pulled_us).where(
            pulled.c.repository_id == repository_id, pulled.c.digest.in_(some)
        )
        needed.update(row.digest for row in tx.sql.connection.execute(pulls) if row.pulled_us > used_us[row.digest])
        contained = select(link.c.parent, link.c.child).where(
            link.c.repository_id == repository_id, link.c.child.in_(some), link.c.kind.in_(CONTAINS)
        )
        needed.update(row.child for row in tx.sql.connection.execute(contained) if row.parent not in used_us)
        subjects = (
            select(link.c.parent, link.c.child)
            .join(manifest, and_(manifest.c.repository_id == repository_id, manifest.c.digest == link.c.child))
            .where(link.c.repository_id == repository_id, link.c.parent.in_(some), link.c.kind.in_(REFERS_TO))
        )
        needed.update(row.parent for row in tx.sql.connection.execute(subjects) if row.child not in used_us)
    return frozenset(needed)


def _resolved_to(repository_id: int, name: str, digests: Collection[str]) -> CompoundSelect[str | None]:
    of_tags = select(tag.c.digest).where(tag.c.repository_id == repository_id, tag.c.digest.in_(digests))
    of_holds = select(foreign_tag.c.digest).where(
        foreign_tag.c.repository == name, foreign_tag.c.held_digest.is_not(None), foreign_tag.c.digest.in_(digests)
    )
    return union(of_tags, of_holds)


def remove_rows(tx: UnitOfWork, repository_id: int, manifests: Iterable[str], blobs: Iterable[str]) -> None:
    """Remove rows of a repository. Garbage collection deletes the bytes of its blobs later."""
    tx.invalidates_caches = True
    for digest in manifests:
        queries.remove_manifest(tx, repository_id, digest)
        tx.sql.connection.execute(
            delete(pulled).where(pulled.c.repository_id == repository_id, pulled.c.digest == digest)
        )
    for digest in blobs:
        queries.remove_blob(tx, repository_id, digest)
