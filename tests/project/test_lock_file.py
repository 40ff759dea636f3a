"""The lock on disk: written completely or not at all, and never through a link."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from boltseal.lockfile.document import Lock, LockInvalid
from boltseal.lockfile.format import format_lock
from boltseal.lockfile.parse import MAX_LOCK_BYTES
from boltseal.project.lock_file import LockFile, LockNotWritten, lock_edit, read_lock, read_lock_file, write_lock
from boltseal.project.replace_files import FileChanged, replace_all
from tests.fakes.disk import FailingDisk
from tests.lockfile.locks import lock_of, locked

LOCK, OTHER = lock_of(locked("app:1", 1)), lock_of(locked("app:1", 2))


def test_an_equal_lock_is_not_written_again(tmp_path: Path) -> None:
    """An equal lock is not written again."""
    assert write_lock(LockFile(tmp_path), LOCK)
    inode = (tmp_path / "boltseal.lock").stat().st_ino

    assert read_lock(tmp_path) == LOCK
    assert not write_lock(read_lock_file(tmp_path), LOCK)
    assert (tmp_path / "boltseal.lock").stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["boltseal.lock"]


def test_a_lock_with_the_comment_of_an_older_version_is_not_written_again(tmp_path: Path) -> None:
    """A pipeline that compares the file with git sees no change after an upgrade."""
    text = (
        "# What the image references of this project mean.\n"
        + format_lock(LOCK).partition("\n# ")[2].partition("\n")[2]
    )
    (tmp_path / "boltseal.lock").write_text(text)

    assert read_lock(tmp_path) == LOCK
    assert not write_lock(read_lock_file(tmp_path), LOCK)
    assert (tmp_path / "boltseal.lock").read_text() == text


def test_a_project_without_a_lock_has_none(tmp_path: Path) -> None:
    """A project without a lock is not an error."""
    assert read_lock(tmp_path) is None


def test_a_lock_keeps_its_mode(tmp_path: Path) -> None:
    """A lock keeps its mode, and a new one gets the umask's."""
    write_lock(LockFile(tmp_path), LOCK)
    (tmp_path / "boltseal.lock").chmod(0o604)
    write_lock(read_lock_file(tmp_path), lock_of())

    assert stat.S_IMODE((tmp_path / "boltseal.lock").stat().st_mode) == 0o604


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """A symbolic link in place of the lock is not followed, since a project could make it lead anywhere."""
    (tmp_path / "secret").write_text(format_lock(LOCK))
    (tmp_path / "boltseal.lock").symlink_to("secret")
    with pytest.raises(LockInvalid, match="it is a symbolic link, which is not followed"):
        read_lock(tmp_path)
    with pytest.raises(LockInvalid, match="it is a symbolic link"):
        write_lock(LockFile(tmp_path), lock_of())

    assert (tmp_path / "secret").read_text() == format_lock(LOCK)


def test_a_lock_that_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe, which would block, or a folder in place of the lock is not opened."""
    os.mkfifo(tmp_path / "boltseal.lock")
    (tmp_path / "other/boltseal.lock").mkdir(parents=True)
    with pytest.raises(LockInvalid, match="it is not a regular file"):
        read_lock(tmp_path)
    with pytest.raises(LockInvalid, match="it is not a regular file"):
        read_lock(tmp_path / "other")


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done, and the answer lost"])
@pytest.mark.parametrize("call", ["create", "append", "sync", "rename", "sync_folder"])
def test_a_disk_that_fails_leaves_one_lock_or_the_other(tmp_path: Path, call: str, done: bool) -> None:
    """A failing disk leaves the old lock or the new one, and no temporary file."""
    write_lock(LockFile(tmp_path), LOCK)
    disk = FailingDisk()
    disk.fail(call, errno.ENOSPC, done=done)
    with pytest.raises(LockNotWritten, match="No space left on device; run the command again"):
        write_lock(read_lock_file(tmp_path), OTHER, disk)

    assert read_lock(tmp_path) in (LOCK, OTHER)
    assert [path.name for path in tmp_path.iterdir()] == ["boltseal.lock"]
    assert write_lock(read_lock_file(tmp_path), OTHER) or read_lock(tmp_path) == OTHER


def test_a_lock_that_no_command_would_read_is_not_written(tmp_path: Path) -> None:
    """A lock over the size limit of its readers is refused before it is written, also as part of an edit."""
    write_lock(LockFile(tmp_path), LOCK)
    big = lock_of(replace(locked("app:1", 1), written=("x" * (MAX_LOCK_BYTES + 1),)))

    with pytest.raises(LockNotWritten, match=r"would have 335.* bytes, expected at most 33554432"):
        write_lock(read_lock_file(tmp_path), big)
    with pytest.raises(LockNotWritten, match="skip files by"):
        lock_edit(read_lock_file(tmp_path), big)
    assert read_lock(tmp_path) == LOCK


def test_an_edit_of_a_lock_that_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    """An edit is made only of the lock that was read; without a change there is none."""
    write_lock(LockFile(tmp_path), LOCK)
    read = read_lock_file(tmp_path)
    edit = lock_edit(read, OTHER)

    assert lock_edit(read, LOCK) is None
    assert edit is not None
    assert edit.after.raw.decode() == format_lock(OTHER)
    write_lock(read, lock_of())
    with pytest.raises(FileChanged, match=r"boltseal\.lock changed while boltseal worked on it; run the command again"):
        replace_all(tmp_path, [edit])
    assert read_lock(tmp_path) == lock_of()


@pytest.mark.parametrize("after", [LOCK, OTHER], ids=["the content that was read", "other content"])
@pytest.mark.parametrize("meanwhile", ["written", "removed", "created"])
def test_a_lock_is_written_only_over_the_lock_that_was_read(tmp_path: Path, meanwhile: str, after: Lock) -> None:
    """A lock that another command wrote, removed or created since it was read is not replaced."""
    if meanwhile != "created":
        write_lock(LockFile(tmp_path), LOCK)
    read = read_lock_file(tmp_path)
    (tmp_path / "boltseal.lock").unlink(missing_ok=True)
    theirs = None if meanwhile == "removed" else lock_of()
    if theirs is not None:
        write_lock(LockFile(tmp_path), theirs)

    with pytest.raises(FileChanged, match=r"boltseal\.lock changed while boltseal worked on it; run the command again"):
        write_lock(read, after)
    assert read_lock(tmp_path) == theirs
    assert len(list(tmp_path.iterdir())) == (0 if theirs is None else 1)
