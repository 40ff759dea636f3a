"""Reading inside a folder: no path leaves it, and only regular files are opened."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from boltseal.engines.safe_open import OPEN_FOLDERS, SafeFolder, StoreMalformed, StoreMissing


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder to stay in, beside one that must not be read."""
    (tmp_path / "root/in/deep").mkdir(parents=True)
    (tmp_path / "root/in/file").write_bytes(b"inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"outside")
    return tmp_path / "root"


def test_a_file_is_read(root: Path) -> None:
    """A file several folders down is read."""
    with SafeFolder(root) as files:
        assert files.read(b"in/file", 100) == b"inside"
        assert files.names(b"in") == [b"deep", b"file"]


@pytest.mark.parametrize(
    "path", [b"../outside/file", b"in/../../outside/file", b"in/..", b"in/./file", b"", b"in//file"]
)
def test_a_path_with_special_components_is_refused(root: Path, path: bytes) -> None:
    """A path with `..` or `.` is refused, because it could leave the folder."""
    with SafeFolder(root) as files, pytest.raises(StoreMalformed):
        files.read(path, 100)


def test_a_link_to_a_file_is_not_followed(root: Path) -> None:
    """A symbolic link to a file is refused whatever its target."""
    (root / "link").symlink_to("in/file")

    with SafeFolder(root) as files, pytest.raises(StoreMalformed):
        files.read(b"link", 100)


def test_a_link_in_the_path_is_not_followed(root: Path) -> None:
    """A symbolic link in the path is refused, even one to a target within the folder."""
    (root / "link").symlink_to("in")

    with SafeFolder(root) as files:
        with pytest.raises(StoreMalformed):
            files.read(b"link/file", 100)
        with pytest.raises(StoreMalformed):
            files.names(b"link")


def test_the_root_may_be_a_symbolic_link(root: Path) -> None:
    """The root itself may be a symbolic link, as /var/lib/docker often is."""
    (root.parent / "link").symlink_to(root)

    with SafeFolder(root.parent / "link") as files:
        assert files.read(b"in/file", 100) == b"inside"


def test_a_pipe_is_not_opened(root: Path) -> None:
    """A named pipe is refused without opening it, which would block."""
    os.mkfifo(root / "pipe")

    with SafeFolder(root) as files, pytest.raises(StoreMalformed):
        files.read(b"pipe", 100)


def test_a_file_over_its_limit_is_refused(root: Path) -> None:
    """A file over its size limit is refused and not truncated."""
    with SafeFolder(root) as files, pytest.raises(StoreMalformed, match="more than 5 bytes"):
        files.read(b"in/file", 5)


def test_a_folder_with_too_many_names_is_refused(root: Path) -> None:
    """A folder with too many names is refused before it is read to its end."""
    with SafeFolder(root) as files, pytest.raises(StoreMalformed, match="more than 1 names"):
        files.names(b"in", 1)


def test_a_missing_file_is_missing(root: Path) -> None:
    """Only a missing file is a miss."""
    with SafeFolder(root) as files, pytest.raises(StoreMissing):
        files.read(b"in/nothing", 100)


def test_a_file_is_no_folder(root: Path) -> None:
    """Listing a file as a folder returns no entries."""
    with SafeFolder(root) as files, pytest.raises(StoreMalformed):
        files.read(b"in/file/x", 100)


def test_few_folders_stay_open(root: Path) -> None:
    """Of many opened folders only the latest stay open."""
    for number in range(3 * OPEN_FOLDERS):
        (root / f"f{number}/g").mkdir(parents=True)
        (root / f"f{number}/g/file").write_bytes(str(number).encode())

    before = len(list(Path("/proc/self/fd").iterdir()))
    with SafeFolder(root) as files:
        read = [files.read(b"f%d/g/file" % number, 10) for number in range(3 * OPEN_FOLDERS)]
        opened = len(list(Path("/proc/self/fd").iterdir())) - before

    assert read == [str(number).encode() for number in range(3 * OPEN_FOLDERS)]
    assert opened < OPEN_FOLDERS + 10


def test_a_very_deep_path_is_followed_or_refused(tmp_path: Path) -> None:
    """A path deeper than Python's recursion limit is followed or refused, and never ends the scrub."""
    deep = b"/".join([b"d"] * 1500)
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)

    with SafeFolder(tmp_path) as tree:
        found = tree.names(deep)
        with pytest.raises(StoreMissing):
            tree.stat(b"/".join([b"e"] * 1500))
        with pytest.raises(StoreMalformed):
            tree.stat(b"/".join([b"d"] * 2500))
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # Python could not

    assert found == []
