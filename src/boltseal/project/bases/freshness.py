"""Is an image outdated: what it was built on, held against what the base's tag means now, platform by platform. Pure.

The steps, of one platform:

1. The tag means the very digest that the image was built on, as index or as the platform's manifest: current.
2. The tag means another index whose image for this platform is the same, or has the same config, or the same layers and
   settings (compressed anew, attested anew): current, and said why the digest is another.
3. It means another image for this platform: outdated, with what is different.
4. What it was built on can't be read any more. The image does not begin with the layers of what the tag means now: outdated.
   It does: nobody can tell, for the base may have had more layers, or other settings.

An index that changed for platforms that are not in use is nobody's business (step 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from boltseal.oci.digest import Digest
from boltseal.project.bases.base_claims import BaseClaim
from boltseal.project.bases.changes import BaseChanges, changes
from boltseal.project.bases.image_facts import ImageFacts
from boltseal.project.bases.layer_match import Candidate


class BaseStatus(StrEnum):
    """The answer for an image."""

    CURRENT = "current"
    OUTDATED = "outdated"
    UNKNOWN = "cannot tell"
    NO_BASE = "no base"


class TagInterval(NamedTuple):
    """What a tag meant, and when it was first and last seen to, in microseconds since the epoch; None where unknown."""

    digest: Digest | None
    first_us: int | None
    last_us: int | None


@dataclass(frozen=True, slots=True)
class CurrentBase:
    """What a tag means now. `facts`: for the platform in question, None where it has none for it, or where that was not
    read, since the digest alone decided. `why`: why it was not read."""

    digest: Digest
    facts: ImageFacts | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class BaseVerdict:
    """The answer for one platform of an image.

    `claim`: the base, as far as known. `built_on` and `now`: digests. `behind`: how often the tag moved since, at least;
    `exact`: exactly that often. `since_us`: when it was first seen to mean something else; None where nobody has seen it.
    """

    status: BaseStatus
    reason: str
    claim: BaseClaim | None = None
    built_on: Digest | None = None
    now: Digest | None = None
    changes: BaseChanges | None = None
    behind: int = 0
    exact: bool = False
    since_us: int | None = None
    platform: str = ""


def is_same_digest(claim: BaseClaim, now: Digest) -> bool:
    """Step 1 as far as no document is needed: nothing has to be read, whatever the platform."""
    return claim.digest is not None and claim.digest == now


def judge(
    image: ImageFacts, claim: BaseClaim, was: ImageFacts | None, now: CurrentBase, *, unread: str = ""
) -> BaseVerdict:
    """The answer for an image whose base is known by name. `was`: what it was built on, None where it can't be read (`unread`)."""
    known = replace_digest(claim, was)
    # 1
    if claim.digest == now.digest:
        return BaseVerdict(BaseStatus.CURRENT, "the tag means what it was built on", claim, known, now.digest)
    facts = now.facts
    if facts is None:
        reason = now.why or f"{claim.base} has no image for {image.platform} any more"
        return BaseVerdict(BaseStatus.UNKNOWN, reason, claim, known, now.digest)
    if claim.digest is not None and claim.digest == facts.manifest:
        return BaseVerdict(
            BaseStatus.CURRENT, "only other platforms of the tag's index are different", claim, known, now.digest
        )
    if was is None:
        return _without_was(image, claim, facts, now, unread)
    # 2
    same = _same(was, facts)
    if same is not None:
        return BaseVerdict(BaseStatus.CURRENT, same, claim, known, now.digest)
    # 3
    return BaseVerdict(BaseStatus.OUTDATED, _what(was, facts), claim, known, now.digest, changes(was, facts))


def replace_digest(claim: BaseClaim, was: ImageFacts | None) -> Digest | None:
    """What it was built on, by the claim or by what was found."""
    return claim.digest if claim.digest is not None or was is None else was.manifest


def judge_proven(image: ImageFacts, found: Sequence[Candidate], claim: BaseClaim, now: CurrentBase) -> BaseVerdict:
    """The answer where layers told the base: by every image that they can't tell apart. `found`: not empty."""
    answers = [judge(image, replace(claim, digest=one.digest), one.facts, now) for one in found]
    first = answers[0]
    if len({answer.status for answer in answers}) == 1:
        return first
    return BaseVerdict(
        BaseStatus.UNKNOWN,
        f"{claim.base} meant {len(found)} images with these layers, one of which it means now, and nothing in the image "
        "says which it was built on: build it again, or with `boltseal build`, which writes it down",
        claim,
        None,
        now.digest,
    )


