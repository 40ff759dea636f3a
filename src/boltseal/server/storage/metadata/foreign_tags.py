"""How the tags of mirrored registries stand here: one row for each that was ever there. Reads and writes, no rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, delete, insert, select, update

from boltseal.server.storage.metadata.protocol import ForeignTagRow
from boltseal.server.storage.metadata.schema import foreign_tag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork


_COLUMNS: Final = [foreign_tag.c[name] for name in ForeignTagRow._fields]
_AT: Final = (foreign_tag.c.repository == bindparam("at_repository"), foreign_tag.c.name == bindparam("at_name"))
_FIND: Final = select(*_COLUMNS).where(*_AT)


def find(snapshot: Snapshot, repository: str, name: str) -> ForeignTagRow | None:
    """The row of a name, or None when upstream never had it as far as was asked."""
    row = snapshot.sql.connection.execute(_FIND, {"at_repository": repository, "at_name": name}).one_or_none()
    return None if row is None else _parse(row)


def put(tx: UnitOfWork, repository: str, name: str, row: ForeignTagRow) -> None:
    """Write the row of a name, its first or another; what was answered by the one before is then over."""
    values = {column.name: getattr(row, column.name) for column in _COLUMNS}
    at = {"at_repository": repository, "at_name": name}
    if tx.sql.connection.execute(update(foreign_tag).where(*_AT), {**at, **values}).rowcount == 0:
        tx.sql.connection.execute(insert(foreign_tag), {"repository": repository, "name": name, **values})
    else:
        tx.takes_away = True


def asked(tx: UnitOfWork, repository: str, name: str, now_us: int) -> None:
    """Upstream answered, and nothing has changed."""
    at = {"at_repository": repository, "at_name": name}
    tx.sql.connection.execute(update(foreign_tag).where(*_AT).values(asked_us=now_us), at)


def drop(tx: UnitOfWork, repository: str, name: str) -> None:
    """Forget a name, and what was answered by it."""
    tx.takes_away = True
    tx.sql.connection.execute(
        delete(foreign_tag).where(foreign_tag.c.repository == repository, foreign_tag.c.name == name)
    )


def held(snapshot: Snapshot) -> list[tuple[str, str, ForeignTagRow]]:
    """Every name of which something is held back, as (repository, name, row), in order."""
    rows = snapshot.sql.connection.execute(
        select(foreign_tag.c.repository, foreign_tag.c.name, *_COLUMNS)
        .where(foreign_tag.c.held_digest.is_not(None))
        .order_by(foreign_tag.c.repository, foreign_tag.c.name)
    ).all()
    return [(row[0], row[1], _parse(row[2:])) for row in rows]


def every(snapshot: Snapshot) -> Iterator[tuple[str, str, ForeignTagRow]]:
    """Every row there is, as (repository, name, row)."""
    query = select(foreign_tag.c.repository, foreign_tag.c.name, *_COLUMNS).execution_options(yield_per=1000)
    for row in snapshot.sql.connection.execute(query):
        yield row[0], row[1], _parse(row[2:])


def _parse(row: Any) -> ForeignTagRow:
    return ForeignTagRow(*row)
