"""The token service: `GET /token` as Docker requests it, `POST /token` as OAuth2 clients (containerd) try first.

    GET  /token?service=S&scope=repository:NAME:pull,push&scope=...     with Basic, or anonymous
    GET  /token?service=S&scope=registry:catalog:*                      for the list of repositories
    POST /token  grant_type=password&username=..&password=..&scope=..   the parameters in a form

One request may have several scopes. Each is reduced to what the grants allow now, and pulls of the same names at the
root mirror are added. A request that needs a missing scope is refused later with the reason. Scopes of other types are
ignored, and so is the class of a type (`repository(plugin)`). A wrong login is a 401, never an anonymous token. A token is
no login here: otherwise a stolen one could be renewed for ever.

    service     required in the specification, optional here; another service than ours is refused
    account     the user of the login; another one is refused; without a login it is ignored
    client_id   ignored
    offline_token, access_type=offline
                ignored: there are no refresh tokens, which the specification allows. A client keeps its login, and a
                removed user or a new password ends its tokens at once

A refused POST also has `error` and `error_description` (RFC 6749, section 5.2).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final
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
from boltseal.server.auth.tokens import CATALOG_SCOPE, LIFE_S, MAX_TOKEN_BYTES, IssuedToken

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
            return _json(await self._issue(request, request.header(b"authorization"), account, query.all("scope")))
        if request.method != "POST":
            raise MethodNotAllowed("method not allowed; use GET or POST", "GET, POST")
        form = _form(await request.read_body(MAX_FORM_BYTES))
        self._check_service(_one(form, "service"))
        if "grant_type" not in form:
            raise ScopeInvalid('grant_type is missing; expected "password"')
        if form["grant_type"] != ["password"]:
            raise GrantTypeUnsupported('grant_type must be "password"; this registry issues no refresh tokens')
        user, password = _one(form, "username"), _one(form, "password")
        if user is None or password is None:
            raise ScopeInvalid("username or password is missing; expected both")
        if ":" in user:  # Basic could not carry it: the rest would become a part of the password
            raise ScopeInvalid("username has a colon, which no user name has")
        basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        issued = await self._issue(request, basic, _one(form, "account"), form.get("scope", []))
        return _json(issued, {"scope": issued.scope})

    def _check_service(self, service: str | None) -> None:
        """Refuse a token request for another registry, before a password is checked."""
        ours = self._auth.access.service
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

    async def _issue(
        self, request: Request, authorization: str | None, account: str | None, scopes: Iterable[str]
    ) -> IssuedToken:
        texts = _split_scopes(scopes)
        asked, catalog = list(_parse_scopes(texts)), CATALOG_SCOPE in texts
        named = [f"{repository}:{','.join(sorted(actions))}" for repository, actions in asked]
        request.asked = " ".join([*named, CATALOG_SCOPE] if catalog else named)
        caller = await self._auth.recognise(request, authorization)
        if caller.scopes is not None:
            raise Unauthenticated("a token gets no other token; send a user name and password, or nothing")
        if account is not None and caller.user not in (None, account):
            raise ScopeInvalid(f"account is {quote(account)}; the login is {quote(caller.user)}; expected the same")
        request.actor = caller.actor
        issued = self._auth.access.issue_token(caller, [*asked, *self._root_mirror_scopes(asked)], catalog=catalog)
        if len(issued.text) > MAX_TOKEN_BYTES:  # every request with it would be refused, and the client would ask again
            raise ScopeInvalid(
                f"a token with these {len(texts)} scopes has {len(issued.text)} bytes; at most {MAX_TOKEN_BYTES} are "
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


def _json(issued: IssuedToken, more: Mapping[str, str] | None = None) -> Response:
    """Return the response with a token, which no cache keeps. `more`: members that only a POST has."""
    body = {
        "token": issued.text,
        "access_token": issued.text,
        "expires_in": LIFE_S,
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
