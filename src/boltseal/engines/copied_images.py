"""Recognizes images that `boltseal pull --replace` made, by their history: no registry has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from boltseal.engines import inventory
from boltseal.engines.api import Engine, NoSuchImage, query_each
from boltseal.oci.digest import Digest
from boltseal.oci.fresh_layers import CREATED_BY

UNKNOWN_COPY: Final = (
    "it is a copy that `boltseal pull --replace` made for another user, whose records alone have the image's digest"
)


async def copied_images(
    engine: Engine, store: inventory.ImageStoreKind, images: Iterable[inventory.EngineImage]
) -> frozenset[Digest]:
    """Return the IDs of the images that are copies. It takes one request for each image whose digest `store` may have made up.

    An image is a copy by its own statement, which proves nothing about its content. Raises: the engine's errors.
    """
    classic = store is inventory.ImageStoreKind.CLASSIC

    async def commands(image: Digest) -> frozenset[str]:
        return inventory.commands(await engine.ask("GET", f"images/{image}/history"))

    asked = (each.id for each in images if not (classic and each.pulled_as))
    found = await query_each(asked, commands, NoSuchImage)
    return frozenset(image for image, steps in found.items() if steps is not None and CREATED_BY in steps)
