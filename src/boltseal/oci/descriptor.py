"""Descriptors: media type, digest and size of content that a document refers to (image-spec "descriptor.md").

`WireDescriptor` is the JSON as msgspec reads it; `Descriptor.read` checks and converts it. A `Descriptor` always has a valid
media type, a digest of a supported algorithm, and a size of at most 63 bits. Embedded `data` must match the digest, since
clients may use `data` without asking the registry. The registry checks whether the content exists.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final

import msgspec

from boltseal.errors import ErrorCode, Invalid, quote
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.mediatype import is_foreign_layer, is_media_type
from boltseal.oci.platform import Platform

DESCRIPTOR_KEYS: Final = frozenset(
    {"mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform"}
)
PLATFORM_KEYS: Final = frozenset({"os", "architecture", "variant", "os.version", "os.features"})


class DescriptorInvalid(Invalid):
    """An invalid descriptor. The message has no position; the caller adds it."""

    code: ClassVar[ErrorCode] = ErrorCode.MANIFEST_INVALID


class WirePlatform(msgspec.Struct):
    """The JSON of a platform."""

    os: str | None = None
    architecture: str | None = None
    variant: str | None = None
    os_version: str | None = msgspec.field(default=None, name="os.version")
    os_features: list[str] | None = msgspec.field(default=None, name="os.features")


class WireDescriptor(msgspec.Struct, rename="camel"):
    """The JSON of a descriptor; `null` is read as absent, since Go writes it."""

    media_type: str
    digest: str
    size: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    data: str | None = None
    artifact_type: str | None = None
    platform: WirePlatform | None = None


class Descriptor(msgspec.Struct, frozen=True):
    """A reference to content. `size` in bytes; fields that the document lacks are empty or None."""

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = {}
    artifact_type: str | None = None
    platform: Platform | None = None

    @property
    def foreign(self) -> bool:
        """Whether a registry may lack this layer: its type forbids redistribution, or it has `urls` of other sources."""
        return bool(self.urls) or is_foreign_layer(self.media_type)

    @classmethod
    def read(cls, wire: WireDescriptor) -> Descriptor:
        """Check and convert the JSON of a descriptor. Raises: DescriptorInvalid."""
        check_media_type(wire.media_type, "mediaType")
        if wire.artifact_type:
            check_media_type(wire.artifact_type, "artifactType")
        try:
            digest = Digest.parse(wire.digest)
        except DigestInvalid as error:
            raise DescriptorInvalid(error.message) from error
        if wire.data:
            _check_data(wire.data, digest, wire.size)
        return cls(
            wire.media_type,
            digest,
            wire.size,
            tuple(wire.urls) if wire.urls else (),
            wire.annotations or {},
            wire.artifact_type or None,
            _platform(wire.platform) if wire.platform else None,
        )


def check_media_type(text: str, key: str) -> None:
    """Check a media type, with or without parameters (RFC 6838). `key`: for the message. Raises: DescriptorInvalid."""
    if not is_media_type(text) and not is_media_type(text.partition(";")[0]):
        raise DescriptorInvalid(
            f"{key} {quote(text)} is not a media type; expected one such as application/vnd.example+json"
        )


def _check_data(data: str, digest: Digest, size: int) -> None:
    try:
        embedded = b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DescriptorInvalid("data is not base64") from error
    if len(embedded) != size or Digest.of(embedded, digest.algorithm) != digest:
        raise DescriptorInvalid(
            f"data is not the content that the descriptor names: it holds {len(embedded)} bytes "
            f"with digest {Digest.of(embedded, digest.algorithm).short}, expected {size} bytes with {digest.short}"
        )


def _platform(wire: WirePlatform) -> Platform:
    return Platform(
        wire.os or "",
        wire.architecture or "",
        wire.variant or "",
        wire.os_version or "",
        tuple(wire.os_features or ()),
    )
