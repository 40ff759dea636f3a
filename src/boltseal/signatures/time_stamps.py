"""Time stamps of signatures (RFC 3161): a time-stamp authority says that a signature existed at a time. Pure.

Two verifications make one: `boltseal.keyless.stamps` verifies in another process that the token is the authority's and of this
signature (VerifiedStamp). Here the certificates are compared with the trusted authorities, by the same rules as those of a
signer, and the time with the present. Source: Notary Project `trust-store-trust-policy.md` ("Validate Authentic Timestamp").
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from boltseal.signatures.certificate_chains import Authorities, Purpose, issuing_chain, verify_chain
from boltseal.signatures.errors import SignatureInvalid

MAX_STAMP_BYTES: Final = 64 * 1024
"""A token with its certificates has about six kilobytes."""


@dataclass(frozen=True, slots=True)
class VerifiedStamp:
    """What a token proves, if its certificate is trusted: the bytes existed at a time, give or take the accuracy.

    `certificates`: those of the token in DER, the one that signed it first.
    """

    at: datetime
    accuracy: timedelta
    certificates: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RefusedStamp:
    """A token that proves nothing, and why."""

    why: str


def stamped_between(
    found: VerifiedStamp | RefusedStamp, authorities: Authorities, now: datetime
) -> tuple[datetime, datetime]:
    """Return the earliest and the latest time at which a signature was stamped.

    1. The process has verified the token over the bytes of the signature, under a root of these authorities.
    2. Its certificates end at a root and include a trusted authority, were valid at the time of the stamp, and the first is for
       time stamps alone; with CRLs none is revoked.
    3. The time is not in the future.

    Raises: SignatureInvalid at the first step that fails.
    """
    # 1
    if isinstance(found, RefusedStamp):
        raise SignatureInvalid(f"the time stamp proves nothing: {found.why}")
    # 2
    chain = issuing_chain(found.certificates[0], (*authorities.certificates, *found.certificates[1:]))
    try:
        verify_chain(chain, authorities, found.at, now, Purpose.TIME_STAMPS)
    except SignatureInvalid as error:
        raise SignatureInvalid(f"the time stamp proves nothing: {error.message}") from error
    # 3
    if found.at > now:
        raise SignatureInvalid(f"the time stamp is of {found.at:%Y-%m-%dT%H:%M:%SZ}, which is in the future")
    return found.at - found.accuracy, found.at + found.accuracy
