"""Check that the image references in a project's files still resolve to what was locked. Only `verify` does I/O.

The steps that decide, for each reference, in this order:

1. The text is the ID of an image on one machine: a local build. Another text that is not a valid reference: could not
   check, with the reason.
2. There is a lock without this reference: not locked. A service that is built here is a local build.
3. The file pins one platform of the locked index: wrong unless the file asks for that platform only. The file pins
   another digest than the lock: they disagree.
4. Neither a pin nor a lock gives an expected digest: not pinned.
5. Offline, the check ends here: file and lock agree.
6. The registry's ledger is signed by another key than the lock's: none of its answers is used. The registry can't be
   asked: could not check. The pinned digest, or an unpinned tag, no longer exists: gone.
7. The tag resolves to another digest than the locked one: moved. `project.tag_moves` decides whether that is allowed.
   For a pinned reference a move is a note, because the pin is still valid, unless the tag is sealed or looks like a
   release. For an unpinned one it differs, because a deployment would use the new image. If the ledger can't be read,
   whether a pinned tag may move is unknown: could not check.
8. A result that holds so far must also have an image for the platforms in use: the file's (`platform: linux/arm64`),
   and those of the caller.

With `strict`, a note counts as a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from boltseal.client.errors import RemoteNotFound
from boltseal.client.history import ProvenHistory
from boltseal.client.last_event import LastEvent
from boltseal.client.ledger_trust import KeyDiffers
from boltseal.client.registry_client import Resolved
from boltseal.errors import BoltsealError
from boltseal.lockfile.compare import PlatformChange, Weight, age, compare_platforms
from boltseal.lockfile.document import LOCK_NAME, Lock, LockedImage, LockedPlatform, key_in
from boltseal.lockfile.format import time_text
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import INDEX_TYPES
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.tag_expectations import OFFICIAL_IMAGES, TagExpectations
from boltseal.project.image_references import ImageReference
from boltseal.project.platforms import can_run, missing_platforms, unchanged_platforms
from boltseal.project.resolve import COUNTS_PULLS, Resolver
from boltseal.project.tag_moves import TagMove, move_by_ledger, move_by_name


class VerifyStatus(StrEnum):
    """The result for a reference, as in `--json`."""

    HOLDS = "holds"
    LOCAL_BUILD = "local-build"
    MOVED = "moved"
    NOT_PINNED = "not-pinned"
    NOT_LOCKED = "not-in-the-lock"
    DISAGREES = "disagrees"
    WRONG_PLATFORM = "wrong-platform"
    GONE = "gone"
    OTHER_KEY = "other-key"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The result for one reference. `expected` and `actual`: digests.

    `image`: its lock entry. `move`: the record of a tag that moved or is gone. `change`: the platforms that changed.
    """

    image_ref: ImageReference
    status: VerifyStatus
    weight: Weight
    reason: str
    expected: Digest | None = None
    actual: Digest | None = None
    image: LockedImage | None = None
    move: TagMove | None = None
    change: PlatformChange | None = None


@dataclass(frozen=True, slots=True)
class _Judge:
    """What a move is judged by, besides its record: the time, the platforms in use, and which tags move by custom."""

    now_us: int
    platforms: Sequence[str]
    expectations: TagExpectations


Resolutions = Mapping[Reference, Resolved | BoltsealError]
Moves = Mapping[Reference, ProvenHistory | LastEvent | BoltsealError | None]


async def verify(
    image_refs: Sequence[ImageReference],
    lock: Lock | None,
    resolver: Resolver | None,
    *,
    now_us: int,
    strict: bool = False,
    platforms: Sequence[str] = (),
    expectations: TagExpectations = TagExpectations(OFFICIAL_IMAGES),  # noqa: B008 - it has no state
) -> tuple[VerifyResult, ...]:
    """Check each reference; results are in the same order. Without a resolver only the files and the lock are compared.

    `platforms`: the platforms in use, besides those in the files. `expectations`: which tags move by custom.
    """
    known = {} if lock is None else lock.by_reference()
    resolutions: dict[Reference, Resolved | BoltsealError] = {}
    if resolver is not None:
        keys = {each: key_in(each, known) for each in {each.resolved for each in image_refs} if each is not None}
        skipped = {
            keys[each.resolved]
            for each in image_refs
            if each.resolved and _is_local(each, known.get(keys[each.resolved]))
        }
        resolutions = await resolver.resolve(key for key in keys.values() if key not in skipped)
        pinned = (_pin_to_resolve(each, key, resolutions) for each, key in keys.items() if key not in skipped)
        resolutions |= await resolver.resolve(reference for reference in pinned if reference is not None)
    verdicts = [
        _compare_with_lock(image_ref, lock is not None, known, resolutions if resolver is not None else None)
        for image_ref in image_refs
    ]
    if resolver is not None:
        verdicts = await _with_moves(verdicts, known, resolutions, resolver, _Judge(now_us, platforms, expectations))
    return tuple(_apply_strict(_check_platforms(each, known, platforms), strict=strict) for each in verdicts)


