"""Real images, one layer per letter, that any registry accepts."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping

from tests.images import OCI_CONFIG, OCI_MANIFEST, Blob, Document, digest_of, layer, to_json


def layered(
    letters: str,
    *,
    env: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    created: str = "2026-11-20T00:00:00Z",
) -> Document:
    """Build an image; images whose letters begin alike share these layers."""
    layers = [layer(letter) for letter in letters]
    body = {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {"Env": list(env), "Labels": dict(labels or {})},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(gzip.decompress(each.data)) for each in layers]},
        "history": [{"created": "2026-11-20T00:00:00Z", "created_by": letter} for letter in letters],
    }
    config = Blob(to_json(body), OCI_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor(),
        "layers": [each.descriptor() for each in layers],
        **({"annotations": dict(annotations)} if annotations else {}),
    }
    return Document(to_json(manifest), OCI_MANIFEST, (config, *layers))
