"""Check images: on which base each was built, and what the base's tag resolves to now. Makes as few requests as possible.

1. What each image is: one HEAD if only its tag is known; its manifest and config by digest, once, then cached.
2. The claims about its base: `built` entries (one list per repository, if the registry keeps a ledger), annotations,
   provenance, labels; else what the caller infers. If none of the first three names it, other images of the scan may be
   the base by their layers, and so may former images of their tags (`former_images`).
3. What each distinct base tag resolves to now: one HEAD, however many images use it, and none within the window.
4. The verdict. If the tag still resolves to the recorded digest, nothing is read. Otherwise the current and the
   recorded image are read by digest, through the mirror if there is one.

A label or a Dockerfile can name any host: only registries that the caller allows are contacted. An unknown base is a
result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from boltseal.client.bounded_requests import ask_each
from boltseal.client.document_cache import DocumentCache
from boltseal.client.head_requests import resolve_tags
from boltseal.client.ledger_records import ListedRecord
from boltseal.client.ledger_trust import LedgerCheck
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError, Denied, TooLarge
from boltseal.ledger.entry import Entry, EntryKind
from boltseal.ledger.follow import LedgerBroken
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference
from boltseal.policy.tag_expectations import OFFICIAL_IMAGES, TagExpectations
from boltseal.project.bases.ancestry import MAX_ANCESTORS, Verdicts, with_ancestors
from boltseal.project.bases.base_claims import (
    BaseClaim,
    claim_from_annotations,
    claim_from_entries,
    claim_from_labels,
    claims_from_provenance,
    inherited_claim,
)
from boltseal.project.bases.base_report import BaseReport, ImageToCheck
from boltseal.project.bases.base_resolution import BaseResolver, JudgedImage
from boltseal.project.bases.built_proofs import unproven_builds
from boltseal.project.bases.candidates import CandidatePool, needs_layer_match
from boltseal.project.bases.former_images import FormerImages
from boltseal.project.bases.freshness import BaseStatus, BaseVerdict, judge_move
from boltseal.project.bases.image_documents import ImageDocuments, RemoteRepository
from boltseal.project.bases.image_facts import ImageFacts, NotAnImage
from boltseal.project.bases.index_children import images_of_index, same_platform
from boltseal.project.bases.kept_chains import KeptChains
from boltseal.project.bases.layer_match import Candidate
from boltseal.project.bases.newer_revisions import Revisions, Separator, default_separator
from boltseal.project.bases.tag_history import TagHistories
from boltseal.project.bases.tag_past import ScannedTag, TagPast

WINDOW_S: Final = 900
IGNORED: Final = "ignored by `[outdated] ignore`"
AT_ONCE: Final = 16
MAX_UNITS: Final = 2_000_000
"""Maximum number of layers and history lines of all images in memory: about 300 MB for 20,000 typical images."""


class _Part(NamedTuple):
    """One platform of an image, and the claims about its base, the most reliable first."""

    facts: ImageFacts
    claims: tuple[BaseClaim, ...]


@dataclass(slots=True)
class _Image:
    """What is known of an image so far. `built`: the listed `built` entries that its claims are from, by index."""

    wanted: ImageToCheck
    digest: Digest
    parts: list[_Part] = field(default_factory=list)
    error: BoltsealError | None = None
    built: dict[int, Entry] = field(default_factory=dict)

    @property
    def remote(self) -> RemoteRepository:
        return _repository_of(self.wanted)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The image of its tag as a possible base of other images; () without a tag."""
        base = self.wanted.reference
        return tuple(Candidate(base.by_tag, self.digest, part.facts) for part in self.parts) if base.tag else ()


