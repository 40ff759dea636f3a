"""An image in the local Docker daemon: the digest that it has there, and one more tag for it.

A daemon with its classic store keeps no digest of a registry for what it built; the image ID is all that names its
content. With containerd's store the ID is the digest of the manifest. Either is the same for the same bytes.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote as quote_path

import httpx2
import msgspec

from boltseal.client.engine import engine_client, engine_said
from boltseal.errors import NotFound, Unavailable, quote
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.reference import Reference, Tag

_CREATED: Final = 201


class NoSuchImage(NotFound):
    """The daemon has no such image."""


class EngineFailed(Unavailable):
    """The daemon does not answer, or says something else than it should."""


class _Image(msgspec.Struct, rename="pascal"):
    id: str = ""


async def image_id(docker_host: str, image: Reference) -> Digest:
    """The ID of an image in the daemon. NoSuchImage, EngineFailed."""
    response = await _ask(docker_host, "GET", f"/images/{_name(image)}/json", {}, image)
    try:
        return Digest.parse(msgspec.json.decode(response.content, type=_Image).id)
    except (msgspec.MsgspecError, DigestInvalid) as error:
        raise EngineFailed(f"the Docker daemon does not say which image {image.familiar()} is") from error


async def add_tag(docker_host: str, image: Reference, id_: Digest, tag: Tag) -> Reference:
    """Give the image with this ID one more tag in its repository. NoSuchImage, EngineFailed."""
    new = Reference(image.registry, image.repository, tag)
    repo = new.familiar().removesuffix(f":{tag}")
    await _ask(docker_host, "POST", f"/images/{id_}/tag", {"repo": repo, "tag": str(tag)}, image)
    return new


async def _ask(
    docker_host: str, method: str, path: str, parameters: dict[str, str], image: Reference
) -> httpx2.Response:
    try:
        async with engine_client(docker_host) as client:
            response = await client.request(method, path, params=parameters)
    except (httpx2.HTTPError, OSError) as error:
        raise EngineFailed(f"the Docker daemon does not answer: {error or type(error).__name__}") from error
    if response.status_code == 404:
        raise NoSuchImage(f"the Docker daemon has no image {image.familiar()}; build it first")
    if response.status_code not in (200, _CREATED):
        said = engine_said(response.content)
        raise EngineFailed(f"the Docker daemon failed: {quote(said, 300) if said else f'HTTP {response.status_code}'}")
    return response


def _name(image: Reference) -> str:
    return quote_path(image.familiar(), safe="")
