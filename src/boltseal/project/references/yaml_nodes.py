"""Parse YAML (and JSON, which is nearly all YAML) into nodes with their positions in the text. Constructs no values.

libyaml composes the nodes; an alias is the same node as its anchor. The size of all aliases is counted before they are
followed, and a document that is too large or contains itself is refused, so an alias bomb costs nothing. The callers
decide what a plain scalar is (null, a number). Marks count characters of the text without the byte order mark, also
with CRLF. A scalar's marks include its anchor, tag and quotes; `content_end` and `plain_start` find the content between
them.

The text is untrusted: no function recurses, and all take linear time, except for merges, which are limited. A node
takes 300 bytes of memory for as little as two bytes of text, so the number of nodes is limited before they are created.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from boltseal.project.image_references import Span
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
_ANCHOR: Final = re.compile(r"&([\w-]+)", re.ASCII)
_ALIAS: Final = re.compile(r"\*([\w-]+)", re.ASCII)
_TAGS: Final[dict[type[Node], str]] = {
    ScalarNode: "tag:yaml.org,2002:str",
    SequenceNode: "tag:yaml.org,2002:seq",
    MappingNode: "tag:yaml.org,2002:map",
}
_JSON_TOKENS: Final = re.compile(r'"(?:[^"\\\n]++|\\.)*+"?|//[^\r\n]*|/\*.*?(?:\*/|\Z)', re.DOTALL)

Pairs: TypeAlias = "dict[str, Node]"


def compose(source: SourceFile) -> tuple[Node, ...]:
    """Return the root of each document. Raises: Unreadable: it is not YAML, or too large."""
    return source.parsed(_composed)


def _composed(source: SourceFile) -> tuple[Node, ...]:
    return tuple(stream(source))


def stream(source: SourceFile) -> Iterator[Node]:
    """Yield the root of each document; one that is no longer used takes no memory.

    Raises: Unreadable: it is not YAML, or too large; perhaps after the first documents.
    """
    values = source.text.count("\n") + source.text.count(",")
    if values > MAX_VALUES:
        raise Unreadable(source.path, 0, f"has up to {values} values; a file with references has at most {MAX_VALUES}")
    text = source.text
    if _is_json(source):
        text = _SURROGATE.sub(r"\\u0041", without_json_comments(text))
    aliases, merges = may_have_aliases(source.text), _MERGE in source.text
    try:
        for document in yaml.compose_all(text, Loader=_Loader):
            if aliases:
                _check_aliases(source, (document,))
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


class _Loader(yaml.CBaseLoader):
    """Composes nodes without resolving the types of plain scalars, which takes a third of the time."""

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        """Do nothing: no tag depends on the path of its node."""

    def ascend_resolver(self) -> None:
        """Do nothing: no tag depends on the path of its node."""

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        """Return the tag of a node without one of its own."""
        return _TAGS[kind]


def without_json_comments(text: str) -> str:
    """Replace the comments of JSON with comments (`//`, `/* */`) by blanks, offsets unchanged."""
    if "//" not in text and "/*" not in text:
        return text
    return _JSON_TOKENS.sub(
        lambda match: match[0] if match[0].startswith('"') else re.sub(r"[^\r\n]", " ", match[0]), text
    )


def _check_aliases(source: SourceFile, documents: tuple[Node, ...]) -> None:
    """Refuse a document that contains itself, or that has too many values with every alias counted as its anchor."""
    sizes: dict[int, int] = {}
    ancestors: set[int] = set()
    waiting = [(document, False) for document in reversed(documents)]
    while waiting:
        node, visited = waiting.pop()
        if visited:
            ancestors.remove(id(node))
            sizes[id(node)] = size = _weight(node) + sum(sizes[id(each)] for each in _children(node))
            if size > MAX_VALUES:
                message = f"its aliases expand to more than {MAX_VALUES} values: not read"
                raise Unreadable(source.path, line_of(node), message)
        elif id(node) in ancestors:
            raise Unreadable(source.path, line_of(node), "an anchor contains an alias of itself: not read")
        elif id(node) not in sizes:
            ancestors.add(id(node))
            waiting.append((node, True))
            waiting.extend((each, False) for each in _children(node))


def _weight(node: Node) -> int:
    """Return the cost of a node without its children: a long text, such as a Dockerfile, costs as much as many values."""
    return 1 + len(node.value) // CHARACTERS_PER_VALUE if isinstance(node, ScalarNode) else 1


def _children(node: Node) -> list[Node]:
    """Return the children of a collection, keys and values alike."""
    if isinstance(node, MappingNode):
        return [each for pair in node.value for each in pair]
    return items(node)


def walk(documents: tuple[Node, ...]) -> Iterator[Node]:
    """Yield every node once in text order, even if several aliases refer to it."""
    waiting = list(reversed(documents))
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, MappingNode):
            for key, value in reversed(node.value):
                waiting.append(value)
                waiting.append(key)
        elif isinstance(node, SequenceNode):
            waiting.extend(reversed(node.value))


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


def mappings(root: Node, begin: str = "") -> Iterator[tuple[MappingNode, KeyPath]]:
    """Yield every mapping once, with its key path. Uses neither recursion nor a text per node, for any depth and size."""
    waiting: list[tuple[Node, KeyPath]] = [(root, KeyPath(None, begin))]
    seen: set[int] = set()
    while waiting:
        node, at = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            yield node, at
            for key, value in reversed(node.value):
                if not isinstance(value, ScalarNode):
                    waiting.append((value, KeyPath(at, f".{key.value}" if isinstance(key, ScalarNode) else ".?")))
        elif isinstance(node, SequenceNode):
            inner = [(item, index) for index, item in enumerate(node.value) if not isinstance(item, ScalarNode)]
            waiting.extend((item, KeyPath(at, f"[{index}]")) for item, index in reversed(inner))


def pairs(node: Node | None) -> Pairs:
    """Return a mapping's values by key, its own before those of its merge keys (`<<`); {} for any other node."""
    if not isinstance(node, MappingNode):
        return {}
    found: Pairs = {key.value: value for key, value in node.value if isinstance(key, ScalarNode)}
    if _MERGE not in found:
        return found
    found = {}
    for fragment in _fragments(node):
        own = {key.value: value for key, value in fragment.value if isinstance(key, ScalarNode) and not _is_merge(key)}
        for key, value in own.items():
            found.setdefault(key, value)
    return found


