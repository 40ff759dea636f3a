"""Read the text files of a project within limits, never outside the project, and keep their exact bytes.

A checked-out project is untrusted input. A file is read only if its real path (all symbolic links resolved) is inside
the project, if it is a regular file of at most MAX_FILE_BYTES, and if it is UTF-8 without NUL bytes and with at most one byte
order mark at its start: what programs make of a second one differs.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, count
from operator import add
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from boltseal.errors import quote
from boltseal.project.image_references import ScanProblem

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
CACHED_CHARACTERS: Final = 64 * 1024
_BOM: Final = BOM_UTF8
OUTSIDE: Final = "is outside of the project"

T = TypeVar("T")


class Unreadable(Exception):  # noqa: N818, RUF100 - stays inside the package, where it becomes a ScanProblem
    """A file, or a part of one, that can't be read. The scan records the problem and continues.

    `is_text`: the file is known to be text, so that it is not data of another program.
    """

    def __init__(self, path: str, line: int, message: str, *, is_text: bool = False) -> None:
        super().__init__(message)
        self.is_text = is_text
        self.problem = ScanProblem(path, line, message)


class ProjectPath(NamedTuple):
    """A file of the project: its real path, and the path by which it was reached, which may be a symbolic link.

    `by_content`: only its content has identified its format, so another file may name it as a part of itself.
    """

    name: str
    link_path: str
    by_content: bool = False


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: `text` without the byte order mark, line ends unchanged; `raw` is the exact content."""

    path: str
    text: str
    raw: bytes
    _starts: list[int] = field(default_factory=list, compare=False, repr=False)
    _parsed: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    results: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)  # of a scan, which owns them

    @classmethod
    def of(cls, path: str, raw: bytes) -> SourceFile:
        """Decode a file's content. Raises: Unreadable: it is not UTF-8, contains a NUL byte, or begins with two byte order marks."""
        if raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            raise Unreadable(path, 1, "begins with a byte order mark of UTF-16; save it as UTF-8", is_text=True)
        if raw.startswith(2 * _BOM):
            raise Unreadable(path, 1, "begins with two byte order marks; save it with one or none", is_text=True)
        if b"\0" in raw:
            raise Unreadable(path, raw[: raw.index(b"\0")].count(b"\n") + 1, "contains a NUL byte: not a text file")
        body = raw.removeprefix(_BOM)
        try:
            return cls(path, body.decode(), raw)
        except UnicodeDecodeError as error:
            line = body[: error.start].count(b"\n") + 1
            raise Unreadable(path, line, f"is not UTF-8: unexpected byte {body[error.start]:#04x}") from error

    def with_text(self, text: str) -> SourceFile:
        """Return this file with another text and the same byte order mark."""
        bom = _BOM if self.raw.startswith(_BOM) else b""
        return SourceFile(self.path, text, bom + text.encode())

    def part(self, text: str) -> SourceFile:
        """Return a part of the text as a file of its own, to be parsed alone."""
        return self if text == self.text else SourceFile(self.path, text, text.encode())

    def parsed(self, parse: Callable[[SourceFile], T]) -> T:
        """Return the parser's result. That of a small file is cached, because an edit parses each file several times."""
        if parse in self._parsed:
            cached: T = self._parsed[parse]
            return cached
        result = parse(self)
        if len(self.text) <= CACHED_CHARACTERS:
            self._parsed[parse] = result
        return result

    def line(self, offset: int) -> int:
        """Return the line of a character, counted from 1."""
        if not self._starts:
            self._starts.append(-1)  # so that the index of a one-line text is not built again
            lengths = accumulate(map(len, self.text.split("\n")[:-1]))
            self._starts.extend(map(add, lengths, count()))
        return bisect_right(self._starts, offset - 1)


class ProjectTree:
    """The files under one folder, each read at most once. `overlay`: texts that replace files on the disk.

    `lookups` counts what makes the reading of one file depend on another one: uses of `root`, `name`, `read` and `has`.
    `parts`: results of a scan, which owns them, for parts of files, by their text.
    """

    def __init__(self, root: Path, overlay: Mapping[str, SourceFile] | None = None) -> None:
        self._root = Path(os.path.realpath(root))
        self._base = os.fspath(self._root)
        self.lookups = 0
        self._read: dict[str, SourceFile] = dict(overlay or {})
        self._has: dict[str, bool] = {}
        self._names: dict[tuple[str, str], str] = {}
        self.parts: dict[str, Any] = {}

    @property
    def root(self) -> Path:
        """The folder, with every link resolved."""
        self.lookups += 1
        return self._root

    def name(self, path: Path | str, base: str = "") -> str:
        """Return a path relative to the root with every link resolved. Raises: Unreadable: it is outside the project."""
        self.lookups += 1
        shown = os.fspath(path)
        known = self._names.get((shown, base))
        if known is not None:
            return known
        if "\0" in shown:
            raise Unreadable(quote(shown), 0, f"{quote(shown)} is not a valid path: it contains a NUL byte")
        real = os.path.realpath(os.path.join(self._base, base, shown))  # noqa: PTH118 - thousands of times
        inside = self._base.rstrip("/") + "/"
        if real != self._base and not real.startswith(inside):
            reason = f"{OUTSIDE}: {quote(real)}; not read; --project names a folder that contains both"
            raise Unreadable(shown, 0, reason)
        name = self._names[shown, base] = real[len(inside) :] or "."
        return name

    def at(self, path: Path) -> str:
        """Return the path to a file relative to the root: links in its folder resolved, its last part kept."""
        folder = self.name(path.parent)
        return path.name if folder == "." else f"{folder}/{path.name}"

    def read(self, name: str) -> SourceFile:
        """Read a file by the result of `name`. Raises: Unreadable: it can't be read as text."""
        self.lookups += 1
        known = self._read.get(name)
        if known is None:
            known = self._read[name] = SourceFile.of(name, self._bytes(name))
        return known

    def texts(self) -> Mapping[str, SourceFile]:
        """Return every file read so far, by path."""
        return dict(self._read)

    def with_texts(self, changed: Mapping[str, SourceFile]) -> ProjectTree:
        """Return the same tree with these texts in place of some files. Cached files stay cached."""
        other = ProjectTree(self._root, {**self._read, **changed})
        other._has, other._names, other.parts = self._has, self._names, self.parts
        return other

    def has(self, name: str) -> bool:
        """Return whether this file exists in the project."""
        self.lookups += 1
        known = self._has.get(name)
        if known is None:
            path = os.path.join(self._base, name)  # noqa: PTH118
            known = self._has[name] = name in self._read or os.path.isfile(path)  # noqa: PTH113 - thousands of times
        return known

    def _bytes(self, name: str) -> bytes:
        try:
            fd = os.open(self._root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Unreadable(name, 0, f"can't be read: {error.strerror or error}") from error
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise Unreadable(name, 0, "is not a regular file")
        with os.fdopen(fd, "rb") as file:
            if found.st_size > MAX_FILE_BYTES:
                raise Unreadable(name, 0, _too_large(found.st_size))
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise Unreadable(name, 0, _too_large(len(raw)))
        return raw


def _too_large(size_bytes: int) -> str:
    return f"has {size_bytes} bytes; a file with references has at most {MAX_FILE_BYTES // 2**20} MiB: not read"
