"""Search over repositories, tags and digests."""

from __future__ import annotations

from typing import Final

from boltseal.server.api.admin.paging import cursor_of, text_position
from boltseal.server.api.admin.routes import Right
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.registry.search import SearchInvalid
from boltseal.server.web.pages.context import PageContext, Viewer

FOUND_TAGS: Final = "found tags"
"""The list in a cursor of this page."""


async def search(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """Show repositories, tags and digests that begin with a text."""
    pages.api.check(request, Right.CATALOG)
    text = (request.query.value("q") or "").strip()
    after = text_position(FOUND_TAGS, request.query.value("cursor") or "")
    found, message = None, ""
    if text:
        try:
            found = await pages.registry.search.find(text, pages.access.may_list(request.caller), after)
        except SearchInvalid as error:
            message = error.message
    cursor = None if found is None or found.following is None else cursor_of(FOUND_TAGS, found.following)
    return pages.page("search", viewer, text=text, found=found, message=message, next=cursor)
