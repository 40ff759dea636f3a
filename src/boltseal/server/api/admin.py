"""What admins do to tags over HTTP, under /api/v1/: today, to accept what is held of an upstream's tag.

    POST /api/v1/accept       needs the right `admin` in the repository
    {"repository": "docker.io/library/node", "tag": "16.13", "digest": "sha256:...", "reason": "..."}
    200 {"repository": ..., "tag": ..., "digest": ..., "was": ..., "entry": 17}

`digest` and `reason` may be left out; with a digest only that is accepted (412 otherwise). A body has to be called JSON: a
page in somebody's browser can't send one that is, unasked.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from boltseal.errors import BoltsealError, ErrorCode, Invalid, Unauthenticated, quote
from boltseal.oci.digest import Digest
from boltseal.oci.jsontext import decode
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.grants import Action
from boltseal.server.api import responses
from boltseal.server.api.errors import MethodNotAllowed, RouteUnknown
from boltseal.server.api.http_application import HttpApplication, shown
from boltseal.server.api.records import json_body
from boltseal.server.api.responses import Headers, Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from boltseal.server.api.access_log import RequestLog
    from boltseal.server.api.auth import RequestAuth
    from boltseal.server.api.request import Request
    from boltseal.server.registry.observations import Observations

PREFIX: Final = "/api/v1/"


class RequestInvalid(Invalid):
    """A body that is not what is expected."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


class _Accept(msgspec.Struct, forbid_unknown_fields=True):
    repository: str
    tag: str
    digest: str | None = None
    reason: str = ""


class AdminApi(HttpApplication):
    """The endpoints. `read_only`: why nothing may be changed now, or None."""

    def __init__(
        self, observer: RequestLog, observations: Observations, gate: RequestAuth, read_only: Callable[[], str | None]
    ) -> None:
        super().__init__(observer)
        self._observations = observations
        self._gate = gate
        self._read_only = read_only

    def _extra(self, _: Request, error: BoltsealError) -> Headers:
        basic = (b"www-authenticate", b'Basic realm="boltseal", charset="UTF-8"')
        return (basic,) if isinstance(error, Unauthenticated) else ()

    async def _answer(self, call: Request) -> Response:
        call.route = "Admin"
        if call.scope["path"] != f"{PREFIX}accept" or b"%" in call.scope["raw_path"]:
            raise RouteUnknown(f"{quote(shown(call.scope))} is nothing this registry has")
        if call.method != "POST":
            raise MethodNotAllowed("something is accepted with POST", "POST")
        body = await json_body(call, "a request")
        try:
            asked = decode(body, _Accept)
        except ValueError as error:
            raise RequestInvalid(f"not a request to accept something: {error}") from error
        repository, tag = Repository(asked.repository), Tag(asked.tag)
        digest = None if asked.digest is None else Digest.parse(asked.digest)
        call.caller = await self._gate.recognise(call, call.header(b"authorization"))
        call.actor = self._gate.access.check(call.caller, repository, Action.ADMIN)
        read_only = self._read_only()
        if read_only is not None:
            raise MethodNotAllowed(read_only, "GET, HEAD")
        noted = await self._observations.accept(repository, tag, digest, call.actor, asked.reason)
        serves = None if noted.now is None else noted.now.known.serves
        before = None if noted.before is None else noted.before.serves
        return responses.whole(
            json.dumps(
                {
                    "repository": repository,
                    "tag": tag,
                    "digest": None if serves is None else str(serves.digest),
                    "was": None if before is None else str(before.digest),
                    "entry": None if noted.now is None else noted.now.entry,
                }
            ).encode()
        )
