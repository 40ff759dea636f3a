"""The refusals of the tag writer: their classes, and the errors with message and detail.

The rules that decide are in `policy`, the texts in `policy.refusal_message`, the details in `policy.refusals`. Which reason
a class has in the metric `boltseal_refusals_total` is in `server.api.refusal_reasons`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from boltseal.errors import ErrorCode, Invalid, SealedDelete, SealedPut
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy import refusal_message
from boltseal.policy.refusal_message import SomeTags
from boltseal.policy.refusals import RefusalDetail, RefusalReason, Refused
from boltseal.policy.requirements import MissingEvidence
from boltseal.policy.rules import Rule
from boltseal.policy.seal import PushDecision
from boltseal.server.registry import tag_rows
from boltseal.server.registry.models import RepositoryRow, TagChange
from boltseal.server.storage.metadata.tag_row import TagRow


class TagSealed(Refused, SealedPut):
    """The tag is sealed at another manifest."""


class TagTombstoned(TagSealed):
    """The tag was sealed and deleted; it can return only with the digest in its tombstone."""


class TagSettling(Refused, SealedPut):
    """The tag is settling, and this push is not the index that completes it."""


class NotExtended(Refused, SealedPut):
    """The push to an append-only tag lacks layers or entries of its current manifest."""


class TagUnsigned(Refused, SealedPut):
    """The rule requires evidence for the tag that the image does not have."""


class ContentProtected(Refused, SealedDelete):
    """A seal covers what was to be deleted."""


class TagProtected(ContentProtected):
    """The tag's own seal, or the seal on the image that it signs, protects it from deletion."""


class ReferencesMissing(Refused, Invalid):
    """A manifest cannot be sealed before the repository has everything that it refers to."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_BLOB_UNKNOWN


def push_to_sealed(
    change: TagChange, row: TagRow, pushed: Digest, rule: Rule, free: str | None, *, part_of_image: bool
) -> TagSealed:
    """Return the refusal of a push to a sealed tag. `free`, `part_of_image`: as of `refusal_message.put_sealed`."""
    repository, tag, binding = change.repository.name, change.tag, tag_rows.binding_of(row)
    detail = _detail_of_push(change, row, pushed, rule, free, RefusalReason.SEALED, binding.since_us)
    return TagSealed(
        refusal_message.put_sealed(tag, repository, binding, pushed, free, part_of_image=part_of_image), detail
    )


def push_to_tombstone(change: TagChange, row: TagRow, pushed: Digest, rule: Rule, free: str | None) -> TagTombstoned:
    """Return the refusal of a push to a deleted tag that was sealed. `free`: the next tag, when that is free."""
    repository, tag, binding = change.repository.name, change.tag, tag_rows.binding_of(row)
    detail = _detail_of_push(change, row, pushed, rule, free, RefusalReason.TOMBSTONE, binding.changed_us)
    return TagTombstoned(refusal_message.put_tombstone(tag, repository, binding, pushed, free), detail)


def push_to_settling(change: TagChange, row: TagRow, pushed: Digest, rule: Rule) -> TagSettling:
    """Return the refusal of a push to a settling tag."""
    repository, tag, settling = change.repository.name, change.tag, tag_rows.settling_of(row)
    by = refusal_message.person(settling.by)
    detail = RefusalDetail(RefusalReason.SETTLING, tag, settling.digest, pushed, by=by, rule=rule.why)
    return TagSettling(refusal_message.put_settling(tag, repository, settling, pushed), detail)


def push_not_extending(change: TagChange, current: Digest, pushed: Digest, rule: Rule) -> NotExtended:
    """Return the refusal of a push to an append-only tag. `current`: what the tag resolves to."""
    repository, tag = change.repository.name, change.tag
    detail = RefusalDetail(RefusalReason.NOT_EXTENDED, tag, current, pushed, rule=rule.why)
    return NotExtended(refusal_message.not_extended(tag, repository, current, pushed), detail)


def push_unsigned(change: TagChange, pushed: Digest, rule: Rule, missing: Sequence[MissingEvidence]) -> TagUnsigned:
    """Return the refusal to give a tag to an image without the required evidence."""
    return _unsigned(change.tag, change.repository.name, change.current, pushed, rule.why, missing)


def unsigned_for_upstream(
    tag: Tag, repository: Repository, current: Digest | None, pushed: Digest, missing: Sequence[MissingEvidence]
) -> TagUnsigned:
    """Return the refusal to give an upstream's tag to an image without the evidence that a rule of the upstream requires."""
    return _unsigned(tag, repository, current, pushed, "[[upstream.rule]]", missing)


