"""Read the images in what a tool printed, each with the file that it came from. The output is untrusted. Pure.

- kustomize names the file of each resource in an annotation, and Helm in a comment above it (`# Source: ...`).
- Docker Compose names none: a service is in the file in which the scan has found it, else in the project's first file.

The position is the command, and the place in its output: `kubectl kustomize deploy/prod: Deployment web ...`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from boltseal.lockfile.document import Rendered
from boltseal.project.image_references import COMPOSE_NAMES, Format, ImageReference, ScanResult
from boltseal.project.references.compose_places import model_places, service_places
from boltseal.project.references.kubernetes import read_kubernetes
from boltseal.project.references.scalars import scalar_reference
from boltseal.project.references.yaml_nodes import compose, pairs, text_of
from boltseal.project.references.yaml_tree import Node, ScalarNode
from boltseal.project.rendering.tool_runs import NotRendered
from boltseal.project.source_files import SourceFile, Unreadable

NOT_WRITTEN: Final = "it is rendered: its digest is written where the values come from"
RENDERED: Final = "rendered"
"""The format of references that a tool printed."""
_ORIGIN: Final = "config.kubernetes.io/origin"
_PATH: Final = re.compile(r"^(?:path|configuredIn): *(\S.*)$", re.MULTILINE)
_SOURCE: Final = re.compile(r"^# Source: ([^\n]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Printed:
    """What a tool printed. `root`: the project; `base`: the folder from which paths in the text start. Both absolute."""

    text: bytes
    root: str
    base: str


def printed_images(
    each: Rendered, printed: Printed, found: ScanResult, crds: Mapping[str, Sequence[str]]
) -> list[ImageReference]:
    """Return the references in a tool's output. `found`: the project's scan.

    Raises: NotRendered: it is not what the tool prints.
    """
    try:
        source = SourceFile.of(each.title, printed.text)
        documents = compose(source)
        if each.tool == "compose":
            read = _services(each, source, documents, found)
        else:
            read = _resources(each, source, documents, crds, printed)
        return [_from(each, image_ref, path, found) for image_ref, path in read]
    except Unreadable as error:
        raise NotRendered(f"its output {error}") from error


def _services(
    each: Rendered, source: SourceFile, documents: Sequence[Node], found: ScanResult
) -> Iterator[tuple[ImageReference, str]]:
    folder = "" if each.path == "." else f"{each.path}/"
    own = {path.path for path in found.image_refs}
    first = next((f"{folder}{name}" for name in COMPOSE_NAMES if f"{folder}{name}" in own), each.path)
    at = {each.where: each.path for each in found.image_refs if each.format == Format.COMPOSE and each.path in own}
    beside = {
        image_ref.where: image_ref.path
        for image_ref in found.image_refs
        if image_ref.format == Format.COMPOSE and posixpath.dirname(image_ref.path) == posixpath.dirname(first)
    }
    for document in documents:
        for name, service in pairs(pairs(document).get("services")).items():
            keys = pairs(service)
            places = [("image", keys.get("image"), "")]
            places += [(place.where, place.node, place.prefix) for place in service_places(keys)]
            for inner, node, prefix in places:
                if isinstance(node, ScalarNode) and text_of(node):
                    where = f"services.{name}.{inner}"
                    image_ref = scalar_reference(source, node, Format.COMPOSE, where, prefix=prefix)
                    build = inner == "image" and "build" in keys
                    yield replace(image_ref, build=build), beside.get(where, at.get(where, first))
    for place in model_places(tuple(documents)):
        if isinstance(place.node, ScalarNode):
            yield scalar_reference(source, place.node, Format.COMPOSE, place.where), first


def _resources(
    each: Rendered,
    source: SourceFile,
    documents: Sequence[Node],
    crds: Mapping[str, Sequence[str]],
    printed: Printed,
) -> Iterator[tuple[ImageReference, str]]:
    comments = [(match.end(), match[1]) for match in _SOURCE.finditer(source.text)]
    for document in documents:
        if each.tool == "helm":
            begin = document.start
            path = next((path for end, path in reversed(comments) if end <= begin), "")
            at = posixpath.join(printed.root, each.path)
            file = _inside(printed, posixpath.join(at, path.partition("/")[2].lstrip("/"))) or each.path
        else:
            annotations = pairs(pairs(pairs(document).get("metadata")).get("annotations"))
            origin = _PATH.search(text_of(annotations.get(_ORIGIN)) or "")
            file = "" if origin is None else _inside(printed, origin[1].strip())
            file = file or posixpath.normpath(posixpath.join(each.path, "kustomization.yaml"))
        for image_ref in read_kubernetes(source, [document], crds).image_refs:
            yield image_ref, file


def _inside(printed: Printed, path: str) -> str:
    """Return the path in the project of a file that the output names; "" if it is outside."""
    file = posixpath.relpath(posixpath.join(printed.base, path), printed.root)
    return "" if file == ".." or file.startswith("../") else file


def _from(each: Rendered, image_ref: ImageReference, path: str, found: ScanResult) -> ImageReference:
    """Return a reference of the output as one of the file from which it came."""
    written = (other for other in found.image_refs if other.path == path and _same_place(other, image_ref))
    line = next((other.line for other in written), 1)
    return replace(
        image_ref,
        path=path,
        format=RENDERED,
        line=line,
        where=f"{each.title}: {image_ref.where}",
        edit_range=None,
        override_only=NOT_WRITTEN,
    )


def _same_place(written: ImageReference, printed: ImageReference) -> bool:
    return written.where == printed.where or written.where.endswith(f".{printed.where}")
