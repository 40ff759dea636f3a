"""Hash everything that a build reads, so that equal inputs have an equal hash on every machine.

    boltseal input 1
    dockerfile <digest>
    target <stage>                         only if given
    platform <os/arch>                     only if given
    arg <name>=<value>                     sorted
    base <reference as written> <digest>   sorted; every image reference of the Dockerfile
    <kind> <path> <digest or link target>  sorted; every file of the context that the builder receives

The hash covers a file's path, content, and mode, since a builder copies the mode into the image. A mode as git checks it out,
0644 or 0755, is the kind `file` or `program`; any other mode is in the kind (`file-0600`). The hash does not cover time, owner
and the group's right to write, which depend on the checkout. A folder counts if it is empty or has another mode than 0755. The
length precedes each text, so that different lists of inputs never give the same bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from boltseal.build.dockerignore import Ignore
from boltseal.errors import Unavailable
from boltseal.oci.digest import Digest

_HEAD: Final = b"boltseal input 1\n"
_PIECE_BYTES: Final = 1024 * 1024


class ContextUnreadable(Unavailable):
    """A file of the build context can't be read."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of a build, except its context. `bases`: each image reference as written, with its resolved digest."""

    dockerfile: bytes
    build_args: Mapping[str, str]
    bases: Sequence[tuple[str, Digest]]
    target: str | None = None
    platform: str | None = None


def input_hash(inputs: Inputs, context: Path, ignore: Ignore) -> str:
    """Return the hash of a build's inputs, in hex. Raises: ContextUnreadable."""
    hasher = sha256(_HEAD)
    for line in _lines(inputs, context, ignore):
        hasher.update(b"%d " % len(line) + line + b"\n")
    return hasher.hexdigest()


def _lines(inputs: Inputs, context: Path, ignore: Ignore) -> Iterator[bytes]:
    yield f"dockerfile {Digest.of(inputs.dockerfile)}".encode()
    if inputs.target is not None:
        yield f"target {inputs.target}".encode()
    if inputs.platform is not None:
        yield f"platform {inputs.platform}".encode()
    for name, value in sorted(inputs.build_args.items()):
        yield os.fsencode(f"arg {name}={value}")
    for written, digest in sorted(set(inputs.bases)):
        yield f"base {written} {digest}".encode()
    for kind, path, content in files(context, ignore):
        yield b"%d %s " % (len(os.fsencode(path)), kind.encode()) + os.fsencode(path) + b" " + content


def files(context: Path, ignore: Ignore) -> Iterator[tuple[str, str, bytes]]:
    """Yield every file of the context that the builder receives, by path: kind, path, and digest or link target.

    Raises: ContextUnreadable.
    """
    yield from _below(context, "", (), out=False, ignore=ignore)


def _below(
    folder: Path, at: str, above: Sequence[bool], *, out: bool, ignore: Ignore
) -> Iterator[tuple[str, str, bytes]]:
    try:
        mode = folder.stat(follow_symlinks=False).st_mode
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise ContextUnreadable(f"{folder} can't be read: {error.strerror}") from error
    kind = _kind("folder", mode)
    if at and not out and (not entries or kind != "folder"):
        yield kind, at, b""
    for entry in entries:
        path = f"{at}/{entry.name}" if at else entry.name
        left_out, matched = ignore.leaves_out(path, above)
        if entry.is_dir(follow_symlinks=False):
            if not left_out or ignore.takes_back:
                yield from _below(Path(entry.path), path, matched, out=left_out, ignore=ignore)
        elif not left_out:
            yield _one(entry, path)


def _one(entry: os.DirEntry[str], path: str) -> tuple[str, str, bytes]:
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            return "link", path, os.fsencode(Path(entry.path).readlink())
        if not stat.S_ISREG(mode):
            return "special", path, b""
        hasher = sha256()
        with Path(entry.path).open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                hasher.update(piece)
    except OSError as error:
        raise ContextUnreadable(f"{path} can't be read: {error.strerror}") from error
    kind = _kind("program" if mode & stat.S_IXUSR else "file", mode)
    return kind, path, hasher.hexdigest().encode()


def _kind(kind: str, mode: int) -> str:
    """Return a kind with its mode, unless it is the one that git checks out. The group's right to write is ignored."""
    bits = stat.S_IMODE(mode) & ~stat.S_IWGRP
    return kind if bits == (0o644 if kind == "file" else 0o755) else f"{kind}-{bits:04o}"
