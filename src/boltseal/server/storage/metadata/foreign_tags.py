"""State of the tags of upstream registries, one row for each tag that was ever seen. No rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, delete, insert, select, tuple_, update

from boltseal.server.storage.metadata.protocol import ForeignTagRow, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.schema import foreign_tag

_COLUMNS: Final = [foreign_tag.c[name] for name in ForeignTagRow._fields]
_AT: Final = (foreign_tag.c.repository == bindparam("at_repository"), foreign_tag.c.name == bindparam("at_name"))
_FIND: Final = select(*_COLUMNS).where(*_AT)


class ForeignTag(NamedTuple):
    """A tag of an upstream, and its state."""

    repository: str
    tag: str
    row: ForeignTagRow


def find(snapshot: Snapshot, repository: str, name: str) -> ForeignTagRow | None:
    """Return the state of a tag, or None if the upstream was never seen to have it."""
    row = snapshot.sql.connection.execute(_FIND, {"at_repository": repository, "at_name": name}).one_or_none()
    return None if row is None else _parse(row)


def put(tx: UnitOfWork, repository: str, name: str, row: ForeignTagRow) -> None:
    """Write the state of a tag. Replacing a state invalidates caches."""
    values = {column.name: getattr(row, column.name) for column in _COLUMNS}
    at = {"at_repository": repository, "at_name": name}
    if tx.sql.connection.execute(update(foreign_tag).where(*_AT), {**at, **values}).rowcount == 0:
        tx.sql.connection.execute(insert(foreign_tag), {"repository": repository, "name": name, **values})
    else:
        tx.invalidates_caches = True


def set_asked(tx: UnitOfWork, repository: str, name: str, now_us: int) -> None:
    """Record that the upstream answered, and that nothing has changed."""
    at = {"at_repository": repository, "at_name": name}
    tx.sql.connection.execute(update(foreign_tag).where(*_AT).values(asked_us=now_us), at)


def remove(tx: UnitOfWork, repository: str, name: str) -> None:
    """Remove a tag. Invalidates caches."""
    tx.invalidates_caches = True
    tx.sql.connection.execute(
        delete(foreign_tag).where(foreign_tag.c.repository == repository, foreign_tag.c.name == name)
    )


def tags_with_held_change(snapshot: Snapshot) -> list[ForeignTag]:
    """Return the tags of which a change is held back, in order of repository and tag."""
    rows = snapshot.sql.connection.execute(
        select(foreign_tag.c.repository, foreign_tag.c.name, *_COLUMNS)
        .where(foreign_tag.c.held_digest.is_not(None))
        .order_by(foreign_tag.c.repository, foreign_tag.c.name)
    )
    return [ForeignTag(row[0], row[1], _parse(row[2:])) for row in rows]


def tags_after(snapshot: Snapshot, after: tuple[str, str], limit: int) -> list[ForeignTag]:
    """Return at most `limit` tags after a repository and tag, in the order of these two."""
    at = tuple_(foreign_tag.c.repository, foreign_tag.c.name)
    query = select(foreign_tag.c.repository, foreign_tag.c.name, *_COLUMNS).where(at > tuple_(*after))
    query = query.order_by(foreign_tag.c.repository, foreign_tag.c.name).limit(limit)
    return [ForeignTag(row[0], row[1], _parse(row[2:])) for row in snapshot.sql.connection.execute(query)]


def all_tags(snapshot: Snapshot) -> Iterator[ForeignTag]:
    """Yield every row."""
    query = select(foreign_tag.c.repository, foreign_tag.c.name, *_COLUMNS).execution_options(yield_per=1000)
    with snapshot.sql.connection.execute(query) as rows:
        yield from (ForeignTag(row[0], row[1], _parse(row[2:])) for row in rows)


def _parse(row: Any) -> ForeignTagRow:
    return ForeignTagRow(*row)
