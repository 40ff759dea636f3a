"""The image that a signature has to be about, and what a verified signature says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.signatures.public_keys import PublicKey


@dataclass(frozen=True, slots=True)
class SignedImage:
    """An image manifest or index, as the caller knows it from its own bytes: the repository and the digest.

    `media_type`: "" where the caller does not know it; signatures that name one (Notation) are refused then.
    """

    repository: Repository
    digest: Digest
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class CertificateIdentity:
    """The holder of a certificate for one signature: the names in it, and the issuer (of OpenID Connect) that vouched for them."""

    names: tuple[str, ...]
    issuer: str

    def __str__(self) -> str:
        return f"{', '.join(self.names)} of {self.issuer}"


class TimeSource(StrEnum):
    """What says when a signature was made. Only the signer's own word is not proven."""

    SIGNER = "signer"
    SIGNING_AUTHORITY = "signing authority"
    LOG = "log"
    TIME_STAMP = "time stamp"


@dataclass(frozen=True, slots=True)
class SigningTime:
    """When a signature was made, or existed at the latest, and what says so."""

    at: datetime
    source: TimeSource


@dataclass(frozen=True, slots=True)
class Statement:
    """What a signer verifiably says about an image. `key`: the signer, a key or the identity in a certificate.

    `predicate_type`: the type of an attestation; None where the statement is a plain signature of the image.
    `holder`: the name in the signer's certificate; "" of a key. `time`: None where the signature has none.
    """

    key: PublicKey | CertificateIdentity
    predicate_type: str | None = None
    predicate: Mapping[str, Any] = field(default_factory=dict)
    holder: str = ""
    time: SigningTime | None = None
