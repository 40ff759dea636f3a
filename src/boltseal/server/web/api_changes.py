"""Calls the changes of the admin API for forms of pages: with its rights, its checks, and its refusals while nothing may be written.

A form comes after a preview, which is a dry run. `at` binds the change to what the preview showed: it becomes `If-Match`, or
`If-None-Match` where the tag did not exist, and the transaction that writes checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from boltseal.server.api.admin.rights import check_right
from boltseal.server.api.admin.routes import Route
from boltseal.server.api.request import Request
from boltseal.server.auth.access import Access

_CONDITIONS: Final = frozenset({b"if-match", b"if-none-match"})


class ApiChanges:
    """The changes among these routes, by their names. `refuse_writes`: raises why nothing may be written now, if so."""

    def __init__(self, access: Access, routes: Iterable[Route], refuse_writes: Callable[[], None]) -> None:
        self._access = access
        self._refuse_writes = refuse_writes
        self._routes = {route.name: route for route in routes if route.method == "POST"}

    async def call(self, request: Request, name: str, given: Mapping[str, object], at: str | None = None) -> Any:
        """Return the answer of a route to the caller of a request.

        Args:
            given: the fields of its body; without empty ones.
            at: the digest that the tag must resolve to now; "": it must not exist; None: whatever it is.

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
        headers.append((b"if-match", f'"{at}"'.encode()) if at else (b"if-none-match", b"*"))
    asked = Request({**request.scope, "headers": headers}, request.receive, request.id)
    asked.caller, asked.actor, asked.repository = request.caller, request.actor, request.repository
    return asked
