"""Media types: the ones the registry knows by name, and how a `Content-Type` header is read.

Only manifests have to be understood: the four of MANIFEST_TYPES, two kinds (one image, or an index of
several) from two families (OCI and Docker schema 2). Everything else is content the registry keeps without
opening it. Header values are compared in lower case and without parameters (RFC 9110, section 8.3.1); inside
documents a media type is taken letter by letter, because that is how clients compare it.
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
# Docker's manifests before content addresses for layers: named only to be refused in words.
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
    """A `Content-Type` that is no media type."""

    code: ClassVar[ErrorCode] = ErrorCode.MANIFEST_INVALID


def is_media_type(text: str) -> bool:
    """Whether this is `type/subtype` of RFC 6838, without parameters."""
    return _is_media_type(text) is not None


def is_foreign_layer(media_type: str) -> bool:
    """Whether a layer of this type may not be redistributed, so that a registry need not hold it."""
    return media_type in _FOREIGN_LAYERS


def parse_content_type(header: str | None) -> str | None:
    """The media type a `Content-Type` header names: lower-case, without parameters; None when there is no header.

    Raises MediaTypeInvalid on anything that is not `type/subtype` before the first ";".
    """
    if header is None:
        return None
    named = header.partition(";")[0].strip(" \t")
    if _is_media_type(named) is None:
        raise MediaTypeInvalid(f"Content-Type {quote(header)} is not a media type; expected one such as {OCI_MANIFEST}")
    return named.lower()