def _unsigned(
    tag: Tag,
    repository: Repository,
    current: Digest | None,
    pushed: Digest,
    rule: str,
    missing: Sequence[MissingEvidence],
) -> TagUnsigned:
    lacks = tuple(each.what for each in missing)
    commands = tuple(dict.fromkeys(each.command for each in missing))
    detail = RefusalDetail(RefusalReason.UNSIGNED, tag, current, pushed, rule=rule, missing=lacks, commands=commands)
    return TagUnsigned(refusal_message.put_unsigned(tag, repository, pushed, missing), detail)


def restore_refused(change: TagChange, row: TagRow, target: Digest, decision: PushDecision, rule: Rule) -> SealedPut:
    """Return the refusal of a restore by the seal policy's decision."""
    if decision is PushDecision.REFUSED_NOT_EXTENDED and row.digest is not None:
        return restore_not_extending(change, row.digest, target, rule)
    return restore_of_sealed(change, row, target, rule)


def restore_of_sealed(change: TagChange, row: TagRow, target: Digest, rule: Rule) -> TagSealed:
    """Return the refusal to restore a sealed tag, or a tombstone, to another digest."""
    repository, tag, binding = change.repository.name, change.tag, tag_rows.binding_of(row)
    by = refusal_message.person(binding.by)
    detail = RefusalDetail(RefusalReason.SEALED, tag, binding.digest, target, binding.since_us, by, rule=rule.why)
    return TagSealed(refusal_message.restore_sealed(tag, repository, binding, target), detail)


def restore_not_extending(change: TagChange, current: Digest, target: Digest, rule: Rule) -> NotExtended:
    """Return the refusal to restore an append-only tag. `current`: what the tag resolves to."""
    repository, tag = change.repository.name, change.tag
    detail = RefusalDetail(RefusalReason.NOT_EXTENDED, tag, current, target, rule=rule.why)
    return NotExtended(refusal_message.restore_not_extended(tag, repository, current, target), detail)


def delete_of_sealed(change: TagChange, row: TagRow) -> TagProtected:
    """Return the refusal to delete a sealed tag whose bytes are kept."""
    repository, tag, binding = change.repository.name, change.tag, tag_rows.binding_of(row)
    by = refusal_message.person(binding.by)
    detail = RefusalDetail(RefusalReason.PROTECTED, tag, binding.digest, since_us=binding.since_us, by=by)
    return TagProtected(refusal_message.delete_sealed_tag(tag, repository, binding), detail)


def delete_of_signature(change: TagChange, protecting: SomeTags) -> TagProtected:
    """Return the refusal to delete the tag of a signature. `protecting`: the tags whose seal covers the signed image."""
    repository, tag = change.repository.name, change.tag
    detail = RefusalDetail(RefusalReason.PROTECTED, tag, change.current)
    return TagProtected(refusal_message.delete_signature_tag(tag, repository, protecting), detail)


def incomplete(repository: RepositoryRow, digest: Digest, absent: Sequence[str]) -> ReferencesMissing:
    """Return the refusal to seal a manifest. `absent`: the digests that the repository lacks under it, at least one."""
    more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
    return ReferencesMissing(
        f"{repository.name} lacks {absent[0]}{more}, which {digest.short} needs: "
        "push what is missing, then the manifest again",
        RefusalDetail(RefusalReason.INCOMPLETE, digest=Digest.parse(absent[0]), pushed=digest),
    )


def _detail_of_push(
    change: TagChange,
    row: TagRow,
    pushed: Digest,
    rule: Rule,
    free: str | None,
    reason: RefusalReason,
    since_us: int,
) -> RefusalDetail:
    binding = tag_rows.binding_of(row)
    by, tags = refusal_message.person(binding.by), () if free is None else (Tag(free),)
    return RefusalDetail(reason, change.tag, binding.digest, pushed, since_us, by, tags, rule.why)
