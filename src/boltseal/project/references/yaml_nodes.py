"""Parse YAML (and JSON, which is nearly all YAML) into nodes with their positions in the text. Constructs no values.

libyaml parses the text, and `yaml_tree` keeps it; an alias is the same node as its anchor. The size of all aliases is
counted before they are followed, and a document that is too large or contains itself is refused, so an alias bomb costs
nothing. The callers decide what a plain scalar is (null, a number). Positions count characters of the text without the
byte order mark, also with CRLF. A scalar's positions include its anchor, tag and quotes; `content_end` and `plain_start`
find the content between them.

The text is untrusted: no function recurses, and all take linear time, except for merges, which are limited. A node
takes 20 bytes of memory for as little as two bytes of text, and its values more, so the number of nodes is limited
before they are created.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

import yaml

from boltseal.project.image_references import Span
from boltseal.project.references.yaml_tree import MappingNode, Node, NodeSet, ScalarNode, SequenceNode, Tree, read_trees
from boltseal.project.source_files import SourceFile, Unreadable

MAX_FRAGMENTS: Final = 200
MAX_VALUES: Final = 1_000_000
CHARACTERS_PER_VALUE: Final = 16
_MERGE: Final = "<<"
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")  # half a surrogate pair: valid in JSON, not in YAML

_DOCUMENT: Final = re.compile(
    r"---(?=[ \t\r\n]|\Z)"
)  # begins with a literal, which is searched ten times faster than `^`
_LINE_ENDS: Final = frozenset("\n\r\x85\u2028\u2029")
_OTHER_LINE_ENDS: Final = _LINE_ENDS - {"\n"}
_LINE_END: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_ANCHOR: Final = re.compile(r"&([\w-]+)", re.ASCII)
_ALIAS: Final = re.compile(r"\*([\w-]+)", re.ASCII)
_JSON_TOKENS: Final = re.compile(r'"(?:[^"\\\n]++|\\.)*+"?|//[^\r\n]*|/\*.*?(?:\*/|\Z)', re.DOTALL)

Pairs: TypeAlias = "dict[str, Node]"


def compose(source: SourceFile) -> tuple[Node, ...]:
    """Return the root of each document. Raises: Unreadable: it is not YAML, or too large."""
    return source.parsed(_composed)


def _composed(source: SourceFile) -> tuple[Node, ...]:
    check_size(source)
    return tuple(part_documents(source, TextPart(source.text, 0, 0)))


def check_size(source: SourceFile) -> None:
    """Refuse a text with more values than a file with references has. Raises: Unreadable."""
    values = source.text.count("\n") + source.text.count(",")
    if values > MAX_VALUES:
        raise Unreadable(source.path, 0, f"has up to {values} values; a file with references has at most {MAX_VALUES}")


class TextPart(NamedTuple):
    """A part of a file's text that can be parsed alone. `offset`, `line`: where it begins."""

    text: str
    offset: int
    line: int


def text_parts(source: SourceFile) -> Iterator[TextPart]:
    """Yield the parts of a stream, as `document_texts` divides it, with their positions."""
    offset = line = 0
    for text in document_texts(source):
        yield TextPart(text, offset, line)
        offset += len(text)
        other = any(end in text for end in _OTHER_LINE_ENDS)
        line += len(_LINE_END.findall(text)) if other else text.count("\n")


def part_documents(source: SourceFile, part: TextPart) -> Iterator[Node]:
    """Yield the root of each document in a part of a file; one that is no longer used takes no memory.

    Raises: Unreadable: it is not YAML, or its aliases expand too far; perhaps after the first documents.
    """
    text = part.text
    if _is_json(source):
        text = _SURROGATE.sub(r"\\u0041", without_json_comments(text))
    merges = _MERGE in text
    try:
        for document in read_trees(text, part.offset, part.line):
            if document.tree.targets:
                _check_aliases(source, document)
            if merges:
                _check_merges(source, document)
            yield document
    except yaml.YAMLError as error:
        raise _unreadable(source, error) from error


def _check_merges(source: SourceFile, document: Node) -> None:
    for node in walk((document,)):
        if isinstance(node, MappingNode) and len(list(_fragments(node))) > MAX_FRAGMENTS:
            raise Unreadable(source.path, line_of(node), f"merges more than {MAX_FRAGMENTS} mappings into one")


def document_texts(source: SourceFile) -> list[str]:
    """Divide the text of a stream at the lines that begin a document (`---`); together the parts are the text.

    Each part is parsed alone as it is inside the stream: libyaml takes `---` in the first column for a new document in
    every context, and anchors end with their document. Directives (`%TAG`) apply across parts, so that a stream with
    lines that may be one stays whole.
    """
    text = source.text
    if _is_json(source) or _may_have_directive(text):
        return [text]
    starts = [at for match in _DOCUMENT.finditer(text) if (at := match.start()) and text[at - 1] == "\n"]
    return [text[start:end] for start, end in pairwise((0, *starts, len(text)))]


