"""Compares a store's metadata after the check with the metadata before it: images and containers may change meanwhile."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from boltseal.host.scrub.find_stores import FoundStore
from boltseal.host.scrub.plans import ContainerPlan, ImagePlan
from boltseal.oci.digest import Digest

CHANGED: Final = "changed"
GONE: Final = "removed"
ROUNDS: Final = 5
PAUSE_S: Final = 0.1
"""Engines do not remove images atomically: first the files, a little later the entry in the metadata."""


class StoreRecheck:
    """A store's metadata after its layers were read. Remaining differences are compared again, up to ROUNDS times."""

    def __init__(self, store: FoundStore) -> None:
        self._store = store
        self._rounds = 0
        self._read_plan()

    def _read_plan(self) -> None:
        plan = self._store.plan(self._store.root)
        self._images: dict[tuple[Digest, Digest], list[ImagePlan]] = {}
        for image in (*plan.images, *plan.cached):
            self._images.setdefault((image.id, image.config), []).append(_without_names(image))
        self._containers = {container.id: container for container in plan.containers}
        self._unreferenced = plan.unreferenced

    def _read_again(self) -> bool:
        if self._rounds >= ROUNDS:
            return False
        time.sleep(PAUSE_S)
        self._rounds += 1
        self._read_plan()
        return True

    def still_unreferenced(self, folders: frozenset[bytes]) -> frozenset[bytes]:
        """Return the folders that still belong to nothing; those of a container that was created or removed meanwhile do not."""
        left = folders & self._unreferenced
        if left and self._read_again():
            left &= self._unreferenced
        return left

    def changed_since(self, image: ImagePlan) -> str:
        """Return CHANGED or GONE for an image that is different now, else ""; names may change."""
        while True:
            now = self._images.get((image.id, image.config))
            if now is None:
                return GONE
            if _without_names(image) not in now:
                return CHANGED
            if not image.differences or not self._read_again():
                return ""

    def unless_changed(self, container: ContainerPlan) -> ContainerPlan:
        """Return a container, without its differences if it has changed since: they came from its creation or removal."""
        if not container.differences:
            return container
        while True:
            now = self._containers.get(container.id)
            if now is None or now.differences != container.differences:
                why = changed_text(GONE if now is None else CHANGED)
                return replace(container, differences=(), unknown=(why,))
            if not self._read_again():
                return container


def changed_text(how: str) -> str:
    """Return the reason why something that is CHANGED or GONE could not be checked."""
    return f"it was {how} while it was checked; check it again"


def _without_names(image: ImagePlan) -> ImagePlan:
    return replace(image, names=())
