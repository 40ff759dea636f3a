"""In which order images are built again: what another one stands on comes first. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def bases_first(images: Iterable[T], name: Callable[[T], str], base: Callable[[T], str]) -> list[T]:
    """The images in an order in which no image comes before one that it stands on, else as they came.

    `name` and `base`: of an image and of what it stands on, "" for nothing. Images that stand on each other in a circle
    (`circles`) are left in the order in which they came.
    """
    listed = list(images)
    by_name: dict[str, list[T]] = {}
    for image in listed:
        by_name.setdefault(name(image), []).append(image)
    ordered: list[T] = []
    begun: set[int] = set()
    for image in listed:
        path = [image]
        while True:  # down to the lowest base that is among them, then back up
            below = [one for one in by_name.get(base(path[-1]), ()) if id(one) not in begun and one not in path]
            if id(path[-1]) in begun or not below:
                break
            path.append(below[0])
        for one in reversed(path):
            if id(one) not in begun:
                begun.add(id(one))
                ordered.append(one)
    return ordered


def circles(stands_on: Iterable[tuple[str, str]]) -> set[str]:
    """The images that stand on themselves, at once or over others, and what lies between two such circles.

    `stands_on`: an image, and what it stands on. Whoever builds `FROM` the very tag that they push, or is said to by a label,
    moves with each rebuild what they stand on.
    """
    pairs = set(stands_on)
    for _ in ("what stands on nothing that is left", "what nothing that is left stands on"):
        pairs = {(base, image) for image, base in _without_ends(pairs)}
    return {image for image, _ in pairs}


def _without_ends(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The pairs without those that lead, over others or at once, to where no pair begins."""
    above: dict[str, list[str]] = {}
    ways: Counter[str] = Counter()
    for image, base in pairs:
        above.setdefault(base, []).append(image)
        ways[image] += 1
    ends = [base for base in above if base not in ways]
    gone = set(ends)
    while ends:
        for image in above.get(ends.pop(), ()):
            ways[image] -= 1
            if not ways[image]:
                gone.add(image)
                ends.append(image)
    return {(image, base) for image, base in pairs if image not in gone and base not in gone}
