"""Notation signatures: each step of the verification, and a lie against each."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.signatures.certificate_chains import Authorities
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.notation import SigningScheme, TrustedSubject, verify_notation
from boltseal.signatures.notation_envelope import COSE, JWS, MAX_NOTATION_BYTES
from boltseal.signatures.public_keys import PublicKey
from boltseal.signatures.signed_image import SignedImage, Statement
from boltseal.signatures.subject_names import SubjectName
from tests.signatures.notation_certificates import (
    MANIFEST,
    NOW,
    NOW_US,
    YEAR,
    Holder,
    Tag,
    base64url,
    by_service,
    cbor,
    cose,
    cose_parts,
    headers,
    jws,
    jws_document,
    payload,
    root,
    rsa_key,
    self_signed,
    with_expiry,
)

ROOT = root()
BUILDER = ROOT.issue()
DIGEST = Digest.of(b"image")
IMAGE = SignedImage(Repository("shop/app"), DIGEST, MANIFEST)
PAYLOAD = payload(str(DIGEST))
DAY = timedelta(days=1)
BOTH = pytest.mark.parametrize(("media_type", "make"), [(JWS, jws), (COSE, cose)], ids=["jws", "cose"])
Make = Callable[..., bytes]


def verified(
    media_type: str,
    raw: bytes,
    *,
    image: SignedImage = IMAGE,
    ca: bytes = ROOT.pem,
    crl: bytes | None = None,
    subject: str = "O=acme",
    scheme: SigningScheme = SigningScheme.X509,
) -> Statement:
    trusted = TrustedSubject(Authorities.parse(ca, crl), SubjectName.parse(subject) if subject else None, scheme)
    return verify_notation(media_type, raw, image, trusted, NOW_US)


def refused(match: str, media_type: str, raw: bytes, **how: Any) -> None:
    with pytest.raises(SignatureInvalid, match=match):
        verified(media_type, raw, **how)


@BOTH
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_a_signature_is_verified_by_the_algorithm_of_its_curve(
    media_type: str, make: Make, curve: ec.EllipticCurve
) -> None:
    """ES256, ES384 and ES512: the statement is a plain signature by the certificate's key."""
    builder = ROOT.issue(key=ec.generate_private_key(curve))
    statement = verified(media_type, make(builder, PAYLOAD))

    assert statement.predicate_type is None
    assert isinstance(statement.key, PublicKey)
    assert statement.key.fingerprint


@BOTH
@pytest.mark.parametrize("bits", [2048, 3072, pytest.param(4096, marks=pytest.mark.slow)])
def test_a_signature_is_verified_by_the_algorithm_of_its_rsa_key(media_type: str, make: Make, bits: int) -> None:
    """The size of the key decides between PS256, PS384 and PS512."""
    builder = ROOT.issue(key=rsa_key(bits))

    assert verified(media_type, make(builder, PAYLOAD))


@BOTH
def test_a_chain_with_an_intermediate_ends_at_the_root(media_type: str, make: Make) -> None:
    """Whichever of both authorities is trusted."""
    middle = ROOT.authority("C=US, O=acme, CN=middle", below=0)
    raw = make(middle.issue(), PAYLOAD)

    assert verified(media_type, raw)
    assert verified(media_type, raw, ca=middle.pem)


@BOTH
def test_a_self_signed_certificate_counts_only_as_its_own_authority(media_type: str, make: Make) -> None:
    """The file has to have exactly this certificate."""
    alone = self_signed()
    raw = make(alone, PAYLOAD)

    assert verified(media_type, raw, ca=alone.pem)
    refused("no trusted authority", media_type, raw)


@BOTH
def test_any_subject_of_the_authority_can_be_trusted(media_type: str, make: Make) -> None:
    """A rule says it with the subject "*"."""
    assert verified(media_type, make(ROOT.issue("CN=other"), PAYLOAD), subject="")


# 1. the envelope


@BOTH
def test_an_oversized_envelope_is_not_read(media_type: str, make: Make) -> None:
    """A limit of bytes, before anything is parsed."""
    refused("at most", media_type, make(BUILDER, b" " * MAX_NOTATION_BYTES))


@BOTH
def test_bytes_after_the_envelope_are_refused(media_type: str, make: Make) -> None:
    """Readers could disagree on what the envelope is."""
    refused("the envelope", media_type, make(BUILDER, PAYLOAD) + make(BUILDER, PAYLOAD))


