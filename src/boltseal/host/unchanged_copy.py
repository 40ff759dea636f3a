"""Finds the copy that `pull --replace` loaded beside an image whose files were changed on the disk.

A copy is proven by this user's own record of it, or by the registry: its ID is the digest of the image's config with empty
layers below (`oci.fresh_layers`). With containerd's image store the ID is that of a manifest which only the engine has, so that another
administrator has to run `pull --replace` once.
"""

from __future__ import annotations

from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.engines.inventory import EngineImage, ImageStoreKind
from boltseal.errors import BoltsealError
from boltseal.host.changed_images import ChangedImages
from boltseal.host.engine_images import EngineHost
from boltseal.host.fresh_copy import copy_ids
from boltseal.host.kept_images import Proof
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference


async def unchanged_copy(
    host: EngineHost, transport: Transport, image: EngineImage, name: Reference, digest: Digest | None
) -> EngineImage | None:
    """Return the copy of a changed image that is not changed itself, None if none is known to be one.

    `name`: the tag that resolves to one of them. `digest`: of the changed image in its registry.
    """
    changed = await ChangedImages(host).ids()
    found: list[EngineImage] = []
    names: list[Reference | Digest] = [name, *(each.image for each in host.kept.kept(host.key, name))]
    for at in names:
        candidate = await host.image(at)
        if candidate is not None and candidate.id not in changed:
            found.append(candidate)
    for each in found:
        if any(one.digest == digest and one.proof is Proof.COPY for one in host.kept.pulls(host.key, each.id)):
            return each
    if not found or digest is None or host.store is ImageStoreKind.CONTAINERD:
        return None
    try:
        client = RegistryClient(transport, name.registry)
        ids = await copy_ids(client, name.repository, digest, image.platform, image.id)
    except BoltsealError:  # not proven: the caller says how to load the image again
        return None
    return next((each for each in found if each.id in ids), None)
