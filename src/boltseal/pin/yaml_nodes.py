"""YAML (and JSON, which is nearly all YAML) as nodes that know where they stand in the text. Nothing is constructed.

libyaml composes the nodes: an alias is its anchor's own node, so a bomb of aliases costs nothing until somebody expands
it, and nobody here does. Its marks count characters of the text without a byte order mark, and are exact also for CRLF.
A scalar's marks hold its anchor, tag and quotes too; `content_end` and `plain_start` find the content between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, TypeAlias

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from boltseal.pin.source import Source, Unreadable

MAX_DEPTH: Final = 200
MAX_NODES: Final = 1_000_000
MERGE: Final = "tag:yaml.org,2002:merge"
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")  # halves of a character: fine in JSON, not in YAML
_NULL: Final = "tag:yaml.org,2002:null"

Pairs: TypeAlias = "dict[str, Node]"


def compose(source: Source) -> tuple[Node, ...]:
    """The root of each document. Unreadable, with the line."""
    text = _SURROGATE.sub(r"\\u0041", source.text) if source.path.endswith(".json") else source.text
    try:
        documents = tuple(yaml.compose_all(text, Loader=yaml.CSafeLoader))
    except yaml.YAMLError as error:
        raise _unreadable(source, error) from error
    except RecursionError as error:
        raise Unreadable(source.path, 0, f"is nested more than {MAX_DEPTH} levels deep: not read") from error
    for _ in walk(source, documents):
        pass
    return documents


def walk(source: Source, documents: tuple[Node, ...]) -> Iterator[Node]:
    """Every node once, in the order of the text, also the one that many aliases name. Unreadable where too deep."""
    waiting = [(node, 1) for node in reversed(documents)]
    seen: set[int] = set()
    while waiting:
        node, depth = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if depth > MAX_DEPTH or len(seen) > MAX_NODES:
            bound = f"is nested more than {MAX_DEPTH} levels deep" if depth > MAX_DEPTH else "has too many nodes"
            raise Unreadable(source.path, line_of(node), f"{bound}: not read")
        yield node
        if isinstance(node, MappingNode):
            for key, value in reversed(node.value):
                waiting.append((value, depth + 1))
                waiting.append((key, depth + 1))
        elif isinstance(node, SequenceNode):
            waiting.extend((item, depth + 1) for item in reversed(node.value))


def pairs(node: Node | None) -> Pairs:
    """A mapping's values by key, those of its merge keys (`<<`) where it has none of its own; {} of anything else."""
    found: Pairs = {}
    _merge(node, found, set())
    return found


def _merge(node: Node | None, found: Pairs, seen: set[int]) -> None:
    if not isinstance(node, MappingNode) or id(node) in seen:
        return
    seen.add(id(node))
    merged: list[Node] = []
    own: Pairs = {}
    for key, value in node.value:
        if isinstance(key, ScalarNode):
            if key.tag == MERGE:
                merged.extend(value.value if isinstance(value, SequenceNode) else [value])
            else:
                own[key.value] = value
    for name, value in own.items():
        found.setdefault(name, value)
    for fragment in merged:
        _merge(fragment, found, seen)


def items(node: Node | None) -> list[Node]:
    """The entries of a sequence; [] of anything else."""
    return list(node.value) if isinstance(node, SequenceNode) else []


def text_of(node: Node | None) -> str | None:
    """The value of a scalar that is not null; None of anything else."""
    if isinstance(node, ScalarNode) and node.tag != _NULL and node.tag != "!reset":
        return str(node.value)
    return None


def is_null(node: Node | None) -> bool:
    """Whether a key is there and has no value."""
    return isinstance(node, ScalarNode) and node.tag == _NULL


def line_of(node: Node) -> int:
    """The line on which a node begins, counted from 1."""
    return int(node.start_mark.line) + 1


def content_end(source: Source, node: ScalarNode) -> int:
    """Where the content of a scalar ends in the text: before the closing quote, or the line end of a block."""
    end = int(node.end_mark.index)
    if node.style in ("'", '"'):
        return end - 1
    if node.style in ("|", ">"):
        return len(source.text[:end].rstrip("\r\n\t \x85\u2028\u2029"))
    return end


def plain_start(source: Source, node: ScalarNode) -> int | None:
    """Where the content begins, if it stands in the text as it is meant: without escapes, folds or line breaks."""
    end = content_end(source, node)
    value = node.value.rstrip("\n")
    start = end - len(value)
    return start if start >= int(node.start_mark.index) and source.text[start:end] == value else None


def span_of(source: Source, node: ScalarNode) -> tuple[int, int]:
    """Where a scalar's content stands; with its quotes and properties where it can't be told apart from them."""
    start = plain_start(source, node)
    return (int(node.start_mark.index) if start is None else start, content_end(source, node))


def literal_offsets(source: Source, node: ScalarNode) -> list[int] | None:
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


def is_template(source: Source, node: Node) -> bool:
    """Whether a value is what YAML makes of an unquoted `{{ .Values.image }}`."""
    return isinstance(node, MappingNode) and source.text.startswith("{{", int(node.start_mark.index))


def _unreadable(source: Source, error: yaml.YAMLError) -> Unreadable:
    template = source.text.find("{{")
    if template >= 0:
        line = source.line(template)
        return Unreadable(source.path, line, "is a template, which no YAML parser reads: pin what it is filled from")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = 0 if mark is None else int(mark.line) + 1
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return Unreadable(source.path, line, f"is not YAML: {' '.join(str(said).split())}")
