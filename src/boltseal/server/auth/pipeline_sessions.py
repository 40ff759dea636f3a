"""Lists and revokes the sessions of pipelines, for operators. `pipeline_logins` opens and checks them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from boltseal.errors import NotFound, quote
from boltseal.ledger.entry import format_time
from boltseal.policy.pipeline_claims import shown_pipeline
from boltseal.policy.pipeline_rules import IssuerTerms
from boltseal.server.auth.actor import Actor
from boltseal.server.auth.pipeline_logins import PIPELINE_USER, PipelineLogins, claims_of
from boltseal.server.storage.metadata import audit_table, pipeline_table
from boltseal.server.storage.metadata.pipeline_table import PipelineSessionRow
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork


class SessionUnknown(NotFound):
    """There is no such session, or it has ended."""


class SessionFields(TypedDict):
    """What is shown of a session. Times are ISO 8601 in UTC; `revoked` None: it was not revoked."""

    id: str
    by: str
    pipeline: dict[str, str]
    opened: str
    ends: str
    revoked: str | None


def session_fields(row: PipelineSessionRow, issuers: Iterable[IssuerTerms]) -> SessionFields:
    """Return what is shown of a session. `issuers`: the configured ones, by which ledger and log name a pipeline."""
    claims = claims_of(row)
    name = next((terms.name for terms in issuers if terms.url == row.issuer), row.issuer)
    return SessionFields(
        id=row.id,
        by=f"{PIPELINE_USER}:{name}:{claims.subject}",
        pipeline=shown_pipeline(claims.ledger_extra),
        opened=format_time(row.opened_us),
        ends=format_time(row.ends_us),
        revoked=None if row.revoked_us is None else format_time(row.revoked_us),
    )


def session_of(snapshot: Snapshot, id_: str) -> PipelineSessionRow:
    """Return a session. Raises: SessionUnknown."""
    row = pipeline_table.find(snapshot, id_)
    if row is None:
        raise SessionUnknown(
            f"there is no session {quote(id_, 80)} of a pipeline; `boltseal admin session ls` lists them"
        )
    return row


def revoke_session(tx: UnitOfWork, id_: str, issuers: Iterable[IssuerTerms], actor: Actor) -> PipelineSessionRow:
    """Revoke a session in this transaction, and record that once. Return it as it is then. Raises: SessionUnknown."""
    row = session_of(tx, id_)
    if not pipeline_table.revoke(tx, id_):
        return row
    shown = session_fields(row, issuers)
    run = ", ".join(f"{key} {value}" for key, value in shown["pipeline"].items() if key != "subject")
    audit_table.record(tx, actor.recorded, "session.revoked", shown["by"], f"session {id_[:12]}: {run}")
    return session_of(tx, id_)


class PipelineSessions:
    """The sessions of pipelines of a registry, and the configured issuers, by `logins`."""

    def __init__(self, logins: PipelineLogins) -> None:
        self._logins = logins

    @property
    def _database(self) -> Metadata:
        if self._logins.database is None:
            raise NotFound("this registry has no sessions of pipelines")
        return self._logins.database

    async def listed(self, after: str, limit: int) -> list[SessionFields]:
        """Return the next sessions that have not ended, in the order of their identifiers."""
        now_us = self._logins.now_us()
        rows = await self._database.read(lambda snapshot: pipeline_table.after(snapshot, after, limit, now_us=now_us))
        return [session_fields(row, self._logins.terms) for row in rows]

    async def revoke(self, id_: str, actor: Actor, *, dry_run: bool) -> SessionFields:
        """Revoke a session. Returns when no server of the registry accepts it. Raises: SessionUnknown, Unavailable, Full."""
        issuers = self._logins.terms
        if dry_run:
            return session_fields(await self._database.read(lambda snapshot: session_of(snapshot, id_)), issuers)
        return session_fields(await self._database.write(lambda tx: revoke_session(tx, id_, issuers, actor)), issuers)
