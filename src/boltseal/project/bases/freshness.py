"""Decide whether an image is outdated: compare its base with the current image of the base's tag, by platform. Pure.

The steps, for one platform:

1. The tag resolves to the digest that the image was built on, as index or as the platform's manifest: current.
2. The tag resolves to another index, but the image for this platform is the same, or has the same config, or the same
   layers and settings (compressed or attested again): current, with the reason for the other digest.
3. The tag resolves to another image for this platform: outdated, with the differences.
4. The base can no longer be read. The image does not begin with the layers of the tag's current image: outdated. It
   does: unknown, because the base may have had more layers, or other settings.

A change of an index for platforms that are not in use does not matter (step 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.policy.tag_expectations import Expect, TagExpectations
from boltseal.project.bases.base_claims import BaseClaim, ClaimSource
from boltseal.project.bases.changes import BaseChanges, changes
from boltseal.project.bases.image_facts import ImageFacts
from boltseal.project.bases.layer_match import Candidate


class BaseStatus(StrEnum):
    """The result for an image."""

    CURRENT = "current"
    OUTDATED = "outdated"
    UNKNOWN = "cannot tell"
    NO_BASE = "no base"
    SUPERSEDED = "superseded"
    IGNORED = "ignored"


class TagInterval(NamedTuple):
    """A tag's digest, and when it was first and last observed, in microseconds since the epoch; None if unknown."""

    digest: Digest | None
    first_us: int | None
    last_us: int | None


@dataclass(frozen=True, slots=True)
class CurrentBase:
    """The current image of a tag. `facts`: for the platform in question; None if it has no image for it, or was not read.

    `why`: why it was not read, "" if the digest alone decided.
    """

    digest: Digest
    facts: ImageFacts | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class BaseVerdict:
    """The result for one platform of an image.

    `claim`: the base, as far as known. `built_on`, `now`: digests. `behind`: how often the tag moved since, at least;
    `exact`: whether it is exactly that often. `since_us`: when another digest was first observed; None if unknown.
    `is_open`: of an unknown result: whether another known image may be the base. `ancestors`: the results of its base, of
    that one's base, and so on. `rebuild_first`: if only an ancestor moved, the bases to rebuild before the image, in this
    order. `complete`: whether ledgers record everything that the tags in question ever resolved to. `expect`: of an outdated
    image whose base's tag moved: how such a tag moves by custom; None if its registry's ledger decides, or if unknown.
    `siblings`: images of its own repository, by tag and digest, that may be closer bases. `newer`: the newest revision of a base whose tag
    is sealed, by tag and digest.
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
    is_open: bool = True
    ancestors: tuple[BaseVerdict, ...] = ()
    rebuild_first: tuple[str, ...] = ()
    complete: bool = False
    expect: Expect | None = None
    siblings: tuple[Reference, ...] = ()
    newer: Reference | None = None

    @property
    def is_alarm(self) -> bool:
        """Whether the base's tag moved although it should never move."""
        return self.expect is Expect.IMMUTABLE

    @property
    def evidence(self) -> str:
        """What the result is based on."""
        if self.claim is None:
            return ""
        if self.claim.source in (ClaimSource.LAYERS, ClaimSource.CAME_WITH):
            return LONGEST if self.complete else LONGEST_SEEN
        return _EVIDENCE[self.claim.source]


class MovesSince(NamedTuple):
    """How often a tag moved, whether that number is exact or a minimum, and when it moved first, if known."""

    number: int
    exact: bool
    since_us: int | None


def is_same_digest(claim: BaseClaim, now: Digest) -> bool:
    """Step 1, as far as the digest alone decides, without reading documents."""
    return claim.digest is not None and claim.digest == now


def judge(
    image: ImageFacts, claim: BaseClaim, was: ImageFacts | None, now: CurrentBase, *, unread: str = ""
) -> BaseVerdict:
    """Judge an image with a known base. `was`: the recorded base; None: it can't be read, because of `unread`."""
    known = base_digest(claim, was)
    # 1
    if claim.digest == now.digest:
        return BaseVerdict(BaseStatus.CURRENT, "the tag still resolves to its base", claim, known, now.digest)
    facts = now.facts
    if facts is None:
        reason = now.why or f"{claim.base} no longer has an image for {image.platform}"
        return BaseVerdict(BaseStatus.UNKNOWN, reason, claim, known, now.digest)
    if claim.digest is not None and claim.digest == facts.manifest:
        return BaseVerdict(BaseStatus.CURRENT, "only other platforms of the index changed", claim, known, now.digest)
    if was is None:
        return _judge_unread_base(image, claim, facts, now, unread)
    # 2
    same = _same(was, facts)
    if same is not None:
        return BaseVerdict(BaseStatus.CURRENT, same, claim, known, now.digest)
    # 3
    differences = None if was.hashed_settings else changes(was, facts)  # of a deleted base only hashes are known
    return BaseVerdict(BaseStatus.OUTDATED, _summary(was, facts), claim, known, now.digest, differences)


