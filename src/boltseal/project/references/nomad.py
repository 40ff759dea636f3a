"""Nomad jobs in HCL and JSON: `image` in the `config` of a task or a sidecar.

Variables and locals have their defaults; an image that contains one is locked, and no digest is written into it. The same
applies to the templates of Nomad Pack and Levant (`job.nomad.tpl`), which are not rendered. Other attributes and
functions are known only when the job runs. A file `*.hcl` is a job if it has a block `job`.

A job in JSON is what `nomad job run -output` prints and `nomad job run -json` reads: an object with `TaskGroups`, alone or
under `Job`. Its variables are those of the node, which have no defaults.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from boltseal.project.image_references import ImageReference, ScanResult
from boltseal.project.references.hcl import filled_in, read_hcl, variable_defaults
from boltseal.project.references.reader import FormatReader, ProjectFile, Syntax
from boltseal.project.references.scalars import parse_reference, template_reference, text_reference
from boltseal.project.references.yaml_nodes import KeyPath, compose, items, mappings, pairs, text_of
from boltseal.project.references.yaml_tree import Node, ScalarNode
from boltseal.project.source_files import SourceFile, Unreadable

NAME: Final = "nomad"
JSON_NAME: Final = "nomad-json"
VARIABLE: Final = "a variable sets a part of it: another value would be combined with this digest"
TEMPLATE: Final = "it is in a template, which is not edited"
_FILE: Final = re.compile(
    r".+\.(?:nomad(?:\.hcl)?|hcl)(?P<template>\.(?:tpl|tmpl|ctmpl|j2))?|.+\.nomad\.(?!json$)[a-z0-9]+", re.DOTALL
)
_JOB: Final = re.compile(r'^[ \t]*job[ \t]+(?:"|\[\[)', re.MULTILINE)
_IN_PACK: Final = re.compile(r"\[\[|\{\{")
_NOT_EVALUATED: Final = "its variables have no default, or it is an expression, which is not evaluated"
_RUNTIME: Final = re.compile(r"\$\{")
_ON_THE_NODE: Final = "a variable (${...}) is known only on the node that runs the task"


def read_nomad(file: ProjectFile) -> ScanResult:
    """Return the image references of a job; none for other HCL."""
    source = file.source
    if _JOB.search(source.text) is None:
        return ScanResult()
    match = _FILE.fullmatch(source.path)
    template = match is not None and match["template"] is not None
    texts = list(read_hcl(source))
    defaults = variable_defaults(texts)
    image_refs: list[ImageReference] = []
    for each in texts:
        if each.key != "image" or not each.path or each.path[-1] != "config":
            continue
        where = f"{' '.join(each.path[:-1])} config.image"
        filled = None if _IN_PACK.search(each.value) else filled_in(each, defaults)
        why = _NOT_EVALUATED if filled is None else None
        image_ref = text_reference(source, each.span, NAME, where, why=why)
        if filled is not None and (filled != each.value or each.bare):
            resolved, error = parse_reference(filled)
            image_ref = replace(
                image_ref, resolved=resolved, why=error, edit_range=None, override_only=error or VARIABLE
            )
        elif template and image_ref.resolved is not None:
            image_ref = replace(image_ref, edit_range=None, override_only=TEMPLATE)
        image_refs.append(image_ref)
    return ScanResult(tuple(image_refs))


READER: Final = FormatReader(
    NAME,
    by_name=lambda path: _FILE.fullmatch(path) is not None,
    read=read_nomad,
    syntax=Syntax.TEXT,
    common_suffix=True,
)


def read_nomad_json(file: ProjectFile) -> ScanResult:
    """Return the image references of a job in JSON; none for any other document."""
    return ScanResult(
        tuple(
            template_reference(file.source, image, JSON_NAME, str(KeyPath(at, ".image")), _RUNTIME, _ON_THE_NODE)
            for document in file.documents
            if _is_job(document)
            for node, at in mappings(document)
            if at.word == ".Config" and isinstance(image := pairs(node).get("image"), ScalarNode) and text_of(image)
        )
    )


def is_nomad_job(source: SourceFile | None) -> bool:
    """Return whether a file is a job, in HCL or JSON. None: it can't be read as text."""
    if source is None:
        return False
    if _FILE.fullmatch(source.path) is not None:
        return _JOB.search(source.text) is not None
    try:
        return source.path.endswith(".json") and is_json_job(compose(source))
    except Unreadable:
        return False


def is_json_job(documents: tuple[Node, ...]) -> bool:
    """Return whether a file is a job in JSON."""
    return any(map(_is_job, documents))


def _is_job(document: Node) -> bool:
    job = pairs(document).get("Job", document)
    return any("Tasks" in pairs(group) for group in items(pairs(job).get("TaskGroups")))


JSON_READER: Final = FormatReader(
    JSON_NAME, by_name=lambda path: path.endswith(".nomad.json"), by_content=is_json_job, read=read_nomad_json
)
