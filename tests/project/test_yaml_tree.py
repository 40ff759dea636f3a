"""The compact trees have the nodes, positions and texts that PyYAML's own composer returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from boltseal.project.references.yaml_nodes import TextPart, compose, part_documents, text_parts
from boltseal.project.references.yaml_tree import MappingNode, Node, ScalarNode, read_trees
from boltseal.project.source_files import SourceFile, Unreadable

DATA = Path(__file__).parents[1] / "data"
FILES = sorted(path for path in DATA.rglob("*") if path.suffix in (".yaml", ".yml", ".json") and path.is_file())
INDENTED = (
    "- ",
    "  ",
    "? ",
    "k: ",
    "&x ",
    "&y ",
    "*x\n",
    "*y\n",
    "!t ",
    "!!str ",
    "<<: ",
    "<<: *x\n",
    "[",
    "]",
    "{",
    "}",
)
TEXTS = (
    "word",
    "two words",
    "''",
    "'it''s'",
    '"a\\n"',
    '"\\x41 b"',
    '"a\\\n  b"',
    "|\n  text\n",
    ">-\n  a\n  b\n",
    "~",
)
BREAKS = (
    "\n",
    "\r\n",
    "\r",
    "\u2028",
    "\u0085",
    "\n---\n",
    "\n...\n",
    "# c\n",
    ", ",
    ": ",
    " ",
    "é",
    "\U0001f600",
    "\ufeff",
)
yaml_texts = st.lists(st.sampled_from(INDENTED + TEXTS + BREAKS), max_size=25).map("".join)


def of_pyyaml(text: str) -> list[object] | None:
    """Return the documents as PyYAML composes them, with tags, styles and positions; None if the text is invalid."""
    try:
        return [plain(document, {}) for document in yaml.compose_all(text, Loader=yaml.CSafeLoader)]
    except yaml.YAMLError:
        return None


def plain(node: Any, seen: dict[int, int]) -> object:
    """Return a node of PyYAML as plain values; a node that is met again as its number."""
    if id(node) in seen:
        return seen[id(node)]
    seen[id(node)] = len(seen)
    at = (node.start_mark.index, node.end_mark.index, node.start_mark.line, own_tag(node.tag))
    if isinstance(node, yaml.ScalarNode):
        return (*at, node.value, node.style or "")
    if isinstance(node, yaml.MappingNode):
        return (*at, [(plain(key, seen), plain(value, seen)) for key, value in node.value])
    return (*at, [plain(each, seen) for each in node.value])


def own_tag(tag: str) -> str:
    """Return a tag, "" for one that PyYAML resolves from the text."""
    return "" if tag.startswith("tag:yaml.org,2002:") else tag


def as_plain(node: Node, seen: dict[Node, int]) -> object:
    """Return a node of a tree in the same way."""
    if node in seen:
        return seen[node]
    seen[node] = len(seen)
    at = (node.start, node.end, node.line, own_tag(node.tag))
    if isinstance(node, ScalarNode):
        return (*at, node.value, node.style)
    if isinstance(node, MappingNode):
        return (*at, [(as_plain(key, seen), as_plain(value, seen)) for key, value in node.value])
    return (*at, [as_plain(each, seen) for each in list_of(node)])


def list_of(node: Any) -> list[Node]:
    entries: list[Node] = node.value
    return entries


def of_tree(text: str) -> list[object] | None:
    """Return the documents as boltseal reads them; None if the text is invalid."""
    try:
        return [as_plain(document, {}) for document in read_trees(text)]
    except yaml.YAMLError:
        return None


def source_of(text: str, path: str = "a.yaml") -> SourceFile:
    return SourceFile(path, text, text.encode())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(DATA).as_posix())
def test_a_file_has_the_nodes_that_pyyaml_composes(path: Path) -> None:
    """Every YAML and JSON file of the test data has the nodes, positions, styles and tags of PyYAML's composer."""
    text = path.read_bytes().decode(errors="replace").removeprefix("\ufeff")

    assert of_tree(text) == of_pyyaml(text)


@given(text=yaml_texts)
@example(text="a: &x b\nc: [*x, *x]\n---\n*x\n")
@example(text="&x a: &y {b: *x}\nc: *y\n")
@example(text="a\nb")
@example(text="'a\nb'")
@example(text='"a\\\n b": &x "c"\n')
@example(text="a: !t\nb: ! c\nc: !!int 1\n")
@example(text="a: &x 1\nb: &x 2\n")
@example(text="a: |")
def test_any_text_has_the_nodes_that_pyyaml_composes(text: str) -> None:
    """Any text has the nodes of PyYAML's composer, or is invalid for both."""
    assume(not text.startswith("\ufeff"))  # a file's byte order mark is removed when it is read

    assert of_tree(text) == of_pyyaml(text)


@given(text=yaml_texts)
@example(text="a: 1\r---\n- b\n---\u2028c: d\n---\nx: {y: z}\n")
def test_the_parts_of_a_stream_have_the_positions_in_the_stream(text: str) -> None:
    """Nodes read from the parts of a stream have the texts and positions of those read from the whole stream."""
    source = source_of(text)
    try:
        whole = [as_plain(each, {}) for each in compose(source)]
    except Unreadable:
        return
    parts = [as_plain(each, {}) for part in text_parts(source) for each in part_documents(source, part)]

    assert parts == whole


def test_a_document_that_contains_itself_is_refused() -> None:
    """An alias inside of its own anchor makes the file unreadable."""
    with pytest.raises(Unreadable, match="contains an alias of itself"):
        compose(source_of("a: &x [b, *x]\n"))


def test_aliases_are_counted_as_what_they_expand_to() -> None:
    """A few lines whose aliases expand to more values than a file may have are refused, with the line."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    with pytest.raises(Unreadable, match="aliases expand to more than") as refused:
        compose(source_of("\n".join(lines)))

    assert refused.value.problem.line == 6


def test_a_node_takes_about_twenty_bytes() -> None:
    """The columns of a document take less than 24 bytes for each node, and texts that are ranges of the file none."""
    text = "".join(f"- image: 'team/app:{number}'\n" for number in range(2000))
    [root] = part_documents(source_of(text), TextPart(text, 0, 0))
    tree = root.tree
    columns = (tree.start, tree.end, tree.lines, tree.following)

    assert len(tree.kind) == 1 + 3 * 2000
    assert sum(each.itemsize for each in columns) + 1 < 24
    assert not tree.values
