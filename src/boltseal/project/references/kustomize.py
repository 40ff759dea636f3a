"""Kustomize's `images`: `name`, `newName`, `newTag`, `digest`. Each entry is one reference, assembled from its parts.

The repository is `newName`, else `name`. If there is a `digest`, kustomize ignores `newTag`. A digest is appended to
the tag (`newTag: 1.2@sha256:...`), written into an existing `digest`, or appended to `newName`. An entry without any of
them has no reference of its own. `helmCharts[].valuesInline` are Helm values.

Patches contain images too. A patch in a file of its own is edited there, as resources or as a list of operations (JSON
Patch, RFC 6902). A patch that is a text inside the kustomization is read but not edited.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from boltseal.project.image_references import Accounted, Format, ImageReference, ScanProblem, ScanResult
from boltseal.project.references.helm import read_values
from boltseal.project.references.kubernetes import read_kubernetes
from boltseal.project.references.kustomize_images import entry_parts, entry_reference
from boltseal.project.references.reader import FileToFollow, FormatReader, ProjectFile
from boltseal.project.references.scalars import scalar_reference
from boltseal.project.references.yaml_nodes import compose, items, line_of, pairs, span_of, text_of
from boltseal.project.references.yaml_tree import Node, ScalarNode, SequenceNode
from boltseal.project.source_files import SourceFile, Unreadable

INLINE_PATCH: Final = (
    "it is in a patch inside the kustomization, which is not edited: move the patch into a file of its own"
)
KUSTOMIZATION_NAMES: Final = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_PATCHES: Final = ("patches", "patchesJson6902", "patchesStrategicMerge")


def read_kustomize(source: SourceFile, documents: Sequence[Node]) -> ScanResult:
    """Return the image references of a kustomization or component."""
    image_refs: list[ImageReference] = []
    problems: list[ScanProblem] = []
    accounted: list[Accounted] = []
    for node, where in _patches(documents, "patch"):
        if _is_text(node):
            try:
                image_refs.extend(_inside(source, node, where))
            except Unreadable as error:
                problems.append(ScanProblem(source.path, line_of(node) + error.problem.line, error.problem.message))
    for document in documents:
        for index, entry in enumerate(items(pairs(document).get("images"))):
            image_ref = entry_reference(source, pairs(entry), f"images[{index}]")
            if image_ref is not None:
                image_refs.append(image_ref)
            accounted += entry_parts(source, pairs(entry))
        for index, chart in enumerate(items(pairs(document).get("helmCharts"))):
            values = pairs(chart).get("valuesInline")
            if values is not None:
                found = read_values(source, [values], f"helmCharts[{index}].valuesInline")
                image_refs += found.image_refs
                accounted += found.accounted
    return ScanResult(tuple(image_refs), tuple(problems), (), (), tuple(accounted))


def patch_files(documents: Sequence[Node]) -> list[ScalarNode]:
    """Return the scalars that name a patch file."""
    return [node for node, _ in _patches(documents, "path") if not _is_text(node)]


def read_operations(source: SourceFile, documents: Sequence[Node]) -> ScanResult:
    """Return the image references of a patch that is a list of operations; none for any other document."""
    found: list[ImageReference] = []
    for document in documents:
        for index, operation in enumerate(items(document)):
            keys = pairs(operation)
            path, value = text_of(keys.get("path")) or "", keys.get("value")
            node = value if path.endswith("/image") else pairs(value).get("image")
            if text_of(keys.get("op")) in ("add", "replace") and isinstance(node, ScalarNode) and text_of(node):
                found.append(scalar_reference(source, node, Format.KUSTOMIZE, f"[{index}] {path}"))
    return ScanResult(tuple(found))


def _patches(documents: Sequence[Node], key: str) -> Iterator[tuple[ScalarNode, str]]:
    """Yield the scalars under a key in the lists of patches; an entry that is a text counts for either key."""
    for document in documents:
        for name in _PATCHES:
            for index, entry in enumerate(items(pairs(document).get(name))):
                node = pairs(entry).get(key, entry)
                if isinstance(node, ScalarNode) and text_of(node):
                    yield node, f"{name}[{index}]"


def _is_text(node: ScalarNode) -> bool:
    """Return whether a scalar is a patch itself rather than a file name."""
    return "\n" in node.value or node.value.lstrip().startswith(("[", "{"))


def _inside(source: SourceFile, node: ScalarNode, where: str) -> Iterator[ImageReference]:
    """Yield the image references of a patch that is a text of the kustomization."""
    inner = SourceFile.of(source.path, node.value.encode())
    documents = compose(inner)
    lists = [document for document in documents if isinstance(document, SequenceNode)]
    for image_ref in (*read_operations(inner, lists).image_refs, *read_kubernetes(inner, documents).image_refs):
        yield replace(
            image_ref,
            format=Format.KUSTOMIZE,
            where=f"{where} {image_ref.where}",
            line=line_of(node) + (image_ref.line if node.style in ("|", ">") else 0),
            span=span_of(source, node),
            edit_range=None,
            override_only=image_ref.why or INLINE_PATCH,
        )


def _patch_files(file: ProjectFile) -> Iterator[FileToFollow]:
    """Yield the files with patches. Their content does not identify them as resources."""
    folder = file.source.path.rpartition("/")[0]
    for node in patch_files(file.documents):
        yield FileToFollow(node.value, folder, line_of(node), PATCH_READER.name, optional=True)


def _is_kustomization(documents: tuple[Node, ...]) -> bool:
    return any(
        (text_of(pairs(document).get("apiVersion")) or "").startswith("kustomize.config.k8s.io/")
        for document in documents
    )


READER: Final = FormatReader(
    Format.KUSTOMIZE,
    by_name=lambda path: path.rpartition("/")[2] in KUSTOMIZATION_NAMES,
    by_content=_is_kustomization,
    read=lambda file: read_kustomize(file.source, file.documents),
    follows=_patch_files,
)
PATCH_READER: Final = FormatReader(
    "kustomize-patch",
    by_name=lambda _path: False,
    read=lambda file: read_operations(file.source, file.documents),
)
