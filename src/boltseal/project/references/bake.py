"""Bake files of Docker Buildx, HCL and JSON: contexts that are images, and Dockerfiles inside a target.

A context `docker-image://alpine:3.20` is an image; other contexts are folders and targets. Variables have their defaults;
an image that contains one is locked, and no digest is written into it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from yaml.nodes import ScalarNode

from boltseal.project.image_references import ImageReference, ScanResult
from boltseal.project.references.dockerfile import read_dockerfile
from boltseal.project.references.hcl import HclText, filled_in, read_hcl, variable_defaults
from boltseal.project.references.reader import FormatReader, ProjectFile, Syntax
from boltseal.project.references.scalars import parse_reference, template_reference, text_reference
from boltseal.project.references.yaml_nodes import pairs
from boltseal.project.source_files import SourceFile

NAME: Final = "bake"
JSON_NAME: Final = "bake-json"
VARIABLE: Final = "a variable sets a part of it: another value would be combined with this digest"
INLINE: Final = "it is in a Dockerfile inside the bake file, which is not edited"
_FILE: Final = re.compile(r"(?:.*/)?[^/]*bake[^/]*\.(?P<kind>hcl|json)", re.DOTALL)
_CONTEXT: Final = "docker-image://"
_EXPRESSION: Final = re.compile(r"\$\{")
_NOT_EVALUATED: Final = "its variables have no default, or it is an expression, which is not evaluated"


def read_bake(file: ProjectFile) -> ScanResult:
    """Return the image references of a bake file in HCL."""
    source = file.source
    texts = list(read_hcl(source))
    defaults = variable_defaults(texts)
    image_refs: list[ImageReference] = []
    for each in texts:
        if each.path and each.path[-1] == "contexts" and each.value.startswith(_CONTEXT):
            where = ".".join((*each.path, each.key)).replace(" ", ".")
            filled = filled_in(each, defaults)
            why = _NOT_EVALUATED if filled is None else None
            image_ref = text_reference(source, each.span, NAME, where, why=why, prefix=_CONTEXT)
            if filled is not None and filled != each.value:
                resolved, error = parse_reference(filled.removeprefix(_CONTEXT))
                image_ref = replace(
                    image_ref, resolved=resolved, why=error, edit_range=None, override_only=error or VARIABLE
                )
            image_refs.append(image_ref)
        elif each.key == "dockerfile-inline":
            image_refs.extend(_inline(source, each))
    return ScanResult(tuple(image_refs))


def _inline(source: SourceFile, each: HclText) -> Iterator[ImageReference]:
    inner = SourceFile.of(source.path, each.value.encode())
    begin = source.line(each.span.start) - 1
    for image_ref in read_dockerfile(inner).image_refs:
        yield replace(
            image_ref,
            format=NAME,
            where=f"{'.'.join(each.path).replace(' ', '.')}.dockerfile-inline {image_ref.where}",
            line=begin + image_ref.line,
            span=each.span,
            edit_range=None,
            override_only=image_ref.why or INLINE,
        )


def read_bake_json(file: ProjectFile) -> ScanResult:
    """Return the image references of a bake file in JSON."""
    image_refs: list[ImageReference] = []
    for document in file.documents:
        for name, target in pairs(pairs(document).get("target")).items():
            for context, node in pairs(pairs(target).get("contexts")).items():
                if isinstance(node, ScalarNode) and node.value.startswith(_CONTEXT):
                    where = f"target.{name}.contexts.{context}"
                    image_refs.append(
                        template_reference(
                            file.source, node, JSON_NAME, where, _EXPRESSION, _NOT_EVALUATED, prefix=_CONTEXT
                        )
                    )
    return ScanResult(tuple(image_refs))


def _is(path: str, kind: str) -> bool:
    match = _FILE.fullmatch(path)
    return match is not None and match["kind"] == kind


READER: Final = FormatReader(
    NAME, by_name=lambda path: _is(path, "hcl"), read=read_bake, syntax=Syntax.TEXT, common_suffix=True
)
JSON_READER: Final = FormatReader(JSON_NAME, by_name=lambda path: _is(path, "json"), read=read_bake_json)
