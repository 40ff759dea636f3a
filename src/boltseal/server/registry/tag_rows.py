"""Pure functions that derive values from the row of a tag, and new rows from old ones. Only the tag writer stores them."""

from __future__ import annotations

import dataclasses
from typing import Final, NamedTuple

from boltseal.errors import Unavailable
from boltseal.ledger.audit import AuditedTag
from boltseal.ledger.entry import MODE_SETTLING, PLATFORM, SETTLES, format_time
from boltseal.oci.digest import SHA256, Digest
from boltseal.oci.reference import Tag
from boltseal.policy.refusal_message import SealedBinding, SettlingTag
from boltseal.policy.rules import FOREVER, Keep, Mode, Rule
from boltseal.policy.seal import UNUSED, Identity, PushDecision, TagState
from boltseal.server.auth.actor import Actor
from boltseal.server.registry.models import PushedManifest, TagChange
from boltseal.server.storage.metadata.tag_row import TagRow

SEALING: Final = (PushDecision.RETURN, PushDecision.MOVE_AND_SEAL)
"""Decisions that seal a tag whatever the rule's mode is."""
_SETTLING: Final = (PushDecision.CREATE_SETTLING, PushDecision.MOVE_SETTLING)


class RowAfterPush(NamedTuple):
    """A tag's row after a push, and the extra of its ledger entry."""

    row: TagRow
    extra: dict[str, str]


def after_push(
    change: TagChange, pushed: PushedManifest, rule: Rule, decision: PushDecision, now_us: int
) -> RowAfterPush:
    """Return the tag's row after an accepted push."""
    row = change.row
    new = resolving_to(pushed)
    if decision in _SETTLING:
        until_us = now_us + rule.settle_us
        extra = {"mode": MODE_SETTLING, "keep": str(rule.keep), SETTLES: format_time(until_us)}
        extra |= {PLATFORM: change.platform} if change.platform else {}
        return RowAfterPush(settling(new, rule.keep, until_us), extra)
    if row is not None and row.sealed_digest is not None and decision is PushDecision.RETURN:
        new = returned(row)
    if rule.mode is not Mode.SEALED and decision not in SEALING:
        return RowAfterPush(new, ledger_extra(rule.mode, None))
    keep = rule.keep if rule.mode is Mode.SEALED else FOREVER
    if row is not None and row.settles_us is not None:
        keep = Keep.parse(str(row.keep))  # of the rule that let the tag settle
    return RowAfterPush(sealed(new, keep, now_us, change.actor), ledger_extra(Mode.SEALED, keep))


def ledger_extra(mode: Mode, keep: Keep | None) -> dict[str, str]:
    """Return what a ledger entry says about the mode of a tag, and about how long a seal protects its bytes."""
    return {"mode": str(mode)} if keep is None else {"mode": str(mode), "keep": str(keep)}


def state_of(row: TagRow | None) -> TagState:
    """Return the tag's state as the seal policy reads it."""
    if row is None:
        return UNUSED
    resolves_to = bound = None
    if row.canonical is not None and row.media_type is not None:
        resolves_to = Identity(row.canonical, row.media_type)
    if row.sealed_canonical is not None and row.sealed_media_type is not None:
        bound = Identity(row.sealed_canonical, row.sealed_media_type)
    return TagState(resolves_to, bound, None if row.settles_us is None else row.changed_by)


def resolving_to(pushed: PushedManifest) -> TagRow:
    """Return an unsealed row that resolves to the pushed manifest. Index, time and actor are set when it is recorded."""
    return TagRow(
        digest=pushed.digest,
        canonical=pushed.identity.canonical,
        media_type=pushed.identity.media_type,
        entry_index=-1,
        changed_us=0,
        changed_by="",
    )


def returned(row: TagRow) -> TagRow:
    """Return the row of a deleted sealed tag, resolving again to the manifest that it was sealed at."""
    return dataclasses.replace(
        row, digest=row.sealed_digest, canonical=row.sealed_canonical, media_type=row.sealed_media_type
    )


def deleted(row: TagRow) -> TagRow:
    """Return the row, resolving to nothing. Of a sealed tag this is a tombstone."""
    return dataclasses.replace(row, digest=None, canonical=None, media_type=None)


def sealed(row: TagRow, keep: Keep, now_us: int, actor: Actor) -> TagRow:
    """Return the row, sealed at its current digest. Of a tag that is sealed already only the keep changes."""
    until = keep.until(now_us)
    if row.sealed_digest is not None:
        return dataclasses.replace(row, keep=str(keep), keep_until_us=until)
    return dataclasses.replace(
        row,
        sealed_digest=row.digest,
        sealed_canonical=row.canonical,
        sealed_media_type=row.media_type,
        sealed_us=now_us,
        sealed_by=actor.recorded,
        keep=str(keep),
        keep_until_us=until,
    )


def settling(row: TagRow, keep: Keep, until_us: int) -> TagRow:
    """Return the row of a tag that is not sealed before a time; `keep`: how long the seal will protect it."""
    return dataclasses.replace(row, keep=str(keep), keep_until_us=until_us)


def settling_of(row: TagRow) -> SettlingTag:
    """Return what a refusal message says about a settling tag."""
    if row.digest is None or row.settles_us is None:
        raise AssertionError("the tag is not settling")
    return SettlingTag(row.digest, row.changed_by, row.settles_us)


def binding_of(row: TagRow) -> SealedBinding:
    """Return what a refusal message says about a sealed tag."""
    if row.sealed_digest is None:
        raise AssertionError("the tag was never sealed")
    return SealedBinding(
        digest=row.sealed_digest,
        since_us=row.sealed_us or 0,
        by=row.sealed_by or "",
        changed_us=row.changed_us,
        keep=str(row.keep),
    )


def recalled(tag: Tag, before: TagRow | None, audited: AuditedTag, canonical: str) -> TagRow:
    """Return the row of a tag as the ledger's last entry about it describes it.

    `canonical`: the sha256 of that manifest where its digest has another algorithm, else "".

    Raises:
        Unavailable: when an old entry names the manifest by another digest, and nothing records its sha256.
    """

    def sha256_of(digest: Digest | None) -> Digest | None:
        if digest is None or digest.algorithm == SHA256:
            return digest
        if canonical:
            return Digest.parse(canonical)
        if before is None or before.digest != digest or before.canonical is None:
            raise Unavailable(
                f"the ledger does not record the sha256 of {digest}, which {tag} resolves to or is sealed at"
            )
        return before.canonical

    digest = Digest.parse(audited.digest) if audited.digest else None
    row = TagRow(
        digest=digest,
        canonical=sha256_of(digest),
        media_type=audited.media_type or None,
        entry_index=audited.index,
        changed_us=audited.changed_us,
        changed_by=audited.actor,
    )
    if audited.settles_us:
        return settling(row, Keep.parse(audited.keep), audited.settles_us)
    if not audited.bound:
        return row
    bound = Digest.parse(audited.bound)
    return dataclasses.replace(
        row,
        sealed_digest=bound,
        sealed_canonical=sha256_of(bound),
        sealed_media_type=audited.bound_type,
        sealed_us=audited.kept_us,
        sealed_by=audited.bound_by,
        keep=audited.keep,
        keep_until_us=Keep.parse(audited.keep).until(audited.kept_us),
    )
