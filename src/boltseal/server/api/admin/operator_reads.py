"""Reads for operators: rules, grants, upstreams, held tags, requested rebuilds, garbage collection; and who the caller is."""

from __future__ import annotations

from typing import Final

from boltseal.commands.ratelimit import UpstreamLimit
from boltseal.ledger.entry import format_time
from boltseal.server.api.admin import documents
from boltseal.server.api.admin.documents import grant_document, rule_document, time_or_none
from boltseal.server.api.admin.paging import PageQuery, cursor_of, pair_position
from boltseal.server.api.admin.routes import NoParameters, Right, Route
from boltseal.server.api.request import Request
from boltseal.server.auth.access import Access
from boltseal.server.commands.ratelimit import limits_of
from boltseal.server.registry import Registry
from boltseal.server.registry.observations import HeldTag
from boltseal.server.settings import Settings

HELD: Final = "held"
REBUILDS: Final = "rebuilds"

LOOKED_AT: Final = 1000
"""Rows that one request looks at for a list of few of them. Its page may be empty, and others follow."""


class OperatorReads:
    """The handlers of reads for operators."""

    def __init__(self, registry: Registry, access: Access, settings: Settings) -> None:
        self._registry = registry
        self._access = access
        self._settings = settings

    def routes(self) -> list[Route]:
        """Return the routes."""
        login, operator = Right.LOGIN, Right.OPERATOR
        return [
            Route("GET", "me", "Show who the caller is.", login, NoParameters, documents.Me, self.me),
            Route(
                "GET",
                "ledger",
                "Show the state of the logs.",
                operator,
                NoParameters,
                documents.LedgerState,
                self.ledger,
            ),
            Route("GET", "rules", "List the rules in force.", operator, NoParameters, documents.Rules, self.rules),
            Route("GET", "grants", "List the grants in force.", operator, NoParameters, documents.Grants, self.grants),
            Route(
                "GET",
                "upstreams",
                "List the upstreams, with what is left of their pull limits.",
                operator,
                NoParameters,
                documents.Upstreams,
                self.upstreams,
            ),
            Route(
                "GET",
                HELD,
                "List upstreams' tags that are held back.",
                operator,
                PageQuery,
                documents.HeldTags,
                self.held,
            ),
            Route(
                "GET",
                REBUILDS,
                "List the last request of a rebuild for each image and base.",
                operator,
                PageQuery,
                documents.RequestedRebuilds,
                self.rebuilds,
            ),
            Route(
                "GET",
                "gc",
                "Show the state of garbage collection.",
                operator,
                NoParameters,
                documents.Collection,
                self.collection,
            ),
        ]

    async def me(self, request: Request, _: NoParameters) -> documents.Me:
        """Return the caller."""
        caller = request.caller
        token = None
        if caller.api_token is not None:
            held = caller.api_token
            token = documents.OwnToken(
                id=held.id,
                repositories=held.scope.globs,
                actions=held.scope.words,
                expires=format_time(held.expires_us),
                ends=format_time(held.ends_us),
            )
        return documents.Me(user=caller.user, operator=self._access.is_operator(caller), token=token)

    async def ledger(self, _: Request, __: NoParameters) -> documents.LedgerState:
        """Return the state of the logs."""
        return documents.LedgerState(
            items=[
                documents.LogState(
                    name=each.name,
                    origin=each.origin,
                    size=each.size,
                    signed=each.signed,
                    witnessed=each.witnessed,
                    last=format_time(each.last_time_us) if each.size else None,
                    doubt=each.doubt,
                )
                for each in await self._registry.store_state.logs()
            ]
        )

    async def rules(self, _: Request, __: NoParameters) -> documents.Rules:
        """Return the rules in the order in which they are tried."""
        return documents.Rules(items=[rule_document(rule) for rule in self._settings.rules.rules])

    async def grants(self, _: Request, __: NoParameters) -> documents.Grants:
        """Return the grants in force."""
        grants = self._access.grants
        return documents.Grants(
            items=[grant_document(grant) for grant in grants.grants],
            anonymous_pull=[str(glob) for glob in grants.anonymous_pull],
        )

    async def upstreams(self, _: Request, __: NoParameters) -> documents.Upstreams:
        """Return the state of every upstream."""
        registry = self._registry
        limits = await limits_of(registry.upstreams, self._settings.upstreams, registry.tag_states.now_us)
        return documents.Upstreams(items=[_upstream(each) for each in limits])

    async def held(self, _: Request, asked: PageQuery) -> documents.HeldTags:
        """Return the held ones of the next tags of upstreams."""
        page = await self._registry.observations.held_after(pair_position(HELD, asked.cursor), LOOKED_AT)
        shown, following = page.tags[: asked.limit], page.following
        if len(shown) < len(page.tags):
            following = (shown[-1].repository, shown[-1].tag)
        cursor = None if following is None else cursor_of(HELD, *following)
        return documents.HeldTags(items=[_held(each) for each in shown], next=cursor)

    async def rebuilds(self, _: Request, asked: PageQuery) -> documents.RequestedRebuilds:
        """Return a page of the requested rebuilds of all repositories."""
        rows = await self._registry.store_state.rebuilds_after(pair_position(REBUILDS, asked.cursor), asked.limit + 1)
        shown = rows[: asked.limit]
        items = [
            documents.RequestedRebuild(
                image=each.image,
                base=each.base,
                digest=each.digest,
                time=format_time(each.time_us),
                outcome=each.outcome,
                tries=each.tries,
                summary=each.summary,
            )
            for each in shown
        ]
        following = cursor_of(REBUILDS, shown[-1].image, shown[-1].base) if len(rows) > len(shown) else None
        return documents.RequestedRebuilds(items=items, next=following)

    async def collection(self, _: Request, __: NoParameters) -> documents.Collection:
        """Return the state of garbage collection."""
        state = await self._registry.store_state.collection()
        return documents.Collection(
            undeleted_blobs=state.undeleted_blobs,
            full_since=None if state.full is None else format_time(state.full.began_us),
            full_stage=None if state.full is None else state.full.stage,
        )


def _upstream(found: UpstreamLimit) -> documents.UpstreamState:
    limit = found.limit
    return documents.UpstreamState(
        name=found.registry,
        down_since=time_or_none(found.down_us),
        down_reason=found.down_reason,
        limit=None if limit is None else limit.limit,
        remaining=None if limit is None else limit.remaining,
        window_s=None if limit is None else limit.window_s,
        source=None if limit is None else limit.source,
        reported=time_or_none(found.time_us),
        reserve=found.reserve,
        paused_until=time_or_none(found.paused_until_us),
        pause_reason=found.pause_reason,
    )


def _held(found: HeldTag) -> documents.Held:
    held, serves = found.known.held, found.known.serves
    if held is None:
        raise AssertionError("the tag is held back")
    return documents.Held(
        repository=found.repository,
        tag=found.tag,
        digest=str(held.digest),
        served=None if serves is None else str(serves.digest),
        since=format_time(found.known.held_us or 0),
    )
