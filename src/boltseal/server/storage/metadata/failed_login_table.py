"""Failed logins by address, for all processes of a store. No rules: `server.auth.failed_logins` decides what follows.

Only a failed login writes a row. A successful login removes it; so does a later failure of another address once the row
has expired.
"""

from __future__ import annotations

from sqlalchemy import delete, func, insert, select

from boltseal.server.storage.metadata.protocol import FailedLoginRow, UnitOfWork
from boltseal.server.storage.metadata.schema import failed_login


def find(tx: UnitOfWork, address: str) -> FailedLoginRow | None:
    """Return the failures of an address, and lock the row to the end of the transaction; None if there is none."""
    query = select(failed_login.c.failures, failed_login.c.last_us).where(failed_login.c.address == address)
    row = tx.sql.connection.execute(query.with_for_update()).one_or_none()
    return None if row is None else FailedLoginRow(*row)


def put(tx: UnitOfWork, address: str, row: FailedLoginRow, *, forget_before_us: int, most: int) -> None:
    """Write the failures of an address.

    Removes rows whose last failure was before `forget_before_us`, and the oldest ones beyond `most` addresses.
    """
    execute = tx.sql.connection.execute
    execute(
        delete(failed_login).where((failed_login.c.address == address) | (failed_login.c.last_us < forget_before_us))
    )
    execute(insert(failed_login).values(address=address, failures=row.failures, last_us=row.last_us))
    over = execute(select(func.count()).select_from(failed_login)).scalar_one() - most
    if over > 0:
        oldest = select(failed_login.c.address).order_by(failed_login.c.last_us).limit(over)
        execute(delete(failed_login).where(failed_login.c.address.in_(execute(oldest).scalars().all())))


def remove(tx: UnitOfWork, address: str) -> None:
    """Forget the failures of an address."""
    tx.sql.connection.execute(delete(failed_login).where(failed_login.c.address == address))
