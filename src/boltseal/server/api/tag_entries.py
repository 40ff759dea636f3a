"""The entries that prove what tags resolve to, for many tags in one request.

    POST /ledger/tags                 of tags of this registry
    POST /ledger/observations/tags    of tags of its upstreams
    {"size": 4711, "tags": ["shop/app:1.4.2", ...]}
    200 {"size": 4711, "tags": [{"tag": "shop/app:1.4.2", "allowed": true,
         "entries": [{"index": 17, "line": "...", "proof": ["<base64>", ...]}]}]}

`size`: of a signed checkpoint that the client has checked; entries after it are not shown, and proofs are in its tree.
The tags are answered in the order of the request. Each needs the right to pull from its repository, which is decided
before anything is read. A tag without that right has `allowed` false and no entries, whether it exists or not.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import ClassVar, Final

import msgspec

from boltseal.errors import ErrorCode, Invalid
from boltseal.ledger.tag_proof import ShownEntry
from boltseal.oci.jsontext import decode
from boltseal.oci.reference import NameInvalid, Repository, Tag, TagInvalid
from boltseal.server.api import responses
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.records import json_body
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.auth.caller import LoginNeeded
from boltseal.server.registry.ledger import Ledger

MAX_TAGS: Final = 1000
MAX_BODY_BYTES: Final = 512 * 1024


class TagRequestInvalid(Invalid):
    """The body is not a valid list of tags."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
    size: int
    tags: list[str]


async def tag_entries(request: Request, ledger: Ledger, auth: RequestAuth) -> Response:
    """Return the entries of the requested tags. Raises: TagRequestInvalid, LoginNeeded, NotInLedger, TooLarge."""
    try:
        wanted = decode(await json_body(request, MAX_BODY_BYTES), _Wanted)
    except ValueError as error:
        raise TagRequestInvalid(f"cannot read the request: {error}") from error
    if len(wanted.tags) > MAX_TAGS:
        raise TagRequestInvalid(f"{len(wanted.tags)} tags are requested; at most {MAX_TAGS} are allowed at once")
    names = [_parse(text) for text in wanted.tags]
    await auth.admit_any(request)
    allowed = {repository: auth.may_pull(request, repository) for repository, _ in names}
    if request.header(b"authorization") is None and not all(allowed.values()):
        raise LoginNeeded("some of these tags need a login with the right to pull")
    shown = iter(await ledger.tags([name for name in names if allowed[name[0]]], wanted.size))
    answers = [
        {
            "tag": text,
            "allowed": allowed[repository],
            "entries": [_entry(one) for one in next(shown)] if allowed[repository] else [],
        }
        for text, (repository, _) in zip(wanted.tags, names, strict=True)
    ]
    return responses.with_body(json.dumps({"size": wanted.size, "tags": answers}, separators=(",", ":")).encode())


def _entry(shown: ShownEntry) -> dict[str, object]:
    proof = [b64encode(node).decode() for node in shown.proof]
    return {"index": shown.index, "line": shown.line.decode(errors="replace"), "proof": proof}


def _parse(text: str) -> tuple[Repository, Tag]:
    repository, _, tag = text.rpartition(":")
    try:
        return Repository(repository), Tag(tag)
    except (NameInvalid, TagInvalid) as error:
        raise TagRequestInvalid(f"expected tags such as shop/app:1.4.2: {error.message}") from error
