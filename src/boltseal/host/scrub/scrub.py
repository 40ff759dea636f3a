"""The check of a host, from stores to reports.

1. Each store's metadata is read into plans; nothing of it is believed, what does not fit stands as a difference.
2. Which images are meant: those that were named, or all.
3. Their layers are read, each once, whoever shares it (`work`).
4. Each image is held against what it must be (`trust`), and an opaque mark that its tar does not have against the layers below.
5. The metadata is read again: what is another image now was changed meanwhile, and is said to be so.
6. Containers on these images: stack, -init layer, and what the running ones see.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from boltseal.engines.overlay_processes import ProcessRoot, running_roots
from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, readable
from boltseal.host.scrub.container_changes import MOUNTED_OVER, ContainerChange, init_differences, list_changes
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference, shown
from boltseal.host.scrub.find_stores import FoundStore
from boltseal.host.scrub.layer_check import CheckMode, LayerFiles, LayerResult
from boltseal.host.scrub.mapped_copy import copy_differences
from boltseal.host.scrub.mount_points import mounts_in
from boltseal.host.scrub.plans import ContainerPlan, ImagePlan, StorePlan
from boltseal.host.scrub.process_view import compare_process_view
from boltseal.host.scrub.report import ReportStatus, ScrubReport, status_of
from boltseal.host.scrub.trust import Expectation, is_id, judge, local_reference, names_image
from boltseal.host.scrub.workers import Progress, WorkRate, check_layers, meter_of
from boltseal.oci.digest import Digest

Spend = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ScrubRequest:
    """What is asked. `images`: names or IDs, none for all. `expected`: by what was typed; `receipts` and `locks` by name and
    tag.

    `proc`: where processes are seen. On a disk of another host none of them has its root.
    """

    images: tuple[str, ...] = ()
    expected: Mapping[str, Expectation] = field(default_factory=dict)
    receipts: tuple[Expectation, ...] = ()
    locks: tuple[Expectation, ...] = ()
    documents: Mapping[Digest, bytes] = field(default_factory=dict)
    manner: CheckMode = field(default_factory=CheckMode)
    pace: WorkRate = field(default_factory=WorkRate)
    proc: Path = Path("/proc")


def scrub(stores: Sequence[FoundStore], wanted: ScrubRequest, progress: Progress) -> list[ScrubReport]:
    """Check what is wanted in these stores."""
    if wanted.manner.from_disk:
        os.sync()  # what was not written yet can't be let go of
    plans = [(store, store.plan(store.root)) for store in stores]  # 1
    reports = [_of_store(plan) for _, plan in plans if plan.unknown]
    chosen = [(plan, image, typed) for _, plan in plans for image, typed in _chosen(plan, wanted)]  # 2
    results = check_layers(
        [layer for _, image, _ in chosen for layer in image.layers], wanted.manner, wanted.pace, progress
    )  # 3
    after = {store.root: _Again(store) for store, _ in plans}
    spend = meter_of(wanted.pace)
    for plan, image, typed in chosen:
        moved = after[plan.root].moved(image)
        reports.append(_of_image(image, results, typed, wanted, spend, moved))  # 4, 5
    reports += _not_found(wanted, [image for _, image, _ in chosen])
    met = {image.id for _, image, _ in chosen}
    for _, plan in plans:
        reports += _of_containers(plan, met, wanted, spend, after[plan.root])  # 6
    return reports


def _chosen(plan: StorePlan, wanted: ScrubRequest) -> list[tuple[ImagePlan, str]]:
    """The images of a store that are meant, each with what was typed for it."""
    if not wanted.images:
        return [(image, "") for image in plan.images]
    return [
        (image, typed) for image in plan.images if (typed := _typed(image, wanted.images)) is not None
    ]  # fmt: skip


def _typed(image: ImagePlan, typed: tuple[str, ...]) -> str | None:
    return next((each for each in typed if names_image(each, image)), None)


def _not_found(wanted: ScrubRequest, met: list[ImagePlan]) -> list[ScrubReport]:
    missing = [typed for typed in wanted.images if not any(names_image(typed, image) for image in met)]
    lost = [f"{each.repository}:{each.tag}" for each in wanted.receipts if not any(map(each.about, _names(met)))]
    reason = "no store that was looked at has it; --root names another store, a layout or an archive"
    return [
        ScrubReport("image", name, ReportStatus.UNKNOWN, "", "", unknown=(reason + _without_a_tag(name),))
        for name in (*missing, *lost)
    ]


def _without_a_tag(name: str) -> str:
    found = local_reference(name) if not is_id(name) else None
    return (
        ". A name without a tag means the tag latest" if found is not None and not (found.tag or found.digest) else ""
    )


def _names(images: list[ImagePlan]) -> list[str]:
    return [name for image in images for name in image.names]


def _of_store(plan: StorePlan) -> ScrubReport:
    return ScrubReport("store", str(plan.root), ReportStatus.UNKNOWN, plan.store, str(plan.root), unknown=plan.unknown)


def _of_image(
    image: ImagePlan,
    results: Mapping[LayerFiles, LayerResult],
    typed: str,
    wanted: ScrubRequest,
    spend: Spend,
    moved: str,
) -> ScrubReport:
    differences, unknown, count, entries = list(image.differences), list(image.unknown), len(image.differences), 0
    for index, layer in enumerate(image.layers):
        result = results[layer]
        differences += result.differences
        unknown += result.unknown
        count += result.count
        entries += result.entries
        marks = _marks_that_hide(image.layers[:index], layer, result, unknown)
        differences += marks
        count += len(marks)
    try:
        between = [
            each for init, under in image.inits for each in init_differences(image.root, init, _folders(image, under))
        ]
        between += [each for copy in image.copies for each in copy_differences(image.root, copy, wanted.manner, spend)]
        between += mounts_in(image.root, (*(init for init, _ in image.inits), *(copy.folder for copy in image.copies)))
        differences, count = [*differences, *between], count + len(between)
    except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
        unknown.append(error.message)
    if moved == CHANGED or (moved == GONE and (count or unknown)):
        differences, count = [], 0
        unknown = [f"it was {moved} while it was checked; check it again"]
    judged = judge(image, _expected(image, typed, wanted), wanted.documents)
    differences = [*judged.differences, *differences]
    unknown += judged.unknown
    count = max(count + len(judged.differences), len(differences)) if differences else 0
    level = None if wanted.manner.quick else judged.level  # of files that were not read nothing is proven
    return ScrubReport(
        "image", _ref(image, typed), status_of(count, tuple(unknown)), image.store, str(image.root), level,
        judged.by, str(image.id), image.names, len(image.layers), entries, tuple(differences), count, tuple(dict.fromkeys(unknown)),
    )  # fmt: skip


CHANGED: Final = "changed"
GONE: Final = "removed"


ROUNDS: Final = 5
PAUSE_S: Final = 0.1
"""An engine takes moments to remove something: its files first, and a little later the line that names it."""


class _Again:
    """What a store holds after its layers were read. Where something is wrong with it still, it is looked at some times more."""

    def __init__(self, store: FoundStore) -> None:
        self._store = store
        self._rounds = 0
        self._look()

    def _look(self) -> None:
        plan = self._store.plan(self._store.root)
        self._images: dict[tuple[Digest, Digest], list[ImagePlan]] = {}
        for image in plan.images:
            self._images.setdefault((image.id, image.config), []).append(_nameless(image))
        self._containers = {container.id: container for container in plan.containers}

    def _looked_once_more(self) -> bool:
        if self._rounds >= ROUNDS:
            return False
        time.sleep(PAUSE_S)
        self._rounds += 1
        self._look()
        return True

    def moved(self, image: ImagePlan) -> str:
        """What became of an image since, if anything. Its names may come and go, and are nobody's files."""
        while True:
            now = self._images.get((image.id, image.config))
            if now is None:
                return GONE
            if _nameless(image) not in now:
                return CHANGED
            if not image.differences or not self._looked_once_more():
                return ""

    def or_moved(self, container: ContainerPlan) -> ContainerPlan:
        """A container as it was; but if it is another one since, what seemed wrong with it was its coming or going."""
        if not container.differences:
            return container
        while True:
            now = self._containers.get(container.id)
            if now is None or now.differences != container.differences:
                why = f"it was {GONE if now is None else CHANGED} while it was checked; check it again"
                return replace(container, differences=(), unknown=(why,))
            if not self._looked_once_more():
                return container


