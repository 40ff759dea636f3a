"""Tags that are reserved for a push through the push proxy, one row each. No rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, insert, select

from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata.schema import reservation


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationRow:
    """A reserved tag and the manifest that is being pushed to it. Times in microseconds since the epoch."""

    repository: str
    tag: str
    digest: str
    media_type: str
    raw: bytes
    actor: str
    reserved_us: int
    expires_us: int


_COLUMNS: Final = [reservation.c[name] for name in ReservationRow.__dataclass_fields__]


def find(snapshot: Snapshot, repository: str, tag: str) -> ReservationRow | None:
    """Return the reservation of a tag, or None."""
    at = (reservation.c.repository == repository, reservation.c.tag == tag)
    row = snapshot.sql.connection.execute(select(*_COLUMNS).where(*at)).one_or_none()
    return None if row is None else _parse(row)


def all_reservations(snapshot: Snapshot) -> list[ReservationRow]:
    """Return all reservations, oldest first."""
    return [
        _parse(row)
        for row in snapshot.sql.connection.execute(select(*_COLUMNS).order_by(reservation.c.reserved_us)).all()
    ]


def add(tx: UnitOfWork, row: ReservationRow) -> None:
    """Reserve a tag that is not reserved."""
    tx.sql.connection.execute(insert(reservation).values(**{c.name: getattr(row, c.name) for c in _COLUMNS}))


def remove(tx: UnitOfWork, repository: str, tag: str) -> None:
    """Remove the reservation of a tag."""
    tx.sql.connection.execute(
        delete(reservation).where(reservation.c.repository == repository, reservation.c.tag == tag)
    )


def _parse(row: Any) -> ReservationRow:
    return ReservationRow(**dict(zip((c.name for c in _COLUMNS), row, strict=True)))
