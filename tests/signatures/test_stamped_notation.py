"""Time stamps of Notation signatures: an expired certificate counts if a trusted authority stamped the signature before."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from boltseal.keyless.process import verify_stamps
from boltseal.keyless.stamps import StampResult
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.signatures.certificate_chains import MAX_CHAIN, Authorities, issuing_chain
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.notation import SigningScheme, TrustedSubject, stamp_to_verify, verify_notation
from boltseal.signatures.notation_envelope import COSE, JWS, parse_unverified
from boltseal.signatures.signed_image import SignedImage, SigningTime, TimeSource
from boltseal.signatures.time_stamps import MAX_STAMP_BYTES, RefusedStamp, VerifiedStamp, stamped_between
from tests.signatures.notation_certificates import (
    MANIFEST,
    Holder,
    Stamping,
    Tag,
    by_service,
    cbor,
    cose,
    cose_parts,
    jws,
    jws_document,
    payload,
    root,
    rsa_key,
    usage,
)
from tests.signatures.stamp_authority import TIME_STAMPING, StampAuthority

NOW = datetime.now(UTC).replace(microsecond=0)
NOW_US = int(NOW.timestamp()) * 1_000_000
SECOND, DAY, YEAR = timedelta(seconds=1), timedelta(days=1), timedelta(days=365)
VALID: dict[str, Any] = {"begin": NOW - 5 * YEAR, "end": NOW + 5 * YEAR}
ROOT = root(**VALID)
TIME_ROOT = root("C=US, O=acme, CN=time root", **VALID)
BEGIN, END = NOW - 2 * YEAR, NOW - YEAR
"""The validity of a certificate that has expired."""
EXPIRED = ROOT.issue(begin=BEGIN, end=END)
STAMPED = NOW - YEAR - DAY
DIGEST = Digest.of(b"image")
IMAGE = SignedImage(Repository("shop/app"), DIGEST, MANIFEST)
PAYLOAD = payload(str(DIGEST))
STAMP = "io.cncf.notary.timestampSignature"
BOTH = pytest.mark.parametrize("media_type", [JWS, COSE], ids=["jws", "cose"])


@pytest.fixture
def authority(tmp_path: Path) -> StampAuthority:
    """A time-stamp authority under TIME_ROOT."""
    return StampAuthority.under(TIME_ROOT, tmp_path / "time", **VALID)


def signed(media_type: str, stamping: Stamping | None, holder: Holder = EXPIRED, **how: Any) -> bytes:
    """Return a signature, and the token that `stamping` returns for its bytes beside it, as `notation sign` stores them."""
    return (jws if media_type == JWS else cose)(holder, PAYLOAD, stamping=stamping, **how)


def trusted(crl: bytes | None = None, time_root: Holder | None = TIME_ROOT) -> TrustedSubject:
    stamps = None if time_root is None else Authorities.parse(time_root.pem, crl)
    return TrustedSubject(Authorities.parse(ROOT.pem, crl), None, SigningScheme.X509, stamps)


def proven(media_type: str, raw: bytes, under: Holder = TIME_ROOT) -> VerifiedStamp | RefusedStamp:
    """Return what the process finds out about the time stamp of a signature."""
    envelope = parse_unverified(media_type, raw)
    sent: list[object] = []
    verify_stamps([under.chain[0]], [(envelope.stamp, envelope.signature)], sent.append)
    result = sent[1]

    assert isinstance(result, StampResult)
    if result.refused:
        return RefusedStamp(result.refused)
    at = datetime.fromtimestamp(result.at_us / 1_000_000, UTC)
    certificates = tuple(b64decode(each) for each in result.certificates)
    return VerifiedStamp(at, timedelta(microseconds=result.accuracy_us), certificates)


def verified(media_type: str, raw: bytes, by: TrustedSubject | None = None, now_us: int = NOW_US) -> SigningTime | None:
    """Verify a signature with its time stamp; return when it was made."""
    return verify_notation(media_type, raw, IMAGE, by or trusted(), now_us, lambda: proven(media_type, raw)).time


def refused(match: str, media_type: str, raw: bytes, by: TrustedSubject | None = None, now_us: int = NOW_US) -> None:
    with pytest.raises(SignatureInvalid, match=match):
        verified(media_type, raw, by, now_us)


@BOTH
def test_a_signature_that_was_stamped_before_its_certificate_expired_counts(
    authority: StampAuthority, media_type: str
) -> None:
    """The time of the statement is that of the time stamp."""
    raw = signed(media_type, lambda signature: authority.stated(signature, STAMPED))

    assert verified(media_type, raw) == SigningTime(STAMPED, TimeSource.TIME_STAMP)


@BOTH
def test_a_time_stamp_of_openssl_counts_years_later(authority: StampAuthority, media_type: str) -> None:
    """As the real tool makes it, seen from a time when the signer's certificate has expired."""
    raw = signed(media_type, authority.stamp, ROOT.issue(begin=NOW - DAY, end=NOW + YEAR))
    later_us = int((NOW + 2 * YEAR).timestamp()) * 1_000_000

    assert verified(media_type, raw) == SigningTime(datetime(2026, 11, 1, tzinfo=UTC), TimeSource.SIGNER)
    found = verified(media_type, raw, now_us=later_us)
    assert found is not None
    assert found.source == TimeSource.TIME_STAMP


