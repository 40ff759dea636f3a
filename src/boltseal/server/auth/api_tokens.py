"""API tokens: what programs log in with instead of a person's password. Creates, checks and revokes them.

The checks of a token that was sent, in this order:

1. its checksum, and that a row with its ID exists
2. the message authentication code of its text and of all columns that give it rights, in constant time
3. that the user name that was sent is its owner's
4. that its owner exists, and is the kind of user it was created for
5. that it has not expired
6. of a person: that the owner logged in, with the password or by the identity provider, within `[auth] owner_seen_within`

A token has no rights of its own: a request may do what its scope and the grants of its owner allow. Its text is shown once. A
random secret of 256 bits can't be guessed, so a fast code of it is enough, where a password needs bcrypt.

The time of the last use is written each minute, and for each token at most once an hour; a killed process loses a minute of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, NamedTuple

import msgspec
import structlog

from boltseal.errors import BoltsealError, Denied, Invalid, NotFound, Precondition, quote
from boltseal.ledger.entry import format_time
from boltseal.oci.jsontext import decode
from boltseal.policy.durations import UNITS_US, Duration, format_duration
from boltseal.policy.token_scope import ScopeInvalid, TokenScope, TokenTerms, parse_scope
from boltseal.server.auth.actor import Actor
from boltseal.server.auth.api_token_fields import OwnerKind, StoredScope, ends_us, kind_of, scope_unreadable, warning_of
from boltseal.server.auth.api_token_text import TokenRefused, id_of, make_token
from boltseal.server.auth.user_directory import AccountRows
from boltseal.server.storage.metadata import account_table, api_token_table, audit_table, session_table
from boltseal.server.storage.metadata.protocol import ApiTokenRow, Snapshot, UnitOfWork
from boltseal.server.storage.user_key import UserKey
from boltseal.server.storage.users import Users

MAX_PER_OWNER: Final = 100
MAX_TOKENS: Final = 10_000
MAX_DESCRIPTION: Final = 200
EXPIRED_KEPT_US: Final = 30 * UNITS_US["d"]
"""How long an expired token is still listed."""
AUDIT_KEPT_US: Final = 400 * UNITS_US["d"]
MAX_PARSED: Final = 64
"""Parsed scopes that a process keeps. A scope of many globs costs milliseconds to parse, and up to 3 MB."""
ONCE_KEPT_US: Final = UNITS_US["d"]
"""How long a request with the same `TokenRequest.once` is refused."""
CHECKED_EVERY_US: Final = 10 * UNITS_US["s"]
NOTED_EVERY_US: Final = UNITS_US["h"]
WRITE_INTERVAL_S: Final = 60.0

_log = structlog.get_logger(__name__)


class TokenUnknown(NotFound):
    """There is no such token, or not of this owner."""


class TokenInvalid(Invalid):
    """A token that can't be created as it was requested."""


class TokenRepeated(Precondition):
    """A request to create a token that was made before."""


class TokenNotAllowed(Denied):
    """The token with which another one is requested does not allow that."""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A token to create. `life` None: the default. `once`: of two requests of one actor with the same text the second is refused; "": none."""

    owner: str
    scope: TokenScope
    life: Duration | None = None
    description: str = ""
    once: str = ""


class HeldToken(NamedTuple):
    """The token of a request. `ends_us`: when it stops to work, unless a person logs in before. `warning`: that this is soon.

    `check_us`: when a caller that was remembered must be checked again.
    """

    id: str
    scope: TokenScope
    ends_us: int
    expires_us: int
    check_us: int
    warning: str = ""


class AcceptedToken(NamedTuple):
    """A token that passed all checks, and for how many seconds that is certain unless it is revoked."""

    owner: str
    token: HeldToken
    left_s: float


class CreatedToken(NamedTuple):
    """A new token, with its text. `login_us`: when its owner logged in last. `record`: the number of its record in the audit log.

    A token that was only planned has neither an ID nor a text nor a record.
    """

    row: ApiTokenRow
    text: str
    login_us: int | None
    record: int | None


class ListedTokens(NamedTuple):
    """Tokens, and when their owners logged in last, microseconds since the epoch; without a login there is no key."""

    rows: list[ApiTokenRow]
    logins: dict[str, int]


class RevokedTokens(NamedTuple):
    """Tokens that were revoked, their owners' last logins as in `ListedTokens`, and the numbers of their records in the audit log."""

    rows: list[ApiTokenRow]
    logins: dict[str, int]
    records: list[int]


