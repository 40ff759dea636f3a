"""Finds fields of a JSON document that Go reads otherwise than this program: engines are written in Go.

`encoding/json` matches the names of fields regardless of case, and merges or overwrites the value of a field that occurs again:

    {"layer": "A", "LAYER": "B"}                      Go: layer is B
    {"rootfs": {"diff_ids": ["A"]}, "rootfs": {}}     Go: diff_ids is ["A"]

An attacker could so write a list in which the engine finds another image than a check does. No engine writes such documents.
Keys of maps, such as labels, are matched exactly by both.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any, Final

from msgspec import inspect

_ORDINARY_ESCAPES: Final = re.compile(rb"\\u(?!00(?:[01][0-9a-fA-F]|2[267]|3[cCeE])|202[89])")
"""Every escape that Go's encoder does not write; one of a letter could hide the name of a field."""
_FOLDED_LETTERS: Final = ("\u017f".encode(), "\u212a".encode())
"""The letters outside ASCII that Go matches with s and k."""


class _Object(tuple[tuple[str, Any], ...]):
    """The members of an object, with those that occur again."""

    __slots__ = ()


def ambiguous_field(raw: bytes, shape: type) -> str:
    """Return the key of a field of `shape` that has another spelling or occurs twice in one object, "" if there is none.

    `raw`: a document that was decoded as `shape`.

    Raises: RecursionError, ValueError: it can't be parsed.
    """
    if _is_plain(raw, shape):
        return ""
    return _ambiguous_in(json.loads(raw, object_pairs_hook=_Object), inspect.type_info(shape))


def _is_plain(raw: bytes, shape: type) -> bool:
    """Return whether the names of all fields occur at most once in a document, so that it need not be parsed."""
    if _ORDINARY_ESCAPES.search(raw) or any(letter in raw for letter in _FOLDED_LETTERS):
        return False
    lowered = raw.lower()
    return all(lowered.count(name.lower()) == raw.count(name) <= 1 for name in _names(shape))


@cache
def _names(shape: type) -> frozenset[bytes]:
    """Return the names of all fields in a shape, in quotes."""
    found: set[bytes] = set()
    todo: list[inspect.Type] = [inspect.type_info(shape)]
    while todo:
        at = todo.pop()
        if isinstance(at, inspect.StructType):
            found |= {f'"{field.encode_name}"'.encode() for field in at.fields}
        todo += _inner(at)
    return frozenset(found)


def _inner(at: inspect.Type) -> list[inspect.Type]:
    if isinstance(at, inspect.StructType):
        return [field.type for field in at.fields]
    if isinstance(at, inspect.UnionType):
        return list(at.types)
    if isinstance(at, inspect.DictType):
        return [at.value_type]
    return [at.item_type] if isinstance(at, inspect.ListType) else []


def _ambiguous_in(value: Any, at: inspect.Type) -> str:
    if isinstance(at, inspect.UnionType):
        found = [_ambiguous_in(value, each) for each in at.types]
    elif isinstance(at, inspect.StructType) and isinstance(value, _Object):
        fields = {field.encode_name: field.type for field in at.fields}
        found = [_other_spelling(value, frozenset(fields))]
        found += [_ambiguous_in(inside, fields[key]) for key, inside in value if key in fields]
    elif isinstance(at, inspect.DictType) and isinstance(value, _Object):
        found = [_ambiguous_in(inside, at.value_type) for _, inside in value]
    elif isinstance(at, inspect.ListType) and isinstance(value, list):
        found = [_ambiguous_in(inside, at.item_type) for inside in value]
    else:
        found = []
    return next(filter(None, found), "")


def _other_spelling(members: _Object, names: frozenset[str]) -> str:
    """Return the first key that Go matches with a field, though it is spelled otherwise or was there before."""
    folded = {name.casefold() for name in names}
    seen: set[str] = set()
    for key, _ in members:
        if key.casefold() not in folded:
            continue
        if key not in names or key in seen:
            return key
        seen.add(key)
    return ""
