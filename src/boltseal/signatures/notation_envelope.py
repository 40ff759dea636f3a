"""The two envelopes of a Notary Project signature: JWS in flattened JSON, and COSE_Sign1. Nothing here is verified. Pure.

    application/jose+json   {"payload": base64url, "protected": base64url, "header": {"x5c": [base64, ...], ...}, "signature": base64url}
                            signed: ASCII(protected "." payload)
    application/cose        18([bytes of protected map, {33: [certificate, ...], ...}, payload, signature])
                            signed: CBOR of ["Signature1", bytes of protected map, empty, payload]

Source: Notary Project `signature-envelope-jws.md` and `signature-envelope-cose.md`, RFC 7515, RFC 9052, RFC 9360. Both become
one value, so that the rules stand once, in `notation`.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from boltseal.errors import quote
from boltseal.oci.base64_text import decode_base64
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.strict_cbor import CborKey, CborValue, Tagged, parse_strict_cbor
from boltseal.signatures.strict_json import parse_unsigned

JWS: Final = "application/jose+json"
COSE: Final = "application/cose"
MAX_NOTATION_BYTES: Final = 1024 * 1024
"""A signature with certificates and a time stamp has about ten kilobytes."""

_PREFIX: Final = "io.cncf.notary."
_STAMP: Final = _PREFIX + "timestampSignature"
_TIMES: Final = ("signingTime", "authenticSigningTime", "expiry")
_COSE_ALGORITHMS: Final = {-37: "PS256", -38: "PS384", -39: "PS512", -7: "ES256", -35: "ES384", -36: "ES512"}
_ALGORITHM, _CRITICAL, _CONTENT_TYPE, _CHAIN = 1, 2, 3, 33
_COSE_SIGN1: Final = 18
_EPOCH_TIME: Final = 1
_LAST_SECOND: Final = 253_402_300_799
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers that are signed. `critical`: the names of those that a reader has to understand."""

    algorithm: str
    content_type: str
    scheme: str
    critical: frozenset[str]
    signing_time: datetime | None
    authentic_time: datetime | None
    expiry: datetime | None


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope. `signed`: the bytes that the signature is made over. `chain`: certificates in DER, the signer's first.

    `stamp`: the token of a time stamp of the signature (RFC 3161); b"" without one.
    """

    headers: Headers
    payload: bytes
    signed: bytes
    signature: bytes
    chain: tuple[bytes, ...]
    stamp: bytes = b""


def parse_unverified(media_type: str, raw: bytes) -> Envelope:
    """Parse an envelope by the media type of its layer. Raises: SignatureInvalid."""
    if media_type == JWS:
        return _parse_jws(raw)
    if media_type == COSE:
        return _parse_cose(raw)
    raise SignatureInvalid(f"a layer of type {quote(media_type)} is no signature of Notation")


class _Unprotected(msgspec.Struct, rename={"stamp": _STAMP}):
    x5c: list[str]
    stamp: str = ""


class _Jws(msgspec.Struct, forbid_unknown_fields=True):
    payload: str
    protected: str
    header: _Unprotected
    signature: str


_PROTECTED_NAMES: Final = {
    "scheme": _PREFIX + "signingScheme",
    "signing_time": _PREFIX + "signingTime",
    "authentic_time": _PREFIX + "authenticSigningTime",
    "expiry": _PREFIX + "expiry",
}


class _Protected(msgspec.Struct, rename=_PROTECTED_NAMES):
    alg: str
    cty: str
    crit: list[str]
    scheme: str
    signing_time: str | None = None
    authentic_time: str | None = None
    expiry: str | None = None


def _parse_jws(raw: bytes) -> Envelope:
    jws = parse_unsigned(raw, _Jws, "the envelope", MAX_NOTATION_BYTES)
    protected = parse_unsigned(
        _base64url(jws.protected, "protected"), _Protected, "the protected header", MAX_NOTATION_BYTES
    )
    chain = []
    for text in jws.header.x5c:
        if (der := decode_base64(text)) is None:
            raise SignatureInvalid("a certificate of the envelope is not base64")
        chain.append(der)
    stamp = decode_base64(jws.header.stamp)
    if stamp is None:
        raise SignatureInvalid("the time stamp of the envelope is not base64")
    return Envelope(
        Headers(
            protected.alg,
            protected.cty,
            protected.scheme,
            _critical(protected.crit),
            _text_time(protected.signing_time),
            _text_time(protected.authentic_time),
            _text_time(protected.expiry),
        ),
        _base64url(jws.payload, "payload"),
        f"{jws.protected}.{jws.payload}".encode(),
        _base64url(jws.signature, "signature"),
        tuple(chain),
        stamp,
    )


def _critical(names: list[str]) -> frozenset[str]:
    if len(set(names)) != len(names):
        raise SignatureInvalid("the list of critical headers has a name twice")
    return frozenset(names)


def _base64url(text: str, what: str) -> bytes:
    """Decode base64url without padding (RFC 7515) in its canonical form."""
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise SignatureInvalid(f"{what} of the envelope is not base64url") from error
    if urlsafe_b64encode(data).rstrip(b"=").decode() != text:
        raise SignatureInvalid(f"{what} of the envelope is not base64url")
    return data


def _text_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        if _RFC3339.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError as error:
        raise SignatureInvalid(f"the time {quote(text)} does not exist") from error
    raise SignatureInvalid(f"the time {quote(text)} is not in the form of RFC 3339")


def _parse_cose(raw: bytes) -> Envelope:
    message = parse_strict_cbor(raw, "the envelope", MAX_NOTATION_BYTES)
    if not isinstance(message, Tagged) or message.number != _COSE_SIGN1:
        raise SignatureInvalid("the envelope is no COSE_Sign1 (tag 18)")
    match message.value:
        case [bytes() as encoded, dict() as unprotected, bytes() as payload, bytes() as signature]:
            pass
        case _:
            raise SignatureInvalid("the envelope is no COSE_Sign1 with headers, payload and signature")
    protected = parse_strict_cbor(encoded, "the protected header", MAX_NOTATION_BYTES)
    if not isinstance(protected, dict):
        raise SignatureInvalid("the protected header is no map")
    if twice := protected.keys() & unprotected.keys():
        raise SignatureInvalid(f"the header {quote(str(min(twice, key=str)))} is both protected and unprotected")
    stamp = unprotected.get(_STAMP, b"")
    if not isinstance(stamp, bytes):
        raise SignatureInvalid("the time stamp of the envelope is no byte string")
    return Envelope(
        _cose_headers(protected),
        payload,
        b"\x84\x6aSignature1" + _encoded_bytes(encoded) + b"\x40" + _encoded_bytes(payload),
        signature,
        _cose_chain(protected.get(_CHAIN, unprotected.get(_CHAIN))),
        stamp,
    )


def _cose_headers(protected: Mapping[CborKey, CborValue]) -> Headers:
    algorithm = protected.get(_ALGORITHM)
    named = _COSE_ALGORITHMS.get(algorithm) if isinstance(algorithm, int) else None
    if named is None:
        raise SignatureInvalid("the algorithm of the envelope is none that Notation allows")
    texts = [protected.get(label) for label in (_CONTENT_TYPE, _PREFIX + "signingScheme")]
    content_type, scheme = (each if isinstance(each, str) else "" for each in texts)
    critical = protected.get(_CRITICAL)
    if not isinstance(critical, list):
        raise SignatureInvalid("the list of critical headers is missing")
    times = [_epoch_time(protected, _PREFIX + name) for name in _TIMES]
    return Headers(named, content_type, scheme, _critical([str(each) for each in critical]), *times)


def _epoch_time(protected: Mapping[CborKey, CborValue], label: str) -> datetime | None:
    if label not in protected:
        return None
    match protected[label]:
        case Tagged(number=1, value=int() as seconds) if 0 <= seconds <= _LAST_SECOND:
            return _EPOCH + timedelta(seconds=seconds)
        case _:
            raise SignatureInvalid(f"the header {label} is no time in whole seconds (tag {_EPOCH_TIME})")


def _cose_chain(value: CborValue) -> tuple[bytes, ...]:
    if not isinstance(value, list):
        raise SignatureInvalid("the certificates (x5chain) are missing")
    chain = tuple(each for each in value if isinstance(each, bytes))
    if len(chain) != len(value):
        raise SignatureInvalid("the certificates (x5chain) are not all byte strings")
    return chain


def _encoded_bytes(value: bytes) -> bytes:
    """Return a byte string in CBOR, in its shortest form."""
    length = len(value)
    if length < 24:
        return bytes([0x40 | length]) + value
    width = next(power for power in range(4) if length < 1 << (8 << power))
    return bytes([0x58 + width]) + length.to_bytes(1 << width) + value
