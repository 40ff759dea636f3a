"""YAML (and JSON, which is nearly all YAML) as nodes that know where they stand in the text. Nothing is constructed.

libyaml composes the nodes: an alias is its anchor's own node. How much all aliases stand for is counted before anybody
follows them, and what comes to too much, or holds itself, is not read: a bomb costs nothing. What a plain scalar is (null, a number) is decided where it matters. The marks count characters
of the text without a byte order mark, and are exact also for CRLF. A scalar's marks hold its anchor, tag and quotes too;
`content_end` and `plain_start` find the content between them.

The text is hostile: nothing here recurs, and nothing takes longer than the text is long but for merges, which are bounded.
A node takes three hundred bytes of memory, and two of text, so that their number is bounded too, before they are made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from boltseal.project.image_references import Span
from boltseal.project.source_files import SourceFile, Unreadable

MAX_FRAGMENTS: Final = 200
MAX_VALUES: Final = 1_000_000
CHARACTERS_PER_VALUE: Final = 16
_MERGE: Final = "<<"
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")  # halves of a character: fine in JSON, not in YAML

Pairs: TypeAlias = "dict[str, Node]"


def compose(source: SourceFile) -> tuple[Node, ...]:
    """The root of each document. Unreadable, with the line."""
    return source.parsed(_composed)


def _composed(source: SourceFile) -> tuple[Node, ...]:
    values = source.text.count("\n") + source.text.count(",")
    if values > MAX_VALUES:
        raise Unreadable(source.path, 0, f"has up to {values} values; a file with references has at most {MAX_VALUES}")
    text = _SURROGATE.sub(r"\\u0041", source.text) if source.path.endswith(".json") else source.text
    try:
        documents = tuple(yaml.compose_all(text, Loader=yaml.CBaseLoader))
    except yaml.YAMLError as error:
        raise _unreadable(source, error) from error
    if "*" in source.text and "&" in source.text:
        _check_aliases(source, documents)
    if _MERGE in source.text:
        for node in walk(documents):
            if isinstance(node, MappingNode) and len(list(_fragments(node))) > MAX_FRAGMENTS:
                raise Unreadable(source.path, line_of(node), f"merges more than {MAX_FRAGMENTS} mappings into one")
    return documents


def _check_aliases(source: SourceFile, documents: tuple[Node, ...]) -> None:
    """Refuse a document that holds itself, or whose values are too many once every alias stands for its anchor's."""
    sizes: dict[int, int] = {}
    above: set[int] = set()
    waiting = [(document, False) for document in reversed(documents)]
    while waiting:
        node, left = waiting.pop()
        if left:
            above.remove(id(node))
            sizes[id(node)] = size = _weight(node) + sum(sizes[id(each)] for each in _inner(node))
            if size > MAX_VALUES:
                said = f"its aliases stand for more than {MAX_VALUES} values: not read"
                raise Unreadable(source.path, line_of(node), said)
        elif id(node) in above:
            raise Unreadable(source.path, line_of(node), "an anchor holds an alias of itself: not read")
        elif id(node) not in sizes:
            above.add(id(node))
            waiting.append((node, True))
            waiting.extend((each, False) for each in _inner(node))


def _weight(node: Node) -> int:
    """How many values a node is by itself: a long text, such as a Dockerfile, costs whoever reads it as much as many."""
    return 1 + len(node.value) // CHARACTERS_PER_VALUE if isinstance(node, ScalarNode) else 1


def _inner(node: Node) -> list[Node]:
    """What a collection holds, keys and values alike."""
    if isinstance(node, MappingNode):
        return [each for pair in node.value for each in pair]
    return items(node)


def walk(documents: tuple[Node, ...]) -> Iterator[Node]:
    """Every node once, in the order of the text, also the one that many aliases name."""
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


@dataclass(frozen=True, slots=True)
class Path:
    """Where a node stands: a word behind another place. Words are joined only when somebody wants to read them."""

    before: Path | None
    word: str

    def __str__(self) -> str:
        words: list[str] = []
        at: Path | None = self
        while at is not None:
            words.append(at.word)
            at = at.before
        return "".join(reversed(words)).removeprefix(".")


def places(root: Node, begin: str = "") -> Iterator[tuple[MappingNode, Path]]:
    """Every mapping once, with its place. Iterates, and keeps no text per node: depth and size may be anything."""
    waiting: list[tuple[Node, Path]] = [(root, Path(None, begin))]
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
                    waiting.append((value, Path(at, f".{key.value}" if isinstance(key, ScalarNode) else ".?")))
        elif isinstance(node, SequenceNode):
            inner = [(item, index) for index, item in enumerate(node.value) if not isinstance(item, ScalarNode)]
            waiting.extend((item, Path(at, f"[{index}]")) for item, index in reversed(inner))


