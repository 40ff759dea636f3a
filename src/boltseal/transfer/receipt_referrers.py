"""Receipts as referrers of an image: stored in any registry beside the image that they are about.

    manifest   artifactType  ARTIFACT_TYPE, `subject` the image, an empty config
               annotations   TAG = repository and tag of the receipt, "created" = the time of the entry, and those by which cosign
                             describes a bundle
               one layer     of the type of sigstore bundles: the statement with the receipt (`ledger.receipt_attestation`)

cosign reads every referrer whose only layer is a bundle. The title of the layer is the name of the file that `oras pull` writes. The
annotations help people to choose, and prove nothing. A registry, or a client that may push, can hide or add referrers: a
receipt that is found counts only as far as it is verified. At most MAX_READ referrers and MAX_READ_BYTES are read.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from boltseal.client.errors import RemoteMismatch, RemoteNotFound
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
MAX_READ_BYTES: Final = 32 * 1024 * 1024
_EMPTY: Final = b"{}"
_UNTYPED: Final = frozenset({None, "", OCI_EMPTY})
"""Types by which a list may name a referrer of any type: cosign writes that of the config into fallback indexes."""


class ReceiptsUnread(RemoteMismatch):
    """More receipts are attached to an image than are read: any client that may push can add some."""


@dataclass(frozen=True, slots=True)
class AttachedStatement:
    """A referrer that is a receipt by its type. `raw`: its statement, unverified; None: it can't be read, as `problem` says."""

    referrer: Digest
    raw: bytes | None
    problem: str = ""


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


async def read_statements(source: ImageSource, subject: Digest) -> AsyncIterator[AttachedStatement]:
    """Yield the receipts that are attached to an image, unverified; those whose bytes are not as listed as problems.

    Raises: ReceiptsUnread: after the last one that is read, if there are more; errors of the source, except that something is
    missing or wrong.
    """
    listed = [each for each in await source.referrers(subject) if each.artifact_type in {ARTIFACT_TYPE, *_UNTYPED}]
    listed.sort(key=lambda each: each.artifact_type != ARTIFACT_TYPE)
    left = MAX_READ_BYTES
    for number, each in enumerate(listed):
        if number == MAX_READ or left <= 0:
            raise ReceiptsUnread(
                f"{source.title} lists more receipts of {subject} than are read ({MAX_READ}, of {MAX_READ_BYTES} bytes in all)"
            )
        try:
            found = await _read(source, each.digest)
        except RemoteNotFound:
            continue
        except RemoteMismatch as error:
            found = AttachedStatement(each.digest, None, error.message)
        if found is not None:
            left -= len(found.raw or b"")
            yield found


async def _read(source: ImageSource, referrer: Digest) -> AttachedStatement | None:
    """Read a referrer; None if it is no receipt by its type. Raises: errors of the source."""
    manifest = await source.manifest(referrer)
    if manifest.artifact_type != ARTIFACT_TYPE:
        return None
    if len(manifest.layers) != 1 or manifest.layers[0].media_type != BUNDLE:
        return AttachedStatement(referrer, None, f"it has no single layer of type {BUNDLE}")
    layer = manifest.layers[0]
    if layer.size > MAX_ATTESTATION_BYTES:
        problem = f"its statement has {layer.size} bytes; at most {MAX_ATTESTATION_BYTES} are read"
        return AttachedStatement(referrer, None, problem)
    return AttachedStatement(referrer, b"".join([piece async for piece in source.blob(layer)]))


class _Pieces:
    """The bytes of a small blob, as often as they are asked for."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    async def __call__(self) -> AsyncIterator[bytes]:
        yield self._raw


def _described(media_type: str, raw: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(raw)), "size": len(raw)}
