"""Blobs over HTTP: end-2 (GET, HEAD, ranges) and end-10 (DELETE).

Every request checks that the repository has the blob; only then may the bytes come from memory. All blobs are sent as
`application/octet-stream` with nosniff. Small blobs are cached in memory and larger ones are files that the server
sends (figures: docs/adr/0001-granian-asgi-starlette.md). Ranges and stores without files are streamed, or GET requests for
large blobs are redirected to the store, if the settings say so.
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
"""Up to this size a blob is sent from memory; above it, sendfile or a stream is faster."""

SMALL_CACHE_BYTES: Final = 32 * 1024 * 1024

_MAX_CACHED_HEADERS: Final = 4096

_log = structlog.get_logger(__name__)


class BytesLost(NotFound):
    """The bytes of a blob are missing or damaged in the store.

    This is a 404, also for HEAD, so that a client pushes the blob again, which repairs it.
    """

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UNKNOWN


class BlobRoutes:
    """The handlers of `BlobTarget`."""

    def __init__(self, pulls: Pulls, deletes: Deletes, settings: ApiSettings) -> None:
        self._pulls = pulls
        self._deletes = deletes
        self._cache_control = caching.by_digest(anonymous_pull=settings.anonymous_pull)
        self._headers = lru_cache(_MAX_CACHED_HEADERS)(self._build_headers)
        self._small = _BlobCache(SMALL_CACHE_BYTES)

    async def get(self, request: Request, target: BlobTarget) -> Response:
        """Return the blob or a range of it; 304 if `If-None-Match` matches."""
        found = await self._pulls.blob(target.repository, target.digest)
        digest = str(found.digest)
        full, partial = self._headers(digest, found.size)
        if_none_match = request.header(b"if-none-match")
        if if_none_match is not None and not_modified(if_none_match, digest):
            return Response(304, partial)
        small = self._small.get(digest)
        if small is None:
            _check_file(found)
        if request.method == "HEAD":
            if small is None and found.path is None and not await self._pulls.has_bytes(found):
                raise _lost(found, "missing or damaged")
            return Response(200, full)
        address = await self._address(found) if small is None else None
        if address is not None:
            return _elsewhere(address)
        range_header = request.header(b"range")
        if range_header is not None and range_applies(request.header(b"if-range"), digest):
            part = parse_range(range_header, found.size)
            if part is not None:
                return await self._partial(found, part, partial)
        return await self._whole(request, found, full, small)

    async def _whole(self, request: Request, found: BlobAnswer, full: Headers, small: bytes | None) -> Response:
        if small is not None:
            return Response(200, full, small)
        if found.size <= SMALL_BYTES:
            return Response(200, full, await self._read_small(found))
        if found.path is not None and "http.response.pathsend" in request.scope.get("extensions", ()):
            return FileResponse(200, full, found.path)
        return await stream(200, full, self._pulls.read_blob(found.digest, 0, found.size), found.size)

    async def _address(self, found: BlobAnswer) -> str | None:
        """Return a signed address for the GET of a large blob, None if its bytes are to be sent."""
        if found.path is not None or found.size <= SMALL_BYTES:
            return None
        return await self._pulls.redirect_url(found.digest)

    async def arriving(self, size: int, digest: str, chunks: AsyncIterator[bytes]) -> Response:
        """Return a response for a blob that is still being fetched; its digest is verified only with the last chunk."""
        full, _ = self._headers(digest, size)
        return await stream(200, full, chunks, size)

    async def delete(self, request: Request, target: BlobTarget) -> Response:
        """Remove the blob from this repository. Refused with 405 if a sealed tag needs it."""
        await self._deletes.blob(target.repository, target.digest, request.actor)
        return Response(202, responses.EMPTY)

    async def _partial(self, found: BlobAnswer, part: ByteRange, common: Headers) -> Response:
        range_headers = responses.headers(
            [("content-length", str(part.length)), ("content-range", part.content_range(found.size))]
        )
        chunks = self._pulls.read_blob(found.digest, part.start, part.length)
        return await stream(206, range_headers + common, chunks, part.length)

    async def _read_small(self, found: BlobAnswer) -> bytes:
        """Read a blob into the cache. Raises: BytesLost: other bytes, which the cache would return after their repair too."""
        raw = b"".join([chunk async for chunk in self._pulls.read_blob(found.digest, 0, found.size)])
        hasher = found.digest.hasher()
        hasher.update(raw)
        if hasher.hexdigest() != found.digest.hex:
            raise _lost(found, "damaged (other bytes)")
        self._small.put(str(found.digest), raw)
        return raw

    def _build_headers(self, digest: str, size: int) -> tuple[Headers, Headers]:
        """Return the headers of the whole blob, and those of a 304 or a partial response."""
        common = responses.headers(
            [
                ("content-type", "application/octet-stream"),
                ("docker-content-digest", digest),
                ("etag", f'"{digest}"'),
                ("cache-control", self._cache_control),
                ("accept-ranges", "bytes"),
            ]
        )
        return ((b"content-length", b"%d" % size), *common, responses.NOSNIFF), (*common, responses.NOSNIFF)


def _check_file(found: BlobAnswer) -> None:
    """Check the size of the file before a Content-Length is sent. Raises: BytesLost.

    Only regular files are accepted: for a link the kernel would send the target.
    """
    if found.path is None:
        return
    try:
        status = os.lstat(found.path)  # a Path would cost half of the time of a blob response
    except FileNotFoundError:
        size = -1
    else:
        size = status.st_size if stat.S_ISREG(status.st_mode) else -1
    if size != found.size:
        state = "missing" if size < 0 else f"damaged ({size} bytes instead of {found.size})"
        raise _lost(found, state)


def _lost(found: BlobAnswer, state: str) -> BytesLost:
    _log.error("blob damaged", digest=str(found.digest), state=state)
    return BytesLost(f"blob {found.digest} is {state} in the store; push it again to repair it")


def _elsewhere(address: str) -> Response:
    """Return the redirect to a signed address, which nothing may keep and no log may show."""
    return Response(
        307, responses.headers([("location", address), ("content-length", "0"), ("cache-control", caching.NO_STORE)])
    )


class _BlobCache:
    """The most recently requested blobs by digest, up to a total size in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size_bytes = 0
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
        self._size_bytes += len(raw)
        while self._size_bytes > self._limit:
            self._size_bytes -= len(self._bytes.popitem(last=False)[1])
