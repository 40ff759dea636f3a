"""Public keys: which are read, and that a key's type alone decides the algorithm of its signatures."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa

from boltseal.signatures.public_keys import MAX_KEY_BYTES, PublicKey, PublicKeyInvalid
from tests.signatures.signers import Signer

RSA = rsa.generate_private_key(65537, 2048)
SIGNERS = [Signer.on_p256(), Signer(RSA), Signer(ed25519.Ed25519PrivateKey.generate())]
PEM = serialization.Encoding.PEM
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


@pytest.mark.parametrize("signer", SIGNERS, ids=["p256", "rsa", "ed25519"])
def test_a_key_verifies_its_own_signatures_only(signer: Signer) -> None:
    """A signature holds for one key and one message."""
    value = signer.sign(b"message")

    assert signer.key.verifies(value, b"message")
    assert not signer.key.verifies(value, b"messagf")
    assert not signer.key.verifies(value + b"\0", b"message")
    assert not signer.key.verifies(b"", b"message")
    assert not any(other.key.verifies(value, b"message") for other in SIGNERS if other is not signer)


def test_a_signature_with_another_padding_or_hash_is_refused() -> None:
    """The right key with an algorithm that is not its type's is no valid signature."""
    key, p256 = Signer(RSA).key, SIGNERS[0]
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    assert isinstance(p256.private, ec.EllipticCurvePrivateKey)

    assert not key.verifies(RSA.sign(b"message", pss, hashes.SHA256()), b"message")
    assert not key.verifies(RSA.sign(b"message", padding.PKCS1v15(), hashes.SHA512()), b"message")
    assert not p256.key.verifies(p256.private.sign(b"message", ec.ECDSA(hashes.SHA512())), b"message")


def test_the_fingerprint_is_of_the_key_and_not_of_the_file() -> None:
    """Text around the block changes nothing."""
    signer = SIGNERS[0]

    assert PublicKey.parse(b"release key\n" + signer.pem) == signer.key
    assert len(signer.key.fingerprint) == 64


def _pem(private: dsa.DSAPrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return private.public_key().public_bytes(PEM, SPKI)


REFUSED = {
    "empty": (b"", "expected one block"),
    "two keys": (SIGNERS[0].pem + SIGNERS[1].pem, "expected one block"),
    "a certificate": (b"-----BEGIN CERTIFICATE-----\n", "expected one block"),
    "no key in it": (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no key that can be read"),
    "too long": (b"x" * (MAX_KEY_BYTES + 1), "at most"),
    "P-384": (_pem(ec.generate_private_key(ec.SECP384R1())), "not supported"),
    "short RSA": (_pem(rsa.generate_private_key(65537, 1024)), "not supported"),  # noqa: S505 - that is the point
    "DSA": (_pem(dsa.generate_private_key(2048)), "not supported"),
    "a private key": (
        RSA.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        "this is a private key",
    ),
}


@pytest.mark.parametrize(("pem", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_one_public_key_is_refused(pem: bytes, why: str) -> None:
    """A file is exactly one public key of a supported type."""
    with pytest.raises(PublicKeyInvalid, match=why):
        PublicKey.parse(pem)
