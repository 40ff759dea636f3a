"""The tag writer: the only module that changes a tag.

Each method works inside the transaction that it is given and writes tag row and ledger entry together; the caller's
COMMIT makes both durable, or neither (guarantee 2). Pure functions in `policy` decide what is allowed, from the state
that the database has at that moment. The write lock keeps that state until the COMMIT.

The steps of a publication:

1. Check the preconditions (`If-Match`, `If-None-Match`). A 412 takes precedence over any refusal by a seal, and also
   applies to a push of the same digest.
2. The rule in force decides the mode of the tag (`policy.rule_decision`).
3. The seal policy decides: refused, nothing to do, or a change (`policy.seal`).
4. A change that seals the tag, or lets it settle, requires that the repository has everything under the manifest.
5. A rule may require signatures and attestations, which were verified before the transaction (`evidence_checks`).
6. Write row and entry, if the rules of this tag writer are still those that the ledger recorded last.

A tag that is settling is not sealed yet (`policy.seal`). It is sealed when its index arrives, when its time is over, and
before any other change of it: so a delete leaves a tombstone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from boltseal.errors import SealedPut
from boltseal.ledger.audit import AuditedTag
from boltseal.ledger.entry import EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.free_tag import next_free
from boltseal.policy.refusal_message import SomeTags
from boltseal.policy.rule_decision import decide, sha512_beginning, signature_subject
from boltseal.policy.rules import DELETABLE, FOREVER, Keep, Mode, Rule, RuleSet
from boltseal.policy.seal import PushDecision, judge
from boltseal.server.auth.actor import ANONYMOUS, Actor
from boltseal.server.registry import sequencer, tag_refusals, tag_rows
from boltseal.server.registry.models import (
    UNCONDITIONAL,
    Conditions,
    EntryResult,
    JudgedEvidence,
    PushedManifest,
    RepositoryRow,
    TagChange,
)
from boltseal.server.registry.pushed_parts import extends_current, part_of_one_image, parts_of
from boltseal.server.registry.required_evidence import required_evidence
from boltseal.server.registry.tag_check import TagCheck
from boltseal.server.storage.batches import IN_AT_ONCE, batches
from boltseal.server.storage.metadata import links, queries, tag_table
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata.tag_row import TagRow
from boltseal.server.storage.metadata.tag_table import OverdueRow

_KINDS: Final[Mapping[PushDecision, EntryKind]] = {
    PushDecision.CREATE: EntryKind.TAG_CREATED,
    PushDecision.CREATE_SETTLING: EntryKind.TAG_CREATED,
    PushDecision.RETURN: EntryKind.TAG_CREATED,
    PushDecision.SEAL: EntryKind.TAG_SEALED,
    PushDecision.MOVE: EntryKind.TAG_MOVED,
    PushDecision.MOVE_AND_SEAL: EntryKind.TAG_MOVED,
    PushDecision.MOVE_SETTLING: EntryKind.TAG_MOVED,
}
_SETTLED: Final = "settled"

TAGS_AT_ONCE: Final = 100
"""Tags that one transaction deletes or expires: any number may resolve to one manifest, and all other writes wait."""


class OverdueTag(NamedTuple):
    """A tag whose keep time is over."""

    repository: RepositoryRow
    tag: Tag


class TagWriter:
    """Moves, seals and deletes tags under one set of rules."""

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules
        self._recorded_rules = rules.canonical()
        self._check = TagCheck()

    def change(
        self,
        tx: UnitOfWork,
        repository: RepositoryRow,
        tag: Tag,
        actor: Actor,
        *,
        reason: str = "",
        conditions: Conditions = UNCONDITIONAL,
        may_settle: bool = True,
        platform: str = "",
        evidence: JudgedEvidence | None = None,
    ) -> TagChange:
        """Return a change request for a tag, with the tag's row as it is now. Pass it on within the same transaction.

        Raises: LedgerInDoubt: the row is not what the ledger says about the tag.
        """
        row = tag_table.lock_tag(tx, repository.id, tag)
        self._check.check(tx, repository.name, tag, row)
        return TagChange(repository, tag, row, actor, reason, conditions, may_settle, platform, evidence)

    def publish(
        self, tx: UnitOfWork, change: TagChange, pushed: PushedManifest, kind: EntryKind | None = None
    ) -> EntryResult | None:
        """Let a tag resolve to a manifest whose row is written; None: it is a part of the tag's image, which stays as it is.

        `kind`: the kind of the ledger entry; None: as the decision says.

        Raises:
            Precondition: a precondition of the change does not hold.
            TagSealed: the tag is sealed at another manifest.
            TagSettling: the tag is settling, and this is not its index.
            NotExtended: the tag is append-only, and the manifest lacks part of the current one.
            ReferencesMissing: the change seals the tag, and the repository lacks content under the manifest.
            TagUnsigned: the rule requires evidence that the manifest does not have.
            EvidenceChanged: the evidence was not judged, or not as the repository has it now.
            RulesOutdated: the rules of this tag writer are not those that the ledger recorded last.
        """
        repository, tag, row = change.repository, change.tag, change.row
        # 1
        change.conditions.check(f"tag {tag} of {repository.name}", change.current)
        # 2
        rule = decide(self.rules, repository.name, tag)
        # 3
        if row is not None and row.settles_us is not None and (row.settles_us <= tx.now_us or not change.may_settle):
            return self.publish(tx, self.settle(tx, change), pushed, kind)
        decision = self._decide(tx, change, pushed, rule)
        if decision is PushDecision.PART:
            return None
        if row is not None and decision is PushDecision.SAME:
            return EntryResult(row.entry_index, changed=False, settles_us=row.settles_us)
        if row is not None and decision not in _KINDS:
            if kind is EntryKind.TAG_RESTORED:
                raise tag_refusals.restore_refused(change, row, pushed.digest, decision, rule)
            raise self._refusal(tx, change, row, pushed, decision, rule)
        # 4
        if rule.mode is Mode.SEALED or decision in tag_rows.SEALING:
            self._check_complete(tx, repository, pushed.digest)
        # 5
        extra = required_evidence(tx, change, pushed, rule, self.rules)
        # 6
        if row is not None and row.sealed_digest is not None and decision is PushDecision.RETURN:
            # The client may have addressed the same bytes by another digest than the one that the tag is sealed at.
            queries.add_alias(tx, repository.id, str(pushed.digest), str(row.sealed_digest))
        after = tag_rows.after_push(change, pushed, rule, decision, tx.now_us)
        return self._record(
            tx, change, after.row, kind or _KINDS[decision], after.extra | extra, decided_by=self._recorded_rules
        )

    def _decide(self, tx: UnitOfWork, change: TagChange, pushed: PushedManifest, rule: Rule) -> PushDecision:
        state = tag_rows.state_of(change.row)
        compared = (
            rule.mode is Mode.APPEND_ONLY and state.bound is None and state.resolves_to not in (None, pushed.identity)
        )
        extends = not compared or extends_current(tx, change, pushed.manifest)
        parts = parts_of(tx, change, pushed, settle=rule.settle_us > 0 and change.may_settle)
        return judge(state, pushed.identity, rule.mode, extends=extends, parts=parts)

    def settle(self, tx: UnitOfWork, change: TagChange, *, complete: bool = True) -> TagChange:
        """Seal a settling tag at its current digest, and return the change with the new row; any other tag stays as it is.

        `complete`: False where the same transaction deletes the tag.

        Raises:
            ReferencesMissing: the repository lacks content under the manifest.
        """
        row = change.row
        if row is None or row.settles_us is None or row.digest is None:
            return change
        if complete:
            self._check_complete(tx, change.repository, row.digest)
        keep, pusher = Keep.parse(str(row.keep)), Actor(row.changed_by)
        settled = dataclasses.replace(change, actor=pusher, reason=_SETTLED)
        new = tag_rows.sealed(row, keep, tx.now_us, pusher)
        self._record(tx, settled, new, EntryKind.TAG_SEALED, tag_rows.ledger_extra(Mode.SEALED, keep))
        return dataclasses.replace(change, row=tag_table.find(tx, change.repository.id, change.tag))

    def settled(self, snapshot: Snapshot, now_us: int, limit: int) -> list[OverdueTag]:
        """Return settling tags whose time is over, the latest first, at most `limit`."""
        return [_overdue(row) for row in tag_table.settled(snapshot, now_us, limit)]

    def delete(self, tx: UnitOfWork, change: TagChange) -> bool:
        """Delete a tag; False when it does not exist. A sealed tag leaves a tombstone.

        Raises:
            Precondition: a precondition of the change does not hold.
            TagProtected: a seal protects the tag.
        """
        if change.row is None or change.current is None:
            return False
        change.conditions.check(f"tag {change.tag} of {change.repository.name}", change.current)
        self._delete(tx, change)
        return True

    def delete_tags_at(self, tx: UnitOfWork, repository: RepositoryRow, digest: Digest, actor: Actor) -> bool:
        """Delete tags that resolve to a manifest that is about to be deleted, `TAGS_AT_ONCE` of them. Return whether none is left.

        The caller has checked that no seal covers the manifest, and that no seal protects its signature tags.

        Raises:
            TagProtected: a seal protects one of them.
            LedgerInDoubt: a row is not what the ledger says about its tag.
        """
        rows = tag_table.tags_resolving_to(tx, repository.id, str(digest), TAGS_AT_ONCE + 1)
        for name, row in rows[:TAGS_AT_ONCE]:
            self._check.check(tx, repository.name, name, row)
            self._delete(tx, TagChange(repository, Tag(name), row, actor))
        return len(rows) <= TAGS_AT_ONCE

    def signature_tags_at(self, snapshot: Snapshot, repository: Repository, digest: Digest) -> list[str]:
        """Return the tags that resolve to a manifest and begin as those of signature tools do, sorted by name."""
        return tag_table.signature_tags_at(snapshot, repository, str(digest))

    def check_deletable(self, tx: UnitOfWork, repository: RepositoryRow, names: Collection[str]) -> None:
        """Check that no seal protects these tags, as far as they exist. Raises: TagProtected."""
        for name in names:
            row = tag_table.find(tx, repository.id, name)
            if row is not None:
                self._check_deletable(tx, TagChange(repository, Tag(name), row, ANONYMOUS))

    def _delete(self, tx: UnitOfWork, change: TagChange) -> None:
        change = self.settle(tx, change, complete=False)
        self._check_deletable(tx, change)
        self._drop(tx, change, EntryKind.TAG_DELETED)

    def seal(self, tx: UnitOfWork, change: TagChange) -> EntryResult | None:
        """Seal a tag at its current digest and protect it for ever; None when the tag does not exist.

        Raises:
            ReferencesMissing: the repository lacks content under the manifest.
        """
        row = change.row
        if row is None or row.digest is None:
            return None
        if row.sealed_digest is not None and row.keep == str(FOREVER):
            return EntryResult(row.entry_index, changed=False)
        self._check_complete(tx, change.repository, row.digest)
        tx.invalidates_caches = True  # caches may have the digest that a mirrored tag had upstream
        new = tag_rows.sealed(row, FOREVER, tx.now_us, change.actor)
        return self._record(tx, change, new, EntryKind.TAG_SEALED, tag_rows.ledger_extra(Mode.SEALED, FOREVER))

    def unseal(self, tx: UnitOfWork, change: TagChange) -> EntryResult | None:
        """Lift only the protection against deletion; None when the tag was never sealed or does not exist."""
        change = self.settle(tx, change)
        row = change.row
        if row is None or row.digest is None or row.sealed_digest is None:
            return None
        if row.keep == str(DELETABLE):
            return EntryResult(row.entry_index, changed=False)
        tx.invalidates_caches = True
        new = dataclasses.replace(row, keep=str(DELETABLE), keep_until_us=None)
        return self._record(tx, change, new, EntryKind.TAG_UNSEALED, tag_rows.ledger_extra(Mode.SEALED, DELETABLE))

    def purge_tags_at(
        self, tx: UnitOfWork, repository: RepositoryRow, digest: Digest, actor: Actor, reason: str
    ) -> list[Tag]:
        """Delete tags that resolve to a manifest, protected or not, because its bytes must go: `TAGS_AT_ONCE` at most.

        Return the tags. Raises: LedgerInDoubt: a row is not what the ledger says about its tag.
        """
        rows = tag_table.tags_resolving_to(tx, repository.id, str(digest), TAGS_AT_ONCE)
        for name, row in rows:
            self._check.check(tx, repository.name, name, row)
            change = self.settle(tx, TagChange(repository, Tag(name), row, actor, reason), complete=False)
            self._drop(tx, change, EntryKind.TAG_PURGED)
        return [Tag(name) for name, _ in rows]

    def tags_at(self, snapshot: Snapshot, repository: RepositoryRow, digest: Digest) -> list[Tag]:
        """Return all tags that resolve to a manifest now, by name."""
        return [Tag(name) for name in tag_table.names_at(snapshot, repository.id, str(digest))]

    def expire(self, tx: UnitOfWork, repository: RepositoryRow, tag: Tag, actor: Actor) -> bool:
        """Delete a tag whose keep time is over; False when it is not over (any more)."""
        row = tag_table.lock_tag(tx, repository.id, tag)
        self._check.check(tx, repository.name, tag, row)
        if row is None or row.digest is None or row.keep_until_us is None or row.keep_until_us > tx.now_us:
            return False
        if row.settles_us is not None:
            return False
        change = TagChange(repository, tag, row, actor, f"its keep of {row.keep} is over")
        self._drop(tx, change, EntryKind.TAG_EXPIRED)
        return True

    def recall(self, tx: UnitOfWork, repository: RepositoryRow, tag: Tag, audited: AuditedTag, canonical: str) -> None:
        """Set a tag to the state in its last ledger entry.

        The repository may lack that manifest. `canonical`: its sha256 where its digest has another algorithm.

        Raises:
            Unavailable: nothing records that sha256.
        """
        row = tag_table.lock_tag(tx, repository.id, tag)
        recalled = tag_rows.recalled(tag, row, audited, canonical)
        (tag_table.add if row is None else tag_table.change)(tx, repository.id, tag, recalled)

    def remove_unrecorded(self, tx: UnitOfWork, repository: RepositoryRow, tag: Tag) -> None:
        """Remove the row of a tag that the ledger never recorded. Only a manipulation leaves such a row."""
        tag_table.remove(tx, repository.id, tag)

    def digest_of(self, snapshot: Snapshot, repository: RepositoryRow, tag: Tag) -> Digest | None:
        """Return the digest that a tag resolves to now, or None."""
        row = tag_table.find(snapshot, repository.id, tag)
        return None if row is None else row.digest

    def is_sealed(self, tx: UnitOfWork, repository: RepositoryRow, tag: Tag) -> bool:
        """Return whether a tag was ever sealed."""
        row = tag_table.find(tx, repository.id, tag)
        return row is not None and row.sealed_digest is not None

    def first_tag_at(self, snapshot: Snapshot, repository: RepositoryRow, digest: Digest) -> Tag | None:
        """Return the first tag, by name, that resolves to a manifest now; None when none does."""
        name = tag_table.first_tag_at(snapshot, repository.id, str(digest))
        return None if name is None else Tag(name)

    def overdue(self, snapshot: Snapshot, now_us: int) -> list[OverdueTag]:
        """Return every tag whose keep time is over."""
        return [_overdue(row) for row in tag_table.overdue(snapshot, now_us)]

    def protecting_tags(
        self,
        tx: UnitOfWork,
        repository: RepositoryRow,
        digest: Digest,
        *,
        through_subjects: bool,
        besides: Collection[Digest] = (),
    ) -> SomeTags:
        """Return the sealed and kept tags whose seal covers a digest (guarantee 6).

        `through_subjects`: include seals on an image that this manifest refers to, as a signature does. `besides`: leave out
        the tags that resolve to one of these.
        """
        texts = [str(each) for each in besides]
        protecting = tag_table.protecting_tags_of_parents(tx, repository.id, str(digest), texts)
        if protecting.more:  # the recursive query below first reads all manifests that contain a digest
            return protecting
        covering = links.covering(repository.id, str(digest), through_subjects=through_subjects)
        protecting = tag_table.protecting_tags(tx, repository.id, covering, texts)
        if through_subjects and not protecting and queries.has_aliases(tx, repository.id):
            return self._protecting_by_other_digest(tx, repository, str(digest), texts)
        return protecting

    def protecting_tags_at(self, tx: UnitOfWork, repository: RepositoryRow, digest: Digest) -> SomeTags:
        """Return the sealed and kept tags that resolve to this very digest."""
        return tag_table.protecting_tags_at(tx, repository.id, str(digest))

    def deletable_tags_at(self, tx: UnitOfWork, repository: RepositoryRow, digest: Digest) -> SomeTags:
        """Return the tags that resolve to a manifest and can be deleted, whatever else protects the manifest."""
        return tag_table.deletable_at(tx, repository.id, str(digest))

    def signed_image(self, tx: UnitOfWork, repository: RepositoryRow, tag: Tag) -> Digest | None:
        """Return the digest of the image that a signature tool's tag names.

        The tag has only the beginning of a sha512 digest. That image must be in the repository.
        """
        beginning = sha512_beginning(tag)
        if beginning is None:
            return signature_subject(tag)
        whole = queries.digest_with_prefix(tx, repository.id, beginning)
        return None if whole is None else Digest.parse(whole)

    def _protecting_by_other_digest(
        self, tx: UnitOfWork, repository: RepositoryRow, digest: str, besides: Collection[str]
    ) -> SomeTags:
        """Find protecting tags where a signature and a tag address one image by digests of different algorithms."""
        found, waiting = {digest}, {digest}
        while waiting:
            more: set[str] = set()
            for some in batches(waiting, IN_AT_ONCE):
                covering = links.covering_any(repository.id, some)
                protecting = tag_table.protecting_tags(tx, repository.id, covering, besides)
                if protecting:
                    return protecting
                found |= links.digests(tx, covering)
                more |= queries.aliases_within(tx, repository.id, covering)
            waiting = more - found
            found |= waiting
        return SomeTags()

    def _check_deletable(self, tx: UnitOfWork, change: TagChange) -> None:
        repository, tag, row = change.repository, change.tag, change.row
        if row is not None and row.kept_at(tx.now_us):
            raise tag_refusals.delete_of_sealed(change, row)
        signed = self.signed_image(tx, repository, tag)
        if signed is not None:
            protecting = self.protecting_tags(tx, repository, signed, through_subjects=True)
            if protecting:
                raise tag_refusals.delete_of_signature(change, protecting)

    def _check_complete(self, tx: UnitOfWork, repository: RepositoryRow, digest: Digest) -> None:
        checked = (repository.id, str(digest))
        if checked in tx.complete_manifests:  # a push of 64 tags checks this once: its transaction deletes nothing
            return
        absent = links.missing_parts(tx, repository.id, str(digest))
        if absent:
            raise tag_refusals.incomplete(repository, digest, absent)
        tx.complete_manifests.add(checked)

    def _refusal(
        self, tx: UnitOfWork, change: TagChange, row: TagRow, pushed: PushedManifest, decision: PushDecision, rule: Rule
    ) -> SealedPut:
        if decision is PushDecision.REFUSED_NOT_EXTENDED and row.digest is not None:
            return tag_refusals.push_not_extending(change, row.digest, pushed.digest, rule)
        if decision is PushDecision.REFUSED_SETTLING:
            return tag_refusals.push_to_settling(change, row, pushed.digest, rule)

        def taken(name: str) -> bool:
            other = tag_table.find(tx, change.repository.id, name)
            return other is not None and (other.digest is not None or other.sealed_digest is not None)

        free = next_free(change.tag, taken)
        if decision is PushDecision.REFUSED_TOMBSTONE:
            return tag_refusals.push_to_tombstone(change, row, pushed.digest, rule, free)
        part_of_image = part_of_one_image(tx, change, pushed)
        return tag_refusals.push_to_sealed(change, row, pushed.digest, rule, free, part_of_image=part_of_image)

    def _drop(self, tx: UnitOfWork, change: TagChange, kind: EntryKind) -> None:
        if change.row is None:
            raise AssertionError("a tag that never existed cannot be deleted")
        tx.invalidates_caches = True
        self._record(tx, change, tag_rows.deleted(change.row), kind, {})

    def _record(
        self,
        tx: UnitOfWork,
        change: TagChange,
        new: TagRow,
        kind: EntryKind,
        extra: dict[str, str],
        *,
        decided_by: str | None = None,
    ) -> EntryResult:
        """Write row and entry. The entry of a deletion names the deleted digest; `was` is the digest before the change.

        `decided_by`: as of `sequencer.append`.
        """
        repository, tag, old = change.repository, change.tag, change.row
        shown = new if new.digest is not None else old
        if shown is None or shown.digest is None:
            raise AssertionError("a tag that never existed cannot be deleted")
        if shown.digest != shown.canonical:
            extra = {**extra, "canonical": str(shown.canonical)}  # for readers that have only the entries
        index = sequencer.append(
            tx,
            kind,
            repository=repository.name,
            tag=tag,
            digest=str(shown.digest),
            media_type=shown.media_type or "",
            size_bytes=queries.manifest_size(tx, repository.id, str(shown.digest)),
            was=str(change.current or ""),
            previous=old.entry_index if old is not None else -1,
            actor=change.actor.recorded,
            reason=change.reason,
            extra={**extra, **change.actor.ledger_extra},
            decided_by=decided_by,
        )
        written = dataclasses.replace(new, entry_index=index, changed_us=tx.now_us, changed_by=change.actor.recorded)
        (tag_table.add if old is None else tag_table.change)(tx, repository.id, tag, written)
        return EntryResult(index, changed=True, settles_us=written.settles_us)


def _overdue(row: OverdueRow) -> OverdueTag:
    return OverdueTag(RepositoryRow(Repository(row.repository), row.repository_id), Tag(row.tag))
