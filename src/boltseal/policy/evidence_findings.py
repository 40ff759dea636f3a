"""What each stored signature and attestation of an image says, under the requirements that the caller gives. Pure.

A verification can't distinguish a forged signature from one by another key, so a layer that no given signer verifies is
"not verified", with the reason of the first signer that signs in its format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from boltseal.oci.digest import Digest
from boltseal.policy.keyless_signers import NO_RESULTS, KeylessNotVerified, KeylessResults, KeylessSigner
from boltseal.policy.notation_signers import CertifiedBy
from boltseal.policy.requirements import (
    Requirement,
    SingleRequirement,
    StoredEvidence,
    builder_of,
    single_requirements,
)
from boltseal.signatures.dsse import ENVELOPE
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.evidence import EvidenceLayer
from boltseal.signatures.notation_envelope import COSE, JWS
from boltseal.signatures.signed_image import SignedImage, SigningTime
from boltseal.signatures.sigstore_bundle import BUNDLE
from boltseal.signatures.simple_signing import SIMPLE_SIGNING

FORMATS: Final = {
    SIMPLE_SIGNING: "cosign",
    ENVELOPE: "DSSE",
    BUNDLE: "Sigstore bundle",
    JWS: "Notation JWS",
    COSE: "Notation COSE",
}
"""The formats of layers, by their media types."""


class Verdict(StrEnum):
    """Whether a given signer signed it. UNKNOWN: it could not be found out."""

    VERIFIED = "verified"
    NOT_VERIFIED = "not-verified"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class EvidenceFinding:
    """One signature or attestation. `signer`: that it is by; "" where no given signer signed it, and `why` says why.

    `predicate_type`: of an attestation; None of a signature. `builder`: that a provenance names, else "". `time`: of the
    signature, where its format has one.
    """

    manifest: Digest
    media_type: str
    verdict: Verdict
    signer: str = ""
    predicate_type: str | None = None
    builder: str = ""
    time: SigningTime | None = None
    why: str = ""

    @property
    def kind(self) -> str:
        """signature or attestation; "" where it was not verified, since nothing unverified is read."""
        if self.verdict is not Verdict.VERIFIED:
            return ""
        return "signature" if self.predicate_type is None else "attestation"

    @property
    def format(self) -> str:
        """The format, which the media type names."""
        return FORMATS.get(self.media_type, self.media_type)


def evidence_findings(
    requirements: Sequence[Requirement],
    image: SignedImage,
    evidence: Sequence[StoredEvidence],
    now_us: int = 0,
    keyless: KeylessResults = NO_RESULTS,
) -> Iterator[EvidenceFinding]:
    """Yield a finding for each stored layer, in order.

    `now_us`: microseconds since 1970, for the validity of certificates. `keyless`: results for its keyless signatures; a layer
    without a result that it needs is UNKNOWN.
    """
    singles = single_requirements(requirements)
    for stored in evidence:
        for layer in stored.layers:
            yield _finding(singles, image, stored.manifest, layer, now_us, keyless)


def _finding(
    singles: Sequence[SingleRequirement],
    image: SignedImage,
    manifest: Digest,
    layer: EvidenceLayer,
    now_us: int,
    keyless: KeylessResults,
) -> EvidenceFinding:
    refused, doubt = "", ""
    for single in sorted(singles, key=lambda each: _may_sign(each, layer.media_type), reverse=True):
        try:
            statement = single.verify(layer, image, now_us, keyless)
        except SignatureInvalid as error:
            refused = refused or error.message
            continue
        except KeylessNotVerified as error:
            doubt = doubt or error.message
            continue
        return EvidenceFinding(
            manifest,
            layer.media_type,
            Verdict.VERIFIED,
            single.signed_by(statement),
            statement.predicate_type,
            builder_of(statement),
            statement.time,
        )
    verdict = Verdict.UNKNOWN if doubt else Verdict.NOT_VERIFIED
    return EvidenceFinding(manifest, layer.media_type, verdict, why=doubt or refused or "no signer was given")


def _may_sign(single: SingleRequirement, media_type: str) -> bool:
    """Return whether a signer can make layers of a type at all: the reason of another one says nothing."""
    if isinstance(single, CertifiedBy):
        return media_type in (JWS, COSE)
    if isinstance(single.signer, KeylessSigner):
        return media_type == BUNDLE
    return media_type not in (JWS, COSE)
