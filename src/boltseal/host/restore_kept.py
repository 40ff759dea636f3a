"""Bringing back an image that was kept: exactly that one, without asking anybody but the engine.

1. Which: the number in the list of what is kept of the name, or the beginning of a digest or ID; exactly one must fit.
2. It is here: under its ID, whatever its keep tag says by now.
3. It is that one: its ID is the registry's digest (containerd's store), or the engine or our own record of the pull
   says that this digest belongs to that ID. An ID is the digest of what it stands for: another image can't have it.
   With `scrub`, what lies on the disk too.
4. Alone: what the name means now is kept, so that one can go forward again. 5. The name is given back, and looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from boltseal.engines.inventory import EngineImage, ImageStoreKind
from boltseal.errors import Invalid, NotFound, Precondition, quote
from boltseal.host.engine_images import EngineHost
from boltseal.host.keeper import Keeper, KeptState, ListedImage
from boltseal.host.kept_images import KeptImage, Proof
from boltseal.host.pull import PulledImageMismatch, ScrubImage
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

MIN_HEX: Final = 6
_NUMBER: Final = re.compile(r"[0-9]{1,5}")


class KeptImageNotFound(NotFound):
    """Nothing is kept of that name, or not that."""


class KeptImageGone(NotFound):
    """It was kept, and somebody has taken it away."""


class KeptImageMismatch(Precondition):
    """What is there is not what was kept."""


class AmbiguousKeptImage(Invalid):
    """More than one kept image fits."""


@dataclass(frozen=True, slots=True)
class RestoredImage:
    """What a name means again. `changed`: False when it meant it already. `kept`: what it meant before.

    `proof`: what says that the image is what `digest` means; None where no digest of a registry is known.
    """

    name: Reference
    image: Digest
    digest: Digest | None
    proof: Proof | None
    changed: bool
    kept: KeptImage | None = None


async def restore(host: EngineHost, name: Reference, to: str = "", scrub: ScrubImage | None = None) -> RestoredImage:
    """Give a name back to an image that was kept. `to`: number or digest; "" for the newest that it does not mean now.

    KeptImageNotFound, KeptImageGone, KeptImageMismatch, Ambiguous; what `scrub` raises.
    """
    start = "" if _NUMBER.fullmatch(to) or not to else _start(to)
    keeper = Keeper(host)
    chosen = _chosen(await keeper.listed(name), name, to, start)  # 1
    image = await _there(host, chosen)  # 2
    proof = _prove(host, chosen, image)  # 3
    if scrub is not None:
        await scrub(image)  # takes its time, and an ID stays the same image: not while others wait
    async with host.alone():
        before = await host.image(name)
        if before is not None and before.id == image.id:
            return RestoredImage(name, image.id, chosen.kept.digest, proof, changed=False)
        kept = None if before is None else await keeper.keep(name, before)  # 4
        await host.engine.tag(image.id, name)  # 5
        now = await host.engine.image(name)
        if now.id != image.id:
            raise PulledImageMismatch(
                f"{name.familiar()} was given to image {image.id.short}, and means {now.id.short} now"
            )
    return RestoredImage(name, image.id, chosen.kept.digest, proof, changed=True, kept=kept)


def _chosen(listed: list[ListedImage], name: Reference, to: str, start: str) -> ListedImage:
    """Step 1. `start`: how a digest begins, "" where `to` is a number or nothing."""
    if not listed:
        raise KeptImageNotFound(f"nothing is kept of {name.familiar()} on this engine; what is: `boltseal kept`")
    if not to:
        fits = [each for each in listed if not each.current][:1]
    elif not start:
        fits = [each for each in listed if each.number == int(to)]
    else:
        fits = [each for each in listed if any(str(digest).startswith(start) for digest in _digests(each.kept))]
    if not fits:
        raise KeptImageNotFound(
            f"{name.familiar()}: {quote(to) if to else 'nothing else'} is not kept; what is: `boltseal kept`"
        )
    if len({each.kept.image for each in fits}) > 1:
        raise AmbiguousKeptImage(
            f"{quote(to)} fits {len(fits)} kept images of {name.familiar()}; write more of the digest"
        )
    return fits[0]


def _start(text: str) -> str:
    start = text if text.startswith("sha") else f"sha256:{text}"
    if re.fullmatch(rf"sha(256|512):[0-9a-f]{{{MIN_HEX},128}}", start) is None:
        raise AmbiguousKeptImage(f"{quote(text)} is neither a number nor at least {MIN_HEX} digits of a digest")
    return start


def _digests(kept: KeptImage) -> list[Digest]:
    return [kept.image] if kept.digest is None else [kept.digest, kept.image]


async def _there(host: EngineHost, chosen: ListedImage) -> EngineImage:
    kept = chosen.kept
    found = await host.image(kept.image)
    if found is not None:
        return found
    what = f"{kept.name.familiar()} of {(kept.digest or kept.image).short}"
    if chosen.standing is KeptState.OTHER:
        raise KeptImageMismatch(
            f"{what}: {kept.keep_name.familiar()} was given to another image, and the kept one is gone"
        )
    copy = "" if kept.copy is None else f"; a copy lies at {kept.copy}"
    digest = (
        ""
        if kept.digest is None
        else f"; `boltseal pull {kept.name.name}@{kept.digest}` brings it, where the registry has it"
    )
    raise KeptImageGone(f"{what} was taken from this engine, by `docker image prune -a` or by hand{copy or digest}")


def _prove(host: EngineHost, chosen: ListedImage, image: EngineImage) -> Proof | None:
    """Step 3. KeptImageMismatch."""
    kept = chosen.kept
    if image.id != kept.image:
        raise KeptImageMismatch(f"the engine answers {image.id} where {kept.image} was asked for: nothing was changed")
    if not chosen.recorded and chosen.standing is KeptState.OTHER:
        raise KeptImageMismatch(
            f"{kept.keep_name.familiar()} stands on image {image.id.short}, and nothing says that it is the one that "
            "the tag speaks of: nothing was changed"
        )
    if kept.digest is None:
        return None
    if host.store is ImageStoreKind.CONTAINERD:
        if kept.digest != image.id:
            raise KeptImageMismatch(f"image {image.id.short} is not {kept.digest.short}: nothing was changed")
        return Proof.IDENTICAL
    known = [each.proof for each in host.kept.came(host.key, image.id) if each.digest == kept.digest]
    return known[0] if known else Proof.ENGINE
