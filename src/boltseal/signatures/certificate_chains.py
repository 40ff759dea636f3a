"""Certificate chains of signers, as the Notary Project allows them, under authorities that the caller trusts. Pure.

    chain    leaf, intermediates, root: the leaf's key signed, each certificate is issued by the next, the root by itself
    file     PEM, the certificates of authorities: one of the chain has to be among them
    crl      PEM or DER, lists of revoked certificates that the authorities issued

Source: Notary Project `signature-specification.md` ("Certificate Requirements"), RFC 5280. Two rules are stricter: a critical
extension that is not read here refuses the chain, and a revoked certificate is refused whenever it signed. No OCSP responder
and no distribution point is asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeVar

from boltseal.errors import Invalid, quote
from boltseal.loading import deferred
from boltseal.signatures.errors import SignatureInvalid

if TYPE_CHECKING:
    from cryptography import exceptions, x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
else:  # a command that meets no signature starts without loading cryptography
    exceptions = deferred("cryptography.exceptions")
    x509 = deferred("cryptography.x509")
    serialization = deferred("cryptography.hazmat.primitives.serialization")
    ec = deferred("cryptography.hazmat.primitives.asymmetric.ec")
    rsa = deferred("cryptography.hazmat.primitives.asymmetric.rsa")

_T = TypeVar("_T", bound="x509.ExtensionType")

MAX_CHAIN: Final = 8
MAX_AUTHORITY_BYTES: Final = 256 * 1024
MAX_CRL_BYTES: Final = 1024 * 1024

_HASHES: Final = ("sha256", "sha384", "sha512")
_READ: Final = ("2.5.29.19", "2.5.29.15", "2.5.29.37")
"""The extensions that are read: basicConstraints, keyUsage, extendedKeyUsage."""
_TIME_STAMPING: Final = "1.3.6.1.5.5.7.3.8"
_MIN_RSA_BITS: Final = 2048
_MIN_CURVE_BITS: Final = 256
_FORBIDDEN_USES: Final = {
    "2.5.29.37.0": "anyExtendedKeyUsage",
    "1.3.6.1.5.5.7.3.1": "serverAuth",
    "1.3.6.1.5.5.7.3.2": "clientAuth",
    "1.3.6.1.5.5.7.3.4": "emailProtection",
    _TIME_STAMPING: "timeStamping",
    "1.3.6.1.5.5.7.3.9": "OCSPSigning",
}
_CRL_BLOCK: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


class AuthorityInvalid(Invalid):
    """A file that has no certificates of authorities, or no lists of revoked ones."""


class CertificateExpired(SignatureInvalid):
    """A certificate of the chain had expired; a time stamp may show that it had not when it signed."""


class Purpose(StrEnum):
    """What the first certificate of a chain is for."""

    SIGNATURES = "signatures"
    TIME_STAMPS = "time stamps"


@dataclass(frozen=True, slots=True)
class Authorities:
    """Trusted authorities. `certificates`, `crls`: in DER. Without `crls` no revocation is looked up."""

    certificates: tuple[bytes, ...]
    crls: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, pem: bytes, crls: bytes | None = None) -> Authorities:
        """Parse the files of authorities and of their CRLs. Raises: AuthorityInvalid."""
        if len(pem) > MAX_AUTHORITY_BYTES:
            raise AuthorityInvalid(f"a file of {len(pem)} bytes; at most {MAX_AUTHORITY_BYTES} are read")
        if b"PRIVATE KEY" in pem:
            raise AuthorityInvalid(
                "it has a private key, which the registry must not have; give it the certificate alone"
            )
        try:
            found = x509.load_pem_x509_certificates(pem)
        except ValueError as error:
            raise AuthorityInvalid("expected certificates in PEM (BEGIN CERTIFICATE)") from error
        der = tuple(each.public_bytes(serialization.Encoding.DER) for each in found)
        return cls(der, () if crls is None else _parse_crls(crls))

    @property
    def fingerprint(self) -> str:
        """The sha256 of certificates and lists, as 64 hex digits: it changes when a verdict could."""
        return sha256(b"".join(sha256(each).digest() for each in (*self.certificates, *self.crls))).hexdigest()


def _parse_crls(raw: bytes) -> tuple[bytes, ...]:
    if len(raw) > MAX_CRL_BYTES:
        raise AuthorityInvalid(f"a CRL of {len(raw)} bytes; at most {MAX_CRL_BYTES} are read")
    try:
        if blocks := _CRL_BLOCK.findall(raw):
            lists = [x509.load_pem_x509_crl(each) for each in blocks]
        else:
            lists = [x509.load_der_x509_crl(raw)]
        for each in lists:
            if any(extension.critical for extension in each.extensions):  # a delta, an indirect or a partial list
                raise AuthorityInvalid("a CRL covers only some certificates (it has a critical extension)")
    except (ValueError, x509.DuplicateExtension, exceptions.UnsupportedAlgorithm) as error:
        raise AuthorityInvalid("expected CRLs in PEM (BEGIN X509 CRL), or one in DER") from error
    return tuple(each.public_bytes(serialization.Encoding.DER) for each in lists)


def issuing_chain(first: bytes, others: Sequence[bytes]) -> tuple[bytes, ...]:
    """Order certificates in DER: each is followed by one of the others that issued it, up to one that issued itself.

    The chain ends where none fits. Nothing else is verified. Raises: SignatureInvalid, if one can't be read.
    """
    try:
        certificates = {each: x509.load_der_x509_certificate(each) for each in (first, *others)}
        chain = [first]
        while len(chain) < MAX_CHAIN:
            last = certificates[chain[-1]]
            following = (each for each in certificates if each not in chain and _is_issuer(certificates[each], last))
            if last.subject == last.issuer or (found := next(following, None)) is None:
                break
            chain.append(found)
    except (ValueError, TypeError, x509.InvalidVersion, exceptions.UnsupportedAlgorithm) as error:
        raise SignatureInvalid("the certificates of the signature can't be read") from error
    return tuple(chain)


def _is_issuer(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    if issuer.subject != certificate.issuer:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, exceptions.InvalidSignature):
        return False
    return True


def is_expired(chain: Sequence[bytes], now: datetime) -> bool:
    """Return whether a certificate of a chain in DER has expired. A chain that can't be read has not; it is refused anyway."""
    try:
        return any(x509.load_der_x509_certificate(each).not_valid_after_utc < now for each in chain)
    except (ValueError, x509.InvalidVersion):
        return False


