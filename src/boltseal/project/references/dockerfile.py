"""Dockerfiles: FROM, `COPY --from`, `RUN --mount=from`, `# syntax=`, and the same after ONBUILD.

Stages are not images: skipped are `scratch`, a FROM that names an earlier stage after its variables are filled in, and
a `--from` that names any stage. Variables come from the ARGs before the first FROM. A build's `--build-arg` is not
known; it replaces an ARG's value together with its pin.

A digest is appended to the word; or to a default in it (`${V:-16@sha256:...}`); or to the ARG's default, if only this
text uses the variable. Never after a variable (`node:${V}@sha256:...`): the registry would be asked for the old digest
with any value of V. Such an image can be pinned by a source policy or a build context.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from boltseal.project.image_references import EditRange, Format, ImageReference, ScanProblem, ScanResult, Span
from boltseal.project.references.dockerfile_lines import DockerfileLines, Instruction, Text, read_lines
from boltseal.project.references.interpolation import (
    Dialect,
    Interpolated,
    InterpolationFailed,
    fill,
    steering_reason,
    variables_in,
)
from boltseal.project.references.reader import FormatReader, ProjectFile, Syntax
from boltseal.project.references.scalars import parse_reference
from boltseal.project.references.templates import affects_build, read_template, template_of
from boltseal.project.references.yaml_nodes import line_of, literal_offsets, span_of
from boltseal.project.references.yaml_tree import ScalarNode
from boltseal.project.source_files import SourceFile, Unreadable

MAX_DOCKERFILE_BYTES: Final = 1024 * 1024
_ANY_NAME: Final = re.IGNORECASE | re.DOTALL  # a line break in a file name must not hide the file
_NAME: Final = re.compile(r"(?:docker|container)file(?:\..+)?|.+\.(?:docker|container)file", _ANY_NAME)
# `Dockerfile.prod` is a Dockerfile; `dockerfile.py` and `Dockerfile.md` are not
_ABOUT_DOCKERFILES: Final = tuple(
    f".{word}"
    for word in (
        *("bak", "c", "cpp", "cs", "css", "dockerignore", "ex", "go", "html", "java", "js", "json", "jsx", "kt", "lua"),
        *("md", "orig", "php", "pl", "py", "pyi", "rb", "rej", "rs", "rst", "scala", "sh", "swift", "ts", "tsx", "txt"),
        *("vim", "yaml", "yml"),
    )
)
_PREDEFINED: Final = frozenset(
    f"{side}{part}" for side in ("BUILD", "TARGET") for part in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
)
_ANY: Final = "*"
MAX_UNKNOWN: Final = 3
_TWICE: Final = "both Compose and the build fill in variables here, which is not evaluated"
_NO_POSITION: Final = "it depends on a variable that other instructions use too or that has no default"


@dataclass(frozen=True, slots=True)
class _Arg:
    """An ARG before the first FROM: the value of its default, and its text if that can be edited.

    `value` None: no default. `evaluated` False: the value is not known.
    """

    value: str | None
    written: Text | None
    evaluated: bool = True


@dataclass(frozen=True, slots=True)
class _Use:
    """A text that names an image, and its instruction."""

    text: Text
    where: str
    line: int
    platforms: tuple[str, ...] = ()
    base: bool = True  # of a FROM: variables are filled in, and only earlier stages count


def read_dockerfile(source: SourceFile, given: Mapping[str, str | None] | None = None) -> ScanResult:
    """Return the image references of a Dockerfile. `given`: values that a build sets for ARGs, None if not known."""
    if len(source.raw) > MAX_DOCKERFILE_BYTES:
        problem = Unreadable(
            source.path, 0, f"is not read as a Dockerfile: {len(source.raw)} bytes, at most 1 MiB"
        ).problem
        return ScanResult((), (problem,))
    try:
        return ScanResult(_Reader(source, read_lines(source), given or {}).image_refs())
    except Unreadable as error:
        return ScanResult((), (error.problem,))


SEVERAL: Final = -1


def based_on(source: SourceFile) -> tuple[int | None, ...]:
    """Return for each FROM the number of its base stage; None for an image or `scratch`.

    SEVERAL: another stage on each platform (`build-${TARGETARCH}`). Raises: Unreadable: BuildKit could not parse it.
    """
    reader = _Reader(source, read_lines(source), {})
    reader.image_refs()
    return tuple(reader.based)


class _Reader:
    def __init__(self, source: SourceFile, lines: DockerfileLines, given: Mapping[str, str | None]) -> None:
        self.source = source
        self.lines = lines
        self.given = given
        self.args: dict[str, _Arg] = {}
        self.stages: dict[str, int] = {}
        self.based: list[int | None] = []
        self.uses: list[_Use] = []
        self.redeclared: set[str] = set()
        self.used = Counter(_variables_of(lines))
        self.text_uses: Counter[str] = Counter()

    def image_refs(self) -> tuple[ImageReference, ...]:
        syntax = self.lines.directives.get("syntax")
        if syntax is not None:
            word = syntax.words()[0]
            self.uses.append(_Use(word, "syntax", self.source.line(word.start), base=False))
        stage = 0
        for instruction in self.lines.instructions:
            if instruction.name == "from":
                self.read_from(instruction, stage)
                stage += 1
            elif instruction.name == "arg":
                for word in _assignments(instruction.rest, self.lines.escape):
                    self.arg(word, in_stage=stage > 0)
            else:
                for text, where in _from_flags(instruction):
                    if not text.text.isdecimal():
                        self.uses.append(_Use(text, where, self.source.line(text.start), base=False))
        self.uses = [
            use for use in self.uses if use.base or use.text.text.lower() not in self.stages or use.where == "syntax"
        ]
        self.text_uses.update(use.text.text for use in self.uses)
        return tuple(self.image_ref(use) for use in self.uses)

    def arg(self, word: Text, *, in_stage: bool) -> None:
        name, equals, _ = word.text.partition("=")
        if in_stage:
            self.redeclared.add(name)
            return
        if name in self.given:
            self.args[name] = _Arg(self.given[name], None, self.given[name] is not None)
            return
        if not equals:
            self.args.setdefault(name, _Arg(None, None))
            return
        written = word.part(len(name) + 1, len(word.text))
        quote_char = written.text[:1]
        if quote_char in ("'", '"') and len(written.text) > 1 and written.text.endswith(quote_char):
            written = written.part(1, len(written.text) - 1)
        plain = not ({"'", '"', self.lines.escape} & set(written.text)) and (
            quote_char != "'" or "$" not in written.text
        )
        try:
            value = fill(written.text, self.value, Dialect.DOCKERFILE, strict=False).text if plain else None
        except InterpolationFailed:
            value = None
        self.args[name] = _Arg(value, written if plain else None, value is not None)

    def value(self, name: str) -> str | None:
        found = self.args.get(name)
        if found is not None and not found.evaluated:
            raise InterpolationFailed(
                f"the value of {name} is not evaluated: it has quotes or escapes inside, or too many variables"
            )
        return None if found is None else found.value

    def read_from(self, instruction: Instruction, stage: int) -> None:
        words = instruction.rest.words()
        if not words:
            raise Unreadable(self.source.path, instruction.line, "has a FROM without an image")
        alias = words[2].text.lower() if len(words) > 2 and words[1].text.lower() == "as" else None
        base = words[0]
        name = self.base_name(base.text)
        self.based.append(self.find_stage(name))
        if self.based[-1] is None and name != "scratch":
            where = f"FROM, stage {alias or stage}"
            self.uses.append(_Use(base, where, self.source.line(base.start), _platforms(instruction)))
        if alias is not None:
            self.stages[alias] = stage

    def base_name(self, text: str) -> str:
        """Return what a FROM names, as far as it is known; `*` for a part that differs by platform."""

        def value(name: str) -> str | None:
            return self.value(name) or (_ANY if name in _PREDEFINED else None)

        try:
            return fill(text, value, Dialect.DOCKERFILE).text
        except InterpolationFailed:
            return text

    def find_stage(self, name: str) -> int | None:
        """Return the number of the earlier stage of this name; SEVERAL if it differs by platform."""
        parts = [re.escape(part) for part in name.lower().split(_ANY)]
        if 1 < len(parts) <= MAX_UNKNOWN:
            pattern = re.compile(".+".join(parts))
            return SEVERAL if any(pattern.fullmatch(stage) for stage in self.stages) else None
        return self.stages.get(name.lower())

    def image_ref(self, use: _Use) -> ImageReference:
        text = use.text.text
        filled: Interpolated | None = None
        resolved, why = None, None
        try:
            if {"'", '"'} & set(text):
                raise InterpolationFailed("it has quotes inside the word, which are not evaluated")
            if not use.base and "$" in text:
                raise InterpolationFailed("BuildKit does not fill in variables here; name a stage of a FROM instead")
            filled = fill(text, self.value, Dialect.DOCKERFILE)
            resolved, why = parse_reference(filled.text)
            unset = [name for name in variables_in(text, Dialect.DOCKERFILE) if self.value(name) is None]
            if resolved is None and unset:
                why = f"{unset[0]} is not set"
        except InterpolationFailed as error:
            why = str(error)
            named = [name for name in variables_in(text, Dialect.DOCKERFILE) if name in _PREDEFINED]
            if named:
                why = f"{named[0]} selects another image on each platform"
        edit_range, reason = (None, why) if resolved is None or filled is None else self.edit_range(use, filled)
        return ImageReference(
            path=self.source.path,
            format=Format.DOCKERFILE,
            where=use.where,
            line=use.line,
            span=Span(use.text.start, use.text.end),
            written=text,
            resolved=resolved,
            why=why,
            platforms=use.platforms,
            edit_range=edit_range,
            override_only=reason,
        )

    def edit_range(self, use: _Use, filled: Interpolated) -> tuple[EditRange | None, str | None]:
        pinned = len(filled.text) - filled.text.find("@") if "@" in filled.text else 0
        part, text = filled, use.text
        for _ in range(len(self.args) + 1):
            last, steering_variable = part.last, part.steering_variable(whole=part is filled)
            if steering_variable is not None:
                return None, steering_reason(steering_variable)
            if last is None or pinned > len(last.text):
                return None, _NO_POSITION
            if last.variable is None:
                at = text.part(last.at + len(last.text) - pinned, last.at + len(last.text))
                start = text.at[last.at + len(last.text) - 1] + 1 if not pinned else at.start
                if pinned and at.end - at.start != pinned:
                    return None, "a line break splits its digest"
                return EditRange(self.source.path, start, start + pinned), None
            arg = self.args.get(last.variable)
            if arg is None or arg.written is None or not self.used_once(last.variable, use):
                return None, _NO_POSITION
            text = arg.written
            try:
                part = fill(text.text, self.value, Dialect.DOCKERFILE, strict=False)
            except InterpolationFailed:
                return None, _NO_POSITION
        return None, _NO_POSITION

    def used_once(self, name: str, use: _Use) -> bool:
        """Return whether only texts identical to this one use the variable."""
        if name in self.redeclared:
            return False
        inside = variables_in(use.text.text, Dialect.DOCKERFILE).count(name)
        expected = inside * self.text_uses[use.text.text] if inside else 1  # 1: the use in another ARG's default
        return self.used[name] == expected


def _variables_of(lines: DockerfileLines) -> Iterator[str]:
    for instruction in lines.instructions:
        for part in (*(flag.text for flag in instruction.flags), instruction.rest.text, *instruction.bodies):
            yield from variables_in(part, Dialect.DOCKERFILE)


def _platforms(instruction: Instruction) -> tuple[str, ...]:
    for flag in instruction.flags:
        if flag.text.startswith("--platform="):
            asked = flag.text.removeprefix("--platform=")
            return () if "$" in asked else (asked,)
    return ()


def _assignments(rest: Text, escape: str) -> list[Text]:
    """Return the words of an ARG; unquoted and unescaped white space separates them."""
    pattern = re.compile(
        rf"""(?:{re.escape(escape)}.|"(?:{re.escape(escape)}.|[^"{re.escape(escape)}])*"|'[^']*'|[^\s])+""", re.DOTALL
    )
    return [rest.part(match.start(), match.end()) for match in pattern.finditer(rest.text)]


