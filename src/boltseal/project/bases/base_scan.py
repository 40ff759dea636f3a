"""Looks at images: on what each was built, and what the base's tag means now. Asks as little as can be asked.

1. What each image is: one HEAD where only its tag is known; its manifest and config by digest, once in a lifetime.
2. What is said of its base: `built` entries (one list for a repository, where the registry keeps a ledger), annotations,
   provenance, labels; else what the caller infers. Where none of the first three says it, other images of the look may be
   the base by their layers, and so may images that their tags resolved to before (`former`).
3. What each distinct base tag means now: one HEAD, however many images stand on it, and none within the window.
4. The verdict. Where the tag still means what is recorded, nothing is read for it. Otherwise what it means now, and what it
   meant, is read by digest, through the mirror if there is one.

A label or a Dockerfile names hosts: only registries that the caller allows are asked. What could not be told is an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from boltseal.client.document_cache import DocumentCache
from boltseal.client.head_requests import poll
from boltseal.client.ledger_records import listed, observed
from boltseal.client.ledger_trust import LedgerCheck
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError, Denied, NotFound, TooLarge
from boltseal.ledger.entry import RECORDS, Entry
from boltseal.ledger.follow import LedgerBroken
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference
from boltseal.project.bases.base_claims import (
    BaseClaim,
    claim_from_annotations,
    claim_from_entries,
    claim_from_labels,
    claims_from_provenance,
    inherited_claim,
)
from boltseal.project.bases.base_resolution import BaseResolver
from boltseal.project.bases.candidates import CandidatePool, needs_layer_match
from boltseal.project.bases.former_images import (
    MOVED_OR_GONE,
    SERVED_KINDS,
    FormerImages,
    UnreadImage,
    former_digests,
    read_former_images,
)
from boltseal.project.bases.freshness import BaseStatus, BaseVerdict, worst_verdict
from boltseal.project.bases.image_documents import ImageDocuments, RemoteRepository, images_of_index, same_platform
from boltseal.project.bases.image_facts import ImageFacts, NotAnImage
from boltseal.project.bases.layer_match import Candidate
from boltseal.project.bases.tag_history import TagHistories

WINDOW_S: Final = 900
AT_ONCE: Final = 16
MAX_UNITS: Final = 2_000_000
"""How many layers and lines of history of all images are held at a time: of 20,000 usual ones, some 300 MB."""


class TooManyParts(TooLarge):
    """More images, or larger ones, than are held at a time."""


class BaseRegistryNotAllowed(Denied):
    """A registry that an image's base is said to come from, and that the user has not allowed."""


@dataclass(frozen=True, slots=True)
class ImageToCheck:
    """An image to look at. `name`: as it was asked for. `reference`: with a tag or a digest; the digest counts.

    `platforms`: those in use, () for all that it has. `base`: what the caller infers of its base.
    """

    name: str
    reference: Reference
    platforms: tuple[Platform, ...] = ()
    base: BaseClaim | None = None


@dataclass(frozen=True, slots=True)
class BaseReport:
    """The answer for an image: a verdict for each platform, or the error that kept us from any."""

    wanted: ImageToCheck
    digest: Digest | None = None
    verdicts: tuple[BaseVerdict, ...] = ()
    error: BoltsealError | None = None

    @property
    def verdict(self) -> BaseVerdict:
        """The one that counts."""
        if self.error is not None or not self.verdicts:
            reason = "it has no image for the platforms in use" if self.error is None else self.error.message
            return BaseVerdict(BaseStatus.UNKNOWN, reason)
        return worst_verdict(self.verdicts)


class _Part(NamedTuple):
    """One platform of an image, and what is said of its base, the best first."""

    facts: ImageFacts
    claims: tuple[BaseClaim, ...]


