"""Read YAML into compact trees of nodes with their positions. Constructs no values. Pure.

A document is one `Tree`: columns of numbers, one entry for each node in text order, about 20 bytes a node. The text of
most scalars is taken from the document's text when it is asked for. `Node` and its subclasses are short-lived views of
an entry, equal if they are views of the same one. An alias is the same node as its anchor.

    kind        scalar and its style, sequence, mapping or alias
    start, end  offsets; those of a scalar include its anchor, tag and quotes
    line        of the start, counted from 0
    following   the entry after the node and all below it; a collection's first child is the next entry

libyaml parses the text and reports events, which are not kept. Positions count characters from the start of the text.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from sys import intern, maxsize
from typing import Any, Final, NamedTuple

from yaml.composer import ComposerError
from yaml.cyaml import CParser  # type: ignore[attr-defined]  # the stubs leave it out
from yaml.events import (
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

_PLAIN, _SINGLE, _DOUBLE, _LITERAL, _FOLDED, _SEQUENCE, _MAPPING, _ALIAS = range(8)
_BOM: Final = "\ufeff"
_STYLES: Final = ("", "'", '"', "|", ">")
_QUOTES: Final = (0, 2, 2, maxsize, maxsize)
"""How many characters of a scalar are its quotes; the text of a block is never a range."""
_CODES: Final = {None: _PLAIN, "": _PLAIN, "'": _SINGLE, '"': _DOUBLE, "|": _LITERAL, ">": _FOLDED}
_TAGS: Final = (
    *("tag:yaml.org,2002:str" for _ in _STYLES),
    "tag:yaml.org,2002:seq",
    "tag:yaml.org,2002:map",
)


class Tree:
    """One document. `values`: texts of scalars that are not a range of `text`; `targets`: the anchors of aliases.

    `offset` and `line`: where `text` begins, if it is a part of a larger text.
    """

    __slots__ = ("end", "following", "kind", "line", "lines", "offset", "start", "tags", "targets", "text", "values")

    def __init__(self, text: str, offset: int, line: int) -> None:
        self.text = text
        self.offset = offset
        self.line = line
        self.kind = bytearray()
        self.start = array("I")
        self.end = array("I")
        self.lines = array("I")
        self.following = array("I")
        self.values: dict[int, str] = {}
        self.tags: dict[int, str] = {}
        self.targets: dict[int, int] = {}

    def node(self, at: int) -> Node:
        """Return the node of an entry: that of its anchor for an alias."""
        if self.kind[at] == _ALIAS:
            at = self.targets[at]
        return _VIEWS[self.kind[at]](self, at)

    def children(self, at: int) -> Iterator[int]:
        """Yield the entries of a collection's children: a mapping has a key and its value one after the other."""
        end, following = self.following[at], self.following
        at += 1
        while at < end:
            yield at
            at = following[at]

    def entries(self, at: int) -> Iterator[tuple[int, int]]:
        """Yield the entries of the keys and values of a mapping."""
        end, following = self.following[at], self.following
        at += 1
        while at < end:
            value = following[at]
            yield at, value
            at = following[value]

    def anchored(self, at: int) -> int:
        """Return the entry of the anchor of an alias; any other entry itself."""
        return self.targets[at] if self.kind[at] == _ALIAS else at

    def has_structure_of(self, other: Tree) -> bool:
        """Return whether two documents have the same nodes, apart from positions and the texts of scalars."""
        return (
            self.kind == other.kind
            and self.following == other.following
            and self.tags == other.tags
            and self.targets == other.targets
        )

    def scalars(self) -> Iterator[int]:
        """Yield the entries of the scalars in text order."""
        return (at for at, kind in enumerate(self.kind) if kind <= _FOLDED)

    def is_scalar(self, at: int) -> bool:
        """Return whether an entry that is no alias is a scalar."""
        return self.kind[at] <= _FOLDED

    def is_mapping(self, at: int) -> bool:
        """Return whether an entry that is no alias is a mapping."""
        return self.kind[at] == _MAPPING

    def is_plain(self, at: int) -> bool:
        """Return whether an entry that is no alias is a scalar without quotes."""
        return self.kind[at] == _PLAIN

    def scalar(self, at: int) -> str:
        """Return the text of a scalar's entry."""
        quoted = self.kind[at]
        if quoted == _PLAIN:
            return self.values[at] if at in self.values else self.text[self.start[at] : self.end[at]]
        return self.values[at] if at in self.values else self.text[self.start[at] + 1 : self.end[at] - 1]


class Node(NamedTuple):
    """A node of a document."""

    tree: Tree
    at: int

    @property
    def start(self) -> int:
        """The offset of its first character."""
        return self.tree.offset + self.tree.start[self.at]

    @property
    def end(self) -> int:
        """The offset after its last character."""
        return self.tree.offset + self.tree.end[self.at]

    @property
    def line(self) -> int:
        """The first line of the node, counted from 0."""
        return self.tree.line + self.tree.lines[self.at]

    @property
    def tag(self) -> str:
        """The tag of the node; without one of its own that of a text, a sequence or a mapping."""
        return self.tree.tags.get(self.at) or _TAGS[self.tree.kind[self.at]]


