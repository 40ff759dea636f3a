"""Reads of mirrored repositories: the responses of a local repository, with content that `mirror` has or fetches.

A HEAD of a tag fetches no manifest from upstream. A whole blob is relayed while it arrives; a range and a HEAD wait
until it is stored. A response that may be stale has a `Warning` (RFC 7234, section 5.5, in the form of the distribution
spec: 299, no date).
"""

from __future__ import annotations

from typing import Final

from boltseal.oci.digest import Digest
from boltseal.server.api import responses
from boltseal.server.api.blobs import BlobRoutes, BytesLost
from boltseal.server.api.listings import referrers_response, tags_response
from boltseal.server.api.manifests import ManifestRoutes
from boltseal.server.api.paths import BlobTarget, ManifestTarget, ReferrersTarget, TagListTarget
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.mirror.cache import MirrorCache
from boltseal.server.mirror.upstreams import Upstream
from boltseal.server.registry.models import ManifestAnswer, Page, ReferrersPage
from boltseal.server.registry.pulls import BlobUnknown

MAX_WARNING_CHARACTERS: Final = 500


class MirroredRoutes:
    """The handlers for reads of mirrored repositories."""

    def __init__(self, mirror: MirrorCache, manifests: ManifestRoutes, blobs: BlobRoutes) -> None:
        self._mirror = mirror
        self._manifests = manifests
        self._blobs = blobs

    async def manifest(self, request: Request, target: ManifestTarget) -> Response:
        """Return a manifest by digest, or by the digest to which its tag resolves upstream."""
        upstream = self._upstream(request)
        if isinstance(target.reference, Digest):
            found = await self._mirror.by_digest(upstream, target.repository, target.reference)
            return self._manifests.manifest_response(request, found)
        if request.method == "HEAD":
            resolved = await self._mirror.resolve(upstream, target.repository, target.reference)
            if resolved is not None and resolved.size >= 0 and resolved.media_type:
                head = ManifestAnswer(
                    b"", resolved.media_type, resolved.digest, resolved.size, sealed=False, by_digest=False
                )
                return self._warned(self._manifests.manifest_response(request, head), resolved.warning)
        served = await self._mirror.by_tag(upstream, target.repository, target.reference)
        return self._warned(self._manifests.manifest_response(request, served.answer), served.warning)

    async def blob(self, request: Request, target: BlobTarget) -> Response:
        """Return a blob or a range of it."""
        try:
            return await self._blobs.get(request, target)
        except (BlobUnknown, BytesLost):
            fetch = await self._mirror.blob(self._upstream(request), target.repository, target.digest)
        if fetch is not None:
            if (
                request.method == "GET"
                and request.header(b"range") is None
                and request.header(b"if-none-match") is None
            ):
                size = await fetch.wait_started()
                return await self._blobs.arriving(size, str(target.digest), fetch.chunks())
            await fetch.wait_stored()
        return await self._blobs.get(request, target)

    async def tags(self, request: Request, target: TagListTarget) -> Response:
        """Return a page of the tags that upstream lists."""
        n, last = request.query.page_size(), request.query.value("last") or ""
        listed = await self._mirror.lists.tags(self._upstream(request), target.repository)
        following = [name for name in listed.items if name > last]
        page = Page(tuple(following[:n]), more=0 < n < len(following))
        return self._warned(tags_response(target.repository, page, n), listed.warning)

    async def referrers(self, request: Request, target: ReferrersTarget) -> Response:
        """Return a page of the referrers that upstream lists."""
        n, last = request.query.page_size(), request.query.value("last") or ""
        artifact_type = request.query.value("artifactType") or None
        listed = await self._mirror.lists.referrers(self._upstream(request), target.repository, target.digest)
        wanted = [row for row in listed.items if artifact_type in (None, row.artifact_type) and str(row.digest) > last]
        page = ReferrersPage(tuple(wanted[:n]), more=0 < n < len(wanted))
        return self._warned(referrers_response(target, page, artifact_type, n), listed.warning)

    def _warned(self, response: Response, warning: str | None) -> Response:
        if warning is not None:
            self._mirror.count_warning()
        return _warned(response, warning)

    def _upstream(self, request: Request) -> Upstream:
        if request.upstream is None:  # only requests with an upstream are routed here
            raise AssertionError("request without upstream")
        return self._mirror.upstream(request.upstream)


def _warned(response: Response, warning: str | None) -> Response:
    if warning is not None:
        text = "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in warning[:MAX_WARNING_CHARACTERS])
        response.headers = (*response.headers, *responses.headers([("warning", f'299 - "{text}"')]))
    return response
