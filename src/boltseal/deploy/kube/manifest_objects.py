"""The objects of a release: parsed from manifests, named for the release, and prepared to be shown. Pure.

YAML is read as kubectl reads it (sigs.k8s.io/yaml, which is YAML 1.1 without times and numbers of base 60). A key that occurs
twice in one mapping is refused: only one of its values would be applied.

A Job is an object that can't be changed and runs once, so each release has one of its own: `migrate` is `migrate-r7` in release 7.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from boltseal.engines.cluster import Json, ObjectId
from boltseal.errors import Invalid, quote

MAX_NAME: Final = 63
"""Characters of a Job's name: it is a label of its pods."""
FIRST: Final = ("Namespace", "CustomResourceDefinition")
"""Kinds that others of the same release may need: applied first."""
_TEMPLATES: Final = {
    "Pod": ("spec",),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
    **dict.fromkeys(
        ("Deployment", "StatefulSet", "DaemonSet", "Job", "ReplicaSet", "ReplicationController"),
        ("spec", "template", "spec"),
    ),
}
_JOB_END: Final = re.compile(r"-r[0-9]+\Z")
_CONTAINERS: Final = ("initContainers", "containers")


class ManifestInvalid(Invalid):
    """A manifest that can't be read, or an object that can't be part of a release."""


class _Loader(yaml.CSafeLoader):
    """Constructs what kubectl would: no times, no numbers of base 60, no repeated keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own interface

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.checked: dict[int, yaml.MappingNode] = {}

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge `<<` after a check of the mapping's own keys."""
        if id(node) not in self.checked:
            self.checked[id(node)] = node
            seen = set()
            for key, _ in node.value:
                if key.value != "<<" and isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        line = key.start_mark.line + 1
                        raise ManifestInvalid(f"line {line}: the key {quote(key.value)} is there twice; remove one")
                    seen.add(key.value)
        super().flatten_mapping(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        found = super().construct_mapping(node, deep=deep)
        return {_key(key): value for key, value in found.items()}


def _key(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def _integer(_loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(node.value).replace("_", "")
    sign, digits = (text[0], text[1:]) if text[0] in "+-" else ("", text)
    octal = len(digits) > 1 and digits[0] == "0" and digits[1] not in "xXoObB"
    return int(sign + ("0o" + digits[1:] if octal else digits), 0)


def _number(_loader: _Loader, node: yaml.ScalarNode) -> float | int:
    value = float(node.value)
    return int(value) if value.is_integer() and abs(value) < 1e21 else value  # as Go's encoding/json writes it


def _boolean(_loader: _Loader, node: yaml.ScalarNode) -> bool:
    return str(node.value).lower() in ("y", "yes", "true", "on")


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)
_Loader.add_constructor("tag:yaml.org,2002:bool", _boolean)
for _tag, _pattern, _first in (
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON|n|N|no|No|NO|false|False|FALSE|off|Off|OFF", list("yYtToOnNfF")),
    ("int", r"[-+]?(?:0[xX][0-9a-fA-F_]+|0[oO]?[0-7_]+|0[bB][01_]+|0|[1-9][0-9_]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def _outline(document: object) -> str:
    """Return what a document is, without its values, which may be secret."""
    return (
        f"the keys {quote(', '.join(map(str, document)))}"
        if isinstance(document, dict)
        else f"a {type(document).__name__}"
    )


def parse_objects(text: str) -> list[dict[str, Any]]:
    """Return the objects of a manifest; those of lists one by one. Raises: ManifestInvalid."""
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ManifestInvalid(f"could not parse the manifests: {quote(str(error), 300)[1:-1]}") from error
    found: list[dict[str, Any]] = []
    waiting = [each for each in reversed(documents) if each is not None]
    while waiting:
        document = waiting.pop()
        if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
            raise ManifestInvalid(
                f"not an object of Kubernetes (got {_outline(document)}, expected apiVersion, kind, metadata)"
            )
        if document["kind"].endswith("List") and isinstance(document.get("items"), list):
            waiting += reversed(document["items"])
        else:
            found.append(document)
    return found


def with_namespaces(
    documents: Iterable[Mapping[str, Any]], namespace: str, cluster_wide: Iterable[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Return the objects with a namespace: their own, else `namespace`. Raises: ManifestInvalid.

    `cluster_wide`: apiVersion and kind of objects that are in no namespace.
    """
    wide, found = set(cluster_wide), dict[tuple[str, str, str, str], dict[str, Any]]()
    for document in documents:
        metadata = document.get("metadata")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
            raise ManifestInvalid(
                f"an object of kind {quote(document['kind'])} has no metadata.name; a release needs names that stay (no generateName)"
            )
        metadata = {key: value for key, value in metadata.items() if key != "namespace"} | (
            {} if (str(document.get("apiVersion")), document["kind"]) in wide
            else {"namespace": metadata.get("namespace") or namespace}
        )  # fmt: skip
        new = {**document, "metadata": metadata}
        object_id = object_id_of(new)
        if object_id.key in found:
            raise ManifestInvalid(f"{object_id} is there twice; remove one")
        found[object_id.key] = new
    return list(found.values())


def object_id_of(document: Mapping[str, Any]) -> ObjectId:
    """Return the identity of an object of a manifest."""
    metadata = document["metadata"]
    return ObjectId(
        str(document.get("apiVersion")), document["kind"], str(metadata.get("namespace") or ""), str(metadata["name"])
    )


def is_job(document: Mapping[str, Any]) -> bool:
    """Return whether an object is a Job."""
    return document["kind"] == "Job" and str(document.get("apiVersion")).startswith("batch/")


def for_release(documents: Iterable[Mapping[str, Any]], number: int) -> list[dict[str, Any]]:
    """Return the objects as a release applies them: its Jobs have names of their own."""
    return [_named(each, number) if is_job(each) else dict(each) for each in documents]


def _named(job: Mapping[str, Any], number: int) -> dict[str, Any]:
    end = f"-r{number}"
    return {**job, "metadata": {**job["metadata"], "name": job_name(str(job["metadata"]["name"]), end)}}


def job_name(name: str, end: str) -> str:
    """Return a Job's name with the end of its release; a long name is shortened, and stays distinct."""
    if len(name) + len(end) <= MAX_NAME:
        return name + end
    mark = f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name[: MAX_NAME - len(end) - len(mark)] + mark + end


def common_name(kind: str, name: str) -> str:
    """Return the name that an object has in all releases: a Job's without the end of its release."""
    return _JOB_END.sub("", name) if kind == "Job" else name


def in_two_stages(documents: Sequence[Json]) -> tuple[list[Json], list[Json]]:
    """Return what has to be there before the rest, and the rest, each in its order."""
    return [each for each in documents if each["kind"] in FIRST], [
        each for each in documents if each["kind"] not in FIRST
    ]


def pod_spec(document: Json) -> Json:
    """Return the pod spec of a workload; empty for other kinds."""
    found: Any = document
    for key in _TEMPLATES.get(document["kind"], ("",)):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def containers(document: Json) -> Iterator[tuple[str, str]]:
    """Yield name and image of each container of a workload."""
    spec = pod_spec(document)
    for key in _CONTAINERS:
        for each in spec.get(key) or ():
            if isinstance(each, Mapping) and isinstance(each.get("image"), str):
                yield str(each.get("name") or ""), each["image"]
