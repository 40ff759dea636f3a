"""`boltseal rebase`: put the layers that an image added to its base on another base, without a build.

1. Resolve the image and the new base, and find the old base: as the user says, else as `outdated` finds it.
2. Make the manifests and configs of the result from those of the three images, for each platform (`build.rebase_images`).
3. The result's tag is free, or resolves to exactly this result already.
4. Compare the layers (`build.rebase_layers`). One platform that can't be rebased refuses the whole image.
5. Push: blobs first, then the images of the platforms by digest, and the tag last.
6. Record the result in the registry's ledger, as `build` does, so that `outdated` judges it by its new base.

A run that was interrupted before the last push of step 5 leaves nothing under the tag. The same three images and the same
tag always make the same bytes, so a second run completes what the first one did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from boltseal.build.layer_changes import NotCompared
from boltseal.build.rebase_images import (
    PlatformImage,
    PlatformRebase,
    RebaseDocuments,
    RebaseTarget,
    remote_of,
)
from boltseal.build.rebase_layers import LayerComparer, layer_bytes
from boltseal.client.document_cache import DocumentCache
from boltseal.client.errors import RemoteMismatch, RemoteNotFound
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.commands.outcome import Outcome
from boltseal.commands.outdated import opened_scanner
from boltseal.commands.progress import Progress, no_progress
from boltseal.commands.rebase_names import ResultName, result_names
from boltseal.commands.rebase_push import RebasePush
from boltseal.commands.registry_access import ReferenceUnsuitable, RegistryOptions, ask, followed, tag_or_digest
from boltseal.commands.text import counted
from boltseal.errors import Invalid, NotFound
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.rebased_image import NotCarried
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.rebase_conflicts import Conflict
from boltseal.project.bases.base_claims import ClaimSource, claim_from_reference
from boltseal.project.bases.base_report import BaseReport, ImageToCheck
from boltseal.project.bases.image_documents import ImageDocuments
from boltseal.project.bases.index_children import images_of_index
from boltseal.transfer.protocols import TagTaken
from boltseal.transfer.remote import RepositoryLocation


@dataclass(frozen=True, slots=True)
class RebaseRequest:
    """What to rebase. `onto`: the new base, with a tag. `base`: the old one; None to find it.

    `tag`: of the result, in the image's repository; None only for a dry run, or with `separator`: then it is the next
    revision of the image's tag. `allow`: further registries that the image's records may name.
    """

    image: Reference
    onto: Reference
    base: Reference | None = None
    tag: Tag | None = None
    separator: str | None = None
    dry_run: bool = False
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.onto.tag is None and self.onto.digest is not None:
            raise ReferenceUnsuitable(
                f"{self.onto} has no tag; the result records the tag whose moves make it outdated: {self.onto.name}:TAG"
            )
        if self.separator is not None and (self.tag is not None or self.image.tag is None):
            raise ReferenceUnsuitable(
                "--scheme revision makes a revision of the image's tag: name it, and leave out --tag"
            )
        if self.tag is None and self.separator is None and not self.dry_run:
            raise Invalid(
                "no tag for the result: --scheme revision gives the next revision of the image's tag, or name it by --tag; "
                "a rebase never moves a tag (--dry-run needs none)"
            )


class OldBase(NamedTuple):
    """The old base of one platform by digest, and how it is known."""

    reference: Reference
    evidence: str


@dataclass(frozen=True, slots=True)
class PlatformRow:
    """The result for one platform. `status`: rebased, unchanged, possible, refused or unknown."""

    platform: str
    status: str
    reason: str
    old_base: OldBase | None = None
    part: PlatformRebase | None = None
    conflicts: tuple[Conflict, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """DIFFERS if the rebase is refused, UNKNOWN if that could not be checked."""
        return {"refused": Outcome.DIFFERS, "unknown": Outcome.UNKNOWN}.get(self.status, Outcome.HOLDS)


@dataclass(frozen=True, slots=True)
class RebaseReport:
    """The result. `digest`: of the result; None if there is none. `entry`: of the ledger; None without one."""

    name: str
    base: Reference
    digest: Digest | None
    rows: tuple[PlatformRow, ...]
    notes: tuple[str, ...] = ()
    entry: int | None = None

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of a platform."""
        return Outcome.worst(row.outcome for row in self.rows)


