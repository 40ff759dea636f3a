"""Certificate chains: the rules of the Notary Project, and a certificate against each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from boltseal.signatures.certificate_chains import (
    MAX_AUTHORITY_BYTES,
    MAX_CHAIN,
    MAX_CRL_BYTES,
    Authorities,
    AuthorityInvalid,
    verify_chain,
)
from boltseal.signatures.errors import SignatureInvalid
from tests.signatures.notation_certificates import CA_USAGE, NOW, Holder, root, rsa_key, usage

ROOT = root()
DAY = timedelta(days=1)


def verify(holder: Holder, *, ca: bytes = ROOT.pem, crl: bytes | None = None) -> x509.Certificate:
    return verify_chain(holder.chain, Authorities.parse(ca, crl), NOW, NOW)


def refused(match: str, holder: Holder, **how: Any) -> None:
    with pytest.raises(SignatureInvalid, match=match):
        verify(holder, **how)


def test_the_signers_certificate_is_returned() -> None:
    """The first of the chain."""
    holder = ROOT.issue()

    assert verify(holder) == holder.certificate


# 1 and 2


def test_a_chain_has_a_limited_number_of_certificates_that_can_be_read() -> None:
    """None, too many, or other bytes."""
    trusted = Authorities.parse(ROOT.pem)
    for chain, match in (((), "0 certificates"), (ROOT.chain * (MAX_CHAIN + 1), "expected 1 to"), ((b"no",), "read")):
        with pytest.raises(SignatureInvalid, match=match):
            verify_chain(chain, trusted, NOW, NOW)


def test_bytes_after_a_certificate_are_refused() -> None:
    """A certificate is compared by its bytes."""
    leaf, above = ROOT.issue().chain
    with pytest.raises(SignatureInvalid, match="can't be read"):
        verify_chain([leaf + b"\0", above], Authorities.parse(ROOT.pem), NOW, NOW)


@pytest.mark.parametrize("byte", [0x00, 0x03, 0x0C, 0x30, 0x80, 0xFF])
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_certificate_with_any_other_byte_is_refused(byte: int) -> None:
    """Another type of a value, another length, another value: never another error, which would end a push with 500."""
    leaf, above = ROOT.issue().chain
    trusted = Authorities.parse(ROOT.pem)
    for at in range(len(leaf)):
        if leaf[at] != byte:
            with pytest.raises(SignatureInvalid):
                verify_chain([leaf[:at] + bytes([byte]) + leaf[at + 1 :], above], trusted, NOW, NOW)


def test_a_certificate_whose_signature_has_unused_bits_is_refused() -> None:
    """Any value of these bits would verify, so one signature would be of several certificates."""
    leaf, above = next(chain for chain in (ROOT.issue().chain for _ in range(1000)) if chain[0][-1] & 7 == 0)
    signature = x509.load_der_x509_certificate(leaf).signature
    changed = leaf[: -len(signature) - 1] + b"\3" + signature

    assert x509.load_der_x509_certificate(changed).signature == signature
    verify_chain([leaf, above], Authorities.parse(ROOT.pem), NOW, NOW)
    with pytest.raises(SignatureInvalid, match="can't be read"):
        verify_chain([changed, above], Authorities.parse(ROOT.pem), NOW, NOW)


def test_the_root_of_an_attacker_does_not_borrow_the_name_of_the_trusted_one() -> None:
    """A trusted certificate beside a chain of one's own is not above it."""
    mine = root().issue()
    borrowed = Holder(mine.key, mine.certificate, (ROOT.certificate,))

    refused("is not issued by", borrowed)


# 3


def test_a_chain_needs_its_root() -> None:
    """The whole chain is needed even if the intermediate authority is the trusted one."""
    middle = ROOT.authority("C=US, O=acme, CN=middle")
    leaf = middle.issue()

    refused("is not issued by", Holder(leaf.key, leaf.certificate, (middle.certificate,)), ca=middle.pem)


def test_a_certificate_that_does_not_belong_to_the_chain_is_refused() -> None:
    """A second root behind the first, or in between."""
    leaf = ROOT.issue()

    refused("self-signed, but", Holder(leaf.key, leaf.certificate, (ROOT.certificate, root().certificate)))


def test_a_weak_hash_is_refused() -> None:
    """A forger can find two certificates with one SHA-1."""
    old = root(key=rsa_key(2048), hash_=hashes.SHA224())

    refused("weak or unknown", old.issue(), ca=old.pem)


# 4


@pytest.mark.parametrize(
    "how",
    [
        {"usage": usage("digital_signature", "key_cert_sign")},
        {"usage": usage("digital_signature", "crl_sign")},
        {"usage": usage("digital_signature", "key_encipherment")},
        {"usage": usage("digital_signature", "data_encipherment")},
        {"usage": usage("digital_signature", "key_agreement")},
        {"usage": usage("content_commitment")},
        {"constraints": x509.BasicConstraints(ca=True, path_length=None)},
    ],
)
def test_a_signers_certificate_is_for_signatures_alone(how: dict[str, Any]) -> None:
    """The certificate of an authority, or of another purpose, is none."""
    refused("not one for signatures alone", ROOT.issue(**how))


@pytest.mark.parametrize("how", [{"usage": None}, {"usage_critical": False}])
def test_a_certificate_says_critically_what_it_is_for(how: dict[str, Any]) -> None:
    """Software that ignores the extension could use the certificate for anything."""
    refused("no critical keyUsage", ROOT.issue(**how))


