"""The comparison of the files of two images. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class FileChanges(NamedTuple):
    """Paths by what happened to them, each sorted. A file is changed if its bytes, kind, mode or owner differ."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def total(self) -> int:
        """The number of all changes."""
        return len(self.added) + len(self.removed) + len(self.changed)


def compare_files(old: Mapping[bytes, object], new: Mapping[bytes, object]) -> FileChanges:
    """Return the paths that were added, removed or changed."""
    return FileChanges(
        _paths(name for name in new if name not in old),
        _paths(name for name in old if name not in new),
        _paths(name for name, state in new.items() if name in old and old[name] != state),
    )


def _paths(names: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(sorted(name.decode("utf-8", "backslashreplace") for name in names))
