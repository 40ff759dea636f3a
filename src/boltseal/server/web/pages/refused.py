"""Refused pushes."""

from __future__ import annotations

from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.web.pages.context import ROWS, PageContext, Viewer


async def refused(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """List refused pushes: of all repositories, of one, or to one tag."""
    name, tag, cursor = (request.query.value(each) or "" for each in ("repository", "tag", "cursor"))
    if name:
        page = await pages.api.read(request, "refused", repository=name, tag=tag, limit=ROWS, cursor=cursor)
    else:
        page = await pages.api.read(request, "refused/all", limit=ROWS, cursor=cursor)
    return pages.page("refused", viewer, page=page, repository=name, tag=tag, first=not cursor)
