"""Reading below a folder: nothing leads out, nothing but plain files is opened."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from boltseal.engines.safe_open import OPEN_FOLDERS, SafeFolder, StoreMalformed, StoreMissing


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder to stay in, beside one that must not be seen."""
    (tmp_path / "root/in/deep").mkdir(parents=True)
    (tmp_path / "root/in/file").write_bytes(b"inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"outside")
    return tmp_path / "root"


def test_a_file_is_read(root: Path) -> None:
    """Several folders down."""
    with SafeFolder(root) as files:
        assert files.read(b"in/file", 100) == b"inside"
        assert files.names(b"in") == [b"deep", b"file"]


@pytest.mark.parametrize(
    "path", [b"../outside/file", b"in/../../outside/file", b"in/..", b"in/./file", b"", b"in//file"]
)
def test_a_path_with_parts_that_are_no_names_is_refused(root: Path, path: bytes) -> None:
    """`..` leads out, and nobody needs the others."""
    with SafeFolder(root) as files, pytest.raises(StoreMalformed):
        files.read(path, 100)


def test_a_link_to_a_file_is_not_followed(root: Path) -> None:
    """Wherever it leads."""
    (root / "link").symlink_to("in/file")

    with SafeFolder(root) as files, pytest.raises(StoreMalformed):
        files.read(b"link", 100)


def test_a_link_on_the_way_is_not_followed(root: Path) -> None:
    """Not even within the folder."""
    (root / "link").symlink_to("in")

    with SafeFolder(root) as files:
        with pytest.raises(StoreMalformed):
            files.read(b"link/file", 100)
        with pytest.raises(StoreMalformed):
            files.names(b"link")


def test_the_folder_itself_may_be_reached_through_a_link(root: Path) -> None:
    """It is the person's word, and /var/lib/docker often is one."""
    (root.parent / "link").symlink_to(root)

    with SafeFolder(root.parent / "link") as files:
        assert files.read(b"in/file", 100) == b"inside"


def test_a_pipe_is_not_opened(root: Path) -> None:
    """It would wait for ever."""
    os.mkfifo(root / "pipe")

    with SafeFolder(root) as files, pytest.raises(StoreMalformed):
        files.read(b"pipe", 100)


def test_a_file_over_its_limit_is_refused(root: Path) -> None:
    """Not cut off."""
    with SafeFolder(root) as files, pytest.raises(StoreMalformed, match="more than 5 bytes"):
        files.read(b"in/file", 5)


def test_a_folder_of_too_many_names_is_refused(root: Path) -> None:
    """And not read to its end."""
    with SafeFolder(root) as files, pytest.raises(StoreMalformed, match="more than 1 names"):
        files.names(b"in", 1)


def test_what_is_not_there_is_missing(root: Path) -> None:
    """The only miss."""
    with SafeFolder(root) as files, pytest.raises(StoreMissing):
        files.read(b"in/nothing", 100)


def test_a_file_in_place_of_a_folder_is_no_folder(root: Path) -> None:
    """And nothing lies in it."""
    with SafeFolder(root) as files, pytest.raises(StoreMalformed):
        files.read(b"in/file/x", 100)


def test_many_folders_are_read_with_few_of_them_open(root: Path) -> None:
    """Those opened first are let go."""
    for number in range(3 * OPEN_FOLDERS):
        (root / f"f{number}/g").mkdir(parents=True)
        (root / f"f{number}/g/file").write_bytes(str(number).encode())

    with SafeFolder(root) as files:
        read = [files.read(b"f%d/g/file" % number, 10) for number in range(3 * OPEN_FOLDERS)]
        opened = len(list(Path("/proc/self/fd").iterdir()))

    assert read == [str(number).encode() for number in range(3 * OPEN_FOLDERS)]
    assert opened < 2 * OPEN_FOLDERS + 60


@pytest.mark.lengthy
def test_a_path_of_very_many_parts_is_followed_or_refused(tmp_path: Path) -> None:
    """As deep as a tar may name one: deeper than Python can call itself, and whoever wrote it must not end the check."""
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
