"""Which refusals of a manifest are recorded as refused pushes: those that a rule, a seal or a right decided.

What a client sent wrongly, what may pass (503) and logins that are missing or wrong (401) are not among them.
"""

from __future__ import annotations

import msgspec

from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.policy.refusals import RefusalReason
from boltseal.server.api.errors import status_of
from boltseal.server.api.paths import ManifestTarget
from boltseal.server.api.refusal_reasons import detail_of
from boltseal.server.api.request import Request
from boltseal.server.registry.refused_pushes import RefusedPushes
from boltseal.server.storage.metadata.refused_push_table import RefusedPush


def note_refused(refused_pushes: RefusedPushes, request: Request, target: ManifestTarget, error: BoltsealError) -> None:
    """Record the refusal of the push of a manifest, if it is refused for good. `target`: of its path."""
    detail, sender, reference = detail_of(error), request.sender, target.reference
    if status_of(type(error)) not in (403, 409, 412) or detail.reason is RefusalReason.HOST:
        return
    pushed = detail.pushed or (reference if isinstance(reference, Digest) else None)
    if pushed is None and request.manifest is not None:
        pushed = Digest.of(request.manifest)
    tag = detail.tag or (reference if isinstance(reference, Tag) else None)
    refused = RefusedPush(
        repository=str.__str__(request.repository or target.repository),
        tag="" if tag is None else str.__str__(tag),
        reason=detail.reason.value,
        pushed="" if pushed is None else str(pushed),
        digest="" if detail.digest is None else str(detail.digest),
        owner=sender.name,
        actor=sender.recorded,
        address=request.address,
        extra=msgspec.json.encode(dict(sender.ledger_extra), order="sorted").decode(),
    )
    refused_pushes.note(refused, detail.free[0] if detail.free else "")
