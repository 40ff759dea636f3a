"""Uploads over HTTP: end-4a, 4b, 4c and 11 (POST), end-5 (PATCH), end-6 (PUT), end-13 (GET), end-14 (DELETE).

    POST   /v2/<name>/blobs/uploads/                 202  a session
    POST   ...?mount=<digest>[&from=<name>]          201  held by another repository too: no bytes needed; else 202
    POST   ...?digest=<digest>            + bytes    201  the whole blob at once
    POST   ...?digest-algorithm=<name>               202  a session that will end with such a digest
    PATCH  <session>   [Content-Range]    + bytes    202  bytes so far
    PUT    <session>?digest=<digest>     [+ bytes]   201  the blob
    GET    <session>                                 204  bytes so far
    DELETE <session>                                 204  forgotten

Rules kept here: a chunk that says where it belongs is refused (416) unless it belongs there, and then nothing has
changed; `Range` in an answer is what the session holds. Hashing, order and durability are the registry's and the
store's.
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
from boltseal.server.api.ranges import held, parse_content_range
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response, refusal
from boltseal.server.registry.uploads import UploadManager as RegistryUploads
from boltseal.server.storage.blobs.protocol import UploadId


class DigestMissing(Invalid):
    """An upload can't end without the digest that its bytes must have."""

    code: ClassVar[ErrorCode | None] = ErrorCode.DIGEST_INVALID


class UploadRoutes:
    """The handlers of `Uploads` and `UploadTarget`."""

    def __init__(self, uploads: RegistryUploads, locations: Locations, gate: RequestAuth) -> None:
        self._uploads = uploads
        self._locations = locations
        self._gate = gate

    async def start(self, call: Request, at: UploadsTarget) -> Response:
        """Begins an upload, or makes it unnecessary (mount), or does all of it at once."""
        mount, digest = call.query.one("mount"), call.query.one("digest")
        algorithm = call.query.one("digest-algorithm")
        if algorithm is not None:
            hasher(algorithm)  # refuses one that no digest could be checked with at the end
        if mount is not None:
            wanted = Digest.parse(mount)
            if await self._mount(call, at.repository, wanted, call.query.one("from")):
                return self._created(at.repository, wanted)
        elif digest is not None:
            return await self._all_at_once(call, at.repository, Digest.parse(digest))
        upload = await self._uploads.start(at.repository, call.actor, call.network)
        return Response(202, (*self._session(at.repository, upload, 0), *responses.EMPTY))

    async def append(self, call: Request, at: UploadTarget) -> Response:
        """Adds a chunk."""
        try:
            start, length = _place(call)
            size = await self._uploads.append(at.repository, at.id, start, length, call.body, call.actor)
        except RangeInvalid as error:
            return await self._misplaced(at, error)
        return Response(202, (*self._session(at.repository, at.id, size), *responses.EMPTY))

    async def finish(self, call: Request, at: UploadTarget) -> Response:
        """Ends the upload with the digest its bytes must have, and the last of them if they come along."""
        text = call.query.one("digest")
        if text is None:
            raise DigestMissing("an upload ends with ?digest=<digest>; this request has none")
        digest = Digest.parse(text)
        try:
            start, length = _place(call)
            await self._uploads.finish(at.repository, at.id, digest, start, length, call.body, call.actor)
        except RangeInvalid as error:
            return await self._misplaced(at, error)
        return self._created(at.repository, digest)

    async def status(self, call: Request, at: UploadTarget) -> Response:
        """How many bytes the session holds."""
        size = await self._uploads.status(at.repository, at.id)
        return Response(204, self._session(at.repository, at.id, size))

    async def cancel(self, call: Request, at: UploadTarget) -> Response:
        """Forgets the session and its bytes."""
        await self._uploads.cancel(at.repository, at.id)
        return Response(204, ())

    async def _misplaced(self, at: UploadTarget, error: RangeInvalid) -> Response:
        """The refusal of a chunk that does not fit, with what the session holds, so that the client can go on."""
        size = await self._uploads.status(at.repository, at.id)
        return refusal(error, self._session(at.repository, at.id, size))

    async def _mount(self, call: Request, repository: Repository, wanted: Digest, source: str | None) -> bool:
        """Whether the blob could be had from `source`, or from anywhere that the caller may pull.

        A name that can't be one has no blobs, and one that the caller may not read has none for them.
        """
        try:
            named = None if source is None else Repository(source)
        except NameInvalid:
            return False
        return await self._uploads.mount(
            repository, wanted, named, may_read=lambda name: self._gate.may_pull(call, name), actor=call.actor
        )

    async def _all_at_once(self, call: Request, repository: Repository, digest: Digest) -> Response:
        length = call.content_length()
        upload = await self._uploads.start(repository, call.actor, call.network)
        try:
            await self._uploads.finish(repository, upload, digest, None, length, call.body, call.actor)
        except (BoltsealError, ClientGone):
            await self._forget(repository, upload)
            raise
        return self._created(repository, digest)

    async def _forget(self, repository: Repository, upload: UploadId) -> None:
        """Drops a session that nobody was told of."""
        try:
            await self._uploads.cancel(repository, upload)
        except NotFound:
            return

    def _session(self, repository: Repository, upload: UploadId, size: int) -> Headers:
        return responses.headers(
            [
                ("location", self._locations.upload(repository, upload)),
                ("range", held(size)),
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


def _place(call: Request) -> tuple[int | None, int | None]:
    """Where the body says it begins, and how long it says it is. RangeInvalid, LengthInvalid."""
    length = call.content_length()
    chunk = parse_content_range(call.header(b"content-range"), length)
    return (None, length) if chunk is None else (chunk.start, chunk.length)
