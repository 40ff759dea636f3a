"""Base images: which images are built on which, what is outdated since when, and rebuilds."""

from __future__ import annotations

from typing import Final

from boltseal.policy.rule_decision import signature_subject
from boltseal.server.api.admin.paging import cursor_of, tag_position
from boltseal.server.api.admin.routes import Right
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.commands.base_tree import ImageAt
from boltseal.server.web.pages.context import SOME, PageContext, Viewer

BASES: Final = "bases"
LOOKED_AT: Final = 100
"""Tags that one page looks at."""


async def bases(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """Show the family tree of the next tags that the caller may pull, in the order in which their repositories were made."""
    pages.api.check(request, Right.CATALOG)
    cursor = request.query.value("cursor") or ""
    may_pull = pages.access.may_list(request.caller)
    found = await pages.registry.tag_states.of_all(tag_position(BASES, cursor), LOOKED_AT)
    tags: dict[ImageAt, list[str]] = {}
    looked_at = 0
    for each in found.tags:
        if each.row.digest is None or signature_subject(each.name) is not None or not may_pull(each.repository):
            continue
        looked_at += 1
        tags.setdefault(ImageAt(str.__str__(each.repository), str(each.row.digest)), []).append(each.name)
    last = found.tags[-1] if found.more else None
    return pages.page(
        "bases",
        viewer,
        tree=await pages.base_tree(request, tags, most=LOOKED_AT),
        looked_at=looked_at,
        rebuilds=None if cursor else await pages.api.read_allowed(request, "rebuilds", limit=SOME),
        next=None if last is None else cursor_of(BASES, last.repository_id, last.name),
        first=not cursor,
    )
