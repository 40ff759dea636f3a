"""What evidence costs that any client may have attached: nothing verifies it before it is parsed."""

from __future__ import annotations

import tracemalloc

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.signatures.dsse import ENVELOPE
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.evidence import MAX_LAYER_BYTES, EvidenceLayer, verify_layer
from boltseal.signatures.keyless_bundle import unverified_payload
from boltseal.signatures.notation_envelope import COSE, JWS, parse_unverified
from boltseal.signatures.signed_image import SignedImage
from boltseal.signatures.sigstore_bundle import BUNDLE
from tests.signatures.signers import Signer, encoded, statement

SIGNER = Signer.on_p256()
DIGEST = Digest.of(b"image")
IMAGE = SignedImage(Repository("shop/app"), DIGEST)
UNITS = ("{},", "[],", "1,", '"",', '{"":[{}]},')


def verify(media_type: str, raw: bytes) -> None:
    """Verify a layer by everything that may read it."""
    if media_type in (JWS, COSE):
        parse_unverified(media_type, raw)
    elif media_type == "keyless":
        unverified_payload(raw)
    else:
        verify_layer(EvidenceLayer(media_type, raw), IMAGE, SIGNER.key)


def peak_of(media_type: str, raw: bytes) -> int:
    """Return the most memory that the refusal of a layer needs beside the layer, in bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(SignatureInvalid):
            verify(media_type, raw)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("media_type", [ENVELOPE, BUNDLE, "keyless", JWS])
def test_json_of_many_values_is_refused_before_it_is_parsed(media_type: str, unit: str) -> None:
    """Sixteen megabytes of values would need five hundred of memory, and seconds in which nothing else runs."""
    size = MAX_LAYER_BYTES.get(media_type, MAX_LAYER_BYTES[BUNDLE])
    raw = b'{"x":[' + unit.encode() * ((size - 20) // len(unit)) + b"1]}"

    assert peak_of(media_type, raw) < 1_000_000


@pytest.mark.parametrize("value", [b"\x00", b"\x40", b"\x60", b"\x80", b"\xa0", b"\xc1\x00"])
def test_cbor_of_many_values_is_refused_at_the_first_that_is_too_many(value: bytes) -> None:
    """A megabyte of small items is a million objects of Python."""
    count = (MAX_LAYER_BYTES[COSE] - 10) // len(value)
    raw = b"\x9a" + count.to_bytes(4) + value * count

    assert peak_of(COSE, raw) < 2_000_000


def test_the_signed_statement_may_have_as_many_values_as_an_sbom_has() -> None:
    """What a trusted signer signed is read after the signature was verified, and has no such limit."""
    predicate = {"components": [{"name": str(number), "version": "1"} for number in range(20_000)]}
    payload = encoded(statement(DIGEST, "https://cyclonedx.org/bom", predicate))

    for layer in (
        EvidenceLayer(ENVELOPE, encoded(SIGNER.envelope(payload))),
        EvidenceLayer(BUNDLE, encoded(SIGNER.bundle(payload))),
    ):
        assert verify_layer(layer, IMAGE, SIGNER.key).predicate == predicate
