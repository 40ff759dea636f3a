"""Manifests over HTTP: end-3 (GET, HEAD), end-7a and 7b (PUT, also with `?tag=`), end-9 (DELETE).

Bytes are returned exactly as pushed, with the media type of the push without parameters, whatever `Accept` is (the spec
has no negotiation). A document over the limit is refused before it is read completely. Conditions are parsed strictly.
The registry decides whether a tag may move.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Final, TypeAlias

from boltseal.ledger.entry import format_time
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.server.api import caching, responses
from boltseal.server.api.conditional_requests import not_modified, write_conditions
from boltseal.server.api.errors import UriTooLong
from boltseal.server.api.locations import Locations
from boltseal.server.api.paths import ManifestTarget
from boltseal.server.api.pipeline_pushes import PipelinePushes
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.api.settings import ApiSettings
from boltseal.server.registry.deletes import Deletes
from boltseal.server.registry.manifests import Manifests
from boltseal.server.registry.models import ManifestAnswer, ManifestUpload, Published
from boltseal.server.registry.pulls import Pulls

MAX_TAGS: Final = 64
"""The maximum of `?tag=` parameters in one push; the spec requires at least ten."""

SETTLES_HEADER: Final = "boltseal-settles"
"""When the tag in the path is sealed; sent while it is settling."""

_MAX_CACHED_HEADERS: Final = 4096

Publish: TypeAlias = Callable[[ManifestUpload], Awaitable[Published]]


class ManifestRoutes:
    """The handlers of `ManifestTarget`."""

    def __init__(
        self,
        pulls: Pulls,
        manifests: Manifests,
        deletes: Deletes,
        locations: Locations,
        settings: ApiSettings,
        pipeline_pushes: PipelinePushes,
    ) -> None:
        self._pulls = pulls
        self._manifests = manifests
        self._deletes = deletes
        self._locations = locations
        self._pipeline_pushes = pipeline_pushes
        self._max_bytes = settings.max_manifest_bytes
        self._anonymous_pull = settings.anonymous_pull
        self._headers = lru_cache(_MAX_CACHED_HEADERS)(self._build_headers)

    async def get(self, request: Request, target: ManifestTarget) -> Response:
        """Return the manifest; 304 if `If-None-Match` matches."""
        return self.manifest_response(request, await self._pulls.manifest(target.repository, target.reference))

    def manifest_response(self, request: Request, found: ManifestAnswer) -> Response:
        """Return the response for a manifest that was found."""
        digest = str(found.digest)
        full, unchanged = self._headers(
            found.media_type, digest, found.size, found.sealed, found.by_digest, found.settles_us
        )
        if_none_match = request.header(b"if-none-match")
        if if_none_match is not None and not_modified(if_none_match, digest):
            return Response(304, unchanged)
        return Response(200, full, found.raw)

    async def put(self, request: Request, target: ManifestTarget, publish: Publish | None = None) -> Response:
        """Publish the body under a tag, a digest, or a digest and the tags of the query: all or none.

        `publish`: publishes the manifest; None: the registry.
        """
        tags = _tags(request)
        named = tags if isinstance(target.reference, Digest) else (target.reference, *tags)
        await self._pipeline_pushes.check(request, target.repository, named)
        conditions = write_conditions(request.header(b"if-none-match"), request.header(b"if-match"))
        raw = request.manifest = await request.read_body(self._max_bytes)
        upload = ManifestUpload(
            target.repository,
            target.reference,
            raw,
            request.header(b"content-type"),
            request.actor,
            extra_tags=tags,
            conditions=conditions,
        )
        published = await (publish or self._manifests.put)(upload)
        return Response(201, self._published(target, published, tags))

    async def delete(self, request: Request, target: ManifestTarget) -> Response:
        """Delete a tag, or a manifest with all its tags. Refused with 405 if a sealed tag needs it."""
        conditions = write_conditions(request.header(b"if-none-match"), request.header(b"if-match"))
        if isinstance(target.reference, Digest):
            await self._deletes.manifest(target.repository, target.reference, conditions, request.actor)
        else:
            await self._deletes.tag(target.repository, target.reference, conditions, request.actor)
        return Response(202, responses.EMPTY)

    def _build_headers(
        self, media_type: str, digest: str, size: int, sealed: bool, by_digest: bool, settles_us: int | None
    ) -> tuple[Headers, Headers]:
        """Return the headers of a 200 and of a 304. The result is cached."""
        cache_control = (
            caching.by_digest(anonymous_pull=self._anonymous_pull)
            if by_digest
            else caching.by_tag(sealed=sealed, anonymous_pull=self._anonymous_pull)
        )
        unchanged = responses.headers(
            [
                ("docker-content-digest", digest),
                ("etag", f'"{digest}"'),
                ("cache-control", cache_control),
                *_settles(settles_us),
            ]
        )
        return (
            *responses.headers([("content-type", media_type), ("content-length", str(size))]),
            *unchanged,
            responses.NOSNIFF,
        ), unchanged

    def _published(self, target: ManifestTarget, published: Published, asked: tuple[Tag, ...]) -> Headers:
        digest = str(published.digest)
        pairs = [
            ("location", self._locations.manifest(target.repository, published.digest)),
            ("docker-content-digest", digest),
            ("etag", f'"{digest}"'),
            ("content-length", "0"),
        ]
        if published.subject is not None:
            pairs.append(("oci-subject", str(published.subject)))
        if published.ledger_index is not None:
            pairs.append(("boltseal-ledger-index", str(published.ledger_index)))
        pairs += _settles(published.settles_us)
        if isinstance(target.reference, Tag) and target.reference not in published.tags:
            pairs.append(("warning", f'299 - "stored as a part of an image; tag {target.reference} stays as it is"'))
        if asked:
            pairs += [("oci-tag", tag) for tag in published.tags]
        return responses.headers(pairs)


def _settles(settles_us: int | None) -> list[tuple[str, str]]:
    """Return the header that says when a settling tag is sealed; nothing for any other tag."""
    return [] if settles_us is None else [(SETTLES_HEADER, format_time(settles_us))]


def _tags(request: Request) -> tuple[Tag, ...]:
    """Return the tags of `?tag=` without duplicates. Raises: TagInvalid, UriTooLong."""
    asked = request.query.all("tag")
    if len(asked) > MAX_TAGS:
        raise UriTooLong(f"the query has {len(asked)} tags; at most {MAX_TAGS} are allowed in one push")
    return tuple(dict.fromkeys(Tag(tag) for tag in asked))
