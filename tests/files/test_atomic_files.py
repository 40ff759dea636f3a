"""Small files are written completely, and folders survive a power cut."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from boltseal.files.atomic_files import Disk, make_folders, write_file
from tests.fakes.disk import FailingDisk


def test_a_file_is_written_completely(tmp_path: Path) -> None:
    """A written file replaces the old one, and no temporary file stays."""
    path = tmp_path / "format"
    write_file(Disk(), path, b"1\n")
    write_file(Disk(), path, b"2\n")

    assert path.read_bytes() == b"2\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["create", "append", "sync", "rename"])
def test_a_file_that_cannot_be_written_stays_unchanged(tmp_path: Path, call: str) -> None:
    """Until the rename each failure leaves the old content and no partly written file."""
    path = tmp_path / "format"
    write_file(Disk(), path, b"old")
    disk = FailingDisk()
    disk.fail(call, errno.ENOSPC)

    with pytest.raises(OSError, match="No space"):
        write_file(disk, path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_whose_folder_cannot_be_synced_is_not_acknowledged(tmp_path: Path) -> None:
    """If the folder can't be synced after the rename, the caller gets an error, and the file is complete."""
    disk = FailingDisk()
    disk.fail("sync_folder", errno.EIO)
    path = tmp_path / "format"

    with pytest.raises(OSError, match="Input/output"):
        write_file(disk, path, b"new")
    assert path.read_bytes() == b"new"


def test_every_folder_made_is_synced_into_its_parent(tmp_path: Path) -> None:
    """Each new folder is synced into its parent, and existing ones are not."""
    disk = FailingDisk()
    make_folders(disk, tmp_path / "a" / "b" / "c")
    make_folders(disk, tmp_path / "a" / "b" / "c")

    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert disk.calls["make_folder"] == disk.calls["sync_folder"] == 3


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    """A file in place of a folder is an error."""
    (tmp_path / "a").write_bytes(b"")

    with pytest.raises(FileExistsError):
        make_folders(Disk(), tmp_path / "a")


def test_many_small_parts_are_all_appended(tmp_path: Path) -> None:
    """More parts than one system call takes are appended in order, empty ones included."""
    disk = Disk()
    parts = [b"%d," % number if number % 3 else b"" for number in range(3000)]
    fd = disk.create(str(tmp_path / "parts"))
    disk.append(fd, parts)
    disk.close(fd)

    assert (tmp_path / "parts").read_bytes() == b"".join(parts)
