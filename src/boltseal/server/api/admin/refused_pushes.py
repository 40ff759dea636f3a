"""Lists of refused pushes: of one repository, and of all that the caller may pull.

Client addresses are shown to administrators of a repository alone, since anonymous clients may pull from some.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from boltseal.ledger.entry import format_time
from boltseal.oci.jsontext import DigestText, TimeText
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.grants import Action
from boltseal.server.api.admin.paging import Page, PageQuery, cursor_of, time_position
from boltseal.server.api.admin.repository_reads import OfRepository
from boltseal.server.api.admin.routes import Right, Route
from boltseal.server.api.history import parse_timestamp
from boltseal.server.api.request import Request
from boltseal.server.auth.access import Access
from boltseal.server.registry import refused_pushes
from boltseal.server.registry.refused_pushes import NEWEST, RefusedPushes
from boltseal.server.storage.metadata.refused_push_table import Position, RefusedPushRow

REFUSED: Final = "refused"
REFUSED_ALL: Final = "refused/all"

Since = Annotated[
    str, Meta(max_length=64, description="Only what was refused last at or after this time; empty: everything.")
]


class RefusedQuery(OfRepository, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of the refused pushes to a repository."""

    tag: Annotated[str, Meta(max_length=128, description="Only to this tag; empty: to all.")] = ""
    since: Since = ""


class AllRefusedQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of the refused pushes to all repositories that the caller may pull."""

    since: Since = ""


class RefusedPush(msgspec.Struct, frozen=True, kw_only=True):
    """Pushes of a manifest that were refused alike. The manifest itself is not stored."""

    repository: str
    tag: Annotated[str | None, Meta(description="Null: it was pushed by digest alone.")]
    reason: Annotated[str, Meta(description="The `reason` in the `detail` of the refusal.")]
    pushed: Annotated[
        DigestText | None, Meta(description="The digest that was pushed; null: refused before the manifest was read.")
    ]
    digest: Annotated[DigestText | None, Meta(description="What the tag resolved to, or is sealed at; null: nothing.")]
    by: Annotated[str, Meta(description="Who pushed, as the ledger would name it.")]
    extra: Annotated[dict[str, str], Meta(description="Verified claims of a pipeline, as in an entry of the ledger.")]
    address: Annotated[
        str | None, Meta(description="The client's address; null: the caller has no `admin` in the repository.")
    ]
    free: Annotated[list[str], Meta(description="The free tag that the refusal suggested.")]
    first: TimeText
    last: TimeText
    times: int


class RefusedPushList(Page, frozen=True, kw_only=True):
    """A page of refused pushes, the newest first by `last`. A repeated push moves to the first page."""

    items: list[RefusedPush]


class RefusedPushReads:
    """The handlers of reads of refused pushes."""

    def __init__(self, refused: RefusedPushes, access: Access) -> None:
        self._refused = refused
        self._access = access

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(
                "GET",
                REFUSED,
                "List the refused pushes to a repository or tag.",
                Right.PULL,
                RefusedQuery,
                RefusedPushList,
                self.of_repository,
            ),
            Route(
                "GET",
                REFUSED_ALL,
                "List the refused pushes to all repositories that the caller may pull.",
                Right.CATALOG,
                AllRefusedQuery,
                RefusedPushList,
                self.of_all,
            ),
        ]

    async def of_repository(self, request: Request, asked: RefusedQuery) -> RefusedPushList:
        """Return a page of the refused pushes to a repository."""
        page = await self._refused.of_repository(
            Repository(asked.repository),
            Tag(asked.tag) if asked.tag else "",
            before=_position(REFUSED, asked.cursor),
            since_us=_since(asked.since),
            limit=asked.limit,
        )
        return self._list(request, REFUSED, page)

    async def of_all(self, request: Request, asked: AllRefusedQuery) -> RefusedPushList:
        """Return a page of the refused pushes to all repositories that the caller may pull."""
        page = await self._refused.of_all(
            self._access.may_list(request.caller),
            before=_position(REFUSED_ALL, asked.cursor),
            since_us=_since(asked.since),
            limit=asked.limit,
        )
        return self._list(request, REFUSED_ALL, page)

    def _list(self, request: Request, name: str, page: refused_pushes.Page) -> RefusedPushList:
        repositories = {row.push.repository for row in page.rows}
        admins = {each for each in repositories if Action.ADMIN in self._access.allowed(request.caller, each)}
        last = page.rows[-1] if page.more else None
        return RefusedPushList(
            items=[_document(row, shows_address=row.push.repository in admins) for row in page.rows],
            next=None if last is None else cursor_of(name, last.when.last_us, last.id),
        )


def _document(row: RefusedPushRow, *, shows_address: bool) -> RefusedPush:
    push, when = row.push, row.when
    return RefusedPush(
        repository=push.repository,
        tag=push.tag or None,
        reason=push.reason,
        pushed=push.pushed or None,
        digest=push.digest or None,
        by=push.actor,
        extra=msgspec.json.decode(push.extra, type=dict[str, str]),
        address=push.address if shows_address else None,
        free=[when.free] if when.free else [],
        first=format_time(when.first_us),
        last=format_time(when.last_us),
        times=when.times,
    )


def _position(name: str, cursor: str) -> Position:
    found = time_position(name, cursor)
    return NEWEST if found is None else Position(*found)


def _since(text: str) -> int:
    """Return the time of a query, in microseconds since the epoch. Raises: QueryInvalid."""
    return parse_timestamp("since", text, round_up=False) if text else 0