def judge_doubted(verdict: BaseVerdict, doubt: str) -> BaseVerdict:
    """The answer where layers told the base, and what may be a nearer base is not known. `doubt`: what that is.

    An image that is outdated on what its layers begin with is outdated on whatever else stands on that.
    """
    if verdict.status is not BaseStatus.CURRENT or verdict.claim is None:
        return verdict
    reason = (
        f"its layers begin with those of {verdict.claim.base}, which has not moved; but its base may be another image: "
        f"{doubt}; build it again, or with `boltseal build`, which writes the base down"
    )
    return BaseVerdict(BaseStatus.UNKNOWN, reason, replace(verdict.claim, digest=None), None, verdict.now)


def judge_by_current(image: ImageFacts, claim: BaseClaim, now: CurrentBase) -> BaseVerdict:
    """The answer where nobody knows what the base's tag meant then, and all there is, is what it means now."""
    facts = now.facts
    if facts is None:
        reason = now.why or f"{claim.base} has no image for {image.platform}"
        return BaseVerdict(BaseStatus.UNKNOWN, reason, claim, None, now.digest)
    if not image.begins_with(facts):
        if len(image.diff_ids) == 1:
            return BaseVerdict(BaseStatus.UNKNOWN, f"{_SQUASHED}; {_TODO}", claim, None, now.digest)
        reason = f"it does not begin with the layers of what {claim.base} means now"
        return BaseVerdict(BaseStatus.OUTDATED, reason, claim, None, now.digest)
    if image.diff_ids == facts.diff_ids and image.history_begins_with(facts):
        reason = "its layers are those of its base, none more, and its history begins with the base's"
        return BaseVerdict(BaseStatus.CURRENT, reason, claim, now.digest, now.digest)
    return BaseVerdict(BaseStatus.UNKNOWN, f"{_PREFIX_ONLY}: {_TODO}", claim, None, now.digest)


_PREFIX_ONLY = (
    "it begins with the layers of what the tag means now, and so would an image built on one that had more layers"
)
_SQUASHED = "all of it is one layer, which proves nothing: it may have been squashed"
_TODO = (
    "nobody has seen what the tag meant when it was built; let `boltseal outdated` or `boltseal watch` run from now on, or "
    "build with `boltseal build`, which writes the base down"
)


def _without_was(image: ImageFacts, claim: BaseClaim, facts: ImageFacts, now: CurrentBase, unread: str) -> BaseVerdict:
    """Step 4."""
    digest = claim.digest
    if digest is None:
        return judge_by_current(image, claim, now)
    if not image.begins_with(facts) and len(image.diff_ids) > 1:
        reason = f"the tag meant {digest.short}, and the image does not begin with the layers of what it means now"
        return BaseVerdict(BaseStatus.OUTDATED, reason, claim, digest, now.digest)
    why = f" ({unread})" if unread else ""
    told = _PREFIX_ONLY if image.begins_with(facts) else _SQUASHED
    return BaseVerdict(
        BaseStatus.UNKNOWN,
        f"the tag means another digest, and what it was built on can't be read any more{why}: {told}; build it again",
        claim,
        digest,
        now.digest,
    )


def _same(was: ImageFacts, now: ImageFacts) -> str | None:
    """Step 2: why another digest is the same image, None where it is not."""
    if was.manifest == now.manifest:
        return "only other platforms, or attestations, of the tag's index are different"
    if was.config == now.config:
        return "the same image, compressed or described anew"
    if was.same_as(now):
        return "the same layers and settings, built anew"
    return None


def _what(was: ImageFacts, now: ImageFacts) -> str:
    """Step 3 in a few words."""
    different = changes(was, now)
    if different.lost_top:
        number = different.removed.number
        return f"the base lost its uppermost {'layer' if number == 1 else f'{number} layers'}"
    if not different.added.number:
        return "the base has the same layers and other settings"
    return "the base has other layers"


def behind(past: Iterable[TagInterval], built_on: Digest | None, now: Digest) -> tuple[int, bool, int | None]:
    """How often a tag moved since it meant what an image was built on, whether that is exact, and since when it means another.

    `past`: all that is known of what the tag meant, the oldest first. Without the past it is once, at least.
    """
    seen = [one for one in past if one.digest is not None]
    last = max((at for at, one in enumerate(seen) if one.digest == built_on), default=None)
    if last is None:
        known = [one for one in seen if one.digest == now]
        return 1, False, known[0].first_us if len(seen) == 1 and known else None
    later = seen[last + 1 :]
    moves = [one for at, one in enumerate(later) if at == 0 or one.digest != later[at - 1].digest]
    if not moves:
        return 1, False, None
    missing = moves[-1].digest != now
    return len(moves) + missing, not missing, moves[0].first_us


_WORST = (BaseStatus.OUTDATED, BaseStatus.UNKNOWN, BaseStatus.CURRENT, BaseStatus.NO_BASE)


def worst_verdict(verdicts: Sequence[BaseVerdict]) -> BaseVerdict:
    """The one that counts of an image's platforms: outdated on one is outdated. Not empty."""
    return min(verdicts, key=lambda one: _WORST.index(one.status))
