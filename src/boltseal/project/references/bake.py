"""Bake files of Docker Buildx, HCL and JSON: contexts that are images, and Dockerfiles inside a target.

A context `docker-image://alpine:3.20` is an image; other contexts are folders and targets. Variables have their defaults;
an image that contains one is locked, and no digest is written into it. The base images that a target's `args` select
are read as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from boltseal.project.image_references import Accounted, ImageReference, ScanResult, Span
from boltseal.project.references.build_arguments import selected_bases
from boltseal.project.references.dockerfile import read_dockerfile
from boltseal.project.references.hcl import HclText, filled_in, read_hcl, variable_defaults
from boltseal.project.references.reader import FormatReader, ProjectFile, Syntax
from boltseal.project.references.scalars import parse_reference, template_reference, text_reference
from boltseal.project.references.yaml_nodes import Pairs, items, pairs, text_of
from boltseal.project.references.yaml_tree import Node, ScalarNode
from boltseal.project.source_files import SourceFile, Unreadable

NAME: Final = "bake"
JSON_NAME: Final = "bake-json"
VARIABLE: Final = "a variable sets a part of it: another value would be combined with this digest"
INLINE: Final = "it is in a Dockerfile inside the bake file, which is not edited"
_FILE: Final = re.compile(r"(?:.*/)?[^/]*bake[^/]*\.(?P<kind>hcl|json)", re.DOTALL)
_CONTEXT: Final = "docker-image://"
_EXPRESSION: Final = re.compile(r"\$\{")
MAX_INHERITS: Final = 20
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
    selected = [_selected(file, target) for target in _inherited(_targets(texts, defaults))]
    image_refs += (image_ref for found in selected for image_ref in found.image_refs)
    return ScanResult(tuple(image_refs), accounted=tuple(each for found in selected for each in found.accounted))


@dataclass(slots=True)
class _Target:
    """What a target builds with which arguments. `span`: its first argument."""

    name: str
    span: Span
    args: dict[str, str | None] = field(default_factory=dict)
    context: str | None = "."
    dockerfile: str | None = "Dockerfile"
    inherits: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()


def _inherited(targets: Mapping[str, _Target]) -> list[_Target]:
    """Return the targets with what they inherit: a target's own values first, and of several the last one's."""
    done: dict[str, _Target] = {}
    return [_merged(target, targets, done, MAX_INHERITS) for target in targets.values()]


def _merged(target: _Target, targets: Mapping[str, _Target], done: dict[str, _Target], left: int) -> _Target:
    """Return one target with what it inherits. `done`: each is merged once; `left`: how many levels are followed."""
    if target.name in done:
        return done[target.name]
    merged = done[target.name] = replace(target, args=dict(target.args))
    for name in reversed(target.inherits if left else ()):
        base = targets.get(f"target.{name}")
        if base is None:
            continue
        base = _merged(base, targets, done, left - 1)
        merged.args = {**base.args, **merged.args}
        merged.span = merged.span if merged.span.end else base.span
        for key in base.own - merged.own:
            setattr(merged, key, getattr(base, key))
        merged.own |= base.own
    return merged


def _targets(texts: list[HclText], defaults: Mapping[str, str]) -> dict[str, _Target]:
    """Return the targets by name."""
    found: dict[str, _Target] = {}
    for each in texts:
        if not each.path or not each.path[0].startswith("target "):
            continue
        name = each.path[0].replace(" ", ".")
        target = found.setdefault(name, _Target(name, Span(0, 0)))
        if each.path[1:] == ("args",):
            target.args[each.key] = filled_in(each, defaults)
            target.span = target.span if target.span.end else each.span
        elif len(each.path) == 1 and each.key in ("context", "dockerfile"):
            setattr(target, each.key, filled_in(each, defaults))
            target.own |= {each.key}
        elif len(each.path) == 1 and each.key == "inherits":
            target.inherits += (each.value,)
    return found


def _selected(file: ProjectFile, target: _Target) -> ScanResult:
    """Return the base images that a target's arguments select. Its paths are relative to the bake file's folder."""
    if not target.args or target.context is None or target.dockerfile is None or "://" in target.context:
        return ScanResult()
    try:
        name = file.project.name(Path(target.context, target.dockerfile), file.source.path.rpartition("/")[0])
        dockerfile = file.project.read(name) if file.project.has(name) else None
    except Unreadable:
        return ScanResult()  # reported where it is scanned
    if dockerfile is None:
        return ScanResult()
    selected = selected_bases(dockerfile, target.args)
    image_refs = (
        replace(
            image_ref,
            path=file.source.path,
            format=NAME if file.source.path.endswith(".hcl") else JSON_NAME,
            where=f"{target.name}.args {image_ref.where}",
            line=file.source.line(target.span.start),
            span=target.span,
        )
        for image_ref in selected.image_refs
    )
    return replace(selected, image_refs=tuple(image_refs))


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
    accounted: list[Accounted] = []
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
        listed = [_json_target(name, pairs(target)) for name, target in pairs(pairs(document).get("target")).items()]
        for selected in (_selected(file, each) for each in _inherited({each.name: each for each in listed})):
            image_refs.extend(selected.image_refs)
            accounted.extend(selected.accounted)
    return ScanResult(tuple(image_refs), accounted=tuple(accounted))


def _json_target(name: str, keys: Pairs) -> _Target:
    def text(node: Node | None, default: str | None = None) -> str | None:
        value = text_of(node)
        return default if value is None else None if _EXPRESSION.search(value) else value

    args = keys.get("args")
    span = Span(0, 0) if args is None else Span(args.start, args.end)
    return _Target(
        f"target.{name}",
        span,
        {key: text(value) for key, value in pairs(args).items()},
        text(keys.get("context"), "."),
        text(keys.get("dockerfile"), "Dockerfile"),
        tuple(filter(None, map(text_of, items(keys.get("inherits"))))),
        frozenset({"context", "dockerfile"} & keys.keys()),
    )


def _is(path: str, kind: str) -> bool:
    match = _FILE.fullmatch(path)
    return match is not None and match["kind"] == kind


READER: Final = FormatReader(
    NAME, by_name=lambda path: _is(path, "hcl"), read=read_bake, syntax=Syntax.TEXT, common_suffix=True
)
JSON_READER: Final = FormatReader(JSON_NAME, by_name=lambda path: _is(path, "json"), read=read_bake_json)
