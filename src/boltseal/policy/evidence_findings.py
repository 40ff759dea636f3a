"""What each stored signature and attestation of an image says, under the signers that the caller trusts. Pure.

A verification can't distinguish a forged signature from one by another key, so a layer that no given signer verifies is
"not verified", with the reason of the first signer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from boltseal.oci.digest import Digest
from boltseal.policy.keyless_signers import NO_RESULTS, KeylessResults
from boltseal.policy.requirements import StoredEvidence, TrustedSigner, builder_of
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.evidence import EvidenceLayer
from boltseal.signatures.signed_image import SignedImage


@dataclass(frozen=True, slots=True)
class EvidenceFinding:
    """One signature or attestation. `signer`: that it is by; None where no given signer signed it, and `why` says why.

    `predicate_type`: of an attestation; None of a signature. `builder`: that a provenance names, else "".
    """

    manifest: Digest
    media_type: str
    signer: TrustedSigner | None = None
    predicate_type: str | None = None
    builder: str = ""
    why: str = ""

    @property
    def kind(self) -> str:
        """signature or attestation; "" where it was not verified, since nothing unverified is read."""
        if self.signer is None:
            return ""
        return "signature" if self.predicate_type is None else "attestation"


def evidence_findings(
    signers: Sequence[TrustedSigner],
    image: SignedImage,
    evidence: Sequence[StoredEvidence],
    keyless: KeylessResults = NO_RESULTS,
) -> Iterator[EvidenceFinding]:
    """Yield a finding for each stored layer, in order. `keyless`: results for its keyless signatures.

    Raises: KeylessNotVerified: a result is needed and missing.
    """
    for stored in evidence:
        for layer in stored.layers:
            yield _finding(signers, image, stored.manifest, layer, keyless)


def _finding(
    signers: Sequence[TrustedSigner],
    image: SignedImage,
    manifest: Digest,
    layer: EvidenceLayer,
    keyless: KeylessResults,
) -> EvidenceFinding:
    why = ""
    for signer in signers:
        try:
            statement = signer.verify(layer, image, keyless)
        except SignatureInvalid as error:
            why = why or error.message
            continue
        return EvidenceFinding(manifest, layer.media_type, signer, statement.predicate_type, builder_of(statement))
    return EvidenceFinding(manifest, layer.media_type, why=why or "no signer was given")
