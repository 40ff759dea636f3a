"""An image in the local Docker daemon: the digest that it has there, and one more tag for it.

A daemon with its classic store keeps no digest of a registry for what it built; the image ID is all that names its
content. With containerd's store the ID is the digest of the manifest. Either is the same for the same bytes.
"""

from __future__ import annotations

from boltseal.engines.address import EngineAddress
from boltseal.engines.api import NoSuchImage, connected
from boltseal.errors import NotFound
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag


class NotBuilt(NotFound):
    """The daemon has no such image."""


async def image_id(daemon: EngineAddress, image: Reference) -> Digest:
    """The ID of an image in the daemon. NotBuilt, and how the door to an engine fails."""
    async with connected(daemon) as engine:
        try:
            return (await engine.image(image)).id
        except NoSuchImage as error:
            raise _not_built(image) from error


async def add_tag(daemon: EngineAddress, image: Reference, id_: Digest, tag: Tag) -> Reference:
    """Give the image with this ID one more tag in its repository. NotBuilt, and how the door to an engine fails."""
    new = Reference(image.registry, image.repository, tag)
    async with connected(daemon) as engine:
        try:
            await engine.tag(id_, new)
        except NoSuchImage as error:
            raise _not_built(image) from error
    return new


def _not_built(image: Reference) -> NotBuilt:
    return NotBuilt(f"the Docker daemon has no image {image.familiar()}; build it first")
