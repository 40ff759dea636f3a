"""Templates: files that become YAML or a Dockerfile only after rendering. Read line by line, never edited.

Templates are not rendered. So that no image is overlooked, each line that names one is reported:

- In a chart's `templates/`, a line with an expression gets its image from the values, which are read: a note. A line
  with a literal image (`image: busybox:1.36`, as charts have for their tests) is an image reference: it is locked and
  verified like any other, but no digest is written into it.
- Elsewhere (`deployment.yaml.j2`, `compose.yml.tmpl`) the template's input is unknown: each line is a problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from boltseal.errors import quote
from boltseal.project.image_references import Format, ImageReference, ScanProblem, ScanResult, Span
from boltseal.project.references.scalars import parse_reference
from boltseal.project.source_files import SourceFile

NOT_EDITED: Final = "it is in a chart's template, which is not edited: move the image into the values"
_SUFFIXES: Final = ("ctmpl", "erb", "gotmpl", "hbs", "j2", "jinja", "jinja2", "mustache", "template", "tmpl", "tpl")
_is_template: Final = re.compile(rf"(.+)\.(?:{'|'.join(_SUFFIXES)})", re.IGNORECASE | re.DOTALL).fullmatch
_IMAGE: Final = re.compile(r"""(?<![\w.$-])["']?image["']?[ \t]*:[ \t]+(?P<value>\S[^\r\n]*)""")
_LITERAL: Final = re.compile(
    r"""(?P<quote>["']?)(?P<name>[A-Za-z0-9][A-Za-z0-9._/:@-]*)(?P=quote)[ \t]*(?:[,}\]#].*)?"""
)
_FROM: Final = re.compile(r"[ \t]*FROM[ \t]+(?P<value>\S[^\r\n]*)", re.IGNORECASE)
_EXPRESSION: Final = re.compile(r"\{\{|\{%|<%")
_AFFECTS_BUILD: Final = re.compile(r"^[ \t]*(?:\{\{|\{%|<%|FROM[ \t].*(?:\{\{|\{%|<%))", re.IGNORECASE | re.MULTILINE)
_COMMENT: Final = re.compile(r"\{\{-?[ \t]{0,8}/\*|\{#")
_ENDS: Final = {"*": "*/", "#": "#}"}


class _Line(NamedTuple):
    """A line that names an image: its number from 1, the offset of its value, and the value."""

    number: int
    start: int
    value: str


def template_of(name: str) -> str | None:
    """Return the name of the file that a template renders to (`compose.yml` for `compose.yml.j2`), or None."""
    match = _is_template(name)
    return None if match is None else match[1]


def contains_image_line(source: SourceFile) -> bool:
    """Return whether an unparsed text has a line with an image."""
    return next(_lines(source), None) is not None


def affects_build(source: SourceFile) -> bool:
    """Return whether expressions can change a Dockerfile's instructions or its base image."""
    return _AFFECTS_BUILD.search(source.text) is not None


def read_template(source: SourceFile) -> ScanResult:
    """Report the lines with images in a template outside of a chart as problems."""
    lines = [*_lines(source), *(_matches(source, _FROM) if "dockerfile" in source.path.lower() else ())]
    message = "is in a template, which is not rendered; lock the rendered file, and skip this one by [lock] exclude"
    return ScanResult(
        (), tuple(ScanProblem(source.path, line.number, f"{_shown(line.value)} {message}") for line in lines)
    )


def read_chart_template(source: SourceFile) -> ScanResult:
    """Return the image references and notes of a file in a chart's `templates/`."""
    image_refs: list[ImageReference] = []
    notes: list[ScanProblem] = []
    for line in _lines(source):
        literal = _LITERAL.fullmatch(line.value)
        if literal is not None:
            image_refs.append(_image_ref(source, line, literal, len(image_refs)))
        elif _EXPRESSION.search(line.value):
            notes.append(
                ScanProblem(
                    source.path,
                    line.number,
                    f"{_shown(line.value)} is rendered by the chart: only its values are read",
                )
            )
    return ScanResult(tuple(image_refs), (), tuple(notes))


def _image_ref(source: SourceFile, line: _Line, literal: re.Match[str], number: int) -> ImageReference:
    resolved, why = parse_reference(literal["name"])
    start = line.start + literal.start("name")
    return ImageReference(
        path=source.path,
        format=Format.HELM,
        where=f"image[{number}]",
        line=line.number,
        span=Span(start, start + len(literal["name"])),
        written=literal["name"],
        resolved=resolved,
        why=why,
        override_only=why or NOT_EDITED,
    )


def _lines(source: SourceFile) -> Iterator[_Line]:
    yield from _matches(source, _IMAGE)


def _matches(source: SourceFile, pattern: re.Pattern[str]) -> Iterator[_Line]:
    """Yield the lines that a pattern matches, without comment lines."""
    text = _without_comments(source.text)
    at = 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        match = None if line.lstrip().startswith("#") else pattern.search(line)
        if match is not None:
            yield _Line(number, at + match.start("value"), match["value"].rstrip())
        at += len(line)


def _without_comments(text: str) -> str:
    """Replace Go and Jinja comments by blanks, offsets unchanged. An unclosed comment is left as it is."""
    parts: list[str] = []
    at = 0
    begin = _COMMENT.search(text)
    while begin is not None:
        end = text.find(_ENDS[begin[0][-1]], begin.end())
        if end < 0:
            break
        parts += (text[at : begin.start()], re.sub(r"[^\r\n]", " ", text[begin.start() : end]))
        at = end
        begin = _COMMENT.search(text, end)
    return "".join((*parts, text[at:]))


def _shown(value: str) -> str:
    return quote(value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value)
