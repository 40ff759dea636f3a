"""API tokens: of the person, and for operators of everyone."""

from __future__ import annotations

from typing import Final

from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.web.pages.context import PageContext, Viewer

TOKEN_ROWS: Final = 100
"""As many as one owner may have, so that most people see all of theirs."""


async def tokens(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """List API tokens. `all`: of all users."""
    every, cursor = bool(request.query.value("all")), request.query.value("cursor")
    page = await pages.api.read(request, "tokens", all=every or None, cursor=cursor, limit=TOKEN_ROWS)
    return pages.page("tokens", viewer, page=page, every=every, first=not cursor)
