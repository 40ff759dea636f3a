"""The order of rebuilds: bases before the images that are built on them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def bases_first(images: Iterable[T], name: Callable[[T], str], base: Callable[[T], str]) -> list[T]:
    """Sort images so that none comes before its base, and keep the given order otherwise.

    `name` and `base`: the names of an image and of its base, "" for none. Images that are based on each other in a
    cycle (see `based_on_themselves`) keep the given order.
    """
    listed = list(images)
    by_name: dict[str, list[T]] = {}
    for image in listed:
        by_name.setdefault(name(image), []).append(image)
    ordered: list[T] = []
    placed: set[int] = set()
    for image in listed:
        path = [image]
        while True:  # down to the lowest base in the list, then back up
            bases = [one for one in by_name.get(base(path[-1]), ()) if id(one) not in placed and one not in path]
            if id(path[-1]) in placed or not bases:
                break
            path.append(bases[0])
        for one in reversed(path):
            if id(one) not in placed:
                placed.add(id(one))
                ordered.append(one)
    return ordered


def based_on_themselves(edges: Iterable[tuple[str, str]]) -> set[str]:
    """Return the images that are based on themselves, directly or through others, and those between two such cycles.

    `edges`: an image and its base. An image built `FROM` the tag that it is pushed to, or with such a label, moves its
    own base with each rebuild.
    """
    pairs = set(edges)
    for _ in ("remove images with no base left", "remove bases with no image left"):
        pairs = {(base, image) for image, base in _without_ends(pairs)}
    return {image for image, _ in pairs}


def _without_ends(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the pairs without those from which a pair without a successor can be reached."""
    images_on: dict[str, list[str]] = {}
    base_count: Counter[str] = Counter()
    for image, base in pairs:
        images_on.setdefault(base, []).append(image)
        base_count[image] += 1
    ends = [base for base in images_on if base not in base_count]
    removed = set(ends)
    while ends:
        for image in images_on.get(ends.pop(), ()):
            base_count[image] -= 1
            if not base_count[image]:
                removed.add(image)
                ends.append(image)
    return {(image, base) for image, base in pairs if image not in removed and base not in removed}
