"""Certificate authorities and Notation signatures of tests, right or wrong. Encoders of their own: nothing of `boltseal` is used."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime(2026, 12, 1, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
YEAR = timedelta(days=365)
PAYLOAD_TYPE = "application/vnd.cncf.notary.payload.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def usage(*names: str) -> x509.KeyUsage:
    """Return a keyUsage with the bits of these names."""
    bits = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**(bits | dict.fromkeys(names, True)))


CA_USAGE = usage("key_cert_sign", "crl_sign")
LEAF_USAGE = usage("digital_signature")
NAMES = {
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
}


def name(text: str) -> x509.Name:
    """Return a name from text such as `C=US, O=acme`."""
    parts = [part.partition("=") for part in text.split(", ")]
    return x509.Name([x509.NameAttribute(NAMES[key], value) for key, _, value in parts])


@dataclass(frozen=True)
class Holder:
    """A certificate with its key and the chain above it."""

    key: Key
    certificate: x509.Certificate
    above: tuple[x509.Certificate, ...] = ()

    @property
    def chain(self) -> list[bytes]:
        return [each.public_bytes(serialization.Encoding.DER) for each in (self.certificate, *self.above)]

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, subject: str = "C=US, ST=WA, O=acme, CN=builder", **how: Any) -> Holder:
        """Issue a certificate for signatures, or another one."""
        return _issued(subject, self, **how)

    def authority(self, subject: str, below: int | None = None, **how: Any) -> Holder:
        """Issue the certificate of an authority."""
        constraints = x509.BasicConstraints(ca=True, path_length=below)
        return self.issue(subject, usage=CA_USAGE, constraints=constraints, **how)

    def crl(self, *revoked: Holder, until: datetime = NOW + YEAR, **how: Any) -> bytes:
        """Issue a list of revoked certificates, in PEM."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(NOW - YEAR)
            .next_update(until)
        )
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(NOW - timedelta(days=1)).build())
        for extension in how.get("extensions", ()):
            builder = builder.add_extension(extension, critical=True)
        signed = builder.sign(self.key, hashes.SHA256())
        return signed.public_bytes(how.get("encoding", serialization.Encoding.PEM))


def root(subject: str = "C=US, O=acme, CN=root", **how: Any) -> Holder:
    """Return an authority of its own."""
    constraints = how.pop("constraints", x509.BasicConstraints(ca=True, path_length=None))
    return _issued(subject, None, usage=how.pop("usage", CA_USAGE), constraints=constraints, **how)


def self_signed(subject: str = "C=US, ST=WA, O=acme, CN=builder") -> Holder:
    """Return a certificate for signatures that no authority issued."""
    return _issued(subject, None)


def _issued(
    subject: str,
    issuer: Holder | None,
    *,
    key: Key | None = None,
    begin: datetime = NOW - YEAR,
    end: datetime = NOW + YEAR,
    usage: x509.KeyUsage | None = LEAF_USAGE,
    usage_critical: bool = True,
    constraints: x509.BasicConstraints | None = None,
    uses: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.CODE_SIGNING,),
    uses_critical: bool = False,
    serial: int | None = None,
    more: Sequence[x509.ExtensionType] = (),
    hash_: hashes.HashAlgorithm | None = None,
) -> Holder:
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(subject) if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    if usage is not None:
        builder = builder.add_extension(usage, critical=usage_critical)
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    elif uses:
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=uses_critical)
    for each in more:
        builder = builder.add_extension(each, critical=True)
    signing = key if issuer is None else issuer.key
    certificate = builder.sign(signing, hash_ or hashes.SHA256())  # type: ignore[arg-type]  # tests choose weak ones too
    return Holder(key, certificate, () if issuer is None else (issuer.certificate, *issuer.above))


def algorithm_of(key: Key) -> str:
    """Return the algorithm that the specification's table has for a key."""
    if isinstance(key, rsa.RSAPrivateKey):
        return {2048: "PS256", 3072: "PS384", 4096: "PS512"}[key.key_size]
    return {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}[key.curve.name]


HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


def sign(key: Key, message: bytes, algorithm: str) -> bytes:
    """Sign as JWS and COSE do; `RS...` is PKCS #1 v1.5."""
    chosen = HASHES[algorithm[2:]]
    if isinstance(key, rsa.RSAPrivateKey):
        if algorithm.startswith("RS"):
            return key.sign(message, padding.PKCS1v15(), chosen)
        return key.sign(message, padding.PSS(padding.MGF1(chosen), chosen.digest_size), chosen)
    width = (key.curve.key_size + 7) // 8
    values = utils.decode_dss_signature(key.sign(message, ec.ECDSA(chosen)))
    return b"".join(value.to_bytes(width, "big") for value in values)


def payload(digest: str, media_type: str = MANIFEST) -> bytes:
    """Return what `notation sign` signs."""
    return json.dumps({"targetArtifact": {"mediaType": media_type, "digest": digest, "size": 4321}}).encode()


