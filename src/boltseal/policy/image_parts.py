"""Recognize the parts of an image that a client pushes under the image's tag. Pure.

Docker 23 to 26 with containerd's image store, `ctr` and `nerdctl` of that time and `docker buildx imagetools` before 0.22 send
every manifest of an image to the tag: the images, the attestations, and last the index that lists them. Newer clients send all
but the index to its digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.mediatype import OCI_CONFIG
from boltseal.oci.platform import Platform

ATTESTATION: Final = "application/vnd.docker.attestation.manifest.v1+json"
MAX_PLATFORM: Final = 64
IN_TOTO: Final = "application/vnd.in-toto+json"


@dataclass(frozen=True, slots=True)
class Parts:
    """How a pushed manifest relates to the manifest that the tag resolves to.

    `settle`: the rule in force lets new tags settle. `actor`: the user who pushes. `index`, `attestation`: what the pushed
    manifest is. `lists_current`: it is an index that lists the current manifest. `in_current`: the current manifest is an
    index that lists it. `other_platform`: both are images, of different known platforms.
    """

    settle: bool = False
    actor: str = ""
    index: bool = False
    attestation: bool = False
    lists_current: bool = False
    in_current: bool = False
    other_platform: bool = False


NO_PARTS: Final = Parts()


def is_attestation(manifest: Manifest) -> bool:
    """Return whether a manifest is an attestation as BuildKit writes it: in-toto statements about an image."""
    if manifest.artifact_type == ATTESTATION:
        return True
    in_toto = bool(manifest.layers) and all(layer.media_type == IN_TOTO for layer in manifest.layers)
    return in_toto and manifest.artifact_type == OCI_CONFIG


class _Config(msgspec.Struct):
    """The platform in the config of an image."""

    os: str = ""
    architecture: str = ""
    variant: str = ""


def platform_of(config: bytes) -> str:
    """Return the platform in the config of an image, such as `linux/arm64/v8`; "" if it states none."""
    try:
        found = msgspec.json.decode(config, type=_Config)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    platform = str(Platform(found.os, found.architecture, found.variant))
    known = found.os and found.architecture and len(platform) <= MAX_PLATFORM and platform.isascii()
    return platform if known and platform.isprintable() else ""


def lists(index: Manifest, digest: Digest, media_type: str) -> bool:
    """Return whether an index lists a manifest, by this digest and with its media type."""
    return any(each.digest == digest and each.media_type == media_type for each in index.manifests)