def test_other_layers_are_no_signatures() -> None:
    """The media type of the layer decides how it is read."""
    refused("no signature of Notation", "application/json", jws(BUILDER, PAYLOAD))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"signatures": []}, "unknown field"),
        ({"payload": "e30="}, "payload of the envelope is not base64url"),
        ({"protected": "*"}, "protected of the envelope is not base64url"),
        ({"signature": "A"}, "signature of the envelope is not base64url"),
        ({"header": {}}, "x5c"),
        ({"header": {"x5c": ["*"]}}, "is not base64"),
        ({"protected": base64url(b'{"alg": "ES256", "alg": "ES256"}')}, "a key twice"),
    ],
)
def test_a_jws_that_is_not_flattened_and_strict_is_refused(change: dict[str, Any], match: str) -> None:
    """No other top-level fields, canonical base64, no key twice."""
    refused(match, JWS, json.dumps(jws_document(BUILDER, PAYLOAD) | change).encode())


def test_a_key_twice_in_a_jws_is_refused() -> None:
    """One reader would take the first payload, another one the last."""
    raw = jws(BUILDER, PAYLOAD)
    twice = raw[:-1] + b', "payload": "e30"}'

    refused("a key twice", JWS, twice)


def cose_with(index: int, value: Any, number: int = 18) -> bytes:
    parts = cose_parts(BUILDER, PAYLOAD)
    parts[index] = value
    return cbor(Tag(number, parts))


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (cbor(cose_parts(BUILDER, PAYLOAD)), "no COSE_Sign1"),
        (cose_with(2, PAYLOAD, number=98), "no COSE_Sign1"),
        (cose_with(2, None), "payload and signature"),
        (cose_with(0, cbor([])), "is no map"),
        (cose_with(1, {}), "x5chain"),
        (cose_with(1, {33: ["text"]}), "x5chain"),
        (cose_with(1, {1: -7, 33: BUILDER.chain}), "both protected and unprotected"),
        (cose_with(0, b"\xa2\x01\x26\x01\x26"), "a key twice"),
        (cose_with(0, cbor({1: -7, 3: "x"})), "critical headers is missing"),
    ],
)
def test_a_cose_message_of_another_shape_is_refused(raw: bytes, match: str) -> None:
    """Only COSE_Sign1 with its tag and an attached payload."""
    refused(match, COSE, raw)


# 2. the signed headers


@BOTH
@pytest.mark.parametrize(
    ("signed", "match"),
    [
        (headers(cty="application/json"), "payload is of type"),
        (headers(signingScheme="notary.x509.other"), "signing scheme"),
        (headers(crit=["io.cncf.notary.expiry"]), "signingScheme is not marked"),
        (headers(expiry=NOW + YEAR), "expiry is not marked"),
        (headers(crit=["io.cncf.notary.signingScheme", "io.cncf.notary.expiry"]), "not understood, or missing"),
        (headers(crit=["io.cncf.notary.signingScheme", "cty"]), "not understood"),
        (headers(crit=["io.cncf.notary.signingScheme"] * 2), "a name twice"),
        (
            headers(
                crit=["io.cncf.notary.signingScheme", "io.cncf.notary.verificationPlugin"], verificationPlugin="plugin"
            ),
            "verificationPlugin",
        ),
    ],
)
def test_headers_that_are_not_understood_are_refused(
    media_type: str, make: Make, signed: dict[str, Any], match: str
) -> None:
    """A plugin, another payload type or scheme, a critical header that is missing or unknown."""
    refused(match, media_type, make(BUILDER, PAYLOAD, signed))


@BOTH
def test_a_header_that_is_not_critical_is_ignored(media_type: str, make: Make) -> None:
    """As the specification has it."""
    assert verified(media_type, make(BUILDER, PAYLOAD, headers(note="to people")))


@BOTH
def test_a_certificate_of_an_authority_is_no_signing_authority(media_type: str, make: Make) -> None:
    """The owner of a certificate could choose the time of the signature."""
    refused("trusted for notary.x509$", media_type, make(BUILDER, PAYLOAD, by_service(NOW - DAY)))
    refused("signingAuthority$", media_type, make(BUILDER, PAYLOAD), scheme=SigningScheme.SIGNING_AUTHORITY)


