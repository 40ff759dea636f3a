"""The routes of sealed tags whose time to be kept is over, for operators: list them, and delete them a page at a time."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from boltseal.ledger.entry import format_time
from boltseal.oci.jsontext import DigestText, TimeText
from boltseal.server.api.admin.paging import Page, PageQuery, cursor_of, tag_position
from boltseal.server.api.admin.routes import Right, Route
from boltseal.server.api.request import Request
from boltseal.server.registry import Registry
from boltseal.server.registry.tag_states import StoredTag

EXPIRE: Final = "expire"
LOOKED_AT: Final = 1000
"""Tags that one request looks at for the few of them that are overdue. Its page may be empty, and others follow."""


class ExpireTags(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which page of overdue tags to delete. `limit`: at most so many are deleted."""

    dry_run: Annotated[bool, Meta(description="Only return what would be deleted.")] = False


class OverdueTag(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed tag whose time to be kept is over."""

    repository: str
    tag: str
    digest: DigestText
    keep: str
    since: TimeText
    running: Annotated[
        str | None, Meta(description="Which host runs its image, by its report; then the tag stays. Null: none does.")
    ]


class OverdueTags(Page, frozen=True, kw_only=True):
    """A page of tags that `POST /api/v1/expire` would delete, unless a host runs their images."""

    items: list[OverdueTag]


class ExpiredTag(msgspec.Struct, frozen=True, kw_only=True):
    """An overdue tag, and what became of it. It can return only with the same digest."""

    repository: str
    tag: str
    status: Annotated[
        Literal["expired", "kept"],
        Meta(description="`expired`: it was deleted, or would be. `kept`: a host runs its image."),
    ]
    reason: Annotated[str, Meta(description="Why it was kept; empty for a deleted one.")]


class ExpiredTags(Page, frozen=True, kw_only=True):
    """What became of a page of overdue tags. Those after `next` were not looked at."""

    items: list[ExpiredTag]
    dry_run: bool


class ExpiryRoutes:
    """The handlers of overdue tags."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def routes(self) -> list[Route]:
        """Return the routes."""
        operator = Right.OPERATOR
        listed = "List the sealed tags whose time to be kept is over."
        deleted = "Delete the sealed tags whose time to be kept is over, unless a host runs their images."
        return [
            Route("GET", EXPIRE, listed, operator, PageQuery, OverdueTags, self.listed),
            Route("POST", EXPIRE, deleted, operator, ExpireTags, ExpiredTags, self.expire, changes=True),
        ]

    async def listed(self, _: Request, asked: PageQuery) -> OverdueTags:
        """Return the overdue ones of the next tags."""
        shown, following = await self._overdue(asked)
        running = await self._registry.host_reports.why_running(shown)
        items = [_document(each, why) for each, why in zip(shown, running, strict=True)]
        return OverdueTags(items=items, next=following)

    async def expire(self, request: Request, asked: ExpireTags) -> ExpiredTags:
        """Delete the overdue ones of the next tags."""
        overdue, following = await self._overdue(asked)
        done = await self._registry.seals.expire_some(overdue, request.actor, dry_run=asked.dry_run)
        gone = [
            ExpiredTag(repository=each.repository, tag=each.tag, status="expired", reason="") for each in done.expired
        ]
        kept = [
            ExpiredTag(repository=each.repository, tag=each.tag, status="kept", reason=each.reason)
            for each in done.kept
        ]
        return ExpiredTags(items=[*gone, *kept], next=following, dry_run=asked.dry_run)

    async def _overdue(self, asked: PageQuery) -> tuple[list[StoredTag], str | None]:
        """Return the overdue ones of the next tags, at most a page, and the cursor after them."""
        states = self._registry.tag_states
        page = await states.of_all(tag_position(EXPIRE, asked.cursor), LOOKED_AT)
        found = [each for each in page.tags if each.row.overdue_at(states.now_us)]
        last = page.tags[-1] if page.more else None
        if len(found) > asked.limit:
            last = found[asked.limit - 1]
        return found[: asked.limit], None if last is None else cursor_of(EXPIRE, last.repository_id, last.name)


def _document(found: StoredTag, running: str) -> OverdueTag:
    row = found.row
    return OverdueTag(
        repository=found.repository,
        tag=found.name,
        digest=str(row.digest),
        keep=str(row.keep),
        since=format_time(row.keep_until_us or 0),
        running=running or None,
    )
