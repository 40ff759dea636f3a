"""How overlayfs is told what lies on what, in the stores of Docker and of Podman:

    BASE/ID/diff            the files of a layer
    BASE/ID/link            LINK, 26 letters and digits
    BASE/l/LINK             a symbolic link to ../ID/diff
    BASE/ID/lower           l/LINK:l/LINK:..., all layers below, the topmost first; absent in the lowest one

The kernel follows these links when it mounts. Whoever turns one of them makes a container see other files, while each
layer's folder stays as it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from boltseal.runtimes.beneath import Beneath, StoreMalformed, StoreMissing, StoreUnreadable, readable
from boltseal.runtimes.documents import MAX_WORD_BYTES
from boltseal.scrub.differences import Difference, Kind, difference

MAX_LOWER_BYTES: Final = 64 * 1024
_LINK: Final = re.compile(rb"[A-Z2-7]{26}")


def check_stack(
    files: Beneath, base: bytes, folders: Sequence[str], layers: Sequence[str], unknown: list[str]
) -> list[Difference]:
    """Whether each folder's links and list lead to exactly the folders below it. `folders`: lowest first, as `layers`."""
    found: list[Difference] = []
    links: list[bytes] = []
    for folder, layer in zip(folders, layers, strict=True):
        at = base + b"/" + folder.encode()
        try:
            links.append(_link(files, base, at, folder, layer, found))
            expected = b":".join(b"l/" + link for link in reversed(links[:-1]))
            lower = files.read(at + b"/lower", MAX_LOWER_BYTES).strip() if files.exists(at + b"/lower") else b""
            if lower != expected:
                shown = readable(expected) or "no layer below"
                found.append(difference(Kind.STACK, at + b"/lower", shown, readable(lower) or "no layer below", layer))
        except (StoreMissing, StoreMalformed) as error:
            found.append(difference(Kind.STACK, at, "a layer's folder with its link", error.message, layer))
            links.append(b"?")
        except StoreUnreadable as error:
            unknown.append(error.message)
            links.append(b"?")
    for folder, layer in zip(folders, layers, strict=True):
        if folders.count(folder) > 1:
            at = base + b"/" + folder.encode()
            found.append(difference(Kind.STACK, at, "a folder of its own", "the folder of another layer", layer))
    return found


def _link(files: Beneath, base: bytes, at: bytes, folder: str, layer: str, found: list[Difference]) -> bytes:
    link = files.read(at + b"/link", MAX_WORD_BYTES).strip()
    if not _LINK.fullmatch(link):
        found.append(difference(Kind.STACK, at + b"/link", "26 letters and digits", readable(link), layer))
        return link
    short = base + b"/l/" + link
    target, expected = files.link(short), b"../" + folder.encode() + b"/diff"
    if target != expected:
        found.append(difference(Kind.STACK, short, f"-> {readable(expected)}", f"-> {readable(target)}", layer))
    return link
