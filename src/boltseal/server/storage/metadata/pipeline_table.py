"""Sessions of pipelines and their refresh tokens. No rules: `server.auth.pipeline_logins` decides what follows.

A refresh token is stored as its hash. Rows are removed by later logins once nothing of their session is valid any more.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork


class PipelineSessionRow(NamedTuple):
    """A session. `claims`: JSON. Times in microseconds since the epoch; `revoked_us` None: it was not revoked."""

    id: str
    issuer: str
    claims: str
    payload_sha256: str
    opened_us: int
    ends_us: int
    revoked_us: int | None = None


class PipelineRefreshRow(NamedTuple):
    """A refresh token of a session, and when it ends, microseconds since the epoch."""

    token_sha256: str
    session: str
    ends_us: int


_COLUMNS: Final = "id, issuer, claims, payload_sha256, opened_us, ends_us, revoked_us"
_FIND: Final = f"SELECT {_COLUMNS} FROM pipeline_session WHERE id = ?"  # noqa: S608 - constants alone
_OPEN: Final = f"""
INSERT INTO pipeline_session ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING
"""  # noqa: S608 - constants alone
_FORGET_SESSIONS: Final = "DELETE FROM pipeline_session WHERE ends_us < ?"
_FORGET_REFRESH: Final = "DELETE FROM pipeline_refresh WHERE ends_us < ?"
_COUNT: Final = "SELECT count(*) FROM pipeline_refresh WHERE session = ?"
_ADD: Final = "INSERT INTO pipeline_refresh (token_sha256, session, ends_us) VALUES (?, ?, ?)"
_EXTEND: Final = "UPDATE pipeline_session SET ends_us = ? WHERE id = ? AND ends_us < ?"
_REFRESH: Final = "SELECT token_sha256, session, ends_us FROM pipeline_refresh WHERE token_sha256 = ?"
_AFTER: Final = f"SELECT {_COLUMNS} FROM pipeline_session WHERE id > ? AND ends_us > ? ORDER BY id LIMIT ?"  # noqa: S608 - constants alone
_REVOKE: Final = "UPDATE pipeline_session SET revoked_us = ? WHERE id = ? AND revoked_us IS NULL"


def find(snapshot: Snapshot, id_: str) -> PipelineSessionRow | None:
    """Return a session, also a revoked one; None if there is none."""
    row = snapshot.sql.plain(_FIND, (id_,)).fetchone()
    return None if row is None else PipelineSessionRow(*row)


def open_session(tx: UnitOfWork, row: PipelineSessionRow, *, forget_before_us: int) -> PipelineSessionRow:
    """Write a session if there is none of its identifier, and return the one that is stored.

    Removes what ended before `forget_before_us`.
    """
    tx.sql.plain(_FORGET_SESSIONS, (forget_before_us,))
    tx.sql.plain(_FORGET_REFRESH, (forget_before_us,))
    tx.sql.plain(_OPEN, row)
    stored = find(tx, row.id)
    if stored is None:
        raise AssertionError("the session was written in this transaction")
    return stored


def add_refresh(tx: UnitOfWork, row: PipelineRefreshRow, *, most: int) -> bool:
    """Write a refresh token of a session that is not revoked, and return True; False if it has `most` already."""
    stored = find(tx, row.session)
    if stored is None or stored.revoked_us is not None or _number(tx, row.session) >= most:
        return False
    tx.sql.plain(_ADD, row)
    tx.sql.plain(_EXTEND, (row.ends_us, row.session, row.ends_us))
    return True


def find_refresh(snapshot: Snapshot, token_sha256: str) -> PipelineRefreshRow | None:
    """Return a refresh token by its hash, or None."""
    row = snapshot.sql.plain(_REFRESH, (token_sha256,)).fetchone()
    return None if row is None else PipelineRefreshRow(*row)


def after(snapshot: Snapshot, id_: str, limit: int, *, now_us: int) -> list[PipelineSessionRow]:
    """Return the next sessions that have not ended, also revoked ones, in the order of their identifiers."""
    return [PipelineSessionRow(*row) for row in snapshot.sql.plain(_AFTER, (id_, now_us, limit)).fetchall()]


def revoke(tx: UnitOfWork, id_: str) -> bool:
    """End a session and all its refresh tokens. Return whether there was one that had not been revoked.

    The row stays, so that the same ID token opens no other session. The caches of every process become invalid, with them what each
    has verified of pipelines.
    """
    stored = find(tx, id_)
    if stored is None or stored.revoked_us is not None:
        return False
    tx.sql.plain(_REVOKE, (tx.now_us, id_))
    tx.invalidates_caches = True
    return True


def _number(tx: UnitOfWork, session: str) -> int:
    row = tx.sql.plain(_COUNT, (session,)).fetchone()
    return 0 if row is None else int(row[0])