# 3. times


@BOTH
@pytest.mark.parametrize(
    ("signed", "match"),
    [
        (with_expiry(NOW), "the signature expired at"),
        (with_expiry(NOW - 31 * DAY), "expired before it was made"),
        (headers(signingTime=None), "one signing time"),
        (headers(authenticSigningTime=NOW, crit=by_service(NOW)["crit"]), "one signing time"),
    ],
)
def test_a_signature_that_expired_is_refused(media_type: str, make: Make, signed: dict[str, Any], match: str) -> None:
    """The signer's own "best before"."""
    refused(match, media_type, make(BUILDER, PAYLOAD, signed))


@BOTH
def test_a_signature_before_its_expiry_counts(media_type: str, make: Make) -> None:
    """The signer chose a time that has not come."""
    assert verified(media_type, make(BUILDER, PAYLOAD, with_expiry(NOW + DAY)))


@pytest.mark.parametrize("text", ["2026-11-01", "2026-13-01T00:00:00Z", "2026-11-01 00:00:00Z"])
def test_a_time_of_a_jws_is_in_the_form_of_rfc_3339(text: str) -> None:
    """Other forms are read differently by different readers."""
    refused("the time", JWS, jws(BUILDER, PAYLOAD, headers(signingTime=text)))


@pytest.mark.parametrize("value", [1_790_000_000, Tag(1, -1), Tag(0, "2026-11-01T00:00:00Z"), Tag(1, 1 << 60)])
def test_a_time_of_a_cose_message_is_tagged_seconds(value: Any) -> None:
    """Tag 1 with an integer."""
    refused("no time in whole seconds", COSE, cose(BUILDER, PAYLOAD, headers(signingTime=value)))


# 4. certificates


@BOTH
def test_an_expired_certificate_is_refused(media_type: str, make: Make) -> None:
    """Time stamps are not verified, so it could have signed after it expired."""
    refused("expired at", media_type, make(ROOT.issue(end=NOW - DAY), PAYLOAD))
    refused("valid from", media_type, make(ROOT.issue(begin=NOW + DAY), PAYLOAD))


@BOTH
def test_a_signing_authority_vouches_for_the_time(media_type: str, make: Make) -> None:
    """The certificate of a service may have expired since it signed; a time in the future is refused."""
    service = ROOT.issue(end=NOW - DAY)
    how: dict[str, Any] = {"scheme": SigningScheme.SIGNING_AUTHORITY}

    assert verified(media_type, make(service, PAYLOAD, by_service(NOW - 2 * DAY)), **how)
    refused("expired at", media_type, make(service, PAYLOAD, by_service(NOW)), **how)
    refused("future", media_type, make(service, PAYLOAD, by_service(NOW + DAY)), **how)


@BOTH
def test_another_authority_is_refused(media_type: str, make: Make) -> None:
    """An authority of the same name is another one."""
    refused("no trusted authority", media_type, make(root().issue(), PAYLOAD))


@BOTH
def test_a_revoked_certificate_is_refused(media_type: str, make: Make) -> None:
    """By the CRL that the caller gives; others under the authority still count."""
    crl = ROOT.crl(BUILDER)

    refused("is revoked", media_type, make(BUILDER, PAYLOAD), crl=crl)
    assert verified(media_type, make(ROOT.issue(), PAYLOAD), crl=crl)


# 5. the algorithm


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS256", "PS384", "ES256"])
def test_the_key_decides_the_algorithm_of_a_jws(algorithm: str) -> None:
    """An RSA key of 2048 bits has PS256 alone; a header can't choose another one."""
    holder = ROOT.issue(key=rsa_key(2048))
    raw = jws(holder, PAYLOAD, algorithm="PS256" if algorithm == "ES256" else algorithm)
    if algorithm == "ES256":
        document = json.loads(raw)
        signed = json.dumps({"alg": "ES256"} | _plain_headers()).encode()
        raw = json.dumps(document | {"protected": base64url(signed)}).encode()

    refused("expected PS256 for this key", JWS, raw)


def _plain_headers() -> dict[str, Any]:
    scheme, at = "io.cncf.notary.signingScheme", "2026-11-01T00:00:00Z"
    content_type = "application/vnd.cncf.notary.payload.v1+json"
    return {"cty": content_type, "crit": [scheme], scheme: "notary.x509", "io.cncf.notary.signingTime": at}


