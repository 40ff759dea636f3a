"""One layer of a signature tag or referrer, whatever its format. Pure.

    layer's media type                              format
    application/vnd.dev.cosign.simplesigning.v1+json    `simple_signing`
    application/vnd.dsse.envelope.v1+json               `dsse`
    application/vnd.dev.sigstore.bundle.v0.3+json       `sigstore_bundle`
    application/jose+json, application/cose             `notation`, by a certificate and never by a key

The type of the layer decides, and not the artifact type of its manifest: cosign's fallback indexes have wrong ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from boltseal.errors import quote
from boltseal.signatures.dsse import ENVELOPE, MAX_ENVELOPE_BYTES, verify_attestation
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.notation_envelope import COSE, JWS, MAX_NOTATION_BYTES
from boltseal.signatures.public_keys import PublicKey
from boltseal.signatures.signed_image import SignedImage, Statement
from boltseal.signatures.sigstore_bundle import BUNDLE, MAX_BUNDLE_BYTES, verify_bundle
from boltseal.signatures.simple_signing import MAX_PAYLOAD_BYTES, SIMPLE_SIGNING, verify_simple_signing

MAX_LAYER_BYTES: Final = {
    SIMPLE_SIGNING: MAX_PAYLOAD_BYTES,
    ENVELOPE: MAX_ENVELOPE_BYTES,
    BUNDLE: MAX_BUNDLE_BYTES,
    JWS: MAX_NOTATION_BYTES,
    COSE: MAX_NOTATION_BYTES,
}
"""The media types of layers that are evidence, and how many bytes of each are read."""

MAX_MANIFESTS: Final = 200
MAX_LAYERS: Final = 200
MAX_BYTES: Final = 32 * 1024 * 1024
"""How much evidence of one image is read: any client that may push can attach more."""

SIGNATURE_TYPES: Final = frozenset(
    {
        BUNDLE,
        "application/vnd.cncf.notary.signature",
        "application/vnd.dev.cosign.artifact.sig.v1+json",
        "application/vnd.dev.cosign.artifact.att.v1+json",
    }
)
"""The artifact types of referrers that are read first, so that hundreds of SBOMs or scan results hide no signature."""


@dataclass(frozen=True, slots=True)
class EvidenceLayer:
    """A layer as stored: its media type, its bytes, and cosign's signature annotation; "" where the layer has none."""

    media_type: str
    raw: bytes
    signature: str = ""


def verify_layer(layer: EvidenceLayer, image: SignedImage, key: PublicKey) -> Statement:
    """Verify a layer by its format. Raises: SignatureInvalid, also for a media type that is none of MAX_LAYER_BYTES."""
    if layer.media_type == SIMPLE_SIGNING:
        return verify_simple_signing(layer.raw, layer.signature, image, key)
    if layer.media_type == ENVELOPE:
        return verify_attestation(layer.raw, image, key)
    if layer.media_type == BUNDLE:
        return verify_bundle(layer.raw, image, key)
    if layer.media_type in (JWS, COSE):
        raise SignatureInvalid("a signature of Notation is by a certificate; a public key can't verify it")
    raise SignatureInvalid(f"a layer of type {quote(layer.media_type)} is no signature that can be verified")
