"""The account that ends a scan: every value that looks like an image is a reference, is no image by rule, or is reported.

Read are all YAML, JSON, TOML and HCL files that the scan has seen. A value counts if its key is one of
`project.references.image_shape.IMAGE_KEY` (also the `name` of an entry whose image is its `value`, and texts such as
`--sidecar-image=...`) and its text has the shape of a reference with a tag, a digest or a path. It is no image if it
has the extension of a file, names an existing file, or a reader says so (`ScanResult.accounted`). A single word
(`image: nginx`) counts if the keys beside it are those of a container.

A file that can't be parsed is read line by line, as are texts of several lines, such as a manifest in a ConfigMap. boltseal's own lock and the locks of package managers are left out.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto
from itertools import accumulate
from typing import Final, NamedTuple

from boltseal.errors import quote
from boltseal.lockfile.document import LOCK_NAME
from boltseal.project.image_references import ScanProblem, ScanResult, Span
from boltseal.project.references.hcl import read_hcl
from boltseal.project.references.image_shape import IMAGE_HINT, argument_of, is_word, looks_like_image, names_image
from boltseal.project.references.yaml_nodes import compose, is_null, literal_offsets, span_of, text_of
from boltseal.project.references.yaml_tree import Node, ScalarNode, Tree
from boltseal.project.source_files import ProjectTree, SourceFile, Unreadable

NOT_UNDERSTOOD: Final = "looks like an image, but its place is not understood: it is not locked; [[lock.ignore]] in .boltseal.toml leaves it out"
OTHER_LOCKS: Final = frozenset(
    {"Cargo.lock", "composer.lock", "package-lock.json", "pnpm-lock.yaml", "poetry.lock", "uv.lock", "yarn.lock"}
)
"""Files of package managers, which name no images."""
_CONTAINER_KEYS: Final = frozenset(
    {
        *("args", "command", "commands", "containerPort", "depends_on", "entrypoint", "env", "environment", "expose"),
        *("imagePullPolicy", "network_mode", "networks", "ports", "pullPolicy", "restart", "securityContext"),
        *("volumeMounts", "volumes"),
    }
)
_TAG_KEYS: Final = frozenset({"tag", "imageTag", "newTag"})
_LINE: Final = re.compile(
    r"""^[ \t]*(?:-[ \t]+)?["']?(?P<key>[\w.-]{1,100})["']?[ \t]*(?P<sign>[:=])[ \t]*"""
    r"""(?P<quote>["']?)(?P<value>(?:\{\{[^{}\n]{0,200}\}\}|(?!\{\{)[^\s"'#,;]){1,500})(?P=quote)(?:[ \t]*,)?[ \t]*(?:#.*)?$""",
    re.MULTILINE,
)
_TOML: Final = re.compile(
    r"""(?:^|[{,\[])[ \t]*["']?(?P<key>[\w-]{1,100})["']?[ \t]*=[ \t]*(?P<quote>["'])(?P<value>[^"'\n]{1,500})(?P=quote)""",
    re.MULTILINE,
)


class ImageCandidate(NamedTuple):
    """A value that looks like an image: its text and position."""

    text: str
    span: Span


def unknown_values(
    project: ProjectTree, names: Iterable[str], found: ScanResult, known: Mapping[str, Sequence[ImageCandidate]]
) -> ScanResult:
    """Return the result of a scan with the values in these files that no reader accounts for as `unknown`.

    `known`: the candidates of files that were parsed already.
    """
    account = _Account(found)
    unknown: list[ScanProblem] = []
    for name in names:
        last = name.rpartition("/")[2]
        if last == LOCK_NAME or last in OTHER_LOCKS or account.reported_whole(name):
            continue
        try:
            source = project.read(name)
        except Unreadable:
            continue  # reported by the scan, or data that is not text
        if name not in known and not _may_name_image(source.text):
            continue
        for candidate in known[name] if name in known else _candidates(source):
            line = source.line(candidate.span.start)
            if not account.covers(name, candidate.span, line) and not _names_file(project, name, candidate.text):
                message = f"{quote(candidate.text)} {NOT_UNDERSTOOD}"
                unknown.append(ScanProblem(name, line, message, candidate.text))
    return replace(found, unknown=tuple(sorted(dict.fromkeys(unknown))))


