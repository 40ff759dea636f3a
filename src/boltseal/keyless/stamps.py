"""Verification of one time stamp (RFC 3161) of a signature, for the process `process`. The library is rfc3161-client.

1. The token is one TimeStampToken in DER, with one signer, whose certificate is in it exactly once. The certificates, which nothing signs,
   can be in any order.
2. All hashes in it are SHA-256, SHA-384 or SHA-512: the one of the stamped bytes, and those of the token's own signature.
3. The token is signed with the key of that certificate, which is for time stamps, and which one of the roots has issued, over
   certificates of the token that were valid at the time of the stamp.
4. The token is of the bytes that were given.

Whether the certificates are what is required, `boltseal.signatures.time_stamps` decides. The attribute signing-certificate-v2 is not
read: the certificate is found by its issuer and number, and by the key that signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, cast

import msgspec

from boltseal.loading import deferred

if TYPE_CHECKING:
    import rfc3161_client
    from cryptography import x509
else:  # imported under the limits of memory and connections, and only where the extra is installed
    rfc3161_client = deferred("rfc3161_client")
    x509 = deferred("cryptography.x509")

_HASHES: Final = frozenset({"2.16.840.1.101.3.4.2.1", "2.16.840.1.101.3.4.2.2", "2.16.840.1.101.3.4.2.3"})
_GRANTED: Final = b"\x30\x03\x02\x01\x00"
"""The status of a response in DER. Signatures have the token alone, and the library reads whole responses."""
_BASELINE_POLICY: Final = "0.4.0.2023.1.1"
"""Under this policy (RFC 3628) a token without an accuracy has one of a second."""
_SEQUENCE, _CERTIFICATES, _LONG_FORM = b"\x30", b"\xa0", 0x80


class StampNotProven(ValueError):
    """A step that this module does itself failed."""


class StampResult(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a time stamp proves, or why nothing (`refused`).

    `at_us` and `accuracy_us`: microseconds, the first since 1970. `certificates`: base64, the one that signed first.
    """

    at_us: int = 0
    accuracy_us: int = 0
    certificates: tuple[str, ...] = ()
    refused: str = ""


def verified_token(
    roots: Sequence[x509.Certificate], token: bytes, message: bytes
) -> tuple[rfc3161_client.TimeStampResponse, list[bytes]]:
    """Verify a token over bytes. Return it, and its certificates in DER, the one that signed it first.

    Raises: StampNotProven, and what the library raises for tokens that prove nothing.
    """
    # 1
    response = rfc3161_client.decode_timestamp_response(_value(_SEQUENCE, _GRANTED, _ordered(token)))
    signed = response.signed_data
    signers = list(signed.signer_infos)
    if len(signers) != 1:
        raise StampNotProven(f"the token has {len(signers)} signers; expected one")
    certificates = sorted(signed.certificates)
    named = [each for each in certificates if _is_named(x509.load_der_x509_certificate(each), signers[0])]
    if len(named) != 1:
        raise StampNotProven(f"the token has {len(named)} certificates of its signer; expected one")
    # 2
    used = {each.dotted_string for each in signed.digest_algorithms}
    if not used <= _HASHES or response.tst_info.message_imprint.hash_algorithm.dotted_string not in _HASHES:
        raise StampNotProven("the token uses a hash that is not allowed; expected SHA-256, SHA-384 or SHA-512")
    # 3 and 4
    builder = rfc3161_client.VerifierBuilder()
    for root in dict.fromkeys(roots):
        builder = builder.add_root_certificate(root)
    builder.build().verify_message(response, message)
    return response, [named[0], *(each for each in certificates if each != named[0])]


def accuracy_of(response: rfc3161_client.TimeStampResponse) -> timedelta:
    """Return how much earlier or later than its time a token may have been made."""
    stated = cast("rfc3161_client.Accuracy | None", response.tst_info.accuracy)
    policy = cast("x509.ObjectIdentifier | None", response.tst_info.policy)
    if stated is None:
        baseline = policy is not None and policy.dotted_string == _BASELINE_POLICY
        return timedelta(seconds=1 if baseline else 0)
    return timedelta(seconds=stated.seconds or 0, milliseconds=stated.millis or 0, microseconds=stated.micros or 0)


def _is_named(certificate: x509.Certificate, signer: rfc3161_client.SignerInfo) -> bool:
    return certificate.issuer == signer.issuer and certificate.serial_number == signer.serial_number


def _ordered(token: bytes) -> bytes:
    """Return a token with its certificates in the order of DER: OpenSSL has them in any, and the library requires it.

    ContentInfo   SEQUENCE { contentType, [0] { SignedData } }
    SignedData    SEQUENCE { version, digestAlgorithms, encapContentInfo, [0] certificates, ..., signerInfos }
    """
    match _parts(token):
        case [content_type, content]:
            signed = b"".join(_parts(content))
        case _:
            raise StampNotProven("the token is not DER")
    ordered = [
        _value(_CERTIFICATES, *sorted(_parts(part))) if part[:1] == _CERTIFICATES else part for part in _parts(signed)
    ]
    return _value(_SEQUENCE, content_type, _value(content[:1], _value(_SEQUENCE, *ordered)))


def _parts(value: bytes) -> list[bytes]:
    """Return the values inside a value in DER. Raises: StampNotProven, if they do not fill it exactly."""
    at, end = _bounds(value, 0)
    found = []
    while at < end:
        _, after = _bounds(value, at)
        found.append(value[at:after])
        at = after
    if at != len(value):
        raise StampNotProven("the token is not DER")
    return found


def _bounds(raw: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the value at a position begins, and where it ends."""
    header = raw[at : at + 2]
    width = header[1] & ~_LONG_FORM if len(header) == 2 and header[1] & _LONG_FORM else 0
    begin = at + 2 + width
    size = int.from_bytes(raw[at + 2 : begin]) if width else int.from_bytes(header[1:])
    if len(header) < 2 or header[1] == _LONG_FORM or begin + size > len(raw):
        raise StampNotProven("the token is not DER")
    return begin, begin + size


def _value(tag: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    size = len(content)
    if size < _LONG_FORM:
        return tag + bytes([size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return tag + bytes([_LONG_FORM | len(length)]) + length + content
