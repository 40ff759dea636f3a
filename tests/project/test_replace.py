"""All files are replaced or none: faults at every call, links, modes, and files that changed meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from boltseal.files.atomic_files import Disk
from boltseal.project.edits import FileEdit
from boltseal.project.replace_files import FileChanged, FilesNotWritten, replace_all
from boltseal.project.source_files import SourceFile
from tests.fakes.disk import FailingDisk
from tests.project.edited_files import NAMES, changes
from tests.project.projects import written
from tests.small_disk import small_disk


def project(folder: Path) -> Path:
    """Create the three files."""
    return written(folder, {name: f"{name}: old\r\n" for name in NAMES})


def texts(root: Path) -> set[str]:
    """Return the files' content without their names, and the names of all other files."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {
        path.read_bytes().decode().partition(": ")[2] if path.relative_to(root).as_posix() in NAMES else path.name
        for path in paths
    }


def test_all_files_are_replaced_and_no_temporary_file_remains(tmp_path: Path) -> None:
    """All three files have the new text, and no fourth file remains."""
    root = project(tmp_path)
    replace_all(root, changes())

    assert texts(root) == {"new\r\n"}


def test_a_file_below_a_second_path_to_the_root_is_replaced(tmp_path: Path) -> None:
    """A file whose folder is the project's own by a link is replaced at once, without waiting for the project's lock."""
    root = written(tmp_path, {"compose.yaml": "old"})
    (root / "link").symlink_to(".")
    before = SourceFile.of("link/compose.yaml", b"old")
    replace_all(root, [FileEdit(before, before.with_text("new"))])

    assert (root / "compose.yaml").read_text() == "new"


@pytest.mark.parametrize("done", [False, True], ids=["not-done", "done-and-the-answer-lost"])
@pytest.mark.parametrize("skip", range(3))
@pytest.mark.parametrize("what", ["link", "create", "append", "sync"])
def test_a_failed_write_leaves_every_file_unchanged(tmp_path: Path, what: str, skip: int, done: bool) -> None:
    """A failed write of the first or last file leaves all files unchanged."""
    root, disk = project(tmp_path), FailingDisk()
    disk.fail(what, errno.ENOSPC, skip=skip, done=done)

    with pytest.raises(FilesNotWritten, match=r"No space left on device; every file is unchanged$"):
        replace_all(root, changes(), disk)
    assert texts(root) == {"old\r\n"}


@pytest.mark.parametrize("done", [False, True], ids=["not-done", "done-and-the-answer-lost"])
@pytest.mark.parametrize(
    ("what", "skip"), [("rename", 0), ("rename", 1), ("rename", 2), ("sync_folder", 0), ("sync_folder", 1)]
)
def test_a_failed_rename_restores_the_old_texts(tmp_path: Path, what: str, skip: int, done: bool) -> None:
    """A failed rename restores the files that were already replaced."""
    root, disk = project(tmp_path), FailingDisk()
    disk.fail(what, errno.EIO, skip=skip, done=done)

    with pytest.raises(FilesNotWritten, match="every file is unchanged"):
        replace_all(root, changes(), disk)
    assert texts(root) == {"old\r\n"}


@pytest.mark.parametrize("skip", range(3))
def test_without_hard_links_the_old_texts_are_copied(tmp_path: Path, skip: int) -> None:
    """On a file system without hard links, such as FAT, the old texts are restored from copies."""
    root, disk = project(tmp_path), FailingDisk()
    disk.fail("link", errno.EPERM, times=3)
    disk.fail("rename", errno.EIO, skip=skip)

    with pytest.raises(FilesNotWritten, match="every file is unchanged"):
        replace_all(root, changes(), disk)
    assert texts(root) == {"old\r\n"}
    assert disk.calls["create"] == 6


def test_files_that_can_not_be_restored_are_named(tmp_path: Path) -> None:
    """If the disk keeps failing, the message names the file that has the new text, and not those that are unchanged."""
    root, disk = project(tmp_path), FailingDisk()
    disk.fail("rename", errno.EIO, skip=1, times=10)

    with pytest.raises(FilesNotWritten, match=r"^a/two\.yml can't be written: .*; a/one\.yml could not be restored"):
        replace_all(root, changes(), disk)
    assert texts(root) == {"new\r\n", "old\r\n"}


def test_an_immutable_file_is_named_and_not_reported_as_changed(tmp_path: Path) -> None:
    """A file that refuses every rename, as an immutable one does, is named as the cause, and as unchanged."""
    root, disk = project(tmp_path), FailingDisk()
    disk.fail("rename", errno.EPERM, times=10)

    with pytest.raises(FilesNotWritten, match=r"^a/one\.yml can't be written: .*; every file is unchanged$"):
        replace_all(root, changes(), disk)
    assert texts(root) == {"old\r\n"}


def test_a_file_that_was_changed_meanwhile_stops_everything(tmp_path: Path) -> None:
    """If a user changed a file meanwhile, nothing is written."""
    root = project(tmp_path)
    (root / "b/three.yml").write_text("b/three.yml: theirs\n")

    with pytest.raises(FileChanged, match=r"b/three\.yml changed while boltseal worked on it"):
        replace_all(root, changes())
    assert texts(root) == {"old\r\n", "theirs\n"}


