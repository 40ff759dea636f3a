"""Compare objects of a cluster with what an apply would make of them. Values of Secrets are never shown. Pure."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from boltseal.deploy.kube.manifest_objects import common_name
from boltseal.engines.cluster import Json

_OF_THE_SERVER: Final = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")
_HIDDEN: Final = ("data", "stringData")
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"  # of a Secret it has the values


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """What a deploy does to an object. `status`: created, changed, unchanged, removed, not-checked; `diff`: lines to show."""

    name: str
    status: str
    reason: str = ""
    diff: tuple[str, ...] = ()


def content(document: Json) -> dict[str, Any]:
    """Return an object without what the server and the controllers write."""
    found = {key: value for key, value in document.items() if key != "status"}
    found["metadata"] = {
        key: value for key, value in (found.get("metadata") or {}).items() if key not in _OF_THE_SERVER
    }
    return found


def object_change(name: str, live: Json | None, applied: Json) -> ObjectChange:
    """Return how an apply changes an object. `applied`: what the server's dry run returned."""
    if live is not None and content(live) == content(applied):
        return ObjectChange(name, "unchanged")
    before = [] if live is None else _lines(live, applied, "before")
    after = _lines(applied, live, "after")
    diff = tuple(difflib.unified_diff(before, after, f"{name} now", f"{name} after", lineterm="", n=2))
    return ObjectChange(name, "created" if live is None else "changed", diff=diff)


def changed_paths(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield path, former and new value of what differs between two objects of manifests; "" where there is none."""
    left, right = (dict(_leaves(content(each))) for each in (before, after))
    secret = "Secret" in (before.get("kind"), after.get("kind"))
    for path in sorted({*left, *right}):
        if left.get(path) != right.get(path):
            values = (left.get(path, ""), right.get(path, ""))
            if secret and path.partition(".")[0] in _HIDDEN:
                values = ("set" if values[0] else "", ("changed" if values[0] else "set") if values[1] else "")
            yield path, *values


def objects_by_name(documents: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return objects of a release by kind, name and namespace. A Job has one name in all releases."""
    found = dict[str, Mapping[str, Any]]()
    for each in documents:
        each = {**each, "metadata": {**each["metadata"], "name": common_name(each["kind"], each["metadata"]["name"])}}
        metadata = each["metadata"]
        inside = f" in {metadata['namespace']}" if metadata.get("namespace") else ""
        found[f"{each['kind'].lower()}/{metadata['name']}{inside}"] = each
    return found


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{at}[{inner.get('name', index)}]")
    else:
        yield at, json.dumps(value, sort_keys=True)


def _lines(document: Json, other: Json | None, side: str) -> list[str]:
    found = copy.deepcopy(content(document))
    if found.get("kind") == "Secret":
        for key in _HIDDEN:
            theirs = {} if other is None else other.get(key) or {}
            found[key] = {
                name: "***" if value == theirs.get(name) else f"*** ({side})"
                for name, value in (found.get(key) or {}).items()
            }
        (found["metadata"].get("annotations") or {}).pop(_LAST_APPLIED, None)
    return json.dumps(found, indent=2, sort_keys=True).splitlines()
