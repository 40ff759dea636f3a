"""What a container sees of its image: derived from the layers by rules of its own, and read from a container's root.

Nothing here uses code of boltseal: `expected_view` is a second implementation of the OCI specification's rules, and
`seen_view` is what the kernel shows. Not compared, because no content depends on it: access and change times, inode numbers
(only which names share one), the number of links, the mode of a symbolic link, and the host's own label security.selinux.
Times are compared at the precision of the header: a tar without PAX times has seconds, and engines that build layers in place
keep nanoseconds on disk. The time of a folder that no entry creates is the time of unpacking.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import pickle
import stat
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from pathlib import Path

from tests.attacks.scrub.random_layers import (
    DEVICE,
    FILE,
    FOLDER,
    HARDLINK,
    OPAQUE,
    PIPE,
    SYMLINK,
    WHITEOUT,
    Entry,
    RandomLayer,
)

_NS = 1_000_000_000
_LIBC = ctypes.CDLL(None, use_errno=True)  # os.setns is newer than Python 3.11
_FORMATS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: DEVICE,
    stat.S_IFIFO: PIPE,
}


@dataclass(frozen=True, slots=True)
class Node:
    """A path as a program in the container sees it. `names`: all paths of one inode. None: any value."""

    kind: str
    mode: int | None
    owner: tuple[int, int] | None
    mtime_ns: int | None
    content: str = ""
    target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, str], ...] | None = ()
    names: tuple[str, ...] = ()


View = Mapping[str, Node]


def differences(expected: View, seen: View) -> list[str]:
    """Return in words what differs."""
    found = [f"{path}: missing" for path in sorted(expected.keys() - seen.keys())]
    found += [f"{path}: unexpected {seen[path].kind}" for path in sorted(seen.keys() - expected.keys())]
    for path in sorted(expected.keys() & seen.keys()):
        for each in fields(Node):
            wanted, got = getattr(expected[path], each.name), getattr(seen[path], each.name)
            if each.name == "mtime_ns" and wanted is not None and wanted % _NS == 0:
                got = got // _NS * _NS
            if wanted is not None and wanted != got:
                found.append(f"{path}: {each.name} {got!r}, expected {wanted!r}")
    return found


# ---- expected


@dataclass(frozen=True, slots=True)
class _Placed:
    node: Node
    inode: tuple[int, str]


@dataclass(frozen=True, slots=True)
class Making:
    """How an engine makes folders without an entry. `inherits`: like those of a lower layer.

    `keeps_bit`, `keeps_group`: what the kernel gives them in a set-group-id folder stays. `devices`: whether it makes device
    nodes, which only root can; other engines leave them out.
    """

    inherits: bool = False
    keeps_bit: bool = True
    keeps_group: bool = False
    devices: bool = True


def expected_view(layers: Sequence[RandomLayer], making: Making, *, adds: bool = False) -> View:
    """Return what a container on these layers must see. `adds`: an entry for a folder of a lower layer adds attributes to that
    folder's.
    """
    tree: dict[str, _Placed] = {}
    for number, layer in enumerate(layers):
        own = _unpacked(layer, number, tree if making.inherits else {}, making)
        for entry in layer:
            if entry.kind in (WHITEOUT, OPAQUE):
                _hide(tree, entry.path, itself=entry.kind == WHITEOUT)
        for path, placed in own.items():
            lower = tree.get(path)
            if placed.node.kind != FOLDER or (lower is not None and lower.node.kind != FOLDER):
                _hide(tree, path, itself=True)
            elif adds and lower is not None:
                attributes = dict(lower.node.xattrs or ()) | dict(placed.node.xattrs or ())
                placed = replace(placed, node=replace(placed.node, xattrs=tuple(sorted(attributes.items()))))
            tree[path] = placed
    names: dict[tuple[int, str], list[str]] = {}
    for path, placed in tree.items():
        names.setdefault(placed.inode, []).append(path)
    return {path: replace(each.node, names=tuple(sorted(names[each.inode]))) for path, each in tree.items()}


def _hide(tree: dict[str, _Placed], path: str, *, itself: bool) -> None:
    for each in [each for each in tree if (itself and each == path) or each.startswith(path + "/")]:
        del tree[each]


def _unpacked(layer: RandomLayer, number: int, lower: Mapping[str, _Placed], making: Making) -> dict[str, _Placed]:
    """Return the tree of one layer."""
    own: dict[str, _Placed] = {}
    for entry in layer:
        parts = entry.path.split("/")
        for end in range(1, len(parts)):
            above = "/".join(parts[:end])
            if above not in own:
                outer = own.get("/".join(parts[: end - 1]))
                own[above] = _Placed(_implied(lower.get(above), outer, making), (number, above))
        if entry.kind == DEVICE and not making.devices:
            continue
        if entry.kind == HARDLINK:
            own[entry.path] = own[entry.link]
        elif entry.kind not in (WHITEOUT, OPAQUE):
            own[entry.path] = _Placed(_of(entry), (number, entry.path))
    return own


def _implied(lower: _Placed | None, above: _Placed | None, making: Making) -> Node:
    """Return a folder that the engine makes. `above`: the folder that it is in, which may be a set-group-id one.

    There the kernel gives it that bit and the group.
    """
    if lower is not None and lower.node.kind == FOLDER:
        return replace(lower.node, mtime_ns=None)
    if lower is not None:
        return Node(FOLDER, None, None, None, xattrs=None)
    if above is None or not (above.node.mode or 0) & stat.S_ISGID:
        return Node(FOLDER, 0o755, (0, 0), None)
    group = above.node.owner[1] if making.keeps_group and above.node.owner else 0
    return Node(FOLDER, 0o2755 if making.keeps_bit else 0o755, (0, group), None)


def _of(entry: Entry) -> Node:
    return Node(
        entry.kind,
        None if entry.kind == SYMLINK else entry.mode,
        entry.owner,
        int(Decimal(str(entry.mtime)) * _NS),
        content=hashlib.sha256(entry.content).hexdigest() if entry.kind == FILE else "",
        target=entry.link if entry.kind == SYMLINK else "",
        device=entry.device if entry.kind == DEVICE else (0, 0),
        xattrs=tuple(sorted((name, value.hex()) for name, value in entry.xattrs)),
    )


# ---- seen


def seen_by(pid: int, without: frozenset[str]) -> View:
    """Return what a container's process sees in its root, with the IDs of its own user namespace.

    The kernel also maps the IDs in access control lists and capabilities; unmapped ones are shown as in the container.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            with Path(f"/proc/{pid}/ns/user").open("rb") as namespace:
                if _LIBC.setns(namespace.fileno(), 0):
                    raise OSError(ctypes.get_errno(), "setns")
            os.setgid(0)
            os.setuid(0)
            with os.fdopen(writing, "wb") as file:
                pickle.dump(seen_view(Path(f"/proc/{pid}/root"), without), file)
        except BaseException:  # noqa: BLE001 - the parent only sees that nothing was written
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        raw = file.read()
    os.waitpid(child, 0)

    assert raw, "the process in the container's user namespace failed"

    found: View = pickle.loads(raw)  # noqa: S301 - the child of this process wrote it
    return found


