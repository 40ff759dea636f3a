"""Helm values: `image: repo:tag` in one text, or a mapping of `registry`, `repository`, `tag` and `digest`.

A mapping is an image if it has a `repository` and a `tag`, `digest` or `registry`; an empty tag is the chart's
`appVersion`. A digest goes into the `digest` that the values already have, empty or not: the chart then asks for it.
Without one only the chart's templates could say where a digest may go; a tag often becomes a label too, which may hold
no `@`, so such an image is left to an override.

Other files of values beside a chart (`values-prod.yaml`) are laid over its `values.yaml`: a tag there is that of the
repository here. A digest here would then stand behind the other tag, so there is none written where a tag is overridden
without a digest of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from yaml.nodes import Node, ScalarNode

from boltseal.errors import quote
from boltseal.project.image_references import EditRange, Format, ImageReference, ScanProblem, ScanResult
from boltseal.project.references.scalars import digest_length, parse_reference, scalar_reference
from boltseal.project.references.yaml_nodes import (
    Pairs,
    Path,
    compose,
    content_end,
    is_null,
    line_of,
    pairs,
    places,
    span_of,
    text_of,
)
from boltseal.project.source_files import ProjectTree, SourceFile, Unreadable

NO_DIGEST: Final = 'these values have no `digest`; if the chart knows one, add `digest: ""` beside the tag'
OVERRIDDEN: Final = 'a file of values beside it has another tag here: add `digest: ""` there too, or this digest would stand behind that tag'
OWN_DIGEST: Final = 'the digest of the values below would stand behind this tag: add `digest: ""` beside it'
_WHOLE: Final = frozenset({"image", "fullImageName"})
_NUMBER: Final = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?")
_COUNT: Final = re.compile(r"0|[1-9][0-9]{0,5}")
_TAGS: Final = ("tag", "imageTag", "version")


def app_version(project: ProjectTree, values: str) -> str | None:
    """The `appVersion` of the chart that a file of values lies beside."""
    folder = values.rpartition("/")[0]
    chart = f"{folder}/Chart.yaml" if folder else "Chart.yaml"
    try:
        documents = compose(project.read(project.name(chart))) if project.has(chart) else ()
    except Unreadable:
        return None
    return text_of(pairs(documents[0]).get("appVersion")) if documents else None


ValuesByPath: TypeAlias = "Mapping[str, Pairs]"
"""What another file of values has, by place."""


def laid_out(documents: Sequence[Node]) -> ValuesByPath:
    """Every mapping of these values that may be an image or a part of one, by its place."""
    found: dict[str, Pairs] = {}
    for document in documents:
        for node, at in places(document):
            keys = pairs(node)
            if {"repository", "digest", *_TAGS} & keys.keys():
                found[str(at)] = keys
    return found


def read_values(
    source: SourceFile,
    documents: Sequence[Node],
    begin: str = "",
    version: str | None = None,
    *,
    under: ValuesByPath | None = None,
    over: Sequence[ValuesByPath] = (),
    chart: bool = True,
) -> ScanResult:
    """The sites of a file of values, or of a part of one, whose place `begin` says. `version`: what an empty tag means.

    `under`: the values that these are laid over; `over`: those that are laid over these. Without a `chart` beside it an
    empty tag is one of a chart that is elsewhere, which is noted.
    """
    reader = _Reader(source, version, under or {}, over, chart=chart)
    for document in documents:
        reader.read(document, begin)
    return ScanResult(tuple(reader.image_refs), (), tuple(reader.notes))


def digest_spot(source: SourceFile, node: ScalarNode) -> EditRange:
    """The whole value of a `digest`. A bare one takes the space before it along, so that to unpin leaves no trace."""
    end = content_end(source, node)
    start = end - len(node.value)
    bare = not node.style and source.text[start - 2 : start] == ": "
    return EditRange(source.path, start - 1, end, " ") if bare else EditRange(source.path, start, end, "")


def misread(node: Node | None) -> str | None:
    """Why a bare tag is not what it looks like: YAML makes a number of it, and a number has no trailing zeros."""
    if not isinstance(node, ScalarNode) or node.style or not _NUMBER.fullmatch(node.value):
        return None
    if _COUNT.fullmatch(node.value):
        return None
    return f"{node.value} is a number to YAML, and may come out as another one: put it in quotes"


class _Reader:
    def __init__(
        self, source: SourceFile, version: str | None, under: ValuesByPath, over: Sequence[ValuesByPath], *, chart: bool
    ) -> None:
        self.source = source
        self.version = version
        self.under = under
        self.over = over
        self.chart = chart
        self.image_refs: list[ImageReference] = []
        self.notes: list[ScanProblem] = []
        self.seen: set[int] = set()

    def read(self, root: Node, begin: str) -> None:
        for node, at in places(root, begin):
            keys = pairs(node)
            if id(node) not in self.seen and keys:
                self.seen.add(id(node))
                self.image(keys, at)
                for key in _WHOLE & keys.keys():
                    self.whole(keys[key], Path(at, f".{key}"))

    def whole(self, node: Node, at: Path) -> None:
        """A text under `image`; one without tag and digest may be half of something, and is left alone."""
        text = text_of(node) or ""
        resolved, _ = parse_reference(text)
        named = resolved is not None and (resolved.tag is not None or resolved.digest is not None)
        if named and isinstance(node, ScalarNode):
            self.image_refs.append(scalar_reference(self.source, node, Format.HELM, str(at)))

    def image(self, keys: dict[str, Node], at: Path) -> None:
        below = self.under.get(str(at), {}) if self.under and {"digest", *_TAGS} & keys.keys() else {}
        if text_of(below.get("repository")) and self.laid_over(keys, below, str(at)):
            return
        repository = keys.get("repository")
        name = text_of(repository)
        tag_key = next((key for key in _TAGS if key in keys), None)
        if not name or "://" in name or (tag_key is None and not {"digest", "registry"} & keys.keys()):
            return
        joined = ":" in name.rpartition("/")[2] or "@" in name
        if joined and isinstance(repository, ScalarNode):
            self.image_refs.append(scalar_reference(self.source, repository, Format.HELM, str(Path(at, ".repository"))))
            return
        self.split(keys, name, keys.get(tag_key) if tag_key else None, str(at))

    def laid_over(self, keys: Pairs, below: Pairs, where: str) -> bool:
        """Take a part of an image whose other parts another file has; False where it is none."""
        whole = {**below, **keys}
        tag_key = next((key for key in _TAGS if key in keys), None) or next(
            (key for key in _TAGS if key in below), None
        )
        name = text_of(whole["repository"]) or ""
        shown = [node for key, node in keys.items() if key in {"digest", *_TAGS} and isinstance(node, ScalarNode)]
        if ":" in name.rpartition("/")[2] or "@" in name or not shown:
            return False
        self.split(whole, name, whole.get(tag_key) if tag_key else None, where, shown[0])
        if "digest" in below and "digest" not in keys and self.image_refs[-1].resolved is not None:
            self.image_refs[-1] = replace(self.image_refs[-1], edit_range=None, override_only=OWN_DIGEST)
        return True

    def split(self, keys: Pairs, name: str, tag_node: Node | None, where: str, shown: ScalarNode | None = None) -> None:
        registry = text_of(keys.get("registry"))
        tag, digest = text_of(tag_node) or self.version, text_of(keys.get("digest"))
        shown = shown or next(
            node for node in (tag_node, keys.get("digest"), keys["repository"]) if isinstance(node, ScalarNode)
        )
        written = "/".join(part for part in (registry, name) if part) + (f":{tag}" if tag else "")
        if digest:
            written = f"{written.partition('@')[0]}@{digest}"
        resolved, why = parse_reference(written)
        if resolved is not None and resolved.tag is None and resolved.digest is None:
            if not self.chart:
                self.notes.append(
                    ScanProblem(
                        self.source.path, line_of(shown), f"{quote(written)} has the tag of a chart that is not here"
                    )
                )
                return
            resolved, why = None, "its tag is empty, and no Chart.yaml beside it says which version is meant"
        if (wrong := misread(tag_node)) is not None and resolved is not None:
            resolved, why = None, wrong
        edit_range, reason = (None, why) if resolved is None else self.edit_range(keys.get("digest"), tag_node)
        if resolved is not None and resolved.digest is None and self.tag_is_overridden(where):
            edit_range, reason = None, OVERRIDDEN
        self.image_refs.append(
            ImageReference(
                path=self.source.path,
                format=Format.HELM,
                where=where or "values",
                line=self.source.line(span_of(self.source, shown).start),
                span=span_of(self.source, shown),
                written=written,
                resolved=resolved,
                why=why,
                edit_range=edit_range,
                override_only=reason,
            )
        )

    def tag_is_overridden(self, where: str) -> bool:
        """Whether a file that is laid over this one has another image here, and no digest of its own."""
        laid = (each.get(where, {}) for each in self.over)
        return any({"repository", *_TAGS} & keys.keys() and "digest" not in keys for keys in laid)

    def edit_range(self, digest: Node | None, tag: Node | None) -> tuple[EditRange | None, str | None]:
        written = text_of(tag) or ""
        if "@" in written and isinstance(tag, ScalarNode):  # somebody knows that this chart can bear it
            end = content_end(self.source, tag)
            return EditRange(self.source.path, end - digest_length(written), end), None
        if not isinstance(digest, ScalarNode):
            return None, NO_DIGEST
        end = content_end(self.source, digest)
        if is_null(digest):
            if digest.value:
                return None, f'its digest is {digest.value}: write `digest: ""` for it to be filled in'
            colon = self.source.text.rfind(":", 0, end)
            return EditRange(self.source.path, colon + 1, colon + 1, " "), None
        return digest_spot(self.source, digest), None
