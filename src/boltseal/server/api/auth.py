"""The gate: who sends this request, and may they do what it asks. Before anything is looked up.

    Authorization: Basic ...    user and password, verified (`server.auth.logins`)
    Authorization: Bearer ...   one of our tokens (`server.auth.tokens`)
    none                        somebody without a login

Rights are decided before any existence check, precondition or 304, so an answer never tells somebody without
the right whether a thing exists. 401 with a challenge where a login or another token would help, 403 where it
would not. The challenge names our token service by an address from the configuration, never from the Host header.

A token that was recognised is remembered for a few seconds under a keyed hash, so that a pull of fifty layers recognises
it once. So is who was admitted where, with the users' file as it was: it is looked at for each request, and when it has
changed nothing of this is believed any more. Grants can't change under a gate: a configuration that is read again makes
another.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from boltseal.errors import Denied, Unauthenticated, quote
from boltseal.oci.reference import Repository
from boltseal.policy.grants import Action
from boltseal.server.api.paths import (
    BlobTarget,
    CatalogTarget,
    DiscoverTarget,
    HistoryTarget,
    ManifestTarget,
    ObservationsTarget,
    RecordsTarget,
    ReferrersTarget,
    TagHistoryTarget,
    TagListTarget,
    Target,
    UploadsTarget,
    UploadTarget,
)
from boltseal.server.auth.access import ANONYMOUS_CALLER, Access, Caller, LoginNeeded
from boltseal.server.auth.actor import ANONYMOUS, Actor
from boltseal.server.auth.tokens import CATALOG_SCOPE

if TYPE_CHECKING:
    from boltseal.server.api.request import Request
    from boltseal.server.api.responses import Headers
    from boltseal.server.storage.users import Users

REMEMBERED_S: Final = 10.0
REMEMBERED_MOST: Final = 4096
MAX_HEADER_BYTES: Final = 20 * 1024

_IN_REPOSITORY: Final = (
    TagListTarget,
    ManifestTarget,
    ReferrersTarget,
    BlobTarget,
    UploadsTarget,
    UploadTarget,
    TagHistoryTarget,
    HistoryTarget,
    RecordsTarget,
    ObservationsTarget,
)
_READS: Final = frozenset({"GET", "HEAD"})


class _Admitted(NamedTuple):
    """Who was let in, when the users were these; until when (monotonic seconds) that may be believed."""

    caller: Caller
    actor: Actor
    users: Users
    until_s: float


class AuthorizationInvalid(Unauthenticated):
    """An Authorization header that can't be read."""


class HostRefused(Denied):
    """A registry that everybody on this machine may write to was asked by a name that is not this machine's."""