def headers(**changed: Any) -> dict[str, Any]:
    """Return signed headers by their short names; None leaves one out. Times are datetimes."""
    found = {
        "cty": PAYLOAD_TYPE,
        "crit": ["io.cncf.notary.signingScheme"],
        "signingScheme": "notary.x509",
        "signingTime": NOW - timedelta(days=30),
    } | changed
    return {key: value for key, value in found.items() if value is not None}


def with_expiry(expiry: datetime) -> dict[str, Any]:
    """Return headers of a signature that expires."""
    return headers(expiry=expiry, crit=["io.cncf.notary.signingScheme", "io.cncf.notary.expiry"])


def by_service(at: datetime, **changed: Any) -> dict[str, Any]:
    """Return headers of a signing authority."""
    crit = ["io.cncf.notary.signingScheme", "io.cncf.notary.authenticSigningTime"]
    scheme = "notary.x509.signingAuthority"
    return headers(signingScheme=scheme, signingTime=None, authenticSigningTime=at, crit=crit) | changed


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _long_name(key: str) -> str:
    return key if key in ("cty", "crit", "alg") or "." in key else f"io.cncf.notary.{key}"


Stamping = Callable[[bytes], bytes]
"""Returns the token of a time stamp for a signature."""
_STAMP = "io.cncf.notary.timestampSignature"


def jws_document(
    holder: Holder,
    signed_payload: bytes,
    signed_headers: Mapping[str, Any] | None = None,
    algorithm: str | None = None,
    stamping: Stamping | None = None,
) -> dict[str, Any]:
    """Return a JWS as JSON has it."""
    algorithm = algorithm or algorithm_of(holder.key)
    protected = {"alg": algorithm} | {
        _long_name(key): value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
        for key, value in (signed_headers or headers()).items()
    }
    first, second = base64url(json.dumps(protected).encode()), base64url(signed_payload)
    right = algorithm if algorithm[:2] in ("PS", "ES", "RS") else algorithm_of(holder.key)
    signature = sign(holder.key, f"{first}.{second}".encode(), right)
    stamp: dict[str, Any] = {} if stamping is None else {_STAMP: b64encode(stamping(signature)).decode()}
    return {
        "payload": second,
        "protected": first,
        "header": {
            "x5c": [b64encode(each).decode() for each in holder.chain],
            "io.cncf.notary.signingAgent": "tests/1",
            **stamp,
        },
        "signature": base64url(signature),
    }


def jws(*arguments: Any, **how: Any) -> bytes:
    """Return a JWS."""
    return json.dumps(jws_document(*arguments, **how)).encode()


@dataclass(frozen=True)
class Tag:
    """A tagged value of CBOR."""

    number: int
    value: Any


def cbor(value: Any) -> bytes:
    """Encode CBOR, with maps in the order of their keys."""
    match value:
        case None | bool():
            return {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value]
        case int():
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case bytes():
            return _head(2, len(value)) + value
        case str():
            return _head(3, len(value.encode())) + value.encode()
        case list():
            return _head(4, len(value)) + b"".join(map(cbor, value))
        case dict():
            return _head(5, len(value)) + b"".join(cbor(key) + cbor(each) for key, each in value.items())
        case Tag():
            return _head(6, value.number) + cbor(value.value)
        case _:
            raise TypeError(value)


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for code, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 256**width:
            return bytes([major << 5 | code]) + number.to_bytes(width, "big")
    raise ValueError(number)


ALGORITHMS = {
    "PS256": -37,
    "PS384": -38,
    "PS512": -39,
    "ES256": -7,
    "ES384": -35,
    "ES512": -36,
    "HS256": 5,
    "RS256": -257,
}


def cose_parts(
    holder: Holder,
    signed_payload: bytes,
    signed_headers: Mapping[str, Any] | None = None,
    algorithm: str | None = None,
    *,
    protected: bytes | None = None,
    stamping: Stamping | None = None,
) -> list[Any]:
    """Return the four parts of a COSE_Sign1. `protected`: other bytes for the signed headers."""
    algorithm = algorithm or algorithm_of(holder.key)
    labels = {"crit": 2, "cty": 3}
    values = {
        labels.get(key, _long_name(key)): Tag(1, int(value.timestamp())) if isinstance(value, datetime) else value
        for key, value in (signed_headers or headers()).items()
    }
    encoded = cbor({1: ALGORITHMS[algorithm]} | values) if protected is None else protected
    right = algorithm if algorithm[:2] in ("PS", "ES", "RS") else algorithm_of(holder.key)
    message = cbor(["Signature1", encoded, b"", signed_payload])
    signature = sign(holder.key, message, right)
    stamp: dict[str, Any] = {} if stamping is None else {_STAMP: stamping(signature)}
    unprotected: dict[Any, Any] = {33: holder.chain, "io.cncf.notary.signingAgent": "tests/1", **stamp}
    return [encoded, unprotected, signed_payload, signature]


def cose(*arguments: Any, **how: Any) -> bytes:
    """Return a COSE_Sign1 with its tag."""
    return cbor(Tag(18, cose_parts(*arguments, **how)))
