"""Sigstore bundles of version 0.3 that a key signed, as `cosign --new-bundle-format` stores them in referrers.

    manifest: artifactType  application/vnd.dev.sigstore.bundle.v0.3+json, `subject` the image, one layer of the same type
    bytes:    {"mediaType": that type, "verificationMaterial": {"publicKey": {"hint": ...}, ...},
               "dsseEnvelope": {...}}

Source: sigstore `protobuf-specs` (`sigstore_bundle.proto`), cosign `specs/BUNDLE_SPEC.md`. Time stamps and log entries in the
bundle are ignored, since the given key is trusted without them, and so is the hint: the key that verifies is given. A bundle
with a certificate needs an issuer and a log to be trusted, and is refused. Pure.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from boltseal.errors import quote
from boltseal.signatures.dsse import MAX_ENVELOPE_BYTES, Envelope, verify_envelope
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.public_keys import PublicKey
from boltseal.signatures.signed_image import SignedImage, Statement
from boltseal.signatures.strict_json import parse_unsigned

BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_BUNDLE_BYTES: Final = MAX_ENVELOPE_BYTES


class _Material(msgspec.Struct, rename="camel"):
    public_key: dict[str, Any] | None = None


class _Bundle(msgspec.Struct, rename="camel"):
    media_type: str
    verification_material: _Material
    dsse_envelope: Envelope | None = None


def verify_bundle(raw: bytes, image: SignedImage, key: PublicKey) -> Statement:
    """Verify a bundle.

    1. It is strict JSON of at most MAX_BUNDLE_BYTES bytes, and of version 0.3.
    2. It was signed with a key and not with a certificate, and contains an envelope.
    3. The envelope is valid for the image and the key (`dsse.verify_envelope`).

    Raises: SignatureInvalid at the first step that fails.
    """
    # 1
    bundle = parse_unsigned(raw, _Bundle, "the bundle", MAX_BUNDLE_BYTES)
    if bundle.media_type != BUNDLE:
        raise SignatureInvalid(f"the bundle is of type {quote(bundle.media_type)}; expected {BUNDLE}")
    # 2
    if bundle.verification_material.public_key is None:
        raise SignatureInvalid("the bundle was signed with a certificate; expected one signed with a key")
    if bundle.dsse_envelope is None:
        raise SignatureInvalid("the bundle has no dsseEnvelope, so it says nothing about an image")
    # 3
    return verify_envelope(bundle.dsse_envelope, image, key)
