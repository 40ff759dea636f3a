"""Edits of a project that a killed process left are undone: all files or none."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from boltseal.files.atomic_files import Disk
from boltseal.project.edit_journal import (
    EditJournal,
    EditsRunning,
    JournaledFile,
    JournalStage,
    JournalUnusable,
    Restored,
)
from boltseal.project.replace_files import FileChanged
from tests.project.journaled_edits import AFTER, BEFORE, edits

LOCK = "boltseal.lock"

EDITS = """
import os, signal, sys
from pathlib import Path
from boltseal.files.atomic_files import Disk
from boltseal.project.edit_journal import EditJournal
from boltseal.project.replace_files import replace_all
from tests.project.journaled_edits import edits

state, root, stage = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

class Killed(Disk):
    renamed = 0

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        self.renamed += 1
        if stage == f"rename {self.renamed}":
            die()

journal = EditJournal(state, root)
with journal.held():
    journal.begin(root, edits(), (root / "boltseal.lock").read_bytes(), project="shop", engine="", release=0)
    if stage == "begun":
        die()
    replace_all(root, edits(), Killed())
    with journal.locking(b"new\\n"):
        (root / "boltseal.lock").write_text("new\\n")
        if stage == "locking":
            die()
    die()
"""


def contents(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in (*BEFORE, LOCK)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    for name, raw in (*BEFORE.items(), (LOCK, b"old\n")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    return folder


def killed(tmp_path: Path, root: Path, stage: str) -> EditJournal:
    """Edit in a process that SIGKILL ends at this stage; return the journal that remains."""
    ended = subprocess.run([sys.executable, "-c", EDITS, str(tmp_path / "state"), str(root), stage], check=False)
    assert ended.returncode == -signal.SIGKILL
    [journal] = EditJournal.of_project(tmp_path / "state", root)
    return journal


@pytest.mark.parametrize("stage", ["begun", "rename 1", "rename 2", "locking", "deploying"])
def test_a_kill_in_any_stage_is_undone(tmp_path: Path, root: Path, stage: str) -> None:
    """After a kill at any stage, files and lock are restored, and the journal is removed."""
    journal = killed(tmp_path, root, stage)
    with journal.held():
        restored = journal.restore()

    assert contents(root) == {**BEFORE, LOCK: b"old\n"}
    assert restored.refused == ()
    assert journal.read() is None


def test_a_file_that_was_edited_since_keeps_all_files_as_they_are(tmp_path: Path, root: Path) -> None:
    """If one file was edited since the kill, no file is restored, so that the user's edit is kept."""
    journal = killed(tmp_path, root, "deploying")
    (root / "compose.yaml").write_text("a: 3\n")
    with journal.held():
        restored = journal.restore()

    assert contents(root) == {"compose.yaml": b"a: 3\n", "deploy/web.yaml": b"b: 2\n", LOCK: b"new\n"}
    assert (restored.files, restored.refused) == ((), ("compose.yaml",))
    assert journal.read() is None


def test_a_lock_that_was_written_since_keeps_all_files_as_they_are(tmp_path: Path, root: Path) -> None:
    """If the lock was replaced since the kill, as by a git pull, no file is restored."""
    journal = killed(tmp_path, root, "deploying")
    (root / LOCK).write_text("other\n")
    with journal.held():
        restored = journal.restore()

    assert restored.refused == (LOCK,)
    assert contents(root) == {**AFTER, LOCK: b"other\n"}


def test_a_lock_that_was_written_before_the_update_came_to_it_stays(tmp_path: Path, root: Path) -> None:
    """If another command wrote the lock before the update did, the undo restores the files and keeps that lock."""
    journal = killed(tmp_path, root, "rename 2")
    (root / LOCK).write_text("other\n")
    with journal.held():
        restored = journal.restore()

    assert restored == Restored(tuple(BEFORE))
    assert contents(root) == {**BEFORE, LOCK: b"other\n"}


def test_an_update_that_was_not_let_replace_the_lock_undoes_its_files(tmp_path: Path, root: Path) -> None:
    """If the lock changed just before the update replaced it, the undo restores the files and keeps the other lock."""
    journal = begun(tmp_path, root)
    with journal.held():
        (root / LOCK).write_text("other\n")
        with pytest.raises(FileChanged), journal.locking(b"new\n"):
            raise FileChanged.of(LOCK)
        restored = journal.restore()

    assert restored == Restored(tuple(BEFORE))
    assert contents(root) == {**BEFORE, LOCK: b"other\n"}


def test_only_one_process_edits(tmp_path: Path, root: Path) -> None:
    """A journal whose process still runs is not treated as interrupted."""
    first, second = EditJournal(tmp_path / "state", root), EditJournal(tmp_path / "state", root)

    with first.held(), pytest.raises(EditsRunning, match="updated by another process"), second.held():
        pass


