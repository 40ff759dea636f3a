"""Images with instructions, settings, labels, packages and files, for tests of the pages that show images."""

from __future__ import annotations

import gzip
from collections.abc import Mapping

from tests.images import OCI_CONFIG, OCI_MANIFEST, Blob, Document, digest_of, to_json
from tests.packaged_images import DPKG, dpkg, layer_of

BASE_LAYER = layer_of({"etc/base": b"base", DPKG: dpkg(bash="5.1", openssl="3.0.1")})
BASE_NAME = "org.opencontainers.image.base.name"
BASE_DIGEST = "org.opencontainers.image.base.digest"


def built_image(
    layers: Mapping[str, Blob],
    *,
    labels: Mapping[str, str] | None = None,
    settings: Mapping[str, object] | None = None,
    annotations: Mapping[str, str] | None = None,
    architecture: str = "amd64",
) -> Document:
    """Return an image with these layers by the instructions that made them; its last instruction makes no layer."""
    config = Blob(
        to_json(
            {
                "architecture": architecture,
                "os": "linux",
                "created": "2026-11-20T00:00:00Z",
                "config": {"Cmd": ["/run"], "Labels": dict(labels or {}), **(settings or {})},
                "rootfs": {
                    "type": "layers",
                    "diff_ids": [digest_of(gzip.decompress(each.data)) for each in layers.values()],
                },
                "history": [
                    *({"created_by": instruction} for instruction in layers),
                    {"created_by": 'CMD ["/run"]', "empty_layer": True},
                ],
            }
        ),
        OCI_CONFIG,
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor(),
        "layers": [each.descriptor() for each in layers.values()],
        "annotations": dict(annotations or {}),
    }
    return Document(to_json(manifest), OCI_MANIFEST, (config, *layers.values()))


def based_on(name: str, base: Document) -> dict[str, str]:
    """Return the labels that state a base image."""
    return {BASE_NAME: name, BASE_DIGEST: base.digest}
