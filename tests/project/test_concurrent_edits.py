"""Processes that edit the same files at the same time: no edit is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from boltseal.lockfile.document import Lock
from boltseal.project.lock_file import read_lock

PROCESSES, EDITS = 4, 15

EDIT = """
import sys
from dataclasses import replace
from pathlib import Path

from boltseal.files.atomic_files import Disk
from boltseal.lockfile.document import Lock
from boltseal.project.edits import FileEdit
from boltseal.project.lock_file import read_lock_file, write_lock
from boltseal.project.replace_files import FileChanged, replace_all
from boltseal.project.source_files import SourceFile
from tests.lockfile.locks import locked

class Slow(Disk):
    '''Waits for the disk between the comparison and the rename.'''

    def rename(self, source: str, target: str) -> None:
        self.sync_folder(str(Path(target).parent))
        super().rename(source, target)

def edit_files(root: Path, word: str) -> None:
    edits = []
    for name in ("a/compose.yaml", "b/compose.yaml"):
        before = SourceFile.of(name, (root / name).read_bytes())
        edits.append(FileEdit(before, before.with_text(before.text + word + "\\n")))
    replace_all(root, edits, Slow())

def edit_lock(root: Path, word: str) -> None:
    read = read_lock_file(root)
    old = read.lock or Lock()
    write_lock(read, replace(old, images=(*old.images, locked(f"app:{word}", 1))), Slow())

root, kind, process, edits = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
for number in range(edits):
    while True:
        try:
            (edit_lock if kind == "lock" else edit_files)(root, f"{process}-{number}")
        except FileChanged:
            continue
        break
"""


def edited_at_the_same_time(root: Path, kind: str) -> set[str]:
    """Have several processes make EDITS edits each, repeating those that are refused; return the words that they wrote."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", EDIT, str(root), kind, str(number), str(EDITS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for number in range(PROCESSES)
    ]
    for each in processes:
        assert each.stdout is not None
        assert each.stdout.readline() == b"ready\n"
    for each in processes:
        assert each.stdin is not None
        each.stdin.write(b"\n")
        each.stdin.flush()
    for each in processes:
        each.communicate()
        assert each.returncode == 0
    return {f"{process}-{number}" for process in range(PROCESSES) for number in range(EDITS)}


def test_no_edit_of_a_lock_is_lost(tmp_path: Path) -> None:
    """A lock has the entry of each process that wrote it, though all of them write at the same time."""
    wrote = edited_at_the_same_time(tmp_path, "lock")
    lock = read_lock(tmp_path) or Lock()

    assert {str(each.reference.tag) for each in lock.images} == wrote
    assert [path.name for path in tmp_path.iterdir()] == ["boltseal.lock"]


def test_no_edit_of_files_is_lost(tmp_path: Path) -> None:
    """Two files have the line of each process that edited them, though all of them edit at the same time."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "compose.yaml").write_text("")
    wrote = edited_at_the_same_time(tmp_path, "files")
    lines = [sorted((tmp_path / name / "compose.yaml").read_text().split()) for name in ("a", "b")]

    assert lines == [sorted(wrote), sorted(wrote)]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["compose.yaml", "compose.yaml"]