def verify_chain(
    chain: Sequence[bytes],
    authorities: Authorities,
    at: datetime,
    now: datetime,
    purpose: Purpose = Purpose.SIGNATURES,
) -> x509.Certificate:
    """Return the certificate that signed, the first of a chain in DER.

    1. There are at most MAX_CHAIN certificates, and each can be read, with its names and extensions, and the key of the first. The bits
       of each signature fill its bytes.
    2. One of them is a trusted authority's.
    3. Each is issued by the next one, and the last by itself, with SHA-256 or better; no other one is issued by itself.
    4. Each of the authorities may issue certificates, and so many below it; the first may sign for this purpose, and is no
       authority.
    5. None has a critical extension that is not read here.
    6. Each was valid at the time `at`.
    7. With CRLs: each certificate below the root is covered by a list of its issuer that is valid `now`, and not in it.

    Raises: SignatureInvalid at the first step that fails, CertificateExpired if that is the end of a validity.
    """
    # 1
    if not 0 < len(chain) <= MAX_CHAIN:
        raise SignatureInvalid(f"the signature has {len(chain)} certificates; expected 1 to {MAX_CHAIN}")
    try:
        certificates = [x509.load_der_x509_certificate(each) for each in chain]
        certificates[0].public_key()
        for raw, each in zip(chain, certificates, strict=True):
            _ = each.subject, each.issuer, each.extensions  # parsed only here, and each may fail
            if not raw.endswith(b"\0" + each.signature):
                raise ValueError("the signature has unused bits, of which any value would verify")
        # 2
        if not any(each in authorities.certificates for each in chain):
            raise SignatureInvalid(f"no trusted authority issued the certificate of {_subject(certificates[0])}")
        # 3
        _check_order(certificates)
        # 4 and 5
        for depth, each in enumerate(certificates):
            _check_use(each, depth, purpose)
            _check_critical(each)
        # 6
        for each in certificates:
            _check_time(each, at)
        # 7
        if authorities.crls:
            _check_revocation(certificates, authorities.crls, now)
    except (
        ValueError,
        TypeError,  # a name with an attribute of another type than its kind has
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
        exceptions.UnsupportedAlgorithm,
    ) as error:
        raise SignatureInvalid("the certificates of the signature can't be read") from error
    return certificates[0]


def _check_order(certificates: Sequence[x509.Certificate]) -> None:
    root = certificates[-1]
    for certificate, issuer in zip(certificates, [*certificates[1:], root], strict=True):
        found = certificate.signature_hash_algorithm
        if found is None or found.name not in _HASHES:
            raise SignatureInvalid(
                f"the certificate of {_subject(certificate)} is signed with a weak or unknown algorithm"
            )
        if certificate is not root and certificate.subject == certificate.issuer:
            raise SignatureInvalid(
                f"the certificate of {_subject(certificate)} is self-signed, but is not the last one"
            )
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, exceptions.InvalidSignature) as error:
            raise SignatureInvalid(
                f"the certificate of {_subject(certificate)} is not issued by {_subject(issuer)}, which follows it"
            ) from error


