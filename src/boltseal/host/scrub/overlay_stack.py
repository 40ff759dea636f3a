"""Checks the files by which Docker and Podman configure the order of layers for overlayfs:

    BASE/ID/diff            the files of a layer
    BASE/ID/link            LINK, 26 letters and digits
    BASE/l/LINK             a symbolic link to ../ID/diff
    BASE/ID/lower           l/LINK:l/LINK:..., all layers below, the topmost first; absent in the lowest one

The kernel follows these links at the mount. An attacker who redirects one makes a container see other files, while each
layer's folder is unchanged. An additional name in BASE/ID that an engine mounts has the same effect (`layer_folder`). The engines use
these files byte by byte: with a line end after LINK they follow another link.

Docker has one folder for each layer that it knows. But an image that BuildKit built on a second folder of the same layer keeps
using that. So another folder in a list is no difference if its content is proven to be that layer, and what can't be checked
in it can't be checked in the image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from boltseal.engines.json_documents import MAX_WORD_BYTES
from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, readable
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference
from boltseal.host.scrub.layer_folder import AllowedNames, composefs_reason, unexpected_names
from boltseal.host.scrub.mount_points import mounts_on_links

MAX_LOWER_BYTES: Final = 64 * 1024
_LINK: Final = re.compile(rb"[A-Z2-7]{26}")
_LISTED: Final = re.compile(rb"l/[A-Z2-7]{26}")
_TARGET: Final = re.compile(rb"\.\./([a-z0-9]{1,80}(?:-init)?)/diff")


CheckAsLayer = Callable[[int, str], Sequence[str] | None]
"""Checks a folder as the layer with this number; 0 is the lowest. Returns None if it differs, else what could not be checked."""


def check_stack(
    files: SafeFolder,
    base: bytes,
    folders: Sequence[str],
    layers: Sequence[str],
    unknown: list[str],
    names: AllowedNames,
    *,
    check_as_layer: CheckAsLayer = lambda _, __: None,
    other_names: Mapping[str, AllowedNames] | None = None,
) -> list[Difference]:
    """Check that each folder's link and list refer to exactly the folders below it, and that it has no unexpected names.

    `folders`, `layers`: lowest first. `names`: what the engine creates in a folder; `other_names`: by folder, for exceptions.
    """
    found: list[Difference] = []
    links: list[bytes] = []
    try:
        found += mounts_on_links(files.root, base)
    except (StoreMissing, StoreMalformed):
        pass  # each layer's folder is missing, which is reported below
    except StoreUnreadable as error:
        unknown.append(error.message)
    for number, (folder, layer) in enumerate(zip(folders, layers, strict=True)):
        at, link = base + b"/" + folder.encode(), b"?"
        try:
            link = _link(files, base, at, folder, layer, found)
            if names.composefs and (reason := composefs_reason(files, at)):
                unknown.append(reason)
            else:
                found += unexpected_names(files, at, layer, (other_names or {}).get(folder, names))
            expected = b":".join(b"l/" + each for each in reversed(links))
            lower = files.read(at + b"/lower", MAX_LOWER_BYTES) if files.exists(at + b"/lower") else b""
            unchecked = [] if lower == expected else _unchecked(files, base, lower, folders[:number], check_as_layer)
            if unchecked is None:
                shown = readable(expected) or "no layer below"
                found.append(
                    difference(DifferenceKind.STACK, at + b"/lower", shown, readable(lower) or "no layer below", layer)
                )
            else:
                unknown += [each for each in unchecked if each not in unknown]
        except (StoreMissing, StoreMalformed) as error:
            found.append(difference(DifferenceKind.STACK, at, "a layer's folder with its link", error.message, layer))
        except StoreUnreadable as error:
            unknown.append(error.message)
        links.append(link)
    for folder, layer in zip(folders, layers, strict=True):
        if folders.count(folder) > 1:
            at = base + b"/" + folder.encode()
            found.append(
                difference(DifferenceKind.STACK, at, "a folder of its own", "the folder of another layer", layer)
            )
    return found


def _unchecked(
    files: SafeFolder, base: bytes, lower: bytes, folders: Sequence[str], check_as_layer: CheckAsLayer
) -> list[str] | None:
    """Return what could not be checked in a list with other links, None if it refers to other layers.

    Raises: StoreMissing, StoreMalformed, StoreUnreadable.
    """
    links = lower.split(b":")[::-1]
    if len(links) != len(folders):
        return None
    unchecked: list[str] = []
    for number, (link, folder) in enumerate(zip(links, folders, strict=True)):
        match = _LISTED.fullmatch(link)
        if match is None or not files.exists(base + b"/" + link):
            return None
        target = _TARGET.fullmatch(files.link(base + b"/" + link))
        if target is None:
            return None
        other = target[1].decode()
        reasons = () if other == folder else check_as_layer(number, other)
        if reasons is None:
            return None
        unchecked += reasons
    return unchecked


def _link(files: SafeFolder, base: bytes, at: bytes, folder: str, layer: str, found: list[Difference]) -> bytes:
    link = files.read(at + b"/link", MAX_WORD_BYTES)
    if not _LINK.fullmatch(link):
        found.append(difference(DifferenceKind.STACK, at + b"/link", "26 letters and digits", readable(link), layer))
        return link
    short = base + b"/l/" + link
    target, expected = files.link(short), b"../" + folder.encode() + b"/diff"
    if target != expected:
        found.append(
            difference(DifferenceKind.STACK, short, f"-> {readable(expected)}", f"-> {readable(target)}", layer)
        )
    return link
