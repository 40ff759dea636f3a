"""In which order images are built again: what another one stands on comes first. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def bases_first(images: Iterable[T], name: Callable[[T], str], base: Callable[[T], str]) -> list[T]:
    """The images in an order in which no image comes before one that it stands on, else as they came.

    `name` and `base`: of an image and of what it stands on, "" for nothing. Images that stand on each other in a circle,
    which no build makes, are left in the order in which they came.
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
