"""Sigstore bundles of version 0.3 that an identity signed: the certificate of a one-time key instead of a key. Pure.

    bytes: {"mediaType": ..., "verificationMaterial": {"certificate": {"rawBytes": ...}, "tlogEntries": [one],
            "timestampVerificationData": {"rfc3161Timestamps": [...]}}, "dsseEnvelope": {...}}

Two verifications make one: `boltseal.keyless.process` verifies certificate, time, log entry and signature under a trusted
root and says who signed which bytes (VerifiedBundle). Here that is compared with what is required. Both parse the bundle, so
the bytes that were signed are compared too. A bundle needs a log entry: without one the owner of an identity could not find
out that another person signed as them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

import msgspec

from boltseal.errors import quote
from boltseal.signatures.dsse import Envelope, payload_of, read_statement, signed_bytes
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.signed_image import CertificateIdentity, SignedImage, SigningTime, Statement
from boltseal.signatures.sigstore_bundle import BUNDLE, MAX_BUNDLE_BYTES
from boltseal.signatures.strict_json import parse_unsigned

LOG_ENTRIES: Final = 1


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """What a bundle proves under a trusted root. `signed`: the sha256 of the bytes that were signed, as 64 hex digits.

    `time`: of the signature; None where more than one time stamp is possible.
    """

    identity: CertificateIdentity
    signed: str
    time: SigningTime | None = None


@dataclass(frozen=True, slots=True)
class RefusedBundle:
    """A bundle that proves nothing under a trusted root, and why."""

    why: str


class _Material(msgspec.Struct, rename="camel"):
    certificate: dict[str, Any] | None = None
    tlog_entries: list[dict[str, Any]] = []


class _Bundle(msgspec.Struct, rename="camel"):
    media_type: str
    verification_material: _Material
    dsse_envelope: Envelope | None = None


def unverified_payload(raw: bytes) -> bytes:
    """Return the payload of a bundle, of which nothing is verified yet.

    1. It is strict JSON of at most MAX_BUNDLE_BYTES bytes, and of version 0.3.
    2. It was signed with a certificate and not with a key, and contains an envelope.
    3. It has one log entry.
    4. The envelope contains a statement by its type, has one signature, and its payload is base64.

    A bundle that fails here is refused before another process reads it. Raises: SignatureInvalid at the first step that fails.
    """
    # 1
    bundle = parse_unsigned(raw, _Bundle, "the bundle", MAX_BUNDLE_BYTES)
    if bundle.media_type != BUNDLE:
        raise SignatureInvalid(f"the bundle is of type {quote(bundle.media_type)}; expected {BUNDLE}")
    # 2
    material, envelope = bundle.verification_material, bundle.dsse_envelope
    if material.certificate is None:
        raise SignatureInvalid("the bundle was signed with a key; expected one signed with a certificate")
    if envelope is None:
        raise SignatureInvalid("the bundle has no dsseEnvelope, so it says nothing about an image")
    # 3
    if len(material.tlog_entries) != LOG_ENTRIES:
        raise SignatureInvalid(f"the bundle has {len(material.tlog_entries)} log entries; expected one")
    # 4
    if len(envelope.signatures) != 1:
        raise SignatureInvalid(f"the envelope has {len(envelope.signatures)} signatures; expected one")
    return payload_of(envelope)


def verify_keyless_bundle(
    raw: bytes,
    image: SignedImage,
    found: VerifiedBundle | RefusedBundle,
    identity: Callable[[str], bool],
    issuer: str,
) -> Statement:
    """Compare what a bundle proves with what is required. `found`: the process's result for exactly these bytes.

    1. The bundle can be read (`unverified_payload`).
    2. The process has verified it under the trusted root.
    3. The bytes that were signed are those that are read here.
    4. The issuer of the identity is the required one.
    5. One of the certificate's names is a required identity.
    6. The payload is a statement about the image (`dsse.read_statement`).

    Raises: SignatureInvalid at the first step that fails.
    """
    # 1
    payload = unverified_payload(raw)
    # 2
    if isinstance(found, RefusedBundle):
        raise SignatureInvalid(found.why)
    # 3
    if sha256(signed_bytes(payload)).hexdigest() != found.signed:
        raise SignatureInvalid("the bundle was signed over other bytes than its payload")
    # 4
    signer = found.identity
    if signer.issuer != issuer:
        raise SignatureInvalid(f"the identity was vouched for by {quote(signer.issuer)}; expected {quote(issuer)}")
    # 5
    if not any(identity(name) for name in signer.names):
        names = ", ".join(quote(name) for name in signer.names) or "a certificate without a name"
        raise SignatureInvalid(f"the bundle was signed by {names}, which is another identity")
    # 6
    return replace(read_statement(payload, image, signer), holder=str(signer), time=found.time)
