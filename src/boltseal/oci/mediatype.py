"""Media types that the registry knows, and the parser of `Content-Type` headers.

The registry parses manifests only: the four of MANIFEST_TYPES, which are images and indexes of OCI and of Docker schema 2. It
stores all other content without parsing it. Header values are compared in lower case and without parameters (RFC 9110,
section 8.3.1). In documents, media types are compared exactly, as clients do.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from boltseal.errors import ErrorCode, Invalid, quote

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"

IMAGE_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES: Final = IMAGE_TYPES | INDEX_TYPES
DOCKER_TYPES: Final = frozenset({DOCKER_MANIFEST, DOCKER_LIST})
# Docker's old manifests without digests of layers. They are listed so that the error can give the reason.
SCHEMA1_TYPES: Final = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)

_FOREIGN_LAYERS: Final = frozenset(
    {
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    }
)

# RFC 6838, section 4.2: both names begin with a letter or digit and have at most 127 characters.
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_is_media_type: Final = re.compile(rf"{_NAME}/{_NAME}").fullmatch


class MediaTypeInvalid(Invalid):
    """A `Content-Type` that is not a media type."""

    code: ClassVar[ErrorCode] = ErrorCode.MANIFEST_INVALID


def is_media_type(text: str) -> bool:
    """Return whether a text is a `type/subtype` of RFC 6838, without parameters."""
    return _is_media_type(text) is not None


def is_foreign_layer(media_type: str) -> bool:
    """Return whether layers of this type must not be redistributed, so that a registry may lack them."""
    return media_type in _FOREIGN_LAYERS


def parse_content_type(header: str | None) -> str | None:
    """Return the media type of a `Content-Type` header, lower-case and without parameters; None without a header.

    Raises: MediaTypeInvalid when the text before the first ";" is not `type/subtype`.
    """
    if header is None:
        return None
    named = header.partition(";")[0].strip(" \t")
    if _is_media_type(named) is None:
        raise MediaTypeInvalid(f"Content-Type {quote(header)} is not a media type; expected one such as {OCI_MANIFEST}")
    return named.lower()
