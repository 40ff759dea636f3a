"""Helm values: `image: repo:tag` as one text, or a mapping of `registry`, `repository`, `tag` and `digest`.

A mapping is an image if it has a `repository` and a `tag`, `digest` or `registry`; an empty tag is the chart's
`appVersion`. Charts have further conventions, which are read as well: `image` or `sidecarImage` with a tag beside it
(`tag`, `imageTag`, `sidecarTag`), `name` and `tag` under a key that ends in `image`, and mappings and lists called
`images`. A digest is written into a `digest` key that the values already have, even empty: then the chart supports
it; into a `sha` key its hexadecimal digits. Without such a key only the chart's templates decide where a digest is allowed. A tag often becomes a label, which may
not contain `@`, so such an image can only be pinned by an override.

Other values files beside a chart (`values-prod.yaml`) override its `values.yaml`: a tag there belongs to the repository
here. A digest here would then be combined with the other tag, so none is written if an override has a tag without
digest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from boltseal.errors import quote
from boltseal.project.image_references import Accounted, EditRange, Format, ImageReference, ScanProblem, ScanResult
from boltseal.project.references.image_shape import IMAGE_HINT
from boltseal.project.references.reader import FormatReader, ProjectFile
from boltseal.project.references.scalars import digest_length, parse_reference, scalar_reference
from boltseal.project.references.yaml_nodes import (
    KeyPath,
    Pairs,
    compose,
    content_end,
    is_null,
    items,
    line_of,
    mappings,
    pairs,
    span_of,
    text_of,
)
from boltseal.project.references.yaml_tree import Node, NodeSet, ScalarNode
from boltseal.project.source_files import ProjectTree, SourceFile, Unreadable

NO_DIGEST: Final = 'these values have no `digest`; if the chart supports one, add `digest: ""` beside the tag'
OVERRIDDEN: Final = (
    'another values file overrides this tag: add `digest: ""` there too, or it would be combined with this digest'
)
OWN_DIGEST: Final = 'the digest of the overridden values would be combined with this tag: add `digest: ""` beside it'
_VALUES: Final = re.compile(r"values(?:[.-].*)?\.ya?ml|.+[.-]values\.ya?ml", re.DOTALL)
_DEFAULT_VALUES: Final = "values.yaml"
_WHOLE: Final = re.compile(r"fullImageName|image|.*(?:Image|[_-]image|_IMAGE)")
_NAMES: Final = ("name", "repo", "image", "imageName", "imageRepository")
_NUMBER: Final = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?")
_SAME_NUMBER: Final = re.compile(r"(?:0|[1-9][0-9]{0,5})(?:\.[0-9]{0,8}[1-9])?")
_SMALL: Final = re.compile(r"0\.0000")
_TAGS: Final = ("tag", "imageTag", "version")
_SHA: Final = re.compile(r"[0-9a-f]{64}")


def app_version(project: ProjectTree, values: str) -> str | None:
    """Return the `appVersion` of the chart beside a values file."""
    folder = values.rpartition("/")[0]
    chart = f"{folder}/Chart.yaml" if folder else "Chart.yaml"
    try:
        documents = compose(project.read(project.name(chart))) if project.has(chart) else ()
    except Unreadable:
        return None
    return text_of(pairs(documents[0]).get("appVersion")) if documents else None


ValuesByPath: TypeAlias = "Mapping[str, Pairs]"
"""The mappings of a values file by key path."""


def values_by_path(documents: Sequence[Node]) -> ValuesByPath:
    """Return every mapping of these values that may be an image or a part of one, by key path."""
    found: dict[str, Pairs] = {}
    for document in documents:
        for node, at in mappings(document):
            keys = pairs(node)
            if {"repository", "digest", "sha", *_TAGS} & keys.keys():
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
    """Return the image references of a values file, or of a part of it at the key path `begin`.

    `version`: the tag that an empty tag stands for. `under`: the values that these override; `over`: the values that
    override these. `chart` False: no chart is beside the file, so an empty tag is only noted.
    """
    reader = _Reader(source, version, under or {}, over, chart=chart)
    for document in documents:
        reader.read(document, begin)
    return ScanResult(tuple(reader.image_refs), (), tuple(reader.notes), (), tuple(reader.accounted))


def digest_range(source: SourceFile, node: ScalarNode) -> EditRange:
    """Return the range of a `digest` value. That of a bare one includes the space before it, so unpinning removes both."""
    end = content_end(source, node)
    start = end - len(node.value)
    bare = not node.style and source.text[start - 2 : start] == ": "
    return EditRange(source.path, start - 1, end, " ") if bare else EditRange(source.path, start, end, "")


def number_problem(node: Node | None) -> str | None:
    """Return why a bare tag is a number that Go prints in another form, such as 3.0 as 3; None if it is the same text.

    Go prints 5.7 and 16 as they are, but 1000000 as 1e+06 and 0.00001 as 1e-05.
    """
    if not isinstance(node, ScalarNode) or node.style or not _NUMBER.fullmatch(node.value):
        return None
    if _SAME_NUMBER.fullmatch(node.value) and not _SMALL.match(node.value):
        return None
    return f"YAML reads {node.value} as a number, which may be written differently: put it in quotes"


def read_values_file(file: ProjectFile) -> ScanResult:
    """Read a Helm values file together with the values files that it overrides or that override it."""
    source, project = file.source, file.project
    folder, _, last = source.path.rpartition("/")
    if not project.has(f"{folder}/Chart.yaml" if folder else "Chart.yaml"):
        return read_values(source, file.documents, chart=False)
    version = app_version(project, source.path)
    if last != _DEFAULT_VALUES:
        own = f"{folder}/{_DEFAULT_VALUES}" if folder else _DEFAULT_VALUES
        under = _values_of(project, own) if project.has(own) else None
        return read_values(source, file.documents, version=version, under=under)
    names_there = sorted(path.name for path in (project.root / folder).glob("*.y*ml"))
    names = [f"{folder}/{name}" if folder else name for name in names_there if _VALUES.fullmatch(name) and name != last]
    return read_values(source, file.documents, version=version, over=[_values_of(project, name) for name in names])


def _values_of(project: ProjectTree, name: str) -> ValuesByPath:
    """Return the values of a file by path; empty if it can't be read, which is reported when it is scanned itself."""
    try:
        return project.read(project.name(name)).parsed(_values_of_source)
    except Unreadable:
        return {}


