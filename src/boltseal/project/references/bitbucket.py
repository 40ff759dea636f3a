"""Bitbucket Pipelines: every `image`, a text or a mapping with `name`, and pipes that are images (`docker://`).

Other pipes name a repository of Bitbucket. Variables (`$TAG`) are known only when the pipeline runs.
"""

from __future__ import annotations

import re
from typing import Final

from boltseal.project.image_references import ImageReference, ScanResult
from boltseal.project.references.reader import FormatReader, ProjectFile
from boltseal.project.references.scalars import template_reference
from boltseal.project.references.yaml_nodes import KeyPath, mappings, pairs, text_of
from boltseal.project.references.yaml_tree import ScalarNode

NAME: Final = "bitbucket-pipelines"
_FILE: Final = re.compile(r"(?:.*/)?bitbucket-pipelines(?:[.-][^/]*)?\.ya?ml", re.DOTALL)
_VARIABLE: Final = re.compile(r"\$")
_WHY: Final = "a variable is evaluated only when the pipeline runs"
_DOCKER: Final = "docker://"


def read_bitbucket(file: ProjectFile) -> ScanResult:
    """Return the image references of a pipeline."""
    image_refs: list[ImageReference] = []
    seen: set[ScalarNode] = set()
    for document in file.documents:
        for node, at in mappings(document):
            keys = pairs(node)
            image, where = keys.get("image"), ".image"
            if "name" in pairs(image):
                image, where = pairs(image)["name"], ".image.name"
            pipe = keys.get("pipe")
            if (text_of(pipe) or "").startswith(_DOCKER):
                image, where = pipe, ".pipe"
            if isinstance(image, ScalarNode) and text_of(image) and image not in seen:
                seen.add(image)
                prefix = _DOCKER if where == ".pipe" else ""
                image_refs.append(
                    template_reference(
                        file.source, image, NAME, str(KeyPath(at, where)), _VARIABLE, _WHY, prefix=prefix
                    )
                )
    return ScanResult(tuple(image_refs))


READER: Final = FormatReader(NAME, by_name=lambda path: _FILE.fullmatch(path) is not None, read=read_bitbucket)