class RequestAuth:
    """Stands before every route. `realm`: the absolute address of our token service, None where it can't be told.

    `open_to`: the host names by which a registry without users may be asked, None for any. On loopback it may be asked
    as this machine only: a page in somebody's browser whose name was made to lead here (DNS rebinding) says another.
    """

    def __init__(self, access: Access, realm: str | None, open_to: frozenset[str] | None = None) -> None:
        self.access = access
        self._realm = realm
        self._open_to = open_to
        self._secret = os.urandom(32)
        self._known: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._admitted: OrderedDict[tuple[bytes, str, Action], _Admitted] = OrderedDict()

    async def admit(self, call: Request, target: Target) -> Actor:
        """Who acts, if they may. LoginNeeded, RightMissing, LoginWrong, TokenInvalid, ..."""
        if isinstance(target, _IN_REPOSITORY):
            return await self._admit_to(call, target.repository, _action(call.method, target))
        if not await self._known_caller(call):
            return ANONYMOUS
        caller = call.caller
        match target:
            case DiscoverTarget(repository=None):
                return self.access.check_any(caller)
            case DiscoverTarget(repository=Repository() as repository):
                return self.access.check(caller, repository, Action.PULL)
            case _:
                catalog = isinstance(target, CatalogTarget)
                if call.header(b"authorization") is None and self._realm is not None:
                    # What a client asks first, to learn how to log in; nobody may be told that there is no need to.
                    scope = CATALOG_SCOPE if catalog else ""
                    raise LoginNeeded("this registry tells callers apart: ask its token service first", scope)
                return self.access.check_catalog(caller) if catalog else self.access.check_any(caller)

    async def _admit_to(self, call: Request, repository: Repository, action: Action) -> Actor:
        """Who acts in a repository: as before, while all that it rests on is as before."""
        authorization = call.header(b"authorization")
        users = self.access.users()
        if authorization is None and not self.access.required(users):
            self.refuse_other_hosts(call)
            return ANONYMOUS
        key = (self._mark(authorization or ""), repository, action)
        held = self._admitted.get(key)
        if held is not None and held.users is users and held.until_s > time.monotonic():
            call.caller = held.caller
            return held.actor
        call.caller, until_s = await self._recognised(call, authorization)
        actor = self.access.check(call.caller, repository, action)
        self._admitted[key] = _Admitted(call.caller, actor, users, until_s)
        while len(self._admitted) > REMEMBERED_MOST:
            self._admitted.popitem(last=False)
        return actor

    async def admit_any(self, call: Request) -> None:
        """Lets anybody known pass, for what names no repository. LoginNeeded, ..."""
        if await self._known_caller(call):
            call.actor = self.access.check_any(call.caller)

    async def admit_to_entries(self, call: Request) -> None:
        """Lets those pass who may read the ledger's entries, of whatever repository. LoginNeeded, RightMissing, ..."""
        if await self._known_caller(call):
            call.actor = self.access.check_entries(call.caller)

    async def admit_to_entry(self, call: Request, index: int, repository: Repository) -> None:
        """Lets those pass who may pull from the repository that an entry is about. LoginNeeded, RightMissing, ..."""
        if await self._known_caller(call):
            call.actor = self.access.check_entry(call.caller, index, repository)

    async def _known_caller(self, call: Request) -> bool:
        """Whether callers are told apart; then who this one is. HostRefused, AuthorizationInvalid, ..."""
        authorization = call.header(b"authorization")
        if authorization is None and not self.access.required():
            self.refuse_other_hosts(call)
            return False
        call.caller = await self.recognise(call, authorization)
        return True

    def refuse_other_hosts(self, call: Request) -> None:
        """On loopback without users, only who asks this machine by a name of its own. HostRefused."""
        if self._open_to is None:
            return
        host = (call.header(b"host") or "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if name not in self._open_to:
            raise HostRefused(
                f"this registry has no users, so it answers only as this machine, not as {quote(host)}; ask it as "
                "localhost, or set public_url"
            )

    async def recognise(self, call: Request, authorization: str | None) -> Caller:
        """Who the request says it is from, proven. AuthorizationInvalid, LoginWrong, TokenInvalid, ..."""
        return (await self._recognised(call, authorization))[0]

    async def _recognised(self, call: Request, authorization: str | None) -> tuple[Caller, float]:
        """The same, and until when it may be believed without proof while the users are the same (monotonic seconds)."""
        now_s = time.monotonic()
        if authorization is None or not self.access.required():
            return ANONYMOUS_CALLER, now_s + REMEMBERED_S
        if len(authorization) > MAX_HEADER_BYTES:
            raise AuthorizationInvalid("the Authorization header is too long")
        mark = self._mark(authorization)
        held = self._known.get(mark)
        if held is not None and held[1] > now_s:
            return held
        caller, life_s = await self._prove(call, authorization)
        if life_s is None:
            return caller, now_s + REMEMBERED_S
        found = self._known[mark] = caller, now_s + min(REMEMBERED_S, life_s)
        while len(self._known) > REMEMBERED_MOST:
            self._known.popitem(last=False)
        return found

    def _mark(self, authorization: str) -> bytes:
        return hashlib.blake2b(authorization.encode("latin-1"), key=self._secret, digest_size=16).digest()

    def may_pull(self, call: Request, repository: Repository) -> bool:
        """Whether the request's sender may pull there, for what concerns other repositories than the asked one."""
        return Action.PULL in self.access.allowed(call.caller, repository)

    def may_list(self, call: Request, repository: Repository) -> bool:
        """Whether the catalog names a repository to the request's sender."""
        return self.access.may_list(call.caller, repository)

    def challenge(self, error: Unauthenticated) -> Headers:
        """The `WWW-Authenticate` of a 401, as the Docker token specification wants it."""
        if self._realm is None:
            return ((b"www-authenticate", b'Basic realm="boltseal", charset="UTF-8"'),)
        text = f'Bearer realm="{self._realm}",service="{self.access.service}"'
        if isinstance(error, LoginNeeded) and error.scope:
            text += f',scope="{error.scope}"'
            if error.insufficient:
                text += ',error="insufficient_scope"'
        return ((b"www-authenticate", text.encode("latin-1")),)

    async def _prove(self, call: Request, authorization: str) -> tuple[Caller, float | None]:
        """The caller, and how long what proves it lives by itself (seconds)."""
        scheme, _, rest = authorization.partition(" ")
        match scheme.lower():
            case "basic":
                user, password = _basic(rest.strip())
                # Not remembered here: `Logins` does, and forgets when the password is another.
                return await self.access.by_password(user, password, call.network), None
            case "bearer":
                caller, ends_s = self.access.by_token(rest.strip())
                return caller, max(0.0, ends_s - time.time())
            case _:
                raise AuthorizationInvalid("the Authorization header is neither Basic nor Bearer")


def _action(method: str, target: Target) -> Action:
    if isinstance(target, UploadsTarget | UploadTarget):
        return Action.PUSH
    if method in _READS:
        return Action.PULL
    return Action.DELETE if method == "DELETE" else Action.PUSH


def _basic(encoded: str) -> tuple[str, str]:
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except ValueError as error:  # not ASCII, not base64, not UTF-8
        raise AuthorizationInvalid("the Authorization header can't be read; expected Basic and base64") from error
    if not colon:
        raise AuthorizationInvalid("the Authorization header can't be read; expected user:password")
    return user, password