async def _with_moves(
    verdicts: Sequence[VerifyResult],
    known: Mapping[Reference, LockedImage],
    resolutions: Resolutions,
    resolver: Resolver,
    judge: _Judge,
) -> list[VerifyResult]:
    """Add the registries' records to the results for tags that moved or are gone."""
    moved = {
        key_in(each.image_ref.resolved, known): each
        for each in verdicts
        if each.status in (VerifyStatus.MOVED, VerifyStatus.GONE) and each.image_ref.resolved is not None
    }
    moves = await resolver.moves({key: each.actual for key, each in moved.items() if key.tag})
    indexes = await resolver.indexes(
        {
            resolution.digest: key
            for key, each in moved.items()
            if isinstance(resolution := resolutions[key], Resolved)
            and resolution.media_type in INDEX_TYPES
            and each.image is not None
            and each.image.platforms
        }
    )
    changed = [_with_platforms(each, indexes) for each in verdicts]
    return [_describe_move(each, known, moves, judge) for each in changed]


def _with_platforms(verdict: VerifyResult, indexes: Mapping[Digest, Sequence[LockedPlatform]]) -> VerifyResult:
    """Add to a move the platforms that changed; on all others the image is the same as before."""
    image, actual = verdict.image, verdict.actual
    if verdict.status is not VerifyStatus.MOVED or image is None or actual is None or actual not in indexes:
        return verdict
    return replace(verdict, change=compare_platforms(image.platforms, indexes[actual]))


def _check_platforms(
    verdict: VerifyResult, known: Mapping[Reference, LockedImage], platforms: Sequence[str]
) -> VerifyResult:
    """Step 8: check that the image has the platforms in use."""
    image_ref = verdict.image_ref
    machines = (*image_ref.platforms, *platforms)
    if (
        verdict.status not in (VerifyStatus.HOLDS, VerifyStatus.NOT_PINNED)
        or image_ref.resolved is None
        or not machines
    ):
        return verdict
    image = known.get(key_in(image_ref.resolved, known))
    if image is None or verdict.weight not in (Weight.HOLDS, Weight.NOTE):
        return verdict
    missing = missing_platforms(machines, image.platforms)
    if missing:
        has = ", ".join(sorted({each.platform for each in image.platforms}))
        reason = f"it is used on {', '.join(missing)}, but has no image for that; it has {has}"
        return replace(verdict, status=VerifyStatus.WRONG_PLATFORM, weight=Weight.DIFFERS, reason=reason)
    if missing is None and platforms:
        reason = f"whether it has an image for {', '.join(platforms)} is unknown: {LOCK_NAME} has no platforms for it"
        hub = "; reading them on Docker Hub counts as pulls (`boltseal lock --count-pulls`)"
        hub = hub if image.reference.registry in COUNTS_PULLS else ""
        return replace(verdict, status=VerifyStatus.UNKNOWN, weight=Weight.UNKNOWN, reason=f"{reason}{hub}")
    return verdict


def _pin_to_resolve(written: Reference, key: Reference, resolutions: Resolutions) -> Reference | None:
    """Return a pinned digest to resolve by itself, because its tag does not resolve to it."""
    resolution = resolutions[key]
    if written.digest is None or key.digest is not None:
        return None
    if isinstance(resolution, Resolved) and resolution.digest == written.digest:
        return None
    return replace(key, tag=None, digest=written.digest)


def _is_local(image_ref: ImageReference, image: LockedImage | None) -> bool:
    return image_ref.build and (image is None or image.local_build)


