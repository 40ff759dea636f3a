"""An entry of kustomize's `images`, in a kustomization or in a Kustomization of Flux: `name`, `newName`, `newTag`, `digest`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from boltseal.project.image_references import Accounted, EditRange, Format, ImageReference
from boltseal.project.references.helm import digest_range, number_problem
from boltseal.project.references.scalars import digest_length, parse_reference
from boltseal.project.references.yaml_nodes import content_end, span_of, text_of
from boltseal.project.references.yaml_tree import Node, ScalarNode
from boltseal.project.source_files import SourceFile

_SELECTOR: Final = "it selects the images that a kustomization changes"


def entry_parts(source: SourceFile, keys: dict[str, Node]) -> Iterator[Accounted]:
    """Yield the texts of an entry that select the images that it changes, or are parts of its reference."""
    for key in ("name", "newName", "newTag"):
        node = keys.get(key)
        if isinstance(node, ScalarNode):
            yield Accounted(source.path, span_of(source, node), _SELECTOR if key == "name" else None)


def entry_reference(source: SourceFile, keys: dict[str, Node], where: str) -> ImageReference | None:
    """Return the reference of an entry of `images`, None for one that names no image of its own."""
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