class ScalarNode(Node):
    """A text."""

    __slots__ = ()

    @property
    def value(self) -> str:
        """The text, with escapes and folded lines resolved."""
        return self.tree.scalar(self.at)

    @property
    def style(self) -> str:
        """The quotes, or `|` or `>`; "" for plain text."""
        return _STYLES[self.tree.kind[self.at]]


class SequenceNode(Node):
    """A list."""

    __slots__ = ()

    @property
    def value(self) -> list[Node]:
        """The entries."""
        return [self.tree.node(at) for at in self.tree.children(self.at)]


class MappingNode(Node):
    """A mapping."""

    __slots__ = ()

    @property
    def value(self) -> list[tuple[Node, Node]]:
        """The keys with their values, in text order."""
        nodes = [self.tree.node(at) for at in self.tree.children(self.at)]
        return list(zip(nodes[::2], nodes[1::2], strict=True))

    def by_key(self) -> dict[str, Node]:
        """Return the values by key; of equal keys the last one's. Keys that are no texts are left out."""
        tree = self.tree
        kind, following, text, start, end = tree.kind, tree.following, tree.text, tree.start, tree.end
        found: dict[str, Node] = {}
        at, last = self.at + 1, following[self.at]
        while at < last:
            value = following[at]
            key = at if kind[at] != _ALIAS else tree.targets[at]
            if kind[key] == _PLAIN and key not in tree.values:
                found[intern(text[start[key] : end[key]])] = tree.node(value)
            elif kind[key] <= _FOLDED:
                found[intern(tree.scalar(key))] = tree.node(value)
            at = following[value]
        return found


_VIEWS: Final[tuple[type[Node], ...]] = (*(ScalarNode for _ in _STYLES), SequenceNode, MappingNode)


class NodeSet:
    """A set of nodes, with a byte for each node of the documents."""

    def __init__(self) -> None:
        self._marked: dict[Tree, bytearray] = {}

    def add(self, node: Node) -> bool:
        """Add a node, and return whether it is new."""
        marked = self._marked.get(node.tree)
        if marked is None:
            marked = self._marked[node.tree] = bytearray(len(node.tree.kind))
        new = not marked[node.at]
        marked[node.at] = 1
        return new

    def __contains__(self, node: Node) -> bool:
        marked = self._marked.get(node.tree)
        return marked is not None and bool(marked[node.at])


def read_trees(text: str, offset: int = 0, line: int = 0) -> Iterator[Node]:
    """Yield the root of each document. `offset`, `line`: where the text begins, if it is a part of a larger one.

    Raises: YAMLError: it is not YAML; perhaps after the first documents.
    """
    # libyaml takes a byte order mark at the start for the encoding's, and does not count it
    parser = CParser(f"{_BOM}{text}" if text.startswith(_BOM) else text)
    try:
        event: Any = parser.get_event()
        while type(event) is not StreamEndEvent:
            if type(event) is DocumentStartEvent:
                tree = Tree(text, offset, line)
                _read(tree, parser.get_event)
                yield tree.node(0)
            event = parser.get_event()
    finally:
        parser.dispose()


def _read(tree: Tree, next_event: Callable[[], Any]) -> None:
    """Read the events of one document."""
    kinds, following, values = tree.kind, tree.following, tree.values
    add_kind, add_following, add_start = kinds.append, following.append, tree.start.append
    add_end, add_line = tree.end.append, tree.lines.append
    anchors: dict[str, int] = {}
    unclosed: list[int] = []
    at = 0
    while True:
        event = next_event()
        kind = type(event)
        if kind is ScalarEvent:
            first, last, style = event.start_mark, event.end_mark, event.style
            start, end, line, length = first.index, last.index, first.line, len(event.value)
            code = _CODES[style]
            if length != end - start - _QUOTES[code] or line != last.line:
                values[at] = event.value
            add_kind(code)
            add_end(end)
            add_following(at + 1)
        elif kind is MappingStartEvent or kind is SequenceStartEvent:
            first = event.start_mark
            start, line = first.index, first.line
            add_kind(_MAPPING if kind is MappingStartEvent else _SEQUENCE)
            add_end(0)
            add_following(0)
            unclosed.append(at)
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            closed = unclosed.pop()
            tree.end[closed] = event.end_mark.index
            following[closed] = at
            continue
        elif kind is DocumentEndEvent:
            return
        else:
            _add_alias(tree, event, anchors)
            at += 1
            continue
        add_start(start)
        add_line(line)
        if event.tag and event.tag != "!":
            tree.tags[at] = event.tag
        if event.anchor:
            _add_anchor(event, anchors, at)
        at += 1


def _add_anchor(event: Any, anchors: dict[str, int], at: int) -> None:
    if anchors.setdefault(event.anchor, at) != at:
        raise ComposerError("found duplicate anchor; first occurrence", None, "second occurrence", event.start_mark)


def _add_alias(tree: Tree, event: Any, anchors: dict[str, int]) -> None:
    target = anchors.get(event.anchor)
    if target is None:
        raise ComposerError(None, None, "found undefined alias", event.start_mark)
    at = len(tree.kind)
    tree.targets[at] = target
    tree.kind.append(_ALIAS)
    tree.start.append(event.start_mark.index)
    tree.end.append(event.end_mark.index)
    tree.lines.append(event.start_mark.line)
    tree.following.append(at + 1)