def _values_of_source(source: SourceFile) -> ValuesByPath:
    return values_by_path(compose(source))


def has_values(documents: Sequence[Node]) -> bool:
    """Return whether a document has an image in parts under a key that ends in `image`, or beside its own tag."""
    for document in documents:
        for node, at in mappings(document, hint=IMAGE_HINT):
            keys = pairs(node)
            named_image = at.word.lower().endswith("image") and {"repository", "name", "repo"} & keys.keys()
            if named_image and {"digest", *_TAGS} & keys.keys():
                return True
            if any(_WHOLE.fullmatch(key) and _tag_beside(keys, key) for key in keys):
                return True
    return False


def _digest_key(keys: Pairs) -> str | None:
    """Return the key of an image's digest: `digest`, or `sha` if it is empty or has the digits of a SHA-256."""
    if "digest" in keys:
        return "digest"
    node = keys.get("sha")
    text = text_of(node)
    return "sha" if node is not None and (not text or _SHA.fullmatch(text)) else None


def _tag_beside(keys: Pairs, key: str) -> str | None:
    """Return the key of the tag that belongs to an image without one: `imageTag` to `image`, `webTag` to `webImage`."""
    begin = re.sub(r"[_-]?image$", "", key, flags=re.IGNORECASE)
    names = [f"{key}Tag", f"{key}_tag", f"{key}-tag", f"{key}_TAG", f"{key}Version"]
    names += [f"{begin}Tag", f"{begin}_tag", f"{begin}_TAG"] if begin else ["tag"]
    return next((name for name in names if text_of(keys.get(name))), None)