@BOTH
def test_without_an_authority_an_expired_certificate_is_refused(authority: StampAuthority, media_type: str) -> None:
    """Without `tsa`, or without a time stamp, everything is as it was."""
    stamped = signed(media_type, lambda signature: authority.stated(signature, STAMPED))

    refused("expired at", media_type, stamped, trusted(time_root=None))
    refused("expired at .*, and the signature has no time stamp", media_type, signed(media_type, None))


@BOTH
def test_a_certificate_that_is_valid_needs_no_time_stamp(media_type: str) -> None:
    """Whatever is in its place: it is not even read."""
    holder = ROOT.issue(**VALID)

    assert verified(media_type, signed(media_type, None, holder))
    assert verified(media_type, signed(media_type, lambda _: b"no token", holder))


def test_only_a_time_stamp_that_decides_is_verified() -> None:
    """Another process starts for an expired certificate with a time stamp, and for nothing else."""
    raw = signed(JWS, lambda _: b"token")
    valid = signed(JWS, lambda _: b"token", ROOT.issue(**VALID))
    large = signed(JWS, lambda _: b"x" * (MAX_STAMP_BYTES + 1))
    broken = json.dumps(jws_document(EXPIRED, PAYLOAD) | {"header": {"x5c": ["AAAA"], STAMP: "AAAA"}}).encode()
    due = stamp_to_verify(JWS, raw, NOW_US)

    assert due is not None
    assert due.stamp == b"token"
    assert [stamp_to_verify(JWS, each, NOW_US) for each in (valid, large, broken, b"no JSON")] == [None] * 4
    assert stamp_to_verify(JWS, signed(JWS, None), NOW_US) is None


@BOTH
def test_an_oversized_time_stamp_is_not_read(media_type: str) -> None:
    """A limit of bytes, before another process gets it."""
    refused("at most 65536 are read", media_type, signed(media_type, lambda _: b"x" * (MAX_STAMP_BYTES + 1)))


def test_a_time_stamp_of_another_type_is_refused() -> None:
    """Base64 in a JWS, a byte string in a COSE message."""
    document = jws_document(EXPIRED, PAYLOAD)
    document["header"][STAMP] = "*"
    parts = cose_parts(EXPIRED, PAYLOAD)
    parts[1][STAMP] = "text"

    refused("is not base64", JWS, json.dumps(document).encode())
    refused("is no byte string", COSE, cbor(Tag(18, parts)))


def test_a_time_stamp_that_was_not_verified_is_none() -> None:
    """A caller that gives no results gets no pass."""
    with pytest.raises(SignatureInvalid, match="it was not verified"):
        verify_notation(JWS, signed(JWS, lambda _: b"token"), IMAGE, trusted(), NOW_US)


# 1. what the process found out


