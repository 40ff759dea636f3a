"""Blobs over HTTP: end-2 (GET, HEAD, ranges) and end-10 (DELETE).

Rules kept here: the repository is asked on every request whether it holds the blob, and only then may bytes come
from memory; what a blob's bytes are is nobody's guess (`application/octet-stream`, nosniff). Small blobs are kept
in memory, larger ones are files that the server sends by itself (docs/adr/0001-granian-asgi-starlette.md has the
figures), ranges and stores without files are streamed.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import ClassVar, Final

import structlog

from boltseal.errors import ErrorCode, NotFound
from boltseal.server.api import caching, responses
from boltseal.server.api.conditional_requests import not_modified, range_applies
from boltseal.server.api.paths import BlobTarget
from boltseal.server.api.ranges import ByteRange, parse_range
from boltseal.server.api.request import Request
from boltseal.server.api.responses import FileResponse, Headers, Response, stream
from boltseal.server.api.settings import ApiSettings
from boltseal.server.registry.deletes import Deletes
from boltseal.server.registry.models import BlobAnswer
from boltseal.server.registry.pulls import Pulls

SMALL_BYTES: Final = 256 * 1024
"""Up to here a blob is sent from memory; from here on the kernel or a stream is faster."""

SMALL_CACHE_BYTES: Final = 32 * 1024 * 1024

_HEADER_LISTS: Final = 4096

_log = structlog.get_logger(__name__)


class BytesLost(NotFound):
    """A blob that the repository should hold, and whose bytes are not what they were.

    A miss, not doubt, and to HEAD as well: a client that is told so pushes the blob again, which mends it.
    """

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UNKNOWN


class BlobRoutes:
    """The handlers of `BlobTarget`."""

    def __init__(self, pulls: Pulls, deletes: Deletes, settings: ApiSettings) -> None:
        self._pulls = pulls
        self._deletes = deletes
        self._cache_control = caching.by_digest(anonymous_pull=settings.anonymous_pull)
        self._headers = lru_cache(_HEADER_LISTS)(self._build_headers)
        self._small = _Recent(SMALL_CACHE_BYTES)

    async def get(self, call: Request, at: BlobTarget) -> Response:
        """The blob or a range of it; 304 to a reader whose `If-None-Match` says that it has it."""
        found = await self._pulls.blob(at.repository, at.digest)
        digest = str(found.digest)
        whole, about = self._headers(digest, found.size)
        known = call.header(b"if-none-match")
        if known is not None and not_modified(known, digest):
            return Response(304, about)
        small = self._small.get(digest)
        if small is None:
            _check_bytes(found)
        if call.method == "HEAD":
            return Response(200, whole)
        asked = call.header(b"range")
        if asked is not None and range_applies(call.header(b"if-range"), digest):
            part = parse_range(asked, found.size)
            if part is not None:
                return await self._part(found, part, about)
        if small is not None:
            return Response(200, whole, small)
        if found.size <= SMALL_BYTES:
            return Response(200, whole, await self._remember(found, digest))
        if found.path is not None and "http.response.pathsend" in call.scope.get("extensions", ()):
            return FileResponse(200, whole, found.path)
        return await stream(200, whole, self._pulls.read_blob(found.digest, 0, found.size), found.size)

    async def arriving(self, size: int, digest: str, pieces: AsyncIterator[bytes]) -> Response:
        """The answer that a blob is whose bytes are still on their way, and not proven before the last of them."""
        whole, _ = self._headers(digest, size)
        return await stream(200, whole, pieces, size)

    async def delete(self, call: Request, at: BlobTarget) -> Response:
        """Takes the blob from this repository, unless a seal protects it (405)."""
        await self._deletes.blob(at.repository, at.digest, call.actor)
        return Response(202, responses.EMPTY)

    async def _part(self, found: BlobAnswer, part: ByteRange, about: Headers) -> Response:
        place = responses.headers(
            [("content-length", str(part.length)), ("content-range", part.content_range(found.size))]
        )
        pieces = self._pulls.read_blob(found.digest, part.start, part.length)
        return await stream(206, place + about, pieces, part.length)

    async def _remember(self, found: BlobAnswer, digest: str) -> bytes:
        raw = b"".join([piece async for piece in self._pulls.read_blob(found.digest, 0, found.size)])
        self._small.put(digest, raw)
        return raw

    def _build_headers(self, digest: str, size: int) -> tuple[Headers, Headers]:
        """The headers of the whole blob, and those that go with a part of it or none."""
        about = responses.headers(
            [
                ("content-type", "application/octet-stream"),
                ("docker-content-digest", digest),
                ("etag", f'"{digest}"'),
                ("cache-control", self._cache_control),
                ("accept-ranges", "bytes"),
            ]
        )
        return ((b"content-length", b"%d" % size), *about, responses.NOSNIFF), (*about, responses.NOSNIFF)


def _check_bytes(found: BlobAnswer) -> None:
    """Holds the file against its row before anything is said about it: a length once sent is waited for. BytesLost.

    What is no plain file is no blob: a link put there would let the kernel send whatever it leads to.
    """
    if found.path is None:
        return
    try:
        there = os.lstat(found.path)  # half of what every blob answer costs would be the Path
    except FileNotFoundError:
        size = -1
    else:
        size = there.st_size if stat.S_ISREG(there.st_mode) else -1
    if size != found.size:
        state = "missing" if size < 0 else f"damaged ({size} bytes instead of {found.size})"
        _log.error("blob bytes lost", digest=str(found.digest), state=state)
        raise BytesLost(f"the bytes of blob {found.digest} are {state} in the store; pushing the blob again mends it")


class _Recent:
    """The bytes asked for most recently, by digest, up to a sum of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._bytes: OrderedDict[str, bytes] = OrderedDict()

    def get(self, digest: str) -> bytes | None:
        raw = self._bytes.get(digest)
        if raw is not None:
            self._bytes.move_to_end(digest)
        return raw

    def put(self, digest: str, raw: bytes) -> None:
        if digest in self._bytes:
            return
        self._bytes[digest] = raw
        self._held += len(raw)
        while self._held > self._limit:
            self._held -= len(self._bytes.popitem(last=False)[1])
