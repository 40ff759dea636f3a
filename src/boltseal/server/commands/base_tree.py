"""The family tree of images: which are built on which base, by what they state, and which bases moved since.

What an image states never changes, so it is kept in memory by repository and digest. Reading it takes the manifest and the config, so
one page reads a limited number of images that are not in memory; the next load of the page reads others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from boltseal.oci.reference import Repository
from boltseal.server.commands.base_states import BaseState, BaseStates, BaseStatus

MAX_KEPT: Final = 50_000
"""Images of which it is kept what they state."""


class ImageAt(NamedTuple):
    """An image of a repository."""

    repository: str
    digest: str


@dataclass(frozen=True, slots=True)
class BasedImage:
    """An image and its tags, and the base that it states. `base` None: it states none."""

    at: ImageAt
    tags: tuple[str, ...]
    base: BaseState | None


@dataclass(slots=True)
class BaseNode:
    """A base image: the ones that are built on it, bases among them."""

    base: BaseState
    bases: list[BaseNode] = field(default_factory=list)
    images: list[BasedImage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BaseTree:
    """The tree of some images. `without`: images that state no base. `unread`: those that were not looked at yet, or are not stored wholly."""

    roots: tuple[BaseNode, ...]
    images: tuple[BasedImage, ...]
    without: int
    unread: int

    @property
    def outdated(self) -> tuple[BasedImage, ...]:
        """The images whose base is outdated."""
        return tuple(each for each in self.images if each.base is not None and each.base.status is BaseStatus.OUTDATED)


class StatedBases:
    """What images of one store state as their bases. One per process."""

    def __init__(self) -> None:
        self._kept: OrderedDict[ImageAt, tuple[str, str]] = OrderedDict()

    async def of(self, states: BaseStates, images: Iterable[ImageAt], most: int) -> Mapping[ImageAt, tuple[str, str]]:
        """Return name and digest of the bases that images state, each "" if missing. Images that are not looked at are left out.

        `most`: how many images may be read that are not in memory.
        """
        found: dict[ImageAt, tuple[str, str]] = {}
        for each in images:
            stated = self._kept.get(each)
            if stated is None and most > 0:
                most -= 1
                stated = await states.read_stated(Repository(each.repository), each.digest)
                if stated is not None:  # another one may be stored wholly later, such as a mirrored image
                    self._kept[each] = stated
                    while len(self._kept) > MAX_KEPT:
                        self._kept.popitem(last=False)
            if stated is not None:
                found[each] = stated
        return found


async def base_tree(
    states: BaseStates, stated: StatedBases, tags: Mapping[ImageAt, Sequence[str]], most: int
) -> BaseTree:
    """Return the tree of images with their tags. `most`: as of `StatedBases.of`."""
    known = await stated.of(states, tags, most)
    nodes: dict[tuple[str, ...], BaseNode] = {}
    roots: list[BaseNode] = []
    images: list[BasedImage] = []
    for at, base in known.items():
        if not any(base):
            continue
        chain = await states.chain(base, "")
        image = BasedImage(at, tuple(sorted(tags[at])), chain[0])
        images.append(image)
        path: tuple[str, ...] = ()
        below = roots
        node: BaseNode | None = None
        for state in reversed(chain):
            path = (*path, state.name, state.digest)
            node = nodes.get(path)
            if node is None:
                node = nodes[path] = BaseNode(state)
                below.append(node)
            below = node.bases
        if node is not None:
            node.images.append(image)
    without = sum(not any(base) for base in known.values())
    return BaseTree(_sorted(roots), tuple(images), without, len(tags) - len(known))


def _sorted(nodes: list[BaseNode]) -> tuple[BaseNode, ...]:
    """Return the nodes with the outdated ones first, and sort everything below them."""
    for node in nodes:
        node.bases = list(_sorted(node.bases))
        node.images.sort(key=lambda each: (each.at.repository, each.tags))
    return tuple(
        sorted(nodes, key=lambda each: (each.base.status is not BaseStatus.OUTDATED, each.base.name, each.base.digest))
    )
