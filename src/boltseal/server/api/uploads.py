"""Uploads over HTTP: end-4a, 4b, 4c and 11 (POST), end-5 (PATCH), end-6 (PUT), end-13 (GET), end-14 (DELETE).

    POST   /v2/<name>/blobs/uploads/                 202  a session
    POST   ...?mount=<digest>[&from=<name>]          201  another repository has the blob; otherwise 202
    POST   ...?digest=<digest>            + bytes    201  the whole blob at once
    POST   ...?digest-algorithm=<name>               202  a session for a digest of this algorithm
    PATCH  <session>   [Content-Range]    + bytes    202  bytes so far
    PUT    <session>?digest=<digest>     [+ bytes]   201  the blob
    GET    <session>                                 204  bytes so far
    DELETE <session>                                 204  cancelled

A chunk with a Content-Range that does not continue the session is refused (416), and nothing has changed. `Range` in a
response is what the session has. The registry and the store do hashing, ordering and durable writes.
"""

from __future__ import annotations

from typing import ClassVar

from boltseal.errors import BoltsealError, ErrorCode, Invalid, NotFound, RangeInvalid
from boltseal.oci.digest import Digest, hasher
from boltseal.oci.reference import NameInvalid, Repository
from boltseal.server.api import responses
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.errors import ClientGone
from boltseal.server.api.locations import Locations
from boltseal.server.api.paths import UploadsTarget, UploadTarget
from boltseal.server.api.ranges import parse_content_range, upload_range
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response, refusal
from boltseal.server.auth.actor import Actor
from boltseal.server.registry.uploads import UploadManager as RegistryUploads
from boltseal.server.storage.blobs.protocol import UploadId


class DigestMissing(Invalid):
    """The request that finishes an upload has no digest."""

    code: ClassVar[ErrorCode | None] = ErrorCode.DIGEST_INVALID


class UploadRoutes:
    """The handlers of `UploadsTarget` and `UploadTarget`."""

    def __init__(self, uploads: RegistryUploads, locations: Locations, auth: RequestAuth) -> None:
        self._uploads = uploads
        self._locations = locations
        self._auth = auth

    async def start(self, request: Request, target: UploadsTarget) -> Response:
        """Begin an upload, mount a blob, or do the whole upload in one request."""
        mount, digest = request.query.value("mount"), request.query.value("digest")
        algorithm = request.query.value("digest-algorithm")
        if algorithm is not None:
            hasher(algorithm)  # raises for an unsupported algorithm before bytes are sent
        if mount is not None:
            wanted = Digest.parse(mount)
            if await self._mount(request, target.repository, wanted, request.query.value("from")):
                return self._created(target.repository, wanted)
        elif digest is not None:
            return await self._all_at_once(request, target.repository, Digest.parse(digest))
        upload = await self._uploads.start(target.repository, request.actor, request.network)
        return Response(202, (*self._session(target.repository, upload, 0), *responses.EMPTY))

    async def append(self, request: Request, target: UploadTarget) -> Response:
        """Append a chunk."""
        try:
            start, length = _chunk_position(request)
            size = await self._uploads.append(target.repository, target.id, start, length, request.body, request.actor)
        except RangeInvalid as error:
            return await self._range_refusal(request, target, error)
        return Response(202, (*self._session(target.repository, target.id, size), *responses.EMPTY))

    async def finish(self, request: Request, target: UploadTarget) -> Response:
        """Finish the upload with its digest, and with its last bytes if the body has them."""
        text = request.query.value("digest")
        if text is None:
            raise DigestMissing("the digest is missing; finish an upload with ?digest=<digest>")
        digest = Digest.parse(text)
        try:
            start, length = _chunk_position(request)
            await self._uploads.finish(target.repository, target.id, digest, start, length, request.body, request.actor)
        except RangeInvalid as error:
            return await self._range_refusal(request, target, error)
        return self._created(target.repository, digest)

    async def status(self, request: Request, target: UploadTarget) -> Response:
        """Return how many bytes the session has."""
        size = await self._uploads.status(target.repository, target.id, request.actor)
        return Response(204, self._session(target.repository, target.id, size))

    async def cancel(self, request: Request, target: UploadTarget) -> Response:
        """Cancel the session and delete its bytes."""
        await self._uploads.cancel(target.repository, target.id, request.actor)
        return Response(204, ())

    async def _range_refusal(self, request: Request, target: UploadTarget, error: RangeInvalid) -> Response:
        """Return the refusal of a misplaced chunk, with the state of the session so that the client can continue."""
        size = await self._uploads.status(target.repository, target.id, request.actor)
        return refusal(error, self._session(target.repository, target.id, size))

    async def _mount(self, request: Request, repository: Repository, wanted: Digest, source: str | None) -> bool:
        """Mount the blob from `source`, or from any repository that the caller may pull. Return whether it was found.

        An invalid name, and a repository that the caller may not read, have no blobs for this caller.
        """
        try:
            from_repository = None if source is None else Repository(source)
        except NameInvalid:
            return False
        return await self._uploads.mount(
            repository,
            wanted,
            from_repository,
            may_read=lambda name: self._auth.may_pull(request, name),
            actor=request.actor,
        )

    async def _all_at_once(self, request: Request, repository: Repository, digest: Digest) -> Response:
        length = request.content_length()
        upload = await self._uploads.start(repository, request.actor, request.network)
        try:
            await self._uploads.finish(repository, upload, digest, None, length, request.body, request.actor)
        except (BoltsealError, ClientGone):
            await self._discard(repository, upload, request.actor)
            raise
        return self._created(repository, digest)

    async def _discard(self, repository: Repository, upload: UploadId, actor: Actor) -> None:
        """Cancel a session whose ID no client knows."""
        try:
            await self._uploads.cancel(repository, upload, actor)
        except NotFound:
            return

    def _session(self, repository: Repository, upload: UploadId, size: int) -> Headers:
        return responses.headers(
            [
                ("location", self._locations.upload(repository, upload)),
                ("range", upload_range(size)),
                ("docker-upload-uuid", upload),
            ]
        )

    def _created(self, repository: Repository, digest: Digest) -> Response:
        pairs = [
            ("location", self._locations.blob(repository, digest)),
            ("docker-content-digest", str(digest)),
            ("content-length", "0"),
        ]
        return Response(201, responses.headers(pairs))


def _chunk_position(request: Request) -> tuple[int | None, int | None]:
    """Return the declared start and length of the body. Raises: RangeInvalid, LengthInvalid."""
    length = request.content_length()
    chunk = parse_content_range(request.header(b"content-range"), length)
    return (None, length) if chunk is None else (chunk.start, chunk.length)
