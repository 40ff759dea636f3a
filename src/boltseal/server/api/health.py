"""`GET /healthz`: this process responds. `GET /readyz`: it can serve, or the reasons why not.

Both are for load balancers and supervisors. They need no login and reveal nothing about the stored content.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Final

from boltseal.errors import BoltsealError, quote
from boltseal.server.api import responses
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.errors import MethodNotAllowed
from boltseal.server.api.http_application import READS, HttpApplication
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.registry.readiness import Readiness

HEALTH_PATH: Final = "/healthz"
READY_PATH: Final = "/readyz"


class HealthEndpoints(HttpApplication):
    """Serves the two health endpoints. `ready`: called for each request of /readyz."""

    def __init__(self, observer: RequestLog, ready: Callable[[], Awaitable[Readiness]]) -> None:
        super().__init__(observer)
        self._ready = ready

    async def _respond(self, request: Request) -> Response:
        wants_readiness = request.scope["path"] == READY_PATH
        request.route = READY_PATH if wants_readiness else HEALTH_PATH
        if request.method not in READS:
            raise MethodNotAllowed(f"{quote(request.method, 20)} is not allowed here; allowed: GET, HEAD", "GET, HEAD")
        if not wants_readiness:
            return responses.with_body(b"ok\n", responses.TEXT)
        readiness = await self._ready()
        body: dict[str, object] = {"ready": not readiness.blockers}
        if readiness.blockers:
            body["reasons"] = readiness.blockers
        if readiness.notes:
            body["warnings"] = readiness.notes
        return responses.with_body(json.dumps(body).encode(), status=503 if readiness.blockers else 200)

    def _error_headers(self, _: Request, __: BoltsealError) -> Headers:
        return ()