@BOTH
def test_a_time_stamp_of_another_signature_is_refused(authority: StampAuthority, media_type: str) -> None:
    """The header is not signed: an attacker can move a time stamp to another envelope."""
    raw = signed(media_type, lambda _: authority.stated(b"another signature", STAMPED))

    refused("proves nothing: .*Mismatch", media_type, raw)


def stamping(authority: StampAuthority) -> Callable[[bytes], bytes]:
    """Return what gets the time stamp of a signature from an authority."""
    return lambda signature: authority.stated(signature, STAMPED)


@BOTH
def test_a_time_stamp_of_another_authority_is_refused(tmp_path: Path, media_type: str) -> None:
    """Any client can run a time-stamp authority; the authority of the signer is none either."""
    for at, other in enumerate((root("C=US, O=acme, CN=time root", **VALID), ROOT)):
        forger = StampAuthority.under(other, tmp_path / str(at), **VALID)
        raw = signed(media_type, stamping(forger))

        refused("the time stamp proves nothing", media_type, raw)


# 2. the certificates of the authority


def by_certificates(**how: Any) -> VerifiedStamp:
    """Return what a process that does not look at certificates could find out."""
    holder = TIME_ROOT.issue("C=US, O=acme, CN=time", **VALID | {"uses": TIME_STAMPING, "uses_critical": True} | how)
    return VerifiedStamp(STAMPED, timedelta(0), tuple(holder.chain[:1]))


STAMPS = Authorities.parse(TIME_ROOT.pem)


def test_the_root_is_found_among_the_authorities() -> None:
    """Tokens do not have it; the lists of keyUsage may be uncritical."""
    assert stamped_between(by_certificates(), STAMPS, NOW) == (STAMPED, STAMPED)
    assert stamped_between(by_certificates(usage_critical=False), STAMPS, NOW)


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "no purpose": ({"uses": ()}, "not one for time stamps alone"),
    "another purpose": ({"uses": (ExtendedKeyUsageOID.CODE_SIGNING,)}, "not one for time stamps alone"),
    "more purposes": (
        {"uses": (*TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING)},
        "not one for time stamps alone",
    ),
    "not critical": ({"uses_critical": False}, "not one for time stamps alone"),
    "no keyUsage": ({"usage": None}, "has no critical keyUsage"),
    "another keyUsage": ({"usage": usage("digital_signature", "key_cert_sign")}, "not one for signatures alone"),
    "expired": ({"end": STAMPED - SECOND}, "expired at"),
    "not yet valid": ({"begin": STAMPED + SECOND}, "valid from"),
    "a short key": ({"key": rsa_key(1024)}, "is too short"),
    "a short curve": ({"key": ec.generate_private_key(ec.SECP192R1())}, "is too short"),
    "another type of key": ({"key": ed25519.Ed25519PrivateKey.generate()}, "is too short"),
    "a weak hash": ({"hash_": hashes.SHA224()}, "a weak or unknown algorithm"),
    "an unknown extension": ({"more": [x509.PolicyConstraints(0, None)]}, "which is not understood"),
}


@pytest.mark.parametrize(("how", "why"), LIES.values(), ids=LIES.keys())
def test_a_certificate_that_is_not_for_time_stamps_is_refused(how: dict[str, Any], why: str) -> None:
    """By the same rules as the certificate of a signer, at the time of the stamp."""
    with pytest.raises(SignatureInvalid, match=f"the time stamp proves nothing: .*{why}"):
        stamped_between(by_certificates(**how), STAMPS, NOW)


def test_a_revoked_authority_is_refused() -> None:
    """The lists of the rule cover it as well: without one its revocation is unknown."""
    found = by_certificates()
    revoked = Holder(EXPIRED.key, x509.load_der_x509_certificate(found.certificates[0]))
    free = Authorities.parse(TIME_ROOT.pem, TIME_ROOT.crl(until=NOW + YEAR))

    assert stamped_between(found, free, NOW)
    for crl, why in ((TIME_ROOT.crl(revoked, until=NOW + YEAR), "is revoked"), (ROOT.crl(), "revocation is unknown")):
        with pytest.raises(SignatureInvalid, match=why):
            stamped_between(found, Authorities.parse(TIME_ROOT.pem, crl), NOW)