@pytest.mark.parametrize(
    "use",
    [
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.EMAIL_PROTECTION,
        ExtendedKeyUsageOID.TIME_STAMPING,
        ExtendedKeyUsageOID.OCSP_SIGNING,
    ],
)
def test_a_certificate_for_another_use_is_refused(use: x509.ObjectIdentifier) -> None:
    """A web server's certificate under the same authority signs no images."""
    refused("expected codeSigning", ROOT.issue(uses=(ExtendedKeyUsageOID.CODE_SIGNING, use)))


def test_a_certificate_may_leave_out_its_extended_use_and_say_that_it_is_no_authority() -> None:
    """The specification leaves each of them optional."""
    assert verify(ROOT.issue(uses=()))
    assert verify(ROOT.issue(constraints=x509.BasicConstraints(ca=False, path_length=None)))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"usage": CA_USAGE},
        {"constraints": x509.BasicConstraints(ca=True, path_length=None)},
        {"constraints": x509.BasicConstraints(ca=False, path_length=None), "usage": CA_USAGE},
        {"constraints": x509.BasicConstraints(ca=True, path_length=None), "usage": usage("crl_sign")},
    ],
)
def test_a_signer_is_no_authority(how: dict[str, Any]) -> None:
    """The owner of a certificate can't issue others."""
    refused("may not issue certificates", ROOT.issue("CN=middle", **how).issue())


def test_the_length_of_a_path_is_limited_by_its_authorities() -> None:
    """A root that allows no authority below it has only signers."""
    tight = root(constraints=x509.BasicConstraints(ca=True, path_length=0))

    assert verify(tight.issue(), ca=tight.pem)
    refused("0 authorities below it; got 1", tight.authority("CN=middle").issue(), ca=tight.pem)


# 5


def test_a_critical_extension_that_is_not_read_refuses() -> None:
    """Such as an authority that may issue only certain names."""
    names = x509.NameConstraints([x509.DNSName("acme.example")], None)

    refused("2.5.29.30", ROOT.issue(more=(names,)))


# 6


def test_every_certificate_has_to_be_valid() -> None:
    """An expired root refuses the chain."""
    old = root(end=NOW - DAY)

    refused("CN=root.*expired at", old.issue(), ca=old.pem)


# 7


def test_a_crl_covers_every_certificate_below_the_root() -> None:
    """Lists of all authorities stand in one file; a missing one is a doubt."""
    middle = ROOT.authority("C=US, O=acme, CN=middle")
    leaf = middle.issue()

    assert verify(leaf, crl=ROOT.crl() + middle.crl())
    refused("no CRL of .*CN=middle", leaf, crl=ROOT.crl())
    refused("CN=middle.*is revoked", leaf, crl=ROOT.crl(middle) + middle.crl())


def test_an_expired_crl_proves_nothing_but_what_it_revokes() -> None:
    """What was revoked stays so; what was not may be by now."""
    leaf, other = ROOT.issue(), ROOT.issue()
    old = ROOT.crl(leaf, until=NOW - DAY)

    refused("is revoked", leaf, crl=old)
    refused("revocation is unknown", other, crl=old)


def test_a_crl_of_another_issuer_proves_nothing() -> None:
    """Not one of the same name by another key, nor of an authority that may not issue lists."""
    leaf = ROOT.issue()
    mute = root(usage=usage("key_cert_sign"))

    refused("revocation is unknown", leaf, crl=root().crl(leaf))
    refused("revocation is unknown", leaf, crl=root("CN=other").crl())
    refused("revocation is unknown", mute.issue(), ca=mute.pem, crl=mute.crl())


def test_a_crl_can_be_in_der() -> None:
    """As certificate authorities publish it."""
    leaf = ROOT.issue()

    refused("is revoked", leaf, crl=ROOT.crl(leaf, encoding=serialization.Encoding.DER))


# the files


@pytest.mark.parametrize(
    ("pem", "match"),
    [
        (b"", "expected certificates"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "expected certificates"),
        (ROOT.pem + b"-----BEGIN PRIVATE KEY-----", "must not have"),
        (b" " * (MAX_AUTHORITY_BYTES + 1), "at most"),
    ],
)
def test_a_file_without_certificates_is_refused(pem: bytes, match: str) -> None:
    """At the start of the server, and not at the first push."""
    with pytest.raises(AuthorityInvalid, match=match):
        Authorities.parse(pem)


@pytest.mark.parametrize(
    ("crl", "match"),
    [
        (b"no", "expected CRLs"),
        (b" " * (MAX_CRL_BYTES + 1), "at most"),
        (ROOT.crl(extensions=(x509.DeltaCRLIndicator(1),)), "only some certificates"),
    ],
)
def test_a_file_without_complete_lists_is_refused(crl: bytes, match: str) -> None:
    """A delta says nothing about certificates that were revoked before."""
    with pytest.raises(AuthorityInvalid, match=match):
        Authorities.parse(ROOT.pem, crl)


def test_the_fingerprint_changes_with_certificates_and_lists() -> None:
    """The fingerprint is part of what a rule requires."""
    parsed = (Authorities.parse(ROOT.pem), Authorities.parse(root().pem), Authorities.parse(ROOT.pem, ROOT.crl()))

    assert len({each.fingerprint for each in parsed}) == 3
