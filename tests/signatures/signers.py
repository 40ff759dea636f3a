"""Signers of tests: key pairs, and signatures and attestations as cosign makes them, right or wrong."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from boltseal.oci.digest import Digest
from boltseal.signatures.dsse import COSIGN_SIGNATURE
from boltseal.signatures.public_keys import PublicKey
from boltseal.signatures.sigstore_bundle import BUNDLE

Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
IN_TOTO = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Signer:
    """A key pair."""

    private: Private

    @classmethod
    def on_p256(cls) -> Signer:
        """Return a new key pair of the type that cosign generates."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @property
    def pem(self) -> bytes:
        """The public key as a file has it."""
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, spki)

    @property
    def key(self) -> PublicKey:
        """The public key."""
        return PublicKey.parse(self.pem)

    def sign(self, message: bytes) -> bytes:
        """Sign with the algorithm of the key's type."""
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            return self.private.sign(message, ec.ECDSA(hashes.SHA256()))
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return self.private.sign(message)

    def signature_of(self, payload: bytes) -> str:
        """Return cosign's signature annotation."""
        return b64encode(self.sign(payload)).decode()

    def envelope(self, payload: bytes, payload_type: str = IN_TOTO) -> dict[str, Any]:
        """Return a DSSE envelope as JSON has it."""
        pae = f"DSSEv1 {len(payload_type)} {payload_type} {len(payload)} ".encode() + payload
        signatures = [{"keyid": "", "sig": b64encode(self.sign(pae)).decode()}]
        return {"payload": b64encode(payload).decode(), "payloadType": payload_type, "signatures": signatures}

    def bundle(self, payload: bytes) -> dict[str, Any]:
        """Return a sigstore bundle as JSON has it."""
        return {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": "aGludA=="}, "tlogEntries": []},
            "dsseEnvelope": self.envelope(payload),
        }


def simple_payload(digest: Digest, reference: str, type_: str = "cosign container image signature") -> bytes:
    """Return the payload that `cosign sign` signs."""
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": str(digest)},
        "type": type_,
    }
    return json.dumps({"critical": critical, "optional": {"by": "builder"}}).encode()


def statement(
    digest: Digest, predicate_type: str = COSIGN_SIGNATURE, predicate: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return an in-toto statement as JSON has it."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "shop/app", "digest": {digest.algorithm: digest.hex}}],
        "predicateType": predicate_type,
        "predicate": dict(predicate or {}),
    }


def encoded(document: object) -> bytes:
    """Return JSON."""
    return json.dumps(document).encode()
