"""Hosts that report what they run, and their releases."""

from __future__ import annotations

from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.web.pages.context import ROWS, SOME, PageContext, Viewer


async def hosts(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """List the hosts; with a digest or tag, where it runs."""
    given = {name: request.query.value(name) or "" for name in ("digest", "repository", "tag")}
    cursor = request.query.value("cursor")
    images = page = releases = None
    if any(given.values()):
        images = await pages.api.read(request, "hosts/images", **given, limit=ROWS, cursor=cursor)
    else:
        page = await pages.api.read(request, "hosts", limit=ROWS, cursor=cursor)
        releases = await pages.api.read(request, "releases", limit=SOME)
    return pages.page("hosts", viewer, page=page, images=images, releases=releases, given=given, first=not cursor)


async def host(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """Show what a host runs, and its releases."""
    name, cursor = request.query.value("host") or "", request.query.value("cursor")
    found = await pages.api.read(request, "host", host=name)
    images = await pages.api.read(request, "hosts/images", host=name, limit=ROWS, cursor=cursor)
    releases = await pages.api.read(request, "releases", host=name, limit=SOME)
    return pages.page("host", viewer, host=found, images=images, releases=releases, first=not cursor)
