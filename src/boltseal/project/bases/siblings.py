"""Images of an image's own repository that may be its base: they are doubt, not bases. Pure.

A repository may have a base beside the images on it (`app:base`, `app:1.4.2`). But versions of one image also begin with each
other's layers, if a Dockerfile only got further steps. Layers do not distinguish the two. So another image of the repository is
never reported as the base. But an image is not current if it begins with all of the layers and history of one that a tag of
its repository resolves to no longer, or with those of one that is outdated itself.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import replace
from typing import Final, NamedTuple

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.bases.image_facts import ImageFacts
from boltseal.project.bases.layer_match import Candidate, may_be_base, nearness

MAX_SIBLINGS: Final = 4
"""Maximum number of tags that are reported."""


class ImageOfTag(NamedTuple):
    """An image that a tag resolves or resolved to, by its config."""

    base: Reference
    config: Digest


class Siblings(NamedTuple):
    """Images of the own repository that may be closer bases. `moved`: a tag that resolves to one no longer, None without one.

    `present`: by tag and digest, those to which a tag still resolves, the closest first.
    """

    moved: Reference | None
    present: tuple[Reference, ...]

    @property
    def doubt(self) -> str:
        """Why the image may be based on a former image of its own repository; "" if it is not."""
        if self.moved is None:
            return ""
        return f"it also begins with the layers of an image that {self.moved} resolves to no longer"


def is_plausible(image: ImageFacts, candidate: Candidate) -> bool:
    """Return whether an image may have been built on another one, by its layers and, if there is one, by its history."""
    history = candidate.facts.history
    return may_be_base(image, candidate.facts) and (not history or image.history_begins_with(candidate.facts))


def closer_siblings(
    image: ImageFacts, base: ImageFacts | None, siblings: Iterable[Candidate], current: Container[ImageOfTag]
) -> Siblings:
    """Return the siblings that are at least as close to an image as its base; all of them if that is unknown.

    `current`: the images that tags resolve to now.
    """
    closer = [each for each in siblings if base is None or nearness(image, each.facts) >= nearness(image, base)]
    moved = [each.base for each in closer if ImageOfTag(each.base, each.facts.config) not in current]
    present = dict.fromkeys(replace(each.base, digest=each.digest) for each in closer if each.base not in moved)
    return Siblings(moved[0] if moved else None, tuple(present)[:MAX_SIBLINGS])
