"""The pages that show a registry, all of them read-only: overview, search, repositories, tags, refused pushes, hosts, upstreams.

What a page shows comes from the reads of the admin API (`api_reads`) and from `TagLists` and `Search`, which get the rights of the
same caller. There are no rules here. Each page has a fixed number of reads, and lists come in pages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from boltseal.errors import BoltsealError, NotFound, quote
from boltseal.ledger.entry import EntryKind, format_time, parse
from boltseal.oci.reference import Repository
from boltseal.policy.name_resolution import NameResolver
from boltseal.server.api import responses
from boltseal.server.api.admin.documents import entry_document
from boltseal.server.api.admin.paging import cursor_of, text_position, time_position
from boltseal.server.api.admin.routes import RequestInvalid, Right, Route
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.auth.access import Access
from boltseal.server.registry import Registry
from boltseal.server.registry.ledger import NotInLedger
from boltseal.server.registry.search import SearchInvalid
from boltseal.server.registry.tag_lists import FIRST, NOT_KNOWN, PageAfter, TagListPage, TagOrder
from boltseal.server.registry.tag_states import mode_of
from boltseal.server.web.api_reads import ApiReads
from boltseal.server.web.rendering import PAGE_HEADERS, Templates

ROWS: Final = 50
SOME: Final = 10
"""Rows of a list that is a part of a page."""
BY_VERSION: Final = "tags by version"
BY_TIME: Final = "tags by time"
BY_NAME: Final = "tags by name"
FOUND_TAGS: Final = "found tags"

EVENTS: Final[Mapping[EntryKind, str]] = {
    EntryKind.TAG_CREATED: "created",
    EntryKind.TAG_MOVED: "moved",
    EntryKind.TAG_DELETED: "deleted",
    EntryKind.TAG_SEALED: "sealed",
    EntryKind.TAG_UNSEALED: "protection lifted",
    EntryKind.TAG_RESTORED: "restored",
    EntryKind.TAG_PURGED: "purged",
    EntryKind.TAG_EXPIRED: "expired",
    EntryKind.OBSERVED: "observed upstream",
    EntryKind.HELD: "held back",
    EntryKind.ACCEPTED: "accepted",
    EntryKind.BUILT: "built",
    EntryKind.REBUILD_REQUESTED: "rebuild requested",
    EntryKind.RELEASED: "released",
}
"""Ledger entries in the words of pages."""

REASONS: Final[Mapping[str, str]] = {
    "sealed": "the tag is sealed",
    "tombstone": "the sealed tag was deleted",
    "not-extended": "the tag may only gain content",
    "protected": "a sealed tag protects it",
    "quota": "no space is left for this user",
    "held": "the upstream's change is held back",
    "precondition": "a condition of the request does not hold",
}
"""Reasons of refusals in words; others are shown as they are."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at a page. `user` "": nobody is logged in. `needs_login`: callers without a login see less."""

    user: str
    operator: bool
    needs_login: bool


RegistryPage = Callable[[Request, Viewer], Awaitable[Response]]


class _OfRepository(msgspec.Struct, frozen=True):
    repository: str


