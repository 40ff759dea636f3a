"""The names under which kustomizations deploy the images of their resources.

A kustomization's `images` rename the images of the resources, bases, components and patches that it names; then a
kustomization that names this one renames them again. With `newName` alone an image keeps its tag and digest and is
pulled by the new name, so its reference is resolved there: a digest of the old registry would follow the new name.
With a tag or digest in the entry, kustomize drops those of the resource, and the entry is the reference.

- A kustomization that no other one names is deployed, except a component.
- An image that is deployed under several names is one reference for each; no digest is written, as none fits them all.
- Only `containers` and `initContainers` are renamed. A name with the syntax of a regular expression is not followed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from boltseal.project.image_references import Accounted, Format, ImageReference, ScanResult, Span
from boltseal.project.references.kustomize import KUSTOMIZATION_NAMES, patch_files
from boltseal.project.references.scalars import parse_reference
from boltseal.project.references.yaml_nodes import compose, items, line_of, pairs, span_of, text_of
from boltseal.project.references.yaml_tree import Node, ScalarNode
from boltseal.project.source_files import ProjectTree, SourceFile, Unreadable

MAX_IMAGES: Final = 100_000
SUFFIX: Final = "a kustomization's tagSuffix changes its tag, which is not evaluated: set newTag"
_RENAMED: Final = re.compile(
    r"(?:^|[. ])(?:c|initC)ontainers\[[^\]]*\]\.image$|/(?:c|initC)ontainers/(?:\d+|-)(?:/image)?$"
)
_LITERAL: Final = re.compile(r"[\w./:@-]+")
_LISTS: Final = ("resources", "bases")


@dataclass(frozen=True, slots=True)
class _Deployed:
    """An image as it is after some kustomizations: its text, and the reference that contains its tag and digest."""

    text: str
    carrier: ImageReference
    suffixed: bool = False


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of `images`."""

    name: str
    new_name: str
    new_tag: str
    suffix: str
    digest: str
    line: int
    span: Span
    reference: ImageReference | None

    def apply(self, image: _Deployed) -> _Deployed | None:
        """Return an image as this entry changes it, or None if the entry does not select it."""
        if _LITERAL.fullmatch(self.name) is None:
            return None
        selected = re.escape(self.name).replace(r"\.", ".")
        if re.fullmatch(rf"{selected}(?::[\w.{{}}-]*)?(?:@sha256:[\w.{{}}-]*)?", image.text) is None:
            return None
        name, at, digest = image.text.partition("@")
        tag = ""
        if ":" in name.rpartition("/")[2]:
            name, _, tag = name.rpartition(":")
        name = self.new_name or name
        if self.new_tag or self.digest:
            if self.reference is None:
                return None
            parts = name + (f":{self.new_tag}" if self.new_tag else "")
            return _Deployed(parts + (f"@{self.digest}" if self.digest else ""), self.reference)
        if self.suffix:
            return replace(image, text=f"{name}:{tag}{self.suffix}", suffixed=True)
        return replace(image, text=name + (f":{tag}" if tag else "") + at + digest)


@dataclass(slots=True)
class _Kustomization:
    path: str
    component: bool
    entries: tuple[_Entry, ...]
    files: tuple[str, ...]
    named: tuple[str, ...]
    components: tuple[str, ...]


def as_deployed(project: ProjectTree, paths: Iterable[str], found: ScanResult) -> ScanResult:
    """Return a scan's result with the images of these kustomizations' resources as they are deployed."""
    return _Names(project, sorted(set(paths)), found).result()


def deployed_kustomizations(project: ProjectTree, paths: Iterable[str], found: ScanResult) -> list[str]:
    """Return the kustomizations among these that no other one names, without components."""
    return _Names(project, sorted(set(paths)), found).deployed()


