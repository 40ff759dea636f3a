"""Differences: one value for each thing on disk that is not as expected."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from boltseal.engines.safe_open import readable
from boltseal.errors import quote

MAX_PER_LAYER: Final = 1000
"""The number of differences kept for one layer; further ones are only counted."""


class DifferenceKind(StrEnum):
    """What differs. The values are part of `--json` and of docs/guides/recheck-local-images.md."""

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
    FLAG = "flag"
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
    """One difference. `path`: in the layer, "" for the layer or image itself. `layer`: its diff ID, "" for the image."""

    kind: DifferenceKind
    path: str
    layer: str
    expected: str
    got: str


def difference(kind: DifferenceKind, path: bytes, expected: object, got: object, layer: str = "") -> Difference:
    """Return a difference, with its texts made printable, as they may come from untrusted content."""
    return Difference(kind, shown(readable(path)), layer, shown(str(expected)), shown(str(got)))


def shown(text: str) -> str:
    """Return text from a store as one line of printable characters."""
    return quote(text, 1000)[1:-1]
