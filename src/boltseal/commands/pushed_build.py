"""Check what a build pushed, and keep its documents: a later `outdated` knows its layers without a request.

The builder reads the layers of the base, and boltseal resolves the base's tag with a HEAD only; so the documents of the
base are not at hand here.
"""

from __future__ import annotations

from contextlib import suppress

from boltseal.client.document_cache import DocumentCache
from boltseal.client.registry_client import RegistryClient
from boltseal.client.state import ClientState, StateUnusable
from boltseal.client.transport import Transport
from boltseal.errors import Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.project.bases.image_documents import BLOB
from boltseal.project.bases.image_facts import INPUTS, config_of, read_facts
from boltseal.project.bases.index_children import images_of_index


async def pushed_build(transport: Transport, state: ClientState, now_us: int, image: Reference, inputs: str) -> Digest:
    """Return the digest of what was pushed, and keep its manifests, configs and the observation of its tag.

    `inputs`: their hash, which the image's label must have. Raises: Unavailable: the tag resolves to an image of other inputs.
    """
    client, tag = RegistryClient(transport, image.registry), image.tag or Tag("latest")
    digest = (await client.resolve(image.repository, tag)).digest
    manifest = await client.manifest(image.repository, digest)
    documents = [(digest, manifest.media_type, manifest.raw)]
    images = [child.digest for child in images_of_index(manifest)] if manifest.is_index else [digest]
    for one in images or [digest]:
        if one != digest:
            manifest = await client.manifest(image.repository, one)
            documents.append((one, manifest.media_type, manifest.raw))
        config, size = config_of(manifest, one)
        raw = b"".join([piece async for piece in client.blob(image.repository, config, size)])
        if read_facts(manifest, one, raw).labels.get(INPUTS) != inputs:
            raise Unavailable(
                f"{image} was pushed, but another push changed it to {digest.short}: nothing was recorded"
            )
        documents.append((config, BLOB, raw))
    with suppress(StateUnusable), DocumentCache(state, now_us=now_us) as learned:  # the build has succeeded without it
        for each in documents:
            learned.keep(*each)
        learned.saw([(Reference(image.registry, image.repository, tag), digest)])
    return digest
