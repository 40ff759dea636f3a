"""Open a store whose folders may be symbolic links: administrators move `overlay2` or a snapshotter to another disk this way.

An engine follows such a link, and so does this module, but only for the folders that engines have directly in a store, and only
in a store that an engine of this host uses. On a disk of another host the link can be for another folder, and an attacker's could
point to a clean store of this host. Within these folders no link is followed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from pwd import getpwuid
from typing import Final

from boltseal.engines.engine_locks import locking_processes
from boltseal.engines.locations import IN_A_HOME, store_locations
from boltseal.engines.safe_open import SafeFolder, StoreUnreadable
from boltseal.errors import MAX_PATH, quote

FOLDERS: Final = (
    b"image",
    b"overlay2",
    b"containers",
    b"overlay",
    b"overlay-images",
    b"overlay-layers",
    b"overlay-containers",
    b"io.containerd.content.v1.content",
    b"io.containerd.metadata.v1.bolt",
    b"io.containerd.snapshotter.v1.overlayfs",
)
"""The folders of a store that may be links."""
_REMAPPED: Final = re.compile(r"[1-9][0-9]*\.[1-9][0-9]*")
"""The name of a store of Docker with `userns-remap`, below the data root."""


def open_store(root: Path) -> SafeFolder:
    """Open a store, with the links in FOLDERS followed.

    Raises: StoreMissing, StoreUnreadable, StoreMalformed, as `SafeFolder`; StoreUnreadable: a link is not followed.
    """
    files = SafeFolder(root)
    try:
        for name, target in linked_folders(root):
            with SafeFolder(target) as folder:
                files.pin(name, folder.folder(b""))
    except BaseException:
        files.close()
        raise
    return files


def linked_folders(root: Path) -> Iterator[tuple[bytes, Path]]:
    """Yield the folders of a store that are links, each with the folder that it points to.

    Raises: StoreUnreadable: one is not followed, or points to nothing.
    """
    for name in FOLDERS:
        path = root / os.fsdecode(name)
        try:
            if stat.S_ISLNK(path.lstat().st_mode):
                yield name, _target(path)
        except OSError:
            continue  # the reader of the store reports it


def _target(link: Path) -> Path:
    store = Path(os.path.realpath(link.parent))
    found = Path(os.path.realpath(link))
    if is_of_this_host(store) and found.is_dir():
        return found
    shown, target = (quote(str(each), MAX_PATH)[1:-1] for each in (link, link.readlink()))
    raise StoreUnreadable(
        f"{shown} is a symbolic link to {target}; links are followed to folders only, in stores of engines of this host "
        "(running, or configured with this store); mount the folder there instead (mount --bind)"
    )


def is_of_this_host(store: Path) -> bool:
    """Return whether an engine of this host uses a store: by its configuration, its locks, or the home of its owner."""
    named = store_locations(Path("/")).folders
    places = [Path("/") / each for each in named]
    with suppress(KeyError, OSError):
        places += [Path(getpwuid(store.stat().st_uid).pw_dir) / each for each in IN_A_HOME]
    roots = {os.path.realpath(each) for each in places}
    known = {str(store), str(store.parent), str(store.parent.parent)} if store.name == "daemon" else {str(store)}
    if _REMAPPED.fullmatch(store.name):
        known.add(str(store.parent))
    return not known.isdisjoint(roots) or bool(locking_processes(store))
