"""The API for administrators, under /api/v1/: accept a change of an upstream's tag that is held back.

    POST /api/v1/accept       needs the right `admin` in the repository
    {"repository": "docker.io/library/node", "tag": "16.13", "digest": "sha256:...", "reason": "..."}
    200 {"repository": ..., "tag": ..., "digest": ..., "was": ..., "entry": 17}

`digest` and `reason` are optional. With `digest` only that digest is accepted (412 otherwise). The content type must be
JSON: a web page of another site cannot send that without a preflight request (CSRF).
"""

from __future__ import annotations

import json
from typing import ClassVar, Final

import msgspec

from boltseal.errors import BoltsealError, ErrorCode, Invalid, Unauthenticated, quote
from boltseal.oci.digest import Digest
from boltseal.oci.jsontext import decode
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.grants import Action
from boltseal.server.api import responses
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.errors import MethodNotAllowed, RegistryReadOnly, RouteUnknown
from boltseal.server.api.http_application import HttpApplication, path_text
from boltseal.server.api.records import json_body
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.api.settings import ApiSettings
from boltseal.server.registry.observations import Observations
from boltseal.server.storage.metadata.move_fence import DataMoved

PREFIX: Final = "/api/v1/"


class RequestInvalid(Invalid):
    """The body is not a valid request."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


class _Accept(msgspec.Struct, forbid_unknown_fields=True):
    repository: str
    tag: str
    digest: str | None = None
    reason: str = ""


class AdminApi(HttpApplication):
    """Serves the admin API."""

    def __init__(
        self, observer: RequestLog, observations: Observations, auth: RequestAuth, settings: ApiSettings
    ) -> None:
        super().__init__(observer)
        self._observations = observations
        self._auth = auth
        self._settings = settings

    def _error_headers(self, _: Request, error: BoltsealError) -> Headers:
        basic = (b"www-authenticate", b'Basic realm="boltseal", charset="UTF-8"')
        return (basic,) if isinstance(error, Unauthenticated) else ()

    async def _respond(self, request: Request) -> Response:
        if request.scope["path"] != f"{PREFIX}accept" or b"%" in request.scope["raw_path"]:
            raise RouteUnknown(f"unknown path {quote(path_text(request.scope))}; the admin API has {PREFIX}accept")
        request.route = f"{PREFIX}accept"
        if request.method != "POST":
            raise MethodNotAllowed("method not allowed; use POST", "POST")
        body = await json_body(request)
        try:
            fields = decode(body, _Accept)
        except ValueError as error:
            raise RequestInvalid(f"cannot read the request: {error}") from error
        repository, tag = Repository(fields.repository), Tag(fields.tag)
        digest = None if fields.digest is None else Digest.parse(fields.digest)
        request.caller = await self._auth.recognise(request, request.header(b"authorization"))
        request.actor = self._auth.access.check(request.caller, repository, Action.ADMIN)
        moved = self._settings.moved()
        if moved is not None:
            raise DataMoved(moved)
        read_only = self._settings.read_only()
        if read_only is not None:
            raise RegistryReadOnly(read_only, "GET, HEAD")
        accepted = await self._observations.accept(repository, tag, digest, request.actor, fields.reason)
        serves = None if accepted.now is None else accepted.now.known.serves
        before = None if accepted.before is None else accepted.before.serves
        return responses.with_body(
            json.dumps(
                {
                    "repository": repository,
                    "tag": tag,
                    "digest": None if serves is None else str(serves.digest),
                    "was": None if before is None else str(before.digest),
                    "entry": None if accepted.now is None else accepted.now.entry,
                }
            ).encode()
        )
