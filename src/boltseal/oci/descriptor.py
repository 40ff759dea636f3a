"""The descriptor: what a document says of something else that it names by digest (image-spec "descriptor.md").

`WireDescriptor` is the JSON as msgspec reads it, `Descriptor` what the product works with; `read` is the only
way from one to the other. Kept here: a descriptor that exists names a media type, a digest we can compute and a
size that 64 bits hold; what it carries along in `data` are the bytes it names, otherwise it is refused, because
clients may take `data` for the content without asking the registry. Whether the named content exists is left
to the registry.
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
    """A descriptor that can't be right; the message does not say where it stands, its reader adds that."""

    code: ClassVar[ErrorCode] = ErrorCode.MANIFEST_INVALID


class WirePlatform(msgspec.Struct):
    """A platform as the JSON has it."""

    os: str | None = None
    architecture: str | None = None
    variant: str | None = None
    os_version: str | None = msgspec.field(default=None, name="os.version")
    os_features: list[str] | None = msgspec.field(default=None, name="os.features")


class WireDescriptor(msgspec.Struct, rename="camel"):
    """A descriptor as the JSON has it; `null` stands for absent, as Go writes it."""

    media_type: str
    digest: str
    size: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    data: str | None = None
    artifact_type: str | None = None
    platform: WirePlatform | None = None


class Descriptor(msgspec.Struct, frozen=True):
    """Content that a document names: `size` in bytes; empty or None where the document says nothing."""

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = {}
    artifact_type: str | None = None
    platform: Platform | None = None

    @property
    def foreign(self) -> bool:
        """Whether a registry need not hold this layer: its type forbids redistribution, or it says where else it lies."""
        return bool(self.urls) or is_foreign_layer(self.media_type)

    @classmethod
    def read(cls, wire: WireDescriptor) -> Descriptor:
        """The descriptor that this JSON is; DescriptorInvalid says what is wrong with it."""
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
    """Holds the value of `key` against RFC 6838, with or without parameters; raises DescriptorInvalid."""
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