def _nameless(image: ImagePlan) -> ImagePlan:
    return replace(image, names=())


def _ref(image: ImagePlan, typed: str) -> str:
    return typed or next((name for name in image.names if "@" not in name), "") or image.id.short


def _expected(image: ImagePlan, typed: str, wanted: ScrubRequest) -> Expectation | None:
    """A ledger's word counts more than a person's, and that more than a lock's, where they speak of this image's name."""
    ledger, lock = (
        [each for each in stated if any(map(each.about, image.names))] for stated in (wanted.receipts, wanted.locks)
    )
    return ledger[-1] if ledger else wanted.expected.get(typed) or (lock[-1] if lock else None)


def _folders(image: ImagePlan, under: int) -> list[bytes]:
    """Of the lowest layers, so many, the topmost first."""
    return [layer.folder for layer in reversed(image.layers[:under]) if layer.folder is not None]


def _marks_that_hide(
    below: Sequence[LayerFiles], layer: LayerFiles, result: LayerResult, unknown: list[str]
) -> list[Difference]:
    """Opaque marks without an entry in the tar. overlayfs sets them on new folders too, where nothing is hidden."""
    found = []
    for path in sorted(result.opaque):
        for lower in below:
            if lower.folder is None:
                continue
            try:
                with SafeFolder(lower.root) as store, store.below(lower.folder) as tree:
                    hides = tree.exists(path)
            except (StoreUnreadable, StoreMalformed, StoreMissing) as error:
                unknown.append(error.message)
                continue
            if hides:
                found.append(
                    difference(
                        DifferenceKind.OPAQUE, path, "no opaque mark", "one that hides lower layers", str(layer.diff_id)
                    )
                )
                break
    return found


