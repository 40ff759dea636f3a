"""Azure Pipelines: `resources.containers[].image`, and `container` and `services` of jobs.

A job names a container of the resources, or an image; a single word is such a name. `vmImage` is an image of a virtual
machine. Expressions (`${{ }}`, `$[ ]`) and variables (`$(tag)`) are known only when the pipeline runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from boltseal.project.image_references import ScanResult
from boltseal.project.references.image_shape import looks_like_image
from boltseal.project.references.reader import FormatReader, ProjectFile
from boltseal.project.references.scalars import template_reference
from boltseal.project.references.yaml_nodes import KeyPath, Pairs, items, mappings, pairs, text_of
from boltseal.project.references.yaml_tree import Node, ScalarNode

NAME: Final = "azure-pipelines"
_FILE: Final = re.compile(
    r"(?:.*/)?\.?azure-pipelines?(?:[.-][^/]*)?\.ya?ml|(?:.*/)?\.(?:azure-pipelines|azuredevops)/.+\.ya?ml",
    re.DOTALL | re.IGNORECASE,
)
_EXPRESSION: Final = re.compile(r"\$\{\{|\$\[|\$\(")
_WHY: Final = "an expression or a variable is evaluated only when the pipeline runs"
_JOB: Final = frozenset({"deployment", "job", "steps"})
_STEP: Final = frozenset(
    {"bash", "checkout", "download", "powershell", "publish", "pwsh", "script", "task", "template"}
)


def read_azure_pipelines(file: ProjectFile) -> ScanResult:
    """Return the image references of a pipeline or a template."""
    found: dict[Node, tuple[ScalarNode, str]] = {}
    names = {
        text_of(pairs(entry).get("container"))
        for document in file.documents
        for entry in items(pairs(pairs(document).get("resources")).get("containers"))
    }
    for document in file.documents:
        for node, at in mappings(document):
            for image, where in _images(pairs(node), at):
                text = text_of(image)
                if isinstance(image, ScalarNode) and text and text not in names:
                    found.setdefault(image, (image, where))
    return ScanResult(
        tuple(template_reference(file.source, node, NAME, where, _EXPRESSION, _WHY) for node, where in found.values())
    )


def _images(keys: Pairs, at: KeyPath) -> Iterator[tuple[Node, str]]:
    for index, entry in enumerate(items(keys.get("containers"))):
        image = pairs(entry).get("image")
        if image is not None and "container" in pairs(entry):
            yield image, str(KeyPath(at, f".containers[{index}].image"))
    if not _JOB & keys.keys():
        return
    container = keys.get("container")
    if "image" in pairs(container):
        yield pairs(container)["image"], str(KeyPath(at, ".container.image"))
    services = (("services." + name, node) for name, node in pairs(keys.get("services")).items())
    for name, node in (("container", container), *services):
        if node is not None and looks_like_image(text_of(node) or ""):
            yield node, str(KeyPath(at, f".{name}"))


def _is_pipeline(documents: tuple[Node, ...]) -> bool:
    """Return whether a document has a list of jobs or steps as Azure Pipelines writes them."""
    for document in documents:
        keys = pairs(document)
        jobs = [job for name in ("jobs", "stages") for job in items(keys.get(name))]
        if any({"deployment", "job", "stage"} & pairs(job).keys() for job in jobs):
            return True
        if any("container" in pairs(each) for each in items(pairs(keys.get("resources")).get("containers"))):
            return True
        steps = any(_STEP & pairs(step).keys() for step in items(keys.get("steps")))
        if steps and {"pool", "trigger", "parameters", "container", "variables"} & keys.keys():
            return True
    return False


READER: Final = FormatReader(
    NAME,
    by_name=lambda path: _FILE.fullmatch(path) is not None,
    by_content=_is_pipeline,
    read=read_azure_pipelines,
)