class _Account:
    """What a scan's result accounts for, by file."""

    def __init__(self, found: ScanResult) -> None:
        self.found = found
        self.spans: defaultdict[str, list[Span]] | None = None
        self.starts: dict[str, array[int]] = {}
        self.ends: dict[str, array[int]] = {}
        reported = (*found.problems, *found.notes)
        self.lines = {(problem.path, problem.line) for problem in reported}
        self.whole = {
            problem.path
            for problem in found.problems
            if problem.line == 0 or problem.message.startswith(("is not YAML", "is a template, not YAML"))
        }

    def sort_spans(self, path: str) -> None:
        """Prepare the look-up of the ranges of a file. Only files with candidates need it."""
        if self.spans is None:
            self.spans = defaultdict(list)
            for each in self.found.accounted:
                self.spans[each.path].append(each.span)
            for image_ref in self.found.image_refs:
                self.spans[image_ref.path].append(image_ref.span)
                at = image_ref.edit_range
                if at is not None and (at.path != image_ref.path or at.end != image_ref.span.end):
                    self.spans[at.path].append(Span(max(at.start - 1, 0), at.end))
        ranges = sorted(self.spans.pop(path, ()))
        self.starts[path] = array("I", (span.start for span in ranges))
        furthest = accumulate((span.end for span in ranges), max)  # because ranges may contain others
        self.ends[path] = array("I", furthest)

    def reported_whole(self, path: str) -> bool:
        """Return whether the whole file is reported as a problem."""
        return path in self.whole

    def covers(self, path: str, span: Span, line: int) -> bool:
        """Return whether a text is part of a reference, is no image by rule, or has a line that is reported."""
        if (path, line) in self.lines:
            return True
        if path not in self.starts:
            self.sort_spans(path)
        starts = self.starts[path]
        at = bisect_right(starts, max(span.end - 1, span.start)) - 1
        return at >= 0 and self.ends[path][at] >= min(span.start + 1, span.end)


def _names_file(project: ProjectTree, path: str, text: str) -> bool:
    """Return whether a text names a file or folder of the project, from its root or beside the file that contains it."""
    if "\0" in text or ".." in text:
        return False
    folder = project.root / path.rpartition("/")[0]
    try:
        return (project.root / text).exists() or (folder / text).exists()
    except OSError:
        return False


def _may_name_image(text: str) -> bool:
    """Return whether a text can have a key that names an image. Faster than a pattern that ignores case."""
    lower = text.lower()
    return "image" in lower or "img" in lower


def candidates(source: SourceFile, documents: tuple[Node, ...], found: ScanResult) -> tuple[ImageCandidate, ...]:
    """Return the values of a parsed file that look like images, without those that `found` accounts for."""
    if not _may_name_image(source.text):
        return ()
    return document_candidates(source, documents, found)


def document_candidates(source: SourceFile, documents: Iterable[Node], found: ScanResult) -> tuple[ImageCandidate, ...]:
    """Return the values of some documents of a file that look like images, as `candidates` does."""
    whole = {each.span for each in found.accounted if each.reason is not None}
    known = {each.span for each in found.image_refs if each.path == source.path}
    rest = [each for each in documents if Span(each.start, each.end) not in whole]
    return tuple(each for each in _in_nodes(source, rest) if each.span not in known)


def _candidates(source: SourceFile) -> Iterator[ImageCandidate]:
    """Yield the values of a file that look like images."""
    if source.path.endswith(".toml"):
        return _in_lines(source, _TOML)
    try:
        if source.path.endswith((".hcl", ".nomad")):
            return iter(list(_in_tokens(source)))  # so that it fails here
        documents = compose(source)
    except Unreadable:
        return _in_lines(source, _TOML if source.path.endswith((".hcl", ".nomad")) else _LINE)
    return _in_nodes(source, documents)


def _in_lines(source: SourceFile, pattern: re.Pattern[str]) -> Iterator[ImageCandidate]:
    for match in pattern.finditer(source.text):
        line_start = source.text.rfind("\n", 0, match.start("key")) + 1
        if source.text[line_start : match.start("key")].lstrip().startswith(("#", "//")):
            continue
        if names_image(match["key"]) and looks_like_image(match["value"]):
            yield ImageCandidate(match["value"], Span(*match.span("value")))


class _Under(Enum):
    """What the key of a node says about it."""

    NOTHING = auto()
    CONTAINERS = auto()  # `extraContainers: [...]`: an `image` in it is one even if it is a single word
    IMAGE = auto()  # `image: ...`: a text, or a mapping with its parts
    IMAGES = auto()  # `images: {web: ..., db: ...}`
    WORD = auto()  # an image even if it is a single word


