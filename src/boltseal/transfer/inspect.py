"""Inspect an image without pulling it: platforms, labels, layers, base and signatures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from boltseal.errors import NotFound
from boltseal.oci.annotations import BASE_DIGEST, BASE_NAME
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.mediatype import MANIFEST_TYPES
from boltseal.oci.platform import Platform
from boltseal.transfer.attached import SIGNATURE_SUFFIXES
from boltseal.transfer.image_config import ImageConfig, image_config
from boltseal.transfer.protocols import ImageSource, LocationNotFound

_UNKNOWN: Final = "unknown/unknown"


@dataclass(frozen=True, slots=True)
class Inspected:
    """An inspected image. `platforms`: of an index. `chosen`: the platform of config and layers, "" without an index.

    `base`: name and digest of the base image that annotations or labels state, each "" if missing.
    """

    digest: Digest
    manifest: Manifest
    platforms: Mapping[str, Digest]
    chosen: str
    image: Manifest
    config: ImageConfig | None
    base: tuple[str, str]
    referrers: tuple[Descriptor, ...]
    signatures: Mapping[str, Digest]


async def inspect(source: ImageSource, digest: Digest, platform: str | None) -> Inspected:
    """Inspect the image with a digest; in an index the one for `platform`, else for linux/amd64, else the first.

    Raises: LocationNotFound.
    """
    manifest = await source.manifest(digest)
    platforms = platforms_of(manifest)
    chosen, image = "", manifest
    if platforms:
        chosen = platform or ("linux/amd64" if "linux/amd64" in platforms else next(iter(platforms)))
        if chosen not in platforms:
            raise LocationNotFound(f"{source.title}: {digest} has no image for {chosen}; it has {', '.join(platforms)}")
        image = await source.manifest(platforms[chosen])
    config = await image_config(source, image)
    labels = {} if config is None else config.labels
    return Inspected(
        digest,
        manifest,
        platforms,
        chosen,
        image,
        config,
        stated_base(labels, manifest.annotations, image.annotations),
        await source.referrers(digest),
        await _signatures(source, digest),
    )


def platforms_of(manifest: Manifest) -> dict[str, Digest]:
    """Return the images of an index by their platforms, without attestations; nothing of an image."""
    return {
        str(child.platform or Platform()) or str(child.digest): child.digest
        for child in manifest.manifests
        if child.media_type in MANIFEST_TYPES and str(child.platform) != _UNKNOWN
    }


def stated_base(*of_image: Mapping[str, str]) -> tuple[str, str]:
    """Return name and digest of the base image that labels and annotations state, each "" if missing; later ones count more."""
    stated = {key: value for values in of_image for key, value in values.items()}
    return stated.get(BASE_NAME, ""), stated.get(BASE_DIGEST, "")


async def _signatures(source: ImageSource, digest: Digest) -> dict[str, Digest]:
    """Return the digests that the signature tools' tags for an image resolve to, by tag."""
    found = {}
    for suffix in SIGNATURE_SUFFIXES:
        tag = f"{digest.as_tag}{suffix}"
        try:
            found[tag] = await source.resolve(tag)
        except NotFound:
            continue
    return found
