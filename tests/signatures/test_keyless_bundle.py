"""Bundles of identities: what a verified one says about an image, and each lie that does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.signatures.dsse import signed_bytes
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.keyless_bundle import (
    RefusedBundle,
    VerifiedBundle,
    unverified_payload,
    verify_keyless_bundle,
)
from boltseal.signatures.signed_image import CertificateIdentity, SignedImage, SigningTime, Statement, TimeSource
from boltseal.signatures.sigstore_bundle import BUNDLE, MAX_BUNDLE_BYTES
from tests.signatures.signers import Signer, encoded, statement

DIGEST = Digest.of(b"image")
IMAGE = SignedImage(Repository("shop/app"), DIGEST)
PAYLOAD = encoded(statement(DIGEST))
WHO = CertificateIdentity(("release@acme.example",), "https://accounts.example.com")
ENVELOPE = Signer.on_p256().envelope(PAYLOAD)
HOLDER = "release@acme.example of https://accounts.example.com"


def bundle(envelope: dict[str, Any] | None = None, **material: Any) -> dict[str, Any]:
    """Return a bundle with a certificate, of which nothing is verified here."""
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {"certificate": {"rawBytes": "AA=="}, "tlogEntries": [{}], **material},
        "dsseEnvelope": envelope or ENVELOPE,
    }


def verified(payload: bytes = PAYLOAD, who: CertificateIdentity = WHO) -> VerifiedBundle:
    return VerifiedBundle(who, sha256(signed_bytes(payload)).hexdigest())


def verify(document: dict[str, Any], found: VerifiedBundle | RefusedBundle, image: SignedImage = IMAGE) -> Statement:
    return verify_keyless_bundle(encoded(document), image, found, "release@acme.example".__eq__, WHO.issuer)


def test_a_verified_bundle_of_the_identity_is_a_signature() -> None:
    """The statement names who signed, and when."""
    time = SigningTime(datetime(2026, 12, 1, tzinfo=UTC), TimeSource.LOG)

    assert verify(bundle(), replace(verified(), time=time)) == Statement(WHO, holder=HOLDER, time=time)


UNREADABLE = {
    "too large": (b" " * (MAX_BUNDLE_BYTES + 1), "bytes; at most"),
    "not JSON": (b"no", "is not JSON"),
    "another version": (encoded(bundle() | {"mediaType": "x"}), 'is of type "x"'),
    "a key": (encoded(bundle(certificate=None, publicKey={"hint": ""})), "signed with a key"),
    "no envelope": (encoded(bundle() | {"dsseEnvelope": None}), "no dsseEnvelope"),
    "no log entry": (encoded(bundle(tlogEntries=[])), "0 log entries; expected one"),
    "two log entries": (encoded(bundle(tlogEntries=[{}, {}])), "2 log entries; expected one"),
    "no signature": (encoded(bundle(ENVELOPE | {"signatures": []})), "0 signatures; expected one"),
    "two signatures": (encoded(bundle(ENVELOPE | {"signatures": ENVELOPE["signatures"] * 2})), "2 signatures"),
    "another payload": (encoded(bundle(ENVELOPE | {"payloadType": "text/plain"})), "the envelope contains"),
    "no base64": (encoded(bundle(ENVELOPE | {"payload": "?"})), "is not base64"),
    "a key twice": (encoded(bundle())[:-1] + b', "mediaType": "x"}', "a key twice"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "why"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_step_1_a_bundle_that_can_be_misread_is_refused(raw: bytes, why: str) -> None:
    """A bundle is refused before another process reads it, and also if that process has verified it."""
    with pytest.raises(SignatureInvalid, match=why):
        unverified_payload(raw)
    with pytest.raises(SignatureInvalid, match=why):
        verify_keyless_bundle(raw, IMAGE, verified(), lambda _: True, WHO.issuer)


def test_step_2_a_refused_bundle_is_refused_with_its_reason() -> None:
    """What the process says is shown."""
    with pytest.raises(SignatureInvalid, match="invalid log entry"):
        verify(bundle(), RefusedBundle("invalid log entry"))


def test_step_3_the_bytes_that_were_signed_are_those_that_are_read() -> None:
    """A process that read another payload in these bytes has verified something else."""
    with pytest.raises(SignatureInvalid, match="over other bytes"):
        verify(bundle(), verified(encoded(statement(Digest.of(b"other")))))


def test_step_4_the_issuer_is_the_required_one() -> None:
    """A name at another issuer is another identity."""
    other = CertificateIdentity(WHO.names, "https://evil.example")

    with pytest.raises(SignatureInvalid, match=r"https://evil.example.*expected \"https://accounts.example.com\""):
        verify(bundle(), verified(who=other))


@pytest.mark.parametrize("names", [(), ("mallory@acme.example",), ("xrelease@acme.example",)])
def test_step_5_the_identity_is_the_required_one(names: tuple[str, ...]) -> None:
    """Names are compared as a whole."""
    with pytest.raises(SignatureInvalid, match="another identity"):
        verify(bundle(), verified(who=CertificateIdentity(names, WHO.issuer)))


def test_step_6_the_statement_is_about_the_image() -> None:
    """A signature of another digest by the right identity is none of this one."""
    other = SignedImage(IMAGE.repository, Digest.of(b"other"))

    with pytest.raises(SignatureInvalid, match="about another digest"):
        verify(bundle(), verified(), other)


def test_an_attestation_is_no_signature() -> None:
    """The statement has its predicate type, as with keys."""
    payload = encoded(statement(DIGEST, "https://cyclonedx.org/bom", {"a": 1}))
    found = verify(bundle(Signer.on_p256().envelope(payload)), verified(payload))

    assert found == Statement(WHO, "https://cyclonedx.org/bom", {"a": 1}, holder=HOLDER)
