"""The first page: what is new, and what needs attention."""

from __future__ import annotations

from typing import Any, Final

from boltseal.ledger.entry import parse
from boltseal.policy.rule_decision import signature_subject
from boltseal.server.api.admin.documents import entry_document
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.commands.base_tree import ImageAt
from boltseal.server.registry.ledger import NotInLedger
from boltseal.server.web.pages.context import SOME, PageContext, Viewer

CHANGES: Final = 50
BASES_OF: Final = 20
"""Images of the last changes whose bases are looked at."""


async def overview(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """Show what is new: repositories, changes, refused pushes; for operators also what needs attention."""
    repositories = await pages.api.read(request, "repositories", limit=SOME)
    changes = await _changes(pages, request)
    tree = await pages.base_tree(request, _newest_images(changes), most=BASES_OF)
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
        changes=changes[:SOME],
        outdated=tree.outdated,
        looked_at=len(tree.images) + tree.without,
        refused=refused,
        late=late,
        differing=differing,
        held=held,
        ledger=ledger,
    )


def _newest_images(changes: list[Any]) -> dict[ImageAt, list[str]]:
    """Return at most `BASES_OF` images that the changed tags resolve to now, with the tags."""
    newest: dict[tuple[str, str], str] = {}
    for each in changes:
        newest.setdefault((each.repository, each.tag), each.digest)
    found: dict[ImageAt, list[str]] = {}
    for (repository, tag), digest in newest.items():
        if digest and tag and signature_subject(tag) is None and len(found) < BASES_OF:
            found.setdefault(ImageAt(repository, digest), []).append(tag)
    return found


async def _changes(pages: PageContext, request: Request) -> list[Any]:
    try:
        rows = await pages.registry.ledger.newest_changes(pages.access.may_list(request.caller), CHANGES)
    except NotInLedger:  # nothing is signed yet
        return []
    return [entry_document(row.entry_index, parse(row.line)) for row in rows]