FindTokens = Callable[[Snapshot], list[ApiTokenRow]]


def _parsed(scope: str) -> TokenScope:
    stored = decode(scope.encode(), StoredScope)
    return parse_scope(stored.repositories, stored.actions)


def _code(key: UserKey, row: ApiTokenRow, text: str, *, may_create: bool = False) -> str:
    """Return the code of a token's text and of all that gives it rights."""
    parts = [row.id, row.owner, row.kind, row.scope, str(row.created_us), str(row.expires_us), text]
    return key.token_code(parts, may_create=may_create)


def planned_token(
    snapshot: Snapshot, asked: TokenRequest, kind: OwnerKind, terms: TokenTerms, actor: Actor, created_us: int
) -> ApiTokenRow:
    """Return the row of a token that can be added, without its ID and code. Raises: TokenInvalid."""
    life_us = terms.default_life_us if asked.life is None else asked.life.us
    if not 0 < life_us <= terms.max_life_us:
        raise TokenInvalid(
            f"the token would be valid for {format_duration(life_us)}; expected at most {format_duration(terms.max_life_us)} "
            "(`[auth] max_token_life`), and more than nothing"
        )
    if len(asked.description) > MAX_DESCRIPTION or not (asked.description == "" or asked.description.isprintable()):
        raise TokenInvalid(f"the description must be one line of at most {MAX_DESCRIPTION} characters")
    own, total = api_token_table.counts(snapshot, asked.owner)
    if own >= MAX_PER_OWNER or total >= MAX_TOKENS:
        whose = f"{asked.owner} has {own}" if own >= MAX_PER_OWNER else f"there are {total}"
        raise TokenInvalid(
            f"too many API tokens: {whose}; at most {MAX_PER_OWNER} per owner and {MAX_TOKENS} are allowed: revoke some"
        )
    return ApiTokenRow(
        id="",
        mac="",
        owner=asked.owner,
        kind=str(kind),
        scope=msgspec.json.encode(StoredScope(asked.scope.globs, asked.scope.words)).decode(),
        description=asked.description,
        created_us=created_us,
        created_by=actor.recorded,
        expires_us=created_us + life_us,
    )


def add_token(
    tx: UnitOfWork, key: UserKey, asked: TokenRequest, kind: OwnerKind, terms: TokenTerms, actor: Actor
) -> CreatedToken:
    """Add a token in this transaction, and record that. Raises: TokenInvalid, TokenRepeated, UserKeyUnreadable."""
    if asked.once:
        _use_once(tx, asked.once, actor)
    made = make_token()
    row = planned_token(tx, asked, kind, terms, actor, api_token_table.next_time_us(tx))._replace(id=made.id)
    # With a new key neither users nor tokens that exist could log in, so one is created only before the first of them.
    first = not (api_token_table.counts(tx, "")[1] or account_table.all_accounts(tx))
    row = row._replace(mac=_code(key, row, made.text, may_create=first))
    api_token_table.add(tx, row)
    detail = f"{asked.scope}; until {format_time(row.expires_us)}"
    detail += f"; for: {row.description}" if row.description else ""
    number = audit_table.record(tx, actor.recorded, "token.created", subject_of(row), detail)
    return CreatedToken(row, made.text, _login_of(tx, row.owner), number)


def _use_once(tx: UnitOfWork, once: str, actor: Actor) -> None:
    """Note that this actor's text was used. Raises: TokenRepeated: it was before."""
    session_table.expire(tx, tx.now_us)
    used = hashlib.sha256(f"API token of {actor.recorded}: {once}".encode()).hexdigest()
    if not session_table.use_state(tx, used, tx.now_us + ONCE_KEPT_US):
        raise TokenRepeated(
            "this request was made before, and created no second token; if the first token is lost, revoke it and create another"
        )


def revoke_tokens(tx: UnitOfWork, rows: Sequence[ApiTokenRow], actor: Actor, reason: str = "") -> list[int]:
    """Remove tokens in this transaction, and record that. Return the numbers of the records."""
    api_token_table.remove(tx, [row.id for row in rows])
    numbers = [audit_table.record(tx, actor.recorded, "token.revoked", subject_of(row), reason) for row in rows]
    return [number for number in numbers if number is not None]


def expire_tokens(tx: UnitOfWork, now_us: int) -> int:
    """Remove tokens that expired long ago, and old records of the audit log. Return how many tokens."""
    audit_table.expire(tx, now_us - AUDIT_KEPT_US)
    return api_token_table.expire(tx, now_us - EXPIRED_KEPT_US)


