"""`GET /healthz`: this process answers. `GET /readyz`: it can serve, or the reasons why it can't, one sentence each.

Both are for load balancers and supervisors, and for everybody: no login, and nothing of what is stored.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from boltseal.errors import BoltsealError, quote
from boltseal.server.api import responses
from boltseal.server.api.errors import MethodNotAllowed
from boltseal.server.api.http_application import READS, HttpApplication
from boltseal.server.api.responses import Headers, Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from boltseal.server.api.access_log import RequestLog
    from boltseal.server.api.request import Request
    from boltseal.server.registry.readiness import Readiness

HEALTH_PATH: Final = "/healthz"
READY_PATH: Final = "/readyz"


class HealthEndpoints(HttpApplication):
    """The two endpoints. `ready`: asked at each look."""

    def __init__(self, observer: RequestLog, ready: Callable[[], Awaitable[Readiness]]) -> None:
        super().__init__(observer)
        self._ready = ready

    async def _answer(self, call: Request) -> Response:
        at_ready = call.scope["path"] == READY_PATH
        call.route = "Ready" if at_ready else "Health"
        if call.method not in READS:
            raise MethodNotAllowed(f"{quote(call.method, 20)} is not possible here; possible: GET, HEAD", "GET, HEAD")
        if not at_ready:
            return responses.whole(b"ok\n", responses.TEXT)
        found = await self._ready()
        told: dict[str, object] = {"ready": not found.blockers}
        if found.blockers:
            told["reasons"] = found.blockers
        if found.notes:
            told["warnings"] = found.notes
        return responses.whole(json.dumps(told).encode(), status=503 if found.blockers else 200)

    def _extra(self, _: Request, __: BoltsealError) -> Headers:
        return ()
