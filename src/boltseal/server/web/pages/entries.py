"""Ledger entries: the one that a change became, or those of a purge."""

from __future__ import annotations

from boltseal.errors import NotFound, quote
from boltseal.oci.digest import Digest
from boltseal.server.api.admin.documents import LedgerEntry, entry_document
from boltseal.server.api.admin.routes import RequestInvalid, Right
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.registry.ledger import NotInLedger
from boltseal.server.storage.metadata.protocol import Log
from boltseal.server.web.pages.context import ROWS, OfRepository, PageContext, Viewer
from boltseal.server.web.pages.tags import receipts_of

_MAX_DIGITS = 18


async def entry(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """Show one entry of a repository, by its index; or the entries by which an image was purged, by its digest."""
    name = request.query.value("repository") or ""
    pages.api.check(request, Right.PULL, OfRepository(name))
    log = pages.log_of(name)
    index, purged = request.query.value("entry") or "", request.query.value("purged") or ""
    if purged:
        entries = await _purged(pages, request, name, str(Digest.parse(purged)))
    else:
        entries = await _of_index(pages, log, name, index)
    return pages.page(
        "entry",
        viewer,
        repository=name,
        entries=entries,
        index=index,
        again={"repository": name, "entry": index, "purged": purged},
        receipts=receipts_of(log),
    )


async def _of_index(pages: PageContext, log: Log, name: str, text: str) -> list[LedgerEntry]:
    """Return the entry, none if it is not signed yet. Raises: NotFound: it is about another repository."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise RequestInvalid(f"entry is {quote(text)}; expected the index of an entry")
    try:
        found = await pages.entries_of(log).entry(int(text))
    except NotInLedger:
        return []
    if found.repository != name:
        raise NotFound(f"entry {int(text)} is not about {quote(name)}")
    return [entry_document(int(text), found)]


async def _purged(pages: PageContext, request: Request, name: str, digest: str) -> list[LedgerEntry]:
    try:
        found = await pages.api.read(request, "history", repository=name, kinds="tag.purged", limit=ROWS)
    except NotInLedger:
        return []
    return [each for each in found.items if digest in (each.digest, each.was)]
