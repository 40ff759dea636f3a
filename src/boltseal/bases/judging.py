"""The verdict for one image: which claim counts, and what has to be read to hold it against what its base's tag means now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from boltseal.bases.documents import Documents, Place
from boltseal.bases.facts import Facts
from boltseal.bases.freshness import (
    Means,
    Moment,
    Status,
    Verdict,
    behind,
    judge,
    judge_proven,
    judge_without_past,
    same_digest,
)
from boltseal.bases.match import Candidate, longest
from boltseal.bases.pasts import Pasts
from boltseal.bases.sources import By, Claim, How
from boltseal.client.errors import RemoteNotFound
from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

MAX_PAST: Final = 50
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNSAID: Final = (
    "nothing says what it was built on; name it with --base, give its Dockerfile with --dockerfile, or build with "
    "`boltseal build`, which writes it down"
)


class Judging:
    """Judges. `now`: what each base's tag means, or why that can't be told."""

    def __init__(self, documents: Documents, pasts: Pasts, now: Mapping[Reference, Digest | BoltsealError]) -> None:
        self._documents = documents
        self._pasts = pasts
        self._now = now

    async def verdict(self, image: Facts, claims: Sequence[Claim]) -> Verdict:
        """The verdict for one platform of an image. `claims`: what is said of its base, the best first."""
        if not claims:
            return Verdict(Status.UNKNOWN, _UNSAID)
        if claims[0].by is By.PROVENANCE:
            return await self._of_several(image, [claim for claim in claims if claim.by is By.PROVENANCE])
        return await self._of(image, claims[0])

    async def _of(self, image: Facts, claim: Claim) -> Verdict:
        if claim.base is None:
            return Verdict(Status.NO_BASE, f"built on nothing (scratch), says {claim.by}", claim)
        means = self._now.get(claim.base)
        if means is None:
            raise AssertionError(f"{claim.base} was not asked for")
        if isinstance(means, BoltsealError):
            return _untold(claim, means)
        if same_digest(claim, means):
            return judge(image, claim, None, Means(means))
        now = await self._means(claim.base, means, image)
        if claim.digest is None:
            return await self._by_layers(image, claim, now)
        was, unread = await self._facts(claim.base, claim.digest, image)
        verdict = await self._with_past(claim.base, judge(image, claim, was, now, unread=unread))
        if was is None and verdict.status is Status.UNKNOWN:
            # Of a base that was never pulled, buildah records a digest that only its own store knows.
            by_layers = await self._by_layers(image, replace(claim, digest=None), now)
            return verdict if by_layers.status is Status.UNKNOWN else by_layers
        return verdict

    async def _of_several(self, image: Facts, claims: Sequence[Claim]) -> Verdict:
        """Provenance names all images that went in: which of them is the base is proven by its layers, if it matters."""
        moved = [claim for claim in claims if claim.base is not None and self._now.get(claim.base) != claim.digest]
        if len(claims) == 1 and not moved:
            return await self._of(image, claims[0])
        if not moved:
            names = ", ".join(str(claim.base) for claim in claims)
            return Verdict(Status.CURRENT, f"nothing that went into it has moved: {names}", claims[0])
        candidates, unread = [], ""
        for claim in claims:
            if claim.base is None or claim.digest is None:
                continue
            facts, why = await self._facts(claim.base, claim.digest, image)
            unread = unread or (f"{claim.base}: {why}" if facts is None else "")
            if facts is not None:
                candidates.append(Candidate(claim.base, claim.digest, facts))
        found = longest(image, candidates)
        if found:
            return await self._of(image, Claim(found[0].base, found[0].digest, By.PROVENANCE))
        if not unread:
            return Verdict(Status.NO_BASE, "its layers begin with none of the images that went into its build")
        if len(claims) == 1:
            return await self._of(image, claims[0])
        reason = f"which of the images that went into its build it stands on can't be told: {unread}"
        return Verdict(Status.UNKNOWN, reason, claims[0])

    async def _by_layers(self, image: Facts, claim: Claim, now: Means) -> Verdict:
        """Where nobody says what the tag meant then: of all that it ever meant, the longest chain of layers."""
        if claim.base is None:
            raise AssertionError("asked of a base")
        past = await self._pasts.of(claim.base)
        digests = dict.fromkeys([one.digest for one in reversed(past) if one.digest is not None][:MAX_PAST])
        candidates = []
        for digest in digests:
            facts, _ = await self._facts(claim.base, digest, image)
            if facts is not None:
                candidates.append(Candidate(claim.base, digest, facts))
        if now.facts is not None and now.digest not in digests:
            candidates.append(Candidate(claim.base, now.digest, now.facts))
        found = longest(image, candidates)
        proven = replace(claim, by=By.LAYERS, how=How.PROVEN)
        if not found or (len(candidates) == 1 and found[0].digest == now.digest):
            return judge_without_past(image, claim, now)
        verdict = judge_proven(image, found, proven, now)
        if verdict.status is Status.CURRENT and not _covers(past, image):
            return judge_without_past(image, claim, now)
        return await self._with_past(claim.base, verdict)

    async def _with_past(self, base: Reference, verdict: Verdict) -> Verdict:
        """How far behind it is, and since when."""
        if verdict.status is not Status.OUTDATED or verdict.now is None:
            return verdict
        number, exact, since_us = behind(await self._pasts.of(base), verdict.built_on, verdict.now)
        return replace(verdict, behind=number, exact=exact, since_us=since_us)

    async def _means(self, base: Reference, digest: Digest, image: Facts) -> Means:
        facts, why = await self._facts(base, digest, image)
        return Means(digest, facts, why)

    async def _facts(self, base: Reference, digest: Digest, image: Facts) -> tuple[Facts | None, str]:
        """What a base is for the platform of an image, or why that can't be read ("": it has nothing for it)."""
        place = Place(base.registry, base.repository)
        try:
            return await self._documents.facts_for(place, digest, image.platform), ""
        except BoltsealError as error:
            return None, error.message


def _untold(claim: Claim, error: BoltsealError) -> Verdict:
    if isinstance(error, RemoteNotFound):
        reason = f"the tag {claim.base} is gone, so there is nothing newer to build on: choose another base ({error.message})"
        return Verdict(Status.UNKNOWN, reason, claim, claim.digest)
    return Verdict(Status.UNKNOWN, error.message, claim, claim.digest)


def _covers(past: Sequence[Moment], image: Facts) -> bool:
    """Whether somebody watched the tag already when the image was made: otherwise it may have meant more before."""
    first_us = past[0].first_us if past else None
    try:
        created = datetime.fromisoformat(image.created.upper())
        made_us = (created - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, TypeError, OverflowError):  # no time, or one without a zone
        return False
    return first_us is not None and first_us <= made_us
