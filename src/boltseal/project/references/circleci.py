"""CircleCI: `image` in every list called `docker`, of jobs, executors and orbs.

A `machine` has an image too, which is one of a virtual machine. A parameter (`<< parameters.tag >>`) is known only when
the pipeline runs.
"""

from __future__ import annotations

import re
from typing import Final

from boltseal.project.image_references import Accounted, ImageReference, ScanResult
from boltseal.project.references.reader import FormatReader, ProjectFile
from boltseal.project.references.scalars import template_reference
from boltseal.project.references.yaml_nodes import KeyPath, items, mappings, pairs, span_of, text_of
from boltseal.project.references.yaml_tree import Node, ScalarNode

NAME: Final = "circleci"
_FILE: Final = re.compile(r"(?:.*/)?\.circleci/.+\.ya?ml", re.DOTALL)
_PARAMETER: Final = re.compile(r"<<|\$")
_WHY: Final = "a parameter (<< >>) or variable is evaluated only when the pipeline runs"
_MACHINE: Final = "it is the image of a virtual machine"


def read_circleci(file: ProjectFile) -> ScanResult:
    """Return the image references of a configuration or an orb."""
    source = file.source
    image_refs: list[ImageReference] = []
    accounted: list[Accounted] = []
    for document in file.documents:
        for node, at in mappings(document):
            keys = pairs(node)
            for index, entry in enumerate(items(keys.get("docker"))):
                image = pairs(entry).get("image")
                if isinstance(image, ScalarNode) and text_of(image):
                    where = str(KeyPath(at, f".docker[{index}].image"))
                    image_refs.append(template_reference(source, image, NAME, where, _PARAMETER, _WHY))
            machine = pairs(keys.get("machine")).get("image")
            if isinstance(machine, ScalarNode):
                accounted.append(Accounted(source.path, span_of(source, machine), _MACHINE))
    return ScanResult(tuple(image_refs), accounted=tuple(accounted))


def _has_docker_list(documents: tuple[Node, ...]) -> bool:
    """Return whether a document, one of its jobs or one of its executors has a list `docker` with images."""
    for document in documents:
        keys = pairs(document)
        parts = (pairs(part) for name in ("jobs", "executors") for part in pairs(keys.get(name)).values())
        if any("image" in pairs(entry) for part in (keys, *parts) for entry in items(part.get("docker"))):
            return True
    return False


READER: Final = FormatReader(
    NAME,
    by_name=lambda path: _FILE.fullmatch(path) is not None,
    by_content=_has_docker_list,
    read=read_circleci,
)
