"""Parse the config of an image (image-spec "config.md"): the values that comparisons and reports need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from boltseal.oci.jsontext import decode
from boltseal.oci.manifest import Manifest
from boltseal.oci.mediatype import DOCKER_CONFIG, OCI_CONFIG
from boltseal.oci.platform import Platform
from boltseal.transfer.protocols import ContentDamaged, ImageSource

_CONFIG_TYPES: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
MAX_CONFIG_BYTES: Final = 8 * 1024 * 1024


class _Run(msgspec.Struct, rename="pascal"):
    labels: dict[str, str] | None = None
    user: str | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None


class _RootFs(msgspec.Struct):
    diff_ids: list[str] | None = None


class _Config(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""
    created: str | None = None
    config: _Run | None = None
    rootfs: _RootFs | None = None


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The config of an image. `diff_ids`: digests of the uncompressed layers; `created`: as in the config, or ""."""

    raw: bytes
    platform: Platform
    created: str
    labels: Mapping[str, str]
    user: str
    command: tuple[str, ...]
    diff_ids: tuple[str, ...]


async def image_config(source: ImageSource, manifest: Manifest) -> ImageConfig | None:
    """Fetch and parse the config of an image, verified; None for an index or an artifact (an SBOM, a signature)."""
    descriptor = manifest.config
    if descriptor is None or descriptor.media_type not in _CONFIG_TYPES:
        return None
    if descriptor.size > MAX_CONFIG_BYTES:
        raise ContentDamaged(f"{source.title}: a config of {descriptor.size} bytes is more than is read")
    raw = b"".join([piece async for piece in source.blob(descriptor)])
    try:
        read = decode(raw, _Config)
    except msgspec.MsgspecError:
        return None
    run = read.config or _Run()
    return ImageConfig(
        raw,
        Platform(read.os, read.architecture, read.variant),
        read.created or "",
        run.labels or {},
        run.user or "",
        (*(run.entrypoint or ()), *(run.cmd or ())),
        tuple((read.rootfs or _RootFs()).diff_ids or ()),
    )
