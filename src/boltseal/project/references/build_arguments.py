"""Base images that build arguments select instead of a Dockerfile's own defaults (Compose, bake, devcontainer.json).

Such a build uses the selected image, while building the Dockerfile alone uses its default; so both are image
references. If the Dockerfile has no default, only the selected image is one. The argument's text is not edited, because
other instructions may use it too. A source policy can pin such an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from boltseal.project.image_references import Accounted, Format, ImageReference, ScanProblem, ScanResult, Span
from boltseal.project.references.dockerfile import read_dockerfile
from boltseal.project.references.interpolation import Dialect, InterpolationFailed, Values, fill
from boltseal.project.references.yaml_nodes import Pairs, items, line_of, pairs, text_of
from boltseal.project.references.yaml_tree import Node
from boltseal.project.source_files import ProjectTree, SourceFile, Unreadable

MAX_CHARACTERS: Final = 16 * 1024 * 1024
ARGUMENT_REASON: Final = "a build argument sets it, and other instructions may use that argument too"
_SET_ELSEWHERE: Final = frozenset({Format.DOCKERFILE, Format.GITLAB_CI})


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
        selected = selected_bases(dockerfile, _arguments(args, values))
        image_refs = tuple(
            replace(
                image_ref,
                path=source.path,
                format=Format.COMPOSE,
                where=f"{where}.args {image_ref.where}",
                line=line_of(args),
                span=Span(args.start, args.end),
            )
            for image_ref in selected.image_refs
        )
        return replace(selected, image_refs=image_refs)

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


def selected_bases(dockerfile: SourceFile, given: Mapping[str, str | None]) -> ScanResult:
    """Return the references of a Dockerfile that differ with these build arguments, with positions in the Dockerfile.

    `accounted` has the texts that name an image only by such an argument. `given`: None if a value is not known.
    """
    plain = {(each.where, each.span): each for each in read_dockerfile(dockerfile).image_refs}
    unknown = {(each.where, each.span): each for each in read_dockerfile(dockerfile, dict.fromkeys(given)).image_refs}
    image_refs: list[ImageReference] = []
    accounted: list[Accounted] = []
    for image_ref in read_dockerfile(dockerfile, given).image_refs:
        at = (image_ref.where, image_ref.span)
        own, without = plain.get(at), unknown.get(at)
        resolved = image_ref.resolved
        if own is not None and without is not None and own.resolved == resolved == without.resolved:
            continue  # no argument is in it
        written = image_ref.written if resolved is None else resolved.familiar()
        reason = image_ref.why or ARGUMENT_REASON
        image_refs.append(replace(image_ref, written=written, edit_range=None, override_only=reason))
        if own is not None and own.resolved is None:
            accounted.append(Accounted(dockerfile.path, own.span))
    return ScanResult(tuple(image_refs), accounted=tuple(accounted))


def without_selected(image_refs: Iterable[ImageReference], accounted: Iterable[Accounted]) -> list[ImageReference]:
    """Return the references without those that only another file resolves, by a build argument or a variable."""
    found = list(image_refs)
    spans = {(each.path, each.span) for each in accounted if each.reason is None}
    return [
        each
        for each in found
        if each.resolved is not None or each.format not in _SET_ELSEWHERE or (each.path, each.span) not in spans
    ]


def _arguments(node: Node, values: Values) -> dict[str, str | None]:
    """Return build arguments by name; None if not known. One without a value is that of the variable in .env, if any."""
    found: dict[str, str | None] = {}
    written: dict[str, str] = {}
    listed = [(text_of(entry) or "").partition("=") for entry in items(node)]
    given = [(name, text if equals else None) for name, equals, text in listed]
    for name, value in (*((name, text_of(value)) for name, value in pairs(node).items()), *given):
        if value is not None:
            written[name] = value
            continue
        try:
            found |= {} if (of_env := values(name)) is None else {name: of_env}
        except InterpolationFailed:
            found[name] = None
    for name, text in written.items():
        try:
            found[name] = fill(text, values, Dialect.COMPOSE, strict=False).text
        except InterpolationFailed:
            found[name] = None
    return found
