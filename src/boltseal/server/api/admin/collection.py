"""The route of garbage collection, for operators: each request does a part of the work."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from boltseal.server.api.admin.paging import Page, PageQuery, collection_cursor, collection_position
from boltseal.server.api.admin.routes import Right, Route
from boltseal.server.api.request import Request
from boltseal.server.commands.collection import ServedCollection

GC: Final = "gc"


class Collect(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part to do. `limit`: about how many items; what one transaction deletes is in one part."""

    dry_run: Annotated[bool, Meta(description="Only return what would be deleted.")] = False


class CollectedItem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not needed, and what was done with it."""

    what: Annotated[
        str,
        Meta(
            description="`repository-blob`: a repository's entry of a blob; `blob`: the bytes. `hidden-blob`, `manifest`, "
            "`upload`; `kept`: a mirrored image; `failed`: the bytes of a blob."
        ),
    ]
    name: str
    size: Annotated[int, Meta(description="In bytes.")]
    freed: Annotated[int, Meta(description="Bytes that the store has less.")]
    status: Annotated[
        Literal["removed", "hidden", "kept", "failed"],
        Meta(
            description="`removed`, `hidden` (from clients, until it is removed): it was, or would be. `kept`: a host runs it. "
            "`failed`: the store failed; it is tried again."
        ),
    ]
    reason: str


class CollectedItems(Page, frozen=True, kw_only=True):
    """What a part of garbage collection deleted. `next`: the cursor of the next part; null: everything was done."""

    items: list[CollectedItem]
    dry_run: bool


class CollectionRoutes:
    """The handler of garbage collection."""

    def __init__(self, collection: ServedCollection) -> None:
        self._collection = collection

    def routes(self) -> list[Route]:
        """Return the routes."""
        summary = "Delete unreferenced blobs and abandoned uploads, a part for each request."
        return [Route("POST", GC, summary, Right.OPERATOR, Collect, CollectedItems, self.collect, changes=True)]

    async def collect(self, request: Request, asked: Collect) -> CollectedItems:
        """Do one part."""
        start = collection_position(GC, asked.cursor)
        done = await self._collection.part(request.actor, start, asked.limit, dry_run=asked.dry_run)
        items = [
            CollectedItem(
                what=each.what,
                name=each.name,
                size=each.size_bytes,
                freed=each.freed_bytes,
                status=each.status,
                reason=each.reason,
            )
            for each in done.items
        ]
        following = None if done.following is None else collection_cursor(GC, done.following)
        return CollectedItems(items=items, next=following, dry_run=asked.dry_run)