def _compare_with_lock(
    image_ref: ImageReference, has_lock: bool, known: Mapping[Reference, LockedImage], resolutions: Resolutions | None
) -> VerifyResult:
    # 1
    if image_ref.image_id:
        return VerifyResult(image_ref, VerifyStatus.LOCAL_BUILD, Weight.HOLDS, "it is an image ID; no registry has it")
    if image_ref.resolved is None:
        return VerifyResult(
            image_ref, VerifyStatus.UNKNOWN, Weight.UNKNOWN, image_ref.why or "it is not a valid reference"
        )
    key = key_in(image_ref.resolved, known)
    image = known.get(key)
    # 2
    if has_lock and image is None:
        return VerifyResult(
            image_ref, VerifyStatus.NOT_LOCKED, Weight.DIFFERS, f"it is not in {LOCK_NAME}; add it with `boltseal lock`"
        )
    if _is_local(image_ref, image):
        return VerifyResult(image_ref, VerifyStatus.LOCAL_BUILD, Weight.HOLDS, "it is built here; no registry has it")
    if image is not None and image.local_build:
        return VerifyResult(
            image_ref,
            VerifyStatus.DISAGREES,
            Weight.DIFFERS,
            f"{LOCK_NAME} marks it as a local build, but no service here builds it; run `boltseal lock --update`",
        )
    # 3
    pinned = image_ref.pinned
    if pinned is not None and image is not None and image.digest != pinned:
        return _other_pin(image_ref, image, pinned, resolutions, key)
    # 4
    wanted = pinned or (None if image is None else image.digest)
    if wanted is None:
        return VerifyResult(
            image_ref,
            VerifyStatus.NOT_PINNED,
            Weight.DIFFERS,
            "neither a digest nor a lock pins it; run `boltseal lock`, then `boltseal pin --write`",
        )
    # 5
    if resolutions is None:
        if pinned is None:
            return VerifyResult(image_ref, VerifyStatus.NOT_PINNED, Weight.NOTE, f"only {LOCK_NAME} pins it", wanted)
        return VerifyResult(image_ref, VerifyStatus.HOLDS, Weight.HOLDS, "", wanted)
    return _compare_with_registry(image_ref, key, image, wanted, resolutions)


def _other_pin(
    image_ref: ImageReference, image: LockedImage, pinned: Digest, resolutions: Resolutions | None, key: Reference
) -> VerifyResult:
    """Step 3: judge a pin that is not the lock's digest."""
    platforms_pinned = [each.platform for each in image.platforms if each.manifest == pinned]
    pinned_image = None if resolutions is None else resolutions.get(replace(key, tag=None, digest=pinned))
    single = (
        isinstance(pinned_image, Resolved)
        and pinned_image.media_type not in INDEX_TYPES
        and image.media_type in INDEX_TYPES
    )
    if (
        platforms_pinned
        and image_ref.platforms
        and all(can_run(asked, platforms_pinned[0]) for asked in image_ref.platforms)
    ):
        if isinstance(pinned_image, BoltsealError):
            return _not_resolved(image_ref, pinned_image, pinned)
        reason = f"it is pinned to the image for {platforms_pinned[0]} only, which is the platform it asks for"
        return VerifyResult(image_ref, VerifyStatus.HOLDS, Weight.NOTE, reason, image.digest, pinned)
    if platforms_pinned or (single and not image.platforms):
        which = (
            f"only the image for {platforms_pinned[0] or 'one platform'}"
            if platforms_pinned
            else "an image for one platform"
        )
        which += f" (it asks for {', '.join(image_ref.platforms)})" if image_ref.platforms and platforms_pinned else ""
        return _wrong_platform(image_ref, which, image.digest, pinned)
    return VerifyResult(
        image_ref,
        VerifyStatus.DISAGREES,
        Weight.DIFFERS,
        f"the file pins {pinned}, but {LOCK_NAME} has {image.digest or 'no digest'}; "
        "`boltseal pin --write` writes the lock's",
        image.digest,
        pinned,
    )


def _wrong_platform(image_ref: ImageReference, which: str, index: Digest | None, pinned: Digest) -> VerifyResult:
    reason = f"it is pinned to {which}, but the tag is an index; `boltseal pin --write` pins the index"
    return VerifyResult(image_ref, VerifyStatus.WRONG_PLATFORM, Weight.DIFFERS, reason, index, pinned)


def _compare_with_registry(
    image_ref: ImageReference, key: Reference, image: LockedImage | None, wanted: Digest, resolutions: Resolutions
) -> VerifyResult:
    """Steps 6 and 7: compare the expected digest with the registry's answer."""
    resolution = resolutions[key]
    if isinstance(resolution, Resolved) and resolution.digest == wanted:
        if image_ref.pinned is not None:
            return VerifyResult(image_ref, VerifyStatus.HOLDS, Weight.HOLDS, "", wanted, wanted)
        reason = "it resolves to the locked digest, but the file does not pin it"
        return VerifyResult(image_ref, VerifyStatus.NOT_PINNED, Weight.NOTE, reason, wanted, wanted)
    # 6
    if isinstance(resolution, KeyDiffers):
        return _not_resolved(image_ref, resolution, wanted)
    if image_ref.pinned is not None and key.digest is None:
        pinned_image = resolutions[replace(key, tag=None, digest=image_ref.pinned)]
        if isinstance(pinned_image, BoltsealError):
            return _not_resolved(image_ref, pinned_image, wanted)
        if (
            isinstance(resolution, Resolved)
            and resolution.media_type in INDEX_TYPES
            and pinned_image.media_type not in INDEX_TYPES
        ):
            return _wrong_platform(image_ref, "an image for one platform", resolution.digest, wanted)
    deleted = isinstance(resolution, RemoteNotFound) and image_ref.pinned is not None and key.digest is None
    if isinstance(resolution, BoltsealError) and not deleted:
        return _not_resolved(image_ref, resolution, wanted)
    # 7
    actual = resolution.digest if isinstance(resolution, Resolved) else None
    return VerifyResult(image_ref, VerifyStatus.MOVED, Weight.DIFFERS, "", wanted, actual, image)


