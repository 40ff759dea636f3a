"""What each stored signature and attestation of an image says, under the keys that the caller trusts. Pure.

A verification can't distinguish a forged signature from one by another key, so a layer that no given key verifies is
"not verified", with the reason of the first key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from boltseal.oci.digest import Digest
from boltseal.policy.requirements import StoredEvidence, TrustedKey, builder_of
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.evidence import EvidenceLayer, verify_layer
from boltseal.signatures.signed_image import SignedImage


@dataclass(frozen=True, slots=True)
class EvidenceFinding:
    """One signature or attestation. `signer`: the key that verifies it; None where no given key does, and `why` says why.

    `predicate_type`: of an attestation; None of a signature. `builder`: that a provenance names, else "".
    """

    manifest: Digest
    media_type: str
    signer: TrustedKey | None = None
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
    keys: Sequence[TrustedKey], image: SignedImage, evidence: Sequence[StoredEvidence]
) -> Iterator[EvidenceFinding]:
    """Yield a finding for each stored layer, in order."""
    for stored in evidence:
        for layer in stored.layers:
            yield _finding(keys, image, stored.manifest, layer)


def _finding(keys: Sequence[TrustedKey], image: SignedImage, manifest: Digest, layer: EvidenceLayer) -> EvidenceFinding:
    why = ""
    for key in keys:
        try:
            statement = verify_layer(layer, image, key.key)
        except SignatureInvalid as error:
            why = why or error.message
            continue
        return EvidenceFinding(manifest, layer.media_type, key, statement.predicate_type, builder_of(statement))
    return EvidenceFinding(manifest, layer.media_type, why=why or "no key was given")
