"""Attestations in envelopes and bundles: what is stated about this image, and each lie that is not."""

from __future__ import annotations

from typing import Any

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.signatures.dsse import COSIGN_SIGNATURE, ENVELOPE, MAX_ENVELOPE_BYTES, verify_attestation
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.evidence import EvidenceLayer, verify_layer
from boltseal.signatures.signed_image import SignedImage, Statement
from boltseal.signatures.sigstore_bundle import BUNDLE, verify_bundle
from tests.signatures.signers import Signer, encoded, statement

SIGNER, OTHER = Signer.on_p256(), Signer.on_p256()
DIGEST, OTHER_DIGEST = Digest.of(b"image"), Digest.of(b"other")
IMAGE = SignedImage(Repository("shop/app"), DIGEST)
PROVENANCE = "https://slsa.dev/provenance/v1"
CLAIM = statement(DIGEST, PROVENANCE, {"runDetails": {"builder": {"id": "https://ci.example/builder"}}})


def attested(payload: bytes, signer: Signer = SIGNER) -> Statement:
    return verify_attestation(encoded(signer.envelope(payload)), IMAGE, SIGNER.key)


def test_an_envelope_and_a_bundle_state_the_same() -> None:
    """A statement has one result in both formats."""
    expected = Statement(SIGNER.key, PROVENANCE, CLAIM["predicate"])
    envelope = EvidenceLayer(ENVELOPE, encoded(SIGNER.envelope(encoded(CLAIM))))
    bundle = EvidenceLayer(BUNDLE, encoded(SIGNER.bundle(encoded(CLAIM))))

    assert verify_layer(envelope, IMAGE, SIGNER.key) == expected
    assert verify_layer(bundle, IMAGE, SIGNER.key) == expected


def test_cosigns_own_predicate_is_a_signature_and_no_attestation() -> None:
    """`cosign sign` of version 3 signs a statement of this type."""
    assert attested(encoded(statement(DIGEST, COSIGN_SIGNATURE))) == Statement(SIGNER.key)


def test_an_image_with_a_sha512_digest_is_compared_by_it() -> None:
    """The subject's digest of the image's own algorithm counts."""
    digest = Digest.of(b"image", "sha512")
    raw = encoded(SIGNER.envelope(encoded(statement(digest, PROVENANCE))))

    assert verify_attestation(raw, SignedImage(Repository("shop/app"), digest), SIGNER.key).predicate_type == PROVENANCE
    with pytest.raises(SignatureInvalid, match="another digest"):
        verify_attestation(raw, IMAGE, SIGNER.key)


def test_one_of_several_signatures_is_enough() -> None:
    """An envelope with signatures of several keys, one of them damaged, holds for each key that signed."""
    envelope = SIGNER.envelope(encoded(CLAIM))
    envelope["signatures"] = [{"sig": "?"}, *OTHER.envelope(encoded(CLAIM))["signatures"], *envelope["signatures"]]

    assert verify_attestation(encoded(envelope), IMAGE, SIGNER.key).predicate_type == PROVENANCE


SIGNED_LIES = {
    "another digest": (encoded(statement(OTHER_DIGEST, PROVENANCE)), "another digest"),
    "no subject": (encoded({**CLAIM, "subject": []}), "another digest"),
    "a digest under another algorithm": (
        encoded({**CLAIM, "subject": [{"digest": {"sha512": DIGEST.hex}}]}),
        "another digest",
    ),
    "too many subjects": (encoded({**CLAIM, "subject": CLAIM["subject"] * 1001}), "at most"),
    "another type of statement": (encoded({**CLAIM, "_type": "https://in-toto.io/Link/v1"}), "is of type"),
    "trailing data": (encoded(CLAIM) + encoded(CLAIM), "not JSON"),
    "a key twice": (encoded(CLAIM)[:-1] + b', "predicateType": "x"}', "a key twice"),
    "no predicate type": (encoded({key: CLAIM[key] for key in ("_type", "subject")}), "not valid"),
}


@pytest.mark.parametrize(("payload", "why"), SIGNED_LIES.values(), ids=SIGNED_LIES.keys())
def test_a_signed_lie_is_refused(payload: bytes, why: str) -> None:
    """The key really signed each of these payloads."""
    with pytest.raises(SignatureInvalid, match=why):
        attested(payload)


def _changed(**changes: Any) -> bytes:
    return encoded(SIGNER.envelope(encoded(CLAIM)) | changes)


FORGED = {
    "by another key": (encoded(OTHER.envelope(encoded(CLAIM))), "another key"),
    "another payload": (_changed(payload=SIGNER.envelope(encoded(CLAIM) + b" ")["payload"]), "payload was changed"),
    "another type, signed": (encoded(SIGNER.envelope(encoded(CLAIM), "application/json")), "contains"),
    "another type, not signed": (_changed(payloadType="application/json"), "contains"),
    "signed as in-toto's, but of another type": (
        _changed(signatures=SIGNER.envelope(encoded(CLAIM), "application/json")["signatures"]),
        "another key",
    ),
    "payload not base64": (_changed(payload="?"), "not base64"),
    "no signature": (_changed(signatures=[]), "another key"),
    "too many signatures": (_changed(signatures=[{"sig": ""}] * 17), "at most"),
    "the payload as the message": (
        _changed(signatures=[{"sig": SIGNER.signature_of(encoded(CLAIM))}]),
        "another key",
    ),
    "trailing data": (_changed() + b"{}", "not JSON"),
    "too large": (_changed() + b" " * MAX_ENVELOPE_BYTES, "at most"),
}


@pytest.mark.parametrize(("raw", "why"), FORGED.values(), ids=FORGED.keys())
def test_a_forged_envelope_is_refused(raw: bytes, why: str) -> None:
    """Nothing of an envelope is trusted that the key did not sign."""
    with pytest.raises(SignatureInvalid, match=why):
        verify_attestation(raw, IMAGE, SIGNER.key)


BUNDLE_OF = SIGNER.bundle(encoded(CLAIM))
FORGED_BUNDLES = {
    "another version": ({**BUNDLE_OF, "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1"}, "of type"),
    "signed with a certificate": (
        {**BUNDLE_OF, "verificationMaterial": {"certificate": {"rawBytes": "AAAA"}}},
        "with a certificate",
    ),
    "a signature of bytes": (
        {key: BUNDLE_OF[key] for key in ("mediaType", "verificationMaterial")} | {"messageSignature": {}},
        "no dsseEnvelope",
    ),
    "by another key, with the hint of the trusted one": (OTHER.bundle(encoded(CLAIM)), "another key"),
    "about another image": (SIGNER.bundle(encoded(statement(OTHER_DIGEST))), "another digest"),
}


@pytest.mark.parametrize(("bundle", "why"), FORGED_BUNDLES.values(), ids=FORGED_BUNDLES.keys())
def test_a_forged_bundle_is_refused(bundle: dict[str, Any], why: str) -> None:
    """A bundle is trusted for its envelope only."""
    with pytest.raises(SignatureInvalid, match=why):
        verify_bundle(encoded(bundle), IMAGE, SIGNER.key)