def _not_resolved(image_ref: ImageReference, error: BoltsealError, wanted: Digest) -> VerifyResult:
    """Step 6: return the result for a registry that is not trusted, has no such image, or can't be asked."""
    if isinstance(error, KeyDiffers):
        return VerifyResult(image_ref, VerifyStatus.OTHER_KEY, Weight.DIFFERS, error.message, wanted)
    if isinstance(error, RemoteNotFound):
        return VerifyResult(
            image_ref, VerifyStatus.GONE, Weight.DIFFERS, f"it no longer exists: {error.message}", wanted
        )
    return VerifyResult(image_ref, VerifyStatus.UNKNOWN, Weight.UNKNOWN, error.message, wanted)


def _describe_move(
    verdict: VerifyResult, known: Mapping[Reference, LockedImage], moves: Moves, judge: _Judge
) -> VerifyResult:
    """Step 7: add the registry's record of a move, which decides its weight, or of a deletion."""
    if verdict.image_ref.resolved is None or verdict.status not in (VerifyStatus.MOVED, VerifyStatus.GONE):
        return verdict
    key = key_in(verdict.image_ref.resolved, known)
    if key.tag is None or verdict.expected is None or key not in moves:
        return verdict
    answer = moves[key]
    if verdict.status is VerifyStatus.GONE:
        return _describe_deletion(verdict, answer, key.tag, judge.now_us)
    pinned = verdict.image_ref.pinned is not None
    consequence = "; the pin is still valid" if pinned else "; a deployment would not use the locked image"
    was = verdict.expected
    event = f"was deleted; it resolved to {was}" if verdict.actual is None else f"moved from {was} to {verdict.actual}"
    if isinstance(answer, BoltsealError):
        reason = f"it {event}; whether that is allowed is unknown, because the ledger can't be read: {answer.message}"
        status, weight = (VerifyStatus.UNKNOWN, Weight.UNKNOWN) if pinned else (VerifyStatus.MOVED, Weight.DIFFERS)
        return replace(verdict, status=status, weight=weight, reason=reason)
    if isinstance(answer, ProvenHistory):
        move = move_by_ledger(answer, key.tag, verdict.expected, verdict.actual, verdict.image)
    else:
        move = move_by_name(judge.expectations.of(key), answer, verdict.actual)
    if move.never_had and verdict.actual is not None:
        reason = _never_had(was, verdict.actual, replace(key, digest=None), pinned=pinned)
        return replace(verdict, weight=Weight.DIFFERS, move=move, reason=reason)
    since = move.since(judge.now_us)
    if not since and verdict.image is not None:
        locked_us = verdict.image.first_seen_us
        since = f", after {time_text(locked_us)} ({age(locked_us, judge.now_us)} ago)"
    if verdict.change is not None:
        same = unchanged_platforms(verdict.image_ref.platforms or judge.platforms, verdict.change)
        since += f"; {verdict.change}" + (f"; unchanged on {', '.join(same)}" if same else "")
    fault = f"; its registry is not trustworthy: {move.fault}" if move.fault else ""
    weight_now = Weight.NOTE if pinned and not move.forbidden else Weight.DIFFERS
    return replace(verdict, weight=weight_now, move=move, reason=f"{move.kind} {event}{since}{consequence}{fault}")


def _never_had(was: Digest, actual: Digest, tag: Reference, *, pinned: bool) -> str:
    """Describe a digest that its sealed tag never had: most often a changed tag before the old digest."""
    return (
        f"it is {'pinned' if pinned else 'locked'} to {was}, but the tag is sealed at {actual}, and according to the ledger "
        f"it never resolved to {was}; if the tag was changed and the digest was not, run `boltseal lock --update "
        f"{tag.familiar()}` and `boltseal pin --write`; otherwise its registry is not trustworthy"
    )


def _describe_deletion(
    verdict: VerifyResult, answer: ProvenHistory | LastEvent | BoltsealError | None, tag: Tag, now_us: int
) -> VerifyResult:
    if verdict.expected is None or not isinstance(answer, ProvenHistory):
        return verdict
    move = move_by_ledger(answer, tag, verdict.expected, None, verdict.image)
    return replace(verdict, move=move, reason=f"{verdict.reason}{move.since(now_us)}")


def _apply_strict(verdict: VerifyResult, *, strict: bool) -> VerifyResult:
    return replace(verdict, weight=Weight.DIFFERS) if strict and verdict.weight is Weight.NOTE else verdict
