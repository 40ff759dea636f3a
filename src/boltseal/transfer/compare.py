"""Compare two images: how far they are equal, and what differs.

The first level that applies, from the strongest to the weakest:

1. Same manifest: all bytes are equal, and signatures of one image are valid for the other.
2. Same config: the image ID and, by the config's diff_ids, the files are equal. Only the manifest differs: layers compressed
   again, other media types, other annotations. A signature of one manifest does not cover the other. Layers are not unpacked
   here; a client that pulls the image finds layers that do not match the config.
3. Same files: the diff_ids and the platform are equal, the configs differ (labels, command, time of the build).
4. Different images. If one equals a single platform of the other, which is an index, the reasons state that.

Indexes are compared platform by platform. `read_side` fetches the documents; `compare` is a pure function of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.mediatype import MANIFEST_TYPES
from boltseal.oci.platform import Platform
from boltseal.transfer.image_config import ImageConfig, image_config
from boltseal.transfer.protocols import ImageSource

_UNKNOWN: Final = "unknown/unknown"
_FORMATTED: Final = "the manifests have the same values and are formatted differently"


class Sameness(StrEnum):
    """How far two images are equal."""

    MANIFEST = "same-manifest"
    CONFIG = "same-config"
    FILES = "same-files"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two images: digest, manifest, config, and for an index the children by platform."""

    digest: Digest
    manifest: Manifest
    config: ImageConfig | None
    children: Mapping[str, Side]


@dataclass(frozen=True, slots=True)
class Compared:
    """The result of a comparison. `reasons`: a sentence for each difference."""

    sameness: Sameness
    reasons: tuple[str, ...]


async def read_side(source: ImageSource, digest: Digest) -> Side:
    """Fetch the documents of one image, for `compare`."""
    manifest = await source.manifest(digest)
    children = {}
    for child in manifest.manifests:
        platform = str(child.platform or Platform())
        if child.media_type in MANIFEST_TYPES and platform != _UNKNOWN:
            children[platform or str(child.digest)] = await read_side(source, child.digest)
    return Side(digest, manifest, await image_config(source, manifest), children)


def compare(a: Side, b: Side) -> Compared:
    """Compare two images. The reasons call them A and B."""
    if a.digest == b.digest:
        return Compared(Sameness.MANIFEST, ())
    if a.manifest.is_index and b.manifest.is_index:
        return _indexes(a, b)
    if a.manifest.is_index or b.manifest.is_index:
        return _index_and_image(a, b)
    return _images(a, b)


def _images(a: Side, b: Side) -> Compared:
    if a.config is None or b.config is None:
        return Compared(
            Sameness.DIFFERENT, ("at least one of them is not a container image, and their manifests differ",)
        )
    for letter, manifest, config in (("A", a.manifest, a.config), ("B", b.manifest, b.config)):
        if len(manifest.layers) != len(config.diff_ids):
            counts = f"{len(manifest.layers)} layers, but its config has {len(config.diff_ids)} diff_ids"
            return Compared(Sameness.DIFFERENT, (f"{letter} is not a valid image: it has {counts}",))
    if a.config.raw == b.config.raw:
        return Compared(Sameness.CONFIG, tuple(_manifest_differences(a.manifest, b.manifest) or [_FORMATTED]))
    if a.config.platform != b.config.platform:
        reason = f"other platform: A is for {a.config.platform or 'none'}, B for {b.config.platform or 'none'}"
        return Compared(Sameness.DIFFERENT, (reason,))
    differences = tuple(_config_differences(a.config, b.config))
    if a.config.diff_ids == b.config.diff_ids:
        return Compared(Sameness.FILES, (*differences, *_manifest_differences(a.manifest, b.manifest)))
    return Compared(Sameness.DIFFERENT, (_layers(a.config.diff_ids, b.config.diff_ids), *differences))


def _indexes(a: Side, b: Side) -> Compared:
    reasons, worst = [], Sameness.MANIFEST
    for only, there, missing in ((a, "A", b), (b, "B", a)):
        lacking = [platform for platform in only.children if platform not in missing.children]
        if lacking:
            reasons.append(f"only {there} has {', '.join(lacking)}")
            worst = Sameness.DIFFERENT
    order = list(Sameness)
    for platform, side in a.children.items():
        other = b.children.get(platform)
        if other is not None:
            found = compare(side, other)
            worst = max(worst, found.sameness, key=order.index)
            reasons += [f"{platform}: {reason}" for reason in found.reasons]
    if worst is Sameness.MANIFEST:  # all platforms are equal, so only the indexes differ
        reasons.append(
            "the same images for every platform; the indexes differ in media type, annotations or attestations"
        )
        worst = Sameness.CONFIG if a.children else Sameness.DIFFERENT
    return Compared(worst, tuple(reasons))


def _index_and_image(a: Side, b: Side) -> Compared:
    index, image, one, other = (a, b, "B", "A") if a.manifest.is_index else (b, a, "A", "B")
    for platform, child in index.children.items():
        found = compare(child, image)
        if found.sameness in (Sameness.MANIFEST, Sameness.CONFIG):
            how = "is" if found.sameness is Sameness.MANIFEST else "has the config of"
            reason = f"{one} {how} the image for {platform} of {other}, which has {len(index.children)} platforms"
            return Compared(Sameness.DIFFERENT, (reason, *found.reasons))
    platforms = ", ".join(index.children) or "none"
    return Compared(
        Sameness.DIFFERENT, (f"{other} is an index of images for {platforms}; {one} is one image, and none of them",)
    )


def _manifest_differences(a: Manifest, b: Manifest) -> list[str]:
    """Return the differences between the values of two manifests, except their configs."""
    reasons = []
    if a.media_type != b.media_type:
        reasons.append(f"other media type: A is {a.media_type}, B is {b.media_type}")
    if [layer.digest for layer in a.layers] != [layer.digest for layer in b.layers]:
        changed = sum(left.digest != right.digest for left, right in zip(a.layers, b.layers, strict=False))
        size_a, size_b = (sum(layer.size for layer in each.layers) for each in (a, b))
        reasons.append(
            f"{changed} of {len(a.layers)} layers compressed again: A has {size_a} bytes, B {size_b}; "
            "their content was not compared with the config"
        )
    elif [layer.media_type for layer in a.layers] != [layer.media_type for layer in b.layers]:
        reasons.append("the layers are the same bytes under other media types")
    if a.annotations != b.annotations:
        reasons.append("the manifests' annotations differ")
    if a.subject != b.subject:
        reasons.append("they refer to different subjects")
    return reasons


def _config_differences(a: ImageConfig, b: ImageConfig) -> list[str]:
    """Return the differences between two configs except the layers."""
    reasons = []
    if a.created != b.created:
        reasons.append(f"created: A {a.created or 'unknown'}, B {b.created or 'unknown'}")
    labels = sorted(name for name in {*a.labels, *b.labels} if a.labels.get(name) != b.labels.get(name))
    if labels:
        reasons.append(f"labels differ: {', '.join(labels)}")
    if a.command != b.command:
        reasons.append("they run another command")
    if a.user != b.user:
        reasons.append(f"user: A {a.user or 'root'}, B {b.user or 'root'}")
    return reasons or ["the configs differ (history, environment, or how they are written)"]


def _layers(a: tuple[str, ...], b: tuple[str, ...]) -> str:
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    return f"layers differ: {same} in common from the bottom up; then A has {len(a) - same} more, B {len(b) - same}"
