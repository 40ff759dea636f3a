"""The parts of a YAML stream, each parsed alone, are its documents."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from boltseal.project.references.yaml_nodes import compose, document_texts, walk
from boltseal.project.references.yaml_tree import Node, ScalarNode
from boltseal.project.source_files import SourceFile, Unreadable

TOKENS = (
    *(
        "---",
        "---\n",
        "--- ",
        "\n---\n",
        "\n---\r\n",
        "\n--- |\n",
        "\n...\n",
        "...\n",
        "%YAML 1.1\n",
        "%TAG ! tag:x:\n",
    ),
    *("a: b\n", "- c\n", "  - d\n", "k: &x v\n", "l: *x\n", "!t e\n", "'", '"', "[", "]", "{a: b}\n", "# c\n", "? f\n"),
    *(
        "m: |\n",
        "m: |+\n",
        "m: >-\n",
        "m: |1\n",
        "  text\n",
        " text\n",
        "\n",
        "\r",
        "\u2028",
        "\u0085",
        "\ufeff",
        "word",
        ": ",
    ),
)


def shapes(path: str, texts: list[str]) -> list[tuple[object, ...]] | None:
    """Return the nodes of these texts, each parsed alone; None if one can't be parsed."""
    try:
        nodes: list[Node] = [node for text in texts for node in walk(compose(SourceFile(path, text, text.encode())))]
    except Unreadable:
        return None
    return [
        (node.tag, node.value, node.style)
        if isinstance(node, ScalarNode)
        else (node.tag, len(list(node.tree.children(node.at))))
        for node in nodes
    ]


@given(text=st.lists(st.sampled_from(TOKENS), max_size=20).map("".join), path=st.sampled_from(["a.yaml", "a.json"]))
@example(text="%TAG ! tag:x:\n---\n!t a\n---\n!t b\n", path="a.yaml")
@example(text="a: |+\n  text\n\n---\nb: >-\n text\n\n--- |1\n text\n---", path="a.yaml")
@example(text="a: &x b\n---\nc: *x\n", path="a.yaml")
@example(text='["a"\n---\n]', path="a.yaml")
@example(text="/*\n---\n*/ {}", path="a.json")
def test_the_parts_of_a_stream_are_parsed_as_in_the_stream(text: str, path: str) -> None:
    """Each part of a stream has the nodes that it has in the stream, and a part of an invalid stream is invalid."""
    parts = document_texts(SourceFile(path, text, text.encode()))

    assert "".join(parts) == text
    assert shapes(path, parts) == shapes(path, [text])
