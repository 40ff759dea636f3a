"""Development containers (devcontainer.json, JSON with comments): `image`, and the base images that `build.args` select.

The Dockerfile of a `build` is read under any name. Features are packages and not images: devcontainer-lock.json locks
them. Variables (`${localEnv:TAG}`) are known only when the container is created.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from boltseal.project.image_references import Accounted, Format, ImageReference, ScanResult, Span
from boltseal.project.references.build_arguments import selected_bases
from boltseal.project.references.reader import FileToFollow, FormatReader, ProjectFile
from boltseal.project.references.scalars import template_reference
from boltseal.project.references.yaml_nodes import Pairs, line_of, pairs, text_of
from boltseal.project.references.yaml_tree import Node, ScalarNode
from boltseal.project.source_files import Unreadable

NAME: Final = "devcontainer"
_FILE: Final = re.compile(r"(?:.*/)?\.?devcontainer\.json", re.DOTALL)
_VARIABLE: Final = re.compile(r"\$")
_WHY: Final = "a variable is evaluated only when the container is created"


def read_devcontainer(file: ProjectFile) -> ScanResult:
    """Return the image references of a development container."""
    image_refs: list[ImageReference] = []
    accounted: list[Accounted] = []
    for document in file.documents:
        keys = pairs(document)
        image = keys.get("image")
        if isinstance(image, ScalarNode) and text_of(image):
            image_refs.append(template_reference(file.source, image, NAME, "image", _VARIABLE, _WHY))
        selected = _by_arguments(file, keys)
        image_refs.extend(selected.image_refs)
        accounted.extend(selected.accounted)
    return ScanResult(tuple(image_refs), accounted=tuple(accounted))


def _dockerfile(keys: Pairs) -> Node | None:
    build = pairs(keys.get("build"))
    return build.get("dockerfile") or build.get("dockerFile") or keys.get("dockerFile")


def _by_arguments(file: ProjectFile, keys: Pairs) -> ScanResult:
    """Return the base images that build arguments select instead of the Dockerfile's own defaults."""
    args, written = pairs(keys.get("build")).get("args"), text_of(_dockerfile(keys))
    if args is None or not written:
        return ScanResult()
    try:
        name = file.project.name(Path(written), file.source.path.rpartition("/")[0])
        dockerfile = file.project.read(name)
    except Unreadable:
        return ScanResult()  # reported where it is followed
    given = {
        key: None if (value := text_of(node)) is None or "$" in value else value for key, node in pairs(args).items()
    }
    selected = selected_bases(dockerfile, given)
    image_refs = (
        replace(
            image_ref,
            path=file.source.path,
            format=NAME,
            where=f"build.args {image_ref.where}",
            line=line_of(args),
            span=Span(args.start, args.end),
        )
        for image_ref in selected.image_refs
    )
    return replace(selected, image_refs=tuple(image_refs))


def _follows(file: ProjectFile) -> Iterator[FileToFollow]:
    for document in file.documents:
        node = _dockerfile(pairs(document))
        text = text_of(node)
        if node is not None and text and "$" not in text:
            folder = file.source.path.rpartition("/")[0]
            yield FileToFollow(text, folder, line_of(node), Format.DOCKERFILE, optional=True)


READER: Final = FormatReader(
    NAME, by_name=lambda path: _FILE.fullmatch(path) is not None, read=read_devcontainer, follows=_follows
)
