"""THE DOOR: the only place where a tag changes.

Every method works inside a transaction that it is given, and leaves tag row and ledger entry changed together; the
caller's COMMIT makes both true or neither (promise 2). What may happen is decided by pure functions (`policy`); this
module asks them with what the database says at that moment, and the write lock keeps it so until the COMMIT.

A publication, in order:

1. Conditions (`If-Match`, `If-None-Match`): a 412 wins over whatever the seal would say, also over a push of the same digest.
2. The rule in force decides the mode of the name (`policy.rule_decision`).
3. The seal's rule judges (`policy.seal`): refused, nothing to do, or a change.
4. A change that seals needs everything under the manifest to be here.
5. Row and entry are written.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING, ClassVar

from boltseal.errors import ErrorCode, Invalid, SealedDelete, SealedPut
from boltseal.ledger.entry import EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import parse_manifest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy import append_only, refusal_message
from boltseal.policy.free_tag import next_free
from boltseal.policy.refusal_message import SomeTags
from boltseal.policy.rule_decision import decide, sha512_beginning, signature_subject
from boltseal.policy.rules import DELETABLE, FOREVER, Keep, Mode
from boltseal.policy.seal import PushDecision, judge
from boltseal.server.registry import sequencer, tag_rows
from boltseal.server.registry.models import UNCONDITIONAL, EntryResult, RepositoryRow
from boltseal.server.registry.preconditions import check_conditions
from boltseal.server.storage.metadata import queries, tag_table

if TYPE_CHECKING:
    from boltseal.ledger.audit import AuditedTag
    from boltseal.oci.manifest import Manifest
    from boltseal.policy.rule_decision import Decision
    from boltseal.policy.rules import RuleSet
    from boltseal.server.auth.actor import Actor
    from boltseal.server.registry.models import Conditions, PushedManifest
    from boltseal.server.storage.metadata.protocol import UnitOfWork
    from boltseal.server.storage.metadata.queries import DigestSet
    from boltseal.server.storage.metadata.tag_row import TagRow


class TagSealed(SealedPut):
    """The name is bound to another manifest."""


class NotExtended(SealedPut):
    """An append-only name would lose something."""


class TagProtected(SealedDelete):
    """The tag's own seal, or the seal on what it speaks of, keeps it."""


