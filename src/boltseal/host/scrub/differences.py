"""What a check finds: one value for each thing that is not what it must be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from boltseal.engines.safe_open import readable
from boltseal.errors import quote

MAX_PER_LAYER: Final = 1000
"""So many are kept for one layer; the rest is only counted."""


class DifferenceKind(StrEnum):
    """In what something differs. The words stand in `--json` and in docs/scrub.md."""

    MISSING = "missing"
    EXTRA = "extra"
    TYPE = "type"
    CONTENT = "content"
    SIZE = "size"
    MODE = "mode"
    OWNER = "owner"
    MTIME = "mtime"
    LINK = "link"
    HARDLINK = "hardlink"
    DEVICE = "device"
    XATTR = "xattr"
    CAPABILITY = "capability"
    WHITEOUT = "whiteout"
    OPAQUE = "opaque"
    MOUNT = "mount"
    DIGEST = "digest"
    STACK = "stack"
    METADATA = "metadata"
    MANIFEST = "manifest"
    CONFIG = "config"
    TAG = "tag"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Difference:
    """`path`: in the layer, "" for the layer or image itself. `layer`: its diff ID, "" for the image."""

    kind: DifferenceKind
    path: str
    layer: str
    expected: str
    got: str


def difference(kind: DifferenceKind, path: bytes, expected: object, got: object, layer: str = "") -> Difference:
    """A difference whose texts may come from anywhere: they are made fit to be shown."""
    return Difference(kind, shown(readable(path)), layer, shown(str(expected)), shown(str(got)))


def shown(text: str) -> str:
    """Text from a store on one line of printable characters."""
    return quote(text, 1000)[1:-1]
