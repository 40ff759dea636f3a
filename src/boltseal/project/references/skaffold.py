"""Skaffold: base images of its builders, and images of its tests and actions. The artifacts are built here.

Read are `builder` and `runImage` of `buildpacks`, `fromImage` of `jib` and `ko`, `image` and `initImage` of `kaniko`, and
the containers of `verify` and `customActions`, also in profiles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from boltseal.project.image_references import Accounted, ImageReference, ScanResult
from boltseal.project.references.reader import FormatReader, ProjectFile
from boltseal.project.references.scalars import template_reference
from boltseal.project.references.yaml_nodes import KeyPath, items, mappings, pairs, span_of, text_of
from boltseal.project.references.yaml_tree import Node, ScalarNode

NAME: Final = "skaffold"
BUILT: Final = "it is built here"
_TEMPLATE: Final = re.compile(r"\{\{|\$")
_WHY: Final = "a template is evaluated only when Skaffold runs"
_UNDER: Final[Mapping[str, tuple[str, ...]]] = {
    ".buildpacks": ("builder", "runImage"),
    ".jib": ("fromImage",),
    ".ko": ("fromImage",),
    ".kaniko": ("image", "initImage"),
    ".container": ("image",),
}
_BUILT: Final = ("artifacts", "requires", "test")


def read_skaffold(file: ProjectFile) -> ScanResult:
    """Return the image references of a configuration."""
    source = file.source
    image_refs: list[ImageReference] = []
    accounted: list[Accounted] = []

    def add(node: Node | None, at: KeyPath) -> None:
        if isinstance(node, ScalarNode) and text_of(node):
            image_refs.append(template_reference(source, node, NAME, str(at), _TEMPLATE, _WHY))

    for document in file.documents:
        for node, at in mappings(document):
            keys = pairs(node)
            for key in _UNDER.get(at.word, ()):
                add(keys.get(key), KeyPath(at, f".{key}"))
            for index, container in enumerate(items(keys.get("containers"))):
                add(pairs(container).get("image"), KeyPath(at, f".containers[{index}].image"))
            for name in _BUILT:
                images = (pairs(entry).get("image") for entry in items(keys.get(name)))
                accounted += [
                    Accounted(source.path, span_of(source, image), BUILT)
                    for image in images
                    if isinstance(image, ScalarNode)
                ]
    return ScanResult(tuple(image_refs), accounted=tuple(accounted))


def _is_skaffold(documents: tuple[Node, ...]) -> bool:
    return any((text_of(pairs(document).get("apiVersion")) or "").startswith("skaffold/") for document in documents)


READER: Final = FormatReader(NAME, by_name=lambda _path: False, by_content=_is_skaffold, read=read_skaffold)
