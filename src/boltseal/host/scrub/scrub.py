"""Checks a host: from image stores to reports.

1. Read each store's metadata into plans. It is not trusted; inconsistencies are differences.
2. Select the named images, or all.
3. Check their layers, each once, however many images share it (`workers`).
4. Compare each image with what it must be (`trust`), and opaque marks without a tar entry with the layers below.
5. Read the metadata again: an image that changed during the check is reported as not checked.
6. Check containers on these images: the stack, the -init layer, and what running ones see.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from boltseal.engines.overlay_processes import ProcessRoot, running_roots
from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, readable
from boltseal.errors import MAX_PATH, quote
from boltseal.host.scrub.container_changes import MOUNTED_OVER, ContainerChange, init_differences, list_changes
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference, shown
from boltseal.host.scrub.engine_mounts import EngineMounts
from boltseal.host.scrub.file_contents import CountRead
from boltseal.host.scrub.find_stores import FoundStore
from boltseal.host.scrub.layer_check import CheckMode, LayerFiles, LayerResult
from boltseal.host.scrub.mapped_copy import copy_differences
from boltseal.host.scrub.mount_points import mounts_in
from boltseal.host.scrub.plans import ContainerPlan, ImagePlan, StorePlan
from boltseal.host.scrub.process_view import compare_process_view
from boltseal.host.scrub.report import ReportStatus, ScrubReport, status_of
from boltseal.host.scrub.shared_inodes import with_outside_links
from boltseal.host.scrub.trust import Expectation, is_id, judge, local_reference, names_image
from boltseal.host.scrub.workers import Progress, WorkRate, check_layers, meter_of
from boltseal.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class ScrubRequest:
    """What to check, and how.

    `images`: names or IDs, none for all. `expected`: by the text in `images`. `receipts`, `locks`: apply by name and tag.
    `documents`: further manifests, by digest. `check_mode`: how to read; `pace`: limits of the load. `proc`: the process file
    system; on a disk of another host no process has its root.
    """

    images: tuple[str, ...] = ()
    expected: Mapping[str, Expectation] = field(default_factory=dict)
    receipts: tuple[Expectation, ...] = ()
    locks: tuple[Expectation, ...] = ()
    documents: Mapping[Digest, bytes] = field(default_factory=dict)
    check_mode: CheckMode = field(default_factory=CheckMode)
    pace: WorkRate = field(default_factory=WorkRate)
    proc: Path = Path("/proc")


def scrub(stores: Sequence[FoundStore], wanted: ScrubRequest, progress: Progress) -> list[ScrubReport]:
    """Check the requested images in these stores, and return a report for each."""
    if wanted.check_mode.from_disk:
        os.sync()  # unwritten pages can't be dropped from the cache
    plans = [(store, store.plan(store.root)) for store in stores]  # 1
    reports = [_store_report(plan) for _, plan in plans if plan.unknown]
    engine_mounts = EngineMounts([plan for _, plan in plans], wanted.proc)
    engine_mounts.look()
    selected = [(plan, image, typed) for _, plan in plans for image, typed in _select(plan, wanted)]  # 2
    results = check_layers(
        [layer for _, image, _ in selected for layer in image.layers], wanted.check_mode, wanted.pace, progress
    )  # 3
    results = with_outside_links(results, [plan for _, plan in plans])
    engine_mounts.look()
    after = {store.root: _StoreRecheck(store) for store, _ in plans}
    count_read = meter_of(wanted.pace)
    for plan, image, typed in selected:
        changed_since = after[plan.root].changed_since(image)
        seen = engine_mounts.with_image(image)
        reports.append(_image_report(seen, results, typed, wanted, count_read, changed_since))  # 4, 5
    reports += _not_found(wanted, [image for _, image, _ in selected], [store.root for store in stores])
    checked = {image.id for _, image, _ in selected}
    for _, plan in plans:
        reports += _container_reports(plan, checked, wanted, count_read, after[plan.root], engine_mounts)  # 6
    return reports


def _select(plan: StorePlan, wanted: ScrubRequest) -> list[tuple[ImagePlan, str]]:
    """Return the selected images of a store, each with the text that selected it."""
    if not wanted.images:
        return [(image, "") for image in plan.images]
    return [
        (image, typed) for image in plan.images if (typed := _selecting_text(image, wanted.images)) is not None
    ]  # fmt: skip


def _selecting_text(image: ImagePlan, typed: tuple[str, ...]) -> str | None:
    return next((each for each in typed if names_image(each, image)), None)


def _not_found(wanted: ScrubRequest, checked: list[ImagePlan], roots: list[Path]) -> list[ScrubReport]:
    missing = [typed for typed in wanted.images if not any(names_image(typed, image) for image in checked)]
    lost = [f"{each.repository}:{each.tag}" for each in wanted.receipts if not any(map(each.about, _names(checked)))]
    searched = ", ".join(quote(str(root), MAX_PATH)[1:-1] for root in roots) or "this host has none"
    reason = f"not found in the searched stores ({searched}); name another store, a layout or an archive with --root"
    return [
        ScrubReport(
            what="image",
            ref=name,
            status=ReportStatus.UNKNOWN,
            store="",
            root="",
            unknown=(reason + _without_a_tag(name),),
        )
        for name in (*missing, *lost)
    ]


def _without_a_tag(name: str) -> str:
    found = local_reference(name) if not is_id(name) else None
    return ". A name without a tag has the tag latest" if found is not None and not (found.tag or found.digest) else ""


def _names(images: list[ImagePlan]) -> list[str]:
    return [name for image in images for name in image.names]


def _store_report(plan: StorePlan) -> ScrubReport:
    return ScrubReport(
        what="store",
        ref=str(plan.root),
        status=ReportStatus.UNKNOWN,
        store=plan.store,
        root=str(plan.root),
        unknown=plan.unknown,
    )


def _image_report(
    image: ImagePlan,
    results: Mapping[LayerFiles, LayerResult],
    typed: str,
    wanted: ScrubRequest,
    count_read: CountRead,
    changed_since: str,
) -> ScrubReport:
    differences, unknown, count, entries = list(image.differences), list(image.unknown), len(image.differences), 0
    for index, layer in enumerate(image.layers):
        result = results[layer]
        differences += result.differences
        unknown += result.unknown
        count += result.count
        entries += result.entries
        marks = _hiding_marks(image.layers[:index], layer, result, unknown)
        differences += marks
        count += len(marks)
    unknown += [copy.unproven for copy in image.copies if copy.unproven]
    try:
        other_differences = [
            each for init, under in image.inits for each in init_differences(image.root, init, _folders(image, under))
        ]
        other_differences += [
            each for copy in image.copies for each in copy_differences(image.root, copy, wanted.check_mode, count_read)
        ]
        other_differences += mounts_in(
            image.root, (*(init for init, _ in image.inits), *(copy.folder for copy in image.copies))
        )
        differences, count = [*differences, *other_differences], count + len(other_differences)
    except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
        unknown.append(error.message)
    if changed_since == CHANGED or (changed_since == GONE and (count or unknown)):
        differences, count = [], 0
        unknown = [f"it was {changed_since} while it was checked; check it again"]
    judged = judge(image, _expected(image, typed, wanted), wanted.documents)
    differences = [*judged.differences, *differences]
    unknown += judged.unknown
    count = max(count + len(judged.differences), len(differences)) if differences else 0
    return ScrubReport(
        what="image",
        ref=_ref(image, typed),
        status=status_of(count, tuple(unknown)),
        store=image.store,
        root=str(image.root),
        level=None if wanted.check_mode.quick else judged.level,  # unread files prove nothing
        by=judged.by,
        id=str(image.id),
        names=image.names,
        layers=len(image.layers),
        entries=entries,
        differences=tuple(differences),
        count=count,
        unknown=tuple(dict.fromkeys(unknown)),
    )


CHANGED: Final = "changed"
GONE: Final = "removed"


ROUNDS: Final = 5
PAUSE_S: Final = 0.1
"""Engines do not remove images atomically: first the files, a little later the entry in the metadata."""


class _StoreRecheck:
    """A store's metadata after its layers were read. Remaining differences are compared again, up to ROUNDS times."""

    def __init__(self, store: FoundStore) -> None:
        self._store = store
        self._rounds = 0
        self._read_plan()

    def _read_plan(self) -> None:
        plan = self._store.plan(self._store.root)
        self._images: dict[tuple[Digest, Digest], list[ImagePlan]] = {}
        for image in plan.images:
            self._images.setdefault((image.id, image.config), []).append(_without_names(image))
        self._containers = {container.id: container for container in plan.containers}

    def _read_again(self) -> bool:
        if self._rounds >= ROUNDS:
            return False
        time.sleep(PAUSE_S)
        self._rounds += 1
        self._read_plan()
        return True

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
                why = f"it was {GONE if now is None else CHANGED} while it was checked; check it again"
                return replace(container, differences=(), unknown=(why,))
            if not self._read_again():
                return container


