"""Compare the platforms of an image with the machines that run it. Pure.

A platform is `os/architecture[/variant]`, normalised as Docker does: `linux/arm64/v8` is `linux/arm64`, `x86_64` is
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
    """A text that is not a platform."""


class _Machine(NamedTuple):
    system: str
    architecture: str
    variant: str


def check_platform(text: str) -> str:
    """Return the text if it is a platform. Raises: PlatformInvalid: it is not."""
    parts = text.split("/")
    plain = text.isascii() and all(part and not set(part) - _CHARACTERS for part in parts)
    if not plain or len(parts) > 3 or len(text) > MAX_PLATFORM:
        raise PlatformInvalid(f"{quote(text)} is not a platform; expected one such as linux/amd64 or linux/arm/v7")
    return text


def can_run(machine: str, image: str) -> bool:
    """Return whether a machine of one platform runs images of another."""
    wanted, found = _machine(machine), _machine(image)
    if (wanted.system, wanted.architecture) != (found.system, found.architecture):
        return wanted.system == found.system and not wanted.architecture
    if wanted.architecture == "arm":
        return found.variant <= wanted.variant
    return not wanted.variant or not found.variant or wanted.variant == found.variant


def missing_platforms(machines: Iterable[str], platforms: Sequence[LockedPlatform]) -> tuple[str, ...] | None:
    """Return the machines that no platform of an image fits, or None if the image's platforms are not all known."""
    if not platforms or any(each.platform in _UNKNOWN for each in platforms):
        return None
    return tuple(machine for machine in machines if not any(can_run(machine, each.platform) for each in platforms))


def unchanged_platforms(machines: Iterable[str], change: PlatformChange) -> tuple[str, ...]:
    """Return the machines whose image is the same on both sides of a change."""
    return tuple(
        machine
        for machine in machines
        if any(can_run(machine, each) for each in change.same)
        and not any(can_run(machine, each) for each in change.changed)
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
