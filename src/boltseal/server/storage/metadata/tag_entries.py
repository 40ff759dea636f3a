"""The rows of tags beside their entries in the ledger, for checks that both agree. No rules, and nothing is written.

The queries read in pages, so that none of them keeps a snapshot for long: while one is open, SQLite's log can't shrink.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import and_, func, or_, select

from boltseal.ledger.entry import CHANGES, IndexedLine
from boltseal.server.storage.metadata.protocol import LEDGER, Snapshot
from boltseal.server.storage.metadata.schema import TABLES, repository, tag

entry = TABLES[LEDGER].entry
_KINDS: Final = sorted(CHANGES)
_LAST: Final = (
    "SELECT idx, line FROM entry WHERE repository = ? AND tag = ? AND kind LIKE 'tag.%' ORDER BY idx DESC LIMIT 1"
)
_ROWS: Final = """
SELECT t.repository_id, r.name, t.name, t.digest, t.canonical, t.media_type, t.entry_index,
       t.sealed_digest, t.sealed_canonical, t.sealed_media_type, t.keep, t.keep_until_us, e.line
FROM tag t JOIN repository r ON r.id = t.repository_id LEFT JOIN entry e ON e.idx = t.entry_index
WHERE (t.repository_id, t.name) > (?, ?)
ORDER BY t.repository_id, t.name LIMIT ?
"""
_ENTRIES: Final = "SELECT idx, kind, repository, tag, line FROM entry WHERE idx >= ? ORDER BY idx LIMIT ?"


class TagOfRow(NamedTuple):
    """What the row of a tag says, and the line of the entry that it names; None if there is no such entry."""

    repository_id: int
    repository: str
    name: str
    digest: str | None
    canonical: str | None
    media_type: str | None
    entry_index: int
    sealed_digest: str | None
    sealed_canonical: str | None
    sealed_media_type: str | None
    keep: str | None
    keep_until_us: int | None
    line: bytes | None


class EntryColumns(NamedTuple):
    """An entry, and the columns by which it is found."""

    entry_index: int
    kind: str
    repository: str
    tag: str
    line: bytes


def last_change(snapshot: Snapshot, repository_name: str, tag_name: str) -> IndexedLine | None:
    """Return the last entry that changed a tag, by the columns of the entries; None if there is none."""
    row = snapshot.sql.plain(_LAST, (str(repository_name), str(tag_name))).fetchone()
    return None if row is None else IndexedLine(*row)


def rows_after(snapshot: Snapshot, after: tuple[int, str], limit: int) -> list[TagOfRow]:
    """Return the rows of tags after a repository and name, in order, at most `limit`."""
    return [TagOfRow(*row) for row in snapshot.sql.plain(_ROWS, (*after, limit)).fetchall()]


def entries_from(snapshot: Snapshot, start: int, limit: int) -> list[EntryColumns]:
    """Return the entries from an index on, at most `limit`, with the columns by which they are found."""
    return [EntryColumns(*row) for row in snapshot.sql.plain(_ENTRIES, (start, limit)).fetchall()]


def without_row(snapshot: Snapshot) -> tuple[str, str] | None:
    """Return a tag whose last entry is not the one that its row names, or that has no row; None if there is none."""
    last = (
        select(entry.c.repository, entry.c.tag, func.max(entry.c.idx).label("idx"))
        .where(entry.c.kind.in_(_KINDS), entry.c.tag != "")
        .group_by(entry.c.repository, entry.c.tag)
        .subquery()
    )
    query = (
        select(last.c.repository, last.c.tag)
        .join(repository, repository.c.name == last.c.repository, isouter=True)
        .join(tag, and_(tag.c.repository_id == repository.c.id, tag.c.name == last.c.tag), isouter=True)
        .where(or_(tag.c.entry_index.is_(None), tag.c.entry_index != last.c.idx))
        .limit(1)
    )
    row = snapshot.sql.connection.execute(query).one_or_none()
    return None if row is None else (row[0], row[1])
