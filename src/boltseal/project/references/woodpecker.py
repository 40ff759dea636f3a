"""Woodpecker and Drone: `image` of `steps`, `pipeline`, `services` and `clone`, which are lists or mappings.

A variable of Woodpecker's `matrix` gives one image for each of its values; such an image is locked, and no digest is
written into it, because it would be combined with other values. Other variables are known only when the pipeline runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice, product
from typing import Final

from boltseal.project.image_references import ImageReference, ScanResult
from boltseal.project.references.reader import FormatReader, ProjectFile
from boltseal.project.references.scalars import parse_reference, template_reference
from boltseal.project.references.yaml_nodes import items, pairs, text_of
from boltseal.project.references.yaml_tree import Node, ScalarNode
from boltseal.project.source_files import SourceFile

NAME: Final = "woodpecker"
MAX_COMBINATIONS: Final = 200
MATRIX: Final = "a matrix sets a part of it, so that a digest would be combined with other values"
_FILE: Final = re.compile(r"(?:.*/)?\.(?:woodpecker|drone)(?:/.+)?\.ya?ml", re.DOTALL)
_VARIABLE: Final = re.compile(r"\$")
_WHY: Final = "a variable is evaluated only when the pipeline runs"
_LISTS: Final = ("clone", "pipeline", "services", "steps")
_MATRIX_VARIABLE: Final = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")


def read_woodpecker(file: ProjectFile) -> ScanResult:
    """Return the image references of a pipeline."""
    found: dict[tuple[Node, object], ImageReference] = {}
    for number, document in enumerate(file.documents):
        begin = f"[{number}]." if len(file.documents) > 1 else ""
        values = list(_combinations(pairs(document).get("matrix")))
        for name in _LISTS:
            for key, step in _entries(pairs(document).get(name)):
                image = pairs(step).get("image")
                if isinstance(image, ScalarNode) and text_of(image):
                    for image_ref in _references(file.source, image, f"{begin}{name}{key}.image", values):
                        found.setdefault((image, image_ref.resolved), image_ref)
    return ScanResult(tuple(found.values()))


def _references(
    source: SourceFile, node: ScalarNode, where: str, values: list[Mapping[str, str]]
) -> Iterator[ImageReference]:
    """Yield the reference of a scalar, one for each combination of the matrix if it uses its variables."""
    plain = template_reference(source, node, NAME, where, _VARIABLE, _WHY)
    names = set(_MATRIX_VARIABLE.findall(node.value))
    if not names or not values or not all(names <= combination.keys() for combination in values):
        yield plain
        return
    for combination in values:
        resolved, why = parse_reference(_MATRIX_VARIABLE.sub(lambda match: combination[match[1]], node.value.strip()))  # noqa: B023, RUF100 - used at once
        yield replace(plain, resolved=resolved, why=why, override_only=why or MATRIX)


def _entries(node: Node | None) -> Iterator[tuple[str, Node]]:
    yield from ((f".{name}", step) for name, step in pairs(node).items())
    yield from ((f"[{text_of(pairs(step).get('name')) or index}]", step) for index, step in enumerate(items(node)))


def _combinations(matrix: Node | None) -> Iterator[Mapping[str, str]]:
    """Yield the values of a matrix: those of each `include`, or every combination of its lists."""
    keys = pairs(matrix)
    included = items(keys.get("include")) or items(matrix)
    if included:
        for entry in included:
            yield {name: text_of(value) or "" for name, value in pairs(entry).items()}
        return
    names = list(keys)
    lists = [[text_of(value) or "" for value in items(keys[name])] for name in names]
    if names:
        yield from (dict(zip(names, each, strict=True)) for each in islice(product(*lists), MAX_COMBINATIONS))


READER: Final = FormatReader(NAME, by_name=lambda path: _FILE.fullmatch(path) is not None, read=read_woodpecker)
