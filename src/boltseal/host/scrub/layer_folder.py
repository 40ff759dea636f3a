"""The names beside `diff` in a layer's folder: BASE/ID of Docker's overlay2 and of containers/storage's overlay.

    diff, link, lower, work, merged    both engines; `overlaystack` says what each of them is for
    committed                          Docker: an empty file in a layer that has a child
    .tmp-NAME123                       Docker: one of these files while it is written, or after a crash
    empty                              Podman: the lower folder of a mount without other layers; nothing may lie in it
    merged.1                           Podman: the next `merged`, while an unmount puts it in place
    mapped, composefs-layers           Podman: mount points that it keeps for mounts of its own
    diff1, diff2, ...                  Podman mounts each of them below `diff`; only a mapped copy has one, `diff1`
    composefs-data                     Podman mounts the image in it instead of `diff`

An engine acts on a name because it is there. So any other name, and a known name of another type, is a difference.
(Sources: moby daemon/graphdriver/overlay2/overlay.go, containers/storage drivers/overlay/overlay.go.)
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, readable
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference
from boltseal.host.scrub.inodes import describe_file

MAX_NAMES: Final = 1000
COPY: Final = b"diff1"
_COMPOSEFS: Final = b"composefs-data"
_EMPTY: Final = b"empty"
_FOLDER, _FILE = stat.S_IFDIR, stat.S_IFREG
_IN_WORDS: Final = {_FOLDER: "a folder", _FILE: "a file"}
_BY_DIGEST: Final = re.compile(rb"[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class AllowedNames:
    """The names that an engine creates in a layer's folder, and the type of each.

    `unfinished`: names of files that it is still writing. `composefs`: whether it may keep a layer for composefs instead.
    """

    known: Mapping[bytes, int]
    unfinished: re.Pattern[bytes] | None = None
    composefs: bool = False


_BOTH: Final = {b"diff": _FOLDER, b"link": _FILE, b"lower": _FILE, b"work": _FOLDER, b"merged": _FOLDER}
_OF_PODMAN: Final = dict.fromkeys((_EMPTY, b"merged.1", b"mapped", b"composefs-layers"), _FOLDER)
DOCKER_NAMES: Final = AllowedNames(_BOTH | {b"committed": _FILE}, re.compile(rb"\.tmp-(?:link|lower|committed)[0-9]+"))
PODMAN_NAMES: Final = AllowedNames(_BOTH | _OF_PODMAN, composefs=True)
PODMAN_COPY: Final = AllowedNames(_BOTH | _OF_PODMAN | {COPY: _FOLDER})


def unexpected_names(files: SafeFolder, at: bytes, layer: str, names: AllowedNames) -> list[Difference]:
    """What an engine did not create in a layer's folder. StoreMissing, StoreMalformed, StoreUnreadable."""
    found = []
    for name in files.names(at, MAX_NAMES):
        path = at + b"/" + name
        try:
            there = files.stat(path)
        except StoreMissing:
            continue  # an engine has just unmounted it, or renamed it
        unfinished = names.unfinished is not None and names.unfinished.fullmatch(name) is not None
        wanted = _FILE if unfinished else names.known.get(name)
        if wanted != stat.S_IFMT(there.st_mode):
            expected = "nothing of this name in a layer's folder" if wanted is None else _IN_WORDS[wanted]
            found.append(difference(DifferenceKind.STACK, path, expected, describe_file(there), layer))
        elif name == _EMPTY:
            inside = files.names(path, MAX_NAMES)
            found += [
                difference(DifferenceKind.STACK, path + b"/" + each, "nothing", "something", layer) for each in inside
            ]
    return found


def composefs_reason(files: SafeFolder, at: bytes) -> str:
    """Why a layer that Podman keeps for composefs can't be checked; "" for any other.

    Then its files are under their digests. An image for composefs beside files under their names is planted.
    """
    if not files.exists(at + b"/" + _COMPOSEFS):
        return ""
    try:
        if all(_BY_DIGEST.fullmatch(name) for name in files.names(at + b"/diff", MAX_NAMES)):
            return f"layer {readable(at.rpartition(b'/')[2])[:12]} is kept for composefs, which is not understood"
    except (StoreMissing, StoreMalformed, StoreUnreadable):
        pass  # `unexpected_names` reports it
    return ""
