"""Large streams of Kubernetes resources, which are read one document at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.project.scan import STREAMED_CHARACTERS, scan
from tests.project.projects import written

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec: {containers: [{image: %s}]}\n"
RESOURCES = (
    POD % ("a", "x/a:1"),
    "apiVersion: v1\nkind: List\nitems:\n- {kind: Pod, apiVersion: v1, spec: {containers: [{image: 'x/list:1'}]}}\n",
    "",
    "apiVersion: v1\nkind: Pod\nspec:\n  containers: [&one {image: x/anchor:1}, *one]\n  initContainers: [*one]\n",
    "apiVersion: v1\nkind: ConfigMap\ndata:\n  f: |\n    image: x/in-text:1\n",
    "apiVersion: x/v1\nkind: CustomResourceDefinition\nspec: {default: {image: x/schema:1}}\n",
    "apiVersion: x/v1\nkind: Thing\nother: {image: x/unknown:1}\n",
    POD % ("b", "x/a:1"),
)
PADDING = "# " + "x" * STREAMED_CHARACTERS + "\n"


@pytest.mark.parametrize(
    "last", ["", POD % ("c", "x/c:1"), "services: {web: {image: x/web:1}}\n", "kind: ]\n", "just: data\n"]
)
def test_a_large_stream_has_the_result_of_a_small_one(tmp_path: Path, last: str) -> None:
    """The references, positions, problems and unknown values of a stream do not depend on its size."""
    text = "---\n".join((*RESOURCES, last))
    small = scan(written(tmp_path / "small", {"all.yaml": text}))
    large = scan(written(tmp_path / "large", {"all.yaml": text + PADDING}))

    assert large == small
    assert small.image_refs or small.problems


def test_a_large_file_of_one_resource_has_no_number(tmp_path: Path) -> None:
    """The position of a reference in a file with one resource names no document."""
    [image_ref] = scan(written(tmp_path, {"one.yaml": f"---\n{RESOURCES[0]}\n---\n{PADDING}"})).image_refs[:1]
    [small] = scan(written(tmp_path / "s", {"one.yaml": f"---\n{RESOURCES[0]}\n---\n"})).image_refs[:1]

    assert image_ref.where == small.where
