"""Files of a project as text: read within bounds, never out of the project, and with the way back to their bytes.

What a checked-out project holds is hostile. A file is read only when its real path, every symbolic link followed, lies
in the project, when it is a plain file of at most MAX_FILE_BYTES, and when it is UTF-8 without a NUL.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from boltseal.errors import quote
from boltseal.project.image_references import ScanProblem

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
KEPT_CHARACTERS: Final = 64 * 1024
_BOM: Final = b"\xef\xbb\xbf"

T = TypeVar("T")


class Unreadable(Exception):  # noqa: N818, RUF100 - never leaves the room: it becomes a Problem of what was found
    """A file, or a part of one, that can't be read; the rest goes on."""

    def __init__(self, path: str, line: int, message: str) -> None:
        super().__init__(message)
        self.problem = ScanProblem(path, line, message)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: `text` without byte order mark, its line ends as they are; `raw` is all of it, as it was read."""

    path: str
    text: str
    raw: bytes
    _starts: list[int] = field(default_factory=list, compare=False, repr=False)
    _parsed: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, path: str, raw: bytes) -> SourceFile:
        """The text of these bytes. Unreadable."""
        if b"\0" in raw:
            raise Unreadable(path, raw[: raw.index(b"\0")].count(b"\n") + 1, "holds a NUL byte: no text in UTF-8")
        body = raw.removeprefix(_BOM)
        try:
            return cls(path, body.decode(), raw)
        except UnicodeDecodeError as error:
            line = body[: error.start].count(b"\n") + 1
            raise Unreadable(path, line, f"is not UTF-8: byte {body[error.start]:#04x} can't stand here") from error

    def with_text(self, text: str) -> SourceFile:
        """The same file with another text."""
        bom = _BOM if self.raw.startswith(_BOM) else b""
        return SourceFile(self.path, text, bom + text.encode())

    def parsed(self, parse: Callable[[SourceFile], T]) -> T:
        """What a parser makes of this file; of a small one kept, since it is read, proven and read again."""
        if parse in self._parsed:
            kept: T = self._parsed[parse]
            return kept
        found = parse(self)
        if len(self.text) <= KEPT_CHARACTERS:
            self._parsed[parse] = found
        return found

    def line(self, offset: int) -> int:
        """The line of a character, counted from 1."""
        if not self._starts:
            self._starts.append(-1)  # so that a text of one line is not looked through again
            self._starts.extend(i for i, c in enumerate(self.text) if c == "\n")
        return bisect_right(self._starts, offset - 1)


class ProjectTree:
    """The files under one folder, each read and looked for once. `overlay` holds texts that stand in for files on the disk."""

    def __init__(self, root: Path, overlay: Mapping[str, SourceFile] | None = None) -> None:
        self.root = Path(os.path.realpath(root))
        self._base = os.fspath(self.root)
        self._read: dict[str, SourceFile] = dict(overlay or {})
        self._has: dict[str, bool] = {}
        self._names: dict[tuple[str, str], str] = {}

    def name(self, path: Path | str, base: str = "") -> str:
        """The name that messages show of a path: relative to the root, every link followed. Unreadable when outside."""
        shown = os.fspath(path)
        known = self._names.get((shown, base))
        if known is not None:
            return known
        if "\0" in shown:
            raise Unreadable(quote(shown), 0, f"{quote(shown)} is no path: it holds a NUL")
        real = os.path.realpath(os.path.join(self._base, base, shown))  # noqa: PTH118 - thousands of times
        inside = self._base.rstrip("/") + "/"
        if real != self._base and not real.startswith(inside):
            said = f"leads out of the project, to {quote(real)}: not read; --project names a folder that holds both"
            raise Unreadable(shown, 0, said)
        name = self._names[shown, base] = real[len(inside) :] or "."
        return name

    def at(self, path: Path) -> str:
        """The path that leads to a file, relative to the root: the last part may be a link, its folder is the real one."""
        folder = self.name(path.parent)
        return path.name if folder == "." else f"{folder}/{path.name}"

    def read(self, name: str) -> SourceFile:
        """A file by the name that `name` gave. Unreadable."""
        known = self._read.get(name)
        if known is None:
            known = self._read[name] = SourceFile.of(name, self._bytes(name))
        return known

    def texts(self) -> Mapping[str, SourceFile]:
        """Every file that was read so far, by its name."""
        return dict(self._read)

    def with_texts(self, changed: Mapping[str, SourceFile]) -> ProjectTree:
        """The same project, everything that was read kept as it was read, and other texts in some of its files."""
        other = ProjectTree(self.root, {**self._read, **changed})
        other._has, other._names = self._has, self._names
        return other

    def has(self, name: str) -> bool:
        """Whether there is such a file, in the project."""
        known = self._has.get(name)
        if known is None:
            path = os.path.join(self._base, name)  # noqa: PTH118
            known = self._has[name] = name in self._read or os.path.isfile(path)  # noqa: PTH113 - thousands of times
        return known

    def _bytes(self, name: str) -> bytes:
        try:
            fd = os.open(self.root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Unreadable(name, 0, f"can't be read: {error.strerror or error}") from error
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise Unreadable(name, 0, "is not a plain file")
        with os.fdopen(fd, "rb") as file:
            if found.st_size > MAX_FILE_BYTES:
                raise Unreadable(name, 0, _too_large(found.st_size))
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise Unreadable(name, 0, _too_large(len(raw)))
        return raw


def _too_large(size_bytes: int) -> str:
    return f"has {size_bytes} bytes; a file with references has at most {MAX_FILE_BYTES // 2**20} MiB: not read"
