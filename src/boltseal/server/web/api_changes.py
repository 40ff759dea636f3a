"""Calls the changes of the admin API for forms of pages: with its rights, its checks, and its refusals while nothing may be written.

A form comes after a preview, which is a dry run. `at` binds the change to what the preview showed: it becomes `If-Match`, or
`If-None-Match` where the tag did not exist, and the transaction that writes checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from boltseal.server.api.admin.rights import check_right
from boltseal.server.api.admin.routes import Route
from boltseal.server.api.request import Request
from boltseal.server.auth.access import Access

_CONDITIONS: Final = frozenset({b"if-match", b"if-none-match"})
NOTHING: Final = "nothing"
"""In place of a digest: the tag resolves to none."""


class RouteName(NamedTuple):
    """A route of the admin API. `name`: its path without the prefix."""

    method: str
    name: str


class ApiChanges:
    """The changes among these routes. `refuse_writes`: raises why nothing may be written now, if so."""

    def __init__(self, access: Access, routes: Iterable[Route], refuse_writes: Callable[[], None]) -> None:
        self._access = access
        self._refuse_writes = refuse_writes
        self._routes = {
            RouteName(route.method, route.name): route for route in routes if route.method in ("POST", "DELETE")
        }

    async def call(self, request: Request, name: RouteName, given: Mapping[str, object], at: str | None = None) -> Any:
        """Return the answer of a route to the caller of a request.

        Args:
            given: the fields of its body or query; without empty ones.
            at: the digest that the tag must resolve to now; NOTHING: it must resolve to none; None: whatever it is.

        Raises: as the route does, for lack of rights as well.
        """
        route = self._routes[name]
        asked = route.convert({key: value for key, value in given.items() if value != ""})
        check_right(self._access, request, route.right, asked)
        if route.changes:
            self._refuse_writes()
        return await route.handler(_conditional(request, at), asked)


def _conditional(request: Request, at: str | None) -> Request:
    """Return the request with these conditions in place of those that it came with."""
    headers = [(key, value) for key, value in request.scope["headers"] if key not in _CONDITIONS]
    if at is not None:
        headers.append((b"if-none-match", b"*") if at == NOTHING else (b"if-match", f'"{at}"'.encode()))
    asked = Request({**request.scope, "headers": headers}, request.receive, request.id)
    asked.caller, asked.actor, asked.repository = request.caller, request.actor, request.repository
    return asked
