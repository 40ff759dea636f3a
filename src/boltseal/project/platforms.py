"""Is an image for the machines that it is used on? Platforms as people and indexes write them, compared. Pure.

A platform is `os/architecture[/variant]`, read as Docker reads it: `linux/arm64/v8` is `linux/arm64`, `x86_64` is
`linux/amd64`, `linux/arm` is `linux/arm/v7`. A machine of a later arm variant runs images of an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import ascii_letters, digits
from typing import Final, NamedTuple

from boltseal.errors import Invalid, quote
from boltseal.lockfile.compare import PlatformChange
from boltseal.lockfile.document import LockedPlatform

MAX_PLATFORM: Final = 100
_SYSTEMS: Final = frozenset({"linux", "windows", "darwin", "freebsd", "macos"})
_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm/v7",
    "armel": "arm/v6",
    "i386": "386",
}
_CHARACTERS: Final = frozenset(f"{ascii_letters}{digits}._-")
_UNKNOWN: Final = frozenset({"", "unknown/unknown"})


class PlatformInvalid(Invalid):
    """A text that names no platform."""


class _Machine(NamedTuple):
    system: str
    architecture: str
    variant: str


def check_platform(text: str) -> str:
    """The text, if it names a platform. PlatformInvalid."""
    parts = text.split("/")
    plain = text.isascii() and all(part and not set(part) - _CHARACTERS for part in parts)
    if not plain or len(parts) > 3 or len(text) > MAX_PLATFORM:
        raise PlatformInvalid(f"{quote(text)} is no platform; expected one such as linux/amd64 or linux/arm/v7")
    return text


def can_run(asked: str, has: str) -> bool:
    """Whether a machine of the asked platform runs an image for the other one."""
    wanted, found = _machine(asked), _machine(has)
    if (wanted.system, wanted.architecture) != (found.system, found.architecture):
        return wanted.system == found.system and not wanted.architecture
    if wanted.architecture == "arm":
        return found.variant <= wanted.variant
    return not wanted.variant or not found.variant or wanted.variant == found.variant


def missing_platforms(asked: Iterable[str], platforms: Sequence[LockedPlatform]) -> tuple[str, ...] | None:
    """The asked platforms that an image is not for; None where it can't be told, since its own are not all known."""
    if not platforms or any(each.platform in _UNKNOWN for each in platforms):
        return None
    return tuple(one for one in asked if not any(can_run(one, each.platform) for each in platforms))


def unchanged_platforms(asked: Iterable[str], change: PlatformChange) -> tuple[str, ...]:
    """The asked platforms whose image is the same on both sides of a change."""
    return tuple(
        one
        for one in asked
        if any(can_run(one, each) for each in change.same) and not any(can_run(one, each) for each in change.changed)
    )


def _machine(text: str) -> _Machine:
    parts = text.lower().partition(":")[0].split("/")
    if len(parts) == 1 and parts[0] in _SYSTEMS:
        parts = [parts[0], ""]
    elif len(parts) == 1:
        parts = ["linux", parts[0]]
    system = "darwin" if parts[0] == "macos" else parts[0]
    architecture, _, variant = _ARCHITECTURES.get(parts[1], parts[1]).partition("/")
    variant = parts[2] if len(parts) > 2 else variant
    variant = f"v{variant}" if variant.isdecimal() else variant
    if architecture == "arm":
        variant = variant or "v7"
    if (architecture, variant) in {("arm64", "v8"), ("amd64", "v1")}:
        variant = ""
    return _Machine(system, architecture, variant)
