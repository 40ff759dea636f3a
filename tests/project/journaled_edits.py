"""Edits of two files of a project, for the tests of the edit journal."""

from __future__ import annotations

from boltseal.project.edits import FileEdit
from boltseal.project.source_files import SourceFile

BEFORE = {"compose.yaml": b"a: 1\n", "deploy/web.yaml": b"b: 1\n"}
AFTER = {"compose.yaml": b"a: 2\n", "deploy/web.yaml": b"b: 2\n"}


def edits() -> list[FileEdit]:
    """Return the edits from BEFORE to AFTER."""
    return [FileEdit(SourceFile.of(name, raw), SourceFile.of(name, AFTER[name])) for name, raw in BEFORE.items()]
