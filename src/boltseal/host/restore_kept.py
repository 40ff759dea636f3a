"""Restores a kept image: exactly that one, asking only the engine.

1. Select it by its number in the list of kept images of the name, or by a prefix of its digest or ID; exactly one must fit.
   Without a selection, if the files of a kept image of the name were changed, step 3 has to verify the bytes: they may share layers.
2. Find it on the engine by its ID, whatever its keep tag refers to by now.
3. Verify it: its ID is the registry's digest (containerd's store), or the engine's or boltseal's record of the pull has this
   digest for that ID. An ID is a digest, so no other image can have it. With `scrub`, also verify the bytes on disk.
4. Under `EngineHost.tagging_lock`, keep the image that the name resolves to now.
5. Tag the restored image, and check the tag.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from boltseal.engines.inventory import EngineImage, ImageStoreKind
from boltseal.errors import Invalid, Mismatch, NotFound, Unavailable, quote
from boltseal.host.changed_images import EVIDENCE
from boltseal.host.engine_images import EngineHost
from boltseal.host.keeper import Keeper, KeptState, ListedImage
from boltseal.host.kept_images import KeptImage, Proof
from boltseal.host.pull import PulledImageMismatch, ScrubImage
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.digest_prefix import MIN_HEX, DigestPrefix
from boltseal.oci.reference import Reference

_NUMBER: Final = re.compile(r"[0-9]{1,5}")


class KeptImageNotFound(NotFound):
    """No image is kept of that name, or not the selected one."""


class KeptImageGone(NotFound):
    """A kept image was removed from the engine."""


class KeptImageMismatch(Mismatch):
    """The image on the engine is not the kept one."""


class KeptImageUnverified(Unavailable):
    """An image whose files were not verified, beside one whose files were changed on this disk."""


class AmbiguousKeptImage(Invalid):
    """More than one kept image fits."""


@dataclass(frozen=True, slots=True)
class RestoredImage:
    """The image that a name resolves to again.

    `changed`: False if the name already resolved to it. `kept`: the image that the name resolved to before. `proof`: why
    the image is that of `digest`; None without a registry digest.
    """

    name: Reference
    image: Digest
    digest: Digest | None
    proof: Proof | None
    changed: bool
    kept: KeptImage | None = None


async def restore(host: EngineHost, name: Reference, to: str = "", scrub: ScrubImage | None = None) -> RestoredImage:
    """Tag a kept image with its former name. `to`: number or digest; "" for the newest that the name does not resolve to now,
    without images that `pull --replace` kept because their files were changed.

    Raises: KeptImageNotFound, KeptImageGone, KeptImageMismatch, AmbiguousKeptImage; what `scrub` raises. KeptImageUnverified: no
    `scrub`, no `to`, and the files of another kept image of the name were changed.
    """
    prefix = None if _NUMBER.fullmatch(to) or not to else _digest_prefix(to)
    keeper = Keeper(host)
    listed = await keeper.list_kept(name)
    chosen = _select(listed, name, to, prefix)  # 1
    if scrub is None and not to and any(EVIDENCE in each.held for each in listed):
        raise KeptImageUnverified(
            f"the files of an image of {name.familiar()} were changed on this disk; verify the kept one before it gets the name "
            f"(--scrub, as root), or choose one (--to); list them with `boltseal keep ls`"
        )
    image = await _find(host, chosen)  # 2
    proof = _prove(host, chosen, image)  # 3
    if scrub is not None:
        await scrub(image)  # slow, so outside the lock; an ID always refers to the same image
    async with host.tagging_lock():
        before = await host.image(name)
        if before is not None and before.id == image.id:
            return RestoredImage(name, image.id, chosen.kept.digest, proof, changed=False)
        kept = None if before is None else await keeper.keep(name, before)  # 4
        await host.engine.tag(image.id, name)  # 5
        now = await host.engine.image(name)
        if now.id != image.id:
            raise PulledImageMismatch(
                f"{name.familiar()} was changed by another program (got {now.id.short}, expected {image.id.short}); retry"
            )
    return RestoredImage(name, image.id, chosen.kept.digest, proof, changed=True, kept=kept)


def _select(listed: list[ListedImage], name: Reference, to: str, prefix: DigestPrefix | None) -> ListedImage:
    """Do step 1. `prefix`: of a digest, None if `to` is a number or empty."""
    if not listed:
        raise KeptImageNotFound(
            f"no image of {name.familiar()} is kept on this engine; list kept images with `boltseal keep ls`"
        )
    if not to:
        fits = [each for each in listed if not each.current and EVIDENCE not in each.held][:1]
    elif prefix is None:
        fits = [each for each in listed if each.number == int(to)]
    else:
        fits = [each for each in listed if any(map(prefix.fits, _digests(each.kept)))]
    if not fits:
        missing = f"{quote(to)} is not kept" if to else "no image but the present one is kept"
        if not to and any(EVIDENCE in each.held for each in listed):
            missing += " (images kept as evidence are not counted: their files were changed)"
        raise KeptImageNotFound(f"{name.familiar()}: {missing}; list kept images with `boltseal keep ls`")
    if len({each.kept.image for each in fits}) > 1:
        named = ", ".join(dict.fromkeys(str(each.kept.digest or each.kept.image) for each in fits))
        raise AmbiguousKeptImage(
            f"{quote(to)} fits {len(fits)} kept images of {name.familiar()}; write more digits of one of {named}"
        )
    return fits[0]


def _digest_prefix(text: str) -> DigestPrefix:
    try:
        return DigestPrefix.parse(text)
    except DigestInvalid as error:
        raise AmbiguousKeptImage(
            f"invalid selection {quote(text)} (expected a number or at least {MIN_HEX} hex digits)"
        ) from error


def _digests(kept: KeptImage) -> list[Digest]:
    return [kept.image] if kept.digest is None else [kept.digest, kept.image]


async def _find(host: EngineHost, chosen: ListedImage) -> EngineImage:
    kept = chosen.kept
    found = await host.image(kept.image)
    if found is not None:
        return found
    what = f"{kept.name.familiar()} of {(kept.digest or kept.image).short}"
    if chosen.standing is KeptState.OTHER:
        raise KeptImageMismatch(f"{what}: the kept image is gone, and {kept.keep_name.familiar()} is on another image")
    copy = "" if kept.copy is None else f"; there is a copy at {kept.copy}"
    digest = "" if kept.digest is None else f"; try `boltseal pull {kept.name.name}@{kept.digest}`"
    raise KeptImageGone(f"{what} was removed from this engine, by `docker image prune -a` or by hand{copy or digest}")


def _prove(host: EngineHost, chosen: ListedImage, image: EngineImage) -> Proof | None:
    """Check that the engine's image is the kept one: step 3.

    Raises: KeptImageMismatch.
    """
    kept = chosen.kept
    if image.id != kept.image:
        raise KeptImageMismatch(
            f"wrong image from the engine (got {image.id}, expected {kept.image}): nothing was changed"
        )
    if not chosen.recorded and chosen.standing is KeptState.OTHER:
        raise KeptImageMismatch(
            f"{kept.keep_name.familiar()} is on image {image.id.short}, which is not known to be the kept one: nothing was "
            "changed"
        )
    if kept.digest is None:
        return None
    known = [each.proof for each in host.kept.pulls(host.key, image.id) if each.digest == kept.digest]
    if host.store is ImageStoreKind.CONTAINERD and Proof.COPY not in known:
        if kept.digest != image.id:
            raise KeptImageMismatch(f"image {image.id.short} is not {kept.digest.short}: nothing was changed")
        return Proof.IDENTICAL
    return known[0] if known else Proof.ENGINE
