"""Read the ID of an image in the local Docker daemon, and add a tag to it.

A daemon with the classic store has no manifest digest of an image that it built; only the image ID identifies the content.
With containerd's store the ID is the digest of the manifest. Equal content has an equal ID in either store.
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
    """Return the ID of an image in the daemon. Raises: NotBuilt, and the errors of `engines.api`."""
    async with connected(daemon) as engine:
        try:
            return (await engine.image(image)).id
        except NoSuchImage as error:
            raise _not_built(image) from error


async def add_tag(daemon: EngineAddress, image: Reference, id_: Digest, tag: Tag) -> Reference:
    """Add a tag to the image with this ID, in its repository. Raises: NotBuilt, and the errors of `engines.api`."""
    new = Reference(image.registry, image.repository, tag)
    async with connected(daemon) as engine:
        try:
            await engine.tag(id_, new)
        except NoSuchImage as error:
            raise _not_built(image) from error
    return new


def _not_built(image: Reference) -> NotBuilt:
    return NotBuilt(f"the Docker daemon has no image {image.familiar()}; build it first")
