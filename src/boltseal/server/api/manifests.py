"""Manifests over HTTP: end-3 (GET, HEAD), end-7a and 7b (PUT, also with `?tag=`), end-9 (DELETE).

Rules kept here: bytes go out exactly as they came in, with the media type they were pushed under and no
parameters, whatever `Accept` says (the spec has no negotiation); a document over the limit is refused before it is
held; conditions are read strictly. Whether a tag may move is not decided here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Final, TypeAlias

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.server.api import caching, responses
from boltseal.server.api.conditional_requests import not_modified, write_conditions
from boltseal.server.api.errors import UriTooLong
from boltseal.server.api.locations import Locations
from boltseal.server.api.paths import ManifestTarget
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.api.settings import ApiSettings
from boltseal.server.registry.deletes import Deletes
from boltseal.server.registry.manifests import Manifests
from boltseal.server.registry.models import ManifestAnswer, ManifestUpload, Published
from boltseal.server.registry.pulls import Pulls

MAX_TAGS: Final = 64
"""How many `?tag=` one push may carry; the spec asks for at least ten."""

_HEADER_LISTS: Final = 4096

Publish: TypeAlias = Callable[[ManifestUpload], Awaitable[Published]]


class ManifestRoutes:
    """The handlers of `ManifestTarget`."""

    def __init__(
        self, pulls: Pulls, manifests: Manifests, deletes: Deletes, locations: Locations, settings: ApiSettings
    ) -> None:
        self._pulls = pulls
        self._manifests = manifests
        self._deletes = deletes
        self._locations = locations
        self._max_bytes = settings.max_manifest_bytes
        self._anonymous_pull = settings.anonymous_pull
        self._headers = lru_cache(_HEADER_LISTS)(self._build_headers)

    async def get(self, call: Request, at: ManifestTarget) -> Response:
        """The manifest; 304 to a reader whose `If-None-Match` says that it has it."""
        return self.answer(call, await self._pulls.manifest(at.repository, at.reference))

    def answer(self, call: Request, found: ManifestAnswer) -> Response:
        """The answer that a manifest is."""
        digest = str(found.digest)
        whole, unchanged = self._headers(found.media_type, digest, found.size, found.sealed, found.by_digest)
        known = call.header(b"if-none-match")
        if known is not None and not_modified(known, digest):
            return Response(304, unchanged)
        return Response(200, whole, found.raw)

    async def put(self, call: Request, at: ManifestTarget, publish: Publish | None = None) -> Response:
        """Publishes the body under a tag, a digest, or a digest and the tags of the query; all of them or none.

        `publish`: who does that; None: this registry by itself.
        """
        tags = _tags(call)
        conditions = write_conditions(call.header(b"if-none-match"), call.header(b"if-match"))
        raw = await call.document(self._max_bytes)
        upload = ManifestUpload(
            at.repository,
            at.reference,
            raw,
            call.header(b"content-type"),
            call.actor,
            extra_tags=tags,
            conditions=conditions,
        )
        published = await (publish or self._manifests.put)(upload)
        return Response(201, self._published(at, published, tags))

    async def delete(self, call: Request, at: ManifestTarget) -> Response:
        """Deletes a tag, or a manifest with all its tags, unless a seal protects it (405)."""
        conditions = write_conditions(call.header(b"if-none-match"), call.header(b"if-match"))
        if isinstance(at.reference, Digest):
            await self._deletes.manifest(at.repository, at.reference, conditions, call.actor)
        else:
            await self._deletes.tag(at.repository, at.reference, conditions, call.actor)
        return Response(202, responses.EMPTY)

    def _build_headers(
        self, media_type: str, digest: str, size: int, sealed: bool, by_digest: bool
    ) -> tuple[Headers, Headers]:
        """The headers of the answer, and those of a 304. Built once, as long as an image is popular."""
        cache_control = (
            caching.by_digest(anonymous_pull=self._anonymous_pull)
            if by_digest
            else caching.by_tag(sealed=sealed, anonymous_pull=self._anonymous_pull)
        )
        unchanged = responses.headers(
            [("docker-content-digest", digest), ("etag", f'"{digest}"'), ("cache-control", cache_control)]
        )
        return (
            *responses.headers([("content-type", media_type), ("content-length", str(size))]),
            *unchanged,
            responses.NOSNIFF,
        ), unchanged

    def _published(self, at: ManifestTarget, published: Published, asked: tuple[Tag, ...]) -> Headers:
        digest = str(published.digest)
        pairs = [
            ("location", self._locations.manifest(at.repository, published.digest)),
            ("docker-content-digest", digest),
            ("etag", f'"{digest}"'),
            ("content-length", "0"),
        ]
        if published.subject is not None:
            pairs.append(("oci-subject", str(published.subject)))
        if published.ledger_index is not None:
            pairs.append(("boltseal-ledger-index", str(published.ledger_index)))
        if asked:
            pairs += [("oci-tag", tag) for tag in published.tags]
        return responses.headers(pairs)


def _tags(call: Request) -> tuple[Tag, ...]:
    """The tags of `?tag=`, each once. TagInvalid, UriTooLong."""
    asked = call.query.all("tag")
    if len(asked) > MAX_TAGS:
        raise UriTooLong(f"the query names {len(asked)} tags; one push may carry at most {MAX_TAGS}")
    return tuple(dict.fromkeys(Tag(tag) for tag in asked))
