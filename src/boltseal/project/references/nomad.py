"""Nomad jobs in HCL: `image` in the `config` of a task or a sidecar.

Variables and locals have their defaults; an image that contains one is locked, and no digest is written into it. The same
applies to the templates of Nomad Pack and Levant (`job.nomad.tpl`), which are not rendered. Other attributes and
functions are known only when the job runs. A file `*.hcl` is a job if it has a block `job`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from boltseal.project.image_references import ImageReference, ScanResult
from boltseal.project.references.hcl import filled_in, read_hcl, variable_defaults
from boltseal.project.references.reader import FormatReader, ProjectFile, Syntax
from boltseal.project.references.scalars import parse_reference, text_reference

NAME: Final = "nomad"
VARIABLE: Final = "a variable sets a part of it: another value would be combined with this digest"
TEMPLATE: Final = "it is in a template, which is not edited"
_FILE: Final = re.compile(
    r".+\.(?:nomad(?:\.hcl)?|hcl)(?P<template>\.(?:tpl|tmpl|ctmpl|j2))?|.+\.nomad\.[a-z0-9]+", re.DOTALL
)
_JOB: Final = re.compile(r'^[ \t]*job[ \t]+(?:"|\[\[)', re.MULTILINE)
_IN_PACK: Final = re.compile(r"\[\[|\{\{")
_NOT_EVALUATED: Final = "its variables have no default, or it is an expression, which is not evaluated"


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