def rebase(request: RebaseRequest, options: RegistryOptions, progress: Progress = no_progress) -> RebaseReport:
    """Rebase an image. Raises: NotCarried: it has entries that are no images; TagTaken; remote errors; LedgerBroken."""
    named = [request.image, request.onto, *([request.base] if request.base is not None else [])]

    async def run(transport: Transport) -> RebaseReport:
        for registry in dict.fromkeys(reference.registry for reference in named):
            await followed(options, transport, registry)
        image, onto = [await _with_digest(transport, reference.complete) for reference in (request.image, request.onto)]
        names = await result_names(transport, image, request.tag, request.separator)
        base = await _old_base_source(request, image, onto, options, transport)
        with DocumentCache(options.client.state, now_us=options.client.now_us()) as learned:
            read = ImageDocuments(transport, learned, options.client.settings.mirrors)
            for name in names:
                documents = RebaseDocuments(read, RebaseTarget(image, onto, name.reference, name.revision_of))
                one = _Rebase(request, options, transport, documents, image, onto, name, progress)
                report = await one.run(await documents.platforms(), base)
                if report is not None:
                    return report
        raise AssertionError("the last name is proposed")

    return ask(options, {reference.registry for reference in named}, run)


async def _with_digest(transport: Transport, reference: Reference) -> Reference:
    if reference.digest is not None:
        return reference
    client = RegistryClient(transport, reference.registry)
    found = await client.resolve_explained(reference.repository, tag_or_digest(reference))
    return replace(reference, digest=found.digest)


async def _old_base_source(
    request: RebaseRequest, image: Reference, onto: Reference, options: RegistryOptions, transport: Transport
) -> OldBase | BaseReport:
    """Return the old base that the user names, or what a check for outdated bases finds out about it."""
    if request.base is not None:
        return OldBase(await _with_digest(transport, request.base.complete), "--base")
    wanted = ImageToCheck(str(image), image, (), claim_from_reference(onto.by_tag, ClaimSource.GIVEN))
    allow = [*request.allow, image.registry, onto.registry]
    async with opened_scanner(options, transport, allow, 0, no_progress) as scanner:
        [report] = await scanner.scan([wanted])
    return report


def _old_base(found: OldBase | BaseReport, platform: str, onto: Reference) -> OldBase | str:
    """Return the old base of one platform, or why it is not known."""
    if isinstance(found, OldBase):
        return found
    verdict = next((each for each in found.verdicts if each.platform == platform), found.verdict)
    claim, digest = verdict.claim, verdict.built_on
    remedy = f"name the old base: --base {onto.name}@sha256:..."
    if claim is None or claim.base is None or digest is None:
        return f"its old base is not known: {verdict.reason}; {remedy}"
    if claim.base.name != onto.name:
        return (
            f"{claim.source.shows} {claim.base} as its base, which is of another repository than {onto.by_tag}; if that is the "
            f"base to replace, {remedy.replace(onto.name, claim.base.name)}"
        )
    return OldBase(replace(claim.base, digest=digest), verdict.evidence or str(claim.source))