@pytest.mark.parametrize(
    ("algorithm", "match"),
    [("HS256", "none that Notation allows"), ("RS256", "none that"), ("PS384", "expected PS256 for this key")],
)
def test_the_key_decides_the_algorithm_of_a_cose_message(algorithm: str, match: str) -> None:
    """A signature that is valid by another algorithm of the same key is refused."""
    refused(match, COSE, cose(ROOT.issue(key=rsa_key(2048)), PAYLOAD, algorithm=algorithm))


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP256K1()), ed25519.Ed25519PrivateKey.generate()],
    ids=["secp256k1", "ed25519"],
)
def test_a_key_outside_the_table_is_refused(key: Any) -> None:
    """The specification allows RSA and three curves."""
    document = jws_document(BUILDER, PAYLOAD)
    chain = ROOT.issue(key=key).chain
    document["header"]["x5c"] = [b64encode(each).decode() for each in chain]

    refused("neither RSA nor", JWS, json.dumps(document).encode())


def test_an_rsa_key_of_another_size_is_refused() -> None:
    """2048, 3072 and 4096 bits are allowed."""
    holder = ROOT.issue(key=rsa_key(2560))

    refused("has 2560 bits", JWS, jws(holder, PAYLOAD, algorithm="PS256"))


# 6. the signature


@BOTH
def test_a_signature_of_another_key_is_refused(media_type: str, make: Make) -> None:
    """The certificate is public: an attacker can put it beside a signature of their own."""
    borrowed = Holder(ROOT.issue().key, BUILDER.certificate, BUILDER.above)

    refused("by another key", media_type, make(borrowed, PAYLOAD))


def test_a_changed_payload_is_refused() -> None:
    """Payload and headers are signed together."""
    other = payload(str(Digest.of(b"other")))

    refused("by another key", JWS, json.dumps(jws_document(BUILDER, PAYLOAD) | {"payload": base64url(other)}).encode())
    refused("by another key", COSE, cose_with(2, other))


def test_a_signature_of_another_length_is_refused() -> None:
    """ECDSA in JWS and COSE has a fixed length; DER is another encoding."""
    refused("by another key", COSE, cose_with(3, cose_parts(BUILDER, PAYLOAD)[3] + b"\0"))


# 7. the subject


@BOTH
@pytest.mark.parametrize("subject", ["O=other", "O=Acme", "OU=team", "O=acme, CN=other"])
def test_another_subject_is_refused(media_type: str, make: Make, subject: str) -> None:
    """Each attribute has to be there, with exactly its value."""
    refused("the certificate is of", media_type, make(BUILDER, PAYLOAD), subject=subject)


@BOTH
def test_a_subject_with_an_attribute_twice_is_refused(media_type: str, make: Make) -> None:
    """One of two organizations is not the organization."""
    refused("the certificate is of", media_type, make(ROOT.issue("O=acme, O=evil"), PAYLOAD))


# 8. the payload


@BOTH
@pytest.mark.parametrize(
    ("signed", "match"),
    [
        (payload(str(Digest.of(b"other"))), "the signature is of"),
        (payload(str(DIGEST), "application/vnd.oci.image.index.v1+json"), "media type"),
        (b'{"targetArtifact": {}}', "the signed payload"),
        (PAYLOAD + b"{}", "the signed payload"),
        (PAYLOAD[:-1] + b', "targetArtifact": {}}', "a key twice"),
    ],
)
def test_a_payload_about_another_image_is_refused(media_type: str, make: Make, signed: bytes, match: str) -> None:
    """The digest, and the media type by which it is read."""
    refused(match, media_type, make(BUILDER, signed))


@BOTH
def test_without_a_known_media_type_nothing_is_verified(media_type: str, make: Make) -> None:
    """The signed media type has to be compared with something."""
    refused("that the caller knows", media_type, make(BUILDER, PAYLOAD), image=SignedImage(IMAGE.repository, DIGEST))


def test_the_signers_certificate_comes_first() -> None:
    """Leaf first: a chain in the other order has another signer."""
    turned = Holder(BUILDER.key, ROOT.certificate, (BUILDER.certificate,))

    refused("not issued by|self-signed", JWS, jws(turned, PAYLOAD))