def _may_have_directive(text: str) -> bool:
    """Return whether a line begins with `%`."""
    return any(not (at := match.start()) or text[at - 1] in _LINE_ENDS for match in re.finditer("%", text))


def may_have_aliases(text: str) -> bool:
    """Return whether a text has the same name as an anchor and as an alias; `*` and `&` alone are frequent in prose."""
    if "*" not in text or "&" not in text:
        return False
    return not set(_ANCHOR.findall(text)).isdisjoint(_ALIAS.findall(text))


def _is_json(source: SourceFile) -> bool:
    return source.path.endswith((".json", ".jsonc"))


def without_json_comments(text: str) -> str:
    """Replace the comments of JSON with comments (`//`, `/* */`) by blanks, offsets unchanged."""
    if "//" not in text and "/*" not in text:
        return text
    return _JSON_TOKENS.sub(
        lambda match: match[0] if match[0].startswith('"') else re.sub(r"[^\r\n]", " ", match[0]), text
    )


def _check_aliases(source: SourceFile, document: Node) -> None:
    """Refuse a document that contains itself, or that has too many values with every alias counted as its anchor."""
    tree = document.tree
    before = [0]  # the values before each entry, aliases expanded
    unclosed: list[int] = []
    for at in range(len(tree.kind)):
        anchor = tree.anchored(at)
        if anchor != at and tree.following[anchor] > at:
            raise Unreadable(source.path, line_of(tree.node(at)), "an anchor contains an alias of itself: not read")
        if anchor != at:
            weight = before[tree.following[anchor]] - before[anchor]
        else:
            weight = 1 + len(tree.scalar(at)) // CHARACTERS_PER_VALUE if tree.is_scalar(at) else 1
        before.append(before[at] + weight)
        if not tree.is_scalar(anchor) and anchor == at:
            unclosed.append(at)
        while unclosed and tree.following[unclosed[-1]] == at + 1:
            closed = unclosed.pop()
            if before[at + 1] - before[closed] > MAX_VALUES:
                message = f"its aliases expand to more than {MAX_VALUES} values: not read"
                raise Unreadable(source.path, line_of(tree.node(closed)), message)


def walk(documents: tuple[Node, ...]) -> Iterator[Node]:
    """Yield every node of these documents once in text order, even if several aliases refer to it."""
    for document in documents:
        tree = document.tree
        for at in range(len(tree.kind)):
            if tree.anchored(at) == at:
                yield tree.node(at)


class KeyPath(NamedTuple):
    """A node's key path, as a linked list: it becomes a text only when needed."""

    parent: KeyPath | None
    word: str

    def __str__(self) -> str:
        words: list[str] = []
        at: KeyPath | None = self
        while at is not None:
            words.append(at.word)
            at = at.parent
        return "".join(reversed(words)).removeprefix(".")


def mappings(root: Node, begin: str = "", hint: re.Pattern[str] | None = None) -> Iterator[tuple[MappingNode, KeyPath]]:
    """Yield every mapping once, with its key path. Uses neither recursion nor a text per node, for any depth and size.

    `hint`: leave out mappings in whose text, with their key, this is not found; all of a document with aliases remain.
    """
    tree = root.tree
    seen = NodeSet()
    hints = None
    if hint is not None and not tree.targets:
        found = hint.finditer(tree.text, tree.start[root.at], tree.end[root.at])
        hints = array("I", (match.start() for match in found))
    waiting = [iter([(root.at, KeyPath(None, begin))])]
    while waiting:
        at, path = next(waiting[-1], (-1, None))
        if path is None:
            waiting.pop()
            continue
        if tree.targets and not seen.add(tree.node(at)):
            continue
        if tree.is_mapping(at):
            yield MappingNode(tree, at), path
            waiting.append(_inner_of_mapping(tree, at, path, hints))
        elif not tree.is_scalar(at):
            waiting.append(_inner_of_sequence(tree, at, path))


def _inner_of_mapping(tree: Tree, at: int, path: KeyPath, hints: array[int] | None) -> Iterator[tuple[int, KeyPath]]:
    """Yield the values of a mapping that are collections."""
    for key, written in tree.entries(at):
        value = tree.anchored(written)
        if tree.is_scalar(value):
            continue
        if hints is not None and bisect_left(hints, tree.start[key]) == bisect_left(hints, tree.end[value]):
            continue
        name = tree.anchored(key)
        yield value, KeyPath(path, f".{tree.scalar(name)}" if tree.is_scalar(name) else ".?")


def _inner_of_sequence(tree: Tree, at: int, path: KeyPath) -> Iterator[tuple[int, KeyPath]]:
    """Yield the entries of a sequence that are collections."""
    for index, written in enumerate(tree.children(at)):
        value = tree.anchored(written)
        if not tree.is_scalar(value):
            yield value, KeyPath(path, f"[{index}]")


def pairs(node: Node | None) -> Pairs:
    """Return a mapping's values by key, its own before those of its merge keys (`<<`); {} for any other node."""
    if not isinstance(node, MappingNode):
        return {}
    found: Pairs = node.by_key()
    if _MERGE not in found:
        return found
    found = {}
    for fragment in _fragments(node):
        own = {key.value: value for key, value in fragment.value if isinstance(key, ScalarNode) and not _is_merge(key)}
        for key, value in own.items():
            found.setdefault(key, value)
    return found


