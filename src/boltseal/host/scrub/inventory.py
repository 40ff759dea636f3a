"""The inventory of an unpacked layer: one line of JSON for each file, and a comparison of a folder with it.

    {"p": path, "t": type, "m": mode, "u": user, "g": group, "s": size, "n": time in ns, "h": SHA-256,
     "l": link target, "i": path of the same file, "d": [major, minor], "x": {attribute: hex}, "o": opaque}

Paths are as the disk has them, from the layer's folder; bytes that are not UTF-8 are single surrogates, in JSON's ASCII form.
Owners are those of the image: ids on disk, mapped back by the store's owner. A whiteout has type "w". Members that are empty are left out.

A folder is compared by the rules for a layer's tar (`layer_comparison`); unlike a tar, an inventory lists every folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from typing import Any, Final

from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreUnreadable, readable
from boltseal.host.scrub.attributes import IGNORED, OPAQUE_MARKS, Attributes
from boltseal.host.scrub.file_contents import FileReader, pieces_of, written_since
from boltseal.host.scrub.inodes import is_whiteout
from boltseal.host.scrub.layer_comparison import LayerComparison
from boltseal.host.scrub.ownership import IdMap, Ownership
from boltseal.host.scrub.tar_header import (
    BLOCK_DEVICE,
    CHARACTER,
    FIFO,
    FOLDER,
    HARDLINK,
    REGULAR,
    SYMLINK,
    Header,
    UnusualTraits,
)

WHITEOUT: Final = "w"
MAX_LINE_BYTES: Final = 1 << 20
_TYPES: Final = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
}
_KINDS: Final = {"f": REGULAR, "d": FOLDER, "l": SYMLINK, "c": CHARACTER, "b": BLOCK_DEVICE, "p": FIFO}


def inventory_of(tree: SafeFolder, files: FileReader, ownership: Ownership) -> Iterator[bytes]:
    """Yield the lines for everything in a folder. Raises: StoreMissing, StoreUnreadable, StoreMalformed, ChangedWhileRead."""
    attributes, first = Attributes(tree), dict[int, str]()
    todo = [b""]
    if _opaque(attributes, b"", tree.folder(b"")):
        yield _line({"p": "", "t": "d", "o": True})
    while todo:
        above = todo.pop()
        for name in tree.names(above):
            path = above + b"/" + name if above else name
            found = tree.stat(path)
            entry = _entry(tree, files, attributes, first, path, found)
            if "u" in entry:
                entry["u"], entry["g"] = _inside(ownership.users, entry["u"]), _inside(ownership.groups, entry["g"])
            yield _line(entry)
            if stat.S_ISDIR(found.st_mode):
                todo.append(path)


def _entry(
    tree: SafeFolder,
    files: FileReader,
    attributes: Attributes,
    first: dict[int, str],
    path: bytes,
    found: os.stat_result,
) -> dict[str, Any]:
    shown = os.fsdecode(path)
    if is_whiteout(found):
        return {"p": shown, "t": WHITEOUT}
    kind = _TYPES.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        raise StoreMalformed(f"{tree.shown(path)} is a socket, which no layer has")
    same = first.setdefault(found.st_ino, shown) if found.st_nlink > 1 and kind != "d" else shown
    at = tree.folder(path) if kind == "d" else attributes.at(path)
    names = [each for each in attributes.names(path, at) if each not in IGNORED]
    entry: dict[str, Any] = {
        "p": shown,
        "t": kind,
        "m": stat.S_IMODE(found.st_mode),
        "u": found.st_uid,
        "g": found.st_gid,
        "n": found.st_mtime_ns,
        "x": {name: attributes.value(path, at, name).hex() for name in names if name not in OPAQUE_MARKS},
    }
    if same != shown:
        entry["i"] = same
    elif kind == "f":
        running = hashlib.sha256()
        files.feed(path, found.st_size, running)
        entry |= {"s": found.st_size, "h": running.hexdigest()}
    elif kind == "l":
        entry["l"] = os.fsdecode(tree.link(path))
    elif kind in "cb":
        entry["d"] = [os.major(found.st_rdev), os.minor(found.st_rdev)]
    elif kind == "d":
        entry["o"] = not OPAQUE_MARKS.isdisjoint(names)
    return entry


def _opaque(attributes: Attributes, path: bytes, at: int) -> bool:
    return not OPAQUE_MARKS.isdisjoint(attributes.names(path, at))


def _line(entry: dict[str, Any]) -> bytes:
    kept = {name: value for name, value in entry.items() if name == "p" or (value is not False and value != {})}
    return json.dumps(kept, separators=(",", ":")).encode() + b"\n"


def compare_with_inventory(lines: Iterator[bytes], comparison: LayerComparison, *, quick: bool) -> None:
    """Compare a folder with the lines of its inventory, which are already known to be authentic.

    Raises: StoreUnreadable: also for a line that is not one of an inventory; TarMalformed.
    """
    for line in lines:
        try:
            entry = json.loads(line)
            headers = list(_headers(entry))
            digest = str(entry.get("h", ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreUnreadable("a line of the baseline is not one of an inventory") from error

        def content(path: bytes, fd: int, before: os.stat_result, header: Header, digest: str = digest) -> None:
            running = hashlib.sha256()
            for piece in pieces_of(fd, 0, header.size):
                running.update(piece)
            if running.hexdigest() == digest:
                return
            if written_since(before, os.fstat(fd)):
                raise StoreUnreadable(f"{readable(path)} changed while it was read")
            comparison.differs(path)

        for header in headers:
            comparison.entry(header, None if quick else content)
    comparison.finish()


def _headers(entry: dict[str, Any]) -> Iterator[Header]:
    """Yield the tar headers that create a file of the inventory."""
    path, kind = os.fsencode(entry["p"]), entry["t"]
    above, _, name = path.rpartition(b"/")
    prefix = above + b"/" if above else b""
    if kind == WHITEOUT:
        yield _plain(prefix + b".wh." + name)
        return
    if path:
        owner = int(entry["u"]), int(entry["g"])
        major, minor = entry.get("d", (0, 0))
        link = os.fsencode(entry.get("i") or entry.get("l", ""))
        type_ = HARDLINK if "i" in entry else _KINDS[kind]
        yield _header(path, UnusualTraits(type_, int(entry["m"]), owner, link, (int(major), int(minor))), entry)
    if entry.get("o"):
        yield _plain((path + b"/" if path else b"") + b".wh..wh..opq")


def _header(path: bytes, traits: UnusualTraits, entry: dict[str, Any]) -> Header:
    attributes = {os.fsencode(name): bytes.fromhex(value) for name, value in entry.get("x", {}).items()}
    size = int(entry.get("s", 0))
    return Header(path, traits, size, int(entry.get("n", 0)), True, attributes, size, None)


def _plain(path: bytes) -> Header:
    return Header(path, UnusualTraits(REGULAR, 0, (0, 0)), 0, 0, True, {}, 0, None)


def _inside(ids: IdMap, number: int) -> int:
    """Return the id in headers for one on disk; an id that no range has is compared as it is."""
    found = ids.inside(number)
    return number if found is None else found
