"""Attestations: in-toto statements in DSSE envelopes.

    envelope   {"payloadType": "application/vnd.in-toto+json", "payload": base64, "signatures": [{"sig": base64}]}
    payload    {"_type": "https://in-toto.io/Statement/v1", "subject": [{"name": ..., "digest": {"sha256": hex}}],
                "predicateType": URI, "predicate": {...}}
    signed     "DSSEv1" SP len(payloadType) SP payloadType SP len(payload) SP payload

`sha256-<hex>.att` resolves to a manifest whose layers are envelopes (`cosign attest`). Source: DSSE `protocol.md`, in-toto
attestation `spec/v1/statement.md`. A subject's `name` is a comment of the signer and not compared. Pure.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from boltseal.errors import quote
from boltseal.oci.base64_text import decode_base64
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.public_keys import PublicKey
from boltseal.signatures.signed_image import CertificateIdentity, SignedImage, Statement
from boltseal.signatures.strict_json import parse_strict, parse_unsigned

ENVELOPE: Final = "application/vnd.dsse.envelope.v1+json"
MAX_ENVELOPE_BYTES: Final = 16 * 1024 * 1024
"""An SBOM of a large image has a few megabytes."""
MAX_SIGNATURES: Final = 16
MAX_SUBJECTS: Final = 1000

COSIGN_SIGNATURE: Final = "https://sigstore.dev/cosign/sign/v1"
"""The predicate type by which a statement is a plain signature of its subject, as `cosign sign` of version 3 makes it."""

IN_TOTO: Final = "application/vnd.in-toto+json"
STATEMENT_V1: Final = "https://in-toto.io/Statement/v1"
_STATEMENTS: Final = frozenset({STATEMENT_V1, "https://in-toto.io/Statement/v0.1"})


class _Signature(msgspec.Struct):
    sig: str


class Envelope(msgspec.Struct, rename="camel"):
    """The JSON of an envelope. Nothing in it is verified."""

    payload: str
    payload_type: str
    signatures: list[_Signature]


class _Subject(msgspec.Struct):
    digest: dict[str, str]


class _Statement(msgspec.Struct, rename="camel"):
    type: str = msgspec.field(name="_type")
    subject: list[_Subject]
    predicate_type: str
    predicate: dict[str, Any] | None = None


def verify_attestation(raw: bytes, image: SignedImage, key: PublicKey) -> Statement:
    """Verify an envelope. Raises: SignatureInvalid when it is not strict JSON, or as `verify_envelope`."""
    return verify_envelope(parse_unsigned(raw, Envelope, "the envelope", MAX_ENVELOPE_BYTES), image, key)


def verify_envelope(envelope: Envelope, image: SignedImage, key: PublicKey) -> Statement:
    """Verify an envelope that was parsed strictly.

    1. The payload is an in-toto statement by the envelope's type, and is base64.
    2. One of at most MAX_SIGNATURES signatures is the key's, over type and payload. Before that the payload is not read.
    3. The payload is a statement, in strict JSON, with at most MAX_SUBJECTS subjects.
    4. One of its subjects has the image's digest.

    Raises: SignatureInvalid at the first step that fails.
    """
    # 1
    payload = payload_of(envelope)
    # 2
    if len(envelope.signatures) > MAX_SIGNATURES:
        raise SignatureInvalid(
            f"{len(envelope.signatures)} signatures in one envelope; at most {MAX_SIGNATURES} are read"
        )
    message = signed_bytes(payload)
    values = [decode_base64(each.sig) for each in envelope.signatures]
    if not any(value is not None and key.verifies(value, message) for value in values):
        raise SignatureInvalid("the envelope is signed by another key, or its payload was changed")
    # 3 and 4
    return read_statement(payload, image, key)


def payload_of(envelope: Envelope) -> bytes:
    """Return the payload of an envelope, unverified. Raises: SignatureInvalid, also if it is no in-toto statement by its type."""
    if envelope.payload_type != IN_TOTO:
        raise SignatureInvalid(f"the envelope contains {quote(envelope.payload_type)}; expected {quote(IN_TOTO)}")
    payload = decode_base64(envelope.payload)
    if payload is None:
        raise SignatureInvalid("the payload of the envelope is not base64")
    return payload


def signed_bytes(payload: bytes) -> bytes:
    """Return what the signature of an envelope with this statement is made over (DSSE's pre-authentication encoding)."""
    return f"DSSEv1 {len(IN_TOTO)} {IN_TOTO} {len(payload)} ".encode() + payload


def read_statement(payload: bytes, image: SignedImage, signer: PublicKey | CertificateIdentity) -> Statement:
    """Return what a payload says about an image, after `signer`'s signature of it was verified.

    1. It is an in-toto statement, in strict JSON, with at most MAX_SUBJECTS subjects.
    2. One of its subjects has the image's digest.

    Raises: SignatureInvalid at the first step that fails.
    """
    # 1
    statement = parse_strict(payload, _Statement, "the statement", MAX_ENVELOPE_BYTES)
    if statement.type not in _STATEMENTS:
        raise SignatureInvalid(f"the statement is of type {quote(statement.type)}; expected an in-toto statement")
    if len(statement.subject) > MAX_SUBJECTS:
        raise SignatureInvalid(f"the statement has {len(statement.subject)} subjects; at most {MAX_SUBJECTS} are read")
    # 2
    if not any(each.digest.get(image.digest.algorithm) == image.digest.hex for each in statement.subject):
        raise SignatureInvalid(f"the statement is about another digest; expected {image.digest}")
    if statement.predicate_type == COSIGN_SIGNATURE:
        return Statement(signer)
    return Statement(signer, statement.predicate_type, statement.predicate or {})
