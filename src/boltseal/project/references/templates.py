"""Templates: files that become YAML or a Dockerfile only when something is filled in. Read line by line, never edited.

What a template makes of its values is not evaluated. So that nothing passes unseen, each line that names an image is told:

- In a chart's `templates/` a line with an expression takes its image from the values, which are read: a note. A line that
  names an image outright (`image: busybox:1.36`, as charts do for their tests) is a site: locked and verified like any
  other, and no digest is written into it.
- Anywhere else (`deployment.yaml.j2`, `compose.yml.tmpl`) nobody knows what it is filled from: each line is a problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from boltseal.errors import quote
from boltseal.project.image_references import Format, ImageReference, ScanProblem, ScanResult, Span
from boltseal.project.references.scalars import parse_reference
from boltseal.project.source_files import SourceFile

NOT_EDITED: Final = "it stands in a chart's template, which is not edited: name it in the values"
_SUFFIXES: Final = ("ctmpl", "erb", "gotmpl", "hbs", "j2", "jinja", "jinja2", "mustache", "template", "tmpl", "tpl")
_is_template: Final = re.compile(rf"(.+)\.(?:{'|'.join(_SUFFIXES)})", re.IGNORECASE | re.DOTALL).fullmatch
_IMAGE: Final = re.compile(r"""(?<![\w.$-])["']?image["']?[ \t]*:[ \t]+(?P<value>\S[^\r\n]*)""")
_LITERAL: Final = re.compile(
    r"""(?P<quote>["']?)(?P<name>[A-Za-z0-9][A-Za-z0-9._/:@-]*)(?P=quote)[ \t]*(?:[,}\]#].*)?"""
)
_FROM: Final = re.compile(r"[ \t]*FROM[ \t]+(?P<value>\S[^\r\n]*)", re.IGNORECASE)
_EXPRESSION: Final = re.compile(r"\{\{|\{%|<%")
_STEERS: Final = re.compile(r"^[ \t]*(?:\{\{|\{%|<%|FROM[ \t].*(?:\{\{|\{%|<%))", re.IGNORECASE | re.MULTILINE)
_COMMENT: Final = re.compile(r"\{\{-?[ \t]{0,8}/\*|\{#")
_ENDS: Final = {"*": "*/", "#": "#}"}


class _Line(NamedTuple):
    """A line that names an image: its number from 1, where its value stands in the text, and the value."""

    number: int
    start: int
    value: str


def template_of(name: str) -> str | None:
    """What a file becomes, by its name: `compose.yml` of `compose.yml.j2`; None of what is no template by its name."""
    match = _is_template(name)
    return None if match is None else match[1]


def names_an_image(source: SourceFile) -> bool:
    """Whether a text that no parser reads has a line with an image."""
    return next(_lines(source), None) is not None


def steers_a_build(source: SourceFile) -> bool:
    """Whether expressions of a template decide which instructions a Dockerfile has, or what it is built from."""
    return _STEERS.search(source.text) is not None


def read_template(source: SourceFile) -> ScanResult:
    """The lines that name images in a template outside of a chart; none of them is known."""
    lines = [*_lines(source), *(_matches(source, _FROM) if "dockerfile" in source.path.lower() else ())]
    message = "stands in a template, which is not evaluated; lock what it becomes, and leave it out by [lock] exclude"
    return ScanResult(
        (), tuple(ScanProblem(source.path, line.number, f"{_shown(line.value)} {message}") for line in lines)
    )


def read_chart_template(source: SourceFile) -> ScanResult:
    """The sites and the notes of a file below a chart's `templates/`."""
    image_refs: list[ImageReference] = []
    notes: list[ScanProblem] = []
    for line in _lines(source):
        literal = _LITERAL.fullmatch(line.value)
        if literal is not None:
            image_refs.append(_site(source, line, literal, len(image_refs)))
        elif _EXPRESSION.search(line.value):
            notes.append(
                ScanProblem(
                    source.path,
                    line.number,
                    f"{_shown(line.value)} is filled in by the chart: its values are read, and what it makes of them is not",
                )
            )
    return ScanResult(tuple(image_refs), (), tuple(notes))


def _site(source: SourceFile, line: _Line, literal: re.Match[str], number: int) -> ImageReference:
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
    """The lines that a pattern matches, those of comments left out."""
    text = _without_comments(source.text)
    at = 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        match = None if line.lstrip().startswith("#") else pattern.search(line)
        if match is not None:
            yield _Line(number, at + match.start("value"), match["value"].rstrip())
        at += len(line)


def _without_comments(text: str) -> str:
    """The text with blanks for what stands in comments of Go or Jinja, lines and places kept. One that never ends is none."""
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
