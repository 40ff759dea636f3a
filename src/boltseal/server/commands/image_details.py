"""One image of a repository as pages show it: platforms, layers with their instructions, settings, labels, referrers.

The documents are read from this store. What is missing here, as parts of mirrored images that were not pulled yet, is a reason
on the page, no error. Callers check the right to pull.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.errors import BoltsealError
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.reference import Repository
from boltseal.server.registry.pulls import Pulls
from boltseal.server.registry.stored_images import StoredImages
from boltseal.server.registry.tag_lists import TagLists
from boltseal.transfer.config_details import BuiltLayer, ConfigDetails, built_layers, config_details
from boltseal.transfer.inspect import Inspected, inspect, platforms_of
from boltseal.transfer.packages.sbom import MEDIA_TYPES as SBOM_TYPES
from boltseal.transfer.protocols import LocationNotFound

_SIGNATURE_WORDS: Final = ("sigstore", "cosign", "notary", "notation", "signature")


@dataclass(frozen=True, slots=True)
class ImageDetails:
    """An image. `image`: the one whose layers and config are shown, of the `chosen` platform. `unread`: why they are not shown.

    `base`: name and digest of the base image that it states, each "" if missing. `attached`: what refers to it, by digest.
    """

    digest: str
    manifest: Manifest
    platforms: Mapping[str, Digest]
    chosen: str
    image: Manifest
    layers: tuple[BuiltLayer, ...]
    settings: Mapping[str, str]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    base: tuple[str, str]
    attached: tuple[Attached, ...]
    unread: str = ""

    @property
    def size_bytes(self) -> int:
        """The size of the config and the layers of the shown image, as they are stored."""
        config = 0 if self.image.config is None else self.image.config.size
        return config + sum(layer.size for layer in self.image.layers)


@dataclass(frozen=True, slots=True)
class Attached:
    """Something that belongs to an image. `kind`: signature, SBOM, attestation or artifact. `tag`: under which it is found, or ""."""

    kind: str
    digest: str
    media_type: str
    size_bytes: int | None
    tag: str = ""


async def image_details(pulls: Pulls, repository: Repository, digest: Digest, platform: str | None) -> ImageDetails:
    """Return an image, of an index the one for `platform`.

    Raises: ManifestUnknown: it is not stored; LocationNotFound: it has no such platform.
    """
    source = StoredImages(pulls, repository)
    manifest = await source.manifest(digest)
    try:
        found, unread = await inspect(source, digest, platform), ""
    except LocationNotFound:
        raise
    except BoltsealError as error:
        found = Inspected(digest, manifest, platforms_of(manifest), "", manifest, None, ("", ""), (), {})
        unread = error.message
    details = ConfigDetails()
    if found.config is not None:
        details = await asyncio.to_thread(config_details, found.config.raw)
    return ImageDetails(
        str(digest),
        manifest,
        found.platforms,
        found.chosen,
        found.image,
        built_layers(details.instructions, found.image.layers),
        details.settings or {},
        {} if found.config is None else found.config.labels,
        {**manifest.annotations, **found.image.annotations},
        found.base,
        _attached(found),
        unread,
    )


def _attached(found: Inspected) -> tuple[Attached, ...]:
    referrers = tuple(
        Attached(_kind(each), str(each.digest), each.artifact_type or each.media_type, each.size)
        for each in found.referrers
    )
    own = str(found.platforms.get(found.chosen, found.digest))
    attestations = tuple(
        Attached("attestation", str(each.digest), each.media_type, each.size)
        for each in found.manifest.manifests
        if each.annotations.get("vnd.docker.reference.digest") == own
    )
    tagged = tuple(
        Attached(_OF_SUFFIX[tag.rpartition(".")[2]], str(digest), "", None, tag)
        for tag, digest in found.signatures.items()
    )
    return (*tagged, *referrers, *attestations)


async def signed_images(lists: TagLists, repository: Repository, digests: Sequence[str]) -> frozenset[str]:
    """Return those of these images to which a signature is attached. It is not checked whose it is, or whether it is valid."""
    found = await lists.referring(repository, digests)
    return found.tagged | {digest for digest, kind in found.types if _is_signature(kind)}


_OF_SUFFIX: Final = {"sig": "signature", "att": "attestation", "sbom": "SBOM"}


def _kind(referrer: Descriptor) -> str:
    kind = referrer.artifact_type or ""
    if kind in SBOM_TYPES:
        return "SBOM"
    return "signature" if _is_signature(kind) else "artifact"


def _is_signature(artifact_type: str) -> bool:
    return any(word in artifact_type.lower() for word in _SIGNATURE_WORDS)
