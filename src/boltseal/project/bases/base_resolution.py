"""Judge one image: select the claim that decides, and read what is needed to compare it with the base's current tag."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from boltseal.client.errors import RemoteNotFound
from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.bases.base_claims import BaseClaim, ClaimKind, ClaimSource, labelled_image, may_be_inherited
from boltseal.project.bases.build_times import DAY_US, build_window, created_us
from boltseal.project.bases.former_images import FormerImages
from boltseal.project.bases.freshness import (
    BaseStatus,
    BaseVerdict,
    CurrentBase,
    TagInterval,
    is_same_digest,
    judge,
    judge_aliases,
    judge_by_current,
    judge_doubted,
    judge_inherited_scratch,
    judge_proven,
    judge_without_claims,
    moves_since,
)
from boltseal.project.bases.image_documents import ImageDocuments, RemoteRepository
from boltseal.project.bases.image_facts import ImageFacts
from boltseal.project.bases.index_children import same_platform
from boltseal.project.bases.kept_chains import KeptChains
from boltseal.project.bases.layer_chains import ChainMatcher
from boltseal.project.bases.layer_match import Candidate, longest_match, may_be_base
from boltseal.project.bases.siblings import ImageOfTag, closer_siblings
from boltseal.project.bases.tag_history import TagHistories
from boltseal.project.bases.unknown_periods import Window, gaps

MAX_PAST: Final = 50
_NEVER: Final = Window(2**63 - 1, -(2**63))


@dataclass(frozen=True, slots=True)
class JudgedImage:
    """One platform of an image. `digest`: of the index or of the image itself."""

    reference: Reference
    digest: Digest
    facts: ImageFacts


class BaseResolver:
    """Judges images. `now`: the current digest of each base's tag and of the scan's own tags, or the error; no other base is read.

    `current`: the images of the scan. `former`: former images of their tags.
    """

    def __init__(
        self,
        documents: ImageDocuments,
        histories: TagHistories,
        chains: KeptChains,
        now: Mapping[Reference, Digest | BoltsealError],
        *,
        current: Iterable[Candidate] = (),
        former: FormerImages | None = None,
        now_us: int,
    ) -> None:
        self._documents = documents
        self._histories = histories
        self._chains = chains
        self._now = now
        self._former_images = former or FormerImages()
        self._former: dict[Reference, list[Candidate]] = {}
        self._equal: dict[tuple[str, ...], list[Candidate]] = {}
        self._formerly: dict[Digest, set[Reference]] = {}
        self._current: set[ImageOfTag] = set()
        for candidate in current:
            self._add(candidate, is_current=self._resolves(candidate) is not False)
        for candidate in self._former_images.candidates:
            self._add(candidate, is_current=self._resolves(candidate) is True)
        self._now_us = now_us

    def _resolves(self, candidate: Candidate) -> bool | None:
        """Return whether a tag still resolves to an image of the scan or a former one; None if that is not known.

        An image of the scan may be given by its digest, and the tag may have moved since.
        """
        now = self._now.get(candidate.base)
        digest = now if isinstance(now, Digest) else self._former_images.present.get(candidate.base)
        return None if digest is None else digest == candidate.digest

    def _add(self, candidate: Candidate, *, is_current: bool) -> None:
        if is_current:
            self._current.add(ImageOfTag(candidate.base, candidate.facts.config))
            return
        self._former.setdefault(candidate.base, []).append(candidate)
        self._equal.setdefault(candidate.facts.diff_ids, []).append(candidate)
        self._formerly.setdefault(candidate.facts.config, set()).add(candidate.base)

    async def verdict(
        self, judged: JudgedImage, claims: Sequence[BaseClaim], siblings: Sequence[Candidate] = ()
    ) -> BaseVerdict:
        """Judge one platform of an image. `claims`: about its base, the most reliable first. `siblings`: see that module."""
        image = judged.facts
        if not claims:
            return await self._judge_without_claims(judged, siblings)
        first = claims[0]
        if first.source is ClaimSource.PROVENANCE:
            return await self._judge_provenance(
                judged, [claim for claim in claims if claim.source is ClaimSource.PROVENANCE]
            )
        if first.source in (ClaimSource.LAYERS, ClaimSource.CAME_WITH):
            verdict = await self._judge_suggested(judged, first)
            if verdict is None:
                return await self.verdict(judged, claims[1:], siblings)
        elif self._may_be_scratch_of_its_base(judged, first):
            if claims[1:]:
                return await self.verdict(judged, claims[1:], siblings)
            return judge_inherited_scratch(first)
        else:
            verdict = await self._judge_claim(judged, first)
        if verdict.status is not BaseStatus.CURRENT or not self._may_be_inherited(judged, first):
            return verdict
        closer = closer_siblings(image, await self._base_facts(verdict, image), siblings, self._current)
        verdict = replace(judge_doubted(verdict, closer.doubt), siblings=closer.present)
        if first.source is not ClaimSource.LABEL:
            verdict = await self._judge_aliases(judged, verdict)
        return judge_doubted(verdict, await self._doubt_of_current(judged, verdict))

    def _may_be_inherited(self, judged: JudgedImage, claim: BaseClaim) -> bool:
        """Return whether a claim may be that of an image's base; not if its labels name a tag that resolves or resolved to it."""
        named = labelled_image(judged.facts) if claim.source is ClaimSource.LABEL else None
        if named is not None and (
            ImageOfTag(named, judged.facts.config) in self._current
            or named in self._formerly.get(judged.facts.config, ())
        ):
            return False
        return may_be_inherited(judged.facts, judged.reference, claim)

    def _may_be_scratch_of_its_base(self, judged: JudgedImage, claim: BaseClaim) -> bool:
        """Return whether a label that says scratch may be one of the image's base: then that has layers below the image's own."""
        by_label = claim.source is ClaimSource.LABEL and claim.base is None
        return by_label and len(judged.facts.diff_ids) > 1 and self._may_be_inherited(judged, claim)

    async def _judge_without_claims(self, judged: JudgedImage, siblings: Sequence[Candidate]) -> BaseVerdict:
        always = Window(None, None)
        if self._doubt(judged, always, always):
            always = Window(None, await self._published_us(judged))
        doubt = self._doubt(judged, always, _NEVER)
        if siblings and not doubt:
            doubt = f"it begins with the layers of {siblings[0].base}, which may be its base"
        return judge_without_claims(judged.facts, doubt, self._doubt(judged, _NEVER, always))

    async def _judge_aliases(self, judged: JudgedImage, verdict: BaseVerdict) -> BaseVerdict:
        """Weaken a verdict if another tag also resolved to the base, and has moved: the image may be built on that tag."""
        base = await self._base_facts(verdict, judged.facts)
        if base is None:
            return verdict
        alike = ((each, facts) for facts in (judged.facts, base) for each in self._equal.get(facts.diff_ids, ()))
        moved_alike = (each for each, facts in alike if self._has_moved(each, facts, judged))
        equal = next((each for each in moved_alike if each.facts.config != base.config), None)
        if equal is not None:
            reason = f"{equal.base} resolved to an image with the same layers and history, and has moved"
            return judge_doubted(verdict, reason)
        moved = sorted(
            str(tag)
            for tag in self._formerly.get(base.config, ())
            if tag.name != judged.reference.name
            and tag not in self._former_images.gone
            and ImageOfTag(tag, base.config) not in self._current
        )
        return judge_aliases(verdict, moved) if moved else verdict

    def _has_moved(self, former: Candidate, like: ImageFacts, judged: JudgedImage) -> bool:
        """Return whether a tag of another repository resolved to an image with the history of `like`, and has moved."""
        return (
            former.base.name != judged.reference.name
            and former.base not in self._former_images.gone
            and former.facts.history == like.history
        )

    async def _doubt_of_current(self, judged: JudgedImage, verdict: BaseVerdict) -> str:
        """Return why a base that layers or an inheritable label show may not be the closest one; "" for no doubt."""
        claim = verdict.claim
        if claim is None or claim.base is None:
            return ""
        inferred = claim.source is not ClaimSource.LABEL  # a label is not inferred from what was observed
        facts = await self._base_facts(verdict, judged.facts)
        built = build_window(judged.facts, facts, self._now_us) if inferred else _NEVER
        if not self._doubt(judged, Window(None, self._now_us), built):
            return ""  # without a request
        end_us = await self._published_us(judged)
        built = build_window(judged.facts, facts, end_us) if inferred else _NEVER
        starts = [None if facts is None else created_us(facts)]
        starts += [each.first_us for each in await self._histories.of(claim.base) if each.digest == verdict.built_on]
        known = [start_us for start_us in starts if start_us is not None]
        return self._doubt(judged, Window(min(known, default=None), end_us), built)

    def _doubt(self, judged: JudgedImage, since_match: Window, since_step: Window) -> str:
        return self._former_images.unknown.reason(judged.reference.name, since_match, since_step)

    async def _published_us(self, judged: JudgedImage) -> int:
        """Return when the image was published at the latest."""
        reference = judged.reference
        intervals = await self._histories.of(reference.by_tag) if reference.tag is not None else ()
        known = [interval.first_us for interval in intervals if interval.digest == judged.digest]
        return min((first_us for first_us in known if first_us is not None), default=self._now_us)

    async def _base_facts(self, verdict: BaseVerdict, image: ImageFacts) -> ImageFacts | None:
        """Return the facts of a verdict's base if they are cached; else None."""
        if verdict.claim is None or verdict.claim.base is None or verdict.built_on is None:
            return None
        remote = RemoteRepository(verdict.claim.base.registry, verdict.claim.base.repository)
        try:
            return await self._documents.cached_only().facts_for(remote, verdict.built_on, image.platform)
        except BoltsealError:
            return None

    async def _judge_suggested(self, judged: JudgedImage, claim: BaseClaim) -> BaseVerdict | None:
        """Judge a base that only layers and history suggest; None if it is not the base.

        Two images of one Dockerfile may begin with the same layers, and a copy has all labels of its original.
        """
        image = judged.facts
        current = None if claim.base is None else self._now.get(claim.base)
        if claim.base is None or not isinstance(current, Digest):
            former = self._former_of(claim.base, image)
            former_base_unproven = claim.base in self._former_images.read and not any(
                image.history_begins_with(candidate.facts) for candidate in longest_match(image, former)
            )
            return None if former_base_unproven else await self._judge_claim(judged, claim)
        candidates, unread = await self._known_images(claim.base, image, current)
        if any(candidate.facts.config == image.config for candidate in candidates):
            return None
        if claim.source is ClaimSource.CAME_WITH:
            if any(may_be_base(image, candidate.facts) for candidate in candidates):
                return await self._judge_claim(judged, claim)
            why = f" ({unread})" if unread else ""
            reason = (
                f"its labels come from {claim.base}, which is its base or its original if it is a copy; the known history of "
                f"that tag does not decide{why}; rebuild it, preferably with `boltseal build`, which records the base"
            )
            return BaseVerdict(BaseStatus.UNKNOWN, reason, claim)
        by_history = [candidate for candidate in candidates if image.history_begins_with(candidate.facts)]
        longest, proven = longest_match(image, candidates), longest_match(image, by_history)
        if not proven or proven[0] in longest:
            return await self._judge_claim(judged, claim) if proven else None
        now = await self._current_base(claim.base, current, image)
        verdict = judge_proven(image, proven, claim, now)
        reason = f"{claim.base} also resolved to an image with more of its layers, and with another history"
        return await self._with_moves(claim.base, judge_doubted(verdict, reason))

    async def _judge_claim(self, judged: JudgedImage, claim: BaseClaim) -> BaseVerdict:
        image = judged.facts
        if claim.base is None:
            return BaseVerdict(BaseStatus.NO_BASE, f"built from scratch, according to {claim.source}", claim)
        current = self._now.get(claim.base)
        if current is None:
            raise AssertionError(f"{claim.base} was not asked for")
        if isinstance(current, BoltsealError):
            return _unresolved(claim, current)
        if is_same_digest(claim, current):
            return judge(image, claim, None, CurrentBase(current))
        now = await self._current_base(claim.base, current, image)
        if claim.digest is None:
            return await self._judge_by_layers(judged, claim, now)
        was, unread = await self._facts(claim.base, claim.digest, image)
        verdict = await self._with_moves(claim.base, judge(image, claim, was, now, unread=unread))
        if was is None and verdict.status is BaseStatus.UNKNOWN:
            # Buildah records a digest from its own store for a base that was never pulled.
            by_layers = await self._judge_by_layers(judged, replace(claim, digest=None), now)
            return verdict if by_layers.status is BaseStatus.UNKNOWN else by_layers
        return verdict

    async def _judge_provenance(self, judged: JudgedImage, claims: Sequence[BaseClaim]) -> BaseVerdict:
        """Judge by provenance, which lists all build inputs: if it matters, the layers prove which one is the base."""
        image = judged.facts
        moved = [claim for claim in claims if claim.base is not None and self._now.get(claim.base) != claim.digest]
        if len(claims) == 1 and not moved:
            return await self._judge_claim(judged, claims[0])
        if not moved:
            names = ", ".join(str(claim.base) for claim in claims)
            return BaseVerdict(BaseStatus.CURRENT, f"none of its build inputs has moved: {names}", claims[0])
        candidates, unread = await self._build_inputs(image, claims)
        matches = longest_match(image, candidates)
        if matches:
            verdict = await self._judge_claim(
                judged, BaseClaim(matches[0].base, matches[0].digest, ClaimSource.PROVENANCE)
            )
            if not unread or verdict.status is not BaseStatus.CURRENT:
                return verdict
        elif not unread:
            return BaseVerdict(BaseStatus.NO_BASE, "its layers begin with none of its build inputs")
        elif len(claims) == 1:
            return await self._judge_claim(judged, claims[0])
        reason = f"which of its build inputs is its base is unknown: {unread}"
        return BaseVerdict(BaseStatus.UNKNOWN, reason, claims[0])

    async def _build_inputs(self, image: ImageFacts, claims: Sequence[BaseClaim]) -> tuple[list[Candidate], str]:
        """Return the build inputs as they were, and why some can't be read."""
        candidates, unread = [], ""
        for claim in claims:
            if claim.base is None or claim.digest is None:
                continue
            current = self._now.get(claim.base)
            if isinstance(current, BoltsealError):  # a registry that refuses the tag is not asked for the digest either
                unread = unread or f"{claim.base}: {current.message}"
                continue
            facts, why = await self._facts(claim.base, claim.digest, image)
            if facts is not None:
                candidates.append(Candidate(claim.base, claim.digest, facts))
            unread = unread or (f"{claim.base}: {why or 'it has no image for the platform'}" if facts is None else "")
        return candidates, unread

    async def _judge_by_layers(self, judged: JudgedImage, claim: BaseClaim, now: CurrentBase) -> BaseVerdict:
        """Judge without a recorded digest: of all images that the tag ever resolved to, the longest layer match decides."""
        if claim.base is None:
            raise AssertionError("a claim without a base has no layers")
        image = judged.facts
        candidates, unread = await self._known_images(claim.base, image, now.digest)
        matches = longest_match(image, candidates)
        proven = replace(claim, source=ClaimSource.LAYERS, kind=ClaimKind.PROVEN)
        if not matches:
            return judge_by_current(image, claim, now)
        verdict = judge_proven(image, matches, proven, now)
        if verdict.status is BaseStatus.CURRENT and unread:
            reason = f"a former image of {claim.base} can no longer be read, and may be its base: {unread}"
            return BaseVerdict(BaseStatus.UNKNOWN, reason, claim, None, now.digest)
        if verdict.status is BaseStatus.CURRENT and not await self._was_observed(
            claim.base, judged, candidates, matches[0].facts
        ):
            return judge_by_current(image, claim, now)
        return await self._with_moves(claim.base, verdict)

    async def _known_images(self, base: Reference, image: ImageFacts, now: Digest) -> tuple[list[Candidate], str]:
        """Return all images that a tag is known to have resolved to, for one platform, and why some can't be read."""
        candidates, unread = [], ""
        for digest in dict.fromkeys(
            [now, *(interval.digest for interval in reversed(await self._recent_intervals(base)))]
        ):
            if digest is None or (digest != now and self._is_ruled_out(base, digest, image)):
                continue
            facts, why = await self._facts(base, digest, image)
            unread = unread or why
            if facts is not None:
                candidates.append(Candidate(base, digest, facts))
        known_manifests = {candidate.facts.manifest for candidate in candidates}
        candidates += [
            candidate for candidate in self._former_of(base, image) if candidate.facts.manifest not in known_manifests
        ]
        return candidates, unread

    def _former_of(self, base: Reference | None, image: ImageFacts) -> list[Candidate]:
        """Return a tag's former images for an image's platform, as far as they were read already."""
        former = () if base is None else self._former.get(base, ())
        return [candidate for candidate in former if same_platform(candidate.facts.platform, image.platform)]

    async def _recent_intervals(self, base: Reference) -> tuple[TagInterval, ...]:
        """Return the newest MAX_PAST intervals of a tag, the oldest first."""
        return (await self._histories.of(base))[-MAX_PAST:]

    async def _was_observed(
        self, base: Reference, judged: JudgedImage, candidates: Sequence[Candidate], match: ImageFacts
    ) -> bool:
        """Return whether the tag was observed without a gap since the first step above `match`, so that no image of it is missing.

        `match`: the longest match of the tag's images.
        A ledger records everything since the tag was created. Observations by a wrong clock do not count: those before the
        observed image was built.
        """
        intervals = await self._recent_intervals(base)
        if self._histories.is_complete(base) and len(intervals) < MAX_PAST:
            return True
        first_us = intervals[0].first_us if intervals else None
        if first_us is None:
            return False
        built = build_window(judged.facts, match, self._now_us)
        if built.start_us is None or built.start_us < first_us:
            return False  # without a request
        if any(built.overlaps(gap) for gap in gaps(intervals)):
            built = build_window(judged.facts, match, await self._published_us(judged))
        if any(built.overlaps(gap) for gap in gaps(intervals)):
            return False
        first_image = next(
            (candidate.facts for candidate in candidates if candidate.digest == intervals[0].digest), None
        )
        return first_image is None or (created_us(first_image) or 0) <= first_us + DAY_US

    async def _with_moves(self, base: Reference, verdict: BaseVerdict) -> BaseVerdict:
        """Add how many moves behind the image is, and since when."""
        if verdict.status is not BaseStatus.OUTDATED or verdict.now is None:
            return verdict
        moves = moves_since(await self._histories.of(base), verdict.built_on, verdict.now)
        return replace(verdict, behind=moves.number, exact=moves.exact, since_us=moves.since_us)

    async def _current_base(self, base: Reference, digest: Digest, image: ImageFacts) -> CurrentBase:
        facts, why = await self._facts(base, digest, image)
        return CurrentBase(digest, facts, why)

    async def _facts(self, base: Reference, digest: Digest, image: ImageFacts) -> tuple[ImageFacts | None, str]:
        """Return a base's facts for the image's platform, or why they can't be read ("": it has no image for it)."""
        remote = RemoteRepository(base.registry, base.repository)
        try:
            return await self._documents.facts_for(remote, digest, image.platform), ""
        except BoltsealError as error:
            reason = error.message
        try:
            await self._chains.read(remote, [digest])
            known = self._chains.known(remote, digest, image.platform)
        except BoltsealError:
            return None, reason
        return None if known is None else ChainMatcher([image]).facts(known), ""

    def _is_ruled_out(self, base: Reference, digest: Digest, image: ImageFacts) -> bool:
        """Return whether an image is known not to begin with the layers of a tag's former one, without a request."""
        try:
            known = self._chains.known(RemoteRepository(base.registry, base.repository), digest, image.platform)
        except BoltsealError:
            return False
        return known is None or not ChainMatcher([image]).begins(known.chain)


def _unresolved(claim: BaseClaim, error: BoltsealError) -> BaseVerdict:
    if isinstance(error, RemoteNotFound):
        reason = f"the tag {claim.base} no longer exists, so nothing newer can be built on: choose another base ({error.message})"
        return BaseVerdict(BaseStatus.UNKNOWN, reason, claim, claim.digest)
    return BaseVerdict(BaseStatus.UNKNOWN, error.message, claim, claim.digest)
