"""Writes to upstreams' names: requests and responses of a local repository, forwarded by `server.mirror.push_proxy`."""

from __future__ import annotations

from functools import partial

from boltseal.oci.digest import Digest
from boltseal.server.api.manifests import ManifestRoutes
from boltseal.server.api.paths import ManifestTarget, UploadsTarget, UploadTarget
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.api.uploads import UploadRoutes
from boltseal.server.mirror.cache import MirrorCache
from boltseal.server.mirror.push_proxy import PushProxy
from boltseal.server.mirror.upstreams import Upstream


class PushProxyRoutes:
    """The handlers for pushes to an upstream's name."""

    def __init__(
        self, mirror: MirrorCache, push_proxy: PushProxy, manifests: ManifestRoutes, uploads: UploadRoutes
    ) -> None:
        self._mirror = mirror
        self._push_proxy = push_proxy
        self._manifests = manifests
        self._uploads = uploads

    async def put(self, request: Request, target: ManifestTarget) -> Response:
        """Push a manifest; 201 when upstream has it."""
        return await self._manifests.put(request, target, partial(self._push_proxy.put, self._upstream(request)))

    async def start(self, request: Request, target: UploadsTarget) -> Response:
        """Begin an upload, or mount the blob; a complete blob is forwarded."""
        upstream = self._upstream(request)
        await self._push_proxy.begin(upstream, target.repository)
        response = await self._uploads.start(request, target)
        if response.status == 201:
            named = request.query.value("mount") or request.query.value("digest")
            self._push_proxy.parts.begin_blob(upstream, target.repository, Digest.parse(named or ""))
        return response

    async def finish(self, request: Request, target: UploadTarget) -> Response:
        """Finish an upload and forward the blob."""
        response = await self._uploads.finish(request, target)
        if response.status == 201:
            digest = Digest.parse(request.query.value("digest") or "")
            self._push_proxy.parts.begin_blob(self._upstream(request), target.repository, digest)
        return response

    def _upstream(self, request: Request) -> Upstream:
        if request.upstream is None:  # only requests with an upstream are routed here
            raise AssertionError("request without upstream")
        return self._mirror.upstream(request.upstream)
