"""Checks a host: from image stores to reports.

1. Read each store's metadata into plans. It is not trusted; inconsistencies are differences.
2. Select the named images, or all.
3. Check their layers, each once, however many images share it (`workers`).
4. Compare each image with what it must be (`image_check`, `trust`).
5. Read the metadata again: an image that changed during the check is reported as not checked. Ask running services whether
   they use the same metadata (`memory_check`).
6. Check containers on these images (`container_check`), which start, stop and disappear meanwhile.
7. Say what to do about images that differ (`remedies`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

from boltseal.engines.safe_open import readable
from boltseal.errors import MAX_PATH, quote
from boltseal.host.scrub.baseline import Baseline
from boltseal.host.scrub.container_check import ContainerCheck
from boltseal.host.scrub.differences import shown
from boltseal.host.scrub.engine_mounts import EngineMounts
from boltseal.host.scrub.find_stores import FoundStore, Plan
from boltseal.host.scrub.image_check import ImageCheck
from boltseal.host.scrub.layer_check import CheckMode
from boltseal.host.scrub.memory_check import MemoryCheck
from boltseal.host.scrub.missing_manifests import FetchManifests, fetch_nothing, judge_with_fetch
from boltseal.host.scrub.plans import ContainerPlan, ImagePlan, StorePlan
from boltseal.host.scrub.remedies import ScrubAgain, remedy_of
from boltseal.host.scrub.report import BUILD_CACHE, ORPHANED, ReportStatus, ScrubReport
from boltseal.host.scrub.rotation import Rotation
from boltseal.host.scrub.share_parts import ReadParts
from boltseal.host.scrub.shared_inodes import with_outside_links
from boltseal.host.scrub.store_recheck import GONE, StoreRecheck
from boltseal.host.scrub.trust import (
    Expectation,
    ExpectedPrefix,
    TrustJudgement,
    is_id,
    local_reference,
    names_image,
)
from boltseal.host.scrub.workers import Progress, ReadCount, WorkRate, check_layers, meter_of
from boltseal.oci.digest import Digest

MAX_NAMED: Final = 100
"""The limit of orphaned folders that are named."""


@dataclass(frozen=True, slots=True)
class ScrubRequest:
    """What to check, and how.

    `images`: names or IDs, none for all. `expected`: by the text in `images`. `receipts`, `locks`: apply by name and tag.
    `documents`: further manifests, by digest; `fetch`: gets those that are missing. `baseline`: what a person recorded.
    `check_mode`: how to read; `pace`: limits of the load. `rotation`: chooses what to read if not all is. `roots`: the
    named stores, for the commands that are printed. `proc`: the process file system; on a disk of another host no process has its
    root.
    """

    images: tuple[str, ...] = ()
    expected: Mapping[str, Expectation | ExpectedPrefix] = field(default_factory=dict)
    receipts: tuple[Expectation, ...] = ()
    locks: tuple[Expectation, ...] = ()
    documents: Mapping[Digest, bytes] = field(default_factory=dict)
    fetch: FetchManifests = fetch_nothing
    baseline: Baseline | None = None
    check_mode: CheckMode = field(default_factory=CheckMode)
    pace: WorkRate = field(default_factory=WorkRate)
    rotation: Rotation | None = None
    roots: tuple[Path, ...] = ()
    proc: Path = Path("/proc")

    def expectation_of(self, image: ImagePlan, typed: str) -> Expectation | ExpectedPrefix | None:
        """Return what an image must be, None if that is not known. `typed`: the text that selected it, "" for none.

        A ledger's receipt takes precedence over a person's digest, that over a lock's, and that over a baseline's.
        """
        ledger, lock = (
            [each for each in stated if any(map(each.about, image.names))] for stated in (self.receipts, self.locks)
        )
        if ledger or typed in self.expected or lock:
            return ledger[-1] if ledger else self.expected.get(typed) or lock[-1]
        if self.baseline is None:
            return None
        recorded = [each for each in self.baseline.expectations() if any(map(each.about, image.names))]
        return recorded[-1] if recorded else self.baseline.of_config(image.config)

    def judge(self, image: ImagePlan, typed: str) -> TrustJudgement:
        """Compare an image with what it must be; fetch manifests that are needed for it."""
        return judge_with_fetch(image, self.expectation_of(image, typed), self.documents, self.fetch)


class _Key(NamedTuple):
    """A kind of store in a folder, which may have several kinds."""

    store: str
    root: Path


def _key(plan: StorePlan) -> _Key:
    return _Key(plan.store, plan.root)


class _Selected(NamedTuple):
    """An image that is checked. `typed`: the text that selected it, "" for none; `is_cached`: it is a build cache."""

    plan: StorePlan
    image: ImagePlan
    typed: str
    is_cached: bool = False


def scrub(stores: Sequence[FoundStore], wanted: ScrubRequest, progress: Progress) -> list[ScrubReport]:
    """Check the requested images in these stores, and return a report for each."""
    if wanted.check_mode.from_disk:
        os.sync()  # unwritten pages can't be dropped from the cache
    counted = ReadCount(progress)
    if wanted.baseline is not None:
        applied = wanted.baseline.applied
        stores = [replace(each, plan=_composed(each.plan, applied)) for each in stores]
    plans = [(store, store.plan(store.root)) for store in stores]  # 1
    engine_mounts = EngineMounts([plan for _, plan in plans], wanted.proc)
    engine_mounts.look()
    selected = [each for _, plan in plans for each in _select(plan, wanted)]  # 2
    images = [each.image for each in selected]
    containers = {_key(plan): _containers_of(plan, images, wanted) for _, plan in plans}
    parts = ReadParts(wanted.check_mode, wanted.rotation)
    parts.begin(images, [each for mine in containers.values() for each in mine])
    modes = parts.layer_modes(layer for image in images for layer in image.layers)
    results = with_outside_links(check_layers(modes, wanted.pace, counted), [plan for _, plan in plans])  # 3
    parts.record_layers(results)
    engine_mounts.look()
    after = {_key(plan): StoreRecheck(store) for store, plan in plans}
    count_read = meter_of(wanted.pace)
    image_check = ImageCheck(results, wanted.judge, wanted.baseline, parts, count_read)
    memory = MemoryCheck(plans, wanted.proc)
    checked = _check_images(selected, image_check, engine_mounts, memory, after)  # 4, 5
    container_check = ContainerCheck(parts, engine_mounts, count_read, wanted.proc)
    of_containers = [
        report
        for store, plan in plans
        for report in container_check.reports(store, containers[_key(plan)], after[_key(plan)])
    ]  # 6
    counted.end(count_read.total())
    return [
        *(_store_report(plan) for _, plan in plans if plan.unknown),
        *_with_remedies(checked, of_containers, wanted),  # 7
        *_not_found(wanted, images, [store.root for store in stores]),
        *of_containers,
        *_unreferenced_reports([plan for _, plan in plans], after, wanted),
    ]


def _check_images(
    selected: Sequence[_Selected],
    check: ImageCheck,
    engine_mounts: EngineMounts,
    memory: MemoryCheck,
    after: Mapping[_Key, StoreRecheck],
) -> list[tuple[_Selected, ScrubReport]]:
    """Return the reports of images, without build caches that were removed meanwhile: nothing runs on them."""
    found = []
    for each in selected:
        changed_since = after[_key(each.plan)].changed_since(each.image)
        if changed_since == GONE and each.is_cached:
            continue
        image = memory.with_image(engine_mounts.with_image(each.image), is_cached=each.is_cached)
        report = check.report(image, each.typed, changed_since)
        if each.is_cached:
            report = replace(report, what=BUILD_CACHE, ref=f"layers up to {report.id}")
        found.append((each, report))
    return found


def _with_remedies(
    checked: Sequence[tuple[_Selected, ScrubReport]], containers: Sequence[ScrubReport], wanted: ScrubRequest
) -> list[ScrubReport]:
    """Return the reports of images, those that differ with what to do about it."""
    running = {each.id: each.running for each in containers}
    found = []
    for (plan, image, typed, _), report in checked:
        remedy = None
        if report.status is ReportStatus.DIFFERS and report.what == "image":
            expected = wanted.expectation_of(image, typed)
            known = expected if isinstance(expected, Expectation) else None
            again = ScrubAgain(typed, wanted.roots)
            remedy = remedy_of(image, plan.containers, running, known, again, wanted.proc)
        found.append(replace(report, remedy=remedy))
    return found


def _composed(plan: Plan, then: Callable[[StorePlan], StorePlan]) -> Plan:
    return lambda root: then(plan(root))


def _select(plan: StorePlan, wanted: ScrubRequest) -> list[_Selected]:
    """Return the images of a store that are checked: the named ones, or all with the build caches."""
    if not wanted.images:
        cached = [_Selected(plan, image, "", is_cached=True) for image in plan.cached]
        return [*(_Selected(plan, image, "") for image in plan.images), *cached]
    return [
        _Selected(plan, image, typed)
        for image in plan.images
        if (typed := _selecting_text(image, wanted.images)) is not None
    ]


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


def _unreferenced_reports(
    plans: Sequence[StorePlan], after: Mapping[_Key, StoreRecheck], wanted: ScrubRequest
) -> list[ScrubReport]:
    """Return a report for each store with layers of nothing; a check of named images is not about them."""
    found = []
    for plan in () if wanted.images else plans:
        left = after[_key(plan)].still_unreferenced(plan.unreferenced)
        for what, why, folders in (
            (BUILD_CACHE, "layers of no image and no container, which have no digest", left - plan.orphaned),
            (
                ORPHANED,
                "folders of no image, no container and no build, which an interrupted pull or removal left",
                left & plan.orphaned,
            ),
        ):
            if folders:
                found.append(
                    ScrubReport(
                        what=what,
                        ref=str(plan.root),
                        status=ReportStatus.UNCHECKED,
                        store=plan.store,
                        root=str(plan.root),
                        unchecked=(why,),
                        unchecked_count=len(folders),
                        notes=tuple(shown(readable(each)) for each in sorted(folders & plan.orphaned)[:MAX_NAMED]),
                    )
                )
    return found


def _containers_of(plan: StorePlan, images: Sequence[ImagePlan], wanted: ScrubRequest) -> list[ContainerPlan]:
    """Return the containers of a store that are checked: those on the checked images, or all."""
    checked = {image.id for image in images}
    return [each for each in plan.containers if each.image in checked or not wanted.images]
