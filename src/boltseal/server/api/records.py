"""Records of images over HTTP: what is said of them goes into the ledger, and is listed from it.

    POST /v2/<name>/_boltseal/records       needs the right to push there
    {"kind": "built" | "rebuild.requested" | "released", "digest": "sha256:...",
     "tag": "1.4.2", "reason": "...", "extra": {"base.digest": "sha256:...", ...}}
    201 {"index": 123}

    GET /v2/<name>/_boltseal/records?after=<index>&n=<number>       needs the right to pull
    {"size": ..., "entries": [{"index": ..., "line": ...}]}

`tag`, `reason` and `extra` may be left out; a key that is none of these is refused. The registry checks that the image is
there and that the tag means it, or meant it; what else is said is said by whoever sent it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from boltseal.errors import ErrorCode, Invalid, quote
from boltseal.ledger.entry import RECORDS, EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.jsontext import decode
from boltseal.oci.reference import Tag
from boltseal.server.api import responses
from boltseal.server.api.history import asked_page, entries_answer
from boltseal.server.api.responses import Response
from boltseal.server.registry.records import LedgerRecord, RecordInvalid

if TYPE_CHECKING:
    from boltseal.server.api.paths import RecordsTarget
    from boltseal.server.api.request import Request
    from boltseal.server.registry.ledger import Ledger
    from boltseal.server.registry.records import Records

MAX_BODY_BYTES: Final = 64 * 1024
JSON_TYPE: Final = "application/json"


class NotJson(Invalid):
    """A body that is not said to be JSON; a page in somebody's browser can't send one that is, unasked."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


class _Said(msgspec.Struct, forbid_unknown_fields=True):
    """The body, as it is sent."""

    kind: str
    digest: str
    tag: str | None = None
    reason: str = ""
    extra: dict[str, str] = {}


async def json_body(call: Request, what: str) -> bytes:
    """The body of a request that has to be called JSON. NotJson, TooLarge."""
    if (call.header(b"content-type") or "").partition(";")[0].strip().lower() != JSON_TYPE:
        raise NotJson(f"{what} is sent as {JSON_TYPE}")
    return await call.document(MAX_BODY_BYTES)


class RecordRoutes:
    """The handlers of `RecordsTarget`."""

    def __init__(self, records: Records, ledger: Ledger) -> None:
        self._records = records
        self._ledger = ledger

    async def add(self, call: Request, at: RecordsTarget) -> Response:
        """Take one record in."""
        said = _parse(await json_body(call, "a record"))
        index = await self._records.record(at.repository, said, call.actor)
        body = json.dumps({"index": index}).encode()
        return Response(201, responses.headers([("content-type", JSON_TYPE), ("content-length", str(len(body)))]), body)

    async def listed(self, call: Request, at: RecordsTarget) -> Response:
        """What was said of the repository's images, the oldest first."""
        n, after = asked_page(call)
        page = await self._ledger.history(at.repository, None, after=after, n=n, kinds=RECORDS)
        return entries_answer(page, f"/v2/{at.repository}/_boltseal/records", n)


def _parse(raw: bytes) -> LedgerRecord:
    try:
        said = decode(raw, _Said)
    except ValueError as error:
        raise RecordInvalid(f"not a record: {error}") from error
    try:
        kind = EntryKind(said.kind)
    except ValueError:
        raise RecordInvalid(f"kind is {quote(said.kind)}; expected {', '.join(sorted(RECORDS))}") from None
    tag = None if said.tag is None else Tag(said.tag)
    return LedgerRecord(kind, Digest.parse(said.digest), tag, said.reason, said.extra)
