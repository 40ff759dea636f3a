"""Does what the files name still mean what was locked? One verdict for each reference in a file. Pure but for `verify`.

What decides, for each site, in this order:

1. It names nothing that could be looked up: could not check, with the reason.
2. There is a lock, and the reference is not in it. A service that is built here is a local build: nobody pulls it.
3. The file pins one platform of the locked index: it runs on no other machine, which is wrong unless the file asks for
   that platform alone. It pins something else than the lock says: they disagree.
4. Neither a pin nor a lock says what it should mean: not pinned.
5. Offline it ends here: file and lock agree.
6. The ledger of its registry is signed by another key than the lock names: nothing that the registry says is used. A
   registry that can't be asked: could not check. What is pinned is not there any more, or a tag that nothing pins: gone.
7. The tag means something else than was locked: moved. Its registry is asked whether it may (`project.tag_moves`). Of what is
   pinned a move is a note, for the pin still holds, unless the tag is sealed, or one that should never move; of what is
   not pinned, it is what would be deployed. A ledger that can't be read leaves it open whether a pinned tag may move:
   could not check.
8. What holds by now is for the machines that it is used on: the platform that the file asks for (`platform: linux/arm64`),
   and those that the caller names.

`strict`: a note does not hold either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from boltseal.client.errors import RemoteNotFound
from boltseal.client.history import Proven
from boltseal.client.ledger_trust import KeyDiffers
from boltseal.client.registry_client import LastEvent, Resolved
from boltseal.errors import BoltsealError
from boltseal.lockfile.compare import PlatformChange, Weight, age, compare_platforms
from boltseal.lockfile.document import LOCK_NAME, Lock, LockedImage, LockedPlatform, key_in
from boltseal.lockfile.format import time_text
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import INDEX_TYPES
from boltseal.oci.reference import Reference, Tag
from boltseal.project.image_references import ImageReference
from boltseal.project.platforms import can_run, missing_platforms, unchanged_platforms
from boltseal.project.resolve import COUNTS_PULLS, Resolver
from boltseal.project.tag_moves import TagMove, move_by_ledger, move_by_name


class VerifyStatus(StrEnum):
    """What a verdict says, as `--json` has it."""

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
    """What is to be said of one site. `from_`: what it should mean; `to`: what it means.

    `image`: how it is locked. `move`: what is known of a tag that moved, or is gone; `change`: on which platforms.
    """

    image_ref: ImageReference
    status: VerifyStatus
    weight: Weight
    reason: str
    from_: Digest | None = None
    to: Digest | None = None
    image: LockedImage | None = None
    move: TagMove | None = None
    change: PlatformChange | None = None


Meanings = Mapping[Reference, Resolved | BoltsealError]
Moves = Mapping[Reference, Proven | LastEvent | BoltsealError | None]


async def verify(
    image_refs: Sequence[ImageReference],
    lock: Lock | None,
    resolver: Resolver | None,
    *,
    now_us: int,
    strict: bool = False,
    platforms: Sequence[str] = (),
) -> tuple[VerifyResult, ...]:
    """A verdict for each site, in their order. Without a resolver only the files and the lock are compared.

    `platforms`: which machines the images are used on, besides what the files say.
    """
    known = {} if lock is None else lock.by_reference()
    meanings: dict[Reference, Resolved | BoltsealError] = {}
    if resolver is not None:
        keys = {
            image_ref: key_in(image_ref.resolved, known) for image_ref in image_refs if image_ref.resolved is not None
        }
        skipped = {key for image_ref, key in keys.items() if _is_local(image_ref, known.get(key))}
        meanings = await resolver.meanings(key for key in keys.values() if key not in skipped)
        pinned = [_by_digest(image_ref, key, meanings) for image_ref, key in keys.items() if key not in skipped]
        meanings |= await resolver.meanings(reference for reference in pinned if reference is not None)
    found = [
        _judge(image_ref, lock is not None, known, meanings if resolver is not None else None)
        for image_ref in image_refs
    ]
    if resolver is not None:
        found = await _told(found, known, meanings, resolver, now_us, platforms)
    return tuple(_weighed(_on_platforms(each, known, platforms), strict=strict) for each in found)


async def _told(
    found: Sequence[VerifyResult],
    known: Mapping[Reference, LockedImage],
    meanings: Meanings,
    resolver: Resolver,
    now_us: int,
    platforms: Sequence[str],
) -> list[VerifyResult]:
    """The verdicts, with what registries tell of tags that moved or are gone."""
    moved = {
        key_in(each.image_ref.resolved, known): each
        for each in found
        if each.status in (VerifyStatus.MOVED, VerifyStatus.GONE) and each.image_ref.resolved is not None
    }
    moves = await resolver.moves({key: each.to for key, each in moved.items() if key.tag})
    indexes = await resolver.indexes(
        {
            meaning.digest: key
            for key, each in moved.items()
            if isinstance(meaning := meanings[key], Resolved)
            and meaning.media_type in INDEX_TYPES
            and each.image is not None
            and each.image.platforms
        }
    )
    changed = [_changed(each, indexes) for each in found]
    return [_moved(each, known, moves, now_us, platforms) for each in changed]


def _changed(verdict: VerifyResult, indexes: Mapping[Digest, Sequence[LockedPlatform]]) -> VerifyResult:
    """A move with the platforms that it is one of: who runs on none of them runs the same image as before."""
    image, to = verdict.image, verdict.to
    if verdict.status is not VerifyStatus.MOVED or image is None or to is None or to not in indexes:
        return verdict
    return replace(verdict, change=compare_platforms(image.platforms, indexes[to]))


def _on_platforms(
    verdict: VerifyResult, known: Mapping[Reference, LockedImage], platforms: Sequence[str]
) -> VerifyResult:
    """8: what holds so far does not, if it is for other machines than it is used on."""
    image_ref = verdict.image_ref
    asked = (*image_ref.platforms, *platforms)
    if verdict.status not in (VerifyStatus.HOLDS, VerifyStatus.NOT_PINNED) or image_ref.resolved is None or not asked:
        return verdict
    image = known.get(key_in(image_ref.resolved, known))
    if image is None or verdict.weight not in (Weight.HOLDS, Weight.NOTE):
        return verdict
    missing = missing_platforms(asked, image.platforms)
    if missing:
        has = ", ".join(sorted({each.platform for each in image.platforms}))
        reason = f"it is used on {', '.join(missing)}, and there is no image of it for that; it has {has}"
        return replace(verdict, status=VerifyStatus.WRONG_PLATFORM, weight=Weight.DIFFERS, reason=reason)
    if missing is None and platforms:
        reason = f"whether it has an image for {', '.join(platforms)} is not known: {LOCK_NAME} has no platforms of it"
        hub = "; on Docker Hub it counts as pulls to read them (`boltseal lock --count-pulls`)"
        hub = hub if image.reference.registry in COUNTS_PULLS else ""
        return replace(verdict, status=VerifyStatus.UNKNOWN, weight=Weight.UNKNOWN, reason=f"{reason}{hub}")
    return verdict


def _by_digest(image_ref: ImageReference, key: Reference, meanings: Meanings) -> Reference | None:
    """A pin whose tag does not mean it any more has to be asked for by itself."""
    meaning = meanings[key]
    if image_ref.pinned is None or key.digest is not None:
        return None
    if isinstance(meaning, Resolved) and meaning.digest == image_ref.pinned:
        return None
    return replace(key, tag=None, digest=image_ref.pinned)


def _is_local(image_ref: ImageReference, image: LockedImage | None) -> bool:
    return image_ref.build and (image is None or image.local_build)


def _judge(
    image_ref: ImageReference, has_lock: bool, known: Mapping[Reference, LockedImage], meanings: Meanings | None
) -> VerifyResult:
    # 1
    if image_ref.resolved is None:
        return VerifyResult(image_ref, VerifyStatus.UNKNOWN, Weight.UNKNOWN, image_ref.why or "it is no reference")
    key = key_in(image_ref.resolved, known)
    image = known.get(key)
    # 2
    if has_lock and image is None:
        return VerifyResult(
            image_ref, VerifyStatus.NOT_LOCKED, Weight.DIFFERS, f"it is not in {LOCK_NAME}; add it with `boltseal lock`"
        )
    if _is_local(image_ref, image):
        return VerifyResult(
            image_ref, VerifyStatus.LOCAL_BUILD, Weight.HOLDS, "it is built here, and no registry holds it"
        )
    if image is not None and image.local_build:
        return VerifyResult(
            image_ref,
            VerifyStatus.DISAGREES,
            Weight.DIFFERS,
            f"{LOCK_NAME} says that it is built here, and no service here builds it; run `boltseal lock --update`",
        )
    # 3
    pinned = image_ref.pinned
    if pinned is not None and image is not None and image.digest != pinned:
        return _other_pin(image_ref, image, pinned, meanings, key)
    # 4
    wanted = pinned or (None if image is None else image.digest)
    if wanted is None:
        return VerifyResult(
            image_ref,
            VerifyStatus.NOT_PINNED,
            Weight.DIFFERS,
            "neither a digest nor a lock says what it should mean; run `boltseal pin`",
        )
    # 5
    if meanings is None:
        if pinned is None:
            return VerifyResult(
                image_ref, VerifyStatus.NOT_PINNED, Weight.NOTE, f"only {LOCK_NAME} says what it should mean", wanted
            )
        return VerifyResult(image_ref, VerifyStatus.HOLDS, Weight.HOLDS, "", wanted)
    return _compared(image_ref, key, image, wanted, meanings)


def _other_pin(
    image_ref: ImageReference, image: LockedImage, pinned: Digest, meanings: Meanings | None, key: Reference
) -> VerifyResult:
    """A pin that is not what the lock says."""
    one_of = [each.platform for each in image.platforms if each.manifest == pinned]
    held = None if meanings is None else meanings.get(replace(key, tag=None, digest=pinned))
    plain = isinstance(held, Resolved) and held.media_type not in INDEX_TYPES and image.media_type in INDEX_TYPES
    if one_of and image_ref.platforms and all(can_run(asked, one_of[0]) for asked in image_ref.platforms):
        if isinstance(held, BoltsealError):
            return _not_told(image_ref, held, pinned)
        reason = f"it is pinned to the image for {one_of[0]} alone, which is what it asks for"
        return VerifyResult(image_ref, VerifyStatus.HOLDS, Weight.NOTE, reason, image.digest, pinned)
    if one_of or (plain and not image.platforms):
        which = f"only the image for {one_of[0] or 'one platform'}" if one_of else "an image for one platform"
        which += f" (it asks for {', '.join(image_ref.platforms)})" if image_ref.platforms and one_of else ""
        return _wrong_platform(image_ref, which, image.digest, pinned)
    return VerifyResult(
        image_ref,
        VerifyStatus.DISAGREES,
        Weight.DIFFERS,
        f"the file pins {pinned.short}, {LOCK_NAME} says {image.digest.short if image.digest else 'nothing'}; "
        "take the lock's with `boltseal pin --write`",
        image.digest,
        pinned,
    )


def _wrong_platform(image_ref: ImageReference, which: str, index: Digest | None, pinned: Digest) -> VerifyResult:
    reason = f"it is pinned to {which}, where the tag is for several; mend it with `boltseal pin --write`"
    return VerifyResult(image_ref, VerifyStatus.WRONG_PLATFORM, Weight.DIFFERS, reason, index, pinned)


def _compared(
    image_ref: ImageReference, key: Reference, image: LockedImage | None, wanted: Digest, meanings: Meanings
) -> VerifyResult:
    """6 and 7: what should be, and what the registry says."""
    meaning = meanings[key]
    if isinstance(meaning, Resolved) and meaning.digest == wanted:
        if image_ref.pinned is not None:
            return VerifyResult(image_ref, VerifyStatus.HOLDS, Weight.HOLDS, "", wanted, wanted)
        reason = "it means what was locked, but nothing in the file holds it there"
        return VerifyResult(image_ref, VerifyStatus.NOT_PINNED, Weight.NOTE, reason, wanted, wanted)
    # 6
    if isinstance(meaning, KeyDiffers):
        return _not_told(image_ref, meaning, wanted)
    if image_ref.pinned is not None and key.digest is None:
        held = meanings[replace(key, tag=None, digest=image_ref.pinned)]
        if isinstance(held, BoltsealError):
            return _not_told(image_ref, held, wanted)
        if isinstance(meaning, Resolved) and meaning.media_type in INDEX_TYPES and held.media_type not in INDEX_TYPES:
            return _wrong_platform(image_ref, "an image for one platform", meaning.digest, wanted)
    deleted = isinstance(meaning, RemoteNotFound) and image_ref.pinned is not None and key.digest is None
    if isinstance(meaning, BoltsealError) and not deleted:
        return _not_told(image_ref, meaning, wanted)
    # 7
    to = meaning.digest if isinstance(meaning, Resolved) else None
    return VerifyResult(image_ref, VerifyStatus.MOVED, Weight.DIFFERS, "", wanted, to, image)


def _not_told(image_ref: ImageReference, error: BoltsealError, wanted: Digest) -> VerifyResult:
    """Why a registry's answer is none: it is not to be believed, it has not got it, or it could not be asked."""
    if isinstance(error, KeyDiffers):
        return VerifyResult(image_ref, VerifyStatus.OTHER_KEY, Weight.DIFFERS, error.message, wanted)
    if isinstance(error, RemoteNotFound):
        return VerifyResult(
            image_ref, VerifyStatus.GONE, Weight.DIFFERS, f"it can't be had any more: {error.message}", wanted
        )
    return VerifyResult(image_ref, VerifyStatus.UNKNOWN, Weight.UNKNOWN, error.message, wanted)