class Editing(Disk):
    """Save the last file after the first rename, in place or by a rename as editors do."""

    def __init__(self, path: Path, *, in_place: bool) -> None:
        self._path = path
        self._in_place = in_place
        self._saved = False

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        if not self._saved:
            self._saved = True
            place = self._path if self._in_place else self._path.with_name("swap")
            place.write_text("b/three.yml: theirs\n")
            place.rename(self._path)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_file_that_is_saved_while_others_are_replaced_stops_everything(tmp_path: Path, in_place: bool) -> None:
    """If a file is saved during the replacement, it stays, and those before it are restored."""
    root = project(tmp_path)

    with pytest.raises(
        FileChanged, match=r"b/three\.yml changed while boltseal worked on it; .*every file is unchanged"
    ):
        replace_all(root, changes(), Editing(root / "b/three.yml", in_place=in_place))
    assert texts(root) == {"old\r\n", "theirs\n"}


def test_a_name_of_maximum_length_is_accepted(tmp_path: Path) -> None:
    """A file name of maximum length is accepted, since temporary names do not contain it."""
    name = "n" * 251 + ".yml"
    root = written(tmp_path, {name: "old\n"})
    before = SourceFile.of(name, b"old\n")
    replace_all(root, [FileEdit(before, before.with_text("new\n"))])

    assert (root / name).read_text() == "new\n"


@pytest.mark.slow
def test_a_full_disk_leaves_every_file_unchanged(tmp_path: Path) -> None:
    """A disk that fills up in the middle of three hundred files leaves all unchanged."""
    with small_disk(tmp_path / "small", "size=3m") as folder:
        files = [SourceFile.of(f"{number}.yml", b"old" * 2000) for number in range(300)]
        written(folder, {source.path: source.raw for source in files})
        edits = [FileEdit(source, source.with_text("new" * 2000)) for source in files]
        with pytest.raises(FilesNotWritten, match="No space left on device; every file is unchanged"):
            replace_all(folder, edits)
        untouched = {path.name: path.read_bytes() for path in folder.iterdir()}
        subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)
        replace_all(folder, edits)
        after = {path.name: path.read_bytes() for path in folder.iterdir()}

    assert untouched == {source.path: source.raw for source in files}
    assert after == {source.path: b"new" * 2000 for source in files}


def test_a_file_that_became_a_link_meanwhile_is_not_followed(tmp_path: Path) -> None:
    """A file that became a link out of the project is not followed, even with equal content."""
    root = project(tmp_path / "project")
    outside = written(tmp_path / "outside", {"three.yml": "b/three.yml: old\r\n"})
    (root / "b/three.yml").unlink()
    (root / "b/three.yml").symlink_to(outside / "three.yml")

    with pytest.raises(FileChanged):
        replace_all(root, changes())
    assert (outside / "three.yml").read_bytes() == b"b/three.yml: old\r\n"


def test_modes_and_links_stay(tmp_path: Path) -> None:
    """Files keep their modes, and links still point to them."""
    root = project(tmp_path)
    (root / "a/one.yml").chmod(0o751)
    (root / "a/two.yml").chmod(0o600)
    (root / "link.yml").symlink_to("a/one.yml")
    replace_all(root, changes())

    assert [oct((root / name).stat().st_mode & 0o777) for name in NAMES[:2]] == ["0o751", "0o600"]
    assert (root / "link.yml").is_symlink()
    assert (root / "link.yml").read_bytes() == b"a/one.yml: new\r\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_of_a_file_stays(tmp_path: Path) -> None:
    """If root pins a user's project, the files still belong to the user."""
    root = project(tmp_path)
    os.chown(root / "a/one.yml", 1234, 2345)
    replace_all(root, changes())

    assert ((root / "a/one.yml").stat().st_uid, (root / "a/one.yml").stat().st_gid) == (1234, 2345)


def test_attributes_of_a_file_stay(tmp_path: Path) -> None:
    """Extended attributes of a file stay, such as an ACL that lets another user read it."""
    root = project(tmp_path)
    os.setxattr(root / NAMES[0], "user.note", b"ours")
    replace_all(root, changes())

    assert os.getxattr(root / NAMES[0], "user.note") == b"ours"
    assert os.listxattr(root / NAMES[1]) == []


def test_another_hard_link_keeps_the_old_text_and_is_reported(tmp_path: Path) -> None:
    """Another hard link of a file keeps the old text, which is reported."""
    root = project(tmp_path)
    (root / "kept.yml").hardlink_to(root / NAMES[1])

    assert replace_all(root, changes()) == (NAMES[1],)
    assert (root / "kept.yml").read_bytes().endswith(b"old\r\n")
    assert (root / NAMES[1]).read_bytes().endswith(b"new\r\n")


KILLED = """
import os, signal, sys
from pathlib import Path
from boltseal.project.replace_files import replace_all
from boltseal.files.atomic_files import Disk
from tests.project.edited_files import changes

class Killed(Disk):
    calls = 0
    def rename(self, old, new):
        Killed.calls += 1
        if Killed.calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        super().rename(old, new)

replace_all(Path(sys.argv[1]), changes(), Killed())
"""


@pytest.mark.parametrize("at", [1, 2, 3])
def test_after_a_kill_each_file_is_complete_and_a_second_run_finishes(tmp_path: Path, at: int) -> None:
    """After a kill no file is partial, and a second run completes the replacement."""
    root = project(tmp_path)
    ended = subprocess.run([sys.executable, "-c", KILLED, root, str(at)], check=False)
    there = [(root / name).read_bytes().partition(b": ")[2] for name in NAMES]
    before = changes()
    replace_all(root, [change for change in before if (root / change.path).read_bytes() == change.before.raw])

    assert ended.returncode == -signal.SIGKILL
    assert there == [b"new\r\n"] * (at - 1) + [b"old\r\n"] * (4 - at)
    assert [(root / name).read_bytes().partition(b": ")[2] for name in NAMES] == [b"new\r\n"] * 3