def _from_flags(instruction: Instruction) -> Iterator[tuple[Text, str]]:
    """Yield the images in `--from` and `--mount=from` of an instruction, also after ONBUILD."""
    name, flags = instruction.name, instruction.flags
    if name == "onbuild" and instruction.rest.text:
        word = instruction.rest.words()[0]
        rest = instruction.rest.part(len(word.text), len(instruction.rest.text))
        name = word.text.lower()
        flags = tuple(found for found in rest.words() if found.text.startswith("--"))
        where = f"ONBUILD {name.upper()}"
    else:
        where = name.upper()
    for flag in flags:
        if name == "copy" and flag.text.startswith("--from="):
            yield flag.part(len("--from="), len(flag.text)), f"{where} --from"
        elif name == "run" and flag.text.startswith("--mount="):
            for field in _from_fields(flag.part(len("--mount="), len(flag.text))):
                yield field, f"{where} --mount=from"


def _from_fields(value: Text) -> Iterator[Text]:
    """Yield the `from=` values of a mount, which BuildKit parses as CSV; a quote is part of the value here."""
    at = 0
    for text in value.text.split(","):
        begin = len('"from=') if text[:1] in {'"', "'"} else len("from=")
        if text[:begin].lower().endswith("from=") and len(text) > begin:
            yield value.part(at + begin, at + len(text))
        at += len(text) + 1


