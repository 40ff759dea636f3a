"""Queries of pages: the tags of a repository by time, what a page shows of images, and the search by prefixes. They apply no rules.

Names and digests are ASCII and sorted by bytes, so the texts that begin with a prefix are one range of an index.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, and_, func, or_, select, tuple_

from boltseal.server.storage.batches import IN_AT_ONCE, batches
from boltseal.server.storage.metadata import name_lists, tag_states
from boltseal.server.storage.metadata.protocol import Snapshot
from boltseal.server.storage.metadata.schema import blob, link, manifest, pulled, repository, tag
from boltseal.server.storage.metadata.tag_states import StoredTag

_ABOVE_ASCII: Final = "\x7f"
"""Follows every character of names and digests, so it ends the range of a prefix."""
_OWN_BYTES: Final = ("config", "layer")


class TagsStamp(NamedTuple):
    """Differs after every change of a repository's tags, because rows of tags are never removed. `number`: of rows."""

    number: int
    changed_us: int
    entry_index: int


class TagTime(NamedTuple):
    """A tag that resolves to something, and when that changed last, microseconds since the epoch."""

    name: str
    changed_us: int


class TagAt(NamedTuple):
    """A tag, and the digest that it resolves to."""

    repository: str
    name: str
    digest: str


class ManifestAt(NamedTuple):
    """A manifest of a repository. `canonical`: its sha256."""

    canonical: str
    repository_id: int
    repository: str
    digest: str


def repository_number(snapshot: Snapshot, name: str) -> int | None:
    """Return the number of a repository, None if nothing was ever pushed to it."""
    found: int | None = snapshot.sql.connection.execute(
        select(repository.c.id).where(repository.c.name == name)
    ).scalar_one_or_none()
    return found


def tags_stamp(snapshot: Snapshot, repository_id: int) -> TagsStamp:
    """Return the stamp of a repository's tags. The database reads all of its rows, and returns one."""
    query = select(
        func.count(), func.coalesce(func.max(tag.c.changed_us), 0), func.coalesce(func.max(tag.c.entry_index), -1)
    )
    return TagsStamp(
        *snapshot.sql.connection.execute(query.where(tag.c.repository_id == repository_id).select_from(tag)).one()
    )


def tag_times(snapshot: Snapshot, repository_id: int) -> list[TagTime]:
    """Return all tags of a repository that resolve to something."""
    query = select(tag.c.name, tag.c.changed_us).where(tag.c.repository_id == repository_id, tag.c.digest.is_not(None))
    return [TagTime(*row) for row in snapshot.sql.connection.execute(query)]


def image_sizes(snapshot: Snapshot, repository_id: int, digests: Collection[str]) -> dict[str, int]:
    """Return the stored bytes of config and layers of each image manifest, by digest; other manifests are left out."""
    found: dict[str, int] = {}
    held = and_(blob.c.repository_id == link.c.repository_id, blob.c.digest == link.c.child)
    query = select(link.c.parent, func.sum(blob.c.size)).join(blob, held).group_by(link.c.parent)
    query = query.where(link.c.repository_id == repository_id, link.c.kind.in_(_OWN_BYTES))
    for some in batches(digests, IN_AT_ONCE):
        rows = snapshot.sql.connection.execute(query.where(link.c.parent.in_(some)))
        found |= {parent: int(size) for parent, size in rows}
    return found


def last_pulls(snapshot: Snapshot, repository_id: int, digests: Collection[str]) -> dict[str, int]:
    """Return when each manifest was pulled last, by digest; those without a record are left out."""
    found: dict[str, int] = {}
    query = select(pulled.c.digest, pulled.c.pulled_us).where(pulled.c.repository_id == repository_id)
    for some in batches(digests, IN_AT_ONCE):
        rows = snapshot.sql.connection.execute(query.where(pulled.c.digest.in_(some)))
        found.update((row[0], row[1]) for row in rows)
    return found


def referring_types(snapshot: Snapshot, repository_id: int, digests: Collection[str]) -> set[tuple[str, str]]:
    """Return the artifact types of the manifests that refer to these as their subject, each with the subject."""
    found: set[tuple[str, str]] = set()
    query = select(manifest.c.subject, manifest.c.artifact_type).where(manifest.c.repository_id == repository_id)
    for some in batches(digests, IN_AT_ONCE):
        rows = snapshot.sql.connection.execute(query.where(manifest.c.subject.in_(some)).distinct())
        found |= {(subject, artifact_type or "") for subject, artifact_type in rows}
    return found


def tags_named(snapshot: Snapshot, name: str, repository_id: int, names: Collection[str]) -> dict[str, StoredTag]:
    """Return these tags of a repository with their rows, by name."""
    return {each.name: each for each in tag_states.rows_of(snapshot, name, repository_id, names)}


def repositories_from(snapshot: Snapshot, prefix: str, after: str, limit: int) -> list[str]:
    """Return at most `limit` repositories after `after` whose names begin with a prefix and that have content, sorted."""
    query = name_lists.with_content().where(_begins(repository.c.name, prefix), repository.c.name > after)
    return list(snapshot.sql.connection.execute(query.order_by(repository.c.name).limit(limit)).scalars())


def tags_from(snapshot: Snapshot, names: Collection[str], prefix: str, limit: int) -> list[TagAt]:
    """Return at most `limit` tags of these repositories that begin with a prefix and resolve to something, sorted."""
    query = (
        select(repository.c.name, tag.c.name, tag.c.digest)
        .join(tag, tag.c.repository_id == repository.c.id)
        .where(repository.c.name.in_(names), _begins(tag.c.name, prefix), tag.c.digest.is_not(None))
        .order_by(repository.c.name, tag.c.name)
        .limit(limit)
    )
    return [TagAt(*row) for row in snapshot.sql.connection.execute(query)]


def manifests_from(snapshot: Snapshot, prefix: str, after: tuple[str, int], limit: int) -> list[ManifestAt]:
    """Return at most `limit` manifests of all repositories whose sha256 begins with a prefix, after a sha256 and a repository's number."""
    place = (manifest.c.canonical, manifest.c.repository_id)
    query = (
        select(*place, repository.c.name, manifest.c.digest)
        .join(repository, repository.c.id == manifest.c.repository_id)
        .where(_begins(manifest.c.canonical, prefix), manifest.c.canonical >= after[0], tuple_(*place) > tuple_(*after))
        .order_by(*place, manifest.c.digest)
        .limit(limit)
    )
    return [ManifestAt(*row) for row in snapshot.sql.connection.execute(query)]


def tags_resolving(snapshot: Snapshot, which: Collection[ManifestAt], limit: int) -> list[TagAt]:
    """Return at most `limit` tags that resolve to these manifests."""
    if not which:
        return []
    here = or_(*(and_(tag.c.repository_id == each.repository_id, tag.c.digest == each.digest) for each in which))
    query = select(repository.c.name, tag.c.name, tag.c.digest).join(tag, tag.c.repository_id == repository.c.id)
    query = query.where(here).order_by(repository.c.name, tag.c.name).limit(limit)
    return [TagAt(*row) for row in snapshot.sql.connection.execute(query)]


def _begins(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    return and_(column >= prefix, column < prefix + _ABOVE_ASCII)
