"""A tag: what it resolved to and when, the proof of it, refused pushes to it, and hosts that run it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from boltseal.errors import NotFound, quote
from boltseal.ledger.entry import EntryKind
from boltseal.oci.reference import Repository, Tag
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.registry.observations import ObservedTag
from boltseal.server.registry.tag_lists import NOT_KNOWN
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, Log
from boltseal.server.web.pages.context import ROWS, SOME, UNKNOWN_HOST, PageContext, Viewer

LEDGERS: Final = {LEDGER: "ledger/", OBSERVATIONS: "ledger/observations/"}
"""The addresses of both logs, relative to pages (`server.web.page_ledger`)."""
READS: Final = {LEDGER: "history", OBSERVATIONS: "observations"}
"""The reads of both logs in the admin API."""

RESOLVING: Final = frozenset(
    {
        EntryKind.TAG_CREATED,
        EntryKind.TAG_MOVED,
        EntryKind.TAG_SEALED,
        EntryKind.TAG_UNSEALED,
        EntryKind.TAG_RESTORED,
        EntryKind.OBSERVED,
        EntryKind.ACCEPTED,
    }
)
"""Kinds of entries that record what a tag resolves to; `static/proof.js` has the same list, and a test compares them."""


def receipts_of(log: Log) -> str:
    """Return the address of a log's receipts, to which the index of an entry is added."""
    return f"/ui/{LEDGERS[log]}receipt/"


@dataclass(frozen=True, slots=True)
class Proof:
    """What the script of the page checks: that this entry of a log records the digest. `key` "": the log has no key, or it cannot be read."""

    ledger: str
    key: str
    digest: str
    entry: int


async def tag(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """Show what a tag resolved to and when, and what was refused."""
    name, tag = request.query.value("repository") or "", request.query.value("tag") or ""
    cursor = request.query.value("cursor")
    answer, observed = None, None
    try:
        answer = await pages.api.read(request, "tag", repository=name, tag=tag)
    except NotFound:  # of a mirrored tag only observations are stored
        observed = await _observed(pages, name, tag)
        if observed is None:
            raise
    log = LEDGER if observed is None else OBSERVATIONS
    history = await pages.api.read(request, READS[log], repository=name, tag=tag, limit=ROWS, cursor=cursor)
    refused = await pages.api.read(request, "refused", repository=name, tag=tag, limit=SOME)
    digest = answer.tag.digest if answer is not None else _served(observed)
    image = running = None
    if digest:
        image = (await pages.registry.tag_lists.images(Repository(name), [digest])).get(digest, NOT_KNOWN)
        running = await pages.api.read_allowed(request, "hosts/images", digest=digest, limit=SOME)
    return pages.page(
        "tag",
        viewer,
        repository=name,
        tag=tag,
        answer=answer,
        known=None if observed is None else observed.known,
        upstream=pages.upstream_of(name),
        digest=digest,
        image=image,
        history=history,
        receipts=receipts_of(log),
        proof=await _proof(pages, log, digest, history.items) if digest and not cursor else None,
        refused=refused,
        running=running,
        may_change=pages.may_change(request, name),
        host=pages.host or UNKNOWN_HOST,
        first=not cursor,
    )


async def _observed(pages: PageContext, name: str, tag: str) -> ObservedTag | None:
    """Return what is known of a mirrored tag; None if the repository is not mirrored. The right to pull was checked before."""
    if pages.upstream_of(name) is None:
        return None
    found = await pages.registry.observations.find(Repository(name), Tag(tag))
    if found is None:
        raise NotFound(f"no client asked for the tag {quote(tag)} of {quote(name)} yet")
    return found


def _served(observed: ObservedTag | None) -> str | None:
    """Return the digest that clients get, never one that is held back."""
    return None if observed is None or observed.known.serves is None else str(observed.known.serves.digest)


async def _proof(pages: PageContext, log: Log, digest: str, entries: Sequence[Any]) -> Proof | None:
    """Return the newest of these entries that records the digest, None without one."""
    index = next((each.index for each in entries if each.digest == digest and each.kind in RESOLVING), None)
    if index is None:
        return None
    key = await asyncio.to_thread(pages.verifier_key, log)
    return Proof(LEDGERS[log], key, digest, index)