def _check_use(certificate: x509.Certificate, depth: int, purpose: Purpose) -> None:
    usage = _extension(certificate, x509.KeyUsage)
    constraints = _extension(certificate, x509.BasicConstraints)
    if usage is None or not (usage.critical or purpose is Purpose.TIME_STAMPS):
        raise SignatureInvalid(f"the certificate of {_subject(certificate)} has no critical keyUsage")
    if depth == 0:
        _check_leaf(certificate, usage.value, constraints)
        if purpose is Purpose.TIME_STAMPS:
            _check_time_stamping(certificate)
        else:
            _check_signing(certificate)
        return
    if constraints is None or not constraints.critical or not constraints.value.ca or not usage.value.key_cert_sign:
        raise SignatureInvalid(f"{_subject(certificate)} may not issue certificates (basicConstraints, keyCertSign)")
    below = constraints.value.path_length
    if below is not None and below < depth - 1:
        raise SignatureInvalid(f"{_subject(certificate)} may have {below} authorities below it; got {depth - 1}")


def _check_leaf(
    certificate: x509.Certificate, usage: x509.KeyUsage, constraints: x509.Extension[x509.BasicConstraints] | None
) -> None:
    other = (
        usage.key_encipherment
        or usage.data_encipherment
        or usage.key_agreement
        or usage.key_cert_sign
        or usage.crl_sign
        or (constraints is not None and constraints.value.ca)
    )
    if other or not usage.digital_signature:
        raise SignatureInvalid(
            f"the certificate of {_subject(certificate)} is not one for signatures alone (keyUsage, basicConstraints)"
        )


def _check_time_stamping(certificate: x509.Certificate) -> None:
    uses = _extension(certificate, x509.ExtendedKeyUsage)
    named = [] if uses is None else [use.dotted_string for use in uses.value]
    if uses is None or not uses.critical or named != [_TIME_STAMPING]:
        raise SignatureInvalid(
            f"the certificate of {_subject(certificate)} is not one for time stamps alone (critical extendedKeyUsage)"
        )
    key = certificate.public_key()
    long_enough = (isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS) or (
        isinstance(key, ec.EllipticCurvePublicKey) and key.key_size >= _MIN_CURVE_BITS
    )
    if not long_enough:
        raise SignatureInvalid(
            f"the key of {_subject(certificate)} is too short; expected RSA of {_MIN_RSA_BITS} bits or a curve of {_MIN_CURVE_BITS}"
        )


def _check_signing(certificate: x509.Certificate) -> None:
    uses = _extension(certificate, x509.ExtendedKeyUsage)
    for use in () if uses is None else uses.value:
        if use.dotted_string in _FORBIDDEN_USES:
            raise SignatureInvalid(
                f"the certificate of {_subject(certificate)} is for {_FORBIDDEN_USES[use.dotted_string]}; expected codeSigning"
            )


def _check_critical(certificate: x509.Certificate) -> None:
    for extension in certificate.extensions:
        if extension.critical and extension.oid.dotted_string not in _READ:
            raise SignatureInvalid(
                f"the certificate of {_subject(certificate)} has the critical extension {extension.oid.dotted_string}, "
                "which is not understood"
            )


def _check_time(certificate: x509.Certificate, at: datetime) -> None:
    if at < certificate.not_valid_before_utc:
        raise SignatureInvalid(
            f"the certificate of {_subject(certificate)} is valid from {_time(certificate.not_valid_before_utc)} on; "
            f"it was needed at {_time(at)}"
        )
    if at > certificate.not_valid_after_utc:
        raise CertificateExpired(
            f"the certificate of {_subject(certificate)} expired at {_time(certificate.not_valid_after_utc)}"
        )


def _check_revocation(certificates: Sequence[x509.Certificate], crls: Sequence[bytes], now: datetime) -> None:
    lists = [x509.load_der_x509_crl(each) for each in crls]
    for certificate, issuer in pairwise(certificates):
        usage = _extension(issuer, x509.KeyUsage)
        key = issuer.public_key()
        issued = [
            each
            for each in lists
            if each.issuer == issuer.subject
            and usage is not None
            and usage.value.crl_sign
            and each.signature_hash_algorithm is not None
            and each.signature_hash_algorithm.name in _HASHES
            and isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
            and each.is_signature_valid(key)
        ]
        if any(each.get_revoked_certificate_by_serial_number(certificate.serial_number) for each in issued):
            raise SignatureInvalid(f"the certificate of {_subject(certificate)} is revoked")
        if not any(_in_force(each, now) for each in issued):
            raise SignatureInvalid(
                f"no CRL of {_subject(issuer)} that is valid at {_time(now)} was given, so that revocation is unknown"
            )


def _in_force(crl: x509.CertificateRevocationList, now: datetime) -> bool:
    until = crl.next_update_utc
    return until is not None and crl.last_update_utc <= now <= until


def _extension(certificate: x509.Certificate, kind: type[_T]) -> x509.Extension[_T] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _subject(certificate: x509.Certificate) -> str:
    return quote(certificate.subject.rfc4514_string(), 120)


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