def _name_key(keys: Pairs, at: KeyPath) -> str | None:
    """Return the key that stands for `repository` in a mapping under a key that ends in `image`."""
    if "repository" in keys or not at.word.lower().endswith("image") or not {"digest", *_TAGS} & keys.keys():
        return None
    return next((key for key in _NAMES if key in keys), None)


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
        self.accounted: list[Accounted] = []
        self.seen = NodeSet()

    def read(self, root: Node, begin: str) -> None:
        for node, at in mappings(root, begin):
            keys = pairs(node)
            if keys and self.seen.add(node):
                name_key = _name_key(keys, at)
                self.read_image(keys, at, name_key)
                listed = at.word == ".images" or (at.word == ".tags" and at.parent and at.parent.word == ".images")
                for key, value in keys.items():
                    if (listed or _WHOLE.fullmatch(key)) and key != name_key:
                        self.read_text(keys, key, value, KeyPath(at, f".{key}"))
                for index, value in enumerate(items(keys.get("images"))):
                    self.read_text({}, "", value, KeyPath(at, f".images[{index}]"))

    def read_text(self, keys: Pairs, key: str, node: Node, at: KeyPath) -> None:
        """Read a text under `image`. One without tag and digest is only a part, if the tag is beside it."""
        resolved, _ = parse_reference(text_of(node) or "")
        if resolved is None or not isinstance(node, ScalarNode):
            return
        if resolved.tag is not None or resolved.digest is not None:
            self.image_refs.append(scalar_reference(self.source, node, Format.HELM, str(at)))
        elif (tag := _tag_beside(keys, key)) is not None:
            parts = {"repository": node, "tag": keys[tag]}
            parts |= {
                part: value
                for part in ("registry", "digest")
                for name in (f"{key}{part.capitalize()}", part)
                if (value := keys.get(name)) is not None and part not in parts
            }
            self.add_parts(parts, str(text_of(node)), keys[tag], str(at))

    def read_image(self, keys: dict[str, Node], at: KeyPath, name_key: str | None) -> None:
        below = self.under.get(str(at), {}) if self.under and {"digest", *_TAGS} & keys.keys() else {}
        if text_of(below.get("repository")) and self.read_override(keys, below, str(at)):
            return
        if name_key is not None:
            keys = {**keys, "repository": keys[name_key]}
        repository = keys.get("repository")
        name = text_of(repository)
        tag_key = next((key for key in _TAGS if key in keys), None)
        if not name or "://" in name or (tag_key is None and not {"digest", "registry"} & keys.keys()):
            return
        joined = ":" in name.rpartition("/")[2] or "@" in name
        if joined and isinstance(repository, ScalarNode):
            self.image_refs.append(
                scalar_reference(self.source, repository, Format.HELM, str(KeyPath(at, ".repository")))
            )
            return
        self.add_parts(keys, name, keys.get(tag_key) if tag_key else None, str(at))

    def read_override(self, keys: Pairs, below: Pairs, where: str) -> bool:
        """Read a part of an image whose other parts are in the overridden file. Return False if it is none."""
        merged = {**below, **keys}
        tag_key = next((key for key in _TAGS if key in keys), None) or next(
            (key for key in _TAGS if key in below), None
        )
        name = text_of(merged["repository"]) or ""
        position = [
            node for key, node in keys.items() if key in {"digest", "sha", *_TAGS} and isinstance(node, ScalarNode)
        ]
        if ":" in name.rpartition("/")[2] or "@" in name or not position:
            return False
        self.add_parts(merged, name, merged.get(tag_key) if tag_key else None, where, position[0])
        if _digest_key(below) is not None and _digest_key(keys) is None and self.image_refs[-1].resolved is not None:
            self.image_refs[-1] = replace(self.image_refs[-1], edit_range=None, override_only=OWN_DIGEST)
        return True

    def add_parts(
        self, keys: Pairs, name: str, tag_node: Node | None, where: str, position: ScalarNode | None = None
    ) -> None:
        digest_key = _digest_key(keys) or ""
        digest_node = keys.get(digest_key)
        parts = (keys.get(key) for key in ("registry", "repository", digest_key))
        self.accounted.extend(
            Accounted(self.source.path, span_of(self.source, node))
            for node in (*parts, tag_node)
            if isinstance(node, ScalarNode)
        )
        registry = text_of(keys.get("registry"))
        tag, digest = text_of(tag_node) or self.version, text_of(digest_node)
        position = position or next(
            node for node in (tag_node, digest_node, keys["repository"]) if isinstance(node, ScalarNode)
        )
        written = "/".join(part for part in (registry, name) if part) + (f":{tag}" if tag else "")
        if digest:
            written = f"{written.partition('@')[0]}@{'sha256:' if digest_key == 'sha' else ''}{digest}"
        resolved, why = parse_reference(written)
        if resolved is not None and resolved.tag is None and resolved.digest is None:
            if not self.chart:
                self.notes.append(
                    ScanProblem(
                        self.source.path,
                        line_of(position),
                        f"{quote(written)} gets its tag from a chart that is not here",
                    )
                )
                return
            resolved, why = None, "its tag is empty, and no Chart.yaml beside it gives a version"
        if (problem := number_problem(tag_node)) is not None and resolved is not None:
            resolved, why = None, problem
        edit_range, reason = (None, why) if resolved is None else self.edit_range(digest_node, tag_node)
        if edit_range is not None and digest_key == "sha" and edit_range.lead != "@":
            edit_range = replace(edit_range, hexadecimal=True)
        if resolved is not None and resolved.digest is None and self.tag_is_overridden(where):
            edit_range, reason = None, OVERRIDDEN
        self.image_refs.append(
            ImageReference(
                path=self.source.path,
                format=Format.HELM,
                where=where or "values",
                line=self.source.line(span_of(self.source, position).start),
                span=span_of(self.source, position),
                written=written,
                resolved=resolved,
                why=why,
                edit_range=edit_range,
                override_only=reason,
            )
        )

    def tag_is_overridden(self, where: str) -> bool:
        """Return whether an overriding file sets another image here, without a digest."""
        overrides = (each.get(where, {}) for each in self.over)
        return any({"repository", *_TAGS} & keys.keys() and _digest_key(keys) is None for keys in overrides)

    def edit_range(self, digest: Node | None, tag: Node | None) -> tuple[EditRange | None, str | None]:
        written = text_of(tag) or ""
        if "@" in written and isinstance(tag, ScalarNode):  # the chart evidently supports a digest in the tag
            end = content_end(self.source, tag)
            return EditRange(self.source.path, end - digest_length(written), end), None
        if not isinstance(digest, ScalarNode):
            return None, NO_DIGEST
        end = content_end(self.source, digest)
        if is_null(digest):
            if digest.value:
                return None, f'its digest is {digest.value}: write `digest: ""` so that it can be filled in'
            colon = self.source.text.rfind(":", 0, end)
            return EditRange(self.source.path, colon + 1, colon + 1, " "), None
        return digest_range(self.source, digest), None


READER: Final = FormatReader(
    Format.HELM,
    by_name=lambda path: _VALUES.fullmatch(path.rpartition("/")[2]) is not None,
    by_content=has_values,
    read=read_values_file,
    may_be_kubernetes=True,
)