@dataclass(slots=True)
class _Image:
    """What is known of a wanted image so far."""

    wanted: ImageToCheck
    digest: Digest
    parts: list[_Part] = field(default_factory=list)
    error: BoltsealError | None = None

    @property
    def place(self) -> RemoteRepository:
        return _place(self.wanted)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """What its tag resolves to, as the base of other images; nothing of an image without a tag."""
        base = self.wanted.reference
        return tuple(Candidate(base.by_tag, self.digest, part.facts) for part in self.parts) if base.tag else ()


class BaseScanner:
    """One look at many images. `allowed` says of a registry's name whether it may be asked for a base.

    `watch` looks at a registry's ledger before what its tags mean is believed; one that is broken ends everything.
    """

    def __init__(
        self,
        transport: Transport,
        documents: ImageDocuments,
        learned: DocumentCache,
        pasts: TagHistories,
        *,
        allowed: Callable[[str], bool],
        watch: Callable[[str], Awaitable[LedgerCheck]],
        now_us: int,
        window_s: int = WINDOW_S,
        max_units: int = MAX_UNITS,
        at_once: int = AT_ONCE,
        tell: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        self.transport = transport
        self._documents = documents
        self._learned = learned
        self._pasts = pasts
        self._allowed = allowed
        self._watch = watch
        self._followed: dict[str, LedgerCheck | BoltsealError] = {}
        self._records: dict[RemoteRepository, asyncio.Task[list[Entry]]] = {}
        self._unlisted: dict[RemoteRepository, str] = {}
        self._now_us = now_us
        self._after_us = now_us - window_s * 1_000_000
        self._max_units = max_units
        self._at_once = at_once
        self._tell = tell
        self._units = 0

    async def look(self, wanted: Sequence[ImageToCheck], *, afresh: bool = False) -> list[BaseReport]:
        """The answers, in the order of what was wanted. LedgerBroken, StateUnusable.

        `afresh`: every base is asked for, whatever the window; something was built meanwhile.
        """
        self._units = 0
        if afresh:
            self._after_us = 2**63
            self._records.clear()
            self._unlisted.clear()
            self._pasts.forget()
        # 1
        fresh = {one.reference for one in wanted if one.reference.digest is None}
        digests = await self._means(fresh, fresh)
        images: list[_Image | BaseReport] = []
        for one in wanted:
            means = one.reference.digest or digests[one.reference]
            images.append(BaseReport(one, error=means) if isinstance(means, BoltsealError) else _Image(one, means))
        there = [one for one in images if isinstance(one, _Image)]
        # 2
        for registry in {one.place.registry for one in there}:
            await self.followed(registry)  # also where only digests are asked for: what is recorded there is read
        done = 0

        gate = asyncio.Semaphore(self._at_once)

        async def read(one: _Image) -> None:
            nonlocal done
            async with gate:
                await self._read(one)
            done += 1
            self._tell(done, len(there))

        await asyncio.gather(*map(read, there))
        former = await self._former(images)
        # 3
        pool = CandidatePool((candidate for one in there for candidate in one.candidates), former.candidates)
        nearer = {
            id(part): pool.nearer(one.wanted.reference.name, part.facts, part.claims)
            for one in there
            for part in one.parts
        }
        claimed = {claim.base for one in there for part in one.parts for claim in part.claims}
        claimed |= {claim.base for near in nearer.values() for claim in near}
        bases = {base for base in claimed if base is not None}
        now = {one: digests[one] for one in bases & digests.keys()}
        now |= await self._means(bases - now.keys(), frozenset())
        # 4
        judging = BaseResolver(self._documents, self._pasts, now, former.candidates, now_us=self._now_us)
        return [
            one if isinstance(one, BaseReport) else await self._answer(one, judging, nearer, former) for one in images
        ]

    async def _answer(
        self, one: _Image, judging: BaseResolver, nearer: dict[int, tuple[BaseClaim, ...]], former: FormerImages
    ) -> BaseReport:
        if one.error is not None:
            return BaseReport(one.wanted, one.digest, error=one.error)
        verdicts, doubt = [], former.doubt(one.wanted.reference)
        for part in one.parts:
            verdict = await judging.verdict(part.facts, (*nearer[id(part)], *part.claims), doubt)
            verdicts.append(replace(verdict, platform=str(part.facts.platform)))
        return BaseReport(one.wanted, one.digest, tuple(verdicts))

    async def _means(
        self, references: Iterable[Reference], fresh: Iterable[Reference]
    ) -> dict[Reference, Digest | BoltsealError]:
        """What tags mean now, or why that can't be told. All but `fresh` may be as old as the window."""
        found: dict[Reference, Digest | BoltsealError] = {}
        asked, new = [], set(fresh)
        for reference in dict.fromkeys(references):
            registry = reference.registry
            if reference not in new and not self._allowed(registry):
                found[reference] = BaseRegistryNotAllowed(
                    f"{registry} is not asked for {reference.familiar()}: an image names it, and you have not; allow it "
                    f"with --allow {registry}, or in `[client] registries` of your own configuration"
                )
            elif (
                reference not in new
                and (held := self._pasts.newest(reference, self._after_us, self._now_us)) is not None
            ):
                found[reference] = held
            else:
                asked.append(reference)
        for registry in {reference.registry for reference in asked}:
            followed = await self.followed(registry)
            if isinstance(followed, BoltsealError):
                found |= {one: followed for one in asked if one.registry == registry}
        looks: list[tuple[Reference, Digest | None]] = []
        open_ = [one for one in asked if one not in found]
        async with aclosing(poll(self.transport, open_, at_once=self._at_once)) as answers:
            async for answer in answers:
                if answer.resolved is not None:
                    found[answer.reference] = answer.resolved.digest
                    looks.append((answer.reference, answer.resolved.digest))
                elif answer.error is not None:
                    found[answer.reference] = answer.error
        looks = [look for look in looks if look[0].tag is not None]
        if looks:
            self._learned.saw(looks)
        return found

    async def followed(self, registry: str) -> LedgerCheck | BoltsealError:
        """How it stands with a registry's ledger, or why that is not known. LedgerBroken."""
        if registry not in self._followed:
            try:
                self._followed[registry] = await self._watch(registry)
            except LedgerBroken:
                raise
            except BoltsealError as error:
                self._followed[registry] = error
        return self._followed[registry]

    async def _read(self, one: _Image) -> None:
        """Its facts, by platform, and what is said of its base."""
        other: NotAnImage | None = None
        try:
            if self._units > self._max_units:
                raise TooManyParts("it is one of more images than are looked at together: look at fewer at a time")
            manifest = await self._documents.manifest(one.place, one.digest)
            entries = await self._entries(one.place)
            if not manifest.is_index:
                facts = await self._documents.facts(one.place, one.digest)
                one.parts = [await self._part(one, facts, manifest, {}, entries)]
                return
            for child in images_of_index(manifest):
                if one.wanted.platforms and not _in_use(child.platform, one.wanted.platforms):
                    continue
                try:
                    facts = await self._documents.facts(one.place, child.digest)
                except NotAnImage as error:  # an index may hold anything beside its images
                    other = error
                    continue
                one.parts.append(await self._part(one, facts, manifest, child.annotations, entries))
            if other is not None and not one.parts:
                raise other
        except BoltsealError as error:
            one.error = error
        finally:
            self._units += sum(len(part.facts.diff_ids) + len(part.facts.history) for part in one.parts)

    async def _part(
        self,
        one: _Image,
        facts: ImageFacts,
        manifest: Manifest,
        said: Mapping[str, str],
        entries: Sequence[Entry],
    ) -> _Part:
        """What is said of one platform's base, in the order of belief. `said`: by the index, of the platform's manifest."""
        of_entry = claim_from_entries(entries, one.digest) or claim_from_entries(entries, facts.manifest)
        claims = [of_entry, claim_from_annotations(facts.annotations), claim_from_annotations(said)]
        if manifest.is_index:
            claims.append(claim_from_annotations(manifest.annotations))
        found = [claim for claim in claims if claim is not None]
        if not found and manifest.is_index:
            for raw in await self._documents.statements(one.place, manifest, facts.manifest):
                found += claims_from_provenance(raw)
        said_by_labels = (inherited_claim(facts, one.wanted.reference), claim_from_labels(facts))
        found += [claim for claim in (*said_by_labels, one.wanted.base) if claim is not None]
        return _Part(facts, tuple(found))

    async def _entries(self, place: RemoteRepository) -> list[Entry]:
        """Entries about a repository, where its registry keeps a ledger; none where they can't be had."""
        if not self._has_ledger(place.registry):
            return []
        if place not in self._records:
            self._records[place] = asyncio.create_task(self._listed(place))
        return await asyncio.shield(self._records[place])

    async def _listed(self, place: RemoteRepository) -> list[Entry]:
        """What was said of a repository's images, and where a tag stopped resolving to one."""
        try:
            return await listed(self.transport, place.registry, place.repository, RECORDS | MOVED_OR_GONE)
        except NotFound:
            return []
        except BoltsealError as error:  # it is one source of several
            self._unlisted[place] = f"the history of {place.registry}/{place.repository} can't be read: {error.message}"
            return []

    async def _former(self, images: Sequence[_Image | BaseReport]) -> FormerImages:
        """What the tags of this look resolved to before, where layers have to tell the base of one of its images."""
        platforms = [
            part.facts.platform
            for one in images
            if isinstance(one, _Image)
            for part in one.parts
            if needs_layer_match(part.claims)
        ]
        if not platforms:
            return FormerImages()
        digests: dict[Reference, dict[Digest, None]] = {}

        def note(found: Mapping[Reference, Iterable[Digest]]) -> None:
            for base, several in found.items():
                digests.setdefault(base, {}).update(dict.fromkeys(several))

        for place in dict.fromkeys(_place(one.wanted) for one in images):
            note(former_digests(place, await self._entries(place)))
            note(await self._served(place))
        for one in images:
            reference = one.wanted.reference
            if reference.tag is not None:
                seen = self._pasts.seen(reference)
                # where the registry did not say what the tag resolves to now, that may be the last that was seen
                asked = reference.digest is None and one.digest is not None
                note({reference.by_tag: seen if asked else seen[:-1]})
                await asyncio.sleep(0)  # a server has others to answer meanwhile
        for one in images:
            if one.wanted.reference.tag is not None and one.digest is not None:
                digests[one.wanted.reference.by_tag].pop(one.digest, None)  # it is in this look
        unread = [UnreadImage(f"{at.registry}/{at.repository}", why) for at, why in self._unlisted.items()]
        return await read_former_images(
            self._documents,
            {base: tuple(several) for base, several in digests.items()},
            platforms,
            self._has_ledger,
            unread,
            max_units=self._max_units - self._units,
        )

    async def _served(self, place: RemoteRepository) -> dict[Reference, list[Digest]]:
        """What the tags of a mirrored repository were served as, where its registry keeps a log of observations."""
        if not self._has_ledger(place.registry) or "." not in place.repository.partition("/")[0]:
            return {}
        try:
            return former_digests(
                place, await observed(self.transport, place.registry, place.repository, SERVED_KINDS), SERVED_KINDS
            )
        except BoltsealError as error:
            self._unlisted[place] = f"what {place.registry} saw of {place.repository} can't be read: {error.message}"
            return {}

    def _has_ledger(self, registry: str) -> bool:
        """Whether a registry keeps a ledger, as far as it was looked at."""
        seen = self._followed.get(registry)
        return isinstance(seen, LedgerCheck) and seen.head is not None


def _place(wanted: ImageToCheck) -> RemoteRepository:
    return RemoteRepository(wanted.reference.registry, wanted.reference.repository)


def _in_use(platform: Platform | None, wanted: Iterable[Platform]) -> bool:
    return platform is None or any(same_platform(platform, one) for one in wanted)