class ReferencesMissing(Invalid):
    """A manifest can't be sealed before everything it refers to is here."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_BLOB_UNKNOWN


class TagWriter:
    """Moves, seals and drops tags under one set of rules."""

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules

    def publish(
        self,
        tx: UnitOfWork,
        place: RepositoryRow,
        tag: Tag,
        pushed: PushedManifest,
        conditions: Conditions,
        actor: Actor,
    ) -> EntryResult:
        """Let a tag mean a manifest whose row is written. ConditionFailed, TagSealed, NotExtended, ReferencesMissing."""
        row = tag_table.lock_tag(tx, place.id, tag)
        check_conditions(conditions, f"tag {tag} of {place.repository}", row.digest if row else None)
        return self._judge(tx, place, tag, row, pushed, actor)

    def delete(
        self,
        tx: UnitOfWork,
        place: RepositoryRow,
        tag: Tag,
        actor: Actor,
        conditions: Conditions = UNCONDITIONAL,
    ) -> bool:
        """Take a tag away; False when there is none. A bound name leaves a tombstone. ConditionFailed, TagProtected."""
        row = tag_table.lock_tag(tx, place.id, tag)
        if row is None or row.digest is None:
            return False
        check_conditions(conditions, f"tag {tag} of {place.repository}", row.digest)
        self._check_deletable(tx, place, tag, row)
        self._drop(tx, place, tag, row, EntryKind.TAG_DELETED, actor, "")
        return True

    def delete_meaning(self, tx: UnitOfWork, place: RepositoryRow, digest: Digest, actor: Actor) -> None:
        """Take away every tag that means this manifest, which is about to go. TagProtected when one may not."""
        for name, row in tag_table.tags_resolving_to(tx, place.id, str(digest)):
            self._check_deletable(tx, place, Tag(name), row)
            self._drop(tx, place, Tag(name), row, EntryKind.TAG_DELETED, actor, "")

    def restore(
        self, tx: UnitOfWork, place: RepositoryRow, tag: Tag, pushed: PushedManifest, actor: Actor, reason: str
    ) -> EntryResult:
        """Let a floating tag mean again what it meant before. TagSealed, NotExtended, ReferencesMissing."""
        row = tag_table.lock_tag(tx, place.id, tag)
        return self._judge(tx, place, tag, row, pushed, actor, reason, EntryKind.TAG_RESTORED)

    def seal(self, tx: UnitOfWork, place: RepositoryRow, tag: Tag, actor: Actor, reason: str) -> EntryResult | None:
        """Bind a tag to what it means now and protect it for ever; None when there is no such tag. ReferencesMissing."""
        row = tag_table.lock_tag(tx, place.id, tag)
        if row is None or row.digest is None:
            return None
        if row.sealed_digest is not None and row.keep == str(FOREVER):
            return EntryResult(row.entry_index, changed=False)
        self._check_complete(tx, place, row.digest)
        tx.invalidates_caches = True  # under an upstream's name: what that one said
        sealed = tag_rows.sealed(row, FOREVER, tx.now_us, actor)
        return self._record(
            tx, place, tag, row, sealed, EntryKind.TAG_SEALED, actor, reason, _extra(Mode.SEALED, FOREVER)
        )

    def unseal(self, tx: UnitOfWork, place: RepositoryRow, tag: Tag, actor: Actor, reason: str) -> EntryResult | None:
        """Lift the protection against deletion, and nothing else; None when the tag was never sealed or is gone."""
        row = tag_table.lock_tag(tx, place.id, tag)
        if row is None or row.digest is None or row.sealed_digest is None:
            return None
        if row.keep == str(DELETABLE):
            return EntryResult(row.entry_index, changed=False)
        tx.invalidates_caches = True
        open_ = dataclasses.replace(row, keep=str(DELETABLE), keep_until_us=None)
        extra = _extra(Mode.SEALED, DELETABLE)
        return self._record(tx, place, tag, row, open_, EntryKind.TAG_UNSEALED, actor, reason, extra)

    def purge_meaning(
        self, tx: UnitOfWork, place: RepositoryRow, digest: Digest, actor: Actor, reason: str
    ) -> list[Tag]:
        """Take away every tag that means this manifest, whatever protects it (its bytes must go); their names."""
        names = []
        for name, row in tag_table.tags_resolving_to(tx, place.id, str(digest)):
            self._drop(tx, place, Tag(name), row, EntryKind.TAG_PURGED, actor, reason)
            names.append(Tag(name))
        return names

    def expire(self, tx: UnitOfWork, place: RepositoryRow, tag: Tag, actor: Actor) -> bool:
        """Take away a tag whose stated time to be kept is over; False when it is not so (any more)."""
        row = tag_table.lock_tag(tx, place.id, tag)
        if row is None or row.digest is None or row.keep_until_us is None or row.keep_until_us > tx.now_us:
            return False
        self._drop(tx, place, tag, row, EntryKind.TAG_EXPIRED, actor, f"its keep of {row.keep} is over")
        return True

    def recall(self, tx: UnitOfWork, place: RepositoryRow, tag: Tag, said: AuditedTag, canonical: str) -> None:
        """Set a name to the ledger's last word on it, whose entries were just brought back. It may mean what is not here.

        `canonical`: the sha256 of what it means, where that is not its digest. TagStateUnreadable.
        """
        row = tag_table.lock_tag(tx, place.id, tag)
        recalled = tag_rows.recalled(tag, row, said, canonical)
        (tag_table.add if row is None else tag_table.change)(tx, place.id, tag, recalled)

    def meaning(self, tx: UnitOfWork, place: RepositoryRow, tag: Tag) -> Digest | None:
        """The digest that a tag means now, or None."""
        row = tag_table.find(tx, place.id, tag)
        return None if row is None or row.digest is None else Digest.parse(row.digest)

    def seals(self, tx: UnitOfWork, place: RepositoryRow, tag: Tag) -> bool:
        """Whether a name is bound."""
        row = tag_table.find(tx, place.id, tag)
        return row is not None and row.sealed_digest is not None

    def first_name(self, tx: UnitOfWork, place: RepositoryRow, digest: Digest) -> Tag | None:
        """The first tag, by name, that resolves to a manifest now; None when none does."""
        name = tag_table.first_tag_at(tx, place.id, str(digest))
        return None if name is None else Tag(name)

    def overdue(self, tx: UnitOfWork) -> list[tuple[RepositoryRow, Tag]]:
        """Every tag whose stated time to be kept is over."""
        return [(RepositoryRow(Repository(name), number), Tag(tag)) for number, name, tag in tag_table.overdue(tx)]

    def protectors(self, tx: UnitOfWork, place: RepositoryRow, digest: Digest, *, through_subjects: bool) -> SomeTags:
        """The sealed and kept tags whose seal covers a digest (promise 6).

        `through_subjects`: also the seal on what a manifest merely speaks of (a signature of a sealed image).
        """
        reaching = queries.covering(place.id, str(digest), through_subjects=through_subjects)
        keeping = tag_table.protecting_tags(tx, place.id, reaching)
        if through_subjects and not keeping:
            return self._kept_by_another_digest(tx, place, str(digest), reaching)
        return keeping

    def own_protectors(self, tx: UnitOfWork, place: RepositoryRow, digest: Digest) -> SomeTags:
        """Those of them that resolve to this very digest."""
        return tag_table.protecting_tags_at(tx, place.id, str(digest))

    def deletable(self, tx: UnitOfWork, place: RepositoryRow, digest: Digest) -> SomeTags:
        """The tags that resolve to a manifest and can be deleted by themselves, whatever else keeps the manifest."""
        return tag_table.deletable_at(tx, place.id, str(digest))

    def spoken_of(self, tx: UnitOfWork, place: RepositoryRow, tag: Tag) -> Digest | None:
        """The digest that a signature tool's tag speaks of; of a sha512 one the repository has to hold the manifest."""
        beginning = sha512_beginning(tag)
        if beginning is None:
            return signature_subject(tag)
        whole = queries.digest_with_prefix(tx, place.id, beginning)
        return None if whole is None else Digest.parse(whole)

    def _kept_by_another_digest(
        self, tx: UnitOfWork, place: RepositoryRow, digest: str, reaching: DigestSet
    ) -> SomeTags:
        """The same, where a signature names the signed image by its sha256 and the tag by its sha512, or so."""
        also_called = queries.aliases(tx, place.id)
        if not also_called:
            return SomeTags()
        same = defaultdict(set)
        for one, other in also_called:
            same[one].add(other)
            same[other].add(one)
        found = {digest} | queries.digests(tx, reaching)
        waiting = list(found)
        while waiting:
            for twin in same[waiting.pop()] - found:
                reaching = queries.covering(place.id, twin, through_subjects=True)
                keeping = tag_table.protecting_tags(tx, place.id, reaching)
                if keeping:
                    return keeping
                more = queries.digests(tx, reaching) - found
                found |= more
                waiting += more
        return SomeTags()

    def _judge(
        self,
        tx: UnitOfWork,
        place: RepositoryRow,
        tag: Tag,
        row: TagRow | None,
        pushed: PushedManifest,
        actor: Actor,
        reason: str = "",
        kind: EntryKind | None = None,
    ) -> EntryResult:
        """Steps 2 to 5. `kind`: what the entry says that it was, None: what the verdict says."""
        decision = decide(self.rules, place.repository, tag)
        state = tag_rows.state(row)
        asked = decision.mode is Mode.APPEND_ONLY and state.bound is None and state.means not in (None, pushed.identity)
        extends = not asked or row is None or self._extends(tx, place, row, pushed.manifest)
        verdict = judge(state, pushed.identity, decision.mode, extends=extends)
        match verdict:
            case PushDecision.SAME if row is not None:
                return EntryResult(row.entry_index, changed=False)
            case PushDecision.REFUSED_BOUND | PushDecision.REFUSED_TOMBSTONE | PushDecision.REFUSED_NOT_EXTENDED if (
                row is not None
            ):
                raise self._refusal(tx, place, tag, row, pushed, verdict)
            case _:
                return self._write(tx, place, tag, row, pushed, verdict, decision, actor, reason, kind)

    def _check_deletable(self, tx: UnitOfWork, place: RepositoryRow, tag: Tag, row: TagRow) -> None:
        if row.kept_at(tx.now_us):
            raise TagProtected(refusal_message.delete_sealed_tag(tag, place.repository, tag_rows.binding(row)))
        subject = self.spoken_of(tx, place, tag)
        if subject is not None:
            keeping = self.protectors(tx, place, subject, through_subjects=True)
            if keeping:
                raise TagProtected(refusal_message.delete_signature_tag(tag, place.repository, keeping))

    def _check_complete(self, tx: UnitOfWork, place: RepositoryRow, digest: str) -> None:
        if (place.id, digest) in tx.complete_manifests:  # a push of 64 tags looks once, and nobody takes away beside it
            return
        absent = queries.missing_parts(tx, place.id, digest)
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise ReferencesMissing(
                f"{place.repository} lacks {absent[0]}{more}, which {Digest.parse(digest).short} needs: "
                "push what is missing, then the manifest again"
            )
        tx.complete_manifests.add((place.id, digest))

    def _extends(self, tx: UnitOfWork, place: RepositoryRow, row: TagRow, new: Manifest) -> bool:
        if row.digest is None:
            return True
        old = queries.manifest_bytes(tx, place.id, row.digest)
        return old is not None and append_only.extends(parse_manifest(old[1], old[0]), new)

    def _refusal(
        self,
        tx: UnitOfWork,
        place: RepositoryRow,
        tag: Tag,
        row: TagRow,
        pushed: PushedManifest,
        verdict: PushDecision,
    ) -> SealedPut:
        if verdict is PushDecision.REFUSED_NOT_EXTENDED:
            return NotExtended(
                refusal_message.not_extended(tag, place.repository, Digest.parse(str(row.digest)), pushed.digest)
            )

        def taken(name: str) -> bool:
            other = tag_table.find(tx, place.id, name)
            return other is not None and (other.digest is not None or other.sealed_digest is not None)

        free = next_free(tag, taken)
        if verdict is PushDecision.REFUSED_TOMBSTONE:
            return TagSealed(
                refusal_message.put_tombstone(tag, place.repository, tag_rows.binding(row), pushed.digest, free)
            )
        return TagSealed(refusal_message.put_sealed(tag, place.repository, tag_rows.binding(row), pushed.digest, free))

    def _write(
        self,
        tx: UnitOfWork,
        place: RepositoryRow,
        tag: Tag,
        row: TagRow | None,
        pushed: PushedManifest,
        verdict: PushDecision,
        decision: Decision,
        actor: Actor,
        reason: str,
        kind: EntryKind | None,
    ) -> EntryResult:
        sealing = decision.mode is Mode.SEALED or verdict is PushDecision.RETURN
        if sealing:
            self._check_complete(tx, place, str(pushed.digest))
        bound = row if verdict is PushDecision.RETURN else None
        if bound is not None and bound.sealed_digest is not None:
            # The name returns as what it is bound to, however the bytes were addressed this time.
            queries.add_alias(tx, place.id, str(pushed.digest), bound.sealed_digest)
        new = tag_rows.meaning(bound, pushed)
        keep = decision.keep if decision.mode is Mode.SEALED else FOREVER
        if sealing:
            new = tag_rows.sealed(new, keep, tx.now_us, actor)
        kind = (
            kind
            or {
                PushDecision.CREATE: EntryKind.TAG_CREATED,
                PushDecision.RETURN: EntryKind.TAG_CREATED,
                PushDecision.SEAL: EntryKind.TAG_SEALED,
                PushDecision.MOVE: EntryKind.TAG_MOVED,
                PushDecision.MOVE_AND_SEAL: EntryKind.TAG_MOVED,
            }[verdict]
        )
        mode = Mode.SEALED if sealing else decision.mode
        return self._record(tx, place, tag, row, new, kind, actor, reason, _extra(mode, keep if sealing else None))

    def _drop(
        self, tx: UnitOfWork, place: RepositoryRow, tag: Tag, row: TagRow, kind: EntryKind, actor: Actor, reason: str
    ) -> None:
        tx.invalidates_caches = True
        gone = dataclasses.replace(row, digest=None, canonical=None, media_type=None)
        self._record(tx, place, tag, row, gone, kind, actor, reason, {})

    def _record(
        self,
        tx: UnitOfWork,
        place: RepositoryRow,
        tag: Tag,
        old: TagRow | None,
        new: TagRow,
        kind: EntryKind,
        actor: Actor,
        reason: str,
        extra: dict[str, str],
    ) -> EntryResult:
        """Row and entry, together. An entry of something that went names what it was; `was` is what it meant before."""
        shown = new if new.digest is not None else old
        if shown is None or shown.digest is None:
            raise AssertionError("a tag that was never there can't go")
        if shown.digest != shown.canonical:
            extra = {**extra, "canonical": str(shown.canonical)}  # what the name is, for whoever has the entries alone
        index = sequencer.append(
            tx,
            kind,
            repository=place.repository,
            tag=tag,
            digest=shown.digest,
            media_type=shown.media_type or "",
            size_bytes=queries.manifest_size(tx, place.id, shown.digest),
            was=(old.digest or "") if old is not None else "",
            previous=old.entry_index if old is not None else -1,
            actor=actor.name,
            reason=reason,
            extra=extra,
        )
        written = dataclasses.replace(new, entry_index=index, changed_us=tx.now_us, changed_by=actor.name)
        (tag_table.add if old is None else tag_table.change)(tx, place.id, tag, written)
        return EntryResult(index, changed=True)


def _extra(mode: Mode, keep: Keep | None) -> dict[str, str]:
    return {"mode": str(mode)} if keep is None else {"mode": str(mode), "keep": str(keep)}
