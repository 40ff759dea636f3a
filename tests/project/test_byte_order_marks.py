"""Byte order marks in project files: an edit hits the right bytes, or the file is refused with one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from boltseal.project.references.yaml_tree import ScalarNode, read_trees
from tests.project.projects import found_in, pinned, written

MARK = "\ufeff"
IMAGE = "localhost:5000/shop/app:1.4.2"
FILES = {
    "compose.yaml": f"services:\n  web:\n    image: {IMAGE}\n",
    "pod.yaml": f"apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: web\n    image: {IMAGE}\n",
    "stream.yaml": f"a: 1\n---\napiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: web\n    image: {IMAGE}\n",
    "kustomization.yaml": "images:\n- name: app\n  newName: localhost:5000/shop/app\n  newTag: 1.4.2\n",
    ".gitlab-ci.yml": f"build:\n  image: {IMAGE}\n  script: [x]\n",
    ".circleci/config.yml": f"version: 2.1\njobs:\n  b:\n    docker:\n    - image: {IMAGE}\n",
    ".github/workflows/ci.yml": f"on: push\njobs:\n  b:\n    runs-on: u\n    container: {IMAGE}\n",
    "skaffold.yaml": (
        f"apiVersion: skaffold/v4beta1\nkind: Config\nbuild:\n  artifacts:\n  - image: x\n    buildpacks:\n      builder: {IMAGE}\n"
    ),
    "values.yaml": "image:\n  repository: localhost:5000/shop/app\n  tag: 1.4.2\n  digest: ''\n",
    "Dockerfile": f"# base\nFROM {IMAGE}\n",
    "docker-bake.hcl": f'target "a" {{\n  contexts = {{\n    base = "docker-image://{IMAGE}"\n  }}\n}}\n',
    "docker-bake.json": f'{{"target": {{"a": {{\n"contexts": {{"base": "docker-image://{IMAGE}"}}}}}}}}\n',
    ".devcontainer/devcontainer.json": f'{{\n"image": "{IMAGE}"}}\n',
    "web.container": f"[Container]\nImage={IMAGE}\n",
    "job.nomad": (
        f'job "x" {{\n group "g" {{\n task "t" {{\n driver = "docker"\n config {{\n image = "{IMAGE}"\n }}\n}}\n}}\n}}\n'
    ),
    ".env": f"IMAGE={IMAGE}\n",
}
"""A file of each format; `.env` is used by a Compose file."""

VARIANTS: dict[str, Callable[[str], bytes]] = {
    "none": lambda text: text.encode(),
    "one": lambda text: f"{MARK}{text}".encode(),
    "one with CRLF": lambda text: f"{MARK}{text}".replace("\n", "\r\n").encode(),
    "second line": lambda text: text.replace("\n", f"\n{MARK}", 1).encode(),
    "both": lambda text: (MARK + text.replace("\n", f"\n{MARK}", 1)).encode(),
    "before the value": lambda text: text.replace("localhost", f"{MARK}localhost").encode(),
    "after the value": lambda text: text.replace("1.4.2", f"1.4.2{MARK}").encode(),
    "end": lambda text: f"{text}{MARK}".encode(),
}
REFUSED: dict[str, Callable[[str], bytes]] = {
    "two": lambda text: f"{MARK}{MARK}{text}".encode(),
    "three": lambda text: f"{MARK}{MARK}{MARK}{text}".encode(),
    "UTF-16, little endian": lambda text: f"{MARK}{text}".encode("utf-16-le"),
    "UTF-16, big endian": lambda text: f"{MARK}{text}".encode("utf-16-be"),
}


def project(folder: Path, name: str, raw: bytes) -> Path:
    """Write a file, and for `.env` the Compose file that uses it."""
    return written(folder, {name: raw} | ({"compose.yaml": "x: ${IMAGE}\n"} if name == ".env" else {}))


def values(document: Any) -> Iterator[str]:
    """Yield all texts of a document as it was loaded."""
    if isinstance(document, dict):
        for each in document.values():
            yield from values(each)
    elif isinstance(document, list):
        for each in document:
            yield from values(each)
    elif isinstance(document, str):
        yield document


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", FILES)
def test_an_edit_hits_the_right_bytes(tmp_path: Path, name: str, variant: str) -> None:
    """Wherever a byte order mark is, pinning inserts a digest right after the image, and changes no other byte."""
    raw = VARIANTS[variant](FILES[name])
    root = project(tmp_path, name, raw)
    if name == ".env":
        (root / "compose.yaml").write_text("services: {web: {image: '${IMAGE}'}}\n")
    edited = pinned(root)

    for change in edited.changes:
        assert change.before.raw == raw
        assert re.sub(rb"@?sha256:[0-9a-f]{64}|\n? *digest: sha256:[0-9a-f]{64}", b"", change.after.raw) in (
            raw,
            raw.replace(b"newTag: 1.4.2\n", b""),
        )
    assert bool(edited.changes) or variant not in ("none", "one", "one with CRLF") or edited.refusals


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".yaml", ".yml"))])
def test_the_scan_finds_what_the_real_parser_finds(tmp_path: Path, name: str, variant: str) -> None:
    """A YAML file has the image that libyaml finds in its bytes, or is reported if libyaml refuses it."""
    raw = VARIANTS[variant](FILES[name])
    found = found_in(project(tmp_path, name, raw))
    try:
        loaded = [text for document in yaml.load_all(raw, yaml.CSafeLoader) for text in values(document)]
    except yaml.YAMLError:
        loaded = None

    if loaded is None:
        assert [each.path for each in found.problems] == [name]
    else:
        assert not found.problems
        parts = {"localhost:5000/shop/app", "1.4.2"} <= set(loaded)
        assert (parts or IMAGE in loaded) == any(each.resolved is not None for each in found.image_refs)


@pytest.mark.parametrize("variant", REFUSED)
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_encoding_is_refused_with_one_line(tmp_path: Path, name: str, variant: str) -> None:
    """A file that begins with two byte order marks, or with that of UTF-16, is reported once, and is not edited."""
    root = project(tmp_path, name, REFUSED[variant](FILES[name]))
    if name == ".env":
        (root / "compose.yaml").write_text("services: {web: {image: '${IMAGE}'}}\n")
    found = found_in(root)

    assert [each.path for each in found.problems] == [name]
    assert "byte order mark" in found.problems[0].message
    assert not pinned(root).changes


@given(st.lists(st.sampled_from([MARK, "a: b\n", "- c\n", "---\n", "# d\n", "'e'\n", "\n", "  f: g\n"]), max_size=8))
@example([MARK, "a: b\n"])
@example([MARK, MARK, "a: b\n"])
@example([MARK, "# d\n", "a: b\n", "---\n", MARK, "- c\n"])
def test_positions_of_values_are_those_of_their_text(tokens: list[str]) -> None:
    """The range of each plain or quoted scalar in a text with marks anywhere is its text, at its line."""
    text = "".join(tokens)
    try:
        scalars = [node for root in read_trees(text) for node in below(root) if isinstance(node, ScalarNode)]
    except yaml.YAMLError:
        return

    for node in scalars:
        if len(node.value.split()) == 1:
            shown = text[node.start : node.end]
            assert (shown[1:-1] if node.style else shown) == node.value
            assert text[: node.start].count("\n") == node.line


def below(node: Any) -> Iterator[Any]:
    """Yield a node and all nodes below it."""
    yield node
    if not isinstance(node, ScalarNode):
        for at in node.tree.children(node.at):
            yield from below(node.tree.node(at))
