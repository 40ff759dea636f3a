"""Find the image that another image was built on, as its layers prove. Pure.

An image begins with the layers of its base. Of all images that a tag *ever* resolved to, the base is the one with the
longest list of layers with which the image begins. So a base that has lost its top layers since is still found,
although the image also begins with the layers of the tag's current image.

Several images may have the same layers but other settings. Then those count whose history begins the image's own
history, if there are any.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.bases.image_facts import ImageFacts


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that a tag resolves or resolved to, for one platform. `digest`: of the index or of the image itself."""

    base: Reference
    digest: Digest
    facts: ImageFacts


def longest_match(image: ImageFacts, candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Return the candidates that are the base by their layers; several if layers can't distinguish them; () if none."""
    fitting = [candidate for candidate in candidates if may_be_base(image, candidate.facts)]
    if not fitting:
        return ()
    most = max(len(candidate.facts.diff_ids) for candidate in fitting)
    best = [candidate for candidate in fitting if len(candidate.facts.diff_ids) == most]
    by_history = [candidate for candidate in best if image.history_begins_with(candidate.facts)]
    if by_history:
        longest_history = max(len(candidate.facts.history) for candidate in by_history)
        by_history = [candidate for candidate in by_history if len(candidate.facts.history) == longest_history]
    return tuple(by_history or best)


def may_be_base(image: ImageFacts, base: ImageFacts) -> bool:
    """Return whether an image can have been built on another: it begins with its layers, and is another image.

    With equal layers, an equal history shows no build of either one, and a longer history shows that the other one was built on it. Of a
    deleted image only the length of its history may be known.
    """
    adds = (
        image.diff_ids != base.diff_ids
        or not image.history
        or (len(base.history) <= len(image.history) and base.history != image.history)
    )
    return image.config != base.config and image.begins_with(base) and adds


def nearness(image: ImageFacts, base: ImageFacts) -> tuple[int, int]:
    """Return how close a possible base is: by its layers, then by how much of the image's history is the base's."""
    return len(base.diff_ids), len(base.history) if image.history_begins_with(base) else 0


def inherits_label(image: ImageFacts, name: str, base: ImageFacts) -> bool:
    """Return whether the image and its base have an equal label: then the label names the base's base."""
    return name in image.labels and image.labels[name] == base.labels.get(name)
