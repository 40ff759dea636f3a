"""The token service: `GET /token` as Docker requests it, `POST /token` as OAuth2 clients (containerd) try first.

    GET  /token?service=S&scope=repository:NAME:pull,push&scope=...     with Basic, or anonymous
    GET  /token?service=S&scope=registry:catalog:*                      for the list of repositories
    POST /token  grant_type=password&username=..&password=..&scope=..   the parameters in a form

One request may have several scopes. Each is reduced to what the grants allow now, and pulls of the same names at the
root mirror are added. A request that needs a missing scope is refused later with the reason. Scopes of other types are
ignored. A wrong login is a 401, never an anonymous token. There are no refresh tokens: a client keeps its login.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import parse_qs

from boltseal.errors import BoltsealError, ErrorCode, Invalid, Unauthenticated
from boltseal.oci.reference import NameInvalid, Repository
from boltseal.policy.grants import Action
from boltseal.policy.name_resolution import NO_UPSTREAMS, NameResolver
from boltseal.server.api import responses
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.http_application import HttpApplication
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.auth.access import MAX_SCOPES
from boltseal.server.auth.tokens import CATALOG_SCOPE, LIFE_S

TOKEN_PATH: Final = "/token"  # noqa: S105 - a path, no secret
MAX_FORM_BYTES: Final = 64 * 1024
_CHALLENGE: Final[Headers] = ((b"www-authenticate", b'Basic realm="boltseal", charset="UTF-8"'),)
_TOKEN_ACTIONS: Final = frozenset({Action.PULL, Action.PUSH, Action.DELETE})


class ScopeInvalid(Invalid):
    """The request has too many scopes, or its form cannot be parsed."""

    code = ErrorCode.UNSUPPORTED


class TokenService(HttpApplication):
    """Serves the token endpoint."""

    def __init__(self, observer: RequestLog, auth: RequestAuth, name_resolver: NameResolver = NO_UPSTREAMS) -> None:
        super().__init__(observer)
        self._auth = auth
        self._names = name_resolver

    async def _respond(self, request: Request) -> Response:
        request.route = TOKEN_PATH
        if request.method == "GET":
            authorization, scopes = request.header(b"authorization"), request.query.all("scope")
            return await self._issue_token(request, authorization, scopes)
        if request.method != "POST":
            raise ScopeInvalid("method not allowed; use GET or POST")
        form = _form(await request.read_body(MAX_FORM_BYTES))
        if form.get("grant_type") != ["password"]:
            raise ScopeInvalid('grant_type must be "password"; this registry issues no refresh tokens')
        user, password = form.get("username", [""])[0], form.get("password", [""])[0]
        basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        return await self._issue_token(request, basic, form.get("scope", []))

    def _error_headers(self, _: Request, error: BoltsealError) -> Headers:
        return _CHALLENGE if isinstance(error, Unauthenticated) else ()

    async def _issue_token(self, request: Request, authorization: str | None, scopes: Iterable[str]) -> Response:
        texts = _split_scopes(scopes)
        asked, catalog = list(_parse_scopes(texts)), CATALOG_SCOPE in texts
        named = [f"{repository}:{','.join(sorted(actions))}" for repository, actions in asked]
        request.asked = " ".join([*named, CATALOG_SCOPE] if catalog else named)
        caller = await self._auth.recognise(request, authorization)
        request.actor = caller.actor
        token = self._auth.access.issue_token(caller, [*asked, *self._root_mirror_scopes(asked)], catalog=catalog)
        body = json.dumps({"token": token, "access_token": token, "expires_in": LIFE_S}).encode()
        return responses.with_body(body)

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


def _form(raw: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(raw.decode("ascii"), max_num_fields=MAX_SCOPES + 10, strict_parsing=True)
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
        name, _, actions = rest.rpartition(":")
        wanted = {"pull", "push", "delete"} if actions == "*" else set(actions.split(","))
        if kind != "repository":
            continue
        try:
            yield Repository(name), frozenset(action for action in _TOKEN_ACTIONS if str(action) in wanted)
        except NameInvalid:
            continue
