"""The parts of a host for `--share`: which layers, copies of images and views of containers a run reads with their content.

Parts that a run does not read are checked as with `--quick`. A part is named by its place on the disk and by what it is; for
a layer also by the inode and change time of its folder, so that a layer that was unpacked anew counts as never read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from boltseal.engines.linked_folders import open_store
from boltseal.engines.safe_open import StoreMalformed, StoreMissing, StoreUnreadable
from boltseal.host.scrub.layer_check import CheckMode, LayerFiles, LayerResult
from boltseal.host.scrub.plans import ContainerPlan, ImagePlan, MappedCopy
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.rotation import Rotation
from boltseal.host.scrub.workers import estimated_bytes

_KEY_DIGITS: Final = 32


@dataclass(slots=True)
class ReadParts:
    """What this run reads: everything without a rotation. `mode`: how."""

    mode: CheckMode
    rotation: Rotation | None = None
    _layers: dict[LayerFiles, str] = field(default_factory=dict)

    def begin(self, images: Iterable[ImagePlan], containers: Iterable[ContainerPlan]) -> None:
        """Have the rotation choose among the parts of these images and containers."""
        if self.rotation is None:
            return
        sizes: dict[str, int] = {}
        of_image: dict[object, int] = {}
        for image in images:
            for layer in image.layers:
                if layer not in self._layers:
                    self._layers[layer] = _layer_key(layer)
                    sizes[self._layers[layer]] = estimated_bytes(layer, self.mode)
            of_image[image.id] = sum(sizes[self._layers[layer]] for layer in image.layers)
            sizes |= {_copy_key(image, copy): of_image[image.id] for copy in image.copies}
        sizes |= {_container_key(each): of_image.get(each.image, 0) if each.pid else 0 for each in containers}
        self.rotation.begin(sizes)

    def layer_modes(self, layers: Iterable[LayerFiles]) -> Mapping[LayerFiles, CheckMode]:
        """Return how to check each layer."""
        return {layer: self._mode(self._layers.get(layer, "")) for layer in layers}

    def copy_mode(self, image: ImagePlan, copy: MappedCopy) -> CheckMode:
        """Return how to check a copy of an image."""
        return self._mode(_copy_key(image, copy))

    def container_mode(self, container: ContainerPlan) -> CheckMode:
        """Return how to check a container."""
        return self._mode(_container_key(container))

    def unread(self, image: ImagePlan) -> int:
        """Return how many layers and copies of an image this run does not read, although it reads others."""
        if self.rotation is None:
            return 0
        keys = [self._layers[layer] for layer in image.layers]
        return sum(not self.rotation.reads(key) for key in (*keys, *(_copy_key(image, each) for each in image.copies)))

    def record_layers(self, results: Mapping[LayerFiles, LayerResult]) -> None:
        """Record which layers differ or could not be read."""
        self._fail(self._layers[layer] for layer, each in results.items() if each.count or each.unknown)

    def record_copies(self, image: ImagePlan, *, held: bool) -> None:
        """Record the check of the copies of an image."""
        if not held:
            self._fail(_copy_key(image, each) for each in image.copies)

    def record_container(self, container: ContainerPlan, report: ScrubReport) -> ScrubReport:
        """Record the check of a container, and return its report with what was not read."""
        if self.rotation is None:
            return report
        key = _container_key(container)
        if report.status in (ReportStatus.DIFFERS, ReportStatus.UNKNOWN):
            self._fail([key])
        return replace(report, unread=int(not self.rotation.reads(key)))

    def _mode(self, key: str) -> CheckMode:
        return self.mode if self.rotation is None or self.rotation.reads(key) else replace(self.mode, quick=True)

    def _fail(self, keys: Iterable[str]) -> None:
        if self.rotation is not None:
            for key in keys:
                self.rotation.fail(key)


def _layer_key(layer: LayerFiles) -> str:
    path = layer.folder if layer.folder is not None else layer.blob or b""
    try:
        with open_store(layer.root) as store:
            at = store.stat(path)
        made: tuple[int, ...] = (at.st_ino, at.st_ctime_ns)
    except (StoreMissing, StoreMalformed, StoreUnreadable):
        made = ()
    return _key("layer", layer.root, path, layer.blob_start, layer.diff_id, *made)


def _copy_key(image: ImagePlan, copy: MappedCopy) -> str:
    return _key("copy", image.root, copy.folder, image.id)


def _container_key(container: ContainerPlan) -> str:
    return _key("container", container.root, container.upper, container.id)


def _key(*named: object) -> str:
    return hashlib.sha256(repr([str(each) for each in named]).encode("utf-8", "backslashreplace")).hexdigest()[
        :_KEY_DIGITS
    ]
