"""Serves the admin API: routing, authentication, answers with entity tags, refusals.

A request is served in this order: path, method, login, query or body, rights, whether anything may be written now, and then
the use case. An answer of a read has a strong entity tag, made from its bytes: of what the caller may see, and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Final

import msgspec

from boltseal.errors import BoltsealError, Unauthenticated, quote
from boltseal.server.api import responses
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.admin.openapi import DOCUMENT, document_of
from boltseal.server.api.admin.paging import Page
from boltseal.server.api.admin.rights import check_right
from boltseal.server.api.admin.routes import Route
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.conditional_requests import not_modified
from boltseal.server.api.errors import MethodNotAllowed, RegistryReadOnly, RouteUnknown
from boltseal.server.api.http_application import READS, HttpApplication, path_text
from boltseal.server.api.query import link_next
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.api.settings import ApiSettings

_CACHE: Final = "private, no-cache"
"""A cache may keep an answer for its caller, and asks with `If-None-Match` each time."""


class AdminApi(HttpApplication):
    """Serves these routes, and the OpenAPI document of them."""

    def __init__(self, observer: RequestLog, auth: RequestAuth, settings: ApiSettings, routes: Sequence[Route]) -> None:
        super().__init__(observer, settings.body)
        self._auth = auth
        self._settings = settings
        self._table: dict[str, dict[str, Route]] = {}
        for route in routes:
            self._table.setdefault(route.path, {})[route.method] = route
        self.routes = tuple(routes)

    @cached_property
    def _document(self) -> bytes:
        return msgspec.json.encode(document_of(self.routes))

    def _error_headers(self, _: Request, error: BoltsealError) -> Headers:
        # Basic, because the tokens of the token service have no right to administrate.
        basic = (b"www-authenticate", b'Basic realm="boltseal", charset="UTF-8"')
        return (basic,) if isinstance(error, Unauthenticated) else ()

    def _may_pull(self, request: Request) -> bool:
        try:
            return request.repository is None or self._auth.may_pull(request, request.repository)
        except BoltsealError:  # the users cannot be read now
            return False

    async def _respond(self, request: Request) -> Response:
        path = request.scope["path"]
        if path == DOCUMENT and b"%" not in request.scope["raw_path"]:
            request.route = DOCUMENT
            _check_method(request, ["GET"])
            return _answer(request, self._document)
        methods = self._table.get(path)
        if methods is None or b"%" in request.scope["raw_path"]:
            raise RouteUnknown(f"unknown path {quote(path_text(request.scope))}; {DOCUMENT} describes the admin API")
        request.route = path
        route = methods[_check_method(request, methods)]
        await self._auth.authenticate(request)
        asked = await route.parse(request)
        await self._auth.authenticate(request)  # again: the body may have taken minutes, in which a user was removed
        check_right(self._auth.access, request, route.right, asked)
        if route.changes:
            self.refuse_writes()
        found = await route.handler(request, asked)
        body = msgspec.json.encode(found, enc_hook=_plain)
        if request.method not in READS:
            return responses.with_body(body)
        extra = [(b"link", _link(request, found.next))] if isinstance(found, Page) and found.next is not None else []
        return _answer(request, body, extra)

    def refuse_writes(self) -> None:
        """Raise why nothing may be written now, if so: RegistryReadOnly, or what `ApiSettings.unavailable` returns."""
        if self._settings.read_only is not None:
            raise RegistryReadOnly(self._settings.read_only, "GET, HEAD")
        refusal = self._settings.unavailable()
        if refusal is not None:
            raise refusal


def _plain(value: object) -> str:
    """Return a repository or tag as JSON has it."""
    if isinstance(value, str):
        return str.__str__(value)
    raise NotImplementedError(f"a document has a value of type {type(value).__name__}")


def _check_method(request: Request, allowed: Collection[str]) -> str:
    method = "GET" if request.method == "HEAD" else request.method
    if method not in allowed:
        names = ", ".join(name for each in sorted(allowed) for name in (("GET", "HEAD") if each == "GET" else (each,)))
        raise MethodNotAllowed(f"{quote(request.method, 20)} is not allowed here; allowed: {names}", names)
    return method


def _link(request: Request, cursor: str) -> bytes:
    """Return the Link header of the next page: the same query with another cursor."""
    given = {name: request.query.value(name) or "" for name in request.query.names()}
    return link_next(request.scope["path"], {**given, "cursor": cursor})


def _answer(request: Request, body: bytes, extra: Sequence[tuple[bytes, bytes]] = ()) -> Response:
    """Return the answer of a read, 304 if the client has these bytes."""
    tag = hashlib.blake2b(body, digest_size=16).hexdigest()
    shared = ((b"etag", f'"{tag}"'.encode("ascii")), (b"vary", b"authorization"), *extra)
    condition = request.header(b"if-none-match")
    if condition is not None and not_modified(condition, tag):
        return Response(304, (*shared, (b"cache-control", _CACHE.encode("ascii"))))
    return responses.with_body(body, cache_control=_CACHE, extra=shared)
