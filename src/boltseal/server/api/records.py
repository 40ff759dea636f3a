"""Records of images over HTTP: writes them to the ledger and lists them.

    POST /v2/<name>/_boltseal/records       needs the right to push
    {"kind": "built" | "rebuild.requested" | "released", "digest": "sha256:...",
     "tag": "1.4.2", "reason": "...", "extra": {"base.digest": "sha256:...", ...}}
    201 {"index": 123}

    GET /v2/<name>/_boltseal/records?after=<index>&n=<number>       needs the right to pull
    {"size": ..., "entries": [{"index": ..., "line": ...}]}

`tag`, `reason` and `extra` are optional; unknown keys are refused. The registry checks that the image exists and that
the tag resolves or resolved to it. Everything else is a claim of the client.
"""

from __future__ import annotations

import json
from typing import ClassVar, Final

import msgspec

from boltseal.errors import ErrorCode, Invalid, quote
from boltseal.ledger.entry import RECORDS, EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.jsontext import decode
from boltseal.oci.reference import Tag
from boltseal.server.api import responses
from boltseal.server.api.history import entries_response, page_parameters
from boltseal.server.api.paths import RecordsTarget
from boltseal.server.api.pipeline_pushes import PipelinePushes
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.registry.ledger import Ledger
from boltseal.server.registry.records import LedgerRecord, RecordInvalid, Records

MAX_BODY_BYTES: Final = 64 * 1024
JSON_TYPE: Final = "application/json"


class NotJson(Invalid):
    """The content type is not JSON. A web page of another site cannot send JSON without a preflight request (CSRF)."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


class _RecordBody(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON body of a new record."""

    kind: str
    digest: str
    tag: str | None = None
    reason: str = ""
    extra: dict[str, str] = {}


async def json_body(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """Return the body of a request whose content type must be JSON, at most `limit` bytes. Raises: NotJson, TooLarge."""
    if (request.header(b"content-type") or "").partition(";")[0].strip().lower() != JSON_TYPE:
        raise NotJson(f"the content type must be {JSON_TYPE}")
    return await request.read_body(limit)


class RecordRoutes:
    """The handlers of `RecordsTarget`."""

    def __init__(self, records: Records, ledger: Ledger, pipeline_pushes: PipelinePushes) -> None:
        self._records = records
        self._ledger = ledger
        self._pipeline_pushes = pipeline_pushes

    async def add(self, request: Request, target: RecordsTarget) -> Response:
        """Add one record."""
        record = _parse(await json_body(request))
        await self._pipeline_pushes.check(request, target.repository, () if record.tag is None else (record.tag,))
        index = await self._records.record(target.repository, record, request.actor)
        body = json.dumps({"index": index}).encode()
        return Response(201, responses.headers([("content-type", JSON_TYPE), ("content-length", str(len(body)))]), body)

    async def list(self, request: Request, target: RecordsTarget) -> Response:
        """List the records of a repository, oldest first."""
        n, after = page_parameters(request)
        page = await self._ledger.history(target.repository, None, after=after, n=n, kinds=RECORDS)
        return entries_response(page, f"/v2/{target.repository}/_boltseal/records", n)


def _parse(raw: bytes) -> LedgerRecord:
    try:
        fields = decode(raw, _RecordBody)
    except ValueError as error:
        raise RecordInvalid(f"cannot read the record: {error}") from error
    try:
        kind = EntryKind(fields.kind)
    except ValueError:
        raise RecordInvalid(f"kind is {quote(fields.kind)}; expected {', '.join(sorted(RECORDS))}") from None
    tag = None if fields.tag is None else Tag(fields.tag)
    return LedgerRecord(kind, Digest.parse(fields.digest), tag, fields.reason, fields.extra)