def entries(node: Node | None) -> Iterator[tuple[str, Node]]:
    """Yield a mapping's keys and values without a dictionary of all. Unlike `pairs`, yields each of several equal keys."""
    if not isinstance(node, MappingNode) or _MERGE in node.tree.text:
        yield from pairs(node).items()
        return
    tree = node.tree
    for key, value in tree.entries(node.at):
        name = tree.anchored(key)
        if tree.is_scalar(name):
            yield tree.scalar(name), tree.node(value)


def _fragments(node: Node | None) -> Iterator[MappingNode]:
    """Yield a mapping and those that it merges, in order of priority, each once, at most MAX_FRAGMENTS + 1."""
    waiting = [node]
    seen: set[Node] = set()
    while waiting and len(seen) <= MAX_FRAGMENTS:
        fragment = waiting.pop()
        if not isinstance(fragment, MappingNode) or fragment in seen:
            continue
        seen.add(fragment)
        yield fragment
        for key, value in fragment.value:
            if isinstance(key, ScalarNode) and _is_merge(key):
                waiting.extend(reversed(value.value) if isinstance(value, SequenceNode) else [value])


def _is_merge(key: ScalarNode) -> bool:
    return key.value == _MERGE and not key.style


def items(node: Node | None) -> list[Node]:
    """Return the entries of a sequence; [] for any other node."""
    return node.value if isinstance(node, SequenceNode) else []


def each_item(node: Node | None) -> Iterator[Node]:
    """Yield the entries of a sequence as `items` returns them, without a list of all."""
    if isinstance(node, SequenceNode):
        yield from map(node.tree.node, node.tree.children(node.at))


def text_of(node: Node | None) -> str | None:
    """Return the value of a scalar that is not null; None for any other node."""
    if isinstance(node, ScalarNode) and not is_null(node) and node.tag != "!reset":
        return node.value
    return None


def is_null(node: Node | None) -> bool:
    """Return whether a node is a key's empty value."""
    return isinstance(node, ScalarNode) and not node.style and node.value in _NULLS


def line_of(node: Node) -> int:
    """Return the first line of a node, counted from 1."""
    return node.line + 1


def content_end(source: SourceFile, node: ScalarNode) -> int:
    """Return the offset at which a scalar's content ends: before the closing quote, or at the line end of a block."""
    end = node.end
    if node.style in ("'", '"'):
        return end - 1
    if node.style in ("|", ">"):
        return len(source.text[:end].rstrip("\r\n\t \x85\u2028\u2029"))
    return end


def plain_start(source: SourceFile, node: ScalarNode) -> int | None:
    """Return the offset at which the content begins, or None if the text has escapes, folds or line breaks."""
    end = content_end(source, node)
    value = node.value.rstrip("\n")
    start = end - len(value)
    return start if start >= node.start and source.text[start:end] == value else None


def span_of(source: SourceFile, node: ScalarNode) -> Span:
    """Return the range of a scalar's content, with its quotes and properties if they can't be separated."""
    start = plain_start(source, node)
    return Span(node.start if start is None else start, content_end(source, node))


def literal_offsets(source: SourceFile, node: ScalarNode) -> list[int] | None:
    """Return the offset of each character of a literal block (`|`); None for any other scalar."""
    if node.style != "|":
        return None
    start, end = node.start, node.end
    body = source.text.find("\n", start) + 1
    lines = source.text[body:end].splitlines(keepends=True)
    depths = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip()]
    firsts = [len(line) - len(line.lstrip(" ")) for line in node.value.splitlines() if line.strip()]
    indent = depths[0] - firsts[0] if depths and firsts else 0
    offsets: list[int] = []
    expected = ""
    for line in lines:
        content = line[indent:] if line.strip("\r\n") else line.lstrip(" ")
        at = body + len(line) - len(content)
        bare = content.rstrip("\r\n")
        offsets.extend(range(at, at + len(bare) + (content != bare)))
        expected += bare + ("\n" if content != bare else "")
        body += len(line)
    return offsets if expected.startswith(node.value) else None


def is_template(source: SourceFile, node: Node) -> bool:
    """Return whether a value is an unquoted `{{ .Values.image }}`, which YAML reads as a mapping."""
    return isinstance(node, MappingNode) and source.text.startswith("{{", node.start)


def _unreadable(source: SourceFile, error: yaml.YAMLError) -> Unreadable:
    template = source.text.find("{{")
    if template >= 0:
        line = source.line(template)
        return Unreadable(
            source.path, line, "is a template, not YAML: pin the images in the files that supply its values"
        )
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = 0 if mark is None else int(mark.line) + 1
    position = getattr(error, "position", None)  # byte offset of a character that YAML forbids
    if isinstance(position, int):
        line = source.text.encode()[:position].count(b"\n") + 1
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return Unreadable(source.path, line, f"is not YAML: {' '.join(str(problem).split())}")
