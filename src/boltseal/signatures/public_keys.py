"""Public keys of signers, as `cosign generate-key-pair` and `openssl` write them (PEM, SubjectPublicKeyInfo). Pure.

The type of a key alone decides the algorithm of its signatures, so that no signature can choose a weaker one:

    EC, curve P-256      ECDSA with SHA-256, signatures in DER      what cosign generates
    RSA, 2048 to 8192    PKCS #1 v1.5 with SHA-256
    Ed25519              Ed25519
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from boltseal.errors import Invalid
from boltseal.loading import deferred

if TYPE_CHECKING:
    from cryptography import exceptions
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
else:  # a command that meets no signature starts without loading cryptography
    exceptions = deferred("cryptography.exceptions")
    hashes = deferred("cryptography.hazmat.primitives.hashes")
    serialization = deferred("cryptography.hazmat.primitives.serialization")
    ec = deferred("cryptography.hazmat.primitives.asymmetric.ec")
    ed25519 = deferred("cryptography.hazmat.primitives.asymmetric.ed25519")
    padding = deferred("cryptography.hazmat.primitives.asymmetric.padding")
    rsa = deferred("cryptography.hazmat.primitives.asymmetric.rsa")

MAX_KEY_BYTES: Final = 16 * 1024
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192

_BEGIN: Final = b"-----BEGIN PUBLIC KEY-----"


class PublicKeyInvalid(Invalid):
    """A file that is not one public key of a supported type."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key. `der`: its SubjectPublicKeyInfo. Equal keys are equal values, whatever file they were read from."""

    der: bytes

    @classmethod
    def parse(cls, pem: bytes) -> PublicKey:
        """Parse a file with exactly one public key. Raises: PublicKeyInvalid, also for a private key."""
        if len(pem) > MAX_KEY_BYTES:
            raise PublicKeyInvalid(f"a public key of {len(pem)} bytes; at most {MAX_KEY_BYTES} are read")
        if b"PRIVATE KEY" in pem:
            raise PublicKeyInvalid("this is a private key, which the registry must not have; give it the public key")
        if pem.count(b"-----BEGIN ") != 1 or _BEGIN not in pem:
            raise PublicKeyInvalid("expected one block BEGIN PUBLIC KEY, as cosign.pub has it")
        try:
            loaded = serialization.load_pem_public_key(pem)
        except (ValueError, exceptions.UnsupportedAlgorithm) as error:
            raise PublicKeyInvalid("the block BEGIN PUBLIC KEY has no key that can be read") from error
        match loaded:
            case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()) | ed25519.Ed25519PublicKey():
                pass
            case rsa.RSAPublicKey() if MIN_RSA_BITS <= loaded.key_size <= MAX_RSA_BITS:
                pass
            case _:
                raise PublicKeyInvalid(
                    f"a key of this type is not supported; expected EC on P-256, RSA of {MIN_RSA_BITS} to {MAX_RSA_BITS} "
                    "bits, or Ed25519"
                )
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        return cls(loaded.public_bytes(serialization.Encoding.DER, spki))

    @property
    def fingerprint(self) -> str:
        """The sha256 of the key, as 64 hex digits: `openssl pkey -pubin -outform DER | sha256sum` prints it."""
        return sha256(self.der).hexdigest()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Return whether this is a signature of the message by this key."""
        key = serialization.load_der_public_key(self.der)
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
            elif isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
            else:
                assert isinstance(key, ed25519.Ed25519PublicKey)  # noqa: S101  # `parse` accepts no other
                key.verify(signature, message)
        except exceptions.InvalidSignature:
            return False
        return True
