"""Configs of image copies whose layers an engine must unpack anew, though it has the same layers already.

An engine identifies an unpacked layer by its chain ID: the hash of its diff ID and those of all layers below. So it unpacks
all layers again if there is another layer below them. A copy has one or more empty layers below its first; each is a tar
without entries, which adds and hides nothing. Only these are inserted into the bytes of the original config:

    "diff_ids":[       "sha256:5f70...",                for each empty layer
    "history":[        {"created_by":"...","comment":"..."},      the same number, if the config has a history

The original config can be restored byte by byte, so its digest proves which image a copy is of, wherever it is stored.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from boltseal.errors import Invalid
from boltseal.oci.digest import Digest

EMPTY_LAYER: Final = bytes(1024)
"""A tar without entries: two zero blocks."""
EMPTY_DIFF_ID: Final = Digest.of(EMPTY_LAYER)
MAX_EMPTY_LAYERS: Final = 8
_INSERTED_LAYER: Final = b'"%s",' % str(EMPTY_DIFF_ID).encode()
CREATED_BY: Final = "boltseal pull --replace"
"""What the history of a copy has as the command that made its empty layers."""
_INSERTED_HISTORY: Final = (
    b'{"created_by":"%s","comment":"an empty layer, so that the layers above are unpacked anew"},' % CREATED_BY.encode()
)
_DIFF_IDS: Final = re.compile(rb'"diff_ids"\s*:\s*\[\s*')
_HISTORY: Final = re.compile(rb'"history"\s*:\s*\[\s*')


class ConfigUnsuitable(Invalid):
    """A config into which no layer can be inserted."""


def with_empty_layers(config: bytes, count: int) -> bytes:
    """Return the config of a copy with `count` empty layers below the others. Raises: ConfigUnsuitable."""
    parsed = _parsed(config)
    layers, history = _lists(parsed)
    if not layers:
        raise ConfigUnsuitable("the image's config has no layers")
    changed = _insert(config, _DIFF_IDS, _INSERTED_LAYER * count)
    if history:
        changed = _insert(changed, _HISTORY, _INSERTED_HISTORY * count)
    now_layers, now_history = _lists(_parsed(changed))
    added = json.loads(_INSERTED_HISTORY[:-1])
    if (
        now_layers != [str(EMPTY_DIFF_ID)] * count + layers
        or now_history != ([added] * count if history else []) + history
    ):
        raise ConfigUnsuitable("the image's config has other lists of the names that its layers have")
    return changed


def originals_of(config: bytes) -> tuple[Digest, ...]:
    """Return the digests of the configs that this one may be a copy of; none if it has no empty layers below others."""
    found = []
    if _INSERTED_LAYER not in config:
        return ()
    for count in range(1, MAX_EMPTY_LAYERS + 1):
        layers, history = _INSERTED_LAYER * count, _INSERTED_HISTORY * count
        if layers not in config:
            break
        original = config.replace(layers, b"", 1).replace(history, b"", 1)
        try:
            is_copy = with_empty_layers(original, count) == config
        except ConfigUnsuitable:
            continue
        if is_copy:
            found.append(Digest.of(original))
    return tuple(found)


def _insert(raw: bytes, after: re.Pattern[bytes], what: bytes) -> bytes:
    place = after.search(raw)
    if place is None:
        raise ConfigUnsuitable("the image's config writes the names of its lists in an unusual way")
    return raw[: place.end()] + what + raw[place.end() :]


def _parsed(config: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise ConfigUnsuitable("the image's config is no JSON") from error
    if not isinstance(parsed, dict):
        raise ConfigUnsuitable("the image's config is no JSON object")
    return parsed


def _lists(config: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return the diff IDs and the history of a config."""
    rootfs, history = config.get("rootfs"), config.get("history") or []
    layers = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(layers, list) or not isinstance(history, list):
        raise ConfigUnsuitable("the image's config has no list of layers")
    return layers, history
