"""This registry as a witness over HTTP, under /witness/ (C2SP tlog-witness).

    POST /witness/add-checkpoint                  200: cosignature lines · 409: the size that was cosigned last · 400, 403, 404, 422
    GET  /witness/<SHA-256 of the origin>/checkpoint    the checkpoint that was cosigned last

No login is needed: the signature of a configured ledger is what lets a request change anything. Both show only what a ledger itself
publishes. The endpoint exists only where `[witness_service] logs` names ledgers.
"""

from __future__ import annotations

import re
from typing import Final

from boltseal.errors import BoltsealError, quote
from boltseal.ledger.cosigning import MAX_SUBMISSION_BYTES, NotConsistent, SizeDiffers
from boltseal.server.api import responses
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.errors import CheckpointRefused, MethodNotAllowed, RegistryReadOnly, RouteUnknown
from boltseal.server.api.http_application import READS, HttpApplication, path_text
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.registry.witness_service import WitnessService

PREFIX: Final = "/witness/"
ADD_CHECKPOINT: Final = f"{PREFIX}add-checkpoint"
SIZE_TYPE: Final = "text/x.tlog.size"
_is_origin_hash = re.compile(r"[0-9a-f]{64}").fullmatch


class WitnessServiceApi(HttpApplication):
    """Serves the witness. `read_only`: why no checkpoint is cosigned; None: they are."""

    def __init__(self, observer: RequestLog, service: WitnessService, *, read_only: str | None = None) -> None:
        super().__init__(observer)
        self._service = service
        self._read_only = read_only

    def _error_headers(self, _: Request, __: BoltsealError) -> Headers:
        return ()

    async def _respond(self, request: Request) -> Response:
        path: str = path_text(request.scope)
        if path == ADD_CHECKPOINT:
            request.route = ADD_CHECKPOINT
            if request.method != "POST":
                raise MethodNotAllowed("method not allowed; use POST", "POST")
            return await self._add_checkpoint(request)
        origin_hash, _, rest = path.removeprefix(PREFIX).partition("/")
        if rest != "checkpoint" or not _is_origin_hash(origin_hash):
            raise RouteUnknown(f"{quote(path)} is not a path of the witness")
        request.route = f"{PREFIX}{{origin}}/checkpoint"
        if request.method not in READS:
            raise MethodNotAllowed("method not allowed; use GET", "GET, HEAD")
        return responses.with_body(await self._service.latest(origin_hash), responses.TEXT)

    async def _add_checkpoint(self, request: Request) -> Response:
        if self._read_only is not None:
            raise RegistryReadOnly(self._read_only, "")
        body = await request.body.read(MAX_SUBMISSION_BYTES)
        try:
            lines = await self._service.add_checkpoint(body)
        except SizeDiffers as differs:
            return responses.with_body(f"{differs.size}\n".encode(), SIZE_TYPE, status=409)
        except NotConsistent as error:
            raise CheckpointRefused(error.message) from error
        return responses.with_body(lines, responses.TEXT)
