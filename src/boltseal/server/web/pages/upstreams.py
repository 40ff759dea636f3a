"""Upstreams, and their tags that are held back."""

from __future__ import annotations

from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.web.pages.context import ROWS, PageContext, Viewer


async def upstreams(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """Show upstreams, and their tags that are held back."""
    cursor = request.query.value("cursor")
    states = await pages.api.read(request, "upstreams")
    held = await pages.api.read(request, "held", limit=ROWS, cursor=cursor)
    return pages.page("upstreams", viewer, states=states, held=held, first=not cursor)
