"""A trusted root: the certificate authorities, logs and time-stamp authorities by which keyless signatures are verified. Pure.

    {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
     "certificateAuthorities": [{"certChain": {"certificates": [{"rawBytes": ...}]}, ...}],
     "tlogs": [{"publicKey": {"rawBytes": ..., "keyDetails": ...}, ...}], "ctlogs": [...], "timestampAuthorities": [...]}

Source: sigstore `protobuf-specs` (`sigstore_trustroot.proto`). The operator chooses the file, so it is trusted: its owner
decides whose signatures hold. Here it is read only as far as to find a wrong file at the start of a server; the process
that verifies signatures (`boltseal.keyless`) reads it whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec

from boltseal.errors import Invalid, quote
from boltseal.loading import deferred
from boltseal.oci.base64_text import decode_base64
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.strict_json import parse_strict

if TYPE_CHECKING:
    from cryptography import exceptions, x509
    from cryptography.hazmat.primitives import serialization
else:  # a command that meets no signature starts without loading cryptography
    exceptions = deferred("cryptography.exceptions")
    x509 = deferred("cryptography.x509")
    serialization = deferred("cryptography.hazmat.primitives.serialization")

MAX_TRUSTED_ROOT_BYTES: Final = 256 * 1024

_MEDIA_TYPES: Final = (
    "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    "application/vnd.dev.sigstore.trustedroot.v0.2+json",
)


class TrustedRootInvalid(Invalid):
    """A file that is no trusted root."""


class _RawBytes(msgspec.Struct, rename="camel"):
    raw_bytes: str


class _Chain(msgspec.Struct):
    certificates: list[_RawBytes]


class _Authority(msgspec.Struct, rename="camel"):
    cert_chain: _Chain


class _Log(msgspec.Struct, rename="camel"):
    public_key: _RawBytes


class _Document(msgspec.Struct, rename="camel"):
    media_type: str
    certificate_authorities: list[_Authority]
    tlogs: list[_Log]
    ctlogs: list[_Log]
    timestamp_authorities: list[_Authority] = []


@dataclass(frozen=True)
class TrustedRoot:
    """A trusted root. `raw`: the bytes of its file, which decide whether two are equal."""

    raw: bytes

    @classmethod
    def parse(cls, raw: bytes) -> TrustedRoot:
        """Check the file of a trusted root.

        1. It is strict JSON of at most MAX_TRUSTED_ROOT_BYTES bytes, of a known media type.
        2. It has a certificate authority, a transparency log and a log of certificates.
        3. Their certificates and keys can be read.

        Raises: TrustedRootInvalid at the first step that fails.
        """
        # 1
        try:
            document = parse_strict(raw, _Document, "the trusted root", MAX_TRUSTED_ROOT_BYTES)
        except SignatureInvalid as error:
            raise TrustedRootInvalid(error.message) from error
        if document.media_type not in _MEDIA_TYPES:
            raise TrustedRootInvalid(
                f"the trusted root is of type {quote(document.media_type)}; expected {_MEDIA_TYPES[0]}"
            )
        # 2
        needed = {
            "certificateAuthorities": document.certificate_authorities,
            "tlogs": document.tlogs,
            "ctlogs": document.ctlogs,
        }
        for name, entries in needed.items():
            if not entries:
                raise TrustedRootInvalid(f"the trusted root has no {name}, so no keyless signature can be verified")
        # 3
        for authority in (*document.certificate_authorities, *document.timestamp_authorities):
            if not authority.cert_chain.certificates:
                raise TrustedRootInvalid("an authority of the trusted root has no certificate")
            for certificate in authority.cert_chain.certificates:
                _check_certificate(certificate.raw_bytes)
        for log in (*document.tlogs, *document.ctlogs):
            _check_key(log.public_key.raw_bytes)
        return cls(raw)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the file, as 64 hex digits: `sha256sum` prints it."""
        return sha256(self.raw).hexdigest()


def _check_certificate(text: str) -> None:
    try:
        x509.load_der_x509_certificate(decode_base64(text) or b"")
    except ValueError as error:
        raise TrustedRootInvalid("a certificate of the trusted root can't be read") from error


def _check_key(text: str) -> None:
    try:
        serialization.load_der_public_key(decode_base64(text) or b"")
    except (ValueError, exceptions.UnsupportedAlgorithm) as error:
        raise TrustedRootInvalid("the key of a log of the trusted root can't be read") from error
