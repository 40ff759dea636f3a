"""Read the evidence of an image at any source, as the server reads its own: the same places, and the same limits.

    sha256-<hex>.sig, sha256-<hex>.att      the manifests that these tags resolve to (cosign)
    referrers                               manifests whose subject is the image

Nothing is verified here but digests: `policy.requirements` judges what was read. Evidence over the limits is not read, and
counts as missing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from boltseal.errors import NotFound
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.policy.requirements import StoredEvidence
from boltseal.signatures.evidence import (
    MAX_BYTES,
    MAX_LAYER_BYTES,
    MAX_LAYERS,
    MAX_MANIFESTS,
    SIGNATURE_TYPES,
    EvidenceLayer,
)
from boltseal.signatures.simple_signing import SIGNATURE_ANNOTATION
from boltseal.transfer.protocols import ImageSource

_SIGNATURE_TAGS: Final = (".sig", ".att")


async def read_evidence(source: ImageSource, digest: Digest) -> list[StoredEvidence]:
    """Read the signatures and attestations of an image. Raises: errors of the source, except that something is missing."""
    evidence: list[StoredEvidence] = []
    count, left_bytes = 0, MAX_BYTES
    async for found, manifest in _manifests(source, digest):
        layers: list[EvidenceLayer] = []
        for layer in manifest.layers:
            if layer.size > min(MAX_LAYER_BYTES.get(layer.media_type, 0), left_bytes) or count == MAX_LAYERS:
                continue
            try:
                raw = b"".join([piece async for piece in source.blob(layer)])
            except NotFound:
                continue
            layers.append(EvidenceLayer(layer.media_type, raw, layer.annotations.get(SIGNATURE_ANNOTATION, "")))
            count, left_bytes = count + 1, left_bytes - len(raw)
        if layers:
            evidence.append(StoredEvidence(found, tuple(layers)))
    return evidence


async def _manifests(source: ImageSource, digest: Digest) -> AsyncIterator[tuple[Digest, Manifest]]:
    """Yield the manifests that can be evidence, each once: signature tags first, then referrers, those of signatures first."""
    seen: set[Digest] = set()
    for suffix in _SIGNATURE_TAGS:
        try:
            found = await source.resolve(f"{digest.as_tag}{suffix}")
            manifest = await source.manifest(found)
        except NotFound:
            continue
        seen.add(found)
        yield found, manifest
    listed = sorted(await source.referrers(digest), key=lambda entry: entry.artifact_type not in SIGNATURE_TYPES)
    for entry in listed[:MAX_MANIFESTS]:
        if entry.digest in seen:
            continue
        seen.add(entry.digest)
        try:
            manifest = await source.manifest(entry.digest)
        except NotFound:
            continue
        if manifest.subject is not None and manifest.subject.digest == digest:
            yield entry.digest, manifest
