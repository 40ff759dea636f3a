"""Calls the reads of the admin API for pages, with the rights that the API checks, so that both show a caller the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from boltseal.errors import Denied
from boltseal.server.api.admin.rights import check_right
from boltseal.server.api.admin.routes import Right, Route
from boltseal.server.api.request import Request
from boltseal.server.auth.access import Access
from boltseal.server.auth.caller import LoginNeeded


class ApiReads:
    """Calls the GET routes among these, by their names."""

    def __init__(self, access: Access, routes: Iterable[Route]) -> None:
        self._access = access
        self._routes = {route.name: route for route in routes if route.method == "GET"}

    async def read(self, request: Request, name: str, **given: object) -> Any:
        """Return the answer of a route to the caller of a request. `given`: its query, without the values that are None.

        Raises: LoginNeeded, Denied; RequestInvalid: of the query; the errors of the route.
        """
        route = self._routes[name]
        asked = route.convert({key: value for key, value in given.items() if value is not None})
        check_right(self._access, request, route.right, asked)
        return await route.handler(request, asked)

    async def read_allowed(self, request: Request, name: str, **given: object) -> Any:
        """Return the answer of a route; None if the caller may not call it."""
        try:
            return await self.read(request, name, **given)
        except (LoginNeeded, Denied):
            return None

    def check(self, request: Request, right: Right, asked: Any = None) -> None:
        """Check a right for a use case that has no route. Raises: LoginNeeded, Denied."""
        check_right(self._access, request, right, asked)
