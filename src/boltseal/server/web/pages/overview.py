"""The first page: what is new, and what needs attention."""

from __future__ import annotations

from typing import Any

from boltseal.ledger.entry import parse
from boltseal.server.api.admin.documents import entry_document
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.registry.ledger import NotInLedger
from boltseal.server.web.pages.context import SOME, PageContext, Viewer


async def overview(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """Show what is new: repositories, changes, refused pushes; for operators also what needs attention."""
    repositories = await pages.api.read(request, "repositories", limit=SOME)
    changes = await _changes(pages, request)
    refused = await pages.api.read(request, "refused/all", limit=SOME)
    hosts = await pages.api.read_allowed(request, "hosts", limit=100)
    items = () if hosts is None else hosts.items
    late = [each for each in items if each.state != "reporting"]
    differing = [each for each in items if any(one.outcome == "differs" for one in each.reports)]
    held = await pages.api.read_allowed(request, "held", limit=SOME)
    ledger = await pages.api.read_allowed(request, "ledger")
    return pages.page(
        "overview",
        viewer,
        repositories=repositories,
        changes=changes,
        refused=refused,
        late=late,
        differing=differing,
        held=held,
        ledger=ledger,
    )


async def _changes(pages: PageContext, request: Request) -> list[Any]:
    try:
        rows = await pages.registry.ledger.newest_changes(pages.access.may_list(request.caller), SOME)
    except NotInLedger:  # nothing is signed yet
        return []
    return [entry_document(row.entry_index, parse(row.line)) for row in rows]
