"""The gate: who sends this request, and may they do what it asks. Before anything is looked up.

    Authorization: Basic ...    user and password, verified (`registry.logins`)
    Authorization: Bearer ...   one of our tokens (`registry.tokens`)
    none                        somebody without a login

Rights are decided before any existence check, precondition or 304, so an answer never tells somebody without
the right whether a thing exists. 401 with a challenge where a login or another token would help, 403 where it
would not. The challenge names our token service by an address from the configuration, never from the Host header.

A token that was recognised is remembered for a few seconds under a keyed hash, so that a pull of fifty layers recognises
it once; rights are looked up each time.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from boltseal.api.paths import (
    BlobAt,
    Discover,
    History,
    ManifestAt,
    Referrers,
    TagHistory,
    Tags,
    Target,
    UploadAt,
    Uploads,
)
from boltseal.errors import Denied, Unauthenticated, quote
from boltseal.oci.reference import Repository
from boltseal.policy.grants import Action
from boltseal.registry.access import NOBODY, Access, Caller, LoginNeeded
from boltseal.registry.values import ANONYMOUS, Actor

if TYPE_CHECKING:
    from boltseal.api.call import Call
    from boltseal.api.responses import Headers

REMEMBERED_S: Final = 10.0
REMEMBERED_MOST: Final = 4096
MAX_HEADER_BYTES: Final = 20 * 1024


class AuthorizationInvalid(Unauthenticated):
    """An Authorization header that can't be read."""


class HostRefused(Denied):
    """A registry that everybody on this machine may write to was asked by a name that is not this machine's."""


class Gate:
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

    async def admit(self, call: Call, target: Target) -> Actor:
        """Who acts, if they may. LoginNeeded, RightMissing, LoginWrong, TokenInvalid, ..."""
        if not await self._known_caller(call):
            return ANONYMOUS
        caller = call.caller
        match target:
            case Discover(repository=None):
                return self.access.check_any(caller)
            case Discover(repository=Repository() as repository):
                return self.access.check(caller, repository, Action.PULL)
            case Tags() | ManifestAt() | Referrers() | BlobAt() | Uploads() | UploadAt() | TagHistory() | History():
                return self.access.check(caller, target.repository, _action(call.method, target))
            case _:
                if call.header(b"authorization") is None and self._realm is not None:
                    # What a client asks first, to learn how to log in; nobody may be told that there is no need to.
                    raise LoginNeeded("this registry tells callers apart: ask its token service first")
                return self.access.check_any(caller)

    async def admit_any(self, call: Call) -> None:
        """Lets anybody known pass, for what names no repository. LoginNeeded, ..."""
        if await self._known_caller(call):
            call.actor = self.access.check_any(call.caller)

    async def admit_to_entries(self, call: Call) -> None:
        """Lets those pass who may read the ledger's entries, of whatever repository. LoginNeeded, RightMissing, ..."""
        if await self._known_caller(call):
            call.actor = self.access.check_entries(call.caller)

    async def admit_to_entry(self, call: Call, index: int, repository: Repository) -> None:
        """Lets those pass who may pull from the repository that an entry is about. LoginNeeded, RightMissing, ..."""
        if await self._known_caller(call):
            call.actor = self.access.check_entry(call.caller, index, repository)

    async def _known_caller(self, call: Call) -> bool:
        """Whether callers are told apart; then who this one is. HostRefused, AuthorizationInvalid, ..."""
        authorization = call.header(b"authorization")
        if authorization is None and not self.access.required():
            self.refuse_other_hosts(call)
            return False
        call.caller = await self.recognise(call, authorization)
        return True

    def refuse_other_hosts(self, call: Call) -> None:
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

    async def recognise(self, call: Call, authorization: str | None) -> Caller:
        """Who the request says it is from, proven. AuthorizationInvalid, LoginWrong, TokenInvalid, ..."""
        if authorization is None or not self.access.required():
            return NOBODY
        raw = authorization.encode("latin-1")
        if len(raw) > MAX_HEADER_BYTES:
            raise AuthorizationInvalid("the Authorization header is too long")
        mark = hashlib.blake2b(raw, key=self._secret, digest_size=16).digest()
        now = time.monotonic()
        held = self._known.get(mark)
        if held is not None and held[1] > now:
            return held[0]
        caller, life_s = await self._prove(call, authorization)
        if not life_s:
            return caller
        self._known[mark] = (caller, now + min(REMEMBERED_S, life_s))
        while len(self._known) > REMEMBERED_MOST:
            self._known.popitem(last=False)
        return caller

    def may_pull(self, call: Call, repository: Repository) -> bool:
        """Whether the request's sender may pull there, for what concerns other repositories than the asked one."""
        return Action.PULL in self.access.allowed(call.caller, repository)

    def challenge(self, error: Unauthenticated) -> Headers:
        """The `WWW-Authenticate` of a 401."""
        if self._realm is None:
            return ((b"www-authenticate", b'Basic realm="boltseal", charset="UTF-8"'),)
        text = f'Bearer realm="{self._realm}",service="{self.access.service}"'
        if isinstance(error, LoginNeeded) and error.action is not None:
            actions = {Action.PULL: "pull", Action.PUSH: "pull,push"}.get(error.action, f"pull,{error.action}")
            text += f',scope="repository:{error.repository}:{actions}"'
        return ((b"www-authenticate", text.encode("latin-1")),)

    async def _prove(self, call: Call, authorization: str) -> tuple[Caller, float]:
        scheme, _, rest = authorization.partition(" ")
        match scheme.lower():
            case "basic":
                user, password = _basic(rest.strip())
                # Not remembered here: `Logins` does, and forgets when the password is another.
                return await self.access.by_password(user, password, call.network), 0.0
            case "bearer":
                caller, ends_s = self.access.by_token(rest.strip())
                return caller, max(0.0, ends_s - time.time())
            case _:
                raise AuthorizationInvalid("the Authorization header is neither Basic nor Bearer")


def _action(method: str, target: Target) -> Action:
    if isinstance(target, Uploads | UploadAt):
        return Action.PUSH
    match method:
        case "GET" | "HEAD":
            return Action.PULL
        case "DELETE":
            return Action.DELETE
        case _:
            return Action.PUSH


def _basic(encoded: str) -> tuple[str, str]:
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except ValueError as error:  # not ASCII, not base64, not UTF-8
        raise AuthorizationInvalid("the Authorization header can't be read; expected Basic and base64") from error
    if not colon:
        raise AuthorizationInvalid("the Authorization header can't be read; expected user:password")
    return user, password