def _fragments(node: Node | None) -> Iterator[MappingNode]:
    """Yield a mapping and those that it merges, in order of priority, each once, at most MAX_FRAGMENTS + 1."""
    waiting = [node]
    seen: set[int] = set()
    while waiting and len(seen) <= MAX_FRAGMENTS:
        fragment = waiting.pop()
        if not isinstance(fragment, MappingNode) or id(fragment) in seen:
            continue
        seen.add(id(fragment))
        yield fragment
        for key, value in fragment.value:
            if isinstance(key, ScalarNode) and _is_merge(key):
                waiting.extend(reversed(value.value) if isinstance(value, SequenceNode) else [value])


def _is_merge(key: ScalarNode) -> bool:
    return key.value == _MERGE and not key.style


def items(node: Node | None) -> list[Node]:
    """Return the entries of a sequence; [] for any other node."""
    return list(node.value) if isinstance(node, SequenceNode) else []


def text_of(node: Node | None) -> str | None:
    """Return the value of a scalar that is not null; None for any other node."""
    if isinstance(node, ScalarNode) and not is_null(node) and node.tag != "!reset":
        return str(node.value)
    return None


def is_null(node: Node | None) -> bool:
    """Return whether a node is a key's empty value."""
    return isinstance(node, ScalarNode) and not node.style and node.value in _NULLS


def line_of(node: Node) -> int:
    """Return the first line of a node, counted from 1."""
    return int(node.start_mark.line) + 1


def content_end(source: SourceFile, node: ScalarNode) -> int:
    """Return the offset at which a scalar's content ends: before the closing quote, or at the line end of a block."""
    end = int(node.end_mark.index)
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
    return start if start >= int(node.start_mark.index) and source.text[start:end] == value else None


def span_of(source: SourceFile, node: ScalarNode) -> Span:
    """Return the range of a scalar's content, with its quotes and properties if they can't be separated."""
    start = plain_start(source, node)
    return Span(int(node.start_mark.index) if start is None else start, content_end(source, node))


def literal_offsets(source: SourceFile, node: ScalarNode) -> list[int] | None:
    """Return the offset of each character of a literal block (`|`); None for any other scalar."""
    if node.style != "|":
        return None
    start, end = int(node.start_mark.index), int(node.end_mark.index)
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
    return isinstance(node, MappingNode) and source.text.startswith("{{", int(node.start_mark.index))


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