def test_journals_of_other_projects_are_not_found(tmp_path: Path, root: Path) -> None:
    """For a folder, the journals of projects in it and above it are found, and no others."""
    journal = EditJournal(tmp_path / "state", root)
    journal._path.parent.mkdir(parents=True)
    journal.begin(root, edits(), b"old\n", project="shop", engine="", release=0)
    found = [EditJournal.of_project(tmp_path / "state", at) for at in (tmp_path, root, root / "deploy", tmp_path / "b")]

    assert [len(each) for each in found] == [1, 1, 1, 0]


def test_an_invalid_journal_is_refused(tmp_path: Path, root: Path) -> None:
    """An invalid journal is refused and writes nothing."""
    (tmp_path / "state/edits").mkdir(parents=True)
    (tmp_path / "state/edits/0.json").write_text("{")

    with pytest.raises(JournalUnusable, match="not a journal of edits"):
        EditJournal.of_project(tmp_path / "state", root)


@pytest.mark.parametrize("at", [".", "deploy", ".."])
def test_an_unreadable_journal_blocks_the_projects_that_it_may_belong_to(tmp_path: Path, root: Path, at: str) -> None:
    """An unreadable journal blocks writes to its own folder, those in it and those above it."""
    begun(tmp_path, root)
    [path] = (tmp_path / "state/edits").glob("*.json")
    path.write_text("{")

    with pytest.raises(JournalUnusable, match="not a journal of edits"):
        EditJournal.of_project(tmp_path / "state", root / at)


def test_an_unreadable_journal_of_another_project_is_skipped(tmp_path: Path, root: Path) -> None:
    """An unreadable journal of another project does not block this one."""
    begun(tmp_path, root)
    [path] = (tmp_path / "state/edits").glob("*.json")
    path.write_text("{")
    other = tmp_path / "other"
    (other / "deploy").mkdir(parents=True)

    assert EditJournal.of_project(tmp_path / "state", other) == ()


def test_a_journal_that_can_not_be_written_says_what_happened_to_the_files(tmp_path: Path, root: Path) -> None:
    """If the journal can't be written, the error says what happened to the files: unedited, or edited."""

    class Broken(Disk):
        def sync_folder(self, path: str) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    begun(tmp_path, root)
    journal = EditJournal(tmp_path / "state", root, Broken())
    with pytest.raises(JournalUnusable, match="No space left on device; nothing was edited"):
        journal.begin(root, edits(), b"old\n", project="shop", engine="", release=0)
    with pytest.raises(JournalUnusable, match="the project's files are edited already"), journal.locking(b"new\n"):
        pass
    with pytest.raises(JournalUnusable, match="the edits stay, and the journal too"):
        journal.end()


def begun(tmp_path: Path, root: Path) -> EditJournal:
    """Return the journal of edits that another run has written into the files."""
    journal = EditJournal(tmp_path / "state", root)
    with journal.held():
        journal.begin(root, edits(), (root / LOCK).read_bytes(), project="shop", engine="", release=0)
    for name, raw in AFTER.items():
        (root / name).write_bytes(raw)
    return journal


def test_a_folder_that_became_a_link_is_not_followed_out_of_the_project(tmp_path: Path, root: Path) -> None:
    """A folder that became a symbolic link is not followed out of the project when edits are undone."""
    journal = begun(tmp_path, root)
    elsewhere = tmp_path / "elsewhere"
    (root / "deploy").rename(elsewhere)
    (root / "deploy").symlink_to(elsewhere)
    with journal.held():
        restored = journal.restore()

    assert restored.refused == ("deploy/web.yaml",)
    assert (elsewhere / "web.yaml").read_bytes() == AFTER["deploy/web.yaml"]


@pytest.mark.parametrize("path", ["../outside.yaml", "{folder}/outside.yaml"])
def test_a_journal_with_a_path_outside_of_the_project_writes_nothing(tmp_path: Path, root: Path, path: str) -> None:
    """Neither `..` nor an absolute path leads out of the project."""
    journal = begun(tmp_path, root)
    outside = tmp_path / "outside.yaml"
    outside.write_bytes(b"after\n")
    record = journal.read()
    assert record is not None
    hostile = JournaledFile(path.format(folder=tmp_path), b"before\n", b"after\n")
    journal._path.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, files=(hostile,))))
    with journal.held():
        restored = journal.restore()

    assert restored.refused == (hostile.path,)
    assert outside.read_bytes() == b"after\n"


def test_a_lock_that_is_no_text_is_replaced(tmp_path: Path, root: Path) -> None:
    """A lock that is not UTF-8, as after a kill of boltseal 0.2, is replaced when edits are undone."""
    journal = begun(tmp_path, root)
    record = journal.read()
    assert record is not None
    journal._path.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, stage=JournalStage.LOCKING)))
    (root / LOCK).write_bytes(b"\0\xff")
    with journal.held():
        journal.restore()

    assert contents(root) == {**BEFORE, LOCK: b"old\n"}
