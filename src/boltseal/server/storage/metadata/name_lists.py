"""Lists of the names of repositories and of their tags, in pages. They apply no rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ScalarSelect, Select, Table, or_, select

from boltseal.server.storage.metadata.protocol import Snapshot
from boltseal.server.storage.metadata.schema import IS_SETTLING, blob, manifest, repository, tag

MAX_SETTLING: Final = 50
"""Settling tags that one page of a list names."""


def tag_names(snapshot: Snapshot, name: str, after: str, limit: int | None) -> list[str] | None:
    """Return at most `limit` tags of a repository after `after`, sorted by bytes; None if nothing was ever pushed to it."""
    found = snapshot.sql.connection.execute(
        select(repository.c.id).where(repository.c.name == name)
    ).scalar_one_or_none()
    if found is None:
        return None
    query = select(tag.c.name).where(tag.c.repository_id == found, tag.c.digest.is_not(None), tag.c.name > after)
    return list(snapshot.sql.connection.execute(query.order_by(tag.c.name).limit(limit)).scalars())


def settling_names(snapshot: Snapshot, name: str, names: Sequence[str]) -> list[str]:
    """Return the tags that are settling, between the first and the last of these sorted names, at most `MAX_SETTLING`."""
    if not names:
        return []
    query = (
        select(tag.c.name)
        .join(repository, repository.c.id == tag.c.repository_id)
        .where(IS_SETTLING, repository.c.name == name, tag.c.name.between(names[0], names[-1]))
    )
    return list(snapshot.sql.connection.execute(query.order_by(tag.c.name).limit(MAX_SETTLING)).scalars())


def repository_names(snapshot: Snapshot, after: str, limit: int | None) -> list[str]:
    """Return at most `limit` repositories after `after` that have a manifest or a blob, sorted by bytes."""
    query = with_content().where(repository.c.name > after).order_by(repository.c.name)
    return list(snapshot.sql.connection.execute(query.limit(limit)).scalars())


def with_content() -> Select[str]:
    """Return the query of the names of repositories that have a manifest or a blob."""
    holds = or_(*(_first_digest(held).is_not(None) for held in (manifest, blob)))
    return select(repository.c.name).where(holds)


def _first_digest(held: Table) -> ScalarSelect[str]:
    """Return the first digest of a repository in a table: in the order of the key, so that no database scans the table."""
    query = select(held.c.digest).where(held.c.repository_id == repository.c.id)
    return query.order_by(held.c.digest).limit(1).scalar_subquery()


def repositories_below(snapshot: Snapshot, prefix: str) -> list[tuple[str, str | None]]:
    """Return the repositories whose names begin with a prefix such as `docker.io/`, as (name, creator or None)."""
    names = (repository.c.name >= prefix, repository.c.name < prefix[:-1] + chr(ord(prefix[-1]) + 1))
    return [
        (row[0], row[1])
        for row in snapshot.sql.connection.execute(select(repository.c.name, repository.c.created_by).where(*names))
    ]
