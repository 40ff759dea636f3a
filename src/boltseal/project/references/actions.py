"""GitHub Actions: `jobs.*.container`, `jobs.*.services.*`, and `docker://` in `uses` and in an action's `runs.image`.

An image with an expression (`${{ ... }}`) is known only when the workflow runs. Actions themselves are not images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from boltseal.project.image_references import Format, ImageReference, ScanResult
from boltseal.project.references.reader import FormatReader
from boltseal.project.references.scalars import scalar_reference
from boltseal.project.references.yaml_nodes import items, pairs, text_of
from boltseal.project.references.yaml_tree import MappingNode, Node, ScalarNode
from boltseal.project.source_files import SourceFile

_DOCKER: Final = "docker://"
_WORKFLOW: Final = re.compile(
    r"(?:.*/)?\.(?:github|gitea|forgejo)/workflows/[^/]+\.ya?ml|(?:.*/)?action\.ya?ml", re.DOTALL
)
_EXPRESSION: Final = (
    "an expression (${{ }}) is evaluated only when the workflow runs; [lock] exclude skips a file that contains one"
)


def read_actions(source: SourceFile, documents: Sequence[Node]) -> ScanResult:
    """Return the image references of a workflow or an action."""
    scalars = (place for document in documents for place in (*_in_jobs(document), *_in_action(document)))
    return ScanResult(
        tuple(_image_ref(source, node, where) for node, where in scalars if node is not None and node.value)
    )


def _image_ref(source: SourceFile, node: ScalarNode, where: str) -> ImageReference:
    prefix = _DOCKER if node.value.startswith(_DOCKER) else ""
    image_ref = scalar_reference(source, node, Format.GITHUB_ACTIONS, where, prefix=prefix)
    if "${{" in node.value:
        return replace(image_ref, resolved=None, why=_EXPRESSION, edit_range=None, override_only=_EXPRESSION)
    return image_ref


def _in_jobs(document: Node) -> Iterator[tuple[ScalarNode | None, str]]:
    for name, job in pairs(pairs(document).get("jobs")).items():
        at = f"jobs.{name}"
        yield _image(pairs(job).get("container"), f"{at}.container")
        for service, node in pairs(pairs(job).get("services")).items():
            yield _image(node, f"{at}.services.{service}")
        yield from _in_steps(job, at)


def _in_action(document: Node) -> Iterator[tuple[ScalarNode | None, str]]:
    runs = pairs(document).get("runs")
    yield _docker(pairs(runs).get("image")), "runs.image"
    yield from _in_steps(runs, "runs")


def _in_steps(node: Node | None, at: str) -> Iterator[tuple[ScalarNode | None, str]]:
    for index, step in enumerate(items(pairs(node).get("steps"))):
        yield _docker(pairs(step).get("uses")), f"{at}.steps[{index}].uses"


def _image(node: Node | None, where: str) -> tuple[ScalarNode | None, str]:
    if isinstance(node, MappingNode):
        node, where = pairs(node).get("image"), f"{where}.image"
    return (node if isinstance(node, ScalarNode) and text_of(node) else None), where


def _docker(node: Node | None) -> ScalarNode | None:
    return node if isinstance(node, ScalarNode) and node.value.startswith(_DOCKER) else None


def _is_workflow(documents: tuple[Node, ...]) -> bool:
    """Return whether a document has jobs that run on a runner, or is an action with `runs.using`."""
    return any(
        "using" in pairs(pairs(document).get("runs"))
        or any("runs-on" in pairs(job) for job in pairs(pairs(document).get("jobs")).values())
        for document in documents
    )


READER: Final = FormatReader(
    Format.GITHUB_ACTIONS,
    by_name=lambda path: _WORKFLOW.fullmatch(path) is not None,
    by_content=_is_workflow,
    read=lambda file: read_actions(file.source, file.documents),
    may_be_kubernetes=True,
)
