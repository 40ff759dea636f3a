"""The routes of the sessions of pipelines that are logged in, for operators."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from boltseal.oci.jsontext import TimeText
from boltseal.server.api.admin.paging import Page, PageQuery, cursor_of, text_position
from boltseal.server.api.admin.routes import Right, Route
from boltseal.server.api.request import Request
from boltseal.server.auth.access import Access
from boltseal.server.auth.pipeline_sessions import PipelineSessions

SESSIONS: Final = "sessions"


class RevokeSession(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The session to revoke."""

    id: Annotated[str, Meta(max_length=64)]
    dry_run: Annotated[bool, Meta(description="Only return what would be revoked.")] = False


class PipelineSession(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline that is logged in with an ID token of its CI."""

    id: str
    by: Annotated[str, Meta(description="The pipeline as ledger and log name it.")]
    pipeline: Annotated[dict[str, str], Meta(description="Verified claims: issuer, subject, repository, commit, run.")]
    opened: TimeText
    ends: Annotated[TimeText, Meta(description="When the ID token and all refresh tokens have ended.")]
    revoked: TimeText | None


class PipelineSessionList(Page, frozen=True, kw_only=True):
    """A page of sessions that have not ended, sorted by ID."""

    items: list[PipelineSession]


class RevokedSession(msgspec.Struct, frozen=True, kw_only=True):
    """The session that was revoked, or would be. No server accepts it any more when this is answered."""

    session: PipelineSession
    dry_run: bool


class PipelineSessionRoutes:
    """The handlers of the sessions of pipelines."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(
                "GET",
                SESSIONS,
                "List the sessions of pipelines.",
                Right.OPERATOR,
                PageQuery,
                PipelineSessionList,
                self.listed,
            ),
            Route(
                "DELETE",
                SESSIONS,
                "Revoke the session of a pipeline.",
                Right.OPERATOR,
                RevokeSession,
                RevokedSession,
                self.revoke,
                changes=True,
                of_one=True,
            ),
        ]

    @property
    def _sessions(self) -> PipelineSessions:
        return PipelineSessions(self._access.callers.pipelines)

    async def listed(self, _: Request, asked: PageQuery) -> PipelineSessionList:
        """Return a page of sessions."""
        found = await self._sessions.listed(text_position(SESSIONS, asked.cursor), asked.limit + 1)
        items = [PipelineSession(**each) for each in found[: asked.limit]]
        return PipelineSessionList(
            items=items, next=cursor_of(SESSIONS, items[-1].id) if len(found) > len(items) else None
        )

    async def revoke(self, request: Request, asked: RevokeSession) -> RevokedSession:
        """Revoke a session."""
        found = await self._sessions.revoke(asked.id, request.actor, dry_run=asked.dry_run)
        return RevokedSession(session=PipelineSession(**found), dry_run=asked.dry_run)
