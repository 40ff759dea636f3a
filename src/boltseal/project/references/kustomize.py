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

from boltseal.project.image_references import Accounted, EditRange, Format, ImageReference, ScanProblem, ScanResult
from boltseal.project.references.helm import digest_range, number_problem, read_values
from boltseal.project.references.kubernetes import read_kubernetes
from boltseal.project.references.reader import FileToFollow, FormatReader, ProjectFile
from boltseal.project.references.scalars import digest_length, parse_reference, scalar_reference
from boltseal.project.references.yaml_nodes import compose, content_end, items, line_of, pairs, span_of, text_of
from boltseal.project.references.yaml_tree import Node, ScalarNode, SequenceNode
from boltseal.project.source_files import SourceFile, Unreadable

INLINE_PATCH: Final = (
    "it is in a patch inside the kustomization, which is not edited: move the patch into a file of its own"
)
KUSTOMIZATION_NAMES: Final = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_SELECTOR: Final = "it selects the images that a kustomization changes"
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
            image_ref = _entry_reference(source, pairs(entry), f"images[{index}]")
            if image_ref is not None:
                image_refs.append(image_ref)
            accounted += _parts(source, pairs(entry))
        for index, chart in enumerate(items(pairs(document).get("helmCharts"))):
            values = pairs(chart).get("valuesInline")
            if values is not None:
                found = read_values(source, [values], f"helmCharts[{index}].valuesInline")
                image_refs += found.image_refs
                accounted += found.accounted
    return ScanResult(tuple(image_refs), tuple(problems), (), (), tuple(accounted))


def _parts(source: SourceFile, keys: dict[str, Node]) -> Iterator[Accounted]:
    """Yield the texts of an entry that select the images that it changes, or are parts of its reference."""
    for key in ("name", "newName", "newTag"):
        node = keys.get(key)
        if isinstance(node, ScalarNode):
            yield Accounted(source.path, span_of(source, node), _SELECTOR if key == "name" else None)


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


def _entry_reference(source: SourceFile, keys: dict[str, Node], where: str) -> ImageReference | None:
    name = text_of(keys.get("newName")) or text_of(keys.get("name"))
    tag, digest = text_of(keys.get("newTag")), text_of(keys.get("digest"))
    position = keys.get("newTag") or keys.get("digest") or keys.get("newName")
    if not name or not isinstance(position, ScalarNode):
        return None
    written = name + (f":{tag}" if tag else "")
    if digest:
        written = f"{written.partition('@')[0]}@{digest}"
    resolved, why = parse_reference(written)
    if (problem := number_problem(keys.get("newTag"))) is not None:
        resolved, why = None, problem
    image_ref = ImageReference(
        path=source.path,
        format=Format.KUSTOMIZE,
        where=where,
        line=source.line(span_of(source, position).start),
        span=span_of(source, position),
        written=written,
        resolved=resolved,
        why=why,
        edit_range=None if resolved is None else _edit_range(source, keys, digest),
        override_only=why,
    )
    if resolved is not None and not tag and not digest and "newTag" not in keys and ":" not in name.rpartition("/")[2]:
        reason = "its tag is set in the resources, where it can be pinned"
        return replace(image_ref, resolved=None, why=reason, edit_range=None, override_only=reason)
    return image_ref


def _edit_range(source: SourceFile, keys: dict[str, Node], digest: str | None) -> EditRange | None:
    if digest is not None and isinstance(keys["digest"], ScalarNode):
        return digest_range(source, keys["digest"])
    for key in ("newTag", "newName"):
        node = keys.get(key)
        written = text_of(node)
        if written and isinstance(node, ScalarNode):
            end = content_end(source, node)
            return EditRange(source.path, end - digest_length(written), end)
    return None


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
