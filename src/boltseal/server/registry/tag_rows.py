"""What the row of a tag says, and what it becomes: plain functions of rows. Only the door (`tags`) writes what they give."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from boltseal.errors import Unavailable
from boltseal.oci.digest import Digest
from boltseal.policy import refusal_message
from boltseal.policy.rules import Keep
from boltseal.policy.seal import UNUSED, Identity, TagState
from boltseal.server.storage.metadata.tag_row import TagRow

if TYPE_CHECKING:
    from boltseal.ledger.audit import AuditedTag
    from boltseal.oci.reference import Tag
    from boltseal.server.auth.actor import Actor
    from boltseal.server.registry.models import PushedManifest


class TagStateUnreadable(Unavailable):
    """An old entry names a manifest by another digest than its sha256, and nothing says which that is."""


def state(row: TagRow | None) -> TagState:
    """What the seal's rule has to know of a name."""
    if row is None:
        return UNUSED
    means = bound = None
    if row.canonical is not None and row.media_type is not None:
        means = Identity(Digest.parse(row.canonical), row.media_type)
    if row.sealed_canonical is not None and row.sealed_media_type is not None:
        bound = Identity(Digest.parse(row.sealed_canonical), row.sealed_media_type)
    return TagState(means, bound)


def meaning(bound: TagRow | None, pushed: PushedManifest) -> TagRow:
    """A row that means what was pushed; index, time and actor are filled in when it is recorded."""
    new = TagRow(
        digest=str(pushed.digest),
        canonical=str(pushed.identity.canonical),
        media_type=pushed.identity.media_type,
        entry_index=-1,
        changed_us=0,
        changed_by="",
    )
    if bound is None:
        return new
    return dataclasses.replace(
        bound, digest=bound.sealed_digest, canonical=bound.sealed_canonical, media_type=bound.sealed_media_type
    )


def sealed(row: TagRow, keep: Keep, now_us: int, actor: Actor) -> TagRow:
    """The row, bound to what it means. Of a name that is bound already only the keep changes: sealed is written once."""
    until = keep.until(now_us)
    if row.sealed_digest is not None:
        return dataclasses.replace(row, keep=str(keep), keep_until_us=until)
    return dataclasses.replace(
        row,
        sealed_digest=row.digest,
        sealed_canonical=row.canonical,
        sealed_media_type=row.media_type,
        sealed_us=now_us,
        sealed_by=actor.name,
        keep=str(keep),
        keep_until_us=until,
    )


def binding(row: TagRow) -> refusal_message.SealedBinding:
    """What the sentence of a refusal says of a name that is bound."""
    return refusal_message.SealedBinding(
        digest=Digest.parse(str(row.sealed_digest)),
        since_us=row.sealed_us or 0,
        by=row.sealed_by or "",
        changed_us=row.changed_us,
        keep=str(row.keep),
    )


def recalled(tag: Tag, before: TagRow | None, said: AuditedTag, canonical: str) -> TagRow:
    """The row of a name as the ledger's last word on it has it; `canonical` as of `TagDoor.recall`. TagStateUnreadable."""

    def sha256_of(digest: str) -> str | None:
        if not digest or digest.startswith("sha256:"):
            return digest or None
        known = canonical or (before.canonical if before is not None and before.digest == digest else None)
        if known is None:
            raise TagStateUnreadable(f"the ledger does not say the sha256 of {digest}, which {tag} is bound to")
        return known

    row = TagRow(
        digest=said.digest or None,
        canonical=sha256_of(said.digest),
        media_type=said.media_type or None,
        entry_index=said.index,
        changed_us=said.changed_us,
        changed_by=said.actor,
    )
    if said.bound:
        row = dataclasses.replace(
            row,
            sealed_digest=said.bound,
            sealed_canonical=sha256_of(said.bound),
            sealed_media_type=said.bound_type,
            sealed_us=said.kept_us,
            sealed_by=said.bound_by,
            keep=said.keep,
            keep_until_us=Keep.parse(said.keep).until(said.kept_us),
        )
    return row
