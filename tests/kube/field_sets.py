"""Which fields an object has and who manages them, as the API server documents it for server-side apply (`fieldsV1`)."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

Path = tuple[str, ...]

LIST_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": ("containerPort", "port"),
    "conditions": "type",
}
"""Lists that are merged by a key (`x-kubernetes-list-map-keys`); all others are one value."""
_SERVERS = {("f:apiVersion",), ("f:kind",), ("f:metadata", "f:name"), ("f:metadata", "f:namespace")}


def _key_of(name: str, item: Any) -> str | None:
    keys = LIST_KEYS.get(name)
    if keys is None or not isinstance(item, dict):
        return None
    for key in (keys,) if isinstance(keys, str) else keys:
        if key in item:
            return "k:" + json.dumps({key: item[key]}, separators=(",", ":"))
    return None


def leaves(value: Any, at: Path = (), name: str = "") -> Iterator[tuple[Path, Any]]:
    """Yield the path of each field that has a value of its own."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*at, f"f:{key}"), key)
    elif isinstance(value, list) and value and all(_key_of(name, each) for each in value):
        for each in value:
            yield from leaves(each, (*at, str(_key_of(name, each))))
    elif at not in _SERVERS:
        yield at, value


def find(document: Any, path: Path) -> Any:
    """Return the value at a path, None where there is none."""
    for word in path:
        if word.startswith("f:"):
            document = document.get(word[2:]) if isinstance(document, dict) else None
        else:
            wanted = json.loads(word[2:]).items()
            document = next((each for each in document or () if wanted <= each.items()), None)
    return document


def remove(document: Any, path: Path) -> None:
    """Remove a field, and what is empty after that."""
    parents = [document]
    for word in path[:-1]:
        parents.append(find(parents[-1], (word,)))
        if parents[-1] is None:
            return
    for parent, word in zip(reversed(parents), reversed(path), strict=True):
        value = find(parent, (word,))
        if (word == path[-1] and parent is parents[-1]) or value in ({}, []) or _only_key(word, value):
            if word.startswith("f:"):
                parent.pop(word[2:], None)
            elif value in parent:
                parent.remove(value)
        else:
            return


def _only_key(word: str, value: Any) -> bool:
    return word.startswith("k:") and isinstance(value, dict) and value == json.loads(word[2:])


def merge(live: Any, applied: Any, name: str = "") -> Any:
    """Return `live` with the fields of `applied`."""
    if isinstance(live, dict) and isinstance(applied, dict):
        return {**live, **{key: merge(live.get(key), inner, key) for key, inner in applied.items()}}
    if isinstance(live, list) and isinstance(applied, list) and all(_key_of(name, each) for each in (*live, *applied)):
        found = {_key_of(name, each): each for each in live}
        for each in applied:
            found[_key_of(name, each)] = merge(found.get(_key_of(name, each)), each)
        return list(found.values())
    return copy.deepcopy(applied)


def to_fields(paths: set[Path]) -> dict[str, Any]:
    """Return paths in the form of `fieldsV1`."""
    found: dict[str, Any] = {}
    for path in sorted(paths):
        at = found
        for word in path:
            at = at.setdefault(word, {})
    return found


def from_fields(fields: dict[str, Any], at: Path = ()) -> set[Path]:
    """Return the paths of `fieldsV1`."""
    if not fields:
        return {at} if at else set()
    return {path for word, inner in fields.items() for path in from_fields(inner, (*at, word))}


def shown(path: Path) -> str:
    """Return a path as the API server writes it in a conflict."""
    words = []
    for word in path:
        if word.startswith("f:"):
            words.append(f".{word[2:]}")
        else:
            ((key, value),) = json.loads(word[2:]).items()
            words.append(f"[{key}={json.dumps(value)}]")
    return "".join(words)
