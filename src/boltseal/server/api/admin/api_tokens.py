"""The routes of API tokens and of the audit log.

Each user has its own tokens; an operator has those of all, and creates and revokes them for others. A caller that uses an API
token needs the action `tokens` in its scope, can create tokens for its own owner only, and none that allows more or lasts longer.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from boltseal.errors import NotFound
from boltseal.ledger.entry import format_time
from boltseal.oci.jsontext import TimeText
from boltseal.policy.durations import Duration
from boltseal.policy.token_scope import MAX_REPOSITORIES, SCOPE_ACTIONS, parse_scope
from boltseal.server.api.admin.paging import Page, PageQuery, cursor_of, number_position, text_position
from boltseal.server.api.admin.routes import RequestInvalid, Right, Route
from boltseal.server.api.request import Request
from boltseal.server.auth.access import Access
from boltseal.server.auth.api_token_fields import OwnerKind, token_fields
from boltseal.server.auth.api_tokens import (
    MAX_DESCRIPTION,
    ApiTokens,
    TokenNotAllowed,
    TokenRequest,
    token_of,
    tokens_of,
)
from boltseal.server.storage.metadata.protocol import ApiTokenRow

TOKENS: Final = "tokens"
AUDIT: Final = "audit"
_NEWEST: Final = 2**63 - 1

OwnerName = Annotated[str, Meta(max_length=64)]


class TokensQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tokens to list."""

    user: Annotated[OwnerName, Meta(description="Of this user; empty: of the caller.")] = ""
    all: Annotated[bool, Meta(description="Of all users.")] = False


class CreateToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token to create."""

    owner: Annotated[OwnerName, Meta(description="A user or a service account; empty: the caller.")] = ""
    repositories: Annotated[
        list[Annotated[str, Meta(max_length=512)]],
        Meta(max_length=MAX_REPOSITORIES, description="Globs of the repositories in which the token may be used."),
    ]
    actions: Annotated[
        list[Annotated[str, Meta(max_length=20)]],
        Meta(max_length=20, description=f"What it allows at most, of {', '.join(SCOPE_ACTIONS)}."),
    ]
    life: Annotated[
        str, Meta(max_length=20, description="How long it is valid, such as `90d`; empty: `[auth] token_life`.")
    ] = ""
    description: Annotated[str, Meta(max_length=MAX_DESCRIPTION, description="What it is for.")] = ""
    once: Annotated[
        str,
        Meta(
            max_length=64,
            description="A text of the client's choice. Within a day a second request of the same user with it is refused, so "
            "that a repeat creates no second token. A dry run does not use it.",
        ),
    ] = ""
    dry_run: Annotated[bool, Meta(description="Only return the token that would be created.")] = False


class RevokeTokens(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The token to revoke, or the user whose tokens are all revoked."""

    id: Annotated[str, Meta(max_length=64, description="The ID of a token.")] = ""
    user: Annotated[OwnerName, Meta(description="Instead of `id`: all tokens of this user.")] = ""
    reason: Annotated[str, Meta(max_length=4096, description="Why; recorded in the audit log.")] = ""
    dry_run: Annotated[bool, Meta(description="Only return what would be revoked.")] = False


class ApiToken(msgspec.Struct, frozen=True, kw_only=True):
    """An API token. The token itself is shown only when it is created."""

    id: Annotated[str, Meta(description="Empty in a dry run of its creation.")]
    owner: str
    kind: OwnerKind
    repositories: list[str]
    actions: list[str]
    description: str
    created: TimeText
    created_by: str
    expires: TimeText
    ends: Annotated[
        TimeText | None,
        Meta(description="When it stops to work unless its owner logs in before; null: it does not work now."),
    ]
    used: Annotated[TimeText | None, Meta(description="When it was used last, to the hour; null: never.")]
    warning: Annotated[str, Meta(description="What its owner should do soon; empty if nothing.")]


class ApiTokenList(Page, frozen=True, kw_only=True):
    """A page of API tokens, sorted by ID."""

    items: list[ApiToken]


class CreatedApiToken(msgspec.Struct, frozen=True, kw_only=True):
    """A new API token, or the one that would be created."""

    text: Annotated[str, Meta(description="The token, which is not shown again; empty in a dry run.")]
    token: ApiToken
    record: Annotated[int | None, Meta(description="The number of its record in the audit log; null in a dry run.")]
    dry_run: bool