def _of_containers(
    plan: StorePlan, met: set[Digest], wanted: ScrubRequest, spend: Spend, after: _Again
) -> list[ScrubReport]:
    mine = [each for each in plan.containers if each.image in met or not wanted.images]
    if not mine:
        return []
    roots: dict[bytes, ProcessRoot] = {}
    unseen: list[str] = []
    try:
        roots = {os.path.realpath(each.upper): each for each in running_roots(wanted.proc)}
    except StoreUnreadable as error:
        unseen.append(f"which containers run can't be seen: {error.message}")
    return [_of_container(after.or_moved(each), roots, unseen, wanted, spend) for each in mine]


def _on_another_layer(
    container: ContainerPlan, running: ProcessRoot | None, roots: Mapping[bytes, ProcessRoot]
) -> list[str]:
    """Whether the store's own word for the first process, where one of its containers has that number, is of other layers.

    Then what was looked at is not what runs: somebody has changed which layer the store says is the container's.
    """
    first = next((each for each in roots.values() if each.pid == container.pid), None)
    if container.pid == 0 or first is None or (running is not None and running.pid == first.pid):
        return []
    if not Path(os.fsdecode(os.path.realpath(first.upper))).is_relative_to(container.root.resolve()):
        return []
    return [f"the store says that it is process {first.pid}, but that runs on {shown(readable(first.upper))}"]


def _mounted(container: ContainerPlan, unknown: list[str]) -> list[Difference]:
    """What is mounted in the folders of a container's layers."""
    folders = [folder for folder in (container.upper, *container.lowers) if folder is not None]
    try:
        return mounts_in(container.root, folders)
    except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
        unknown.append(error.message)
        return []


def _of_container(
    container: ContainerPlan, roots: Mapping[bytes, ProcessRoot], unseen: list[str], wanted: ScrubRequest, spend: Spend
) -> ScrubReport:
    found, unknown = list(container.differences), [*container.unknown, *unseen]
    changed: list[ContainerChange] = []
    running: ProcessRoot | None = None
    if container.upper is not None:
        running = roots.get(os.fsencode((container.root / os.fsdecode(container.upper)).resolve()))
    mounted = _mounted(container, unknown)
    try:
        found += init_differences(container.root, container.init, container.lowers[1:])
        changed = list_changes(container)
    except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
        unknown.append(error.message)
    unknown += _on_another_layer(container, running, roots)
    if running is not None:
        compared = compare_process_view(container, running, wanted.manner, spend)
        found += compared.differences
        unknown += compared.unknown
        changed += [ContainerChange(path, MOUNTED_OVER) for path in compared.mounted_over]
    found += dict.fromkeys((*mounted, *_mounted(container, unknown)))
    return ScrubReport(
        "container", container.name or readable(container.id.encode())[:12], status_of(len(found), tuple(unknown)),
        container.store, str(container.root), None, "", container.id, (container.name,),
        len(container.lowers), 0, tuple(found), len(found), tuple(dict.fromkeys(unknown)), tuple(changed),
        running.pid if running is not None else 0,
    )  # fmt: skip
