"""Kubernetes manifests, YAML and JSON: every mapping of the shape of a pod spec, in any kind, list or document.

Read are `image` in `containers`, `initContainers` and `ephemeralContainers`, and `volumes[].image.reference`; so
Deployments, CronJobs, Knative Services and Argo Rollouts need no table. Resources of another shape are read by `paths`:
keys joined by dots, with `[]` for every entry, by kind (`Prometheus: spec.image`). A CustomResourceDefinition is a
schema and contains no images. Texts inside a ConfigMap are not parsed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from yaml.nodes import Node, ScalarNode, SequenceNode

from boltseal.project.image_references import Format, ImageReference, ScanProblem, ScanResult
from boltseal.project.references.scalars import scalar_reference
from boltseal.project.references.yaml_nodes import KeyPath, is_template, items, line_of, mappings, pairs, text_of
from boltseal.project.source_files import SourceFile

PATHS: Final[Mapping[str, Sequence[str]]] = {
    "Alertmanager": ("spec.image",),
    "ClusterTask": ("spec.steps[].image", "spec.sidecars[].image"),
    "Cluster": ("spec.imageName",),
    "Prometheus": ("spec.image",),
    "Task": ("spec.steps[].image", "spec.sidecars[].image"),
    "ThanosRuler": ("spec.image",),
    "Workflow": (
        "spec.templates[].container.image",
        "spec.templates[].script.image",
        "spec.templates[].sidecars[].image",
    ),
    "WorkflowTemplate": (
        "spec.templates[].container.image",
        "spec.templates[].script.image",
        "spec.templates[].sidecars[].image",
    ),
}
"""Paths to images outside of a pod spec, by kind, for well-known operators."""

_CONTAINERS: Final = ("initContainers", "containers", "ephemeralContainers")


def is_kubernetes(document: Node) -> bool:
    """Return whether a document has a resource's `apiVersion` and `kind`."""
    keys = pairs(document)
    return "apiVersion" in keys and "kind" in keys


def read_kubernetes(
    source: SourceFile, documents: Sequence[Node], paths: Mapping[str, Sequence[str]] | None = None
) -> ScanResult:
    """Return the image references of every resource. `paths`: read in addition to PATHS."""
    reader = _Reader(source, {**PATHS, **(paths or {})})
    reader.read(documents)
    return ScanResult(tuple(reader.image_refs), tuple(reader.problems))


class _Reader:
    def __init__(self, source: SourceFile, paths: Mapping[str, Sequence[str]]) -> None:
        self.source = source
        self.paths = paths
        self.image_refs: list[ImageReference] = []
        self.problems: list[ScanProblem] = []
        self.seen: set[int] = set()

    def read(self, documents: Sequence[Node]) -> None:
        """Read every document, and every item of lists, however deeply nested."""
        several = len(documents) > 1
        waiting = [(document, f"[{number}]" if several else "") for number, document in enumerate(documents)]
        waiting.reverse()
        while waiting:
            document, at = waiting.pop()
            listed = pairs(document).get("items")
            if (text_of(pairs(document).get("kind")) or "").endswith("List") and isinstance(listed, SequenceNode):
                found = [(item, f"{at}.items[{index}]".removeprefix(".")) for index, item in enumerate(items(listed))]
                waiting.extend(reversed(found))
            else:
                self.resource(document, at)

    def resource(self, document: Node, at: str) -> None:
        keys = pairs(document)
        kind = text_of(keys.get("kind")) or ""
        if kind == "CustomResourceDefinition" or "apiVersion" not in keys:
            return
        title = text_of(pairs(keys.get("metadata")).get("name"))
        begin = " ".join(part for part in (f"{at}{'.' if at else ''}{kind}", title) if part)
        self.pods(document, begin)
        for path in self.paths.get(kind, ()):
            for node, where in _follow(document, path):
                self.add(node, begin, where)

    def pods(self, document: Node, begin: str) -> None:
        """Read every mapping once, however many aliases refer to it."""
        for node, at in mappings(document):
            if id(node) not in self.seen:
                self.seen.add(id(node))
                self.pod(pairs(node), begin, at)

    def pod(self, keys: Mapping[str, Node], begin: str, at: KeyPath) -> None:
        kinds = [key for key in _CONTAINERS if key in keys]
        for key in kinds:
            for index, container in enumerate(items(keys[key])):
                name = text_of(pairs(container).get("name")) or str(index)
                self.add(pairs(container).get("image"), begin, KeyPath(at, f".{key}[{name}].image"))
        for index, volume in enumerate(items(keys.get("volumes")) if kinds else ()):
            name = text_of(pairs(volume).get("name")) or str(index)
            reference = pairs(pairs(volume).get("image")).get("reference")
            self.add(reference, begin, KeyPath(at, f".volumes[{name}].image.reference"))

    def add(self, node: Node | None, begin: str, at: KeyPath | str) -> None:
        if node is not None and is_template(self.source, node):
            self.problems.append(ScanProblem(self.source.path, line_of(node), "is a template: not evaluated"))
        elif isinstance(node, ScalarNode) and text_of(node):
            self.image_refs.append(scalar_reference(self.source, node, Format.KUBERNETES, f"{begin} {at}"))


def _follow(node: Node | None, path: str) -> Iterator[tuple[Node, str]]:
    """Yield every node at a path, with its key path."""
    reached: list[tuple[Node | None, str]] = [(node, "")]
    for word in path.split("."):
        key, every = word.removesuffix("[]"), word.endswith("[]")
        following: list[tuple[Node | None, str]] = []
        for found, at in reached:
            value = pairs(found).get(key)
            where = f"{at}.{key}".removeprefix(".")
            if every:
                following.extend((item, f"{where}[{index}]") for index, item in enumerate(items(value)))
            else:
                following.append((value, where))
        reached = following
    for found, at in reached:
        if found is not None:
            yield found, at