def _moved(
    verdict: VerifyResult, known: Mapping[Reference, LockedImage], told: Moves, now_us: int, platforms: Sequence[str]
) -> VerifyResult:
    """A verdict of step 7 with what is known of the move, and so its weight; one of a tag that is gone with who did it."""
    if verdict.image_ref.resolved is None or verdict.status not in (VerifyStatus.MOVED, VerifyStatus.GONE):
        return verdict
    key = key_in(verdict.image_ref.resolved, known)
    if key.tag is None or verdict.from_ is None or key not in told:
        return verdict
    answer = told[key]
    if verdict.status is VerifyStatus.GONE:
        return _gone(verdict, answer, key.tag, now_us)
    pinned = verdict.image_ref.pinned is not None
    kept = "; the pin still holds" if pinned else "; what would be deployed is not what was locked"
    was = verdict.from_.short
    deed = f"was deleted; it meant {was}" if verdict.to is None else f"moved from {was} to {verdict.to.short}"
    if isinstance(answer, BoltsealError):
        reason = f"it {deed}; whether it may, its registry's ledger does not say now: {answer.message}"
        weight = (VerifyStatus.UNKNOWN, Weight.UNKNOWN) if pinned else (VerifyStatus.MOVED, Weight.DIFFERS)
        return replace(verdict, status=weight[0], weight=weight[1], reason=reason)
    if isinstance(answer, Proven):
        move = move_by_ledger(answer, key.tag, verdict.from_, verdict.to, verdict.image)
    else:
        move = move_by_name(key.tag, answer, verdict.to)
    since = move.since(now_us)
    if not since and verdict.image is not None:
        since = f", after {time_text(verdict.image.first_seen_us)} ({age(verdict.image.first_seen_us, now_us)} ago)"
    if verdict.change is not None:
        same = unchanged_platforms(verdict.image_ref.platforms or platforms, verdict.change)
        since += f"; {verdict.change}" + (f"; on {', '.join(same)} it is the same image" if same else "")
    fault = f"; its registry is not to be believed: {move.fault}" if move.fault else ""
    weight_now = Weight.NOTE if pinned and not move.forbidden else Weight.DIFFERS
    return replace(verdict, weight=weight_now, move=move, reason=f"{move.kind} {deed}{since}{kept}{fault}")


def _gone(
    verdict: VerifyResult, answer: Proven | LastEvent | BoltsealError | None, tag: Tag, now_us: int
) -> VerifyResult:
    if verdict.from_ is None or not isinstance(answer, Proven):
        return verdict
    move = move_by_ledger(answer, tag, verdict.from_, None, verdict.image)
    return replace(verdict, move=move, reason=f"{verdict.reason}{move.since(now_us)}")


def _weighed(verdict: VerifyResult, *, strict: bool) -> VerifyResult:
    return replace(verdict, weight=Weight.DIFFERS) if strict and verdict.weight is Weight.NOTE else verdict
