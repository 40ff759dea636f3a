"""Receipts as referrers of an image: stored in any registry beside the image that they are about.

    manifest   artifactType  ARTIFACT_TYPE, `subject` the image, an empty config
               annotations   TAG = repository and tag of the receipt, "created" = the time of the entry, and those by which cosign
                             describes a bundle
               one layer     of the type of sigstore bundles: the statement with the receipt (`ledger.receipt_attestation`)

cosign reads every referrer whose only layer is a bundle. The title of the layer is the name of the file that `oras pull` writes. The
annotations help people to choose, and prove nothing. A registry, or a client that may push, can hide or add referrers: a
receipt that is found counts only as far as it is verified.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Final

from boltseal.client.errors import RemoteNotFound
from boltseal.ledger.entry import format_time
from boltseal.ledger.proof import VerifiedReceipt
from boltseal.ledger.receipt_attestation import MAX_ATTESTATION_BYTES, PREDICATE_TYPE
from boltseal.oci.annotations import CREATED
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.oci.mediatype import OCI_EMPTY, OCI_MANIFEST
from boltseal.signatures.sigstore_bundle import BUNDLE
from boltseal.transfer.protocols import ImageSource, ImageTarget

ARTIFACT_TYPE: Final = "application/vnd.boltseal.receipt.v1+json"
TAG: Final = "dev.boltseal.receipt.tag"
TITLE: Final = "org.opencontainers.image.title"
FILE_NAME: Final = "receipt.sigstore.json"
MAX_READ: Final = 200
"""How many referrers of one image are read: any client that may push can add some."""
_EMPTY: Final = b"{}"


def receipt_manifest(statement: bytes, receipt: VerifiedReceipt, subject: Manifest) -> Manifest:
    """Return the manifest of a referrer. `subject`: the image that the receipt is about."""
    entry = receipt.entry
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": _described(OCI_EMPTY, _EMPTY),
        "layers": [_described(BUNDLE, statement) | {"annotations": {TITLE: FILE_NAME}}],
        "subject": _described(subject.media_type, subject.raw) | {"digest": entry.digest},
        "annotations": {
            CREATED: format_time(entry.time_us),
            TAG: f"{entry.repository}:{entry.tag}",
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": PREDICATE_TYPE,
        },
    }
    return parse_manifest(json.dumps(document).encode(), OCI_MANIFEST)


async def attach(target: ImageTarget, statement: bytes, manifest: Manifest) -> Digest:
    """Store a referrer, and return its digest. Raises: RemoteRefused and other errors of the target."""
    for descriptor, raw in zip((manifest.config, *manifest.layers), (_EMPTY, statement), strict=True):
        if descriptor is not None:
            await target.put_blob(descriptor, _Pieces(raw))
    digest = Digest.of(manifest.raw)
    await target.put_manifest(manifest, digest, None, only_new=False)
    return digest


async def read_statements(source: ImageSource, subject: Digest) -> AsyncIterator[tuple[Digest, bytes]]:
    """Yield the statements that are attached to an image, unverified, with the digests of their manifests.

    Raises: errors of the source, except that something is missing.
    """
    referrers = await source.referrers(subject)
    for listed in sorted(referrers, key=lambda each: each.artifact_type != ARTIFACT_TYPE)[:MAX_READ]:
        try:
            manifest = await source.manifest(listed.digest)
            if manifest.artifact_type != ARTIFACT_TYPE:  # the list may have another: cosign's fallback indexes do
                continue
            for layer in manifest.layers[:1]:
                if layer.media_type == BUNDLE and layer.size <= MAX_ATTESTATION_BYTES:
                    yield listed.digest, b"".join([piece async for piece in source.blob(layer)])
        except RemoteNotFound:
            continue


class _Pieces:
    """The bytes of a small blob, as often as they are asked for."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    async def __call__(self) -> AsyncIterator[bytes]:
        yield self._raw


def _described(media_type: str, raw: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(raw)), "size": len(raw)}
