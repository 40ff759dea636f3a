"""The rows of tags in pages, for those who only read them. They apply no rules. `tag_table` has the queries of changes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import select, tuple_

from boltseal.server.storage.batches import IN_AT_ONCE, batches
from boltseal.server.storage.metadata.protocol import Snapshot
from boltseal.server.storage.metadata.schema import repository, tag
from boltseal.server.storage.metadata.tag_row import TagRow, parse_row

_COLUMNS = [c for c in tag.c if c.name not in ("repository_id", "name")]


class StoredTag(NamedTuple):
    """A tag with its row, and the number and name of its repository."""

    repository_id: int
    repository: str
    name: str
    row: TagRow


def find(snapshot: Snapshot, repository_name: str, tag_name: str) -> TagRow | None:
    """Return the row of a tag, None if the name was never used."""
    query = select(*_COLUMNS).join(repository, repository.c.id == tag.c.repository_id)
    query = query.where(repository.c.name == repository_name, tag.c.name == tag_name)
    row = snapshot.sql.connection.execute(query).one_or_none()
    return None if row is None else _parse(row)


def tags_of(snapshot: Snapshot, name: str, after: str, limit: int, *, deleted: bool) -> list[StoredTag] | None:
    """Return at most `limit` tags of a repository after `after`, sorted by bytes; None if nothing was ever pushed to it.

    `deleted`: also those that resolve to nothing, such as tombstones.
    """
    found = snapshot.sql.connection.execute(
        select(repository.c.id).where(repository.c.name == name)
    ).scalar_one_or_none()
    if found is None:
        return None
    query = select(tag.c.name, *_COLUMNS).where(tag.c.repository_id == found, tag.c.name > after)
    if not deleted:
        query = query.where(tag.c.digest.is_not(None))
    rows = snapshot.sql.connection.execute(query.order_by(tag.c.name).limit(limit))
    return [StoredTag(found, name, row[0], _parse(row[1:])) for row in rows]


def rows_of(snapshot: Snapshot, name: str, repository_id: int, names: Collection[str]) -> list[StoredTag]:
    """Return these tags of a repository, as far as they exist. `name`: of the repository."""
    query = select(tag.c.name, *_COLUMNS).where(tag.c.repository_id == repository_id)
    return [
        StoredTag(repository_id, name, row[0], _parse(row[1:]))
        for some in batches(names, IN_AT_ONCE)
        for row in snapshot.sql.connection.execute(query.where(tag.c.name.in_(some)))
    ]


def tags_after(snapshot: Snapshot, after: tuple[int, str], limit: int) -> list[StoredTag]:
    """Return at most `limit` tags of all repositories after a repository's number and a tag, in the order of these two."""
    query = (
        select(tag.c.repository_id, repository.c.name, tag.c.name, *_COLUMNS)
        .join(repository, repository.c.id == tag.c.repository_id)
        .where(tuple_(tag.c.repository_id, tag.c.name) > tuple_(*after))
        .order_by(tag.c.repository_id, tag.c.name)
        .limit(limit)
    )
    return [StoredTag(row[0], row[1], row[2], _parse(row[3:])) for row in snapshot.sql.connection.execute(query)]


def _parse(row: Any) -> TagRow:
    return parse_row(dict(zip((column.name for column in _COLUMNS), row, strict=True)))
