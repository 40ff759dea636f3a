"""Kubernetes manifests, YAML and JSON: every mapping of the shape of a pod spec, in any kind, list or document.

Read are `image` in `containers`, `initContainers` and `ephemeralContainers`, and `volumes[].image.reference`, also in
files without `apiVersion`, such as patches. So Deployments, CronJobs, Knative Services and Argo Rollouts need no table.
The same applies to `steps` and `sidecars` of Tekton, and to the single containers of Tekton and Argo (`stepTemplate`,
`container`, `script`). In any other resource `spec...image` is read if it has a tag, a digest or a path. Images under
other keys are read by `paths`: keys joined by dots, with `[]` for every entry, by kind (`Cluster: spec.imageName`).

Values of Helm inside a resource (`spec.values` of a HelmRelease) are read as those of a file. A
CustomResourceDefinition is a schema and contains no images, and an ImageRepository names a repository, not an image.
Texts inside a ConfigMap are not parsed. The overrides of Argo CD (`kustomize.images` of an Application) and of Flux (`spec.images` of
a Kustomization) are images too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from boltseal.project.image_references import Accounted, Format, ImageReference, ScanProblem, ScanResult, Span
from boltseal.project.references.helm import read_values
from boltseal.project.references.image_shape import IMAGE_HINT, is_reference_text
from boltseal.project.references.kustomize_images import entry_parts, entry_reference
from boltseal.project.references.reader import FormatReader
from boltseal.project.references.scalars import scalar_reference, template_reference
from boltseal.project.references.yaml_nodes import (
    KeyPath,
    Pairs,
    compose,
    each_item,
    is_template,
    items,
    line_of,
    mappings,
    pairs,
    span_of,
    text_of,
)
from boltseal.project.references.yaml_tree import Node, NodeSet, ScalarNode, SequenceNode
from boltseal.project.source_files import SourceFile, Unreadable

PATHS: Final[Mapping[str, Sequence[str]]] = {
    "Cluster": ("spec.imageName",),
    "ClusterServiceVersion": ("spec.relatedImages[].image",),
}
"""Paths to images under other keys, by kind, for well-known operators."""

INLINE_VALUES: Final = "it is in values that are a text of this file, which is not edited"
PARAMETER: Final = "a parameter or template is filled in only when the resource is used"
USED_ELSEWHERE: Final = "it is the default of a parameter that is used for other things than an image, too"
_WHOLE_PARAMETER: Final = re.compile(r"\$\((?:inputs\.)?params\.([\w-]+)\)")
_PARAMETER: Final = re.compile(r"\$\(|\$\{|\{\{")
_CONTAINERS: Final = ("initContainers", "containers", "ephemeralContainers", "steps", "sidecars")
_SINGLE: Final = frozenset({".container", ".script", ".stepTemplate"})
_VALUES: Final = frozenset({".values", ".valuesObject", ".valuesInline"})
_TEXT_VALUES: Final = ("valuesContent", "values")
_SCHEMA: Final = "it is part of a schema (CustomResourceDefinition)"
_REPOSITORY: Final = "it names a repository, whose tags Flux lists"
_NO_IMAGE_KINDS: Final = {"CustomResourceDefinition": _SCHEMA, "ImageRepository": _REPOSITORY}
_TEXTS: Final = frozenset({"ConfigMap", "Secret"})


def is_kubernetes(document: Node) -> bool:
    """Return whether a document has a resource's `apiVersion` and `kind`."""
    keys = pairs(document)
    return "apiVersion" in keys and "kind" in keys


def has_containers(documents: Sequence[Node]) -> bool:
    """Return whether a document has a list of containers with images."""
    for document in documents:
        for node, _ in mappings(document, hint=IMAGE_HINT):
            keys = pairs(node)
            containers = (pairs(each) for key in _CONTAINERS[:3] for each in items(keys.get(key)))
            if any("image" in each and "container" not in each for each in containers):
                return True  # an entry with `container` is of Azure Pipelines
    return False