def read_inline(source: SourceFile, node: ScalarNode, where: str) -> ScanResult:
    """Return the image references of a Dockerfile inside a YAML file. Only a literal block (`|`) can be edited."""
    offsets = literal_offsets(source, node)
    inner = read_dockerfile(SourceFile.of(source.path, node.value.encode()))
    begin = line_of(node)
    problems = tuple(ScanProblem(found.path, begin + found.line, found.message) for found in inner.problems)
    return ScanResult(
        tuple(_in_yaml(source, node, image_ref, offsets, where) for image_ref in inner.image_refs), problems
    )


def _in_yaml(
    source: SourceFile, node: ScalarNode, image_ref: ImageReference, offsets: list[int] | None, where: str
) -> ImageReference:
    found = replace(
        image_ref,
        format=Format.COMPOSE,
        where=f"{where} {image_ref.where}",
        line=line_of(node),
        span=span_of(source, node),
    )
    if "$" in image_ref.written:
        return replace(found, resolved=None, why=_TWICE, edit_range=None, override_only=_TWICE)
    if offsets is None:
        return replace(
            found, edit_range=None, override_only="it is in a folded or quoted text, where it can't be edited"
        )
    span = Span(offsets[image_ref.span.start], offsets[image_ref.span.end - 1] + 1)
    found = replace(found, span=span, line=source.line(span.start))
    if image_ref.edit_range is None:
        return found
    end = offsets[image_ref.edit_range.end - 1] + 1
    return replace(
        found,
        edit_range=replace(
            image_ref.edit_range, start=end - (image_ref.edit_range.end - image_ref.edit_range.start), end=end
        ),
    )


def _is_dockerfile_name(path: str) -> bool:
    last = path.rpartition("/")[2]
    return _NAME.fullmatch(template_of(last) or last) is not None and not last.lower().endswith(_ABOUT_DOCKERFILES)


def _read_file(file: ProjectFile) -> ScanResult:
    """Read a Dockerfile. A `Dockerfile.j2` is read as one if no expression affects its instructions."""
    filled_in = template_of(file.source.path) is not None and affects_build(file.source)
    return read_template(file.source) if filled_in else read_dockerfile(file.source)


READER: Final = FormatReader(Format.DOCKERFILE, by_name=_is_dockerfile_name, read=_read_file, syntax=Syntax.DOCKERFILE)
