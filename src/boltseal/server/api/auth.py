"""Authenticates each request and checks its rights, before anything is looked up.

    Authorization: Basic ...    user, and password (`server.auth.logins`) or API token (`server.auth.api_tokens`)
    Authorization: Basic ...    `oidc` and a pipeline's ID token (`server.auth.pipeline_logins`)
    Authorization: Bearer ...   a bearer token of this registry (`server.auth.tokens`), or an API token
    none                        anonymous

Rights are checked before existence, preconditions and 304, so a response does not reveal whether something exists to a
caller without the right. The status is 401 with a challenge where a login or another token would help, otherwise 403.
The challenge has the address of the token service from the configuration, never from the Host header.

A verified credential is cached for a few seconds under a keyed hash, so that a pull of fifty layers verifies it once.
Admissions are cached together with the users that they are based on. Each request checks whether these have changed, and
a change invalidates the cache. Grants do not change during the life of a RequestAuth: a reload creates another one.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from boltseal.errors import Unauthenticated, quote
from boltseal.oci.reference import NameInvalid, Repository
from boltseal.policy.grants import Action
from boltseal.policy.pipeline_rules import TagLimits
from boltseal.server.api.errors import HostRefused
from boltseal.server.api.paths import (
    BlobTarget,
    CatalogTarget,
    ChainsTarget,
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
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers
from boltseal.server.auth.access import Access
from boltseal.server.auth.actor import ANONYMOUS, Actor
from boltseal.server.auth.caller import ANONYMOUS_CALLER, Caller, LoginNeeded
from boltseal.server.auth.tokens import CATALOG_SCOPE
from boltseal.server.storage.users import Users

CACHE_S: Final = 10.0
MAX_CACHED: Final = 4096
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
    ChainsTarget,
)
_READS: Final = frozenset({"GET", "HEAD"})


class _Admitted(NamedTuple):
    """A cached admission. It is valid for this version of the users until `until_s` (monotonic seconds)."""

    caller: Caller
    actor: Actor
    users: Users
    until_s: float


class _Verified(NamedTuple):
    """A cached credential. It is valid for this version of the users until `until_s` (monotonic seconds)."""

    caller: Caller
    until_s: float
    users: Users


class RequestAuth:
    """Authentication and authorization of requests.

    `realm`: the absolute address of the token service; None if the configuration does not determine it. `allowed_hosts`: the
    host names by which a registry without users may be addressed, None for any. On loopback only names of this machine
    are allowed: a web page that resolves its own name to this address (DNS rebinding) sends that name.
    """

    def __init__(self, access: Access, realm: str | None, allowed_hosts: frozenset[str] | None = None) -> None:
        self.access = access
        self._realm = realm
        self._allowed_hosts = allowed_hosts
        self._secret = os.urandom(32)
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._admitted: OrderedDict[tuple[bytes, str, Action], _Admitted] = OrderedDict()

    async def admit(self, request: Request, target: Target) -> Actor:
        """Return the actor of a request that is allowed to access the target.

        Raises: LoginNeeded, Denied: the caller lacks the right. Unauthenticated: the login is wrong, or its header
        cannot be read. HostRefused: see there.
        """
        if isinstance(target, _IN_REPOSITORY):
            source = _mount_source(request) if isinstance(target, UploadsTarget) else None
            return await self._admit_to(request, target.repository, _action(request.method, target), source)
        if not await self.authenticate(request):
            return ANONYMOUS
        caller = request.caller
        match target:
            case DiscoverTarget(repository=None):
                return self.access.check_any(caller)
            case DiscoverTarget(repository=Repository() as repository):
                return self.access.check(caller, repository, Action.PULL)
            case _:
                catalog = isinstance(target, CatalogTarget)
                if request.header(b"authorization") is None and self._realm is not None:
                    # Clients send this first to learn how to log in; a 200 would mean that no login is needed.
                    scope = CATALOG_SCOPE if catalog else ""
                    raise LoginNeeded("authentication required: get a token from the token service", scope)
                return self.access.check_catalog(caller) if catalog else self.access.check_any(caller)

    async def _admit_to(
        self, request: Request, repository: Repository, action: Action, source: Repository | None
    ) -> Actor:
        """Return the actor in a repository, from the cache while it is valid. `source`: of a mount, which is not cached."""
        authorization = request.header(b"authorization")
        if self.access.stale:
            await self.access.refresh()
        users = self.access.users()
        if authorization is None and not self.access.required(users):
            self.refuse_other_hosts(request)
            return ANONYMOUS
        key = (self._cache_key(authorization or ""), repository, action)
        cached = self._admitted.get(key) if source is None else None
        if (
            cached is not None
            and cached.users is users
            and cached.until_s > time.monotonic()
            and self.access.callers.may_remember(cached.caller)
        ):
            request.caller = cached.caller
            return cached.actor
        request.caller, until_s = await self._verify_cached(request, authorization)
        actor = self.access.check(request.caller, repository, action, source, request.either)
        self._admitted[key] = _Admitted(request.caller, actor, users, until_s)
        while len(self._admitted) > MAX_CACHED:
            self._admitted.popitem(last=False)
        return actor

    async def admit_any(self, request: Request) -> None:
        """Admit every authenticated caller, for resources that name no repository. Raises: as `admit`."""
        if await self.authenticate(request):
            request.actor = self.access.check_any(request.caller)

    async def admit_to_entries(self, request: Request) -> None:
        """Admit callers who may read all entries of the ledger. Raises: as `admit`."""
        if await self.authenticate(request):
            request.actor = self.access.check_entries(request.caller)

    async def admit_to_entry(self, request: Request, index: int, repository: Repository) -> None:
        """Admit callers who may pull from the repository of an entry. Raises: as `admit`."""
        if await self.authenticate(request):
            request.actor = self.access.check_entry(request.caller, index, repository)

    async def authenticate(self, request: Request) -> bool:
        """Set `caller` and return True if authentication is required. Checks no right.

        Raises: HostRefused, Unauthenticated, LoginsTooMany.
        """
        authorization = request.header(b"authorization")
        if self.access.stale:
            await self.access.refresh()
        if authorization is None and not self.access.required():
            self.refuse_other_hosts(request)
            return False
        request.caller = await self.recognise(request, authorization)
        return True

    def refuse_other_hosts(self, request: Request) -> None:
        """Check the Host header of a registry on loopback without users. Raises: HostRefused: it is a foreign name."""
        if self._allowed_hosts is None:
            return
        host = (request.header(b"host") or "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if name not in self._allowed_hosts:
            raise HostRefused(
                f"host {quote(host)} refused: without users this registry is only served under names of this machine; "
                "use localhost, or set public_url"
            )

    async def recognise(self, request: Request, authorization: str | None) -> Caller:
        """Return the verified caller. Raises: Unauthenticated, LoginsTooMany, ..."""
        if self.access.stale:
            await self.access.refresh()
        return (await self._verify_cached(request, authorization))[0]

    async def _verify_cached(self, request: Request, authorization: str | None) -> tuple[Caller, float]:
        """Return the verified caller, and until when the cache may be used for the same users (monotonic seconds)."""
        now_s = time.monotonic()
        if authorization is None or not self.access.required():
            return ANONYMOUS_CALLER, now_s + CACHE_S
        if len(authorization) > MAX_HEADER_BYTES:
            raise Unauthenticated("the Authorization header is too long")
        key = self._cache_key(authorization)
        cached = self._verified.get(key)
        users = self.access.users()
        fresh = cached is not None and cached.until_s > now_s and cached.users is users
        if cached is not None and fresh and self.access.callers.may_remember(cached.caller):
            return cached.caller, cached.until_s
        caller, life_s = await self._verify(request, authorization)
        if life_s is None:
            return caller, now_s + CACHE_S
        until_s = now_s + min(CACHE_S, life_s)
        self._verified[key] = _Verified(caller, until_s, users)
        while len(self._verified) > MAX_CACHED:
            self._verified.popitem(last=False)
        return caller, until_s

    def _cache_key(self, authorization: str) -> bytes:
        return hashlib.blake2b(authorization.encode("latin-1"), key=self._secret, digest_size=16).digest()

    def tag_limits(self, request: Request, repository: Repository) -> TagLimits | None:
        """Return the tags that the sender may push in a repository; None: every tag."""
        return self.access.tag_limits(request.caller, repository)

    def may_pull(self, request: Request, repository: Repository) -> bool:
        """Return whether the sender may pull from a repository other than the target."""
        return Action.PULL in self.access.allowed(request.caller, repository)

    def may_list(self, request: Request) -> Callable[[str], bool]:
        """Return which repositories the sender may see in the catalog, by the users and grants now."""
        return self.access.may_list(request.caller)

    def challenge(self, error: Unauthenticated) -> Headers:
        """Return the `WWW-Authenticate` header of a 401, as the Docker token specification defines it."""
        if self._realm is None:
            return ((b"www-authenticate", b'Basic realm="boltseal", charset="UTF-8"'),)
        text = f'Bearer realm="{self._realm}",service="{self.access.callers.service}"'
        if isinstance(error, LoginNeeded) and error.scope:
            text += f',scope="{error.scope}"'
            if error.insufficient:
                text += ',error="insufficient_scope"'
        return ((b"www-authenticate", text.encode("latin-1")),)

    async def _verify(self, request: Request, authorization: str) -> tuple[Caller, float | None]:
        """Return the caller, and the remaining lifetime of the credential in seconds; None: do not cache."""
        scheme, _, rest = authorization.partition(" ")
        match scheme.lower():
            case "basic":
                user, password = _basic(rest.strip())
                if self.access.callers.is_pipeline(user):
                    return await self.access.callers.by_id_token(password)
                # A password is not cached here: `Logins` caches it and notices a changed password.
                return await self.access.callers.by_password(user, password, request.network)
            case "bearer":
                return await self.access.callers.by_token(rest.strip())
            case _:
                raise Unauthenticated("unsupported Authorization scheme; expected Basic or Bearer")


def _mount_source(request: Request) -> Repository | None:
    """Return the repository that a request mounts a blob from. Raises: QueryInvalid."""
    if request.query.value("mount") is None:
        return None
    try:
        return Repository(request.query.value("from") or "")
    except NameInvalid:
        return None  # it has no blobs, and no scope could name it


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
        raise Unauthenticated("cannot read the Authorization header; expected Basic and base64") from error
    if not colon:
        raise Unauthenticated("cannot read the Authorization header; expected user:password")
    return user, password