@dataclass(frozen=True, slots=True)
class _Rebase:
    """One rebase, after its images are resolved. `named`: the result."""

    request: RebaseRequest
    options: RegistryOptions
    transport: Transport
    documents: RebaseDocuments
    image: Reference
    onto: Reference
    named: ResultName
    progress: Progress

    @property
    def name(self) -> Reference | None:
        """What the result is pushed as; None if it is not."""
        return self.named.reference

    async def run(self, platforms: Sequence[PlatformImage], base: OldBase | BaseReport) -> RebaseReport | None:
        """Carry out steps 2 to 6. Return None if the result has not the name that it would only have from before."""
        # 2
        rows = [await self._prepared(each, _old_base(base, str(each.platform), self.onto)) for each in platforms]
        parts = [row.part for row in rows if row.part is not None]
        if len(parts) < len(rows):
            return self._report(rows)
        if all(part.current for part in parts):
            reason = f"nothing to do: {self.onto.by_tag} is its base already"
            return self._report([replace(row, status="unchanged", reason=reason) for row in rows], self.image.digest)
        whole = await self.documents.whole({part.digest: part for part in parts})
        digest = Digest.of(whole.raw)
        # 3
        is_pushed = await self._is_pushed(digest)
        if not is_pushed and not self.named.is_proposed:
            return None
        # 4
        if not is_pushed:
            rows = await self._compared(rows)
        if any(row.outcome is not Outcome.HOLDS for row in rows):
            return self._report(rows)
        notes = await self._notes()
        if self.request.dry_run or self.name is None:
            return self._report(rows, digest if self.name is not None else None, notes)
        # 5
        push = RebasePush(self.options, self.transport, self.name, self.onto, self.image, self.progress)
        if not is_pushed:
            await push.push(parts, whole, digest)
        # 6
        entry = await push.record(
            digest,
            next(row.old_base for row in rows if row.old_base is not None).reference,
            self.named.revision_of,
        )
        status, reason = ("unchanged", "nothing to do: it was rebased before") if is_pushed else ("rebased", "")
        return self._report([replace(row, status=status, reason=reason) for row in rows], digest, notes, entry)

    def _report(
        self,
        rows: Sequence[PlatformRow],
        digest: Digest | None = None,
        notes: tuple[str, ...] = (),
        entry: int | None = None,
    ) -> RebaseReport:
        name = str(self.name if self.name is not None else self.request.image)
        return RebaseReport(name, self.onto, digest, tuple(rows), notes, entry)

    async def _prepared(self, image: PlatformImage, base: OldBase | str) -> PlatformRow:
        platform = str(image.platform)
        if isinstance(base, str):
            return PlatformRow(platform, "unknown", base)
        try:
            part = await self.documents.rebase(image, base.reference)
        except NotCarried as error:
            return PlatformRow(platform, "refused", error.message, base)
        except (NotCompared, NotFound) as error:
            return PlatformRow(platform, "unknown", f"a base can't be read: {error.message}", base)
        return PlatformRow(platform, "possible", "", base, part)

    async def _is_pushed(self, digest: Digest) -> bool:
        """Return whether the result's tag resolves to the result. Raises: TagTaken: it resolves to another image."""
        if self.name is None or self.name.tag is None:
            return False
        found = await RepositoryLocation(self.transport, self.name.registry, self.name.repository).current_digest(
            self.name.tag
        )
        if found is not None and found != digest and self.named.is_proposed:
            raise TagTaken(
                f"{self.name} resolves to {found.short}, not to the result {digest.short}; a rebase never moves a tag: "
                "choose another --tag"
            )
        return found == digest

    async def _compared(self, rows: Sequence[PlatformRow]) -> list[PlatformRow]:
        parts = [row.part for row in rows if row.part is not None]
        total = layer_bytes(parts)
        of_image, of_base = (
            RepositoryLocation(self.transport, each.registry, each.repository)
            for each in (remote_of(self.image), remote_of(self.onto))
        )
        with TemporaryDirectory(prefix="boltseal-") as scratch:
            comparer = LayerComparer(
                of_image.blob,
                of_base.blob,
                Path(scratch),
                lambda done: self.progress("reading", min(done, total), total),
            )
            return [await self._compared_row(comparer, row) for row in rows]

    @staticmethod
    async def _compared_row(comparer: LayerComparer, row: PlatformRow) -> PlatformRow:
        if row.part is None:
            raise AssertionError("only images with a result are compared")
        try:
            conflicts = tuple(await comparer.conflicts(row.part))
        except (NotCompared, RemoteMismatch, RemoteNotFound) as error:
            return replace(row, status="unknown", reason=error.message)
        if not conflicts:
            return row
        first = conflicts[0]
        more = f" (and {counted(len(conflicts) - 1, 'more reason')})" if len(conflicts) > 1 else ""
        path = f"{first.path}: " if first.path else ""
        return replace(row, status="refused", reason=f"{path}{first.reason}{more}", conflicts=conflicts)

    async def _notes(self) -> tuple[str, ...]:
        """Return what else a person should know."""
        top: Manifest = await self.documents.top()
        left = len(top.manifests) - len(images_of_index(top)) if top.is_index else 0
        if not left:
            return ()
        return (f"{counted(left, 'attestation')} of the former image left out, which describe other content",)
