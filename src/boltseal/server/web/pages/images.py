"""An image: what is in it, what it was built on, which tags resolved to it, what is attached to it, and hosts that run it."""

from __future__ import annotations

from typing import Final

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.api.admin.documents import entry_document
from boltseal.server.api.admin.paging import cursor_of, number_position
from boltseal.server.api.admin.routes import Right
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.commands.image_details import image_details
from boltseal.server.storage.metadata.protocol import LEDGER
from boltseal.server.web.pages.context import ROWS, SOME, UNKNOWN_HOST, OfRepository, PageContext, Viewer
from boltseal.server.web.pages.tags import receipts_of

RESOLVED: Final = "entries of a digest"
LOOKED_AT: Final = 2000
"""Entries of the repository among which one page seeks those of the digest."""


async def image(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """Show an image of a repository; of an index, the image for one platform."""
    name, cursor = request.query.value("repository") or "", request.query.value("cursor") or ""
    pages.api.check(request, Right.PULL, OfRepository(name))
    repository, digest = Repository(name), Digest.parse(request.query.value("digest") or "")
    details = await image_details(pages.registry.pulls, repository, digest, request.query.value("platform") or None)
    log = pages.log_of(name)
    before = number_position(RESOLVED, cursor, 2**63 - 1)
    resolved = await pages.entries_of(log).resolved_to(repository, digest, before=before, n=LOOKED_AT)
    return pages.page(
        "image",
        viewer,
        repository=name,
        details=details,
        bases=await pages.bases(request).chain(details.base, details.chosen),
        tags=await pages.registry.tag_lists.resolving(repository, str(digest), ROWS),
        entries=[entry_document(index, entry) for index, entry in resolved.entries],
        receipts=receipts_of(log),
        next=None if resolved.following is None else cursor_of(RESOLVED, resolved.following),
        running=await pages.api.read_allowed(request, "hosts/images", digest=str(digest), limit=SOME),
        may_change=log is LEDGER and pages.may_change(request, name),
        host=pages.host or UNKNOWN_HOST,
        first=not cursor,
    )