def subject_of(row: ApiTokenRow) -> str:
    """Return a token as the audit log names it."""
    return Actor(row.owner, token=row.id).recorded


def tokens_of(owner: str, snapshot: Snapshot) -> list[ApiTokenRow]:
    """Return all tokens of an owner."""
    return api_token_table.of_owner(snapshot, owner)


def token_of(token: str, owner: str | None, snapshot: Snapshot) -> list[ApiTokenRow]:
    """Return one token, as a list. `owner` None: of any owner. Raises: TokenUnknown."""
    row = api_token_table.find(snapshot, token)
    if row is None or (owner is not None and row.owner != owner):
        raise TokenUnknown(f"there is no API token {quote(token, 40)}{'' if owner is None else f' of {owner}'}")
    return [row]


class ApiTokens:
    """Checks the tokens of one process's requests, and notes logins and uses. `now_us`: microseconds since the epoch."""

    def __init__(self, accounts: AccountRows, now_us: Callable[[], int]) -> None:
        self._database = accounts.database
        self._key = accounts.key
        self.now_us = now_us
        self._logins: dict[str, tuple[bytes, int]] = {}
        self._used: dict[str, int] = {}
        self._unwritten: dict[str, int] = {}
        self._parsed = lru_cache(MAX_PARSED)(_parsed)

    async def accept(self, user: str | None, text: str, users: Users, terms: TokenTerms) -> AcceptedToken:
        """Return a token that a request may use. `user`: the name that was sent with it; None: none was sent.

        Raises: TokenRefused, Unavailable, UserKeyUnreadable.
        """
        row = users.tokens.get(id_of(text))
        if row is None or not hmac.compare_digest(_code(self._key, row, text), row.mac):
            raise TokenRefused(
                "the API token is not known here: it was revoked, has expired, or is of another registry"
            )
        if user is not None and user != row.owner:
            raise TokenRefused(
                f"the API token {row.id} belongs to another user name than the one that was sent with it"
            )
        return await self._usable(row, users, terms)

    async def accept_again(self, token: str, code: str, users: Users, terms: TokenTerms) -> AcceptedToken:
        """Return the token with which a bearer token was requested, if it may still be used. `code`: its `fingerprint` then.

        Raises: TokenRefused, Unavailable.
        """
        row = users.tokens.get(token)
        if row is None or not hmac.compare_digest(fingerprint(row), code):
            raise TokenRefused(f"the API token {quote(token, 40)} of this login was revoked")
        return await self._usable(row, users, terms)

    async def _usable(self, row: ApiTokenRow, users: Users, terms: TokenTerms) -> AcceptedToken:
        now_us = self.now_us()
        if kind_of(users, row.owner) != row.kind:
            raise TokenRefused(f"the owner of the API token {row.id} was removed")
        if now_us >= row.expires_us:
            raise TokenRefused(f"the API token {row.id} expired at {format_time(row.expires_us)}; create another")
        login_us = None
        if row.kind == OwnerKind.PERSON:
            login_us = await self._database.lookups.tokens.last_login(row.owner)
        end_us = ends_us(row, login_us, terms)
        warning = warning_of(row, login_us, terms, now_us)
        if now_us >= end_us:
            raise TokenRefused(
                f"{warning} (`[auth] owner_seen_within` = {format_duration(terms.owner_seen_within_us)})"
            )
        self._note_use(row.id, now_us)
        check_us = min(end_us, now_us + CHECKED_EVERY_US)
        held = HeldToken(row.id, self._scope(row), end_us, row.expires_us, check_us, warning)
        return AcceptedToken(row.owner, held, (end_us - now_us) / 1_000_000)

    def _scope(self, row: ApiTokenRow) -> TokenScope:
        """Return the scope of a stored token. Raises: Unavailable: it can't be read, so the token is not accepted."""
        try:
            return self._parsed(row.scope)
        except (ValueError, ScopeInvalid) as error:
            raise scope_unreadable(row, error) from error

    async def note_login(self, name: str, password_hash: bytes) -> None:
        """Write that a user has logged in with the password: at most once an hour for each password."""
        now_us = self.now_us()
        noted_hash, noted_us = self._logins.get(name, (b"", 0))
        if noted_hash == password_hash and now_us - noted_us < NOTED_EVERY_US:
            return
        try:
            await self._database.write(lambda tx: api_token_table.note_login(tx, name, now_us), durable=False)
        except BoltsealError as error:  # such as a full disk: the login is right all the same
            _log.warning("the time of a login was not written", user=name, reason=error.message)
        else:
            self._logins[name] = (password_hash, now_us)

    def _note_use(self, token: str, now_us: int) -> None:
        if now_us - self._used.get(token, -NOTED_EVERY_US) >= NOTED_EVERY_US:
            self._used[token] = self._unwritten[token] = now_us

    async def run(self, may_write: Callable[[], bool]) -> None:
        """Write the times of uses once a minute, until cancelled."""
        while True:
            await asyncio.sleep(WRITE_INTERVAL_S)
            if may_write():
                await self.write_uses()

    async def write_uses(self) -> None:
        """Write the times of uses. If that fails they are lost, and a token seems to be used a little less."""
        if not self._unwritten:
            return
        times, self._unwritten = self._unwritten, {}
        try:
            await self._database.write(lambda tx: api_token_table.note_used(tx, times), durable=False)
        except BoltsealError as error:
            _log.warning("the times of uses of API tokens were not written", reason=error.message)

    async def create(
        self,
        asked: TokenRequest,
        users: Users,
        terms: TokenTerms,
        actor: Actor,
        *,
        in_file: bool,
        dry_run: bool = False,
    ) -> CreatedToken:
        """Create a token. The method that calls this has checked the rights of the actor. `in_file`: the owner is in the users' file.

        `dry_run`: only return the token that would be created, without ID and text; `once` of the request is neither checked nor used.

        Raises: NotFound, TokenInvalid, TokenRepeated, Unavailable.
        """
        kind = required_kind(users, asked.owner)

        def check_owner(snapshot: Snapshot) -> None:
            if not in_file and not api_token_table.has_owner(
                snapshot, asked.owner
            ):  # removed since the users were read
                raise _unknown_owner(asked.owner)

        def job(tx: UnitOfWork) -> CreatedToken:
            check_owner(tx)
            return add_token(tx, self._key, asked, kind, terms, actor)

        def plan(snapshot: Snapshot) -> CreatedToken:
            check_owner(snapshot)
            row = planned_token(snapshot, asked, kind, terms, actor, self.now_us())
            return CreatedToken(row, "", _login_of(snapshot, row.owner), None)

        return await (self._database.read(plan) if dry_run else self._database.write(job))

    async def listed(self, owner: str | None, after: str, limit: int) -> ListedTokens:
        """Return tokens in the order of their IDs. `owner` None: the tokens of all."""
        return await self._database.read(
            partial(_found, lambda snapshot: api_token_table.after(snapshot, after, limit, owner))
        )

    async def revoke(self, find: FindTokens, actor: Actor, reason: str, *, dry_run: bool) -> RevokedTokens:
        """Revoke the tokens that `find` returns. Returns when no server of the registry accepts them. Raises: what `find` raises."""

        def job(tx: UnitOfWork) -> RevokedTokens:
            rows = find(tx)
            return RevokedTokens(rows, _logins_of(tx, rows), revoke_tokens(tx, rows, actor, reason))

        if dry_run:
            return RevokedTokens(*await self._database.read(partial(_found, find)), [])
        return await self._database.write(job)

    async def audit_before(self, number: int, limit: int) -> list[audit_table.AuditEvent]:
        """Return the newest records of the audit log below a number, the newest first."""
        return await self._database.read(lambda snapshot: audit_table.before(snapshot, number, limit))


def _found(find: FindTokens, snapshot: Snapshot) -> ListedTokens:
    rows = find(snapshot)
    return ListedTokens(rows, _logins_of(snapshot, rows))


def _logins_of(snapshot: Snapshot, rows: Sequence[ApiTokenRow]) -> dict[str, int]:
    return api_token_table.logins(snapshot, {row.owner for row in rows})


def _login_of(snapshot: Snapshot, owner: str) -> int | None:
    return api_token_table.logins(snapshot, [owner]).get(owner)


def fingerprint(row: ApiTokenRow) -> str:
    """Return what a bearer token has of the API token with which it was requested: differs for each, and reveals nothing."""
    return f"api-token {row.mac[:24]}"


def required_kind(users: Users, owner: str) -> OwnerKind:
    """Return what kind of user an owner is. Raises: NotFound: there is no such user."""
    kind = kind_of(users, owner)
    if kind is None:
        raise _unknown_owner(owner)
    return kind


def _unknown_owner(owner: str) -> NotFound:
    return NotFound(
        f"there is no user {quote(owner)}; add a person or a service account with `boltseal admin user add`"
    )
