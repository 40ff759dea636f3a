"""Time stamps in the process that verifies them: what it accepts from `openssl ts`, and a lie against each step."""

from __future__ import annotations

from base64 import b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from boltseal.keyless.process import RootResult, verify_stamps
from boltseal.keyless.stamps import StampResult
from tests.signatures.notation_certificates import Holder, root, usage
from tests.signatures.stamp_authority import StampAuthority, tst_info

NOW = datetime.now(UTC).replace(microsecond=0)
DAY, YEAR = timedelta(days=1), timedelta(days=365)
VALID: dict[str, Any] = {"begin": NOW - YEAR, "end": NOW + YEAR}
ROOT = root("C=US, O=acme, CN=time root", **VALID)
SIGNATURE = b"the bytes of a signature"


@pytest.fixture
def authority(tmp_path: Path) -> StampAuthority:
    """A time-stamp authority under ROOT."""
    return StampAuthority.under(ROOT, tmp_path / "time", **VALID)


def result(token: bytes, *, of: bytes = SIGNATURE, under: Holder = ROOT) -> StampResult:
    """Return what the process prints for one time stamp."""
    sent: list[object] = []
    verify_stamps([under.chain[0]], [(token, of)], sent.append)
    accepted, found = sent

    assert accepted == RootResult("")
    assert isinstance(found, StampResult)
    return found


def refused(token: bytes, why: str, *, of: bytes = SIGNATURE, under: Holder = ROOT) -> None:
    found = result(token, of=of, under=under)

    assert why in found.refused
    assert found == StampResult(refused=found.refused)


def time_of(found: StampResult) -> datetime:
    return datetime.fromtimestamp(found.at_us / 1_000_000, UTC)


@pytest.mark.parametrize("hash_", ["sha256", "sha512"])
def test_a_time_stamp_of_openssl_is_verified(authority: StampAuthority, hash_: str) -> None:
    """The result has the time, and the certificates with the one that signed first."""
    found = result(authority.stamp(SIGNATURE, hash_))

    assert found.refused == ""
    assert abs(time_of(found) - datetime.now(UTC)) < timedelta(minutes=10)
    assert b64decode(found.certificates[0]) == authority.holder.chain[0]
    assert found.accuracy_us == 0


def test_an_authority_under_an_intermediate_is_verified(tmp_path: Path) -> None:
    """The token has the certificates between the authority and its root."""
    middle = ROOT.authority("C=US, O=acme, CN=middle", **VALID)
    found = result(StampAuthority.under(middle, tmp_path / "time", **VALID).stamp(SIGNATURE))

    assert found.refused == ""
    assert {b64decode(each) for each in found.certificates[1:]} >= {middle.chain[0]}


def test_a_stated_time_and_accuracy_are_returned(authority: StampAuthority) -> None:
    """Time and accuracy are returned in microseconds."""
    found = result(authority.stated(SIGNATURE, NOW - DAY, accuracy_s=90))

    assert (time_of(found), found.accuracy_us) == (NOW - DAY, 90_000_000)


# 1. the token


@pytest.mark.parametrize("token", [b"", b"\0", b"\x30\x80", b"no DER" * 1000], ids=["empty", "zero", "endless", "text"])
def test_what_is_no_token_is_refused(token: bytes) -> None:
    """The library raises errors of many types; all of them refuse."""
    assert result(token).refused


def test_bytes_after_the_token_are_refused(authority: StampAuthority) -> None:
    """Readers could disagree on what the token is."""
    assert result(authority.stamp(SIGNATURE) + b"\0").refused


def test_another_content_is_refused(authority: StampAuthority) -> None:
    """CMS that the authority signed for another purpose is no time stamp."""
    assert result(authority.signed(tst_info(SIGNATURE, NOW), kind="1.2.840.113549.1.7.1")).refused
    assert result(authority.signed(b"text")).refused


def test_a_token_with_two_signers_is_refused(authority: StampAuthority, tmp_path: Path) -> None:
    """With two signers it would be unclear whose time the token has."""
    StampAuthority.under(ROOT, tmp_path / "second", **VALID)
    second = ("-signer", "../second/time.pem", "-inkey", "../second/time.key")

    refused(authority.signed(tst_info(SIGNATURE, NOW), "sha256", *second), "has 2 signers")