def base_digest(claim: BaseClaim, was: ImageFacts | None) -> Digest | None:
    """Return the base's digest, from the claim or from its facts."""
    return claim.digest if claim.digest is not None or was is None else was.manifest


def judge_proven(image: ImageFacts, found: Sequence[Candidate], claim: BaseClaim, now: CurrentBase) -> BaseVerdict:
    """Judge by all images that the layers can't distinguish. `found`: not empty."""
    answers = [judge(image, replace(claim, digest=one.digest), one.facts, now) for one in found]
    first = answers[0]
    if len({answer.status for answer in answers}) == 1:
        return first
    return BaseVerdict(
        BaseStatus.UNKNOWN,
        f"{claim.base} resolved to {len(found)} images with these layers, one of them now, and the image does not record "
        "which one is its base: rebuild it, preferably with `boltseal build`, which records the base",
        claim,
        None,
        now.digest,
    )


def judge_doubted(verdict: BaseVerdict, doubt: str) -> BaseVerdict:
    """Weaken a verdict by layers, because a closer base may be unknown. `doubt`: the reason, "" for none.

    An outdated image stays outdated: whatever is built on an outdated base is outdated too.
    """
    if verdict.status is not BaseStatus.CURRENT or verdict.claim is None or not doubt:
        return verdict
    reason = (
        f"{verdict.claim.base}, which {verdict.claim.source.shows} as its base, has not moved; but its base may be another "
        f"image: {doubt}; {_REBUILD}"
    )
    return BaseVerdict(BaseStatus.UNKNOWN, reason, replace(verdict.claim, digest=None), None, verdict.now)


def judge_aliases(verdict: BaseVerdict, moved: Sequence[str]) -> BaseVerdict:
    """Weaken a verdict, because other tags resolved to the same base, and have moved. `moved`: these tags, not empty."""
    if verdict.status is not BaseStatus.CURRENT or verdict.claim is None:
        return verdict
    reason = (
        f"{verdict.claim.base} still resolves to its base, but {', '.join(moved[:MAX_NAMED])} also resolved to it and has "
        f"moved: if it was built on that tag, it is outdated; {_REBUILD}"
    )
    return BaseVerdict(BaseStatus.UNKNOWN, reason, verdict.claim, verdict.built_on, verdict.now)


def judge_move(verdict: BaseVerdict, expectations: TagExpectations) -> BaseVerdict:
    """Say how the tag of an outdated image's base moves by custom, if it is known to have moved."""
    claim = verdict.claim
    if verdict.status is not BaseStatus.OUTDATED or claim is None or claim.base is None or verdict.built_on is None:
        return verdict
    return replace(verdict, expect=expectations.of(claim.base))


def judge_without_claims(image: ImageFacts, unread: str, unobserved: str) -> BaseVerdict:
    """Judge an image without any claim about its base.

    `unread`: why its base may be an image whose layers are unknown; `unobserved`: or one that was never observed; "" for no.
    """
    if not unread and image.looks_built_from_scratch:
        return BaseVerdict(BaseStatus.NO_BASE, _SCRATCH)
    squashed = _MAY_BE_SQUASHED if len(image.diff_ids) == 1 else ""
    doubt = unread or unobserved or squashed
    return BaseVerdict(BaseStatus.UNKNOWN, f"{_UNRECORDED}{f' ({doubt})' if doubt else ''}", is_open=bool(doubt))


def judge_inherited_scratch(claim: BaseClaim) -> BaseVerdict:
    """Judge an image by a label of scratch that may be its base's."""
    reason = (
        "its label says that it is built from scratch, but it has several layers, and may have the label from its base; an "
        "annotation is not inherited, nor is the record of `boltseal build`"
    )
    return BaseVerdict(BaseStatus.UNKNOWN, reason, claim)


def judge_by_current(image: ImageFacts, claim: BaseClaim, now: CurrentBase) -> BaseVerdict:
    """Judge by the tag's current image only, because its digest at build time is unknown."""
    facts = now.facts
    if facts is None:
        reason = now.why or f"{claim.base} has no image for {image.platform}"
        return BaseVerdict(BaseStatus.UNKNOWN, reason, claim, None, now.digest)
    if not image.begins_with(facts):
        if len(image.diff_ids) == 1:
            return BaseVerdict(BaseStatus.UNKNOWN, f"{_SQUASHED}; {_TODO}", claim, None, now.digest)
        reason = f"it does not begin with the layers of the current {claim.base}"
        return BaseVerdict(BaseStatus.OUTDATED, reason, claim, None, now.digest)
    if image.diff_ids == facts.diff_ids and image.history and image.history == facts.history:
        reason = "it has exactly the layers and the history of its base"
        return BaseVerdict(BaseStatus.CURRENT, reason, claim, now.digest, now.digest)
    return BaseVerdict(BaseStatus.UNKNOWN, f"{_PREFIX_ONLY}: {_TODO}", claim, None, now.digest)


