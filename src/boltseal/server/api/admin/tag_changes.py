"""Changes of tags: seal, unseal, restore, accept, purge. The use cases are those of the commands of the same names.

A change has the actor's name and a reason, which the ledger records. With `dry_run` the same code runs and is undone, so the
answer is what the change would do. `If-Match: "DIGEST"` makes seal, unseal and restore conditional on what the tag resolves
to; the condition is checked in the transaction that writes.

A purge is confirmed: it needs the `plan` that a dry run returned, and is refused if it would delete anything else.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from boltseal.commands.tag_changes import required_reason
from boltseal.oci.digest import Digest
from boltseal.oci.digest_prefix import DigestPrefix
from boltseal.oci.jsontext import DigestText
from boltseal.oci.reference import Repository, Tag
from boltseal.server.api.admin.repository_reads import RepositoryName, TagName
from boltseal.server.api.admin.routes import RequestInvalid, Right, Route
from boltseal.server.api.conditional_requests import write_conditions
from boltseal.server.api.request import Request
from boltseal.server.auth.access import Access
from boltseal.server.commands.tag_restore import parse_target
from boltseal.server.registry import Registry
from boltseal.server.registry.models import Conditions
from boltseal.server.registry.seal_results import Purged, SealChange
from boltseal.server.registry.seals import PurgeTargetChanged

Reason = Annotated[str, Meta(max_length=4096, description="Why; recorded permanently.")]
DryRun = Annotated[bool, Meta(description="Only return what the change would do.")]


class TagChangeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tag to seal or unseal."""

    repository: RepositoryName
    tag: TagName
    reason: Reason
    dry_run: DryRun = False


class RestoreRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tag to move back."""

    repository: RepositoryName
    tag: TagName
    to: Annotated[
        str,
        Meta(
            max_length=200,
            description="A digest or the beginning of one, the index of a ledger entry, or a time such as `2026-11-24T08:29`.",
        ),
    ]
    reason: Reason
    dry_run: DryRun = False


class AcceptRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A held tag of an upstream to serve."""

    repository: RepositoryName
    tag: TagName
    digest: Annotated[
        str | None, Meta(description="The only digest to accept, or the beginning of it; null: whatever is held back.")
    ] = None
    reason: Annotated[str, Meta(max_length=4096, description="Why; recorded permanently.")] = ""
    dry_run: DryRun = False


class PurgeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image to delete with its tags and every part that nothing else needs."""

    repository: RepositoryName
    reference: Annotated[str, Meta(max_length=200, description="A tag or a digest.")]
    reason: Reason
    plan: Annotated[
        str,
        Meta(
            max_length=200,
            description="The `plan` that a dry run returned: nothing else is deleted. Needed without `dry_run`.",
        ),
    ] = ""
    dry_run: DryRun = False


class ChangedTag(msgspec.Struct, frozen=True, kw_only=True):
    """A tag after a change."""

    repository: str
    tag: str
    digest: Annotated[DigestText | None, Meta(description="What it resolves to, or would.")]
    changed: Annotated[bool, Meta(description="False if it was so before.")]
    entry: Annotated[
        int | None, Meta(description="The index of the entry that records it; null in a dry run that would write one.")
    ]
    dry_run: bool


class MovedTag(ChangedTag, frozen=True, kw_only=True):
    """A tag after a move. `was`: the digest before; null if it resolved to nothing."""

    was: DigestText | None


class KeptPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a purged image that stays, and why."""

    repository: str
    digest: DigestText
    reason: str


class PurgedImage(msgspec.Struct, frozen=True, kw_only=True):
    """What a purge deleted, or would delete. `kept`: also copies in other repositories that the caller may pull."""

    repository: str
    digest: DigestText
    tags: list[str]
    manifests: list[DigestText]
    blobs: list[DigestText]
    kept: list[KeptPart]
    plan: Annotated[str, Meta(description="Confirms this purge, in `plan` of the request.")]
    dry_run: bool


