"""The token service: `GET /token` as Docker requests it, `POST /token` as OAuth2 clients (containerd) try first.

    GET  /token?service=S&scope=repository:NAME:pull,push&scope=...     with Basic, or anonymous
    GET  /token?service=S&scope=registry:catalog:*                      for the list of repositories
    POST /token  grant_type=password&username=..&password=..&scope=..   the parameters in a form
    POST /token  grant_type=refresh_token&refresh_token=..&scope=..     for pipelines (`server.auth.pipeline_logins`)

One request may have several scopes. Each is reduced to what the grants allow now, and pulls of the same names at the
root mirror are added. A request that needs a missing scope is refused later with the reason. Scopes of other types are
ignored, and so is the class of a type (`repository(plugin)`). A wrong login is a 401, never an anonymous token. A token is
no login here: otherwise a stolen one could be renewed for ever.

    service     required in the specification, optional here; another service than ours is refused
    account     the user of the login; another one is refused; without a login it is ignored
    client_id   ignored
    offline_token, access_type=offline
                a pipeline's login gets a refresh token, so that a push may outlive the ID token. Users get none, which the
                specification allows: a client keeps its login, and a removed user or a new password ends its tokens at once

A refused POST also has `error` and `error_description` (RFC 6749, section 5.2).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple
from urllib.parse import parse_qs

from boltseal.errors import BoltsealError, ErrorCode, Invalid, Unauthenticated, quote
from boltseal.oci.reference import NameInvalid, Repository
from boltseal.policy.grants import Action
from boltseal.policy.name_resolution import NO_UPSTREAMS, NameResolver
from boltseal.server.api import responses
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.errors import MethodNotAllowed, error_headers
from boltseal.server.api.http_application import HttpApplication
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.auth.access import MAX_SCOPES
from boltseal.server.auth.api_token_text import looks_like_token
from boltseal.server.auth.caller import Caller
from boltseal.server.auth.pipeline_logins import PIPELINE_USER
from boltseal.server.auth.tokens import CATALOG_SCOPE, MAX_TOKEN_BYTES, IssuedToken

TOKEN_PATH: Final = "/token"  # noqa: S105 - a path, no secret
MAX_FORM_BYTES: Final = 64 * 1024
_CHALLENGE: Final[Headers] = ((b"www-authenticate", b'Basic realm="boltseal", charset="UTF-8"'),)
_CLASS: Final = re.compile(r"\([a-z0-9]+\)$")
"""The class of a resource type in a scope, such as `(plugin)`. It says what a repository holds and gives no right."""
_EVERY: Final = "*"
"""The action that stands for all that a token may have."""
_TOKEN_ACTIONS: Final = frozenset({Action.PULL, Action.PUSH, Action.DELETE})


class ScopeInvalid(Invalid):
    """The request has too many scopes, a wrong parameter, or a form that cannot be parsed."""

    code = ErrorCode.UNSUPPORTED


class GrantTypeUnsupported(ScopeInvalid):
    """The form has a grant type that this registry does not offer."""


_OAUTH_ERRORS: Final = {
    GrantTypeUnsupported: "unsupported_grant_type",
    ScopeInvalid: "invalid_request",
    Unauthenticated: "invalid_grant",
}
"""The `error` of a refused POST (RFC 6749, section 5.2). The first class that matches counts."""


class _Asked(NamedTuple):
    """The scopes of a token request: how many, the actions by repository, and whether the catalog is one."""

    number: int
    repositories: list[tuple[Repository, frozenset[Action]]]
    catalog: bool


class TokenService(HttpApplication):
    """Serves the token endpoint."""

    def __init__(self, observer: RequestLog, auth: RequestAuth, name_resolver: NameResolver = NO_UPSTREAMS) -> None:
        super().__init__(observer)
        self._auth = auth
        self._names = name_resolver

    async def _respond(self, request: Request) -> Response:
        request.route = TOKEN_PATH
        if request.method == "GET":
            query = request.query
            self._check_service(query.value("service"))
            account = query.value("account")
            asked = _asked(request, query.all("scope"))
            caller = await self._caller(request, request.header(b"authorization"), account)
            issued = self._issue(request, caller, asked)
            offline = query.value("offline_token") == "true"
            return _json(issued, await self._refresh_token(caller) if offline else {})
        if request.method != "POST":
            raise MethodNotAllowed("method not allowed; use GET or POST", "GET, POST")
        form = _form(await request.read_body(MAX_FORM_BYTES))
        self._check_service(_one(form, "service"))
        offered = '"password" or "refresh_token"' if self._auth.access.callers.accepts_pipelines else '"password"'
        if "grant_type" not in form:
            raise ScopeInvalid(f"grant_type is missing; expected {offered}")
        if form["grant_type"] == ["refresh_token"] and self._auth.access.callers.accepts_pipelines:
            asked = _asked(request, form.get("scope", []))
            issued = self._issue(request, await self._by_refresh_token(form), asked)
            return _json(issued, {"scope": issued.scope})
        if form["grant_type"] != ["password"]:
            raise GrantTypeUnsupported(f"grant_type must be {offered}; users get no refresh tokens")
        user, password = _one(form, "username"), _one(form, "password")
        if user is None or password is None:
            raise ScopeInvalid("username or password is missing; expected both")
        if ":" in user:  # Basic could not carry it: the rest would become a part of the password
            raise ScopeInvalid("username has a colon, which no user name has")
        basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        asked = _asked(request, form.get("scope", []))
        caller = await self._caller(request, basic, _one(form, "account"))
        issued = self._issue(request, caller, asked)
        offline = _one(form, "access_type") == "offline"
        return _json(issued, {"scope": issued.scope} | (await self._refresh_token(caller) if offline else {}))

    async def _by_refresh_token(self, form: Mapping[str, list[str]]) -> Caller:
        """Return the caller of a form with a refresh token. Raises: Unauthenticated, Unavailable."""
        text = _one(form, "refresh_token")
        if text is None:
            raise ScopeInvalid("refresh_token is missing; expected the one that the login returned")
        await self._auth.access.refresh()
        return await self._auth.access.callers.by_refresh_token(text)

    async def _refresh_token(self, caller: Caller) -> dict[str, str]:
        """Return the member of a response that has a refresh token, if the caller gets one."""
        text = await self._auth.access.callers.issue_refresh_token(caller)
        return {} if text is None else {"refresh_token": text}

    def _check_service(self, service: str | None) -> None:
        """Refuse a token request for another registry, before a password is checked."""
        ours = self._auth.access.callers.service
        if service is not None and service != ours:
            raise ScopeInvalid(
                f"service is {quote(service)}; expected {quote(ours)}, the name of this registry's tokens"
            )

    def _error_headers(self, _: Request, error: BoltsealError) -> Headers:
        return _CHALLENGE if isinstance(error, Unauthenticated) else ()

    def _refusal(self, request: Request, error: BoltsealError) -> Response:
        response = super()._refusal(request, error)
        name = next((name for kind, name in _OAUTH_ERRORS.items() if isinstance(error, kind)), None)
        if request.method != "POST" or name is None:
            return response
        body = json.loads(response.body) | {"error": name, "error_description": error.message}
        extra = (*error_headers(error), *self._error_headers(request, error))
        return responses.with_body(json.dumps(body).encode(), status=response.status, extra=extra)

    async def _caller(self, request: Request, authorization: str | None, account: str | None) -> Caller:
        """Return the caller who logs in. Raises: Unauthenticated, LoginsTooMany, ScopeInvalid, Unavailable."""
        caller = await self._auth.recognise(request, authorization)
        if caller.scopes is not None:
            raise Unauthenticated("a token gets no other token; send a user name and password, or nothing")
        login = caller.user if caller.pipeline is None else PIPELINE_USER
        if account is not None and login not in (None, account):
            shown = "an API token" if looks_like_token(account) else quote(account)
            raise ScopeInvalid(f"account is {shown}; the login is {quote(login)}; expected the same")
        return caller

    def _issue(self, request: Request, caller: Caller, asked: _Asked) -> IssuedToken:
        request.actor = caller.actor
        wanted = [*asked.repositories, *self._root_mirror_scopes(asked.repositories)]
        issued = self._auth.access.issue_token(caller, wanted, catalog=asked.catalog)
        if len(issued.text) > MAX_TOKEN_BYTES:  # every request with it would be refused, and the client would ask again
            raise ScopeInvalid(
                f"a token with these {asked.number} scopes has {len(issued.text)} bytes; at most {MAX_TOKEN_BYTES} are "
                "allowed: request fewer repositories at once"
            )
        return issued

    def _root_mirror_scopes(
        self, asked: Iterable[tuple[Repository, frozenset[Action]]]
    ) -> Iterator[tuple[Repository, frozenset[Action]]]:
        """Yield pull scopes for the repositories to which the names resolve at the root mirror.

        Docker requests a token for the names that it knows, whatever repository our challenge has.
        """
        for repository, actions in asked:
            mirrored = self._names.at_root(repository) if Action.PULL in actions else None
            if mirrored is not None:
                yield mirrored, frozenset({Action.PULL})


def _asked(request: Request, scopes: Iterable[str]) -> _Asked:
    """Return the requested scopes, and note them for the log before the login is checked. Raises: ScopeInvalid."""
    texts = _split_scopes(scopes)
    asked = _Asked(len(texts), list(_parse_scopes(texts)), CATALOG_SCOPE in texts)
    named = [f"{repository}:{','.join(sorted(actions))}" for repository, actions in asked.repositories]
    request.asked = " ".join([*named, CATALOG_SCOPE] if asked.catalog else named)
    return asked


def _json(issued: IssuedToken, more: Mapping[str, str] | None = None) -> Response:
    """Return the response with a token, which no cache keeps. `more`: further members."""
    body = {
        "token": issued.text,
        "access_token": issued.text,
        "expires_in": issued.life_s,
        "issued_at": datetime.fromtimestamp(issued.issued_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return responses.with_body(json.dumps(body | dict(more or {})).encode())


def _one(form: Mapping[str, list[str]], name: str) -> str | None:
    """Return the only value of a parameter, or None. Raises: ScopeInvalid: it has several."""
    values = form.get(name, [])
    if len(values) > 1:
        raise ScopeInvalid(f"the form has {len(values)} values for {name}; expected one")
    return values[0] if values else None


def _form(raw: bytes) -> dict[str, list[str]]:
    try:
        text = raw.decode("ascii")
        return parse_qs(text, max_num_fields=MAX_SCOPES + 10, strict_parsing=True, errors="strict")
    except ValueError as error:
        raise ScopeInvalid("cannot read the form; expected application/x-www-form-urlencoded") from error


def _split_scopes(scopes: Iterable[str]) -> list[str]:
    """Return each scope of all parameters. Raises: ScopeInvalid: there are too many."""
    # Scopes in one parameter are separated by spaces, which a query may encode as a plus; no name has one.
    texts = [text for scope in scopes for text in scope.replace("+", " ").split()]
    if len(texts) > MAX_SCOPES:
        raise ScopeInvalid(f"{len(texts)} scopes; one token may have at most {MAX_SCOPES}")
    return texts


def _parse_scopes(texts: Iterable[str]) -> Iterator[tuple[Repository, frozenset[Action]]]:
    """Yield valid repositories with the actions that tokens may have; other scopes are ignored."""
    for text in texts:
        kind, _, rest = text.partition(":")
        kind = _CLASS.sub("", kind)
        name, _, actions = rest.rpartition(":")
        wanted = set(actions.split(","))
        if kind != "repository":
            continue
        try:
            yield (
                Repository(name),
                frozenset(action for action in _TOKEN_ACTIONS if not wanted.isdisjoint({str(action), _EVERY})),
            )
        except NameInvalid:
            continue
