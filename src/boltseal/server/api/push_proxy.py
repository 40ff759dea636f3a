"""Writes to upstreams' names: requests and responses of a local repository, forwarded by `server.mirror.push_proxy`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from boltseal.oci.digest import Digest

if TYPE_CHECKING:
    from boltseal.server.api.manifests import ManifestRoutes
    from boltseal.server.api.paths import ManifestTarget, UploadsTarget, UploadTarget
    from boltseal.server.api.request import Request
    from boltseal.server.api.responses import Response
    from boltseal.server.api.uploads import UploadRoutes
    from boltseal.server.mirror.cache import Mirror
    from boltseal.server.mirror.push_proxy import PushProxy
    from boltseal.server.mirror.upstreams import Upstream


class PushProxyRoutes:
    """The handlers for pushes to an upstream's name."""

    def __init__(self, mirror: Mirror, push_gate: PushProxy, manifests: ManifestRoutes, uploads: UploadRoutes) -> None:
        self._mirror = mirror
        self._push_gate = push_gate
        self._manifests = manifests
        self._uploads = uploads

    async def put(self, call: Request, at: ManifestTarget) -> Response:
        """Push a manifest; 201 when upstream has it."""
        return await self._manifests.put(call, at, partial(self._push_gate.put, self._upstream(call)))

    async def start(self, call: Request, at: UploadsTarget) -> Response:
        """Begin an upload, or mount the blob; a complete blob is forwarded."""
        upstream = self._upstream(call)
        await self._push_gate.begin(upstream, at.repository)
        answer = await self._uploads.start(call, at)
        if answer.status == 201:
            digest = call.query.value("mount") or call.query.value("digest")
            self._push_gate.arrived(upstream, at.repository, Digest.parse(digest or ""))
        return answer

    async def finish(self, call: Request, at: UploadTarget) -> Response:
        """Finish an upload and forward the blob."""
        answer = await self._uploads.finish(call, at)
        if answer.status == 201:
            digest = Digest.parse(call.query.value("digest") or "")
            self._push_gate.arrived(self._upstream(call), at.repository, digest)
        return answer

    def _upstream(self, call: Request) -> Upstream:
        if call.upstream is None:  # only requests with an upstream are routed here
            raise AssertionError("request without upstream")
        return self._mirror.upstream(call.upstream)
