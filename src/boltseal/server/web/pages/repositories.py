"""The list of repositories, and the tags of one: of this registry or of an upstream."""

from __future__ import annotations

from typing import Final

from boltseal.errors import quote
from boltseal.ledger.entry import format_time
from boltseal.oci.reference import Repository
from boltseal.server.api.admin.paging import cursor_of, text_position, time_position
from boltseal.server.api.admin.routes import RequestInvalid, Right
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.commands.base_tree import ImageAt
from boltseal.server.commands.image_details import signed_images
from boltseal.server.registry.tag_lists import FIRST, MAX_SORTED, NOT_KNOWN, PageAfter, TagListPage, TagOrder
from boltseal.server.registry.tag_states import mode_of
from boltseal.server.web.pages.context import ROWS, OfRepository, PageContext, Viewer

BY_VERSION: Final = "tags by version"
BY_TIME: Final = "tags by time"
BY_NAME: Final = "tags by name"
"""The lists in cursors of these pages: a cursor of one order is refused in another one."""


async def repositories(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """List the repositories."""
    page = await pages.api.read(request, "repositories", limit=ROWS, cursor=request.query.value("cursor"))
    return pages.page("repositories", viewer, page=page)


async def repository(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """List the tags of a repository."""
    name = request.query.value("repository") or ""
    pages.api.check(request, Right.PULL, OfRepository(name))
    repository, line = Repository(name), request.query.value("line")
    upstream = pages.upstream_of(repository)
    if upstream is not None:
        return await _mirrored(pages, request, viewer, repository, upstream)
    order = _order(request.query.value("order"))
    after = _after(order, request.query.value("cursor") or "")
    page = await pages.registry.tag_lists.page(repository, order, after, ROWS, line)
    digests = {str(each.row.digest) for each in page.listed}
    tree = await pages.base_tree(request, {ImageAt(name, digest): () for digest in digests}, most=ROWS)
    rows = [(each, str(mode_of(each.row)), format_time(each.row.changed_us)) for each in page.listed]
    return pages.page(
        "repository",
        viewer,
        repository=str.__str__(repository),
        page=page,
        max_sorted=MAX_SORTED,
        rows=rows,
        signed=await signed_images(pages.registry.tag_lists, repository, sorted(digests)),
        bases={each.at.digest: each.base for each in tree.images},
        order=str(page.order),
        line=line,
        next=_following(page),
        first=not request.query.value("cursor"),
    )


async def _mirrored(
    pages: PageContext, request: Request, viewer: Viewer, repository: Repository, upstream: str
) -> Response:
    """List the tags of an upstream's repository that clients asked for."""
    cursor = request.query.value("cursor") or ""
    found, more = await pages.registry.observations.tags_of(repository, text_position(BY_NAME, cursor), ROWS)
    served = [str(each.known.serves.digest) for _, each in found if each.known.serves is not None]
    images = await pages.registry.tag_lists.images(repository, served)
    rows = [
        (
            name,
            each.known,
            format_time(each.asked_us),
            NOT_KNOWN if each.known.serves is None else images.get(str(each.known.serves.digest), NOT_KNOWN),
        )
        for name, each in found
    ]
    following = cursor_of(BY_NAME, found[-1][0]) if more else None
    return pages.page(
        "mirrored",
        viewer,
        repository=str.__str__(repository),
        upstream=upstream,
        rows=rows,
        next=following,
        first=not cursor,
    )


def _order(text: str | None) -> TagOrder:
    try:
        return TagOrder(text or TagOrder.VERSION)
    except ValueError as error:
        expected = ", ".join(TagOrder)
        raise RequestInvalid(f"order is {quote(text or '')}; expected {expected}") from error


def _after(order: TagOrder, cursor: str) -> PageAfter:
    if not cursor:
        return FIRST
    if order is TagOrder.TIME:
        found = time_position(BY_TIME, cursor)
        return FIRST if found is None else PageAfter(found[1], found[0])
    return PageAfter(text_position(BY_VERSION if order is TagOrder.VERSION else BY_NAME, cursor))


def _following(page: TagListPage) -> str | None:
    if not page.more:
        return None
    last = page.listed[-1]
    if page.order is TagOrder.TIME:
        return cursor_of(BY_TIME, last.row.changed_us, last.name)
    return cursor_of(BY_VERSION if page.order is TagOrder.VERSION else BY_NAME, last.name)
