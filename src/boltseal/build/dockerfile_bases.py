"""Find the images that a Dockerfile uses: every image reference in it, and the base image of the stage that is built.

`--build-arg` is applied as the build applies it: as the default of an ARG before the first FROM. A value that would have
to be quoted there is refused, since the image reference that depends on it would be ambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from boltseal.errors import Invalid, quote
from boltseal.oci.digest import Digest
from boltseal.project.image_references import ImageReference
from boltseal.project.references.dockerfile import SEVERAL, based_on, read_dockerfile
from boltseal.project.references.dockerfile_lines import DockerfileLines, Instruction, read_lines
from boltseal.project.source_files import ProjectTree, SourceFile, Unreadable

SYNTAX: Final = "syntax"
"""`where` of an image reference that names the frontend (`# syntax=`), which is not part of the image."""
_plain = re.compile(r"[A-Za-z0-9._:/@+-]*").fullmatch


class DockerfileInvalid(Invalid):
    """A Dockerfile that can't be read, or that lacks the requested stage or any stage."""


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A Dockerfile with its image references. `base`: the base image of the stage that is built; None for `scratch`.

    `text`: the content after the build arguments were applied. The spans of `image_refs` are positions in it.
    """

    raw: bytes
    text: str
    image_refs: tuple[ImageReference, ...]
    base: ImageReference | None

    def pinned(self, digests: Mapping[ImageReference, Digest]) -> str:
        """Return the text with a digest in every image reference, those in variables included. Raises: DockerfileInvalid."""
        text = self.text
        for image_ref in sorted(self.image_refs, key=lambda image_ref: image_ref.span, reverse=True):
            if image_ref.where == SYNTAX or image_ref.resolved is None:
                continue
            wanted = str(replace(image_ref.resolved, digest=digests[image_ref]))
            start, end = image_ref.span
            if text[start:end] != image_ref.written:
                raise DockerfileInvalid(
                    f"{image_ref.path}:{image_ref.line}: {quote(image_ref.written)} can't be pinned in a copy"
                )
            text = text[:start] + wanted + text[end:]
        return text


def read(root: Path, file: Path, build_args: Mapping[str, str], target: str | None) -> Dockerfile:
    """Read a Dockerfile inside `root`. `target`: the stage to build, None for the last. Raises: DockerfileInvalid."""
    try:
        project = ProjectTree(root)
        written = project.read(project.name(file))
        source = _with_args(written, read_lines(written), build_args)
        found = read_dockerfile(source)
        lines = read_lines(source)
    except Unreadable as error:
        raise DockerfileInvalid(str(error.problem)) from error
    if found.problems:
        raise DockerfileInvalid(str(found.problems[0]))
    stages = [instruction for instruction in lines.instructions if instruction.name == "from"]
    return Dockerfile(written.raw, source.text, found.image_refs, _base(source, stages, target, found.image_refs))


def _with_args(source: SourceFile, lines: DockerfileLines, build_args: Mapping[str, str]) -> SourceFile:
    text, edits = source.text, []
    for instruction in lines.instructions:
        if instruction.name == "from":
            break
        for word in instruction.rest.words() if instruction.name == "arg" else ():
            name = word.text.partition("=")[0]
            value = build_args.get(name)
            if value is None:
                continue
            if not _plain(value):
                raise DockerfileInvalid(
                    f"{source.path}:{instruction.line}: {name} is given as {quote(value)}, which can't be part of an image reference"
                )
            edits.append((word.start, word.end, f"{name}={value}"))
    for start, end, new in reversed(edits):
        text = text[:start] + new + text[end:]
    return source.with_text(text) if edits else source


def _base(
    source: SourceFile, stages: list[Instruction], target: str | None, image_refs: tuple[ImageReference, ...]
) -> ImageReference | None:
    path = source.path
    if not stages:
        raise DockerfileInvalid(f"{path} has no FROM: it builds nothing")
    names = [_alias(stage) for stage in stages]
    at = len(stages) - 1
    if target is not None:
        wanted = target.lower()
        found = [number for number, name in enumerate(names) if wanted in (name, str(number))]
        if not found:
            raise DockerfileInvalid(
                f"{path} has no stage {quote(target)}; it has {', '.join(filter(None, names)) or 'none'}"
            )
        at = found[-1]
    below = based_on(source)
    while (base_stage := below[at]) is not None:
        if base_stage == SEVERAL:
            line, text = stages[at].line, stages[at].rest.words()[0].text
            raise DockerfileInvalid(
                f"{path}:{line}: {quote(text)} is another stage on every platform; name one by --target"
            )
        at = base_stage
    where = f"FROM, stage {names[at] or at}"
    return next((image_ref for image_ref in image_refs if image_ref.where == where), None)


def _alias(stage: Instruction) -> str | None:
    words = stage.rest.words()
    return words[2].text.lower() if len(words) > 2 and words[1].text.lower() == "as" else None
