"""The images of an index, and which of them is for a platform. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.layer_chain import MAX_IMAGES, MAX_TEXT
from boltseal.oci.manifest import Manifest
from boltseal.oci.mediatype import MANIFEST_TYPES
from boltseal.oci.platform import Platform
from boltseal.project.bases.image_facts import NotRead

ATTESTED: Final = "vnd.docker.reference.digest"
_UNKNOWN: Final = "unknown/unknown"


class IndexChild(NamedTuple):
    """One image of an index: its manifest's digest, its platform, and its annotations in the index."""

    digest: Digest
    platform: Platform | None
    annotations: Mapping[str, str]


def images_of_index(index: Manifest) -> list[IndexChild]:
    """Return the images of an index, without attestations. Raises: NotRead: there are too many, or one has an absurd platform."""
    found = [
        IndexChild(entry.digest, entry.platform, entry.annotations)
        for entry in index.manifests
        if entry.media_type in MANIFEST_TYPES and not _attestation(entry)
    ]
    if len(found) > MAX_IMAGES:
        raise NotRead(f"an index has {len(found)} images, expected at most {MAX_IMAGES}")
    longest = max((len(str(each.platform or "")) for each in found), default=0)
    if longest > MAX_TEXT:
        raise NotRead(f"an index has a platform of {longest} characters, expected at most {MAX_TEXT}")
    return found


def same_platform(first: Platform, second: Platform) -> bool:
    """Return whether two platforms run on the same machine. arm64 is arm64/v8, and a missing variant matches any."""
    if (first.os, first.architecture) != (second.os, second.architecture):
        return not (first.os or first.architecture) or not (second.os or second.architecture)
    default = "v8" if first.architecture == "arm64" else ""
    return (first.variant or default) == (second.variant or default) or not (first.variant and second.variant)


def platform_of(text: str) -> Platform:
    """Return a platform by its text, such as linux/arm64/v8."""
    system, architecture, variant, *_ = (*text.split("/"), "", "", "")
    return Platform(system, architecture, variant)


def _attestation(entry: Descriptor) -> bool:
    return ATTESTED in entry.annotations or str(entry.platform) == _UNKNOWN
