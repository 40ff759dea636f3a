"""How upstreams stand, for all workers: since when one does not answer, and what is left of its pull limit. No rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert, select, update

from boltseal.server.storage.metadata.schema import upstream

if TYPE_CHECKING:
    from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRow:
    """One upstream. `down_us` None: it answers, as far as is known. `quota_*` None: it has said nothing of a limit.

    Times in microseconds; `quota_window_s` in seconds. `quota_source`: who is counted, in upstream's words.
    """

    down_us: int | None = None
    down_reason: str | None = None
    quota_limit: int | None = None
    quota_remaining: int | None = None
    quota_window_s: int | None = None
    quota_source: str | None = None
    quota_us: int | None = None


_COLUMNS: Final = [c for c in upstream.c if c.name != "name"]


def find(snapshot: Snapshot, name: str) -> UpstreamRow:
    """The row of an upstream; an empty one where nothing was ever written of it."""
    row = snapshot.sql.connection.execute(select(*_COLUMNS).where(upstream.c.name == name)).one_or_none()
    return UpstreamRow() if row is None else _parse(row)


def every(snapshot: Snapshot) -> dict[str, UpstreamRow]:
    """All of them, by name."""
    rows = snapshot.sql.connection.execute(select(upstream.c.name, *_COLUMNS).order_by(upstream.c.name)).all()
    return {row[0]: _parse(row[1:]) for row in rows}


def put(tx: UnitOfWork, name: str, row: UpstreamRow) -> None:
    """Write the row of an upstream, its first or another."""
    values = {column.name: getattr(row, column.name) for column in _COLUMNS}
    if tx.sql.connection.execute(update(upstream).where(upstream.c.name == name).values(**values)).rowcount == 0:
        tx.sql.connection.execute(insert(upstream).values(name=name, **values))


def _parse(row: Any) -> UpstreamRow:
    return UpstreamRow(**dict(zip((c.name for c in _COLUMNS), row, strict=True)))
