"""Edits of three files in two folders."""

from __future__ import annotations

from boltseal.project.edits import FileEdit
from boltseal.project.source_files import SourceFile

NAMES = ("a/one.yml", "a/two.yml", "b/three.yml")


def changes() -> list[FileEdit]:
    """Return edits of `old` to `new` in three files of two folders."""
    before = [SourceFile.of(name, f"{name}: old\r\n".encode()) for name in NAMES]
    return [FileEdit(source, source.with_text(source.text.replace("old", "new"))) for source in before]
