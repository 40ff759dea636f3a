"""List all images of a registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Final

from boltseal.client.bounded_requests import list_tags
from boltseal.client.catalog import list_repositories
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.errors import TooMany
from boltseal.lockfile.container_check import KEEP_PREFIX
from boltseal.oci.reference import Reference, Repository
from boltseal.policy.rule_decision import signature_subject

MAX_IMAGES: Final = 200_000
"""How many tags of a registry are listed; a hostile registry could list tags without end."""


class TooManyImages(TooMany):
    """A registry lists more tags than are accepted."""


async def registry_images(
    transport: Transport,
    registry: str,
    most: int | None = MAX_IMAGES,
    skip: Callable[[Repository], bool] = lambda _: False,
) -> AsyncIterator[Reference]:
    """Yield every tag of every repository, without those of signature tools and of kept images. Raises: TooManyImages.

    `most`: how many tags may be listed; None for no limit. `skip`: returns True for a repository that is left out.
    """
    listed = 0
    repositories = (each async for each in list_repositories(transport, registry) if not skip(each))
    async with aclosing(list_tags(RegistryClient(transport, registry), repositories)) as references:
        async for reference in references:
            listed += 1
            if most is not None and listed > most:
                raise TooManyImages(f"{registry} lists more than {most} tags; name the images to scan")
            tag = reference.tag or ""
            if signature_subject(tag) is None and not tag.startswith(KEEP_PREFIX):
                yield reference
