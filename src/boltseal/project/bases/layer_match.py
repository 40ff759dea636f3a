"""Which of the images that tags ever meant an image was built on, as its layers prove. Pure.

An image begins with the layers of its base. Of all that a tag *ever* meant, the one with the longest chain of layers that
the image begins with is the base: a base that lost its uppermost layers since is found by the chain that it had then,
though what its tag means today is the beginning of the image, too.

Several images may have the same layers and other settings. Of these count the ones whose history the image's own history
begins with, where there are such.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.bases.image_facts import ImageFacts


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a tag meant once, for one platform. `digest`: as the tag named it, of an index or of the image itself."""

    base: Reference
    digest: Digest
    facts: ImageFacts


def longest_match(image: ImageFacts, candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The candidates that the image was built on by its layers; several where these can't tell them apart. () for none."""
    fitting = [one for one in candidates if may_be_base(image, one.facts)]
    if not fitting:
        return ()
    most = max(len(one.facts.diff_ids) for one in fitting)
    best = [one for one in fitting if len(one.facts.diff_ids) == most]
    told = [one for one in best if image.history_begins_with(one.facts)]
    if told:
        longest_history = max(len(one.facts.history) for one in told)
        told = [one for one in told if len(one.facts.history) == longest_history]
    return tuple(told or best)


def may_be_base(image: ImageFacts, base: ImageFacts) -> bool:
    """Whether an image can have been built on another: it begins with its layers, and is not that image itself."""
    return image.config != base.config and image.begins_with(base)


def nearness(image: ImageFacts, base: ImageFacts) -> tuple[int, int]:
    """How near a base is to an image that it `may_be_base` for: by its layers, then by how much of the image's history is its own."""
    return len(base.diff_ids), len(base.history) if image.history_begins_with(base) else 0


def inherits_label(image: ImageFacts, name: str, base: ImageFacts) -> bool:
    """Whether a label of the image is its base's, word for word: then it speaks of the base's base."""
    return name in image.labels and image.labels[name] == base.labels.get(name)
