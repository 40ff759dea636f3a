"""What Compose's build arguments make of a Dockerfile: an image that it stands on by them, and does not by itself.

Compose builds on that image, whoever builds the Dockerfile as it is on the other one; so both are sites. The argument's
text is not edited, for any other instruction may use it too: a source policy holds such an image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from yaml.nodes import Node

from boltseal.project.image_references import Format, ImageReference, ScanProblem, ScanResult
from boltseal.project.references.dockerfile import read_dockerfile
from boltseal.project.references.interpolation import Dialect, InterpolationFailed, Values, fill
from boltseal.project.references.yaml_nodes import Pairs, items, line_of, pairs, text_of
from boltseal.project.source_files import ProjectTree, SourceFile, Unreadable

MAX_READ_AGAIN: Final = 16 * 1024 * 1024
ITS_ARGUMENT: Final = "a build argument gives it, which other instructions may use too"


class BuildArguments:
    """Reads what the builds of a project's services set; Dockerfiles again and again only within a bound of characters."""

    def __init__(self, project: ProjectTree) -> None:
        self._project = project
        self._read = 0

    def read(self, source: SourceFile, folder: str, where: str, build: Pairs, values: Values) -> ScanResult:
        """The sites that the arguments of a `build` (of `source`, at `where`) make. `folder`: what its paths begin in."""
        args = build.get("args")
        dockerfile = None if args is None else self._dockerfile(folder, build, values)
        if args is None or dockerfile is None:
            return ScanResult()
        self._read += len(dockerfile.text)
        if self._read > MAX_READ_AGAIN:
            said = "too many build arguments: what they make of Dockerfiles is not read"
            return ScanResult((), (ScanProblem(source.path, line_of(args), said),))
        plain = {
            (image_ref.where, image_ref.span): image_ref.resolved
            for image_ref in read_dockerfile(dockerfile).image_refs
        }
        given = read_dockerfile(dockerfile, _arguments(args, values)).image_refs
        return ScanResult(
            tuple(
                ImageReference(
                    path=source.path,
                    format=Format.COMPOSE,
                    where=f"{where}.args {image_ref.where}",
                    line=line_of(args),
                    span=(int(args.start_mark.index), int(args.end_mark.index)),
                    written=image_ref.written if image_ref.resolved is None else image_ref.resolved.familiar(),
                    resolved=image_ref.resolved,
                    why=image_ref.why,
                    platforms=image_ref.platforms,
                    override_only=image_ref.why or ITS_ARGUMENT,
                )
                for image_ref in given
                if plain.get((image_ref.where, image_ref.span)) != image_ref.resolved
            )
        )

    def _dockerfile(self, folder: str, build: Pairs, values: Values) -> SourceFile | None:
        """The Dockerfile of a build, if it lies in the project; what is wrong with it is told when its turn comes."""
        try:
            context, inside = (
                fill(text_of(build.get(key)) or default, values, Dialect.COMPOSE, strict=False).text
                for key, default in (("context", "."), ("dockerfile", "Dockerfile"))
            )
            if "://" in context or "dockerfile_inline" in build:
                return None
            name = self._project.name(Path(context, inside), folder)
            return self._project.read(name) if self._project.has(name) else None
        except (InterpolationFailed, Unreadable):
            return None


def _arguments(node: Node, values: Values) -> dict[str, str | None]:
    """Build arguments by name, None for one that is not known; one without a value is the shell's, and left out."""
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
