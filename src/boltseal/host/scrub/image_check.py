"""Reports of images: the results of their layers, the folders beside the layers, and what the image must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.engines.linked_folders import open_store
from boltseal.engines.safe_open import StoreMalformed, StoreMissing, StoreUnreadable
from boltseal.host.scrub.baseline import Baseline
from boltseal.host.scrub.container_changes import init_differences
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference
from boltseal.host.scrub.file_contents import CountRead
from boltseal.host.scrub.layer_check import LayerFiles, LayerResult
from boltseal.host.scrub.mapped_copy import copy_differences
from boltseal.host.scrub.mount_points import mounts_in
from boltseal.host.scrub.plans import ImagePlan
from boltseal.host.scrub.report import ScrubReport, status_of
from boltseal.host.scrub.share_parts import ReadParts
from boltseal.host.scrub.store_recheck import CHANGED, GONE, changed_text
from boltseal.host.scrub.trust import Level, TrustJudgement, local_reference
from boltseal.lockfile.container_check import is_changed_mark

KEPT_AS_EVIDENCE: Final = "kept as evidence by `boltseal pull --replace`"


@dataclass(slots=True)
class _Found:
    """What was found in an image's metadata and files. `count`: of all differences; the list may have fewer."""

    differences: list[Difference]
    unknown: list[str]
    count: int = 0
    entries: int = 0

    def add(self, differences: Sequence[Difference], count: int = -1) -> None:
        """Add differences. `count`: of all of them, if the list may have fewer."""
        self.differences += differences
        self.count += len(differences) if count < 0 else count


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """Makes the reports of images. `results`: those of all layers; `judge`: compares an image, selected by a text, with what it must be.

    `parts`: what this run reads.
    """

    results: Mapping[LayerFiles, LayerResult]
    judge: Callable[[ImagePlan, str], TrustJudgement]
    baseline: Baseline | None
    parts: ReadParts
    count_read: CountRead

    def report(self, image: ImagePlan, typed: str, changed_since: str) -> ScrubReport:
        """Return the report of an image. `typed`: the text that selected it; `changed_since`: CHANGED, GONE or ""."""
        found = _Found(list(image.differences), list(image.unknown), len(image.differences))
        self._add_layers(image, found)
        found.unknown += [copy.unproven for copy in image.copies if copy.unproven]
        self._add_other_folders(image, found)
        if changed_since == CHANGED or (changed_since == GONE and (found.count or found.unknown)):
            found = _Found([], [changed_text(changed_since)], entries=found.entries)
        judged = self.judge(image, typed)
        unknown = tuple(dict.fromkeys((*found.unknown, *judged.unknown)))
        count = found.count + len(judged.differences)
        level, by = self._level(image, judged)
        unread = self.parts.unread(image)
        is_evidence = any(map(is_changed_mark, filter(None, map(local_reference, image.names))))
        of_layers = (each for layer in image.layers for each in self.results[layer].unchecked)
        return ScrubReport(
            what="image",
            ref=typed or next((name for name in image.names if "@" not in name), "") or image.id.short,
            status=status_of(count, unknown),
            store=image.store,
            root=str(image.root),
            level=None if self.parts.mode.quick or unread else level,  # unread files prove nothing
            by=by,
            id=str(image.id),
            names=image.names,
            layers=len(image.layers),
            entries=found.entries,
            differences=(*judged.differences, *found.differences),
            count=count,
            unknown=unknown,
            notes=(*image.notes, *([KEPT_AS_EVIDENCE] if is_evidence else [])),
            unchecked=tuple(dict.fromkeys((*image.unchecked, *of_layers))),
            unread=unread,
        )

    def _add_layers(self, image: ImagePlan, found: _Found) -> None:
        for index, layer in enumerate(image.layers):
            result = self.results[layer]
            found.add(result.differences, result.count)
            found.unknown += result.unknown
            found.entries += result.entries
            found.add(_hiding_marks(image.layers[:index], layer, result, found.unknown))

    def _add_other_folders(self, image: ImagePlan, found: _Found) -> None:
        """Check the folders beside the layers: -init layers between them, and copies of the image with other owners."""
        try:
            in_inits = [
                each
                for init in image.inits
                for each in init_differences(image.root, init.folder, _lowest_folders(image, init.layers_below))
            ]
            in_copies = [
                each
                for copy in image.copies
                for each in copy_differences(image.root, copy, self.parts.copy_mode(image, copy), self.count_read)
            ]
            self.parts.record_copies(image, held=not in_copies)
            folders = [*(init.folder for init in image.inits), *(copy.folder for copy in image.copies)]
            found.add([*in_inits, *in_copies, *mounts_in(image.root, folders)])
        except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
            found.unknown.append(error.message)
            self.parts.record_copies(image, held=False)

    def _level(self, image: ImagePlan, judged: TrustJudgement) -> tuple[Level, str]:
        """Return the level of an image and the evidence: files that only a baseline has are no proof by a digest."""
        count = sum(layer.inventory is not None for layer in image.layers)
        if not count or self.baseline is None:
            return judged.level, judged.by
        files = f"the files of {count} of {len(image.layers)} layers are those of {self.baseline.by}"
        return Level.B, f"{judged.by}; {files}" if judged.by and judged.by != self.baseline.by else files


def _lowest_folders(image: ImagePlan, count: int) -> list[bytes]:
    """Return the folders of the lowest `count` layers, topmost first."""
    return [layer.folder for layer in reversed(image.layers[:count]) if layer.folder is not None]


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
                with open_store(lower.root) as store, store.below(lower.folder) as tree:
                    hides = tree.exists(path)
            except (StoreUnreadable, StoreMalformed, StoreMissing) as error:
                unknown.append(error.message)
                continue
            if hides:
                got = "one that hides lower layers"
                found.append(difference(DifferenceKind.OPAQUE, path, "no opaque mark", got, str(layer.diff_id)))
                break
    return found