class TagChanges:
    """The handlers of changes of tags."""

    def __init__(self, registry: Registry, access: Access) -> None:
        self._registry = registry
        self._access = access

    def routes(self) -> list[Route]:
        """Return the routes."""
        admin = Right.ADMIN
        return [
            Route(
                "POST",
                "seal",
                "Seal a mutable tag at its digest.",
                admin,
                TagChangeRequest,
                ChangedTag,
                self.seal,
                changes=True,
            ),
            Route(
                "POST",
                "unseal",
                "Lift a sealed tag's protection against deletion; it still cannot move.",
                admin,
                TagChangeRequest,
                ChangedTag,
                self.unseal,
                changes=True,
            ),
            Route(
                "POST",
                "restore",
                "Move a mutable tag back to a digest of its history.",
                admin,
                RestoreRequest,
                MovedTag,
                self.restore,
                changes=True,
            ),
            Route(
                "POST",
                "accept",
                "Serve an upstream tag's new digest that is held back.",
                admin,
                AcceptRequest,
                MovedTag,
                self.accept,
                changes=True,
            ),
            Route(
                "POST",
                "purge",
                "Delete an image and its blobs, sealed or not; its tags can return only with the same digest.",
                admin,
                PurgeRequest,
                PurgedImage,
                self.purge,
                changes=True,
            ),
        ]

    async def seal(self, request: Request, asked: TagChangeRequest) -> ChangedTag:
        """Seal a tag."""
        done = await self._registry.seals.seal(
            Repository(asked.repository),
            Tag(asked.tag),
            request.actor,
            required_reason(asked.reason, "reason"),
            conditions=_conditions(request),
            dry_run=asked.dry_run,
        )
        return _changed(asked, done)

    async def unseal(self, request: Request, asked: TagChangeRequest) -> ChangedTag:
        """Unseal a tag."""
        done = await self._registry.seals.unseal(
            Repository(asked.repository),
            Tag(asked.tag),
            request.actor,
            required_reason(asked.reason, "reason"),
            conditions=_conditions(request),
            dry_run=asked.dry_run,
        )
        return _changed(asked, done)

    async def restore(self, request: Request, asked: RestoreRequest) -> MovedTag:
        """Move a tag back."""
        done = await self._registry.restores.restore(
            Repository(asked.repository),
            Tag(asked.tag),
            parse_target(asked.to, "to"),
            request.actor,
            required_reason(asked.reason, "reason"),
            conditions=_conditions(request),
            dry_run=asked.dry_run,
        )
        return MovedTag(
            repository=asked.repository,
            tag=asked.tag,
            digest=str(done.digest),
            changed=done.changed,
            entry=None if asked.dry_run and done.changed else done.entry_index,
            dry_run=asked.dry_run,
            was=None if done.was is None else str(done.was),
        )

    async def accept(self, request: Request, asked: AcceptRequest) -> MovedTag:
        """Accept the held change of an upstream's tag."""
        accepted = await self._registry.observations.accept(
            Repository(asked.repository),
            Tag(asked.tag),
            None if asked.digest is None else DigestPrefix.parse(asked.digest),
            request.actor,
            asked.reason.strip(),
            dry_run=asked.dry_run,
        )
        serves = None if accepted.now is None else accepted.now.known.serves
        before = None if accepted.before is None else accepted.before.serves
        return MovedTag(
            repository=asked.repository,
            tag=asked.tag,
            digest=None if serves is None else str(serves.digest),
            changed=True,
            entry=None if asked.dry_run or accepted.now is None else accepted.now.entry,
            dry_run=asked.dry_run,
            was=None if before is None else str(before.digest),
        )

    async def purge(self, request: Request, asked: PurgeRequest) -> PurgedImage:
        """Delete an image, as a dry run has planned it."""
        repository, reason = Repository(asked.repository), required_reason(asked.reason, "reason")
        reference = Digest.parse(asked.reference) if ":" in asked.reference else Tag(asked.reference)
        if not asked.plan and not asked.dry_run:
            raise RequestInvalid(
                "plan is missing; a purge is confirmed by the `plan` that a request with dry_run returns"
            )
        seals = self._registry.seals
        planned = await seals.plan_purge(repository, reference, request.actor)
        plan = _plan(planned)
        if asked.dry_run:
            return self._purged(request, repository, planned, plan, dry_run=True)
        if asked.plan != plan:
            raise PurgeTargetChanged(
                f"{repository} has changed: another image, other tags or other parts would be deleted than the confirmed ones; "
                "nothing was deleted; request another dry run"
            )
        purged = await seals.purge(repository, reference, request.actor, reason, confirmed=planned.confirmed())
        return self._purged(request, repository, purged, plan, dry_run=False)

    def _purged(
        self, request: Request, repository: Repository, purged: Purged, plan: str, *, dry_run: bool
    ) -> PurgedImage:
        visible = self._access.may_list(request.caller)
        kept = [KeptPart(repository=repository, digest=str(part), reason=reason) for part, reason in purged.kept]
        kept += [
            KeptPart(repository=other, digest=str(part), reason=reason)
            for other, part, reason in purged.elsewhere
            if visible(other)
        ]
        return PurgedImage(
            repository=repository,
            digest=str(purged.digest),
            tags=[str(tag) for tag in purged.tags],
            manifests=[str(digest) for digest in purged.manifests],
            blobs=[str(digest) for digest in purged.blobs],
            kept=kept,
            plan=plan,
            dry_run=dry_run,
        )


def _conditions(request: Request) -> Conditions:
    return write_conditions(request.header(b"if-none-match"), request.header(b"if-match"))


def _changed(asked: TagChangeRequest, done: SealChange) -> ChangedTag:
    return ChangedTag(
        repository=asked.repository,
        tag=asked.tag,
        digest=str(done.digest),
        changed=done.changed,
        entry=None if asked.dry_run and done.changed else done.entry_index,
        dry_run=asked.dry_run,
    )


def _plan(planned: Purged) -> str:
    """Return a text that differs for every image, every set of its tags, and every set of the parts that go with it."""
    parts = [str(planned.digest), *sorted(planned.tags), *sorted(map(str, (*planned.manifests, *planned.blobs)))]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