_NO_IMAGE: Final = (_Under.NOTHING, _Under.CONTAINERS)
_CONTAINER_LISTS: Final = ("ontainers", "ontainer", "idecars", "idecar")
_PARTS: Final = frozenset({"default", "imageName", "name", "newName", "repo", "repository", "value"})


def _in_nodes(source: SourceFile, documents: Sequence[Node]) -> Iterator[ImageCandidate]:
    """Yield the values in parsed documents. Every node is visited once for what its keys say about it."""
    for document in documents:
        tree = document.tree
        found = IMAGE_HINT.finditer(tree.text, tree.start[document.at], tree.end[document.at])
        hints = array("I", (match.start() for match in found))
        seen: set[tuple[int, _Under]] = set()
        waiting = [iter([(document.at, _Under.NOTHING)])]
        while waiting:
            at, under = next(waiting[-1], (-1, _Under.NOTHING))
            if at < 0:
                waiting.pop()
                continue
            if under in _NO_IMAGE and bisect_left(hints, tree.start[at]) == bisect_left(hints, tree.end[at]):
                continue
            if tree.targets:
                if (at, under) in seen:
                    continue
                seen.add((at, under))
            if tree.is_mapping(at):
                waiting.append(_below(tree, at, under))
            elif not tree.is_scalar(at):
                waiting.append((tree.anchored(each), under) for each in tree.children(at))
            else:
                yield from _in_scalar(source, ScalarNode(tree, at), under)


def _in_scalar(source: SourceFile, node: ScalarNode, under: _Under) -> Iterator[ImageCandidate]:
    text = node.value.strip()
    if "\n" in text:
        yield from _in_text(source, node)
        return
    argument = argument_of(text) if under in _NO_IMAGE else None
    value = text if argument is None else argument
    asked = under not in _NO_IMAGE or argument is not None
    if asked and not is_null(node) and (looks_like_image(value) or (under is _Under.WORD and is_word(value))):
        yield ImageCandidate(value, span_of(source, node))


def _in_text(source: SourceFile, node: ScalarNode) -> Iterator[ImageCandidate]:
    """Yield the values in the lines of a text, such as a manifest inside a ConfigMap."""
    if not _may_name_image(node.value):
        return
    offsets = literal_offsets(source, node)
    at = node.start
    for match in _LINE.finditer(node.value):
        if names_image(match["key"]) and looks_like_image(match["value"]):
            text = match["value"]
            found = source.text.find(text, at) if offsets is None else offsets[match.start("value")]
            yield ImageCandidate(text, Span(max(found, at), max(found, at) + len(text)))
            at = max(found, at) + 1


def _in_tokens(source: SourceFile) -> Iterator[ImageCandidate]:
    for each in read_hcl(source):
        if names_image(each.key) and not each.bare and looks_like_image(each.value):
            yield ImageCandidate(each.value, each.span)
        for match in _LINE.finditer(each.value) if "\n" in each.value else ():
            if names_image(match["key"]) and looks_like_image(match["value"]):
                start = each.span.start + match.start("value")
                yield ImageCandidate(match["value"], Span(start, start + len(match["value"])))


def _below(tree: Tree, mapping: int, under: _Under) -> Iterator[tuple[int, _Under]]:
    """Yield the entries of the values of a mapping, and what their keys say about them."""
    named = tagged = False
    container = under is _Under.CONTAINERS
    for key, written in tree.entries(mapping):
        key_at = tree.anchored(key)
        name = tree.scalar(key_at) if tree.is_scalar(key_at) else ""
        container = container or name in _CONTAINER_KEYS
        tagged = tagged or name in _TAG_KEYS
        if name in ("name", "key"):
            named = named or names_image(text_of(tree.node(written)) or "")
    for key, written in tree.entries(mapping):
        value, key_at = tree.anchored(written), tree.anchored(key)
        name = tree.scalar(key_at) if tree.is_scalar(key_at) else ""
        if names_image(name):
            if not tree.is_scalar(value):
                yield value, _Under.IMAGES if name.lower().endswith("images") else _Under.IMAGE
            else:
                yield value, _Under.WORD if container or tagged else _Under.IMAGE
        elif not tree.is_scalar(value):
            yield value, _Under.CONTAINERS if name.endswith(_CONTAINER_LISTS) else _Under.NOTHING
        elif name == "repository" and tagged:
            yield value, _Under.WORD
        elif (
            under is _Under.IMAGES
            or (under is _Under.IMAGE and name in _PARTS)
            or (named and name in ("default", "value"))
        ):
            yield value, _Under.IMAGE
        else:
            yield value, _Under.NOTHING