def _without_names(image: ImagePlan) -> ImagePlan:
    return replace(image, names=())


def _ref(image: ImagePlan, typed: str) -> str:
    return typed or next((name for name in image.names if "@" not in name), "") or image.id.short


def _expected(image: ImagePlan, typed: str, wanted: ScrubRequest) -> Expectation | None:
    """Return the expectation for an image: a ledger's takes precedence over a person's, and that over a lock's."""
    ledger, lock = (
        [each for each in stated if any(map(each.about, image.names))] for stated in (wanted.receipts, wanted.locks)
    )
    return ledger[-1] if ledger else wanted.expected.get(typed) or (lock[-1] if lock else None)


def _folders(image: ImagePlan, under: int) -> list[bytes]:
    """Return the folders of the lowest `under` layers, topmost first."""
    return [layer.folder for layer in reversed(image.layers[:under]) if layer.folder is not None]


def _hiding_marks(
    below: Sequence[LayerFiles], layer: LayerFiles, result: LayerResult, unknown: list[str]
) -> list[Difference]:
    """Return opaque marks without a tar entry that hide something: overlayfs also marks new folders, which hide nothing."""
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


def _container_reports(
    plan: StorePlan,
    checked: set[Digest],
    wanted: ScrubRequest,
    count_read: CountRead,
    after: _StoreRecheck,
    engine_mounts: EngineMounts,
) -> list[ScrubReport]:
    mine = [each for each in plan.containers if each.image in checked or not wanted.images]
    if not mine:
        return []
    roots: dict[bytes, ProcessRoot] = {}
    unseen: list[str] = []
    try:
        roots = {os.path.realpath(each.upper): each for each in running_roots(wanted.proc)}
    except StoreUnreadable as error:
        unseen.append(f"could not find the running containers: {error.message}")
    seen = [engine_mounts.with_container(after.unless_changed(each)) for each in mine]
    return [_container_report(each, roots, unseen, wanted, count_read) for each in seen]