def test_certificates_that_cannot_be_read_are_refused() -> None:
    """The certificates of a token are bytes of an attacker."""
    found = replace(by_certificates(), certificates=(b"no DER",))
    with pytest.raises(SignatureInvalid, match="can't be read"):
        stamped_between(found, STAMPS, NOW)


def test_a_chain_is_ordered_by_issuers() -> None:
    """Whatever order a token has them in, and whatever else it has; a chain that has no end is cut."""
    middle = TIME_ROOT.authority("C=US, O=acme, CN=middle", **VALID)
    leaf = middle.issue(**VALID)
    impostor = root("C=US, O=acme, CN=middle", **VALID)
    others = [*TIME_ROOT.chain, impostor.chain[0], EXPIRED.chain[0], middle.chain[0]]
    long = [TIME_ROOT]
    for _ in range(MAX_CHAIN):
        long.append(long[-1].authority(f"C=US, O=acme, CN={len(long)}", **VALID))

    assert issuing_chain(leaf.chain[0], others) == tuple(leaf.chain)
    assert issuing_chain(leaf.chain[0], [impostor.chain[0]]) == (leaf.chain[0],)
    assert len(issuing_chain(long[-1].chain[0], long[-1].chain[1:])) == MAX_CHAIN


# 3. the time


def test_a_time_stamp_in_the_future_is_refused() -> None:
    """The clock of the authority, or of this machine, is wrong."""
    with pytest.raises(SignatureInvalid, match="is in the future"):
        stamped_between(replace(by_certificates(), at=NOW + DAY), STAMPS, NOW)


@BOTH
@pytest.mark.parametrize(
    ("at", "accuracy_s", "why"),
    [
        (END + SECOND, 0, "expired at .*; the signature was stamped at"),
        (END - SECOND, 2, "expired at"),
        (BEGIN - SECOND, 0, "valid from"),
        (BEGIN + SECOND, 2, "valid from"),
    ],
    ids=["after", "perhaps after", "before", "perhaps before"],
)
def test_a_time_stamp_outside_the_validity_is_refused(
    authority: StampAuthority, media_type: str, at: datetime, accuracy_s: int, why: str
) -> None:
    """Anyone who has the key of an expired certificate can have a signature stamped today."""
    raw = signed(media_type, lambda signature: authority.stated(signature, at, accuracy_s=accuracy_s))

    refused(why, media_type, raw)


@BOTH
def test_each_certificate_has_to_be_valid_at_the_time_of_the_stamp(authority: StampAuthority, media_type: str) -> None:
    """A certificate of an authority between signer and root counts as well."""
    middle = ROOT.authority("C=US, O=acme, CN=middle", begin=BEGIN, end=STAMPED - SECOND)
    raw = signed(media_type, lambda signature: authority.stated(signature, STAMPED), middle.issue(**VALID))

    refused("expired at", media_type, raw)


@BOTH
def test_a_revoked_certificate_stays_revoked(authority: StampAuthority, media_type: str) -> None:
    """The time of the stamp does not matter for that."""
    raw = signed(media_type, lambda signature: authority.stated(signature, STAMPED))
    lists = ROOT.crl(EXPIRED, until=NOW + YEAR) + TIME_ROOT.crl(until=NOW + YEAR)

    refused("is revoked", media_type, raw, trusted(lists))
    assert verified(media_type, raw, trusted(ROOT.crl(until=NOW + YEAR) + TIME_ROOT.crl(until=NOW + YEAR)))


@BOTH
def test_a_signing_authority_vouches_for_the_time_itself(authority: StampAuthority, media_type: str) -> None:
    """A time stamp is not looked at under its scheme."""
    raw = signed(
        media_type, lambda signature: authority.stated(signature, STAMPED), signed_headers=by_service(NOW - DAY)
    )
    by = replace(trusted(), scheme=SigningScheme.SIGNING_AUTHORITY, time_stamps=None)

    refused("expired at", media_type, raw, by)
