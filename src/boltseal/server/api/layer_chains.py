"""The layer chains of images over HTTP (`oci.layer_chain`): what shows that an image was built on another one.

    GET /v2/<name>/_boltseal/chains?digests=<digest>,<digest>
    {"chains": {"<digest>": {"version": 1, "image": {"chain_id": ..., "layers": ..., ...}}, ...}}

Needs the right to pull from the repository. The answer also has the images of a named index, and images that were deleted.
A digest is left out if the repository never had it, or if its config was not there while it had it.
"""

from __future__ import annotations

from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.layer_chain import ASKED_AT_ONCE
from boltseal.server.api import responses
from boltseal.server.api.paths import ChainsTarget
from boltseal.server.api.query import QueryInvalid
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.registry.layer_chains import LayerChains, joined


class ChainRoutes:
    """The handler of `ChainsTarget`."""

    def __init__(self, layer_chains: LayerChains) -> None:
        self._layer_chains = layer_chains

    async def list(self, request: Request, target: ChainsTarget) -> Response:
        """Return the layer chains of the requested digests."""
        texts = (request.query.value("digests") or "").split(",")
        if len(texts) > ASKED_AT_ONCE:
            raise QueryInvalid(f"digests has {len(texts)} digests; at most {ASKED_AT_ONCE} are allowed")
        try:
            digests = [Digest.parse(text) for text in texts]
        except DigestInvalid as error:
            raise QueryInvalid(f"digests: {error.message}; expected a comma-separated list of digests") from error
        return responses.with_body(joined(await self._layer_chains.of(target.repository, digests)))