def _other_layer_reasons(
    container: ContainerPlan, running: ProcessRoot | None, roots: Mapping[bytes, ProcessRoot]
) -> list[str]:
    """Return a reason if the first process that the store records for a container runs on another layer of the store.

    Then the checked layers are not those that run: the container's layer in the store's metadata was changed.
    """
    first = next((each for each in roots.values() if each.pid == container.pid), None)
    if container.pid == 0 or first is None or (running is not None and running.pid == first.pid):
        return []
    if not Path(os.fsdecode(os.path.realpath(first.upper))).is_relative_to(container.root.resolve()):
        return []
    return [f"process {first.pid}, which the store records for it, runs on {shown(readable(first.upper))}"]


def _mounted(container: ContainerPlan, unknown: list[str]) -> list[Difference]:
    """Return the mounts in the folders of a container's layers."""
    folders = [folder for folder in (container.upper, *container.lowers) if folder is not None]
    try:
        return mounts_in(container.root, folders)
    except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
        unknown.append(error.message)
        return []


def _container_report(
    container: ContainerPlan,
    roots: Mapping[bytes, ProcessRoot],
    unseen: list[str],
    wanted: ScrubRequest,
    count_read: CountRead,
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
    unknown += _other_layer_reasons(container, running, roots)
    if running is not None:
        compared = compare_process_view(container, running, wanted.check_mode, count_read)
        found += compared.differences
        unknown += compared.unknown
        changed += [ContainerChange(path, MOUNTED_OVER) for path in compared.mounted_over]
    found += dict.fromkeys((*mounted, *_mounted(container, unknown)))
    return ScrubReport(
        what="container",
        ref=container.name or readable(container.id.encode())[:12],
        status=status_of(len(found), tuple(unknown)),
        store=container.store,
        root=str(container.root),
        id=container.id,
        names=(container.name,),
        layers=len(container.lowers),
        differences=tuple(found),
        count=len(found),
        unknown=tuple(dict.fromkeys(unknown)),
        changed=tuple(changed),
        running=running.pid if running is not None else 0,
    )
