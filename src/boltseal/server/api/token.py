"""The token service: `GET /token` as Docker asks, `POST /token` as OAuth2 clients (containerd) ask first.

    GET  /token?service=S&scope=repository:NAME:pull,push&scope=...     with Basic, or without a login
    GET  /token?service=S&scope=registry:catalog:*                      for the list of repositories
    POST /token  grant_type=password&username=..&password=..&scope=..   the same in a form

Several scopes in one request, and pulls of what they name at the root mirror, each cut to what the grants give now; what
is cut is left out, and the request that needed it is refused with the reason. Scopes of other types are ignored. A wrong login is 401, never a token for
nobody. There are no refresh tokens: a client keeps its login.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from boltseal.errors import BoltsealError, ErrorCode, Invalid, Unauthenticated
from boltseal.oci.reference import NameInvalid, Repository
from boltseal.policy.grants import Action
from boltseal.policy.name_resolution import NO_UPSTREAMS, NameResolver
from boltseal.server.api import responses
from boltseal.server.api.http_application import HttpApplication
from boltseal.server.api.responses import Headers, Response
from boltseal.server.auth.access import MAX_SCOPES
from boltseal.server.auth.tokens import CATALOG_SCOPE, LIFE_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from boltseal.server.api.access_log import RequestLog
    from boltseal.server.api.auth import RequestAuth
    from boltseal.server.api.request import Request

MAX_FORM_BYTES: Final = 64 * 1024
_CHALLENGE: Final[Headers] = ((b"www-authenticate", b'Basic realm="boltseal", charset="UTF-8"'),)
_GIVEN: Final = frozenset({Action.PULL, Action.PUSH, Action.DELETE})


class ScopeInvalid(Invalid):
    """More scopes than one token may have, or a form that can't be read."""

    code = ErrorCode.UNSUPPORTED


class TokenService(HttpApplication):
    """The endpoint, as an ASGI application of its own."""

    def __init__(self, observer: RequestLog, gate: RequestAuth, leads: NameResolver = NO_UPSTREAMS) -> None:
        super().__init__(observer)
        self._gate = gate
        self._leads = leads

    async def _answer(self, call: Request) -> Response:
        call.route = "Token"
        if call.method == "GET":
            authorization, scopes = call.header(b"authorization"), call.query.all("scope")
            return await self._give(call, authorization, scopes)
        if call.method != "POST":
            raise ScopeInvalid("a token is asked for with GET or POST")
        form = _form(await call.document(MAX_FORM_BYTES))
        if form.get("grant_type") != ["password"]:
            raise ScopeInvalid('grant_type must be "password": this registry gives no refresh tokens')
        user, password = form.get("username", [""])[0], form.get("password", [""])[0]
        basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        return await self._give(call, basic, form.get("scope", []))

    def _extra(self, _: Request, error: BoltsealError) -> Headers:
        return _CHALLENGE if isinstance(error, Unauthenticated) else ()

    async def _give(self, call: Request, authorization: str | None, scopes: Iterable[str]) -> Response:
        texts = _texts(scopes)
        asked, catalog = list(_asked(texts)), CATALOG_SCOPE in texts
        named = [f"{repository}:{','.join(sorted(actions))}" for repository, actions in asked]
        call.asked = " ".join([*named, CATALOG_SCOPE] if catalog else named)
        caller = await self._gate.recognise(call, authorization)
        call.actor = caller.actor
        token = self._gate.access.issue_token(caller, [*asked, *self._also(asked)], catalog=catalog)
        body = json.dumps({"token": token, "access_token": token, "expires_in": LIFE_S}).encode()
        return responses.whole(body)

    def _also(
        self, asked: Iterable[tuple[Repository, frozenset[Action]]]
    ) -> Iterator[tuple[Repository, frozenset[Action]]]:
        """Pulls of what the names mean to the root mirror, whether or not it answers for them.

        Docker asks for a token under the names that it knows, whatever repository our challenge says.
        """
        for repository, actions in asked:
            meant = self._leads.at_root(repository) if Action.PULL in actions else None
            if meant is not None:
                yield meant, frozenset({Action.PULL})


def _form(raw: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(raw.decode("ascii"), max_num_fields=MAX_SCOPES + 10, strict_parsing=True)
    except ValueError as error:
        raise ScopeInvalid("the form can't be read") from error


def _texts(scopes: Iterable[str]) -> list[str]:
    """Each scope by itself. ScopeInvalid."""
    # Several in one parameter come apart at spaces, which our queries, and no name, may have as a plus.
    texts = [text for scope in scopes for text in scope.replace("+", " ").split()]
    if len(texts) > MAX_SCOPES:
        raise ScopeInvalid(f"{len(texts)} scopes; one token may have at most {MAX_SCOPES}")
    return texts


def _asked(texts: Iterable[str]) -> Iterator[tuple[Repository, frozenset[Action]]]:
    """What was asked for, of repositories that can exist and actions that tokens are for; the rest asks for nothing."""
    for text in texts:
        kind, _, rest = text.partition(":")
        name, _, actions = rest.rpartition(":")
        wanted = {"pull", "push", "delete"} if actions == "*" else set(actions.split(","))
        if kind != "repository":
            continue
        try:
            yield Repository(name), frozenset(action for action in _GIVEN if str(action) in wanted)
        except NameInvalid:
            continue
