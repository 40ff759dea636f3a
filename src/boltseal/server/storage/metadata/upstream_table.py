"""State of the upstreams, shared by all processes: whether one answers, and what is left of its pull limit. No rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import insert, inspect, select, update

from boltseal.server.storage.metadata.protocol import NO_PAUSE, Snapshot, UnitOfWork, UpstreamPause
from boltseal.server.storage.metadata.schema import upstream, upstream_pause


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRow:
    """One upstream. `down_us` None: it answers, as far as is known. `quota_*` None: no limit is known.

    Times in microseconds since the epoch; `quota_window_s` in seconds. `quota_source`: whose pulls are counted, as the upstream
    names it.
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
    """Return the row of an upstream; an empty one if there is none."""
    row = snapshot.sql.connection.execute(select(*_COLUMNS).where(upstream.c.name == name)).one_or_none()
    return UpstreamRow() if row is None else _parse(row)


def all_upstreams(snapshot: Snapshot) -> dict[str, UpstreamRow]:
    """Return all rows, by name."""
    rows = snapshot.sql.connection.execute(select(upstream.c.name, *_COLUMNS).order_by(upstream.c.name)).all()
    return {row[0]: _parse(row[1:]) for row in rows}


def put(tx: UnitOfWork, name: str, row: UpstreamRow) -> None:
    """Write the row of an upstream."""
    values = {column.name: getattr(row, column.name) for column in _COLUMNS}
    if tx.sql.connection.execute(update(upstream).where(upstream.c.name == name).values(**values)).rowcount == 0:
        tx.sql.connection.execute(insert(upstream).values(name=name, **values))


def find_pause(snapshot: Snapshot, name: str) -> UpstreamPause:
    """Return the pause of an upstream; one that is over if there is none."""
    columns = upstream_pause.c.until_us, upstream_pause.c.pulls_until_us, upstream_pause.c.reason
    row = snapshot.sql.connection.execute(select(*columns).where(upstream_pause.c.name == name)).one_or_none()
    return NO_PAUSE if row is None else UpstreamPause(*row)


def all_pauses(snapshot: Snapshot) -> dict[str, UpstreamPause]:
    """Return all pauses, by the upstream's name; none before data format 6."""
    if not inspect(snapshot.sql.connection).has_table(upstream_pause.name):
        return {}
    rows = snapshot.sql.connection.execute(select(upstream_pause).order_by(upstream_pause.c.name)).all()
    return {name: UpstreamPause(*row) for name, *row in rows}


def put_pause(tx: UnitOfWork, name: str, pause: UpstreamPause) -> None:
    """Write the pause of an upstream."""
    values = pause._asdict()
    changed = tx.sql.connection.execute(update(upstream_pause).where(upstream_pause.c.name == name).values(**values))
    if changed.rowcount == 0:
        tx.sql.connection.execute(insert(upstream_pause).values(name=name, **values))


def _parse(row: Any) -> UpstreamRow:
    return UpstreamRow(**dict(zip((c.name for c in _COLUMNS), row, strict=True)))
