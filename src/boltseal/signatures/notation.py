"""Signatures of the Notary Project, as `notation sign` stores them in referrers.

    manifest: artifactType application/vnd.cncf.notary.signature, `subject` the image, one layer
    layer:    application/jose+json or application/cose (`notation_envelope`)
    payload:  {"targetArtifact": {"mediaType": ..., "digest": "sha256:...", "size": ...}}

The caller gives authorities and a subject, as Notation's trust policy has them (trust store, trusted identity), and the signing
scheme that these authorities are trusted for. An authority of `notary.x509.signingAuthority` vouches for the time of a signature
as well, so a certificate of `notary.x509` must not pass for one. Source: Notary Project `signature-specification.md`,
`signing-scheme.md`, `trust-store-trust-policy.md` (level "strict", `verifyTimestamp` "afterCertExpiry"). Under `notary.x509` each
certificate has to be valid now, or at the time of a time stamp (`time_stamps`). The payload names no repository. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from boltseal.errors import quote
from boltseal.loading import deferred
from boltseal.signatures.certificate_chains import Authorities, CertificateExpired, is_expired, verify_chain
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.notation_envelope import MAX_NOTATION_BYTES, Envelope, Headers, parse_unverified
from boltseal.signatures.public_keys import PublicKey
from boltseal.signatures.signed_image import SignedImage, SigningTime, Statement, TimeSource
from boltseal.signatures.strict_json import parse_strict
from boltseal.signatures.subject_names import SubjectName
from boltseal.signatures.time_stamps import MAX_STAMP_BYTES, RefusedStamp, VerifiedStamp, stamped_between

if TYPE_CHECKING:
    from cryptography import exceptions, x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
else:  # a command that meets no signature starts without loading cryptography
    exceptions = deferred("cryptography.exceptions")
    x509 = deferred("cryptography.x509")
    hashes = deferred("cryptography.hazmat.primitives.hashes")
    serialization = deferred("cryptography.hazmat.primitives.serialization")
    ec = deferred("cryptography.hazmat.primitives.asymmetric.ec")
    padding = deferred("cryptography.hazmat.primitives.asymmetric.padding")
    rsa = deferred("cryptography.hazmat.primitives.asymmetric.rsa")
    utils = deferred("cryptography.hazmat.primitives.asymmetric.utils")

PAYLOAD_TYPE: Final = "application/vnd.cncf.notary.payload.v1+json"
SCHEME: Final = "io.cncf.notary.signingScheme"
AUTHENTIC_TIME: Final = "io.cncf.notary.authenticSigningTime"
EXPIRY: Final = "io.cncf.notary.expiry"

_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class SigningScheme(StrEnum):
    """The scheme of a signature. Under the second one, the authority that signed also vouches for the time."""

    X509 = "notary.x509"
    SIGNING_AUTHORITY = "notary.x509.signingAuthority"


@dataclass(frozen=True, slots=True)
class TrustedSubject:
    """Signatures that count: by certificates of a subject under authorities. `subject` None: every certificate of them.

    `time_stamps`: the authorities whose time stamps count after a certificate has expired; None: no time stamps do.
    """

    authorities: Authorities
    subject: SubjectName | None
    scheme: SigningScheme
    time_stamps: Authorities | None = None


StampLookUp = Callable[[], VerifiedStamp | RefusedStamp]
"""Returns what another process found out about the time stamp of the signature."""


def _no_result() -> RefusedStamp:
    return RefusedStamp("it was not verified")


class _Target(msgspec.Struct, rename="camel"):
    media_type: str
    digest: str
    size: int


class _Payload(msgspec.Struct, rename="camel"):
    target_artifact: _Target


def verify_notation(
    media_type: str,
    raw: bytes,
    image: SignedImage,
    trusted: TrustedSubject,
    now_us: int,
    stamp: StampLookUp = _no_result,
) -> Statement:
    """Verify one signature. `media_type`: of its layer. `now_us`: microseconds since 1970. `stamp`: called if it is needed.

    1. The envelope has at most MAX_NOTATION_BYTES bytes, and is strict JSON or CBOR with one signature.
    2. Its signed headers have the payload type and the signing scheme that is required; all that are critical are understood.
    3. It is not expired, and a time that the scheme vouches for is not in the future.
    4. The certificates end at a root and include a trusted authority, and are valid: now, or when a signing authority says that it signed.
       If one has expired, they were valid during all the time in which the signature may have been stamped (`time_stamps`).
    5. The algorithm is the one for the certificate's key, whatever else the headers say.
    6. The key signed headers and payload. Before that the payload is not read.
    7. The subject of the certificate is the trusted one.
    8. The payload is strict JSON, and names the image's digest and media type.

    Raises: SignatureInvalid at the first step that fails.
    """
    # 1
    envelope = parse_unverified(media_type, raw)
    headers = envelope.headers
    # 2
    _check_headers(headers, trusted.scheme)
    # 3
    now = _EPOCH + timedelta(microseconds=now_us)
    at = _signing_time(headers, now)
    # 4
    leaf, time = _signer(envelope, trusted, at, now, stamp)
    # 5
    algorithm = _algorithm(leaf)
    if headers.algorithm != algorithm.name:
        raise SignatureInvalid(f"the algorithm is {quote(headers.algorithm)}; expected {algorithm.name} for this key")
    # 6
    if not algorithm.verifies(envelope.signature, envelope.signed):
        raise SignatureInvalid("the signature is by another key, or headers or payload were changed")
    # 7
    if trusted.subject is not None:
        trusted.subject.check(leaf.subject)
    # 8
    target = parse_strict(envelope.payload, _Payload, "the signed payload", MAX_NOTATION_BYTES).target_artifact
    if target.digest != str(image.digest):
        raise SignatureInvalid(f"the signature is of {quote(target.digest)}; expected {image.digest}")
    if target.media_type != image.media_type:
        expected = image.media_type or "a media type that the caller knows"
        raise SignatureInvalid(f"the signature is of media type {quote(target.media_type)}; expected {expected}")
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    key = PublicKey(leaf.public_key().public_bytes(serialization.Encoding.DER, spki))
    return Statement(key, holder=leaf.subject.rfc4514_string(), time=time)


def _signer(
    envelope: Envelope, trusted: TrustedSubject, at: datetime, now: datetime, stamp: StampLookUp
) -> tuple[x509.Certificate, SigningTime | None]:
    """Return the certificate that signed, and when. `at`: when the certificates have to be valid, without a time stamp."""
    try:
        return verify_chain(envelope.chain, trusted.authorities, at, now), _stated_time(envelope.headers)
    except CertificateExpired as expired:
        if trusted.time_stamps is None:
            raise
        if not envelope.stamp:
            raise SignatureInvalid(f"{expired.message}, and the signature has no time stamp") from expired
    if len(envelope.stamp) > MAX_STAMP_BYTES:
        raise SignatureInvalid(f"the time stamp has {len(envelope.stamp)} bytes; at most {MAX_STAMP_BYTES} are read")
    begin, end = stamped_between(stamp(), trusted.time_stamps, now)
    try:
        verify_chain(envelope.chain, trusted.authorities, begin, now)
        return verify_chain(envelope.chain, trusted.authorities, end, now), SigningTime(end, TimeSource.TIME_STAMP)
    except SignatureInvalid as error:
        raise SignatureInvalid(f"{error.message}; the signature was stamped at {end:%Y-%m-%dT%H:%M:%SZ}") from error


def stamp_to_verify(media_type: str, raw: bytes, now_us: int) -> Envelope | None:
    """Return an envelope whose time stamp decides about it, unverified: a certificate has expired, and there is a time stamp."""
    try:
        envelope = parse_unverified(media_type, raw)
    except SignatureInvalid:
        return None
    due = 0 < len(envelope.stamp) <= MAX_STAMP_BYTES and is_expired(
        envelope.chain, _EPOCH + timedelta(microseconds=now_us)
    )
    return envelope if due else None


def _check_headers(headers: Headers, scheme: SigningScheme) -> None:
    if headers.content_type != PAYLOAD_TYPE:
        raise SignatureInvalid(f"the payload is of type {quote(headers.content_type)}; expected {PAYLOAD_TYPE}")
    if headers.scheme != scheme:
        raise SignatureInvalid(f"the signing scheme is {quote(headers.scheme)}; the authority is trusted for {scheme}")
    critical = {SCHEME: True, AUTHENTIC_TIME: headers.authentic_time is not None, EXPIRY: headers.expiry is not None}
    for name, present in critical.items():
        if present and name not in headers.critical:
            raise SignatureInvalid(f"the header {name} is not marked as critical")
    for name in headers.critical:
        if not critical.get(name, False):
            raise SignatureInvalid(f"the critical header {quote(name)} is not understood, or missing")


def _signing_time(headers: Headers, now: datetime) -> datetime:
    """Return the time at which the certificates have to be valid: now, unless the scheme vouches for another one."""
    vouched = headers.scheme == SigningScheme.SIGNING_AUTHORITY
    signed, other = headers.signing_time, headers.authentic_time
    if vouched:
        signed, other = other, signed
    if signed is None or other is not None:
        raise SignatureInvalid(f"the scheme {headers.scheme} needs one signing time, of its own kind")
    if headers.expiry is not None and headers.expiry <= signed:
        raise SignatureInvalid("the signature expired before it was made")
    if headers.expiry is not None and headers.expiry <= now:
        raise SignatureInvalid(f"the signature expired at {headers.expiry:%Y-%m-%dT%H:%M:%SZ}")
    if vouched and signed > now:
        raise SignatureInvalid("the signature was made in the future")
    return signed if vouched else now


def _stated_time(headers: Headers) -> SigningTime | None:
    if headers.authentic_time is not None:
        return SigningTime(headers.authentic_time, TimeSource.SIGNING_AUTHORITY)
    return None if headers.signing_time is None else SigningTime(headers.signing_time, TimeSource.SIGNER)


@dataclass(frozen=True, slots=True)
class _Algorithm:
    """The algorithm of a key: its type and size decide (signature-specification, "Algorithm Selection")."""

    name: str
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    hash: hashes.HashAlgorithm

    def verifies(self, signature: bytes, message: bytes) -> bool:
        try:
            if isinstance(self.key, rsa.RSAPublicKey):
                salted = padding.PSS(padding.MGF1(self.hash), self.hash.digest_size)
                self.key.verify(signature, message, salted, self.hash)
                return True
            width = (self.key.key_size + 7) // 8
            if len(signature) != 2 * width:
                return False
            values = (int.from_bytes(signature[:width]), int.from_bytes(signature[width:]))
            self.key.verify(utils.encode_dss_signature(*values), message, ec.ECDSA(self.hash))
        except exceptions.InvalidSignature:
            return False
        return True


def _algorithm(leaf: x509.Certificate) -> _Algorithm:
    key = leaf.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        kind, sizes = "PS", (2048, 3072, 4096)
    elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in ("secp256r1", "secp384r1", "secp521r1"):
        kind, sizes = "ES", (256, 384, 521)
    else:
        raise SignatureInvalid("the key of the certificate is neither RSA nor on a curve of NIST")
    if key.key_size not in sizes:
        raise SignatureInvalid(f"the key of the certificate has {key.key_size} bits; expected 2048, 3072 or 4096")
    number = sizes.index(key.key_size)
    return _Algorithm(
        kind + ("256", "384", "512")[number], key, (hashes.SHA256(), hashes.SHA384(), hashes.SHA512())[number]
    )
