"""The bases of an image's base: an image is outdated when any of them moved. Pure.

    app <- rt:1 <- os:1

If `os:1` moved and `rt:1` was not rebuilt, `app` still resolves to the current `rt:1`, but that is outdated itself. A
rebuild of `app` alone would change nothing: `rt:1` must be rebuilt first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from boltseal.oci.reference import Reference
from boltseal.project.bases.freshness import BaseStatus, BaseVerdict
from boltseal.project.bases.index_children import platform_of, same_platform

MAX_ANCESTORS: Final = 20
Siblings = dict[tuple[Reference, str], str]
"""By image and platform: why an image that may be a base is not current, "" if it is."""
Verdicts = Mapping[str, BaseVerdict]
"""The verdicts of one image, by platform; "" for all platforms."""
Images = Mapping[Reference, Verdicts]
"""The verdicts of images, by tag and digest."""


def with_ancestors(verdict: BaseVerdict, images: Images, checked: Siblings | None = None) -> BaseVerdict:
    """Add the verdicts of the bases of an image's base, and judge the image by all of them.

    `images`: the verdicts of other images, by tag and digest: a run may have several images of a tag, given by digest.
    `checked`: results of `_doubtful_sibling`.
    """
    checked = {} if checked is None else checked
    verdict = _with_ancestors(verdict, images)
    if verdict.status is not BaseStatus.CURRENT:
        return verdict
    for each in (verdict, *verdict.ancestors):
        for sibling in each.siblings:
            doubt = _doubtful_sibling(sibling, verdict.platform, images, checked)
            if doubt:
                reason = f"its base has not moved, but it may be based on {sibling.by_tag} as well: {doubt}"
                return replace(verdict, status=BaseStatus.UNKNOWN, reason=reason)
    return verdict


def _doubtful_sibling(sibling: Reference, platform: str, images: Images, checked: Siblings) -> str:
    """Return why an image of the own repository that may be a base is not current itself; "" if it is."""
    key = sibling, platform
    if key not in checked:
        checked[key] = ""  # in a circle of images the others decide
        if sibling in images:
            verdict = _of_platform(images[sibling], platform)
            final = with_ancestors(verdict, images, checked)
            doubtful = final.status is BaseStatus.OUTDATED or (final.status is BaseStatus.UNKNOWN and final.is_open)
            checked[key] = final.reason if doubtful else ""
    return checked[key]


def _of_platform(verdicts: Verdicts, platform: str) -> BaseVerdict:
    """Return the verdict of an image for a platform. One that was not checked for it is not known to be current."""
    if platform in verdicts:
        return verdicts[platform]
    if len(verdicts) == 1:
        return next(iter(verdicts.values()))
    wanted = platform_of(platform)
    for name, verdict in verdicts.items():
        if same_platform(platform_of(name), wanted):
            return verdict
    return BaseVerdict(BaseStatus.UNKNOWN, f"it was not checked for {platform or 'any platform'}")


def _with_ancestors(verdict: BaseVerdict, images: Images) -> BaseVerdict:
    ancestors = _ancestors(verdict, images)
    if not ancestors:
        return verdict
    verdict = replace(verdict, ancestors=tuple(ancestors))
    if verdict.status is not BaseStatus.CURRENT:
        return verdict
    names = [str(each.claim.base) for each in (verdict, *ancestors) if each.claim is not None]
    for at, ancestor in enumerate(ancestors):
        if ancestor.status is BaseStatus.OUTDATED:
            cause = "has moved" if ancestor.newer is None else "has a newer revision"
            reason = (
                f"its base has not moved, but is outdated itself, because {names[at + 1]} {cause}: {ancestor.reason}"
            )
            return replace(verdict, status=BaseStatus.OUTDATED, reason=reason, rebuild_first=tuple(names[at::-1]))
        if ancestor.status is BaseStatus.UNKNOWN and ancestor.is_open:
            reason = f"its base has not moved, but it is not known whether {names[at]} is outdated: {ancestor.reason}"
            return replace(verdict, status=BaseStatus.UNKNOWN, reason=reason)
    last = ancestors[-1].claim
    if len(ancestors) == MAX_ANCESTORS and last is not None and last.base is not None:
        reason = f"its base has not moved, but it has more than {MAX_ANCESTORS} ancestors, and only those were checked"
        return replace(verdict, status=BaseStatus.UNKNOWN, reason=reason)
    return verdict


def _ancestors(verdict: BaseVerdict, images: Images) -> Sequence[BaseVerdict]:
    """Return the verdicts of the base, of its base, and so on, for the platform of the image."""
    found: list[BaseVerdict] = []
    seen: set[Reference] = set()
    current = verdict
    while current.claim is not None and current.claim.base is not None and len(found) < MAX_ANCESTORS:
        base = current.claim.base.by_tag
        verdicts = images.get(replace(base, digest=current.now))
        if base in seen or verdicts is None:
            break
        seen.add(base)
        current = _of_platform(verdicts, verdict.platform)
        found.append(current)
    return found
