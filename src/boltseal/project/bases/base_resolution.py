"""The verdict for one image: which claim counts, and what has to be read to hold it against what its base's tag means now."""

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
    behind,
    is_same_digest,
    judge,
    judge_by_current,
    judge_doubted,
    judge_proven,
)
from boltseal.project.bases.image_documents import ImageDocuments, RemoteRepository, same_platform
from boltseal.project.bases.image_facts import ImageFacts
from boltseal.project.bases.layer_match import Candidate, longest_match, may_be_base
from boltseal.project.bases.tag_history import TagHistories

MAX_PAST: Final = 50
DAY_US: Final = 86_400_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNSAID: Final = (
    "nothing says what it was built on; name it with --base, give its Dockerfile with --dockerfile, or build with "
    "`boltseal build`, which writes it down"
)


class BaseResolver:
    """Judges. `now`: what each base's tag means, or why that can't be told; only of what it means anything is read.

    `former`: images that tags resolved to before, as far as they were read already.
    """

    def __init__(
        self,
        documents: ImageDocuments,
        pasts: TagHistories,
        now: Mapping[Reference, Digest | BoltsealError],
        former: Sequence[Candidate] = (),
        *,
        now_us: int,
    ) -> None:
        self._documents = documents
        self._pasts = pasts
        self._now = now
        self._former: dict[Reference, list[Candidate]] = {}
        for one in former:
            self._former.setdefault(one.base, []).append(one)
        self._now_us = now_us

    async def verdict(self, image: ImageFacts, claims: Sequence[BaseClaim], doubt: str = "") -> BaseVerdict:
        """The verdict for one platform of an image. `claims`: what is said of its base, the best first.

        `doubt`: why layers alone don't prove that it is current, "" for nothing.
        """
        if not claims:
            return BaseVerdict(BaseStatus.UNKNOWN, _UNSAID)
        first = claims[0]
        if first.by is ClaimSource.PROVENANCE:
            return await self._of_several(image, [claim for claim in claims if claim.by is ClaimSource.PROVENANCE])
        if first.by in (ClaimSource.LAYERS, ClaimSource.CAME_WITH):
            verdict = await self._of_unsaid(image, first)
            if verdict is None:
                return await self.verdict(image, claims[1:], doubt)
            verdict = self._with_aliases(image, verdict, claims[1:])
        else:
            verdict = await self._of(image, first)
        by_layers = first.how is not ClaimKind.RECORDED and first.digest is None
        return judge_doubted(verdict, doubt) if by_layers and doubt else verdict

    def _with_aliases(self, image: ImageFacts, verdict: BaseVerdict, claims: Sequence[BaseClaim]) -> BaseVerdict:
        """Names the tags that resolved to the very image that it is current on, and have moved."""
        moved = [
            str(claim.base)
            for claim in claims
            if claim.by is ClaimSource.LAYERS
            and any(one.digest == verdict.built_on for one in self._former_of(claim.base, image))
        ]
        if verdict.status is not BaseStatus.CURRENT or not moved:
            return verdict
        reason = (
            f"{verdict.reason}; {', '.join(moved)} resolved to it too and has moved: built on that tag, it is outdated"
        )
        return replace(verdict, reason=reason)

    async def _of_unsaid(self, image: ImageFacts, claim: BaseClaim) -> BaseVerdict | None:
        """The verdict where nobody says that this is the base, and its layers and history have to; None where it is not.

        Two images of one Dockerfile may begin with the same layers, and a copy has all labels of what it is a copy of.
        """
        means = None if claim.base is None else self._now.get(claim.base)
        if claim.base is None or not isinstance(means, Digest):
            former = self._former_of(claim.base, image)
            gone_and_not_told = former and not any(
                image.history_begins_with(one.facts) for one in longest_match(image, former)
            )
            return None if gone_and_not_told else await self._of(image, claim)
        past, unread = await self._past(claim.base, image, means)
        if any(one.facts.config == image.config for one in past):
            return None
        if claim.by is ClaimSource.CAME_WITH:
            if any(may_be_base(image, one.facts) for one in past):
                return await self._of(image, claim)
            why = f" ({unread})" if unread else ""
            reason = (
                f"its labels are those of {claim.base}, on which it was built, or of which it is a copy: nothing that this "
                f"is known to have meant tells which{why}; build it again, or with `boltseal build`, which writes it down"
            )
            return BaseVerdict(BaseStatus.UNKNOWN, reason, claim)
        told = [one for one in longest_match(image, past) if image.history_begins_with(one.facts)]
        return await self._of(image, claim) if told else None

    async def _of(self, image: ImageFacts, claim: BaseClaim) -> BaseVerdict:
        if claim.base is None:
            return BaseVerdict(BaseStatus.NO_BASE, f"built on nothing (scratch), says {claim.by}", claim)
        means = self._now.get(claim.base)
        if means is None:
            raise AssertionError(f"{claim.base} was not asked for")
        if isinstance(means, BoltsealError):
            return _untold(claim, means)
        if is_same_digest(claim, means):
            return judge(image, claim, None, CurrentBase(means))
        now = await self._means(claim.base, means, image)
        if claim.digest is None:
            return await self._by_layers(image, claim, now)
        was, unread = await self._facts(claim.base, claim.digest, image)
        verdict = await self._with_past(claim.base, judge(image, claim, was, now, unread=unread))
        if was is None and verdict.status is BaseStatus.UNKNOWN:
            # Of a base that was never pulled, buildah records a digest that only its own store knows.
            by_layers = await self._by_layers(image, replace(claim, digest=None), now)
            return verdict if by_layers.status is BaseStatus.UNKNOWN else by_layers
        return verdict

    async def _of_several(self, image: ImageFacts, claims: Sequence[BaseClaim]) -> BaseVerdict:
        """Provenance names all images that went in: which of them is the base is proven by its layers, if it matters."""
        moved = [claim for claim in claims if claim.base is not None and self._now.get(claim.base) != claim.digest]
        if len(claims) == 1 and not moved:
            return await self._of(image, claims[0])
        if not moved:
            names = ", ".join(str(claim.base) for claim in claims)
            return BaseVerdict(BaseStatus.CURRENT, f"nothing that went into it has moved: {names}", claims[0])
        candidates, unread = await self._taken_in(image, claims)
        found = longest_match(image, candidates)
        if found:
            verdict = await self._of(image, BaseClaim(found[0].base, found[0].digest, ClaimSource.PROVENANCE))
            if not unread or verdict.status is not BaseStatus.CURRENT:
                return verdict
        elif not unread:
            return BaseVerdict(BaseStatus.NO_BASE, "its layers begin with none of the images that went into its build")
        elif len(claims) == 1:
            return await self._of(image, claims[0])
        reason = f"which of the images that went into its build it stands on can't be told: {unread}"
        return BaseVerdict(BaseStatus.UNKNOWN, reason, claims[0])

    async def _taken_in(self, image: ImageFacts, claims: Sequence[BaseClaim]) -> tuple[list[Candidate], str]:
        """What went into a build, as it was then; and why some of it can't be read."""
        candidates, unread = [], ""
        for claim in claims:
            if claim.base is None or claim.digest is None:
                continue
            means = self._now.get(claim.base)
            if isinstance(means, BoltsealError):  # a registry that is not asked for a tag is not asked for a digest
                unread = unread or f"{claim.base}: {means.message}"
                continue
            facts, why = await self._facts(claim.base, claim.digest, image)
            if facts is not None:
                candidates.append(Candidate(claim.base, claim.digest, facts))
            unread = unread or (f"{claim.base}: {why or 'it has nothing for the platform'}" if facts is None else "")
        return candidates, unread

    async def _by_layers(self, image: ImageFacts, claim: BaseClaim, now: CurrentBase) -> BaseVerdict:
        """Where nobody says what the tag meant then: of all that it ever meant, the longest chain of layers."""
        if claim.base is None:
            raise AssertionError("asked of a base")
        candidates, unread = await self._past(claim.base, image, now.digest)
        found = longest_match(image, candidates)
        proven = replace(claim, by=ClaimSource.LAYERS, how=ClaimKind.PROVEN)
        if not found:
            return judge_by_current(image, claim, now)
        verdict = judge_proven(image, found, proven, now)
        if verdict.status is BaseStatus.CURRENT and unread:
            reason = f"{claim.base} meant something once that can't be read any more, and may be its base: {unread}"
            return BaseVerdict(BaseStatus.UNKNOWN, reason, claim, None, now.digest)
        if verdict.status is BaseStatus.CURRENT and not await self._covered(claim.base, image, candidates):
            return judge_by_current(image, claim, now)
        return await self._with_past(claim.base, verdict)

    async def _past(self, base: Reference, image: ImageFacts, now: Digest) -> tuple[list[Candidate], str]:
        """What a tag ever meant for an image's platform, as far back as is looked; and why one of these can't be read."""
        candidates, unread = [], ""
        for digest in dict.fromkeys([now, *(one.digest for one in reversed(await self._considered(base)))]):
            if digest is None:
                continue
            facts, why = await self._facts(base, digest, image)
            unread = unread or why
            if facts is not None:
                candidates.append(Candidate(base, digest, facts))
        there = {one.facts.manifest for one in candidates}
        candidates += [one for one in self._former_of(base, image) if one.facts.manifest not in there]
        return candidates, unread

    def _former_of(self, base: Reference | None, image: ImageFacts) -> list[Candidate]:
        """What a tag resolved to before, for an image's platform, as far as it was read already."""
        former = () if base is None else self._former.get(base, ())
        return [one for one in former if same_platform(one.facts.platform, image.platform)]

    async def _considered(self, base: Reference) -> tuple[TagInterval, ...]:
        """The newest of what a tag meant, the oldest of them first."""
        return (await self._pasts.of(base))[-MAX_PAST:]

    async def _covered(self, base: Reference, image: ImageFacts, candidates: Sequence[Candidate]) -> bool:
        """Whether somebody watched the tag already when the image was made: otherwise it may have meant more before.

        A clock that was wrong watched nothing: one that saw a thing before it was made, or that made an image tomorrow.
        """
        considered = await self._considered(base)
        first_us, made_us = (considered[0].first_us if considered else None), _created_us(image)
        if first_us is None or made_us is None:
            return False
        seen = next((one.facts for one in candidates if one.digest == considered[0].digest), None)
        before_it_was = seen is not None and (_created_us(seen) or 0) > first_us + DAY_US
        return first_us <= made_us <= self._now_us + DAY_US and not before_it_was

    async def _with_past(self, base: Reference, verdict: BaseVerdict) -> BaseVerdict:
        """How far behind it is, and since when."""
        if verdict.status is not BaseStatus.OUTDATED or verdict.now is None:
            return verdict
        number, exact, since_us = behind(await self._pasts.of(base), verdict.built_on, verdict.now)
        return replace(verdict, behind=number, exact=exact, since_us=since_us)

    async def _means(self, base: Reference, digest: Digest, image: ImageFacts) -> CurrentBase:
        facts, why = await self._facts(base, digest, image)
        return CurrentBase(digest, facts, why)

    async def _facts(self, base: Reference, digest: Digest, image: ImageFacts) -> tuple[ImageFacts | None, str]:
        """What a base is for the platform of an image, or why that can't be read ("": it has nothing for it)."""
        place = RemoteRepository(base.registry, base.repository)
        try:
            return await self._documents.facts_for(place, digest, image.platform), ""
        except BoltsealError as error:
            return None, error.message


def _untold(claim: BaseClaim, error: BoltsealError) -> BaseVerdict:
    if isinstance(error, RemoteNotFound):
        reason = f"the tag {claim.base} is gone, so there is nothing newer to build on: choose another base ({error.message})"
        return BaseVerdict(BaseStatus.UNKNOWN, reason, claim, claim.digest)
    return BaseVerdict(BaseStatus.UNKNOWN, error.message, claim, claim.digest)


def _created_us(image: ImageFacts) -> int | None:
    """When an image says that it was made."""
    try:
        return (datetime.fromisoformat(image.created.upper()) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, TypeError, OverflowError):  # no time, or one without a zone
        return None