class RegistryPages:
    """The read-only pages of one registry. `host`: the registry's name in image references, "" if it is not known."""

    def __init__(
        self,
        registry: Registry,
        access: Access,
        routes: Sequence[Route],
        names: NameResolver,
        host: str,
    ) -> None:
        self._registry = registry
        self._access = access
        self._api = ApiReads(access, routes)
        self._names = names
        self._host = host
        self.templates = Templates()

    def pages(self) -> Mapping[str, RegistryPage]:
        """Return the pages by their paths."""
        return {
            "/ui/": self.overview,
            "/ui/search": self.search,
            "/ui/repositories": self.repositories,
            "/ui/repository": self.repository,
            "/ui/tag": self.tag,
            "/ui/receipt": self.receipt,
            "/ui/refused": self.refused,
            "/ui/hosts": self.hosts,
            "/ui/host": self.host,
            "/ui/upstreams": self.upstreams,
        }

    def _page(self, name: str, viewer: Viewer, **values: Any) -> Response:
        now_us = self._registry.tag_states.now_us
        return self.templates.page(name, viewer=viewer, now_us=now_us, events=EVENTS, reasons=REASONS, **values)

    async def overview(self, request: Request, viewer: Viewer) -> Response:
        """Show what is new: repositories, changes, refused pushes; for operators also what needs attention."""
        repositories = await self._api.read(request, "repositories", limit=SOME)
        changes = await self._changes(request)
        refused = await self._api.read(request, "refused/all", limit=SOME)
        hosts = await self._api.read_allowed(request, "hosts", limit=100)
        late = () if hosts is None else [each for each in hosts.items if each.state != "reporting"]
        held = await self._api.read_allowed(request, "held", limit=SOME)
        ledger = await self._api.read_allowed(request, "ledger")
        return self._page(
            "overview",
            viewer,
            repositories=repositories,
            changes=changes,
            refused=refused,
            hosts=hosts,
            late=late,
            held=held,
            ledger=ledger,
        )

    async def _changes(self, request: Request) -> list[Any]:
        try:
            rows = await self._registry.ledger.newest_changes(self._access.may_list(request.caller), SOME)
        except NotInLedger:  # nothing is signed yet
            return []
        return [entry_document(row.entry_index, parse(row.line)) for row in rows]

    async def search(self, request: Request, viewer: Viewer) -> Response:
        """Show what begins with a text."""
        self._api.check(request, Right.CATALOG)
        text = (request.query.value("q") or "").strip()
        after = text_position(FOUND_TAGS, request.query.value("cursor") or "")
        found, message = None, ""
        if text:
            try:
                found = await self._registry.search.find(text, self._access.may_list(request.caller), after)
            except SearchInvalid as error:
                message = error.message
        cursor = None if found is None or found.following is None else cursor_of(FOUND_TAGS, found.following)
        return self._page("search", viewer, text=text, found=found, message=message, next=cursor)

    async def repositories(self, request: Request, viewer: Viewer) -> Response:
        """List the repositories."""
        page = await self._api.read(request, "repositories", limit=ROWS, cursor=request.query.value("cursor"))
        return self._page("repositories", viewer, page=page)

    async def repository(self, request: Request, viewer: Viewer) -> Response:
        """List the tags of a repository."""
        name = request.query.value("repository") or ""
        self._api.check(request, Right.PULL, _OfRepository(name))
        repository, line = Repository(name), request.query.value("line")
        upstream = self._upstream(repository)
        if upstream is not None:
            return await self._mirrored(request, viewer, repository, upstream)
        order = _order(request.query.value("order"))
        after = _after(order, request.query.value("cursor") or "")
        page = await self._registry.tag_lists.page(repository, order, after, ROWS, line)
        rows = [(each, str(mode_of(each.row)), format_time(each.row.changed_us)) for each in page.listed]
        return self._page(
            "repository",
            viewer,
            repository=str.__str__(repository),
            page=page,
            rows=rows,
            order=str(page.order),
            line=line,
            next=_following(page),
            first=not request.query.value("cursor"),
        )

    async def _mirrored(self, request: Request, viewer: Viewer, repository: Repository, upstream: str) -> Response:
        """List the tags of an upstream's repository that were asked for."""
        cursor = request.query.value("cursor") or ""
        found, more = await self._registry.observations.tags_of(repository, text_position(BY_NAME, cursor), ROWS)
        served = [str(each.known.serves.digest) for _, each in found if each.known.serves is not None]
        images = await self._registry.tag_lists.images(repository, served)
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
        return self._page(
            "mirrored",
            viewer,
            repository=str.__str__(repository),
            upstream=upstream,
            rows=rows,
            next=following,
            first=not cursor,
        )

    async def tag(self, request: Request, viewer: Viewer) -> Response:
        """Show what a tag resolved to and when, and what was refused."""
        name, tag = request.query.value("repository") or "", request.query.value("tag") or ""
        upstream, answer, image = self._upstream(name), None, None
        try:
            answer = await self._api.read(request, "tag", repository=name, tag=tag)
        except NotFound:  # of an upstream only observations are stored; of a refused tag only refusals
            if upstream is None:
                raise
        log = "observations" if answer is None else "history"
        cursor = request.query.value("cursor")
        history = await self._api.read(request, log, repository=name, tag=tag, limit=ROWS, cursor=cursor)
        if answer is None and not history.items:
            raise NotFound(f"there is no tag {quote(tag)} in {quote(name)}")
        refused = await self._api.read(request, "refused", repository=name, tag=tag, limit=SOME)
        digest = answer.tag.digest if answer is not None else history.items[0].digest
        running = None
        if digest:
            image = (await self._registry.tag_lists.images(Repository(name), [digest])).get(digest, NOT_KNOWN)
            running = await self._api.read_allowed(request, "hosts/images", digest=digest, limit=SOME)
        return self._page(
            "tag",
            viewer,
            repository=name,
            tag=tag,
            answer=answer,
            digest=digest,
            image=image,
            history=history,
            log=log,
            refused=refused,
            running=running,
            upstream=upstream,
            host=self._host or "REGISTRY",
            first=not cursor,
        )

    async def receipt(self, request: Request, _: Viewer) -> Response:
        """Send the receipt of an entry as a file."""
        log = request.query.value("log") or "history"
        ledger = self._registry.observed if log == "observations" else self._registry.ledger
        index = _number(request.query.value("entry") or "")
        self._api.check(request, Right.LOGIN)
        entry = await ledger.entry(index)
        if entry.repository:
            request.actor = self._access.check_entry(request.caller, index, entry.repository)
        else:
            request.actor = self._access.check_entries(request.caller)
        file = f'attachment; filename="{"observation" if log == "observations" else "entry"}-{index}.tlog-proof"'
        extra = ((b"content-disposition", file.encode("ascii")), *PAGE_HEADERS)
        return responses.with_body(await ledger.receipt(index), responses.TEXT, extra=extra)

    async def refused(self, request: Request, viewer: Viewer) -> Response:
        """List refused pushes: of all repositories, of one, or to one tag."""
        name, tag, cursor = (request.query.value(each) or "" for each in ("repository", "tag", "cursor"))
        if name:
            page = await self._api.read(request, "refused", repository=name, tag=tag, limit=ROWS, cursor=cursor)
        else:
            page = await self._api.read(request, "refused/all", limit=ROWS, cursor=cursor)
        return self._page("refused", viewer, page=page, repository=name, tag=tag, first=not cursor)

    async def hosts(self, request: Request, viewer: Viewer) -> Response:
        """List hosts, or what runs a digest or tag."""
        given = {name: request.query.value(name) or "" for name in ("digest", "repository", "tag")}
        cursor = request.query.value("cursor")
        images = page = releases = None
        if any(given.values()):
            images = await self._api.read(request, "hosts/images", **given, limit=ROWS, cursor=cursor)
        else:
            page = await self._api.read(request, "hosts", limit=ROWS, cursor=cursor)
            releases = await self._api.read(request, "releases", limit=SOME)
        return self._page("hosts", viewer, page=page, images=images, releases=releases, given=given, first=not cursor)

    async def host(self, request: Request, viewer: Viewer) -> Response:
        """Show what a host runs, and its releases."""
        name, cursor = request.query.value("host") or "", request.query.value("cursor")
        found = await self._api.read(request, "host", host=name)
        images = await self._api.read(request, "hosts/images", host=name, limit=ROWS, cursor=cursor)
        releases = await self._api.read(request, "releases", host=name, limit=SOME)
        return self._page("host", viewer, host=found, images=images, releases=releases, first=not cursor)

    async def upstreams(self, request: Request, viewer: Viewer) -> Response:
        """Show upstreams, and their tags that are held back."""
        cursor = request.query.value("cursor")
        states = await self._api.read(request, "upstreams")
        held = await self._api.read(request, "held", limit=ROWS, cursor=cursor)
        return self._page("upstreams", viewer, states=states, held=held, first=not cursor)

    def _upstream(self, name: str) -> str | None:
        try:
            resolution = self._names.by_name(Repository(name))
        except BoltsealError:  # no valid name; the read that follows says so
            return None
        return None if resolution is None or resolution.upstream is None else resolution.upstream.name


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


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise RequestInvalid(f"entry is {quote(text)}; expected the index of an entry")
    return int(text)
