"""What a config says besides the values that comparisons need: instructions, and the settings of containers. Pure.

The builder of an image wrote all of it, so a value may have any type and length: others are left out, long texts are cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from boltseal.oci.descriptor import Descriptor
from boltseal.oci.jsontext import decode

MAX_TEXT: Final = 4096
MAX_ROWS: Final = 500
_LABELS: Final = "Labels"
_VARIABLES: Final = "Env"


class _Document(msgspec.Struct):
    config: Any = None
    history: Any = None
    author: Any = None
    created: Any = None


@dataclass(frozen=True, slots=True)
class Instruction:
    """A line of an image's history. `changes_files`: it made a layer."""

    text: str
    changes_files: bool


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """An instruction and the layer that it made, each None if there is none or it is not known."""

    instruction: str | None
    layer: Descriptor | None


@dataclass(frozen=True, slots=True)
class ConfigDetails:
    """Instructions, the lowest first, and settings by name: `Cmd`, `Env PATH`."""

    instructions: tuple[Instruction, ...] = ()
    settings: Mapping[str, str] | None = None


def config_details(raw: bytes) -> ConfigDetails:
    """Return the details of a config; none for a document that has no such values."""
    try:
        read = decode(raw, _Document)
    except msgspec.MsgspecError:
        return ConfigDetails()
    settings = dict(_first(_settings(read)))
    return ConfigDetails(tuple(_first(_instructions(read.history))), settings)


def built_layers(instructions: Sequence[Instruction], layers: Sequence[Descriptor]) -> tuple[BuiltLayer, ...]:
    """Return each instruction with its layer, and layers alone if the history does not describe these layers."""
    if sum(each.changes_files for each in instructions) != len(layers):
        return tuple(BuiltLayer(None, layer) for layer in layers)
    rest = iter(layers)
    return tuple(BuiltLayer(each.text, next(rest) if each.changes_files else None) for each in instructions)


def _instructions(history: Any) -> Iterator[Instruction]:
    for step in history if isinstance(history, list) else ():
        if isinstance(step, dict):
            text = step.get("created_by")
            yield Instruction(_cut(text) if isinstance(text, str) else "", step.get("empty_layer") is not True)


def _settings(read: _Document) -> Iterator[tuple[str, str]]:
    for name, value in (("created", read.created), ("author", read.author)):
        if isinstance(value, str) and value:
            yield name, _cut(value)
    given = read.config if isinstance(read.config, dict) else {}
    for name in sorted(given):
        value = given[name]
        if name == _LABELS or value in (None, "", [], {}, False):
            continue
        if name == _VARIABLES and isinstance(value, list):
            for each in value:
                if isinstance(each, str):
                    variable, _, text = each.partition("=")
                    yield _cut(f"{_VARIABLES} {variable}"), _cut(text)
        else:
            yield _cut(name), _cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _first(rows: Iterator[Any]) -> Iterator[Any]:
    for number, row in enumerate(rows):
        if number == MAX_ROWS:
            return
        yield row


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


@dataclass(frozen=True, slots=True)
class ChangedValue:
    """A value that differs between two mappings; None: it is missing."""

    name: str
    was: str | None
    now: str | None


def changed_values(old: Mapping[str, str], new: Mapping[str, str]) -> list[ChangedValue]:
    """Return the values that differ, sorted by name."""
    names = sorted({*old, *new})
    return [ChangedValue(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


@dataclass(frozen=True, slots=True)
class LayerChanges:
    """The layers of two images. `kept`: the lowest ones, which are equal in both; then the others of each."""

    kept: tuple[BuiltLayer, ...]
    removed: tuple[BuiltLayer, ...]
    added: tuple[BuiltLayer, ...]


def layer_changes(old: Sequence[BuiltLayer], new: Sequence[BuiltLayer]) -> LayerChanges:
    """Compare the layers of two images from the bottom up; instructions without a layer are left out."""
    before, after = ([each for each in some if each.layer is not None] for some in (old, new))
    same = 0
    for one, other in zip(before, after, strict=False):
        if one.layer is None or other.layer is None or one.layer.digest != other.layer.digest:
            break
        same += 1
    return LayerChanges(tuple(after[:same]), tuple(before[same:]), tuple(after[same:]))