class BaseScanner:
    """Checks many images together. `allowed`: whether a registry may be contacted for a base.

    `ignored`: images whose own result is not reported; they may be the bases of others. `expectations`: which tags move by custom, at
    registries without a ledger. `separator`: of revisions of sealed tags.
    `watch`: checks a registry's ledger before its tags are trusted; LedgerBroken is raised to the caller.
    """

    def __init__(
        self,
        transport: Transport,
        documents: ImageDocuments,
        cache: DocumentCache,
        histories: TagHistories,
        *,
        allowed: Callable[[str], bool],
        watch: Callable[[str], Awaitable[LedgerCheck]],
        ignored: Callable[[Reference], bool] = lambda _: False,
        expectations: TagExpectations = TagExpectations(OFFICIAL_IMAGES),  # noqa: B008 - it has no state
        separator: Separator = default_separator,
        now_us: int,
        window_s: int = WINDOW_S,
        max_units: int = MAX_UNITS,
        at_once: int = AT_ONCE,
        progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        self.transport = transport
        self.documents = documents
        self._cache = cache
        self._histories = histories
        self._allowed = allowed
        self._watch = watch
        self._ignored = ignored
        self._expectations = expectations
        self._followed: dict[str, LedgerCheck | BoltsealError] = {}
        self._following = asyncio.Lock()
        self._chains = KeptChains(transport, cache, self._has_ledger)
        self._tag_past = TagPast(transport, documents, cache, histories, self._has_ledger, self._chains)
        self._revisions = Revisions(transport, self._has_ledger, separator)
        self._now_us = now_us
        self._after_us = now_us - window_s * 1_000_000
        self._resolved: set[Reference] = set()
        self.remembered: set[Reference] = set()
        """Base tags that were resolved within the window, and not by this scan."""
        self._max_units = max_units
        self._at_once = at_once
        self._progress = progress
        self._units = 0
        self._complete = False

    async def scan(
        self, wanted: Sequence[ImageToCheck], *, refresh: bool = False, listed: str | None = None
    ) -> list[BaseReport]:
        """Check images; the results are in the order of `wanted`. Raises: LedgerBroken, StateUnusable.

        `refresh`: resolve every base again, regardless of the window, because something was built meanwhile.
        `listed`: a registry of which `wanted` has all tags.
        """
        self._units = 0
        if refresh:
            self._after_us = 2**63
            self._tag_past.forget()
            self._revisions.forget()
        reports = await self._scan(wanted)
        if listed is not None:
            self._cache.saw_all(listed)
            self._revisions.saw_all(listed, (item.reference for item in wanted))
        judged = await self._with_ancestors(await self._with_newer(reports))
        return await self._revisions.superseded([self._without_ignored(report) for report in judged])

    def _without_ignored(self, report: BaseReport) -> BaseReport:
        """Return the report, or that its image is ignored. It was judged as an ancestor of others."""
        if isinstance(report.error, NotAnImage) or not self._ignored(report.wanted.reference):
            return report
        ignored = BaseVerdict(BaseStatus.IGNORED, IGNORED, is_open=False)
        return BaseReport(report.wanted, report.digest, (ignored,))

    async def _with_newer(self, reports: list[BaseReport]) -> list[BaseReport]:
        return await self._revisions.judged(reports, lambda tags: self._resolve(tags, frozenset()))

    async def _with_ancestors(self, reports: list[BaseReport]) -> list[BaseReport]:
        """Judge images by all of their ancestors. Reads bases outside the scan only at registries with a ledger."""
        images = self._by_image(reports)
        newest = reports
        for _ in range(MAX_ANCESTORS):
            bases = {
                replace(verdict.claim.base, digest=verdict.now)
                for report in newest
                for verdict in report.verdicts
                if verdict.claim is not None and verdict.claim.base is not None and verdict.now is not None
            }
            outside = sorted((base for base in bases - images.keys() if self._has_ledger(base.registry)), key=str)
            if not outside:
                break
            newest = await self._scan([ImageToCheck(str(base.by_tag), base) for base in outside])
            newest = await self._with_newer(newest)
            images |= self._by_image(newest)
        checked: dict[tuple[Reference, str], str] = {}
        return [
            replace(report, verdicts=tuple(with_ancestors(verdict, images, checked) for verdict in report.verdicts))
            for report in reports
        ]

    def _by_image(self, reports: Iterable[BaseReport]) -> dict[Reference, Verdicts]:
        """Return the verdicts of images by tag and digest. What is not known of an ignored one is no doubt about others."""
        found: dict[Reference, Verdicts] = {}
        for report in reports:
            reference, verdicts = report.wanted.reference, report.by_platform
            if reference.tag is None or report.digest is None:
                continue
            if self._ignored(reference):
                verdicts = {platform: replace(each, is_open=False) for platform, each in verdicts.items()}
            found[replace(reference, digest=report.digest)] = verdicts
        return found

    async def _scan(self, wanted: Sequence[ImageToCheck]) -> list[BaseReport]:
        # 1
        fresh = {item.reference for item in wanted if item.reference.digest is None}
        digests = await self._resolve(fresh, fresh)
        images: list[_Image | BaseReport] = []
        for item in wanted:
            current = item.reference.digest or digests[item.reference]
            images.append(
                BaseReport(item, error=current) if isinstance(current, BoltsealError) else _Image(item, current)
            )
        found = [item for item in images if isinstance(item, _Image)]
        # 2
        for registry in {item.remote.registry for item in found}:
            await self.followed(registry)  # even if all images are given by digest: their entries are read
        done = 0

        gate = asyncio.Semaphore(self._at_once)

        async def read(image: _Image) -> None:
            nonlocal done
            async with gate:
                await self._read(image)
            done += 1
            self._progress(done, len(found))

        await asyncio.gather(*map(read, found))
        await self._prove_builds(found)
        former = await self._former_images(images)
        self._complete = all(self._has_ledger(image.wanted.reference.registry) for image in images)
        # 3
        found_candidates = [candidate for image in found for candidate in image.candidates]
        pool = CandidatePool(found_candidates, former.candidates)
        nearer = {
            id(part): pool.closer_bases(image.wanted.reference.name, part.facts, part.claims)
            for image in found
            for part in image.parts
        }
        siblings = {
            id(part): pool.siblings(image.wanted.reference.name, part.facts, part.claims)
            for image in found
            for part in image.parts
        }
        claimed = {claim.base for image in found for part in image.parts for claim in part.claims}
        claimed |= {claim.base for near in nearer.values() for claim in near}
        bases = {base for base in claimed if base is not None}
        now = digests | await self._resolve(bases - digests.keys(), frozenset())
        # 4
        resolver = BaseResolver(
            self.documents,
            self._histories,
            self._chains,
            now,
            current=found_candidates,
            former=former,
            now_us=self._now_us,
        )

        async def answer(at: int) -> BaseReport:
            image = images[at]
            return image if isinstance(image, BaseReport) else await self._answer(image, resolver, nearer, siblings)

        return list((await ask_each(range(len(images)), answer, self._at_once)).values())

    async def _answer(
        self,
        image: _Image,
        resolver: BaseResolver,
        nearer: Mapping[int, tuple[BaseClaim, ...]],
        siblings: Mapping[int, tuple[Candidate, ...]],
    ) -> BaseReport:
        if image.error is not None:
            return BaseReport(image.wanted, image.digest, error=image.error)
        verdicts = []
        for part in image.parts:
            subject = JudgedImage(image.wanted.reference, image.digest, part.facts)
            verdict = await resolver.verdict(subject, (*nearer[id(part)], *part.claims), siblings[id(part)])
            if (
                verdict.claim is not None
                and verdict.claim.base is not None
                and not self._has_ledger(verdict.claim.base.registry)
            ):
                verdict = judge_move(verdict, self._expectations)
            verdicts.append(replace(verdict, platform=str(part.facts.platform), complete=self._complete))
        return BaseReport(image.wanted, image.digest, tuple(verdicts))

    async def _resolve(
        self, references: Iterable[Reference], fresh: Iterable[Reference]
    ) -> dict[Reference, Digest | BoltsealError]:
        """Resolve tags, or return why that failed. All but `fresh` may come from observations within the window."""
        found: dict[Reference, Digest | BoltsealError] = {}
        asked, new = [], set(fresh)
        for reference in dict.fromkeys(references):
            registry = reference.registry
            if reference not in new and not self._allowed(registry):
                found[reference] = Denied(
                    f"{registry} is not contacted for {reference.familiar()}: an image names it, but it is not allowed; "
                    f"allow it with --allow {registry}, or in `[client] registries` of your own configuration"
                )
            elif (
                reference not in new
                and (observed_digest := self._histories.newest(reference, self._after_us, self._now_us)) is not None
            ):
                found[reference] = observed_digest
                self.remembered |= {reference} - self._resolved
            else:
                asked.append(reference)
                self._resolved.add(reference)
        for registry in {reference.registry for reference in asked}:
            check = await self.followed(registry)
            if isinstance(check, BoltsealError):
                found |= {reference: check for reference in asked if reference.registry == registry}
        observations: list[tuple[Reference, Digest | None]] = []
        to_ask = [reference for reference in asked if reference not in found]
        async with aclosing(resolve_tags(self.transport, to_ask, at_once=self._at_once)) as answers:
            async for answer in answers:
                if answer.resolved is not None:
                    found[answer.reference] = answer.resolved.digest
                    observations.append((answer.reference, answer.resolved.digest))
                elif answer.error is not None:
                    found[answer.reference] = answer.error
        observations = [observation for observation in observations if observation[0].tag is not None]
        if observations:
            self._cache.saw(observations)
        return found

    async def followed(self, registry: str) -> LedgerCheck | BoltsealError:
        """Return the check of a registry's ledger, or the error. Raises: LedgerBroken."""
        async with self._following:
            if registry not in self._followed:
                try:
                    self._followed[registry] = await self._watch(registry)
                except LedgerBroken:
                    raise
                except BoltsealError as error:
                    self._followed[registry] = error
        return self._followed[registry]

    async def _read(self, image: _Image) -> None:
        """Read an image's facts by platform, and the claims about its base."""
        not_an_image: NotAnImage | None = None
        try:
            if self._units > self._max_units:
                raise TooLarge("too many images at a time: check fewer at a time")
            manifest = await self.documents.manifest(image.remote, image.digest)
            entries = await self._tag_past.entries(image.remote)
            if not manifest.is_index:
                facts = await self.documents.facts(image.remote, image.digest)
                image.parts = [await self._read_part(image, facts, manifest, {}, entries)]
                return
            for child in images_of_index(manifest):
                if image.wanted.platforms and not _in_use(child.platform, image.wanted.platforms):
                    continue
                try:
                    facts = await self.documents.facts(image.remote, child.digest)
                except NotAnImage as error:  # an index may also contain other artifacts
                    not_an_image = error
                    continue
                image.parts.append(await self._read_part(image, facts, manifest, child.annotations, entries))
            if not_an_image is not None and not image.parts:
                raise not_an_image
        except BoltsealError as error:
            image.error = error
        finally:
            self._units += sum(len(part.facts.diff_ids) + len(part.facts.history) for part in image.parts)

    async def _read_part(
        self,
        image: _Image,
        facts: ImageFacts,
        manifest: Manifest,
        index_annotations: Mapping[str, str],
        entries: Sequence[ListedRecord],
    ) -> _Part:
        """Return the claims about one platform's base, the most reliable first."""
        from_entry = _built_claim(image, entries, image.digest) or _built_claim(image, entries, facts.manifest)
        claims = [from_entry, claim_from_annotations(facts.annotations), claim_from_annotations(index_annotations)]
        if manifest.is_index:
            claims.append(claim_from_annotations(manifest.annotations))
        found = [claim for claim in claims if claim is not None]
        if not found and manifest.is_index:
            for raw in await self.documents.statements(image.remote, manifest, facts.manifest):
                found += claims_from_provenance(raw)
        from_labels = (inherited_claim(facts, image.wanted.reference), claim_from_labels(facts))
        found += [claim for claim in (*from_labels, image.wanted.base) if claim is not None]
        return _Part(facts, tuple(found))

    async def _prove_builds(self, images: Sequence[_Image]) -> None:
        """Give an image an error if a `built` entry that it uses is not proven, so that it is never called current.

        Raises: LedgerBroken.
        """
        for registry in {image.remote.registry for image in images if image.built}:
            check = await self.followed(registry)
            if isinstance(check, LedgerCheck):
                some = [image for image in images if image.remote.registry == registry]
                errors = await unproven_builds(self.transport, check, [image.built for image in some], self._watch)
                for image, error in zip(some, errors, strict=True):
                    image.error = image.error or error

    async def _former_images(self, images: Sequence[_Image | BaseReport]) -> FormerImages:
        """Return the former images of this scan's tags, if layers must decide the base of any image."""
        unproven = [
            part.facts
            for image in images
            if isinstance(image, _Image)
            for part in image.parts
            if needs_layer_match(part.claims)
        ]
        if not unproven:
            return FormerImages()
        scanned = [ScannedTag(image.wanted.reference, image.digest) for image in images]
        return await self._tag_past.former_images(scanned, unproven, max_units=self._max_units - self._units)

    def _has_ledger(self, registry: str) -> bool:
        """Return whether a registry is known to keep a ledger."""
        check = self._followed.get(registry)
        return isinstance(check, LedgerCheck) and check.head is not None


def _repository_of(wanted: ImageToCheck) -> RemoteRepository:
    return RemoteRepository(wanted.reference.registry, wanted.reference.repository)


def _in_use(platform: Platform | None, wanted: Iterable[Platform]) -> bool:
    return platform is None or any(same_platform(platform, in_use) for in_use in wanted)


def _built_claim(image: _Image, listed: Sequence[ListedRecord], digest: Digest) -> BaseClaim | None:
    """Return the claim of the newest `built` entry of a digest, and note the entry as used, also if it claims nothing."""
    built = [each for each in listed if each.entry.kind is EntryKind.BUILT and each.entry.digest == str(digest)]
    if not built:
        return None
    image.built[built[-1].entry_index] = built[-1].entry
    return claim_from_entries([built[-1].entry], digest)