def test_a_token_without_its_certificate_is_refused(authority: StampAuthority) -> None:
    """The certificate could be any that has this issuer and number."""
    refused(authority.signed(tst_info(SIGNATURE, NOW), "sha256", "-nocerts"), "has 0 certificates of its signer")


# 2. the hashes


def test_a_weak_hash_is_refused(authority: StampAuthority) -> None:
    """Of the stamped bytes, and of the token's own signature."""
    refused(authority.stated(SIGNATURE, NOW, imprint="sha1"), "a hash that is not allowed")
    refused(authority.stated(SIGNATURE, NOW, signed_with="sha1"), "a hash that is not allowed")


# 3. the authority


def test_an_authority_that_is_not_trusted_is_refused(authority: StampAuthority) -> None:
    """An authority of the same name is another one."""
    other = root("C=US, O=acme, CN=time root", **VALID)

    refused(authority.stamp(SIGNATURE), "Error while verifying certificates", under=other)


def test_a_changed_token_is_refused(authority: StampAuthority) -> None:
    """The signature of the token covers its time."""
    token = authority.stated(SIGNATURE, NOW - DAY)
    stated, other = (f"{at:%Y%m%d%H%M%SZ}".encode() for at in (NOW - DAY, NOW - 2 * DAY))

    assert token.count(stated) == 1
    refused(token.replace(stated, other), "Error while verifying certificates")


PURPOSES = {
    "no purpose": {"uses": ()},
    "for signing": {"uses": (ExtendedKeyUsageOID.CODE_SIGNING,)},
    "for more": {"uses": (ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING)},
    "for anything": {"uses": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)},
    "not critical": {"uses_critical": False},
    "no signatures": {"usage": usage("key_encipherment")},
}


@pytest.mark.parametrize("how", PURPOSES.values(), ids=PURPOSES.keys())
def test_a_certificate_that_is_not_for_time_stamps_is_refused(tmp_path: Path, how: dict[str, object]) -> None:
    """The owner of any certificate under the root could choose the time otherwise."""
    other = StampAuthority.under(ROOT, tmp_path / "other", **VALID | how)

    assert result(other.stated(SIGNATURE, NOW)).refused


@pytest.mark.parametrize("valid", [(NOW - YEAR, NOW - DAY), (NOW + DAY, NOW + YEAR)], ids=["expired", "not yet valid"])
def test_an_authority_that_was_not_valid_at_its_time_is_refused(
    tmp_path: Path, valid: tuple[datetime, datetime]
) -> None:
    """The key of an authority may be given away after its certificate expired, and could not sign before."""
    late = StampAuthority.under(ROOT, tmp_path / "late", begin=valid[0], end=valid[1])

    refused(late.stated(SIGNATURE, NOW), "Error while verifying certificates")


def test_an_authority_whose_root_had_expired_is_refused(tmp_path: Path) -> None:
    """Each certificate up to the root has to be valid."""
    old = root("C=US, O=acme, CN=old root", begin=NOW - YEAR, end=NOW - DAY)
    late = StampAuthority.under(old, tmp_path / "late", **VALID)

    refused(late.stated(SIGNATURE, NOW), "Error while verifying certificates", under=old)
    assert result(late.stated(SIGNATURE, NOW - 2 * DAY), under=old).refused == ""


# 4. the stamped bytes


def test_a_time_stamp_of_other_bytes_is_refused(authority: StampAuthority) -> None:
    """A time stamp is of one signature."""
    refused(authority.stamp(b"another signature"), "Mismatch between messages")


def test_one_bad_token_does_not_spoil_the_others(authority: StampAuthority) -> None:
    """Results are in the order of the time stamps."""
    good = authority.stamp(SIGNATURE)
    sent: list[object] = []
    verify_stamps([ROOT.chain[0], ROOT.chain[0]], [(b"no", SIGNATURE), (good, SIGNATURE)], sent.append)

    assert [isinstance(each, StampResult) and each.refused == "" for each in sent] == [False, False, True]


def test_two_certificates_of_one_issuer_and_number_are_refused(authority: StampAuthority) -> None:
    """With two such certificates it would be unclear which is checked."""
    twin = ROOT.issue("C=US, O=acme, CN=twin", serial=authority.holder.certificate.serial_number, **VALID)
    (authority.folder / "above.pem").write_bytes(twin.pem + ROOT.pem)

    refused(authority.stated(SIGNATURE, NOW), "has 2 certificates of its signer")