def pairs(node: Node | None) -> Pairs:
    """A mapping's values by key, those of its merge keys (`<<`) where it has none of its own; {} of anything else."""
    found: Pairs = {}
    for fragment in _fragments(node):
        own = {key.value: value for key, value in fragment.value if isinstance(key, ScalarNode) and not _merges(key)}
        for key, value in own.items():
            found.setdefault(key, value)
    return found


def _fragments(node: Node | None) -> Iterator[MappingNode]:
    """A mapping, and those that it merges, each once, before what they merge themselves; no more than the bound and one."""
    waiting = [node]
    seen: set[int] = set()
    while waiting and len(seen) <= MAX_FRAGMENTS:
        fragment = waiting.pop()
        if not isinstance(fragment, MappingNode) or id(fragment) in seen:
            continue
        seen.add(id(fragment))
        yield fragment
        for key, value in fragment.value:
            if isinstance(key, ScalarNode) and _merges(key):
                waiting.extend(reversed(value.value) if isinstance(value, SequenceNode) else [value])


def _merges(key: ScalarNode) -> bool:
    return key.value == _MERGE and not key.style


def items(node: Node | None) -> list[Node]:
    """The entries of a sequence; [] of anything else."""
    return list(node.value) if isinstance(node, SequenceNode) else []


def text_of(node: Node | None) -> str | None:
    """The value of a scalar that is not null; None of anything else."""
    if isinstance(node, ScalarNode) and not is_null(node) and node.tag != "!reset":
        return str(node.value)
    return None


def is_null(node: Node | None) -> bool:
    """Whether a key is there and has no value."""
    return isinstance(node, ScalarNode) and not node.style and node.value in _NULLS


def line_of(node: Node) -> int:
    """The line on which a node begins, counted from 1."""
    return int(node.start_mark.line) + 1


def content_end(source: SourceFile, node: ScalarNode) -> int:
    """Where the content of a scalar ends in the text: before the closing quote, or the line end of a block."""
    end = int(node.end_mark.index)
    if node.style in ("'", '"'):
        return end - 1
    if node.style in ("|", ">"):
        return len(source.text[:end].rstrip("\r\n\t \x85\u2028\u2029"))
    return end


def plain_start(source: SourceFile, node: ScalarNode) -> int | None:
    """Where the content begins, if it stands in the text as it is meant: without escapes, folds or line breaks."""
    end = content_end(source, node)
    value = node.value.rstrip("\n")
    start = end - len(value)
    return start if start >= int(node.start_mark.index) and source.text[start:end] == value else None


def span_of(source: SourceFile, node: ScalarNode) -> Span:
    """Where a scalar's content stands; with its quotes and properties where it can't be told apart from them."""
    start = plain_start(source, node)
    return Span(int(node.start_mark.index) if start is None else start, content_end(source, node))


def literal_offsets(source: SourceFile, node: ScalarNode) -> list[int] | None:
    """Where each character of a literal block (`|`) stands in the text; None of any other scalar."""
    if node.style != "|":
        return None
    start, end = int(node.start_mark.index), int(node.end_mark.index)
    body = source.text.find("\n", start) + 1
    lines = source.text[body:end].splitlines(keepends=True)
    depths = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip()]
    firsts = [len(line) - len(line.lstrip(" ")) for line in node.value.splitlines() if line.strip()]
    indent = depths[0] - firsts[0] if depths and firsts else 0
    offsets: list[int] = []
    meant = ""
    for line in lines:
        kept = line[indent:] if line.strip("\r\n") else line.lstrip(" ")
        at = body + len(line) - len(kept)
        bare = kept.rstrip("\r\n")
        offsets.extend(range(at, at + len(bare) + (kept != bare)))
        meant += bare + ("\n" if kept != bare else "")
        body += len(line)
    return offsets if meant.startswith(node.value) else None


def is_template(source: SourceFile, node: Node) -> bool:
    """Whether a value is what YAML makes of an unquoted `{{ .Values.image }}`."""
    return isinstance(node, MappingNode) and source.text.startswith("{{", int(node.start_mark.index))


def _unreadable(source: SourceFile, error: yaml.YAMLError) -> Unreadable:
    template = source.text.find("{{")
    if template >= 0:
        line = source.line(template)
        return Unreadable(source.path, line, "is a template, which no YAML parser reads: pin what it is filled from")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = 0 if mark is None else int(mark.line) + 1
    position = getattr(error, "position", None)  # of a character that YAML forbids, in bytes
    if isinstance(position, int):
        line = source.text.encode()[:position].count(b"\n") + 1
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return Unreadable(source.path, line, f"is not YAML: {' '.join(str(said).split())}")
