"""Reads of repositories and tags: lists, states, history, and the rule that decides."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from boltseal.errors import quote
from boltseal.ledger.entry import EntryKind, parse
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.name_resolution import NameResolver
from boltseal.policy.rule_decision import decide
from boltseal.policy.rules import RuleSet
from boltseal.server.api.admin import documents
from boltseal.server.api.admin.documents import entry_document, rule_document, tag_document
from boltseal.server.api.admin.paging import PageQuery, cursor_of, number_position, text_position
from boltseal.server.api.admin.routes import RequestInvalid, Right, Route
from boltseal.server.api.request import Request
from boltseal.server.auth.access import Access
from boltseal.server.registry import Registry
from boltseal.server.registry.ledger import Ledger

REPOSITORIES: Final = "repositories"
TAGS: Final = "tags"
HISTORY: Final = "history"
OBSERVATIONS: Final = "observations"

RepositoryName = Annotated[
    str, Meta(max_length=255, description="As it is stored: `shop/app`, of a mirror `docker.io/library/node`.")
]
TagName = Annotated[str, Meta(max_length=128, description="A tag.")]


class OfRepository(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of what a repository has."""

    repository: RepositoryName


class TagsQuery(OfRepository, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of tags."""

    deleted: Annotated[bool, Meta(description="Also tombstones and other deleted tags.")] = False


class TagQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tag."""

    repository: RepositoryName
    tag: TagName


class HistoryQuery(OfRepository, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of entries."""

    tag: Annotated[str, Meta(max_length=128, description="Only of this tag; empty: of all.")] = ""
    kinds: Annotated[
        str,
        Meta(description="Only of these kinds, separated by commas, such as `tag.sealed,tag.moved`; empty: of all."),
    ] = ""


class RepositoryReads:
    """The handlers of reads of repositories and tags."""

    def __init__(self, registry: Registry, access: Access, rules: RuleSet, names: NameResolver) -> None:
        self._registry = registry
        self._access = access
        self._rules = rules
        self._names = names

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(
                "GET",
                REPOSITORIES,
                "List the repositories that have content.",
                Right.CATALOG,
                PageQuery,
                documents.Repositories,
                self.repositories,
            ),
            Route("GET", TAGS, "List the tags of a repository.", Right.PULL, TagsQuery, documents.Tags, self.tags),
            Route("GET", "tag", "Show the state of a tag.", Right.PULL, TagQuery, documents.TagAnswer, self.tag),
            Route(
                "GET",
                HISTORY,
                "List ledger entries of a repository or tag, also records of builds, rebuild requests and releases.",
                Right.PULL,
                HistoryQuery,
                documents.History,
                self.history,
            ),
            Route(
                "GET",
                OBSERVATIONS,
                "List what an upstream's tags were seen to resolve to.",
                Right.PULL,
                HistoryQuery,
                documents.History,
                self.observations,
            ),
            Route(
                "GET",
                "rules/test",
                "Show the rule that decides about a push to a tag.",
                Right.PULL,
                TagQuery,
                documents.Decision,
                self.decide_about,
            ),
        ]

    async def repositories(self, request: Request, asked: PageQuery) -> documents.Repositories:
        """Return a page of the repositories that the caller may pull."""
        after = text_position(REPOSITORIES, asked.cursor)
        page = await self._registry.pulls.catalog(asked.limit, after, may_read=self._access.may_list(request.caller))
        items = [
            documents.Repository(
                name=name,
                actions=sorted(self._access.allowed(request.caller, name)),
                upstream=self._upstream(name),
            )
            for name in page.items
        ]
        following = cursor_of(REPOSITORIES, page.items[-1]) if page.more else None
        return documents.Repositories(items=items, next=following)

    def _upstream(self, name: Repository) -> str | None:
        resolution = self._names.by_name(name)
        return None if resolution is None or resolution.upstream is None else resolution.upstream.name

    async def tags(self, _: Request, asked: TagsQuery) -> documents.Tags:
        """Return a page of tags with their states."""
        repository, after = Repository(asked.repository), text_position(TAGS, asked.cursor)
        page = await self._registry.tag_states.page(repository, after, asked.limit, deleted=asked.deleted)
        return documents.Tags(
            repository=repository,
            items=[tag_document(each.name, each.row) for each in page.tags],
            next=cursor_of(TAGS, page.tags[-1].name) if page.more else None,
        )

    async def tag(self, _: Request, asked: TagQuery) -> documents.TagAnswer:
        """Return the state of one tag, also of a deleted one."""
        repository, tag = Repository(asked.repository), Tag(asked.tag)
        row = await self._registry.tag_states.find(repository, tag)
        rule = rule_document(decide(self._rules, repository, tag))
        return documents.TagAnswer(repository=repository, tag=tag_document(tag, row), rule=rule)

    async def history(self, _: Request, asked: HistoryQuery) -> documents.History:
        """Return entries of the ledger."""
        return await _history(self._registry.ledger, HISTORY, asked)

    async def observations(self, _: Request, asked: HistoryQuery) -> documents.History:
        """Return entries of the log of observations."""
        return await _history(self._registry.observed, OBSERVATIONS, asked)

    async def decide_about(self, _: Request, asked: TagQuery) -> documents.Decision:
        """Return the rule that decides about a tag, whether or not it exists."""
        repository, tag = Repository(asked.repository), Tag(asked.tag)
        rule = decide(self._rules, repository, tag)
        return documents.Decision(repository=repository, tag=tag, rule=rule_document(rule), reason=rule.why)


async def _history(log: Ledger, name: str, asked: HistoryQuery) -> documents.History:
    page = await log.newest(
        Repository(asked.repository),
        Tag(asked.tag) if asked.tag else None,
        before=number_position(name, asked.cursor, 2**63 - 1),
        n=asked.limit,
        kinds=_kinds(asked.kinds),
    )
    following = cursor_of(name, page.entries[-1].entry_index) if page.more else None
    items = [entry_document(index, parse(line)) for index, line in page.entries]
    return documents.History(size=page.size, items=items, next=following)


def _kinds(text: str) -> frozenset[EntryKind] | None:
    try:
        return frozenset(EntryKind(kind) for kind in text.split(",")) if text else None
    except ValueError as error:
        raise RequestInvalid(
            f"kinds is {quote(text)}; expected kinds of entries, such as tag.sealed,tag.moved"
        ) from error
