"""Compares the records of Docker's own store, and of Podman's, with what running services have in memory.

Docker's daemon and Podman's API service read names, images and layers once, and then use their memory: a record that was changed
on the disk since then decides only what this check reads, and the service goes on with other folders or another image. Without a
running service the records on the disk are what the next one reads, and there is nothing to compare.

What a service does not report is stated in the result as not checked (docs/adr/0038): the folders of Docker's driver vfs, those of
layers that belong to no image, and everything if it can't be asked.

containerd needs no such check: it keeps its records in databases that it reads for each request (`engine_mounts` finds a database
that was replaced).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from boltseal.engines.engine_locks import EngineProcess
from boltseal.engines.engine_memory import (
    EngineMemory,
    ServiceOfOtherStore,
    ServiceUnavailable,
    ask_service,
    docker_services,
    podman_services,
)
from boltseal.host.scrub import docker_store, podman_store
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference, shown
from boltseal.host.scrub.find_stores import FoundStore
from boltseal.host.scrub.plans import ImagePlan, StorePlan
from boltseal.host.scrub.trust import local_reference
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

ALL_WITHIN_S: Final = 300.0
"""How long the services of one store may take together: a user can start any number of them that do not answer."""
ROUNDS: Final = 3
PAUSE_S: Final = 0.2
"""Images are tagged and removed meanwhile: a difference counts if it is still there each time after this time."""
_OVERLAYS: Final = {docker_store.NAME: b"overlay2/", podman_store.NAME: b"overlay/"}
_SERVICES: Final[dict[str, Callable[[Path, Path], list[EngineProcess]]]] = {
    docker_store.NAME: docker_services,
    podman_store.NAME: podman_services,
}

_Findings = dict[Digest, list[Difference]]


@dataclass(slots=True)
class _Compared:
    """What was found for one store. `services`: those that answered; `unasked`: why others could not be asked."""

    services: list[EngineProcess] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    found: _Findings = field(default_factory=dict)


class MemoryCheck:
    """Differences between the records on the disk and those in the memory of services. Make it after the layers were read."""

    def __init__(self, stores: Iterable[tuple[FoundStore, StorePlan]], proc: Path) -> None:
        self._of = {
            (plan.store, plan.root): _compared_store(store, plan, proc)
            for store, plan in stores
            if plan.store in _SERVICES and (plan.images or plan.cached)
        }

    def with_image(self, image: ImagePlan, *, is_cached: bool = False) -> ImagePlan:
        """Return an image with the differences that were found for it, and with what could not be compared."""
        compared = self._of.get((image.store, image.root))
        if compared is None:
            return image
        unchecked = list(compared.unasked)
        if compared.services and (is_cached or not _on_overlay(image)):
            what = "layers without an image" if is_cached else "the storage driver vfs"
            unchecked += [f"{each} does not report the folders of {what}" for each in compared.services]
        return replace(
            image,
            differences=(*image.differences, *compared.found.get(image.id, ())),
            unchecked=tuple(f"whether the engine has the same records in memory: {each}" for each in unchecked),
        )


def _compared_store(store: FoundStore, plan: StorePlan, proc: Path) -> _Compared:
    compared = _Compared()
    ends = time.monotonic() + ALL_WITHIN_S
    for service in _SERVICES[plan.store](plan.root, proc):
        if time.monotonic() > ends:
            compared.unasked.append(
                f"{service} was not asked: the services before it took longer than {ALL_WITHIN_S:g} s"
            )
            continue
        try:
            found = _persisting(store, plan, service, proc)
        except ServiceOfOtherStore as error:
            if plan.store == docker_store.NAME:  # it has this store locked
                compared.unasked.append(f"{service} can't be asked: {error.message}")
            continue
        except ServiceUnavailable as error:
            compared.unasked.append(f"{service} can't be asked: {error.message}")
            continue
        compared.services.append(service)
        for image, differences in found.items():
            compared.found.setdefault(image, []).extend(differences)
    return compared


def _persisting(store: FoundStore, plan: StorePlan, service: EngineProcess, proc: Path) -> _Findings:
    """Return the differences that are the same in each round, by image.

    Raises: ServiceUnavailable, ServiceOfOtherStore.
    """
    found = _compare(plan, service, ask_service(service, plan.root, [each.id for each in plan.images], proc))
    for _ in range(ROUNDS):
        if not found:
            break
        time.sleep(PAUSE_S)
        now = store.plan(store.root)
        again = _compare(now, service, ask_service(service, now.root, [each.id for each in now.images], proc))
        kept = {image: [each for each in mine if each in again.get(image, ())] for image, mine in found.items()}
        found = {image: mine for image, mine in kept.items() if mine}
    return found


def _compare(plan: StorePlan, service: EngineProcess, memory: EngineMemory) -> _Findings:
    found: _Findings = {}
    for image in plan.images:
        if differences := _folder_differences(image, service, memory.folders.get(image.id, ())):
            found[image.id] = differences
    here = {name: image.id for image in plan.images for each in image.names if (name := local_reference(each))}
    images = {image.id for image in plan.images}
    for name in sorted(filter(_is_listed(plan), {*here, *memory.names}), key=str):
        mine, theirs = here.get(name), memory.names.get(name, frozenset())
        differs = mine not in theirs if mine is not None else bool(theirs & images)
        if differs:
            text = f"{service} resolves it to {', '.join(map(str, sorted(theirs, key=str))) or 'no image'}"
            of_disk = f"{shown(name.familiar())} -> {mine or 'no image'}, as the list on the disk has it"
            for image_id in images & {*theirs, mine}:
                found.setdefault(image_id, []).append(difference(DifferenceKind.TAG, b"", of_disk, text))
    return found


def _is_listed(plan: StorePlan) -> Callable[[Reference], bool]:
    """Return a test for names that the store lists: Podman derives names with digests from manifests."""
    return lambda name: name.digest is None or plan.store == docker_store.NAME


def _folder_differences(image: ImagePlan, service: EngineProcess, folders: Sequence[str]) -> list[Difference]:
    """Compare the topmost folder that a service reports with the one that was checked; none if it reports none.

    The folders below follow from that one's list on the disk, which the engine reads at each mount (`overlay_stack`).
    """
    if not folders or not image.layers or not _on_overlay(image):
        return []
    top = image.layers[-1]
    checked = os.fsdecode(top.folder or b"")
    if folders[0] == checked:
        return []
    used = f"{folders[0]}, which {service} mounts"
    return [difference(DifferenceKind.STACK, os.fsencode(checked), checked, used, str(top.diff_id))]


def _on_overlay(image: ImagePlan) -> bool:
    start = _OVERLAYS[image.store]
    return all(layer.folder is not None and layer.folder.startswith(start) for layer in image.layers)
