"""Judge one image: select the claim that decides, and read what is needed to compare it with the base's current tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from boltseal.client.errors import RemoteNotFound
from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.bases.base_claims import BaseClaim, ClaimKind, ClaimSource
from boltseal.project.bases.freshness import (
    BaseStatus,
    BaseVerdict,
    CurrentBase,
    TagInterval,
    is_same_digest,
    judge,
    judge_by_current,
    judge_doubted,
    judge_proven,
    moves_since,
)
from boltseal.project.bases.image_documents import ImageDocuments, RemoteRepository, same_platform
from boltseal.project.bases.image_facts import ImageFacts
from boltseal.project.bases.layer_match import Candidate, longest_match, may_be_base
from boltseal.project.bases.tag_history import TagHistories

MAX_PAST: Final = 50
DAY_US: Final = 86_400_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNRECORDED: Final = (
    "its base is not recorded; name it with --base or --dockerfile, or build with `boltseal build`, which records it"
)


class BaseResolver:
    """Judges images. `now`: the current digest of each base's tag, or the error; only those bases are read.

    `former`: former images of tags, as far as they were read already.
    """

    def __init__(
        self,
        documents: ImageDocuments,
        histories: TagHistories,
        now: Mapping[Reference, Digest | BoltsealError],
        former: Sequence[Candidate] = (),
        *,
        now_us: int,
    ) -> None:
        self._documents = documents
        self._histories = histories
        self._now = now
        self._former: dict[Reference, list[Candidate]] = {}
        for candidate in former:
            self._former.setdefault(candidate.base, []).append(candidate)
        self._now_us = now_us

    async def verdict(self, image: ImageFacts, claims: Sequence[BaseClaim], doubt: str = "") -> BaseVerdict:
        """Judge one platform of an image. `claims`: about its base, the most reliable first.

        `doubt`: why layers alone don't prove that it is current, "" for no doubt.
        """
        if not claims:
            return BaseVerdict(BaseStatus.UNKNOWN, _UNRECORDED)
        first = claims[0]
        if first.source is ClaimSource.PROVENANCE:
            return await self._judge_provenance(
                image, [claim for claim in claims if claim.source is ClaimSource.PROVENANCE]
            )
        if first.source in (ClaimSource.LAYERS, ClaimSource.CAME_WITH):
            verdict = await self._judge_suggested(image, first)
            if verdict is None:
                return await self.verdict(image, claims[1:], doubt)
            verdict = self._with_aliases(image, verdict, claims[1:])
        else:
            verdict = await self._judge_claim(image, first)
        by_layers = first.kind is not ClaimKind.RECORDED and first.digest is None
        return judge_doubted(verdict, doubt) if by_layers and doubt else verdict

    def _with_aliases(self, image: ImageFacts, verdict: BaseVerdict, claims: Sequence[BaseClaim]) -> BaseVerdict:
        """Add the tags that formerly resolved to the same current base, and have moved."""
        moved = [
            str(claim.base)
            for claim in claims
            if claim.source is ClaimSource.LAYERS
            and any(candidate.digest == verdict.built_on for candidate in self._former_of(claim.base, image))
        ]
        if verdict.status is not BaseStatus.CURRENT or not moved:
            return verdict
        reason = f"{verdict.reason}; {', '.join(moved)} also resolved to it and has moved: if built on that tag, it is outdated"
        return replace(verdict, reason=reason)

    async def _judge_suggested(self, image: ImageFacts, claim: BaseClaim) -> BaseVerdict | None:
        """Judge a base that only layers and history suggest; None if it is not the base.

        Two images of one Dockerfile may begin with the same layers, and a copy has all labels of its original.
        """
        current = None if claim.base is None else self._now.get(claim.base)
        if claim.base is None or not isinstance(current, Digest):
            former = self._former_of(claim.base, image)
            former_base_unproven = former and not any(
                image.history_begins_with(candidate.facts) for candidate in longest_match(image, former)
            )
            return None if former_base_unproven else await self._judge_claim(image, claim)
        candidates, unread = await self._known_images(claim.base, image, current)
        if any(candidate.facts.config == image.config for candidate in candidates):
            return None
        if claim.source is ClaimSource.CAME_WITH:
            if any(may_be_base(image, candidate.facts) for candidate in candidates):
                return await self._judge_claim(image, claim)
            why = f" ({unread})" if unread else ""
            reason = (
                f"its labels come from {claim.base}, which is its base or its original if it is a copy; the known history of "
                f"that tag does not decide{why}; rebuild it, preferably with `boltseal build`, which records the base"
            )
            return BaseVerdict(BaseStatus.UNKNOWN, reason, claim)
        proven = any(image.history_begins_with(candidate.facts) for candidate in longest_match(image, candidates))
        return await self._judge_claim(image, claim) if proven else None

    async def _judge_claim(self, image: ImageFacts, claim: BaseClaim) -> BaseVerdict:
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
            return await self._judge_by_layers(image, claim, now)
        was, unread = await self._facts(claim.base, claim.digest, image)
        verdict = await self._with_moves(claim.base, judge(image, claim, was, now, unread=unread))
        if was is None and verdict.status is BaseStatus.UNKNOWN:
            # Buildah records a digest from its own store for a base that was never pulled.
            by_layers = await self._judge_by_layers(image, replace(claim, digest=None), now)
            return verdict if by_layers.status is BaseStatus.UNKNOWN else by_layers
        return verdict

    async def _judge_provenance(self, image: ImageFacts, claims: Sequence[BaseClaim]) -> BaseVerdict:
        """Judge by provenance, which lists all build inputs: if it matters, the layers prove which one is the base."""
        moved = [claim for claim in claims if claim.base is not None and self._now.get(claim.base) != claim.digest]
        if len(claims) == 1 and not moved:
            return await self._judge_claim(image, claims[0])
        if not moved:
            names = ", ".join(str(claim.base) for claim in claims)
            return BaseVerdict(BaseStatus.CURRENT, f"none of its build inputs has moved: {names}", claims[0])
        candidates, unread = await self._build_inputs(image, claims)
        matches = longest_match(image, candidates)
        if matches:
            verdict = await self._judge_claim(
                image, BaseClaim(matches[0].base, matches[0].digest, ClaimSource.PROVENANCE)
            )
            if not unread or verdict.status is not BaseStatus.CURRENT:
                return verdict
        elif not unread:
            return BaseVerdict(BaseStatus.NO_BASE, "its layers begin with none of its build inputs")
        elif len(claims) == 1:
            return await self._judge_claim(image, claims[0])
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

    async def _judge_by_layers(self, image: ImageFacts, claim: BaseClaim, now: CurrentBase) -> BaseVerdict:
        """Judge without a recorded digest: of all images that the tag ever resolved to, the longest layer match decides."""
        if claim.base is None:
            raise AssertionError("a claim without a base has no layers")
        candidates, unread = await self._known_images(claim.base, image, now.digest)
        matches = longest_match(image, candidates)
        proven = replace(claim, source=ClaimSource.LAYERS, kind=ClaimKind.PROVEN)
        if not matches:
            return judge_by_current(image, claim, now)
        verdict = judge_proven(image, matches, proven, now)
        if verdict.status is BaseStatus.CURRENT and unread:
            reason = f"a former image of {claim.base} can no longer be read, and may be its base: {unread}"
            return BaseVerdict(BaseStatus.UNKNOWN, reason, claim, None, now.digest)
        if verdict.status is BaseStatus.CURRENT and not await self._was_observed(claim.base, image, candidates):
            return judge_by_current(image, claim, now)
        return await self._with_moves(claim.base, verdict)

    async def _known_images(self, base: Reference, image: ImageFacts, now: Digest) -> tuple[list[Candidate], str]:
        """Return all images that a tag is known to have resolved to, for one platform, and why some can't be read."""
        candidates, unread = [], ""
        for digest in dict.fromkeys(
            [now, *(interval.digest for interval in reversed(await self._recent_intervals(base)))]
        ):
            if digest is None:
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

    async def _was_observed(self, base: Reference, image: ImageFacts, candidates: Sequence[Candidate]) -> bool:
        """Return whether the tag was already observed when the image was built, so that no earlier image is missing.

        Observations by a wrong clock do not count: those before the observed image was built, and builds in the future.
        """
        intervals = await self._recent_intervals(base)
        first_us, built_us = (intervals[0].first_us if intervals else None), _created_us(image)
        if first_us is None or built_us is None:
            return False
        first_image = next(
            (candidate.facts for candidate in candidates if candidate.digest == intervals[0].digest), None
        )
        clock_was_wrong = first_image is not None and (_created_us(first_image) or 0) > first_us + DAY_US
        return first_us <= built_us <= self._now_us + DAY_US and not clock_was_wrong

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
            return None, error.message


def _unresolved(claim: BaseClaim, error: BoltsealError) -> BaseVerdict:
    if isinstance(error, RemoteNotFound):
        reason = f"the tag {claim.base} no longer exists, so nothing newer can be built on: choose another base ({error.message})"
        return BaseVerdict(BaseStatus.UNKNOWN, reason, claim, claim.digest)
    return BaseVerdict(BaseStatus.UNKNOWN, error.message, claim, claim.digest)


def _created_us(image: ImageFacts) -> int | None:
    """Return an image's creation time, or None."""
    try:
        return (datetime.fromisoformat(image.created.upper()) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, TypeError, OverflowError):  # not a time, or without a time zone
        return None