def read_kubernetes(
    source: SourceFile,
    documents: Sequence[Node],
    paths: Mapping[str, Sequence[str]] | None = None,
    number: int | None = None,
) -> ScanResult:
    """Return the image references of every resource. `paths`: read in addition to PATHS.

    `number`: that of a single document inside a stream of several.
    """
    reader = _Reader(source, {**PATHS, **(paths or {})})
    reader.read(documents, number)
    spans = {image_ref.span for image_ref in reader.image_refs} if reader.values_refs else ()
    values = (image_ref for image_ref in reader.values_refs if image_ref.span not in spans)
    return ScanResult(
        (*reader.image_refs, *values), tuple(reader.problems), tuple(reader.notes), (), tuple(reader.accounted)
    )


class _Reader:
    def __init__(self, source: SourceFile, paths: Mapping[str, Sequence[str]]) -> None:
        self.source = source
        self.paths = paths
        self.image_refs: list[ImageReference] = []
        self.values_refs: list[ImageReference] = []
        self.problems: list[ScanProblem] = []
        self.notes: list[ScanProblem] = []
        self.accounted: list[Accounted] = []
        self.seen = NodeSet()
        self.added = NodeSet()
        self.in_values = NodeSet()
        self.defaults: dict[str, ScalarNode] = {}

    def read(self, documents: Sequence[Node], first: int | None) -> None:
        """Read every document, and every item of lists, however deeply nested. `first`: the number of the first one."""
        several = len(documents) > 1 or first is not None
        waiting = [
            (document, f"[{number}]" if several else "") for number, document in enumerate(documents, first or 0)
        ]
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
        if kind in _NO_IMAGE_KINDS:
            span = Span(document.start, document.end)
            self.accounted.append(Accounted(self.source.path, span, _NO_IMAGE_KINDS[kind]))
            return
        title = text_of(pairs(keys.get("metadata")).get("name"))
        begin = " ".join(part for part in (f"{at}{'.' if at else ''}{kind}", title) if part)
        self.defaults = _defaults(keys)
        self.pods(document, begin, is_resource="apiVersion" in keys and kind not in _TEXTS)
        for path in self.paths.get(kind, ()):
            for node, where in _follow(document, path):
                self.add(node, begin, where)

    def pods(self, document: Node, begin: str, *, is_resource: bool) -> None:
        """Read every mapping once, however many aliases refer to it."""
        for node, at in mappings(document, hint=IMAGE_HINT):
            if self.seen.add(node):
                keys = pairs(node)
                self.pod(keys, begin, at)
                if is_resource:
                    self.custom(node, keys, begin, at)

    def pod(self, keys: Pairs, begin: str, at: KeyPath) -> None:
        kinds = [key for key in _CONTAINERS if key in keys]
        for key in kinds:
            for index, container in enumerate(each_item(keys[key])):
                steps = key in _CONTAINERS[3:]  # Tekton's steps are known by number
                name = None if steps else text_of(pairs(container).get("name"))
                self.add(pairs(container).get("image"), begin, KeyPath(at, f".{key}[{name or index}].image"))
        for index, volume in enumerate(items(keys.get("volumes")) if kinds else ()):
            name = text_of(pairs(volume).get("name")) or str(index)
            reference = pairs(pairs(volume).get("image")).get("reference")
            self.add(reference, begin, KeyPath(at, f".volumes[{name}].image.reference"))

    def custom(self, node: Node, keys: Pairs, begin: str, at: KeyPath) -> None:
        """Read what resources of any kind may have: a single container, an `image`, values of Helm."""
        image = keys.get("image")
        if at.word in _VALUES and node not in self.in_values:
            self.values(node, f"{begin} {at}")
        elif (
            image is not None
            and node not in self.in_values
            and (at.word in _SINGLE or is_reference_text(text_of(image) or ""))
        ):
            self.add(image, begin, KeyPath(at, ".image"))
        if at.word == ".kustomize":  # of an Application of Argo CD: [name=]image
            for index, entry in enumerate(items(keys.get("images"))):
                self.override(entry, begin, KeyPath(at, f".images[{index}]"))
        elif str(at) == "spec" and begin.partition(" ")[0].endswith("Kustomization"):  # of Flux
            for index, entry in enumerate(items(keys.get("images"))):
                found = entry_reference(self.source, pairs(entry), f"{begin} spec.images[{index}]")
                if found is not None:
                    self.values_refs.append(found)
                    self.accounted += entry_parts(self.source, pairs(entry))
        for key in _TEXT_VALUES:
            text = keys.get(key)
            if isinstance(text, ScalarNode) and "\n" in text.value and at.word in (".helm", ".spec"):
                self.text_values(text, f"{begin} {KeyPath(at, f'.{key}')}")

    def override(self, node: Node, begin: str, at: KeyPath) -> None:
        """Read an image that replaces another one, whose name precedes it."""
        if isinstance(node, ScalarNode) and text_of(node):
            replaced, sign, _ = node.value.rpartition("=")
            where, prefix = f"{begin} {str(at).removeprefix('.')}", replaced + sign
            self.values_refs.append(
                template_reference(self.source, node, Format.KUBERNETES, where, _PARAMETER, PARAMETER, prefix=prefix)
            )

    def values(self, node: Node, begin: str) -> None:
        for inner, _ in mappings(node):
            self.in_values.add(inner)
        found = read_values(self.source, [node], begin, chart=False)
        self.values_refs += found.image_refs
        self.notes += found.notes
        self.accounted += found.accounted

    def text_values(self, node: ScalarNode, where: str) -> None:
        """Read Helm values that are a text of the resource. They are locked, and not edited."""
        try:
            inner = SourceFile.of(self.source.path, node.value.encode())
            found = [each for root in compose(inner) for each in read_values(inner, [root], chart=False).image_refs]
        except Unreadable as error:
            self.problems.append(
                ScanProblem(self.source.path, line_of(node) + error.problem.line, error.problem.message)
            )
            return
        self.values_refs += [
            replace(
                each,
                where=f"{where} {each.where}",
                line=line_of(node) + each.line,
                span=span_of(self.source, node),
                edit_range=None,
                override_only=each.why or INLINE_VALUES,
            )
            for each in found
        ]

    def add(self, node: Node | None, begin: str, at: KeyPath | str) -> None:
        if node is None or not self.added.add(node):
            return
        name = _default_of(node)
        if name in self.defaults and isinstance(node, ScalarNode):
            self.accounted.append(Accounted(self.source.path, span_of(self.source, node)))
            self.add_default(name, begin)
        elif is_template(self.source, node):
            self.problems.append(ScanProblem(self.source.path, line_of(node), "is a template: not evaluated"))
        elif isinstance(node, ScalarNode) and text_of(node):
            self.image_refs.append(
                template_reference(
                    self.source,
                    node,
                    Format.KUBERNETES,
                    f"{begin} {str(at).removeprefix('.')}".strip(),
                    _PARAMETER,
                    PARAMETER,
                )
            )

    def add_default(self, name: str, begin: str) -> None:
        """Add the default of a parameter that is an image. It is edited only if it is nothing else as well."""
        node = self.defaults[name]
        if not self.added.add(node):
            return
        where = f"{begin} spec.params[{name}].default"
        image_ref = scalar_reference(self.source, node, Format.KUBERNETES, where)
        uses = re.findall(rf"params(?:\.|\[['\"]){re.escape(name)}(?![\w-])", self.source.text)
        images = re.findall(
            rf"image: *['\"]?\$\((?:inputs\.)?params\.{re.escape(name)}\)['\"]?[ \t]*(?:#.*)?\r?$",
            self.source.text,
            re.MULTILINE,
        )
        if image_ref.resolved is not None and len(uses) != len(images):
            image_ref = replace(image_ref, edit_range=None, override_only=USED_ELSEWHERE)
        self.image_refs.append(image_ref)


def _defaults(resource: Pairs) -> dict[str, ScalarNode]:
    """Return the literal defaults of a Tekton resource's parameters, by name."""
    spec = pairs(resource.get("spec"))
    listed = [*items(spec.get("params")), *items(pairs(spec.get("inputs")).get("params"))]
    found = {text_of(keys.get("name")): keys.get("default") for keys in map(pairs, listed)}
    return {
        name: node
        for name, node in found.items()
        if name and isinstance(node, ScalarNode) and text_of(node) and "$(" not in node.value
    }


def _default_of(node: Node) -> str:
    """Return the name of the parameter that is a whole text, or ""."""
    match = _WHOLE_PARAMETER.fullmatch(text_of(node) or "")
    return "" if match is None else match[1]


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


READER: Final = FormatReader(
    Format.KUBERNETES,
    by_name=lambda _path: False,
    by_content=lambda documents: any(map(is_kubernetes, documents)) or has_containers(documents),
    read=lambda file: read_kubernetes(file.source, file.documents, file.paths),
)
