"""The tag rows. Only `registry/tags.py` (the door) imports this module; import-linter checks it.

A row stays for ever, also when its tag was deleted (`digest` is None then): it is what makes a name bound. What may be
written when is the door's to decide; this module only reads and writes, within the transaction that it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, insert, or_, select, update

from boltseal.policy.rules import DELETABLE
from boltseal.storage.schema import repository, tag
from boltseal.storage.tag_row import TagRow

if TYPE_CHECKING:
    from sqlalchemy import Select

    from boltseal.storage.database import Transaction


_COLUMNS = [c for c in tag.c if c.name not in ("repository_id", "name")]
_AT = (tag.c.repository_id == bindparam("at_repository"), tag.c.name == bindparam("at_name"))
_FIND = select(*_COLUMNS).where(*_AT)
_ADD = insert(tag)
_CHANGE = update(tag).where(*_AT)


def find(tx: Transaction, repository_id: int, name: str) -> TagRow | None:
    """The row of a name, or None when it was never used."""
    row = tx.connection.execute(_FIND, {"at_repository": repository_id, "at_name": name}).one_or_none()
    return None if row is None else _parse(row)


def add(tx: Transaction, repository_id: int, name: str, row: TagRow) -> None:
    """Write the first row of a name."""
    tx.connection.execute(_ADD, {"repository_id": repository_id, "name": name, **_values(row)})


def change(tx: Transaction, repository_id: int, name: str, row: TagRow) -> None:
    """Replace the row of a name."""
    tx.connection.execute(_CHANGE, {"at_repository": repository_id, "at_name": name, **_values(row)})


def meaning(tx: Transaction, repository_id: int, digest: str) -> list[tuple[str, TagRow]]:
    """Every tag that means this digest now, by name."""
    rows = tx.connection.execute(
        select(tag.c.name, *_COLUMNS)
        .where(tag.c.repository_id == repository_id, tag.c.digest == digest)
        .order_by(tag.c.name)
    ).all()
    return [(row[0], _parse(row[1:])) for row in rows]


def kept(tx: Transaction, repository_id: int, digests: Select[str]) -> list[str]:
    """The sealed tags that mean one of these digests and still protect it now, by name."""
    rows = tx.connection.execute(
        select(tag.c.name)
        .where(
            tag.c.repository_id == repository_id,
            tag.c.digest.in_(digests),
            tag.c.sealed_digest.is_not(None),
            tag.c.keep != str(DELETABLE),
            or_(tag.c.keep_until_us.is_(None), tag.c.keep_until_us > tx.now_us),
        )
        .order_by(tag.c.name)
    ).scalars()
    return list(rows)


def overdue(tx: Transaction) -> list[tuple[int, str, str]]:
    """Live sealed tags whose stated time to be kept is over, as (repository number, repository, tag)."""
    rows = tx.connection.execute(
        select(repository.c.id, repository.c.name, tag.c.name)
        .join(repository, repository.c.id == tag.c.repository_id)
        .where(tag.c.digest.is_not(None), tag.c.keep_until_us <= tx.now_us, tag.c.keep != str(DELETABLE))
        .order_by(repository.c.name, tag.c.name)
    ).all()
    return [(number, name, tag_name) for number, name, tag_name in rows]


def _values(row: TagRow) -> dict[str, Any]:
    """The row by its columns. Not `asdict`, which copies each text deeply, and every push waits for it."""
    return {column.name: getattr(row, column.name) for column in _COLUMNS}


def _parse(row: Any) -> TagRow:
    return TagRow(**dict(zip((c.name for c in _COLUMNS), row, strict=True)))