class _Names:
    def __init__(self, project: ProjectTree, paths: Sequence[str], found: ScanResult) -> None:
        self.project = project
        self.found = found
        self.by_path: defaultdict[str, list[ImageReference]] = defaultdict(list)
        for image_ref in found.image_refs:
            self.by_path[image_ref.path].append(image_ref)
        self.known: dict[str, _Kustomization] = {}
        for path in paths:
            with suppress(Unreadable):  # reported by the scan
                source = project.read(path)
                self.known[path] = self.read(source, compose(source))
        self.left = MAX_IMAGES
        self.used: set[tuple[str, Span]] = set()
        self.dropped: defaultdict[ImageReference, set[str]] = defaultdict(set)

    def read(self, source: SourceFile, documents: Sequence[Node]) -> _Kustomization:
        named = [name for document in documents for key in _LISTS for name in self.paths(source, document, key)]
        patches = [self.name(source, node.value) for node in patch_files(documents)]
        files = [name for name in named if name not in self.known and not self.is_kustomization(name)]
        return _Kustomization(
            source.path,
            any(text_of(pairs(document).get("kind")) == "Component" for document in documents),
            tuple(entry for document in documents for entry in self.entries(source, document)),
            tuple(name for name in (*files, *patches) if name),
            tuple(name for name in named if self.is_kustomization(name)),
            tuple(name for document in documents for name in self.paths(source, document, "components")),
        )

    def is_kustomization(self, name: str) -> bool:
        return name.rpartition("/")[2] in KUSTOMIZATION_NAMES

    def paths(self, source: SourceFile, document: Node, key: str) -> Iterator[str]:
        """Yield the files that a list names; of a folder, its kustomization."""
        for node in items(pairs(document).get(key)):
            name = self.name(source, text_of(node) or "")
            if name:
                folder = "" if name == "." else f"{name}/"
                inner = (f"{folder}{each}" for each in KUSTOMIZATION_NAMES)
                yield next((each for each in inner if self.project.has(each)), name)

    def name(self, source: SourceFile, path: str) -> str:
        with suppress(Unreadable):
            return "" if not path or "://" in path else self.project.name(Path(path), source.path.rpartition("/")[0])
        return ""

    def entries(self, source: SourceFile, document: Node) -> Iterator[_Entry]:
        for index, node in enumerate(items(pairs(document).get("images"))):
            keys = pairs(node)
            name, new_name, new_tag, suffix, digest = (
                text_of(keys.get(key)) or "" for key in ("name", "newName", "newTag", "tagSuffix", "digest")
            )
            where = f"images[{index}]"
            own = next((each for each in self.by_path[source.path] if each.where == where), None)
            at = keys.get("newName")
            span = span_of(source, at) if isinstance(at, ScalarNode) else Span(0, 0)
            yield _Entry(name, new_name, new_tag, suffix, digest, line_of(node), span, own)

    def deployed(self) -> list[str]:
        named = {name for each in self.known.values() for name in (*each.named, *each.components) if name != each.path}
        return [path for path, each in self.known.items() if path not in named and not each.component]

    def result(self) -> ScanResult:
        """Return the result with the references renamed, and without those whose tag a kustomization replaces."""
        names: defaultdict[ImageReference, set[_Deployed]] = defaultdict(set)
        for path in self.deployed():
            for image in self.images(self.known[path], ()):
                names[image.carrier].add(replace(image, text=_without_digest(image.text)))
        image_refs: list[ImageReference] = []
        accounted: list[Accounted] = []
        for image_ref in self.found.image_refs:
            renamed = names.get(image_ref, set())
            if renamed:
                image_refs += _renamed(image_ref, sorted(renamed, key=lambda image: image.text))
            elif image_ref in self.dropped:
                where = min(self.dropped[image_ref])
                accounted.append(Accounted(image_ref.path, image_ref.span, f"{where} sets its tag"))
            elif image_ref.resolved is not None or (image_ref.path, image_ref.span) not in self.used:
                image_refs.append(image_ref)
        return replace(self.found, image_refs=tuple(image_refs), accounted=(*self.found.accounted, *accounted))

    def images(self, top: _Kustomization, above: tuple[str, ...]) -> list[_Deployed]:
        """Return the images that a kustomization deploys. `above`: the kustomizations that lead to it."""
        if top.path in above:
            return []
        below = (*above, top.path)
        found = [image for name in top.named for image in self.inside(name, below)]
        found += [
            _Deployed(image_ref.written, image_ref)
            for name in top.files
            for image_ref in self.by_path[name]
            if _is_renamed(image_ref)
        ]
        found += [
            _Deployed(image_ref.written, image_ref)
            for image_ref in self.by_path[top.path]
            if image_ref.where.startswith("patch") and _is_renamed(image_ref)
        ]
        for name in top.components:
            found += self.inside(name, below, renames=False)
            found = [self.apply(image, self.known[name]) for image in found] if name in self.known else found
        self.left -= len(found)
        return [self.apply(image, top) for image in found] if self.left > 0 else []

    def inside(self, name: str, above: tuple[str, ...], *, renames: bool = True) -> list[_Deployed]:
        inner = self.known.get(name)
        if inner is None:
            return []
        return self.images(inner if renames else replace(inner, entries=()), above)

    def apply(self, image: _Deployed, top: _Kustomization) -> _Deployed:
        for entry in top.entries:
            changed = entry.apply(image)
            if changed is None:
                continue
            self.used.add((top.path, entry.span))
            if changed.carrier != image.carrier:
                self.dropped[image.carrier].add(f"{top.path}:{entry.line}")
            image = changed
        return image


def _is_renamed(image_ref: ImageReference) -> bool:
    kinds = (Format.KUBERNETES, Format.KUSTOMIZE)
    return image_ref.format in kinds and _RENAMED.search(image_ref.where) is not None


def _without_digest(text: str) -> str:
    return text.partition("@")[0]


def _renamed(image_ref: ImageReference, images: list[_Deployed]) -> Iterator[ImageReference]:
    """Yield a reference once for each name under which it is deployed."""
    names = list(dict.fromkeys(image.text for image in images))
    several = "kustomizations deploy it under several names, and one digest may not fit: " + ", ".join(names)
    for image in images:
        if len(names) == 1 and image.text == _without_digest(image_ref.written) and not image.suffixed:
            yield image_ref
            continue
        digest = "" if image_ref.pinned is None else f"@{image_ref.pinned}"
        resolved, error = (None, SUFFIX) if image.suffixed else parse_reference(image.text + digest)
        why = error or (several if len(names) > 1 else None)
        yield replace(
            image_ref,
            resolved=resolved,
            why=error,
            where=image_ref.where if len(names) == 1 else f"{image_ref.where} as {image.text}",
            edit_range=None if why else image_ref.edit_range,
            override_only=why or image_ref.override_only,
        )
