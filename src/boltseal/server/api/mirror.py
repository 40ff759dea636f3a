"""Reads of repositories that are mirrored: the same answers as for ours, from whatever `mirror` finds or brings.

Rules kept here: a HEAD of a tag costs upstream no manifest; a whole blob is relayed while it arrives, a part of it and a
HEAD wait until it is stored; an answer that upstream might not give by now carries a `Warning` (RFC 7234, section 5.5, as
the distribution spec wants it: 299, no date).
"""

from __future__ import annotations

from typing import Final

from boltseal.oci.digest import Digest
from boltseal.server.api import responses
from boltseal.server.api.blobs import BlobRoutes, BytesLost
from boltseal.server.api.listings import referrers_answer, tags_answer
from boltseal.server.api.manifests import ManifestRoutes
from boltseal.server.api.paths import BlobTarget, ManifestTarget, ReferrersTarget, TagListTarget
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.mirror.cache import Mirror
from boltseal.server.mirror.upstreams import Upstream
from boltseal.server.registry.models import ManifestAnswer, Page, ReferrersPage
from boltseal.server.registry.pulls import BlobUnknown

MAX_WARNING: Final = 500


class MirroredRoutes:
    """The handlers of what is read from a mirrored repository."""

    def __init__(self, mirror: Mirror, manifests: ManifestRoutes, blobs: BlobRoutes) -> None:
        self._mirror = mirror
        self._manifests = manifests
        self._blobs = blobs

    async def manifest(self, call: Request, at: ManifestTarget) -> Response:
        """A manifest, by digest or by what its tag means upstream."""
        upstream = self._upstream(call)
        if isinstance(at.reference, Digest):
            found = await self._mirror.by_digest(upstream, at.repository, at.reference)
            return self._manifests.answer(call, found)
        if call.method == "HEAD":
            meaning = await self._mirror.resolve(upstream, at.repository, at.reference)
            if meaning is not None and meaning.size >= 0 and meaning.media_type:
                told = ManifestAnswer(
                    b"", meaning.media_type, meaning.digest, meaning.size, sealed=False, by_digest=False
                )
                return self._warned(self._manifests.answer(call, told), meaning.warning)
        served = await self._mirror.by_tag(upstream, at.repository, at.reference)
        return self._warned(self._manifests.answer(call, served.answer), served.warning)

    async def blob(self, call: Request, at: BlobTarget) -> Response:
        """A blob or a range of it."""
        try:
            return await self._blobs.get(call, at)
        except (BlobUnknown, BytesLost):
            fetch = await self._mirror.blob(self._upstream(call), at.repository, at.digest)
        if fetch is not None:
            if call.method == "GET" and call.header(b"range") is None and call.header(b"if-none-match") is None:
                size = await fetch.wait_started()
                return await self._blobs.arriving(size, str(at.digest), fetch.chunks())
            await fetch.wait_stored()
        return await self._blobs.get(call, at)

    async def tags(self, call: Request, at: TagListTarget) -> Response:
        """A page of the tags that upstream lists."""
        n, last = call.query.page_size(), call.query.one("last") or ""
        listed = await self._mirror.lists.tags(self._upstream(call), at.repository)
        following = [name for name in listed.items if name > last]
        page = Page(tuple(following[:n]), more=0 < n < len(following))
        return self._warned(tags_answer(at.repository, page, n), listed.warning)

    async def referrers(self, call: Request, at: ReferrersTarget) -> Response:
        """A page of what upstream says refers to a manifest."""
        n, last = call.query.page_size(), call.query.one("last") or ""
        artifact_type = call.query.one("artifactType") or None
        listed = await self._mirror.lists.referrers(self._upstream(call), at.repository, at.digest)
        wanted = [row for row in listed.items if artifact_type in (None, row.artifact_type) and str(row.digest) > last]
        page = ReferrersPage(tuple(wanted[:n]), more=0 < n < len(wanted))
        return self._warned(referrers_answer(at, page, artifact_type, n), listed.warning)

    def _warned(self, answer: Response, warning: str | None) -> Response:
        if warning is not None:
            self._mirror.count_warning()
        return _warned(answer, warning)

    def _upstream(self, call: Request) -> Upstream:
        if call.upstream is None:  # the table of routes asks only for what led to one
            raise AssertionError("no upstream")
        return self._mirror.upstream(call.upstream)


def _warned(answer: Response, warning: str | None) -> Response:
    if warning is not None:
        text = "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in warning[:MAX_WARNING])
        answer.headers = (*answer.headers, *responses.headers([("warning", f'299 - "{text}"')]))
    return answer
