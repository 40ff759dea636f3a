"""Writes to upstreams' names: the same requests and answers as for ours, passed on by the gate (`server.mirror.push_proxy`)."""

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
    """The handlers of what is pushed to an upstream's name."""

    def __init__(self, mirror: Mirror, push_gate: PushProxy, manifests: ManifestRoutes, uploads: UploadRoutes) -> None:
        self._mirror = mirror
        self._push_gate = push_gate
        self._manifests = manifests
        self._uploads = uploads

    async def put(self, call: Request, at: ManifestTarget) -> Response:
        """A manifest: 201 when upstream has it."""
        return await self._manifests.put(call, at, partial(self._push_gate.put, self._upstream(call)))

    async def start(self, call: Request, at: UploadsTarget) -> Response:
        """Begins an upload, or makes it unnecessary; a blob that is whole is passed on."""
        upstream = self._upstream(call)
        await self._push_gate.begin(upstream, at.repository)
        answer = await self._uploads.start(call, at)
        if answer.status == 201:
            named = call.query.one("mount") or call.query.one("digest")
            self._push_gate.forward_blob(upstream, at.repository, Digest.parse(named or ""))
        return answer

    async def finish(self, call: Request, at: UploadTarget) -> Response:
        """Ends an upload; the blob is passed on."""
        answer = await self._uploads.finish(call, at)
        if answer.status == 201:
            digest = Digest.parse(call.query.one("digest") or "")
            self._push_gate.forward_blob(self._upstream(call), at.repository, digest)
        return answer

    def _upstream(self, call: Request) -> Upstream:
        if call.upstream is None:  # the table of routes asks only for what led to one
            raise AssertionError("no upstream")
        return self._mirror.upstream(call.upstream)
