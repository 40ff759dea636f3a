"""Base images that Compose's build arguments select instead of a Dockerfile's own defaults.

Compose builds on the selected image, while building the Dockerfile alone uses its default; so both are image
references. The argument's text is not edited, because other instructions may use it too. A source policy can pin such
an image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from yaml.nodes import Node

from boltseal.project.image_references import Format, ImageReference, ScanProblem, ScanResult, Span
from boltseal.project.references.dockerfile import read_dockerfile
from boltseal.project.references.interpolation import Dialect, InterpolationFailed, Values, fill
from boltseal.project.references.yaml_nodes import Pairs, items, line_of, pairs, text_of
from boltseal.project.source_files import ProjectTree, SourceFile, Unreadable

MAX_CHARACTERS: Final = 16 * 1024 * 1024
ARGUMENT_REASON: Final = "a build argument sets it, and other instructions may use that argument too"


class BuildArguments:
    """Reads build arguments. The Dockerfiles read again for them are limited to MAX_CHARACTERS in total."""

    def __init__(self, project: ProjectTree) -> None:
        self._project = project
        self._read = 0

    def read(self, source: SourceFile, folder: str, where: str, build: Pairs, values: Values) -> ScanResult:
        """Return the references that a `build`'s arguments select. `folder`: the base of its relative paths."""
        args = build.get("args")
        dockerfile = None if args is None else self._dockerfile(folder, build, values)
        if args is None or dockerfile is None:
            return ScanResult()
        self._read += len(dockerfile.text)
        if self._read > MAX_CHARACTERS:
            message = "too many build arguments: their effect on Dockerfiles is not read"
            return ScanResult((), (ScanProblem(source.path, line_of(args), message),))
        plain = {
            (image_ref.where, image_ref.span): image_ref.resolved
            for image_ref in read_dockerfile(dockerfile).image_refs
        }
        overridden = read_dockerfile(dockerfile, _arguments(args, values)).image_refs
        return ScanResult(
            tuple(
                ImageReference(
                    path=source.path,
                    format=Format.COMPOSE,
                    where=f"{where}.args {image_ref.where}",
                    line=line_of(args),
                    span=Span(int(args.start_mark.index), int(args.end_mark.index)),
                    written=image_ref.written if image_ref.resolved is None else image_ref.resolved.familiar(),
                    resolved=image_ref.resolved,
                    why=image_ref.why,
                    platforms=image_ref.platforms,
                    override_only=image_ref.why or ARGUMENT_REASON,
                )
                for image_ref in overridden
                if plain.get((image_ref.where, image_ref.span)) != image_ref.resolved
            )
        )

    def _dockerfile(self, folder: str, build: Pairs, values: Values) -> SourceFile | None:
        """Return a build's Dockerfile if it is in the project. Its problems are reported when it is scanned itself."""
        try:
            context, file = (
                fill(text_of(build.get(key)) or default, values, Dialect.COMPOSE, strict=False).text
                for key, default in (("context", "."), ("dockerfile", "Dockerfile"))
            )
            if "://" in context or "dockerfile_inline" in build:
                return None
            name = self._project.name(Path(context, file), folder)
            return self._project.read(name) if self._project.has(name) else None
        except (InterpolationFailed, Unreadable):
            return None


def _arguments(node: Node, values: Values) -> dict[str, str | None]:
    """Return build arguments by name; None if not known. One without a value comes from the shell and is omitted."""
    written = {name: text for name, value in pairs(node).items() if (text := text_of(value)) is not None}
    for entry in items(node):
        name, equals, text = (text_of(entry) or "").partition("=")
        if equals:
            written[name] = text
    found: dict[str, str | None] = {}
    for name, text in written.items():
        try:
            found[name] = fill(text, values, Dialect.COMPOSE, strict=False).text
        except InterpolationFailed:
            found[name] = None
    return found
