"""The step of the tag writer that asks for a rule's evidence, inside the transaction. Verifies nothing.

Signatures were verified before the transaction, since that reads blobs and takes time (`evidence_checks`). Inside it:

1. The judgement is of this image, and by the rules of this tag writer.
2. The rule's requirements were met.
3. The repository still has the manifests that met them: none was deleted in between.
"""

from __future__ import annotations

from typing import Final

from boltseal.errors import Unavailable
from boltseal.policy.rules import Rule, RuleSet
from boltseal.server.registry import tag_refusals
from boltseal.server.registry.models import PushedManifest, TagChange
from boltseal.server.storage.metadata import queries
from boltseal.server.storage.metadata.protocol import UnitOfWork

EVIDENCE: Final = "evidence"
"""The key of an entry's extra with the digests of the evidence, separated by spaces."""


class EvidenceChanged(Unavailable):
    """The evidence changed after it was judged. Nothing was written; judge it again."""


def required_evidence(
    tx: UnitOfWork, change: TagChange, pushed: PushedManifest, rule: Rule, rules: RuleSet
) -> dict[str, str]:
    """Check the evidence that a rule requires; return what the ledger entry says about it, nothing if none is required.

    Raises:
        TagUnsigned: a requirement is not met.
        EvidenceChanged: the evidence was not judged, or has changed since.
    """
    if not rule.require:
        return {}
    # 1
    judged = change.evidence
    if judged is None or judged.rules is not rules or judged.image != pushed.identity.canonical:
        raise _changed(change, "was not verified by the rules in force")
    verdict = judged.verdicts[rule.number]
    # 2
    if verdict.missing:
        raise tag_refusals.push_unsigned(change, pushed.digest, rule, verdict.missing)
    # 3
    named = [str(digest) for digest in verdict.manifests]
    if len(queries.parts_of(tx, change.repository.id, named)) < len(named):
        raise _changed(change, "was deleted while it was verified")
    return {EVIDENCE: " ".join(sorted(named))}


def _changed(change: TagChange, what: str) -> EvidenceChanged:
    return EvidenceChanged(f"the evidence for tag {change.tag} of {change.repository.name} {what}; try again")
