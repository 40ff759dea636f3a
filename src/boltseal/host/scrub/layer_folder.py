"""Checks the names in a layer's folder. BASE/ID of Docker's overlay2 and of containers/storage's overlay has

    diff, link, lower, work, merged    both engines; see `overlay_stack`
    committed                          Docker: an empty file in a layer that has a child
    .tmp-NAME123                       Docker: one of these files while it is written, or after a crash
    empty                              Podman: the lower folder of a mount without other layers; must be empty
    merged.1                           Podman: the next `merged`, during an unmount
    mapped, composefs-layers           Podman: mount points for its own mounts
    diff1, diff2, ...                  Podman mounts each of them below `diff`; only a mapped copy has one, `diff1`
    composefs-data                     Podman mounts the image in it instead of `diff`

and in a snapshot's folder of containerd:

    fs, work                           the files, and the work folder of a snapshot that is or was written to

Engines act on a name if it exists. So any other name, and a known name of another type, is a difference.
(Sources: moby daemon/graphdriver/overlay2/overlay.go, containers/storage drivers/overlay/overlay.go, containerd
plugins/snapshots/overlay/overlay.go.)
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
    """The names that an engine creates in a layer's folder, with the file type of each.

    `unfinished`: a pattern for files that it is still writing. `composefs`: whether it may store layers for composefs.
    """

    known: Mapping[bytes, int]
    unfinished: re.Pattern[bytes] | None = None
    composefs: bool = False


_BOTH: Final = {b"diff": _FOLDER, b"link": _FILE, b"lower": _FILE, b"work": _FOLDER, b"merged": _FOLDER}
_OF_PODMAN: Final = dict.fromkeys((_EMPTY, b"merged.1", b"mapped", b"composefs-layers"), _FOLDER)
DOCKER_NAMES: Final = AllowedNames(_BOTH | {b"committed": _FILE}, re.compile(rb"\.tmp-(?:link|lower|committed)[0-9]+"))
PODMAN_NAMES: Final = AllowedNames(_BOTH | _OF_PODMAN, composefs=True)
CONTAINERD_NAMES: Final = AllowedNames({b"fs": _FOLDER, b"work": _FOLDER})
PODMAN_COPY: Final = AllowedNames(_BOTH | _OF_PODMAN | {COPY: _FOLDER})


def unexpected_names(files: SafeFolder, at: bytes, layer: str, names: AllowedNames) -> list[Difference]:
    """Return the names in a layer's folder that the engine did not create.

    Raises: StoreMissing, StoreMalformed, StoreUnreadable.
    """
    found = []
    for name in files.names(at, MAX_NAMES):
        path = at + b"/" + name
        try:
            status = files.stat(path)
        except StoreMissing:
            continue  # the engine has just unmounted or renamed it
        unfinished = names.unfinished is not None and names.unfinished.fullmatch(name) is not None
        wanted = _FILE if unfinished else names.known.get(name)
        if wanted != stat.S_IFMT(status.st_mode):
            expected = "nothing of this name in a layer's folder" if wanted is None else _IN_WORDS[wanted]
            found.append(difference(DifferenceKind.STACK, path, expected, describe_file(status), layer))
        elif name == _EMPTY:
            inside = files.names(path, MAX_NAMES)
            found += [
                difference(DifferenceKind.STACK, path + b"/" + each, "nothing", "something", layer) for each in inside
            ]
    return found


def composefs_reason(files: SafeFolder, at: bytes) -> str:
    """Return why a layer that Podman stores for composefs can't be checked; "" for any other layer.

    Such a layer has its files under their digests. A composefs image beside files under their own names is forged.
    """
    if not files.exists(at + b"/" + _COMPOSEFS):
        return ""
    try:
        if all(_BY_DIGEST.fullmatch(name) for name in files.names(at + b"/diff", MAX_NAMES)):
            return f"layer {readable(at.rpartition(b'/')[2])[:12]} is stored for composefs, which is not supported"
    except (StoreMissing, StoreMalformed, StoreUnreadable):
        pass  # `unexpected_names` reports it
    return ""