class RevokedApiTokens(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens that were revoked, or would be. No server accepts them any more when this is answered."""

    items: list[ApiToken]
    records: Annotated[list[int], Meta(description="The numbers of their records in the audit log; none in a dry run.")]
    dry_run: bool


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A change of users, API tokens or sessions of pipelines, or a garbage collection.

    `subject`: a user, `OWNER (token ID)`, a pipeline, or the part of a garbage collection.
    """

    number: int
    time: TimeText
    actor: str
    action: Annotated[
        str,
        Meta(
            description="Such as `token.created`, `token.revoked`, `user.added`, `user.changed`, `user.removed`, `session.revoked`, `gc.run`."
        ),
    ]
    subject: str
    detail: str


class AuditLog(Page, frozen=True, kw_only=True):
    """A page of the audit log, the newest record first. What happens to tags is in the ledger."""

    items: list[AuditRecord]


class ApiTokenRoutes:
    """The handlers of API tokens and of the audit log."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def routes(self) -> list[Route]:
        """Return the routes."""
        user = Right.USER
        return [
            Route("GET", TOKENS, "List API tokens.", user, TokensQuery, ApiTokenList, self.listed),
            Route(
                "POST", TOKENS, "Create an API token.", user, CreateToken, CreatedApiToken, self.create, changes=True
            ),
            Route(
                "DELETE", TOKENS, "Revoke API tokens.", user, RevokeTokens, RevokedApiTokens, self.revoke, changes=True
            ),
            Route(
                "GET",
                AUDIT,
                "List who changed users, API tokens and sessions of pipelines.",
                Right.OPERATOR,
                PageQuery,
                AuditLog,
                self.audit,
            ),
        ]

    @property
    def _tokens(self) -> ApiTokens:
        if self._access.callers.api_tokens is None:
            raise NotFound("this registry has no API tokens")
        return self._access.callers.api_tokens

    def _check_managed(self, request: Request) -> None:
        """Raise TokenNotAllowed if the caller uses an API token that does not manage tokens."""
        held = request.caller.api_token
        if held is not None and not held.scope.manages_tokens:
            raise TokenNotAllowed(f"the API token {held.id} does not manage tokens: its scope lacks `tokens`")

    def _owner(self, request: Request, named: str) -> str:
        """Return the user whose tokens a request is about, by default the caller. Raises: LoginNeeded, Denied: it is another's."""
        caller = request.caller.user or ""
        if named in ("", caller):
            return caller
        self._access.check_operator(request.caller)
        return named

    async def listed(self, request: Request, asked: TokensQuery) -> ApiTokenList:
        """Return a page of tokens."""
        self._check_managed(request)
        if asked.all and asked.user:
            raise RequestInvalid("all and user exclude each other; give one of them")
        if asked.all:
            self._access.check_operator(request.caller)
        owner = None if asked.all else self._owner(request, asked.user)
        rows, logins = await self._tokens.listed(owner, text_position(TOKENS, asked.cursor), asked.limit + 1)
        shown = rows[: asked.limit]
        following = cursor_of(TOKENS, shown[-1].id) if len(rows) > len(shown) else None
        return ApiTokenList(items=[self._document(row, logins.get(row.owner)) for row in shown], next=following)

    async def create(self, request: Request, asked: CreateToken) -> CreatedApiToken:
        """Create a token."""
        self._check_managed(request)
        wanted = TokenRequest(
            self._owner(request, asked.owner),
            parse_scope(asked.repositories, asked.actions),
            Duration.parse(asked.life) if asked.life else None,
            asked.description,
            asked.once,
        )
        held, terms = request.caller.api_token, self._access.callers.token_terms
        if held is not None:
            life_us = terms.default_life_us if wanted.life is None else wanted.life.us
            if wanted.owner != request.caller.user:
                raise TokenNotAllowed(f"the API token {held.id} creates tokens only for its own owner")
            if not held.scope.includes(wanted.scope):
                raise TokenNotAllowed(f"the API token {held.id} creates no token that allows more than {held.scope}")
            if self._tokens.now_us() + life_us > held.expires_us:
                raise TokenNotAllowed(
                    f"the API token {held.id} creates no token that lasts longer than {format_time(held.expires_us)}; give a life"
                )
        in_file = self._access.in_file(wanted.owner)
        made = await self._tokens.create(
            wanted, self._access.users(), terms, request.actor, in_file=in_file, dry_run=asked.dry_run
        )
        token = self._document(made.row, made.login_us)
        return CreatedApiToken(text=made.text, token=token, record=made.record, dry_run=asked.dry_run)

    async def revoke(self, request: Request, asked: RevokeTokens) -> RevokedApiTokens:
        """Revoke one token, or all of a user."""
        self._check_managed(request)
        if bool(asked.id) == bool(asked.user):
            raise RequestInvalid("give id or user: the token to revoke, or the user whose tokens are revoked")
        if asked.user:
            find = partial(tokens_of, self._owner(request, asked.user))
        else:
            owner = None if self._access.is_operator(request.caller) else request.caller.user
            find = partial(token_of, asked.id, owner)
        rows, logins, records = await self._tokens.revoke(
            find, request.actor, asked.reason.strip(), dry_run=asked.dry_run
        )
        items = [self._document(row, logins.get(row.owner)) for row in rows]
        return RevokedApiTokens(items=items, records=records, dry_run=asked.dry_run)

    async def audit(self, _: Request, asked: PageQuery) -> AuditLog:
        """Return a page of the audit log."""
        before = number_position(AUDIT, asked.cursor, _NEWEST)
        events = await self._tokens.audit_before(before, asked.limit + 1)
        shown = events[: asked.limit]
        items = [
            AuditRecord(
                number=each.number,
                time=format_time(each.time_us),
                actor=each.actor,
                action=each.action,
                subject=each.subject,
                detail=each.detail,
            )
            for each in shown
        ]
        return AuditLog(items=items, next=cursor_of(AUDIT, shown[-1].number) if len(events) > len(shown) else None)

    def _document(self, row: ApiTokenRow, login_us: int | None) -> ApiToken:
        return ApiToken(**token_fields(row, login_us, self._access.callers.token_terms, self._tokens.now_us()))
