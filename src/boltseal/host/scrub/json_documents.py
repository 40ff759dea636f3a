"""Reads manifests and indexes from stores, which lack the media type that a registry sends with them."""

from __future__ import annotations

import msgspec

from boltseal.engines.json_documents import decoded
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.oci.mediatype import OCI_INDEX, OCI_MANIFEST


class _Kind(msgspec.Struct):
    media_type: str | None = msgspec.field(default=None, name="mediaType")
    manifests: msgspec.Raw = msgspec.Raw(b"")


def read_manifest(raw: bytes, media_type: str | None = None) -> Manifest:
    """Parse a manifest or index.

    Raises: ManifestInvalid; StoreMalformed: if it is not JSON.
    """
    kind = decoded(raw, _Kind, "a manifest")
    guess = OCI_INDEX if bytes(kind.manifests) not in (b"", b"null") else OCI_MANIFEST
    return parse_manifest(raw, kind.media_type or media_type or guess)