MAX_NAMED: Final = 5
_REBUILD = "rebuild it, preferably with `boltseal build`, which records the base"
_UNRECORDED = (
    "its base is not recorded, nor found among the images of this run; name its base with --base or --dockerfile, or build "
    "with `boltseal build`, which records it"
)
_SCRATCH = "built from scratch: it has one layer, which no known image has, and its history is that of one build"
_PREFIX_ONLY = (
    "it begins with the layers of the tag's current image, but so would an image built on one with more layers"
)
_MAY_BE_SQUASHED = "it has a single layer, so it may have been squashed: then its base is not among its layers"
_SQUASHED = "it has a single layer, which proves nothing: it may have been squashed"
_TODO = (
    "what the tag resolved to at build time was not observed; run `boltseal outdated` or `boltseal watch` regularly, or "
    "build with `boltseal build`, which records the base"
)


def _judge_unread_base(
    image: ImageFacts, claim: BaseClaim, facts: ImageFacts, now: CurrentBase, unread: str
) -> BaseVerdict:
    """Step 4: judge without the recorded base."""
    digest = claim.digest
    if digest is None:
        return judge_by_current(image, claim, now)
    if not image.begins_with(facts) and len(image.diff_ids) > 1:
        reason = f"the tag resolved to {digest}, and the image does not begin with the layers of its current image"
        return BaseVerdict(BaseStatus.OUTDATED, reason, claim, digest, now.digest)
    why = f" ({unread})" if unread else ""
    evidence = _PREFIX_ONLY if image.begins_with(facts) else _SQUASHED
    return BaseVerdict(
        BaseStatus.UNKNOWN,
        f"the tag resolves to another digest, and the base can no longer be read{why}: {evidence}; rebuild the image",
        claim,
        digest,
        now.digest,
    )


def _same(was: ImageFacts, now: ImageFacts) -> str | None:
    """Step 2: return why another digest is the same image, or None."""
    if was.manifest == now.manifest:
        return "only other platforms or attestations of the index changed"
    if was.config == now.config:
        return "the same image, compressed or annotated again"
    if was.same_as(now):
        return "the same layers and settings, built again"
    return None


def _summary(was: ImageFacts, now: ImageFacts) -> str:
    """Step 3: summarise the differences."""
    difference = changes(was, now)
    if difference.lost_top:
        number = difference.removed.number
        return f"the base lost its uppermost {'layer' if number == 1 else f'{number} layers'}"
    if not difference.added.number:
        return "the base has the same layers and other settings"
    return "the base has other layers"


def moves_since(past: Iterable[TagInterval], built_on: Digest | None, now: Digest) -> MovesSince:
    """Count the moves of a tag since it resolved to `built_on`.

    `past`: the known intervals of the tag, the oldest first. Without them, the number is a minimum of one.
    """
    observed = [interval for interval in past if interval.digest is not None]
    last = max((at for at, interval in enumerate(observed) if interval.digest == built_on), default=None)
    if last is None:
        known = [interval for interval in observed if interval.digest == now]
        return MovesSince(1, False, known[0].first_us if len(observed) == 1 and known else None)
    later = observed[last + 1 :]
    moves = [interval for at, interval in enumerate(later) if at == 0 or interval.digest != later[at - 1].digest]
    if not moves:
        return MovesSince(1, False, None)
    missing = moves[-1].digest != now
    return MovesSince(len(moves) + missing, not missing, moves[0].first_us)


LONGEST: Final = "longest chain"
LONGEST_SEEN: Final = "longest chain that we have seen"
_EVIDENCE: Final = {
    ClaimSource.BUILT: "recorded by `build`",
    ClaimSource.ANNOTATION: "annotation",
    ClaimSource.PROVENANCE: "provenance",
    ClaimSource.LABEL: "label",
    ClaimSource.GIVEN: "stated by the user",
    ClaimSource.DOCKERFILE: "stated by the user",
}
_WORST = (
    BaseStatus.OUTDATED,
    BaseStatus.UNKNOWN,
    BaseStatus.SUPERSEDED,
    BaseStatus.CURRENT,
    BaseStatus.NO_BASE,
    BaseStatus.IGNORED,
)


def worst_verdict(verdicts: Sequence[BaseVerdict]) -> BaseVerdict:
    """Return the verdict that decides: an image that is outdated on one platform is outdated. `verdicts`: not empty."""
    return min(verdicts, key=lambda verdict: _WORST.index(verdict.status))