def seen_view(root: Path, without: frozenset[str]) -> View:
    """Return what is at a container's root, except for the names that the engine or the test adds."""
    found = root.stat()
    nodes = {"": (_node(os.fsencode(root), found), (found.st_dev, found.st_ino))}
    _walk(os.fsencode(root), b"", without, nodes)
    names: dict[tuple[int, int], list[str]] = {}
    for path, (_, inode) in nodes.items():
        names.setdefault(inode, []).append(path)
    return {path: replace(node, names=tuple(sorted(names[inode]))) for path, (node, inode) in nodes.items()}


def _walk(root: bytes, above: bytes, without: frozenset[str], nodes: dict[str, tuple[Node, tuple[int, int]]]) -> None:
    try:
        names = sorted(os.listdir(os.path.join(root, above)))  # noqa: PTH208, PTH118 - names need not be UTF-8
    except PermissionError:  # its owner is unknown in the container's user namespace
        return
    for name in names:
        path = above + b"/" + name if above else name
        if os.fsdecode(path) in without:
            continue
        at = root + b"/" + path
        try:
            found = os.lstat(at)
        except PermissionError:  # the owner of its folder is unknown in the container's user namespace
            continue
        except FileNotFoundError:  # overlayfs lists a whiteout in a folder that only one layer has, but finds no file
            continue
        nodes[os.fsdecode(path)] = _node(at, found), (found.st_dev, found.st_ino)
        if stat.S_ISDIR(found.st_mode):
            _walk(root, path, without, nodes)


def _node(at: bytes, found: os.stat_result) -> Node:
    kind = _FORMATS.get(stat.S_IFMT(found.st_mode), "something else")
    return Node(
        kind,
        stat.S_IMODE(found.st_mode),
        (found.st_uid, found.st_gid),
        found.st_mtime_ns,
        content=hashlib.sha256(_read(at)).hexdigest() if kind == FILE else "",
        target=str(Path(os.fsdecode(at)).readlink()) if kind == SYMLINK else "",
        device=(os.major(found.st_rdev), os.minor(found.st_rdev)) if kind == DEVICE else (0, 0),
        xattrs=tuple(
            sorted(
                (name, _value(at, name))
                for name in os.listxattr(at, follow_symlinks=False)
                if name != "security.selinux"
            )
        ),
    )


def _value(at: bytes, name: str) -> str:
    """Return an attribute in hexadecimal digits; a word if the kernel does not show it."""
    try:
        return os.getxattr(at, name, follow_symlinks=False).hex()
    except OSError as error:
        if error.errno in (errno.EOVERFLOW, errno.EPERM, errno.EACCES):  # a capability of another user namespace
            return "not shown"
        raise


def _read(at: bytes) -> bytes:
    try:
        return Path(os.fsdecode(at)).read_bytes()
    except PermissionError:  # its owner is unknown in the container's user namespace
        return b"could not be read"
