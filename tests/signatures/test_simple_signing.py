"""cosign's signature tags: what is a signature of this image, and each lie that is not."""

from __future__ import annotations

import json

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.evidence import EvidenceLayer, verify_layer
from boltseal.signatures.signed_image import SignedImage, Statement
from boltseal.signatures.simple_signing import MAX_PAYLOAD_BYTES, SIMPLE_SIGNING, verify_simple_signing
from tests.signatures.signers import Signer, encoded, simple_payload

SIGNER, OTHER = Signer.on_p256(), Signer.on_p256()
DIGEST, OTHER_DIGEST = Digest.of(b"image"), Digest.of(b"other")
IMAGE = SignedImage(Repository("shop/app"), DIGEST)
PAYLOAD = simple_payload(DIGEST, "localhost:5000/shop/app")


def verify(payload: bytes, signature: str | None = None) -> Statement:
    return verify_simple_signing(
        payload, SIGNER.signature_of(payload) if signature is None else signature, IMAGE, SIGNER.key
    )


@pytest.mark.parametrize("reference", ["localhost:5000/shop/app", "registry.example/shop/app:1.4.2", "shop/app"])
def test_a_signature_of_the_image_verifies_on_any_host(reference: str) -> None:
    """The host in the payload is the name that the signer used, and a registry may have several."""
    payload = simple_payload(DIGEST, reference)
    layer = EvidenceLayer(SIMPLE_SIGNING, payload, SIGNER.signature_of(payload))

    assert verify_layer(layer, IMAGE, SIGNER.key) == Statement(SIGNER.key)


def test_a_signature_by_another_key_is_refused() -> None:
    """A signature of the right payload by a key that is not trusted."""
    with pytest.raises(SignatureInvalid, match="by another key"):
        verify(PAYLOAD, OTHER.signature_of(PAYLOAD))


def test_nothing_of_an_unsigned_payload_is_read() -> None:
    """The signature is checked first, so that an attacker without the key reaches no parser."""
    with pytest.raises(SignatureInvalid, match="by another key"):
        verify(b"{", OTHER.signature_of(b"{"))


LIES = {
    "another digest": (simple_payload(OTHER_DIGEST, "localhost:5000/shop/app"), "the signature is of"),
    "another repository": (simple_payload(DIGEST, "localhost:5000/shop/other"), "for repository shop/other"),
    "a longer repository": (simple_payload(DIGEST, "localhost:5000/evil/shop/app"), "for repository evil/shop/app"),
    "no repository": (simple_payload(DIGEST, ""), "no repository"),
    "another type": (simple_payload(DIGEST, "shop/app", "atomic container signature"), "is of type"),
    "trailing data": (PAYLOAD + b"{}", "not JSON"),
    "not an object": (b"[]", "not valid"),
    "no text": (b"\xff", "not JSON"),
    "a digest twice": (
        PAYLOAD.replace(b'"image": {', f'"image": {{"docker-manifest-digest": "{OTHER_DIGEST}", '.encode()),
        "a key twice",
    ),
    "not a number": (PAYLOAD.replace(b'"builder"', b"NaN"), "not a number"),
    "too deep": (PAYLOAD.replace(b'"builder"', b"[" * 30_000 + b"]" * 30_000), "nested too deeply|not JSON"),
    "a missing key": (encoded({"critical": {}}), "not valid"),
    "too large": (PAYLOAD + b" " * MAX_PAYLOAD_BYTES, "at most"),
}


@pytest.mark.parametrize(("payload", "why"), LIES.values(), ids=LIES.keys())
def test_a_signed_lie_is_refused(payload: bytes, why: str) -> None:
    """The key really signed each of these payloads."""
    with pytest.raises(SignatureInvalid, match=why):
        verify(payload)


@pytest.mark.parametrize(
    "signature",
    ["", "not base64", "AAAA=", SIGNER.signature_of(PAYLOAD) + "\n"],
    ids=["none", "text", "padding", "line"],
)
def test_a_damaged_signature_is_refused(signature: str) -> None:
    """An annotation that is no base64, or no signature."""
    with pytest.raises(SignatureInvalid):
        verify(PAYLOAD, signature)


def test_a_payload_without_optional_values_verifies() -> None:
    """`optional` is null without annotations."""
    document = json.loads(PAYLOAD)
    document["optional"] = None

    assert verify(encoded(document)) == Statement(SIGNER.key)


def test_a_layer_of_another_type_is_no_evidence() -> None:
    """The media type chooses the format; a text of the same bytes is none."""
    with pytest.raises(SignatureInvalid, match="no signature that can be verified"):
        verify_layer(EvidenceLayer("text/plain", PAYLOAD, SIGNER.signature_of(PAYLOAD)), IMAGE, SIGNER.key)
